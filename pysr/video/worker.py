"""Makes segments: what every process and every machine of a job runs.

All that it needs is in `Work`, which can be sent anywhere; the model is loaded once. Several
segments in a row pass through one pipeline, so that the model does not wait while an encoder
finishes one segment and a decoder seeks to the next.
"""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pysr.nets import DAN
from pysr.upscaler import Upscaler
from pysr.video import pipeline
from pysr.video.clip import Clip, VideoError
from pysr.video.journal import digest
from pysr.video.reader import Frame, read
from pysr.video.restore import Copier, FrameRestorer, Moving
from pysr.video.segments import Segment
from pysr.video.writer import Encoding, SegmentWriter


@dataclass(frozen=True)
class Work:
    """What a result depends on, apart from the journal's `identity` that it is known by.

    Attributes:
        device, engine: as `pysr.load` takes them.
        codes: (frames, m) kernel codes.
    """

    clip: Clip
    input: str
    model: DAN
    device: str
    engine: str
    tile: int
    encoding: Encoding
    codes: Tensor


@dataclass(frozen=True)
class Facts:
    """What is known of a finished segment.

    Attributes:
        tile: the smallest that it needed.
        worker: host and process that made it.
    """

    frames: int
    tile: int
    worker: str


Finished = Callable[[Segment, Path, Facts], None]


class Worker:
    """Makes segments of one job."""

    def __init__(self, work: Work):
        self.work = work
        upscaler = Upscaler(work.model, device=work.device, engine=work.engine)
        self._restorer = FrameRestorer(upscaler, work.clip, work.tile)
        self._up, self._down = Copier(upscaler.device), Copier(upscaler.device)
        self._codes = work.codes.to(upscaler.device)
        self._size = tuple(upscaler.scale * n for n in (work.clip.height, work.clip.width))

    @property
    def frame_bytes(self) -> int:
        """Of a finished frame, about, as an encoder holds it (4:2:0)."""
        height, width = self._size
        return height * width * 3 // (1 if self.work.clip.depth > 8 else 2)

    def make(
        self,
        segments: Iterable[Segment],
        folder: Path,
        finished: Finished,
        advanced: Callable[[int], None] = lambda frames: None,
    ) -> pipeline.Times:
        """Make segments one after the other.

        Args:
            folder: where their files go.
            finished: called with each, in another thread.
            advanced: called in that thread with how many frames more have been encoded.
        Raises:
            VideoError: for a frame that cannot be read.
            FrameError: for a frame that cannot be restored.
        """

        def encode(frames: Iterator[_Restored]) -> None:
            for segment, own in itertools.groupby(frames, key=lambda frame: frame.segment):
                path = folder / f"{segment.index:06d}{self.work.encoding.suffix}"
                finished(segment, path, self._encode(segment, own, path, advanced))

        return pipeline.run(self._decoded(segments), self._restored, encode)

    def _decoded(self, segments: Iterable[Segment]) -> Generator[_Decoded, None, None]:
        for segment in segments:
            for frame in read(self.work.clip, segment.first, segment.stop):
                yield _Decoded(segment, frame, self._up.upload(frame.planes))

    def _restored(self, decoded: _Decoded) -> _Restored:
        frame = decoded.frame
        planes = self._up.arrived(decoded.planes)
        rgb = self._restorer(frame.index, planes, self._codes[frame.index][None])
        return _Restored(decoded.segment, frame, self._down.made((rgb,)), self._restorer.tile)

    def _encode(
        self,
        segment: Segment,
        frames: Iterator[_Restored],
        path: Path,
        advanced: Callable[[int], None],
    ) -> Facts:
        expected, tile = segment.first, self.work.tile
        with SegmentWriter(path, self.work.clip, self._size, self.work.encoding) as writer:
            for restored in frames:
                frame = restored.frame
                if frame.index != expected:
                    raise VideoError(f"frame {expected} was expected, frame {frame.index} came")
                (rgb,) = self._down.download(restored.planes)
                writer.write(rgb, frame.pts, frame.duration)
                tile = min(tile, restored.tile)
                expected += 1
                advanced(1)
            if expected != segment.stop:
                raise VideoError(f"frame {expected} is missing")
        return Facts(len(segment), tile, f"{socket.gethostname()}:{os.getpid()}")


def check_input(work: Work) -> None:
    """That this machine sees the file that the job is about.

    Raises VideoError otherwise.
    """
    files, host = work.clip.files or (work.clip.path,), socket.gethostname()
    missing = next((file for file in files if not file.exists()), None)
    if missing:
        raise VideoError(f"{missing}: not found on {host}; every worker needs it under that name")
    if digest(files) != work.input:
        raise VideoError(f"{work.clip.path}: is another file on {host}")


@dataclass(frozen=True)
class _Decoded:
    segment: Segment
    frame: Frame
    planes: Moving


@dataclass(frozen=True)
class _Restored:
    segment: Segment
    frame: Frame
    planes: Moving
    tile: int
