"""pysr: blind super-resolution of images and video, pictures whose blur nobody wrote down.

import pysr
upscaler = pysr.load("dan-lite-x4")
result = upscaler(image)            # result.image, result.kernel, result.consistency
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Upscaled", "Upscaler", "__version__", "load"]

if TYPE_CHECKING:
    from pysr.upscaler import Upscaled, Upscaler, load

_PUBLIC = {"Upscaled": "pysr.upscaler", "Upscaler": "pysr.upscaler", "load": "pysr.upscaler"}


def __getattr__(name: str):
    # The front door pulls in torch; a room that needs less (the command line's help) stays quick.
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'pysr' has no attribute {name!r}")
