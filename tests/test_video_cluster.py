"""The same segments in several processes and on a Ray cluster: the same bits, whoever dies."""

import contextlib
import os
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
import torch
from video_jobs import FRAMES, SEGMENT, decoded, others

from pysr import video
from pysr.video import cluster, job
from pysr.video.cluster import make
from pysr.video.encoding import Encoding
from pysr.video.journal import Journal
from pysr.video.segments import Segment
from pysr.video.worker import Work


def same(target, expected):
    return decoded(target) == decoded(expected) and others(target) == others(expected)


def test_processes_make_what_one_makes(short_clip, tiny_model, upscaled, tmp_path):
    target = tmp_path / "out.mkv"
    report = video.upscale(short_clip, target, model=tiny_model, segment=SEGMENT, jobs=2)
    assert same(target, upscaled)
    assert sum(report.workers.values()) == FRAMES


def test_an_error_in_a_process_comes_out_and_leaves_the_journal(tiny_model, tmp_path, short_clip):
    """The clip is cut short after it was looked at: a worker finds out."""
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    source.write_bytes(short_clip.read_bytes())

    def cut(state):
        if state.stage == "restoring" and state.done == 0:
            source.write_bytes(short_clip.read_bytes()[: short_clip.stat().st_size // 2])

    with pytest.raises(video.VideoError, match="frame"):
        video.upscale(source, target, model=tiny_model, segment=SEGMENT, jobs=2, progress=cut)
    assert not target.exists()


@dataclass(frozen=True)
class Endless(Work):
    """The first worker takes a minute to begin, the second cannot; `input` is their folder."""

    def upscaler(self, model=None):
        try:
            Path(self.input, "begun").touch(exist_ok=False)
        except FileExistsError:
            raise ValueError(f"no engine on {torch.get_num_threads()} threads") from None
        threading.Event().wait(60)
        Path(self.input, "outlived").touch()


def test_a_worker_that_cannot_begin_says_why_and_ends_the_others(tmp_path, short_clip, monkeypatch):
    """And has its share of the threads that the job was given."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    clip = video.probe(short_clip)
    encoding = Encoding.choose(clip, tmp_path / "out.mkv")
    work = Endless(clip, str(tmp_path), None, {}, "cpu", "auto", "auto", 64, encoding, ())
    segments = [Segment(i, i, i + 1) for i in range(2)]
    with pytest.raises(ValueError, match="no engine on 3 threads"):
        make(work, tmp_path, segments, None, None, upscaler=None, jobs=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun"]


@dataclass(frozen=True)
class Interrupted(Work):
    """Ctrl-C comes when a worker has just begun to import what it needs."""

    def __setstate__(self, state):
        self.__dict__.update(state)
        os.kill(os.getpid(), signal.SIGINT)

    def upscaler(self, model=None):
        raise ValueError("the worker has begun all the same")


def test_an_interrupt_is_not_a_starting_workers(tmp_path, short_clip, capfd):
    """A terminal sends it to every process, and the parent ends them; they print no tracebacks."""
    clip = video.probe(short_clip)
    encoding = Encoding.choose(clip, tmp_path / "out.mkv")
    work = Interrupted(clip, str(tmp_path), None, {}, "cpu", "auto", "auto", 64, encoding, ())
    with pytest.raises(ValueError, match="the worker has begun"):
        make(work, tmp_path, [Segment(0, 0, 1)], None, None, upscaler=None, jobs=2)
    assert "Traceback" not in capfd.readouterr().err


def test_an_error_on_a_cluster_is_the_workers_own(tmp_path, monkeypatch):
    """Ray wraps it; FFmpeg's are not made of one word."""

    class RayTaskError(Exception):
        cause = av.error.InvalidDataError(1, "no picture in it")

    def fail(*_):
        raise RayTaskError

    names = {"RayTaskError": RayTaskError, "RayActorError": ConnectionError}
    ray = SimpleNamespace(
        cluster_resources=dict,
        nodes=lambda: [{"Alive": True}],
        remote=lambda **_: lambda actor: SimpleNamespace(remote=actor),
        put=lambda work: work,
        util=SimpleNamespace(ActorPool=lambda actors: SimpleNamespace(map_unordered=fail)),
        exceptions=SimpleNamespace(**names),
    )
    monkeypatch.setattr(cluster, "_connected", lambda address: contextlib.nullcontext(ray))
    with pytest.raises(av.error.InvalidDataError, match="no picture in it"):
        make(None, tmp_path, [Segment(0, 0, 1)], None, None, upscaler=None, cluster="auto")


def test_a_cluster_without_ray_is_refused_before_the_work(short_clip, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(job, "probe", None)
    with pytest.raises(video.VideoError, match="--cluster needs Ray: pip install"):
        video.upscale(short_clip, tmp_path / "out.mkv", cluster="auto")
    assert os.listdir(tmp_path) == []


def test_a_cluster_survives_the_death_of_a_worker(
    short_clip, tiny_model, upscaled, tmp_path, monkeypatch
):
    pytest.importorskip("ray")
    target, killed = tmp_path / "out.mkv", []
    finish = Journal.finish

    def kill_once(journal, index, path, facts):
        finish(journal, index, path, facts)
        if not killed:
            killed.append(int(facts["worker"].split(":")[1]))
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(Journal, "finish", kill_once)
    report = video.upscale(
        short_clip, target, model=tiny_model, segment=SEGMENT, jobs=2, cluster="local"
    )
    assert same(target, upscaled)
    # The killed one made a segment, and another process made what it had begun.
    assert len(report.workers) > 1 and sum(report.workers.values()) == FRAMES


@pytest.mark.parametrize("address", ["127.0.0.1:1"])
def test_a_cluster_that_is_not_there_is_one_line(short_clip, tiny_model, tmp_path, address):
    pytest.importorskip("ray")
    with pytest.raises(video.VideoError, match="cluster: .* cannot be reached"):
        video.upscale(short_clip, tmp_path / "out.mkv", model=tiny_model, cluster=address)
