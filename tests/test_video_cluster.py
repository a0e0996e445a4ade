"""The same segments in several processes and on a Ray cluster: the same bits, whoever dies."""

import os
import signal

import pytest
from video_jobs import FRAMES, SEGMENT, decoded, others

from pysr import video
from pysr.video.journal import Journal


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
