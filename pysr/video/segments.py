"""A clip in pieces of a few seconds: what is journalled, resumed and sent to other machines.

A segment's frames depend on the clip, the model and the options alone, never on what was restored
before it, so a clip made in one go and one made in ten attempts on three machines are the same.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

# A kill costs half a segment on average; a segment costs a key frame, and the seek to its start.
LENGTH = 128


@dataclass(frozen=True)
class Segment:
    """Frames first to stop - 1 of a clip, in presentation order."""

    index: int
    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first


def plan(frames: int, keys: Sequence[int], length: int = LENGTH) -> list[Segment]:
    """Cut `frames` frames into segments of between half and one and a half times `length`.

    A segment begins at a key frame of the input where there is one within reach, which makes the
    seek to it free; else anywhere, and reading decodes up to its start. The last may be shorter.

    Args:
        keys: frames that decoding can start at, ascending.
    Raises:
        ValueError: for a length below 1.
    """
    if length < 1:
        raise ValueError(f"segment: expected a length of at least 1 frame, got {length}")
    starts = [0]
    while frames - starts[-1] > length + length // 2:
        wished = starts[-1] + length
        reach = (wished - length // 2, wished + length // 2)
        near = keys[slice(*(bisect_left(keys, end) for end in reach))]
        starts.append(min(near, key=lambda key: abs(key - wished), default=wished))
    stops = [*starts[1:], frames]
    return [Segment(i, *ends) for i, ends in enumerate(zip(starts, stops, strict=True))]
