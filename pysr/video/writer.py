"""Frames into segments: small files of their own, each the same bits for the same frames.

A segment has an encoder of its own, so that it depends on nothing that came before it: it can be
made twice, on another machine, or after a crash, and comes out the same. Its packets count frames;
the true times are the clip's, and `pysr.video.mux` puts them in.
"""

from __future__ import annotations

import contextlib
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from pysr.files import written_whole
from pysr.video import images
from pysr.video.clip import Clip, VideoError, pyav
from pysr.video.colour import from_rgb
from pysr.video.encoding import Encoding
from pysr.video.planes import layout, to_frame

__all__ = ["FIRST_PTS", "FRAME", "Encoding", "SegmentWriter"]

# A segment's clock: one frame lasts so long, whatever it lasted in the clip. Matroska counts in
# milliseconds, and holds every codec.
FRAME = Fraction(1, 100)
# The time of the first frame in the clip, among a segment's tags: which part of the clip it is.
FIRST_PTS = "PYSR_FIRST_PTS"


class SegmentWriter:
    """Writes one segment; a context manager. The file appears whole on success, else not at all.

    Args:
        path: the segment's file, ending in `encoding.suffix`; for PNG a folder.
        clip: what the frames come from (times, colour, aspect).
        size: (height, width) of the frames.
        encoding: of every segment of a result.

    Raises:
        VideoError: sizes that the encoder refuses, times that do not rise, no frames.
    """

    def __init__(self, path: str | Path, clip: Clip, size: tuple[int, int], encoding: Encoding):
        self._path, self._clip, self._size, self._encoding = Path(path), clip, size, encoding
        self._exits = contextlib.ExitStack()
        self._last_pts: int | None = None

    def __enter__(self) -> SegmentWriter:
        with contextlib.ExitStack() as exits:
            sink = images.Folder if self._encoding.images else _Encoder
            self._sink = exits.enter_context(
                sink(self._path, self._clip, self._size, self._encoding)
            )
            self._exits = exits.pop_all()
        return self

    def __exit__(self, kind, error, trace) -> None:
        with self._exits:
            if kind is not None:
                self._exits.__exit__(kind, error, trace)
            elif self._last_pts is None:
                raise VideoError(f"{self._path}: a segment needs at least one frame")

    def write(self, rgb: Tensor, pts: int, duration: int) -> None:
        """Add a frame: (3, H, W) float in [0, 1]; pts and duration in the clip's time base."""
        if tuple(rgb.shape) != (3, *self._size):
            raise VideoError(
                f"{self._path}: expected a frame of shape {(3, *self._size)}, "
                f"got {tuple(rgb.shape)}"
            )
        if self._last_pts is not None and pts <= self._last_pts:
            raise VideoError(f"{self._path}: times have to rise, got {pts} after {self._last_pts}")
        self._last_pts = pts
        self._sink.write(rgb, pts)


class _Encoder:
    """The encoder and file of one segment."""

    def __init__(self, path: Path, clip: Clip, size: tuple[int, int], encoding: Encoding):
        self._path, self._clip, self._encoding = path, clip, encoding
        self._colour = encoding.colour(clip, size[0])
        self._layout = layout(encoding.pixel_format)
        self._size = size
        self._written = 0

    def __enter__(self) -> _Encoder:
        with contextlib.ExitStack() as exits:
            beside = exits.enter_context(written_whole(self._path))
            self._container = exits.enter_context(pyav().open(beside, "w", format="matroska"))
            self._stream = self._container.add_stream(self._encoding.codec)
            self._encoding.open(self._stream.codec_context, self._clip, self._size)
            self._exits = exits.pop_all()
        return self

    def __exit__(self, kind, error, trace) -> None:
        with self._exits:
            if kind is None:
                self._mux(self._stream.encode(None))
            else:
                self._exits.__exit__(kind, error, trace)

    def write(self, rgb: Tensor, pts: int) -> None:
        planes = from_rgb(rgb, self._colour, self._layout.depth, self._layout.subsampling)
        frame = to_frame(planes, self._encoding.pixel_format)
        frame.pts, frame.time_base = self._written, self._stream.codec_context.time_base
        if self._written == 0:
            self._container.metadata[FIRST_PTS] = str(pts)
        self._mux(self._stream.encode(frame))
        self._written += 1

    def _mux(self, packets) -> None:
        for packet in packets:
            packet.time_base = FRAME
            self._container.mux(packet)
