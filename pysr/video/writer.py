"""Frames into segments: small files of their own, each the same bits for the same frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pysr.video.clip import Clip


@dataclass(frozen=True)
class Encoding:
    """How a result is encoded.

    Attributes:
        codec: FFmpeg's name of an encoder, or png for an image sequence.
        crf: constant quality of the encoder, lower is better, or None for the encoder's own.
        preset: the encoder's name of a speed, or None for its own.
        pixel_format: FFmpeg's name.
    """

    codec: str
    crf: float | None
    preset: str | None
    pixel_format: str

    @classmethod
    def choose(
        cls,
        clip: Clip,
        target: str | Path,
        codec: str | None = None,
        crf: float | None = None,
        preset: str | None = None,
        pixel_format: str | None = None,
    ) -> Encoding:
        """What a user asked for, checked, and good defaults for the rest.

        8 bits become libx264 yuv420p, more become libx265 yuv420p10le; a folder or a pattern as
        target becomes PNG of 8 or 16 bits.

        Raises VideoError, one line, for options that do not exist or do not fit together.
        """
        raise NotImplementedError

    @property
    def suffix(self) -> str:
        """What a segment's name ends in; empty when a segment is a folder of pictures."""
        return "" if self.codec == "png" else ".nut"


class SegmentWriter:
    """Writes one segment; a context manager. The file appears whole on success, else not at all.

    Args:
        path: the segment's file, ending in `encoding.suffix`.
        clip: what the frames come from (times, colour, aspect).
        size: (height, width) of the frames.
        encoding: of every segment of a result.
    """

    def __init__(self, path: str | Path, clip: Clip, size: tuple[int, int], encoding: Encoding):
        raise NotImplementedError

    def __enter__(self) -> SegmentWriter:
        raise NotImplementedError

    def __exit__(self, kind, error, trace) -> None:
        raise NotImplementedError

    def write(self, rgb: Tensor, pts: int, duration: int) -> None:
        """Add a frame: (3, H, W) float in [0, 1]; pts and duration in the clip's time base."""
        raise NotImplementedError
