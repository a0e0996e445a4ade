"""pysr: blind super-resolution of images and video, pictures whose blur nobody wrote down.

import pysr
upscaler = pysr.load()  # x4; scale=2, or the name of a model
result = upscaler(image)            # result.image, result.kernel, result.consistency
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Upscaled", "Upscaler", "__version__", "load"]

if TYPE_CHECKING:
    from pysr.upscaler import Upscaled, Upscaler, load

_FRONT_DOOR = {"Upscaled", "Upscaler", "load"}
_ROOMS = {
    "adapt",
    "blur",
    "degrade",
    "engines",
    "evaluate",
    "inspection",
    "nets",
    "ops",
    "pictures",
    "train",
    "video",
}


def __getattr__(name: str):
    # Most rooms pull in torch; what needs less (the command line's help) stays quick.
    if name in _FRONT_DOOR:
        return getattr(import_module("pysr.upscaler"), name)
    if name in _ROOMS:
        return import_module(f"pysr.{name}")
    raise AttributeError(f"module 'pysr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_FRONT_DOOR, *_ROOMS})
