"""Engines: the ways to run a trained DAN, behind one small interface.

    restore(lr, code, gates=None) -> sr     gates(crops, code, margin) -> gates
    estimate(lr, sr) -> code                describe() -> str
    obstacle(device) -> str                 (static) why it cannot serve a device, "" where it can

Pictures are (N, 3, H, W) float32 in [0, 1] and codes (N, code_length), on the engine's device.
"""

from pysr.engines.native_engine import NativeEngine
from pysr.engines.onnx_engine import OnnxEngine
from pysr.engines.onnx_export import ExportError, export_onnx
from pysr.engines.torch_engine import TorchEngine

__all__ = [
    "ENGINES",
    "ExportError",
    "NativeEngine",
    "OnnxEngine",
    "TorchEngine",
    "create",
    "export_onnx",
    "fastest",
]

ENGINES = {"native": NativeEngine, "torch": TorchEngine, "onnx": OnnxEngine}

# Fastest first, as measured by bench/engines. On GPUs torch's convolutions run on tensor cores,
# which our own do not.
_ORDER = {"cpu": ("native", "torch"), "cuda": ("torch",)}


def fastest(device) -> str:
    """The engine that "auto" takes on a device."""
    return next(name for name in _ORDER.get(device.type, ("torch",)) if _usable(name, device))


def create(name: str, model, device):
    """The engine of that name for a model on a device; "auto" takes the fastest that works here.

    Raises:
        ValueError: for an unknown name, or an engine that cannot serve the device.
        ExportError: if the model cannot be brought into the engine's form.
    """
    if name == "auto":
        name = fastest(device)
    if name not in ENGINES:
        raise ValueError(f"engine: expected auto or one of {', '.join(ENGINES)}, got {name!r}")
    if not _usable(name, device):
        raise ValueError(f"engine {name}: {ENGINES[name].obstacle(device)}")
    return ENGINES[name](model, device)


def _usable(name: str, device) -> bool:
    return not ENGINES[name].obstacle(device)
