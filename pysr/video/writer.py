"""Frames into segments: small files of their own, each the same bits for the same frames.

A segment has an encoder of its own, so that it depends on nothing that came before it: it can be
made twice, on another machine, or after a crash, and comes out the same. Its packets count frames;
the true times are the clip's, and `pysr.video.mux` puts them in.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from pysr.files import written_whole
from pysr.video import images
from pysr.video.clip import Clip, VideoError, opened, pyav
from pysr.video.colour import from_rgb
from pysr.video.encoding import Encoding
from pysr.video.planes import layout, to_frame

__all__ = ["FIRST_PTS", "FRAME", "Encoding", "SegmentWriter"]

# A segment's clock: one frame lasts so long, whatever it lasted in the clip. Matroska counts in
# milliseconds, and holds every codec.
FRAME = Fraction(1, 100)
_MOST_REORDERING = 16  # packets that a frame may come after its turn, in any codec
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
        VideoError: a size that the encoder refuses, a frame out of its turn, no frames.
    """

    def __init__(self, path: str | Path, clip: Clip, size: tuple[int, int], encoding: Encoding):
        self._path, self._clip, self._size = Path(path), clip, size
        sink = images.Folder if encoding.images else _Encoder
        self._sink = sink(self._path, clip, size, encoding)
        self._next: int | None = None

    def __enter__(self) -> SegmentWriter:
        self._sink.__enter__()
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None and self._next is None:
            error = VideoError(f"{self._path}: a segment needs at least one frame")
            self._sink.__exit__(VideoError, error, None)
            raise error
        self._sink.__exit__(kind, error, trace)

    def samples(self, rgb: Tensor) -> tuple[Tensor, ...]:
        """A frame (3, H, W), float in [0, 1], as `write` takes it: integers, on the same device."""
        if tuple(rgb.shape) != (3, *self._size):
            raise VideoError(
                f"{self._path}: expected a frame of shape {(3, *self._size)}, "
                f"got {tuple(rgb.shape)}"
            )
        return self._sink.samples(rgb)

    def write(self, samples: tuple[Tensor, ...], pts: int, duration: int) -> None:
        """Add a frame that `samples` made; pts and duration in the clip's time base.

        They say which frame it is: after the first one, only the clip's next one is taken.
        """
        index = bisect_left(self._clip.pts, pts) if self._next is None else self._next
        known = zip(self._clip.pts[index : index + 1], self._clip.durations[index:], strict=False)
        if (pts, duration) not in known:
            raise VideoError(
                f"{self._path}: expected frame {index} of the clip, got one at time {pts} that "
                f"lasts {duration}"
            )
        self._next = index + 1
        self._sink.write(samples, pts)


class _Encoder:
    """The encoder and file of one segment."""

    def __init__(self, path: Path, clip: Clip, size: tuple[int, int], encoding: Encoding):
        self._path, self._clip, self._encoding = path, clip, encoding
        self._colour = encoding.colour(clip, size[0])
        self._layout = layout(encoding.pixel_format)
        self._size = size
        self._written = 0
        self._packets = 0

    def __enter__(self) -> _Encoder:
        with contextlib.ExitStack() as exits:
            beside = exits.enter_context(written_whole(self._path))
            self._container = exits.enter_context(opened(beside, "w", format="matroska"))
            self._stream = self._container.add_stream(self._encoding.codec)
            self._encoding.open(self._stream.codec_context, self._clip, self._size)
            self._exits = exits.pop_all()
        return self

    def __exit__(self, kind, error, trace) -> None:
        with self._exits:
            if kind is None:
                self._encode(None)
            else:
                self._exits.__exit__(kind, error, trace)

    def samples(self, rgb: Tensor) -> tuple[Tensor, ...]:
        return from_rgb(rgb, self._colour, self._layout.depth, self._layout.subsampling)

    def write(self, planes: tuple[Tensor, ...], pts: int) -> None:
        frame = to_frame(planes, self._encoding.pixel_format)
        frame.pts, frame.time_base = self._written, self._stream.codec_context.time_base
        if self._written == 0:
            self._container.metadata[FIRST_PTS] = str(pts)
        self._encode(frame)
        self._written += 1

    def _encode(self, frame) -> None:
        try:
            for packet in self._stream.encode(frame):
                packet.time_base = FRAME
                # x265 makes up the decoding times of one or two frames, after their presentation
                # at times; nobody reads them, see `pysr.video.mux`.
                packet.dts = self._packets - _MOST_REORDERING
                self._packets += 1
                self._container.mux(packet)
        except pyav().FFmpegError as error:
            raise VideoError(f"{self._path}: cannot be written ({error.strerror})") from None
