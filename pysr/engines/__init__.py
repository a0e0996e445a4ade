"""Engines: the ways to run a trained DAN, behind one small interface.

    restore(lr, code, gates=None) -> sr     gates(crops, code, margin) -> gates
    estimate(lr, sr) -> code                describe() -> str

Pictures are (N, 3, H, W) float32 in [0, 1] and codes (N, code_length), on the engine's device.
"""

from pysr.engines.onnx_engine import OnnxEngine
from pysr.engines.onnx_export import ExportError, export_onnx
from pysr.engines.torch_engine import TorchEngine

__all__ = ["ENGINES", "ExportError", "OnnxEngine", "TorchEngine", "create", "export_onnx"]

ENGINES = {"torch": TorchEngine, "onnx": OnnxEngine}


def create(name: str, model, device):
    """The engine of that name for a model on a device; "auto" takes the fastest that works here.

    Raises ValueError for an unknown name, or an engine that cannot serve the device.
    """
    name = "torch" if name == "auto" else name
    if name not in ENGINES:
        raise ValueError(f"engine: expected auto or one of {', '.join(ENGINES)}, got {name!r}")
    return ENGINES[name](model, device)
