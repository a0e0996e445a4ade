"""HR to LR: what happens to a picture on its way to us."""

from pysr.degrade.classical import RandomDegradation, classical, to_8bit
from pysr.degrade.resize import imresize

__all__ = ["RandomDegradation", "classical", "imresize", "to_8bit"]
