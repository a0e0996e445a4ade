"""A clip in, the whole clip out: what happens in which order, and what is remembered.

Everything that can be refused is refused before the first frame is restored. From then on whatever
is done is journalled, and a job that ends for any reason is continued by calling it again. The
target appears in the end, when it has been checked.
"""

from __future__ import annotations

import copy
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

import pysr
from pysr.files import digest
from pysr.nets import DAN, default_model, fingerprint, load_dan
from pysr.upscaler import TILE, Upscaler, check_tile, usable_device
from pysr.video import adapting, checks
from pysr.video.adapting import BUDGET, Adapt
from pysr.video.clip import Clip, VideoError, pyav
from pysr.video.cluster import load_ray, make
from pysr.video.colour import to_rgb
from pysr.video.containers import check_target
from pysr.video.encoding import Encoding
from pysr.video.figures import ShotReport, report
from pysr.video.journal import Journal
from pysr.video.losses import tags_lost
from pysr.video.mux import rehearse
from pysr.video.pipeline import Times
from pysr.video.reader import probe, read
from pysr.video.segments import LENGTH, Segment, plan
from pysr.video.target import check_paths, followed, place, put_in_place, put_together
from pysr.video.track import Shot, track
from pysr.video.worker import Facts, Work, Worker

Item = TypeVar("Item")


@dataclass(frozen=True)
class Progress:
    """Where a job is.

    Attributes:
        stage: what it does now, in words.
        done, total: frames of the whole clip; finished by earlier runs included.
        fps: of this run so far, 0 until a frame is done.
        eta: seconds until all frames are restored, None while that is not known.
        estimate: what was found out beforehand, when restoring begins.
        kept: frames that are journalled, and that the same call would not make again.
    """

    stage: str
    done: int
    total: int
    fps: float = 0.0
    eta: float | None = None
    estimate: checks.Estimate | None = None
    kept: int = 0


@dataclass(frozen=True)
class Report:
    """What was done.

    Attributes:
        frames: of the clip; resumed: those of them that an earlier run had finished.
        width, height: of the result.
        seconds: of this run.
        estimate: what was expected before.
        times: where the workers' time went, added up over all of them.
        tile: the smallest that was needed, see `FrameRestorer`.
        workers: how many frames each worker made, by host and process.
        lost: what the target could not keep, in words.
    """

    source: str
    target: str
    frames: int
    resumed: int
    width: int
    height: int
    seconds: float
    estimate: checks.Estimate | None
    times: Times
    tile: int
    workers: dict[str, int]
    shots: list[ShotReport]
    lost: list[str]

    def as_json(self) -> dict:
        """For `json.dumps`: lists for kernels, None for what could not be measured."""
        return {**asdict(self), "shots": [_as_json(shot) for shot in self.shots]}

    @classmethod
    def from_json(cls, told: dict) -> Report:
        """What `as_json` gave."""
        estimate = told["estimate"]
        parts = {
            "estimate": None if estimate is None else checks.Estimate(**estimate),
            "times": Times(**told["times"]),
            "shots": [_from_json(shot) for shot in told["shots"]],
        }
        return cls(**{**told, **parts})


def _as_json(shot: ShotReport) -> dict:
    figures = {**asdict(shot), "kernel": shot.kernel.tolist()}
    return {name: None if value != value else value for name, value in figures.items()}


def _from_json(told: dict) -> ShotReport:
    figures = {name: math.nan if value is None else value for name, value in told.items()}
    return ShotReport(**{**figures, "kernel": torch.tensor(told["kernel"])})


def upscale(
    source: str | Path,
    target: str | Path,
    *,
    model: str | Path | DAN | None = None,
    device: str = "auto",
    engine: str = "auto",
    precision: str = "auto",
    tile: int = TILE,
    kernel: np.ndarray | None = None,
    adapt: Adapt | None = None,
    adapt_budget: float = BUDGET,
    stream: int | None = None,
    codec: str | None = None,
    crf: float | None = None,
    preset: str | None = None,
    pixel_format: str | None = None,
    segment: int = LENGTH,
    jobs: int = 1,
    cluster: str | None = None,
    restart: bool = False,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Report:
    """Upscale a video file or an image sequence, whole, or go on where an earlier call was ended.

    Args:
        source: a video file, a folder of pictures, or a pattern such as frames/%05d.png.
        target: the same; the ending of a file says its container. A link stays one.
        model, device, engine, precision: as `pysr.load` takes them; or a model that is loaded.
        tile: as `Upscaler.__call__` takes it.
        kernel: (k, k), the blur if it is known; followed through the clip when None.
        adapt: a method that learns each shot before it is restored: takes an `Adaptation` and
            returns what the methods of `pysr.adapt` do. It is called in this process, and not with
            `cluster`.
        adapt_budget: seconds that it is given for a shot.
        stream: index of the video stream among the file's streams; FFmpeg's choice when None.
        codec, crf, preset, pixel_format: see `Encoding.choose`.
        segment: frames that are journalled at a time.
        jobs, cluster: see `pysr.video.cluster.make`.
        restart: forget what an earlier call has done.
        progress: called often, from several threads.
    Raises:
        VideoError: what is asked for cannot be done, or the clip cannot be read to its end.
        FrameError: a frame could not be restored in two attempts.
        CheckError: the finished file is not what it should be; it is not put in place.
        After all three the journal stays, and the same call goes on. One that was killed when the
        result was finished has nothing left to do, and returns what that one would have.
    """
    started = time.perf_counter()
    source, target, asked = Path(source), followed(Path(target)), str(target)
    final = place(target)
    check_paths(source, final)
    check_tile(tile)
    if jobs < 1:
        raise VideoError(f"jobs: expected at least 1, got {jobs}")
    if cluster is not None:
        load_ray()
    if adapt is not None and cluster is not None:
        raise VideoError("adapt: not on a cluster; its models stay with this machine's journal")
    clock = _Clock(progress)
    clock.stage("reading")
    clip = probe(source, stream)
    if model is None:
        model = default_model(many_on=usable_device(device))
    network = load_dan(model)
    # The engine takes its model to its device; the other one can be sent to workers.
    upscaler = Upscaler(copy.deepcopy(network), device=device, engine=engine, precision=precision)
    encoding = Encoding.choose(clip, target, codec, crf, preset, pixel_format)
    segments = plan(len(clip), clip.keys, segment)
    content = digest(clip.files or [clip.path])
    identity = {
        "input": content,
        "target": target.name,
        "stream": clip.stream,
        "model": fingerprint(network),
        "kernel": None if kernel is None else np.asarray(kernel).tolist(),
        "engine": upscaler.engine.describe(),
        "adapt": adapting.name(adapt),
        "adapt budget": None if adapt is None else adapt_budget,
        "tile": tile,
        "segment": segment,
        **asdict(encoding),
        "versions": {"pysr": pysr.__version__, "av": pyav().__version__},
    }
    with (
        upscaler,
        Journal.opened(final, identity, suffix=encoding.suffix, restart=restart) as journal,
    ):
        if journal.done is not None:
            put_in_place(journal.result, final)
            report = Report.from_json(journal.done)
            journal.remove()
            return report
        lost = check_target(target, clip, encoding)
        size = tuple(upscaler.scale * n for n in (clip.height, clip.width))
        rehearsed = rehearse(target, clip, encoding, size, journal.work)
        lost += tags_lost(rehearsed, clip, target, encoding)
        shots = _shots(upscaler, clip, kernel, journal, clock)
        work = Work(
            clip, content, network, {}, device, engine, precision, tile, encoding, tuple(shots)
        )
        if adapt is not None:
            clock.stage("adapting")
            told = None if kernel is None else upscaler.given(kernel).kernel
            models = adapting.adapted(
                adapt, adapt_budget, work, upscaler.device, told, journal.models
            )
            work = replace(work, models=models)
        todo = [s for s in segments if journal.facts(s.index) is None]
        resumed = len(clip) - sum(map(len, todo))
        expected = None
        if cluster is None and todo:
            clock.stage("measuring")
            expected = checks.estimate(Worker(work, upscaler), segments, todo, journal.work)
        clock.restoring(resumed, len(clip), expected)

        def finished(segment: Segment, path: Path, facts: Facts) -> None:
            journal.finish(segment.index, path, asdict(facts))
            clock.keep(len(segment))

        times = make(
            work,
            journal.work,
            todo,
            finished,
            clock.advance,
            upscaler=upscaler,
            jobs=jobs,
            cluster=cluster,
        )
        clock.stage("assembling")
        paths = [journal.segment(s.index) for s in segments]
        whole, altered = put_together(target, clip, paths, encoding, size, journal.work, rehearsed)
        facts = [Facts(**journal.facts(s.index)) for s in segments]
        report = Report(
            source=str(source),
            target=asked,
            frames=len(clip),
            resumed=resumed,
            width=clip.width * upscaler.scale,
            height=clip.height * upscaler.scale,
            seconds=time.perf_counter() - started,
            estimate=expected,
            times=times,
            tile=min(f.tile for f in facts),
            workers=_by_worker(facts),
            shots=[_reported(shot, network, facts) for shot in shots],
            lost=list(dict.fromkeys((*lost, *altered, *(word for f in facts for word in f.lost)))),
        )
        journal.complete(whole, report.as_json())
        put_in_place(journal.result, final)
        journal.remove()
    return report


def _shots(
    upscaler: Upscaler, clip: Clip, kernel: np.ndarray | None, journal: Journal, clock: _Clock
) -> list[Shot]:
    """The kernel track of the whole clip, from the journal where an earlier run came so far."""
    if kernel is not None:
        code = upscaler.given(kernel).code.cpu()
        return [Shot(0, len(clip), (0,), code, 0.0)]
    noted = journal.noted("shots")
    if noted is None:
        frames = (
            to_rgb(frame.planes, clip.colour, clip.depth, upscaler.device)
            for frame in clock.counted("following the blur", read(clip), len(clip))
        )
        noted = [shot.to_json() for shot in track(upscaler, frames)]
        journal.note("shots", noted)
    return [Shot.from_json(shot) for shot in noted]


def _reported(shot: Shot, model: DAN, facts: list[Facts]) -> ShotReport:
    """Of a shot what all segments gathered."""
    name = str(shot.first)
    parts = [each.figures[name] for each in facts if name in each.figures]
    return report(shot.first, shot.stop, shot.kernel(model), shot.spread, parts)


def _by_worker(facts: list[Facts]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for each in facts:
        counts[each.worker] += each.frames
    return dict(counts)


class _Clock:
    """Turns what is done into progress."""

    def __init__(self, report: Callable[[Progress], None]):
        self._report = report
        self._lock = threading.Lock()
        self._first = self._done = self._kept = self._total = 0
        self._started = time.perf_counter()

    def stage(self, name: str) -> None:
        self._report(Progress(name, self._done, self._total, kept=self._kept))

    def counted(self, stage: str, items: Iterator[Item], total: int) -> Iterator[Item]:
        """The same items, each reported when the next is asked for."""
        for done, item in enumerate(items, 1):
            yield item
            self._report(Progress(stage, done, total))

    def restoring(self, done: int, total: int, expected: checks.Estimate | None) -> None:
        """Restoring begins, at frame `done`."""
        self._first = self._done = self._kept = done
        self._total = total
        self._started = time.perf_counter()
        eta = None if expected is None else expected.seconds * (total - done) / total
        self._report(Progress("restoring", done, total, 0.0, eta, expected, done))

    def keep(self, frames: int) -> None:
        """So many frames more are journalled; told with the next that advances."""
        with self._lock:
            self._kept += frames

    def advance(self, frames: int) -> None:
        with self._lock:
            self._done += frames
            fps = (self._done - self._first) / (time.perf_counter() - self._started)
            eta = (self._total - self._done) / fps
            self._report(Progress("restoring", self._done, self._total, fps, eta, kept=self._kept))
