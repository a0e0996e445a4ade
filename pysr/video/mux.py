"""The finished file: the segments' packets at their true times, and all that came with the clip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pysr.video.clip import Clip
from pysr.video.writer import Encoding


def check_target(target: str | Path, clip: Clip, encoding: Encoding) -> tuple[str, ...]:
    """Refuse, before the work, a target that cannot hold the clip; what it will lose, in words.

    Raises VideoError, one line naming the stream and a container that can.
    """
    raise NotImplementedError


def assemble(
    target: str | Path, clip: Clip, segments: Sequence[str | Path], encoding: Encoding
) -> tuple[str, ...]:
    """Write the target, whole or not at all; returns what it could not keep, in words.

    Args:
        target: a video file; for PNG a folder or a pattern.
        clip: the source.
        segments: files of SegmentWriter that hold the clip's frames, all of them, in order.
        encoding: theirs.
    Raises:
        VideoError: as `check_target`, and for frames that are missing or too many.
    """
    raise NotImplementedError
