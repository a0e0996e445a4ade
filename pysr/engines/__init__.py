"""Engines: the ways to run a trained DAN, behind one small interface.

    restore(lr, code, gates=None) -> sr     gates(crops, code, margin) -> gates
    estimate(lr, iterations=None) -> code   describe() -> str

Tensors are (N, 3, H, W) float32 in [0, 1] on the engine's device.
"""

from pysr.engines.torch_engine import TorchEngine

ENGINES = {"torch": TorchEngine}


def create(name: str, model, device):
    """The engine of that name for a model on a device; "auto" takes the fastest that works here.

    Raises ValueError for an unknown name.
    """
    name = "torch" if name == "auto" else name
    if name not in ENGINES:
        raise ValueError(f"engine: expected auto or one of {', '.join(ENGINES)}, got {name!r}")
    return ENGINES[name](model, device)
