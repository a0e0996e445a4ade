"""Frames of a clip, exactly those asked for.

Decoding starts at the key frame before the first one asked for, and every frame that the packets
promise has to come out, in order, with its own time: decoders conceal damage, and what they make up
is not passed off as whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from pysr.video.clip import Clip


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Attributes:
        index: its number in the clip, from 0.
        pts, duration: in the clip's time base.
        planes: luma and two chroma planes, (H, W) and (h, w), uint8 up to 8 bits, else uint16; of an
            RGB format green, blue and red.
    """

    index: int
    pts: int
    duration: int
    planes: tuple[Tensor, Tensor, Tensor]


def read(clip: Clip, first: int = 0, stop: int | None = None) -> Iterator[Frame]:
    """Frames first to stop - 1 of a clip.

    Raises:
        VideoError: a frame that is missing, damaged, interlaced or of another size, by its number.
    """
    raise NotImplementedError
