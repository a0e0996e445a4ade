"""Engines: the ways to run a trained network, behind one small interface.

    NameEngine(model, device, precision)    raises where it cannot be brought up
    obstacle(device, precision) -> str      (static) why it cannot serve those, "" where it can
    restore(lr, code, gates=None) -> sr     gates(crops, code, margin) -> gates
    estimate(lr, sr) -> code                describe() -> str
    warm_up(n, h, w)                        builds what the first picture of a size would wait for
    close()                                 frees what it holds; may be called twice

Pictures are (N, 3, H, W) in [0, 1] and codes (N, code_length), float32 on the engine's device,
whichever of PRECISIONS it computes in. `Guard` watches over what comes out. All engines are for
DANs; a plain network has torch alone, as `PlainEngine`, which neither estimates nor has gates.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn

from pysr.engines.guard import Guard
from pysr.engines.native_engine import NativeEngine
from pysr.engines.onnx_engine import OnnxEngine
from pysr.engines.onnx_export import ExportError, export_onnx
from pysr.engines.plain_engine import PlainEngine
from pysr.engines.tensorrt_engine import TensorRTEngine
from pysr.engines.torch_engine import PRECISIONS, TorchEngine
from pysr.nets import DAN
from pysr.nets.registry import architecture_of

__all__ = [
    "ENGINES",
    "PRECISIONS",
    "ExportError",
    "Guard",
    "NativeEngine",
    "OnnxEngine",
    "PlainEngine",
    "TensorRTEngine",
    "TorchEngine",
    "candidates",
    "create",
    "export_onnx",
]

ENGINES = {
    "native": NativeEngine,
    "torch": TorchEngine,
    "onnx": OnnxEngine,
    "tensorrt": TensorRTEngine,
}

# Fastest first, as measured by bench/engines. On GPUs the native and the TensorRT engine have never
# been measured, and wait to be asked for.
_ORDER = {"cpu": ("native", "torch"), "cuda": ("torch",)}

# What "auto" takes: the first that an engine offers. Of the half types
# float16 loses a tenth of what bfloat16 does (bench/results/precision_*.json), and what overflows
# it is made again (`Guard`). On a CPU the native engine multiplies in bfloat16 where there are
# matrix tiles, and loses next to nothing, for it adds in float32; others only lose time by either.
_PRECISION = {"cpu": ("float32",), "cuda": ("float16", "float32")}
_PRECISION_OF = {("native", "cpu"): ("bfloat16", "float32")}


def candidates(name: str, device: torch.device, precision: str = "auto") -> list[tuple[str, str]]:
    """Engines and their precisions in the order that `create` tries them; at least one.

    Raises:
        ValueError: for an unknown name or precision, or an engine that cannot serve the device.
    """
    if name != "auto" and name not in ENGINES:
        raise ValueError(f"engine: expected auto or one of {', '.join(ENGINES)}, got {name!r}")
    if precision != "auto" and precision not in PRECISIONS:
        expected = ", ".join(PRECISIONS)
        raise ValueError(f"precision: expected auto or one of {expected}, got {precision!r}")
    names = _ORDER.get(device.type, ("torch",)) if name == "auto" else (name,)
    found = []
    for each in names:
        wanted = (precision,)
        if precision == "auto":
            wanted = _PRECISION.get(device.type, ("float32",))
            wanted = _PRECISION_OF.get((each, device.type), wanted)
        usable = [p for p in wanted if not ENGINES[each].obstacle(device, p)]
        found += [(each, p) for p in usable[:1]]
    if not found:
        raise ValueError(f"engine {name}: {ENGINES[name].obstacle(device, wanted[-1])}")
    return found


def create(name: str, model: nn.Module, device: torch.device, precision: str = "auto"):
    """The engine of that name for a model on a device; "auto" takes the fastest that works here.

    An engine that "auto" took and that does not come up is replaced by the next, with a warning
    that names both.

    Raises:
        ValueError: as `candidates`, for a model whose weights are not float32, or for what a plain
            network does not have.
        ExportError: if the model cannot be brought into the engine's form; and whatever else a
            runtime raises when an engine that was asked for by name does not come up.
    """
    _check_weights(model)
    if not isinstance(model, DAN):
        return _plain(name, model, device, precision)
    found = candidates(name, device, precision)
    for (engine, chosen), (following, _) in zip(found, found[1:], strict=False):
        try:
            return ENGINES[engine](model, device, chosen)
        except Exception as error:  # foreign runtimes raise anything
            warnings.warn(
                f"engine {engine} does not come up ({' '.join(str(error).split())}); "
                f"{following} takes its place",
                stacklevel=2,
            )
    engine, chosen = found[-1]
    return ENGINES[engine](model, device, chosen)


def _check_weights(model: nn.Module) -> None:
    for weight in model.parameters():
        if weight.dtype != torch.float32:
            got = str(weight.dtype).removeprefix("torch.")
            raise ValueError(f"model: expected weights in float32, got {got}")


def _plain(name: str, model: nn.Module, device: torch.device, precision: str) -> PlainEngine:
    kind = type(model).__name__
    if name not in ("auto", "torch"):
        raise ValueError(f"engine {name}: for DANs alone; expected auto or torch for {kind}")
    if architecture_of(model) is None:
        if precision not in ("auto", "float32"):
            raise ValueError(
                f"precision: expected float32 for {kind}; only the networks of pysr.nets cast "
                "their input to that of their weights"
            )
        precision = "float32"
    _, precision = candidates("torch", device, precision)[0]
    return PlainEngine(model, device, precision)
