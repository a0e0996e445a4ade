"""HR to LR: what happens to a picture on its way to us."""

from pysr.degrade.classical import (
    BicubicDegradation,
    RandomDegradation,
    classical,
    to_8bit,
)
from pysr.degrade.jpeg import jpeg
from pysr.degrade.learned import (
    Card,
    DegradationError,
    FileDegradation,
    LearnedDegradation,
    is_degradation,
    load,
)
from pysr.resize import imresize

__all__ = [
    "BicubicDegradation",
    "Card",
    "DegradationError",
    "FileDegradation",
    "LearnedDegradation",
    "RandomDegradation",
    "classical",
    "imresize",
    "is_degradation",
    "jpeg",
    "load",
    "to_8bit",
]
