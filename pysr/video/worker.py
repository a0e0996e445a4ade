"""Makes segments: what every process and every machine of a job runs.

All that it needs is in `Work`, which can be sent anywhere; the model is loaded once. Several
segments in a row pass through one pipeline, so that the model does not wait while an encoder
finishes one segment and a decoder seeks to the next.
"""

from __future__ import annotations

import itertools
import os
import socket
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from pysr.files import digest
from pysr.nets import DAN
from pysr.upscaler import Estimate, Upscaler
from pysr.video import pipeline
from pysr.video.clip import Clip, VideoError
from pysr.video.colour import to_rgb
from pysr.video.encoding import Encoding
from pysr.video.figures import Meter
from pysr.video.reader import Frame, read
from pysr.video.restore import Copier, FrameError, FrameRestorer, Moving
from pysr.video.segments import Segment
from pysr.video.track import Shot
from pysr.video.writer import SegmentWriter


@dataclass(frozen=True)
class Work:
    """Everything that a worker needs.

    Attributes:
        input: digest of the clip's file, for machines that have a copy of their own.
        models: what shots were taught, as `pysr.adapt.load` reads it, by their first frames.
        device, engine, precision: as `pysr.load` takes them.
        shots: of the whole clip.
    """

    clip: Clip
    input: str
    model: DAN
    models: dict[int, Path]
    device: str
    engine: str
    precision: str
    tile: int
    encoding: Encoding
    shots: tuple[Shot, ...]

    def upscaler(self, model: nn.Module | None = None) -> Upscaler:
        """Of that model, else of the job's."""
        return Upscaler(
            model or self.model, device=self.device, engine=self.engine, precision=self.precision
        )

    def taught(self, first: int) -> nn.Module:
        """What the shot that begins there was taught."""
        from pysr.adapt import load  # which most jobs do without

        with load(self.models[first], self.model, self.device).upscaler as upscaler:
            return upscaler.model


@dataclass(frozen=True)
class Facts:
    """What is known of a finished segment.

    Attributes:
        tile: the smallest that it needed.
        worker: host and process that made it.
        figures: by the first frames of its shots, see `Meter.gathered`.
        lost: what came with its frames and is not in the result, in words.
    """

    frames: int
    tile: int
    worker: str
    figures: dict[str, dict]
    lost: Sequence[str] = ()


Finished = Callable[[Segment, Path, Facts], None]


class Worker:
    """Makes segments of one job.

    Attributes:
        size: (height, width) of the result.
    """

    def __init__(self, work: Work, upscaler: Upscaler):
        self.work, self._upscaler = work, upscaler
        self._restorer = FrameRestorer(work.clip, work.tile)
        self._up, self._down = Copier(upscaler.device), Copier(upscaler.device)
        self.size = tuple(upscaler.scale * n for n in (work.clip.height, work.clip.width))
        self._of_shot: tuple[int, Tensor, Upscaler] | None = None
        self._firsts = [shot.first for shot in work.shots]

    @property
    def device(self) -> torch.device:
        return self._upscaler.device

    @property
    def frame_bytes(self) -> int:
        """Of a finished frame, about, as an encoder holds it (4:2:0)."""
        height, width = self.size
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
            FrameError: for a frame that cannot be restored, or did not come.
        """

        def encode(frames: Iterator[_Restored]) -> None:
            for segment, own in itertools.groupby(frames, key=lambda frame: frame.decoded.segment):
                path = folder / f"{segment.index:06d}{self.work.encoding.suffix}"
                finished(segment, path, self._encode(segment, own, path, advanced))

        return pipeline.run(self._decoded(segments), self._restored, encode)

    def _decoded(self, segments: Iterable[Segment]) -> Generator[_Decoded, None, None]:
        for segment in segments:
            for frame in read(self.work.clip, segment.first, segment.stop):
                yield _Decoded(segment, frame, self._up.upload(frame.planes))

    def _restored(self, decoded: _Decoded) -> _Restored:
        clip, index = self.work.clip, decoded.frame.index
        planes = self._up.arrived(decoded.planes)
        lr = to_rgb(planes, clip.colour, clip.depth, self._upscaler.device)[None]
        shot = self.work.shots[bisect_right(self._firsts, index) - 1]
        kernel, upscaler = self._tools(shot)
        code = shot.code(index).to(self._upscaler.device)
        out = self._restorer(upscaler, index, lr, Estimate(kernel, code, 1 - shot.spread))
        return _Restored(decoded, shot, kernel, self._down.made((lr, out)), self._restorer.tile)

    @staticmethod
    def _measured(
        restored: _Restored, meter: Meter, writer: SegmentWriter, lr: Tensor, out: Tensor
    ) -> tuple[Tensor, ...]:
        """A frame as the encoder takes it, and a look at it while the device has it."""
        offset = restored.decoded.frame.index - restored.shot.first
        meter.add(offset, lr, out, restored.kernel)
        return writer.samples(out[0])

    def _tools(self, shot: Shot) -> tuple[Tensor, Upscaler]:
        """A shot's kernel, and what restores it."""
        if self._of_shot is None or self._of_shot[0] != shot.first:
            if self._of_shot is not None and self._of_shot[2] is not self._upscaler:
                self._of_shot[2].close()
            own = shot.first in self.work.models
            upscaler = self.work.upscaler(self.work.taught(shot.first)) if own else self._upscaler
            self._of_shot = (shot.first, shot.kernel(self.work.model), upscaler)
        return self._of_shot[1:]

    def _encode(
        self,
        segment: Segment,
        frames: Iterator[_Restored],
        path: Path,
        advanced: Callable[[int], None],
    ) -> Facts:
        expected, tile = segment.first, self.work.tile
        meters: dict[str, Meter] = {}
        lost: dict[str, None] = {}
        with SegmentWriter(path, self.work.clip, self.size, self.work.encoding) as writer:
            for restored in frames:
                frame = restored.decoded.frame
                if frame.index != expected:
                    raise FrameError(f"frame {expected} was expected, frame {frame.index} came")
                meter = meters.setdefault(str(restored.shot.first), Meter(self._upscaler))
                measured = partial(self._measured, restored, meter, writer)
                samples = self._down.download(restored.made, measured)
                writer.write(samples, frame.pts, frame.duration)
                tile = min(tile, restored.tile)
                lost |= dict.fromkeys(frame.lost)
                expected += 1
                advanced(1)
            if expected != segment.stop:
                raise FrameError(f"frame {expected} is missing")
        figures = {first: meter.gathered for first, meter in meters.items()}
        worker = f"{socket.gethostname()}:{os.getpid()}"
        return Facts(len(segment), tile, worker, figures, tuple(lost))


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
    """`made` are the frame that came in and the one that goes out, as `Meter.add` takes them."""

    decoded: _Decoded
    shot: Shot
    kernel: Tensor
    made: Moving
    tile: int
