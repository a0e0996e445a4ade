"""Whole jobs on short drawn clips with a tiny model: nothing lost, whatever happens on the way."""

import copy
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from skimage import data as photographs
from video_clips import draw_clip
from video_jobs import FRAMES, SEGMENT, decoded, others

from pysr import Upscaler, adapt, pictures, video
from pysr.engines import NativeEngine
from pysr.video import job
from pysr.video.checks import CheckError
from pysr.video.journal import Journal
from pysr.video.restore import FrameError


def same(target, expected):
    return decoded(target) == decoded(expected) and others(target) == others(expected)


def stop_after(frames):
    """A job's `progress` that ends it."""

    def progress(state):
        if state.stage == "restoring" and state.done >= frames:
            raise KeyboardInterrupt

    return progress


def late(act):
    """A job's `progress` that acts when all frames are restored."""

    def progress(state):
        if state.stage == "assembling":
            act(state)

    return progress


def interrupt(*_):
    raise KeyboardInterrupt


def left(folder):
    return sorted(os.listdir(folder))


def test_a_job_killed_again_and_again_ends_with_the_same_bits(
    short_clip, tiny_model, upscaled, tmp_path
):
    target = tmp_path / "out.mkv"
    command = [sys.executable, "-m", "pysr", "upscale", short_clip, target, "--model", tiny_model]
    command += ["--segment", str(SEGMENT)]
    segments = tmp_path / ".out.mkv.pysr" / "segments"
    chance = random.Random(5)
    # The first dies while it measures, the others some way into the rest.
    for share in (0, 0.25, 0.5):
        run = subprocess.Popen(command, stderr=subprocess.PIPE)
        while not segments.exists() or len(list(segments.glob("*.mkv"))) < share * FRAMES / SEGMENT:
            assert run.poll() is None
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.05))
        run.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL and not target.exists()
        run.communicate()
    subprocess.run([*command, "--report", tmp_path / "report.json"], check=True)
    assert json.loads((tmp_path / "report.json").read_text())["resumed"] >= FRAMES / 2
    assert same(target, upscaled)
    assert left(tmp_path) == ["out.mkv", "report.json"]


def test_an_interrupted_job_goes_on_and_a_changed_one_is_refused(
    short_clip, tiny_model, upscaled, tmp_path
):
    target, source = tmp_path / "out.mkv", tmp_path / "in.mkv"
    source.write_bytes(short_clip.read_bytes())
    settings = {"model": tiny_model, "segment": SEGMENT}
    with pytest.raises(KeyboardInterrupt):
        video.upscale(source, target, **settings, progress=stop_after(FRAMES // 2))
    assert not target.exists()
    for change, word in [({"crf": 30}, "crf"), ({"tile": 64}, "tile"), ({"segment": 9}, "segment")]:
        with pytest.raises(video.VideoError, match=word + ".*--restart"):
            video.upscale(source, target, **{**settings, **change})
    with pytest.raises(video.VideoError, match="model.*--restart"):
        video.upscale(source, target, model="dan-lite-x2", segment=SEGMENT)
    draw_clip(source, FRAMES + 1)
    with pytest.raises(video.VideoError, match="input.*--restart"):
        video.upscale(source, target, **settings)
    report = video.upscale(short_clip, target, **settings)  # the same film under another name
    assert 0 < report.resumed < FRAMES and same(target, upscaled)


@pytest.mark.parametrize("times", [1, 2])
def test_a_frame_that_fails_is_made_again_once(
    short_clip, tiny_model, upscaled, tmp_path, monkeypatch, times
):
    target, begun = tmp_path / "out.mkv", []
    restore = NativeEngine.restore

    def failing(self, lr, code, gates=None):
        if begun and failures:
            raise failures.pop()
        return restore(self, lr, code, gates)

    def begin(state):
        if state.stage == "restoring" and state.done >= SEGMENT:
            begun.append(state.done)

    failures = [RuntimeError("the device hiccuped") for _ in range(times)]
    monkeypatch.setattr(NativeEngine, "restore", failing)
    settings = {"model": tiny_model, "segment": SEGMENT, "progress": begin}
    if times == 2:
        with pytest.raises(FrameError, match=r"frame \d+ failed twice: the device hiccuped"):
            video.upscale(short_clip, target, **settings)
        assert left(tmp_path) == [".out.mkv.pysr"]
    report = video.upscale(short_clip, target, **settings)
    assert not failures and same(target, upscaled)
    assert report.tile == job.TILE


def test_out_of_memory_makes_the_same_frame_in_smaller_tiles(tmp_path, tiny_model, monkeypatch):
    source = draw_clip(tmp_path / "in.mkv", 3, size=(160, 192))
    restore = NativeEngine.restore

    def limited(self, lr, code, gates=None):
        if len(lr) == 1 and lr.shape[-1] * lr.shape[-2] > 20000:
            raise torch.OutOfMemoryError("out of memory")
        return restore(self, lr, code, gates)

    settings = {"model": tiny_model, "kernel": np.full((5, 5), 1 / 25)}
    video.upscale(source, tmp_path / "tiles.mkv", **settings, tile=87)
    monkeypatch.setattr(NativeEngine, "restore", limited)
    report = video.upscale(source, tmp_path / "out.mkv", **settings)
    assert report.tile == 87  # half of the root of the area
    assert decoded(tmp_path / "out.mkv") == decoded(tmp_path / "tiles.mkv")


def test_what_is_wrong_afterwards_is_not_put_in_place(
    short_clip, tiny_model, tmp_path, monkeypatch
):
    def wrong(target, source, segments, encoding):
        draw_clip(target, FRAMES - 1, languages=("eng",))
        return ()

    monkeypatch.setattr("pysr.video.target.assemble", wrong)
    with pytest.raises(CheckError, match="frames .47, expected 48.*size.*sound 1"):
        video.upscale(short_clip, tmp_path / "out.mkv", model=tiny_model)
    assert left(tmp_path) == [".out.mkv.pysr"]


def test_of_two_video_streams_the_one_asked_for_is_upscaled_and_checked(tiny_model, tmp_path):
    """The other one is FFmpeg's own choice, before and after."""
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    parts = [draw_clip(tmp_path / "0.mkv", 6, size=(192, 256)), draw_clip(tmp_path / "1.mkv", 5)]
    with av.open(source, "w") as container, av.open(parts[0]) as one, av.open(parts[1]) as other:
        videos = [clip.streams.video[0] for clip in (one, other)]
        copies = [container.add_stream_from_template(video, opaque=True) for video in videos]
        for clip, copy in zip((one, other), copies, strict=True):
            for packet in clip.demux(video=0):
                if packet.pts is not None:
                    packet.stream = copy
                    container.mux(packet)
    assert video.upscale(source, target, model=tiny_model, stream=1).frames == 5
    sizes = [(len(clip), clip.width) for clip in (video.probe(target, i) for i in (0, 1))]
    assert sizes == [(6, 256), (5, 128)]


def test_what_comes_with_later_frames_is_told_to_be_lost(tiny_model, tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    for index, channels in enumerate((3, 3, 4)):
        pixels = np.full((48, 64, channels), 99, np.uint8)
        pictures.write(frames / f"{index}.png", pictures.Picture(pixels))
    report = video.upscale(frames, tmp_path / "out.mkv", model=tiny_model, segment=1)
    assert report.lost == ["transparency"]


@pytest.mark.parametrize("lacking", ["disk", "folder", "source", "file", "names"])
def test_what_cannot_be_is_refused_before_the_work(
    short_clip, tiny_model, tmp_path, monkeypatch, lacking
):
    target = tmp_path / "out.mkv"
    if lacking == "disk":
        usage = shutil.disk_usage(tmp_path)._replace(free=10000)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        message = r"needs about \d+\.\d [KM]iB there, 9\.8 KiB are free"
    elif lacking == "folder":
        target, message = tmp_path / "none" / "out.mkv", "no folder"
    elif lacking == "names":
        target, message = tmp_path / "mount" / "%d.png", "mount: is a mount point: name a folder in"
        (tmp_path / "mount").mkdir()
        monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "mount")
    elif lacking == "file":
        target, message = tmp_path / "pipe.mkv", "expected a file, got a pipe"
        os.mkfifo(target)
    else:
        target, message = short_clip, "overwrite its source"
    before = short_clip.read_bytes()
    with pytest.raises(video.VideoError, match=message):
        video.upscale(short_clip, target, model=tiny_model)
    assert not (tmp_path / "out.mkv").exists() and short_clip.read_bytes() == before
    assert lacking != "file" or left(tmp_path) == ["pipe.mkv"]


def test_the_disk_that_finished_segments_took_is_not_asked_for_again(
    short_clip, tiny_model, tmp_path, monkeypatch
):
    target, needed = tmp_path / "out.mkv", []
    settings = {"model": tiny_model, "segment": SEGMENT}

    def half(state):
        if state.estimate:
            needed.append(state.estimate.disk)
        stop_after(FRAMES // 2)(state)

    with pytest.raises(KeyboardInterrupt):
        video.upscale(short_clip, target, **settings, progress=half)
    usage = shutil.disk_usage(tmp_path)._replace(free=needed[0] - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert video.upscale(short_clip, target, **settings).resumed > 0


def test_the_sources_video_takes_no_disk(tiny_model, tmp_path):
    source = draw_clip(tmp_path / "in.mkv", 40, codec="rawvideo", time_base=Fraction(1, 25))
    estimates = []
    video.upscale(
        source,
        tmp_path / "out.mkv",
        model=tiny_model,
        progress=lambda state: estimates.append(state.estimate),
    )
    (needed,) = {estimate.disk for estimate in estimates if estimate}
    assert 2 * (tmp_path / "out.mkv").stat().st_size < 2 * needed < source.stat().st_size


@pytest.mark.parametrize("ending", [".mkv", ""])
def test_the_longest_name_that_the_file_system_holds(tiny_model, tmp_path, ending):
    source = draw_clip(tmp_path / "in.mkv", 3)
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    target = tmp_path / ("n" * (longest - len(ending)) + ending)
    settings = {"model": tiny_model, "segment": 1}
    with pytest.raises(KeyboardInterrupt):
        video.upscale(source, target, **settings, progress=stop_after(3))
    assert video.upscale(source, target, **settings).resumed > 0
    assert left(tmp_path) == ["in.mkv", target.name]


def test_a_name_that_is_too_long_is_refused_before_the_work(tiny_model, tmp_path, monkeypatch):
    for name in ("exists", "is_dir", "is_file"):  # as Python 3.14 has them, which raise nothing
        monkeypatch.setattr(Path, name, getattr(os.path, name.replace("_", "")))
    source = draw_clip(tmp_path / "in.mkv", 3)
    target = tmp_path / f"{'n' * os.pathconf(tmp_path, 'PC_NAME_MAX')}.mkv"
    with pytest.raises(video.VideoError, match="n.mkv: cannot be written .File name too long"):
        video.upscale(source, target, model=tiny_model)
    assert left(tmp_path) == ["in.mkv"]


def test_a_link_stays_one_and_the_file_it_leads_to_is_replaced(tiny_model, tmp_path):
    source = draw_clip(tmp_path / "in.mkv", 5)
    store, here = tmp_path / "store", tmp_path / "here"
    for folder in (store, here, store / "pictures"):
        folder.mkdir()
    (store / "film.mkv").write_text("before")
    (here / "out.mkv").symlink_to("../store/film.mkv")
    (here / "pictures").symlink_to("../store/pictures")
    report = video.upscale(source, here / "out.mkv", model=tiny_model)
    assert report.target == str(here / "out.mkv")
    video.upscale(source, here / "pictures" / "%d.png", model=tiny_model)
    assert all(path.is_symlink() for path in here.iterdir())
    assert len(decoded(store / "film.mkv")) == 5 and left(store) == ["film.mkv", "pictures"]
    assert left(store / "pictures") == [f"{i}.png" for i in range(1, 6)]


def test_pictures_come_into_the_current_folder(tiny_model, tmp_path, monkeypatch):
    source, here = draw_clip(tmp_path / "in.mkv", 3), tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    video.upscale(Path("..", source.name), "%d.png", model=tiny_model)
    assert left(".") == ["1.png", "2.png", "3.png"]  # and not in another folder of that name
    assert left(tmp_path) == ["here", "in.mkv"]


def test_a_picture_that_came_into_the_folder_meanwhile_stays(tiny_model, tmp_path):
    source, target = draw_clip(tmp_path / "in.mkv", 3), tmp_path / "out"
    target.mkdir()

    def come(state):
        (target / "000002.png").write_text("mine")

    with pytest.raises(video.VideoError, match="000002.png has come there since"):
        video.upscale(source, target, model=tiny_model, kernel=np.ones((1, 1)), progress=late(come))
    assert left(target) == ["000002.png"] and (target / "000002.png").read_text() == "mine"
    (target / "000002.png").unlink()
    assert video.upscale(source, target, model=tiny_model, kernel=np.ones((1, 1))).frames == 3
    assert len(left(target)) == 3


@pytest.mark.parametrize("killed_at", ["the rename", "the cleaning", "the segments"])
def test_a_job_killed_when_its_result_was_finished_only_cleans_up(
    tiny_model, tmp_path, monkeypatch, killed_at
):
    """Pictures: what is in place already must not be taken for somebody else's."""
    source, target = draw_clip(tmp_path / "in.mkv", 5), tmp_path / "out"
    rmtree, flushed, fsync = shutil.rmtree, [], os.fsync

    def half(folder, **settings):
        if Path(folder).name == "segments":
            next(folder.glob("0*")).rename(tmp_path / "gone")
            raise KeyboardInterrupt
        rmtree(folder, **settings)

    def noted(handle):
        fsync(handle)
        if target.exists():
            flushed.append(os.fstat(handle).st_ino)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", noted)
        if killed_at == "the rename":
            patch.setattr(job, "put_in_place", interrupt)
        elif killed_at == "the cleaning":
            patch.setattr(Journal, "remove", interrupt)
        else:
            patch.setattr(shutil, "rmtree", half)
        with pytest.raises(KeyboardInterrupt):
            video.upscale(source, target, model=tiny_model)
    assert target.exists() == (killed_at != "the rename")
    # The new name is on the disk before what could make it again is deleted.
    assert not target.exists() or flushed[0] == tmp_path.stat().st_ino
    stages = []
    report = video.upscale(
        source, target, model=tiny_model, progress=lambda state: stages.append(state.stage)
    )
    assert "restoring" not in stages and len(left(target)) == 5
    assert report.frames == 5 and report.shots[0].kernel.sum() == pytest.approx(1, abs=1e-4)
    assert json.dumps(report.as_json())
    assert not [name for name in left(tmp_path) if name.startswith(".")]
    with pytest.raises(video.VideoError, match="a new or an empty folder"):
        video.upscale(source, target, model=tiny_model)


def test_a_result_that_was_taken_away_before_the_end_is_told(tiny_model, tmp_path, monkeypatch):
    source, target = draw_clip(tmp_path / "in.mkv", 3), tmp_path / "out.mkv"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Journal, "remove", interrupt)
        video.upscale(source, target, model=tiny_model)
    target.unlink()
    with pytest.raises(video.VideoError, match="taken away since; --restart"):
        video.upscale(source, target, model=tiny_model)
    video.upscale(source, target, model=tiny_model, restart=True)
    assert left(tmp_path) == ["in.mkv", "out.mkv"]


def test_each_shot_has_the_model_that_adapt_taught_it(tiny_model, tmp_path):
    """The second of two shots is taught to be black; an interrupted job does not teach again."""
    source, target, taught = tmp_path / "in.mkv", tmp_path / "out.mkv", []
    cut(source)

    def blacken(given):
        assert given.budget == 5 and next(given.frames()).shape == (3, 48, 64)
        taught.append((given.shot.first, given.shot.stop))
        return filled(given, 0.0 if given.shot.first > 0 else None)

    settings = {"model": tiny_model, "segment": 4, "adapt": blacken, "adapt_budget": 5}
    with pytest.raises(KeyboardInterrupt):
        video.upscale(source, target, **settings, progress=stop_after(10))
    with pytest.raises(video.VideoError, match="adapt"):
        video.upscale(source, target, model=tiny_model, segment=4)
    video.upscale(source, target, **settings)
    assert taught == [(0, 12), (12, 24)]
    with av.open(target) as container:
        means = [f.to_ndarray(format="gray").mean() for f in container.decode(video=0)]
    assert min(means[:12]) > 10 and max(means[12:]) < 2


def test_a_resumed_job_is_taught_on_from_the_shot_before(tiny_model, tmp_path):
    source, target, given = tmp_path / "in.mkv", tmp_path / "out.mkv", []
    cut(source)

    def marked(shot):
        before = shot.before and adapt.load(shot.before, shot.model, "cpu").upscaler.model
        given.append((shot.shot.first, before and before.state_dict()))
        if len(given) == 2:
            raise KeyboardInterrupt
        return filled(shot, len(given))

    settings = {"model": tiny_model, "adapt": marked}
    with pytest.raises(KeyboardInterrupt):
        video.upscale(source, target, **settings)
    video.upscale(source, target, **settings)
    assert [first for first, _ in given] == [0, 12, 12] and given[0][1] is None
    for _, before in given[1:]:
        assert torch.allclose(before["Restorer.head.weight"], torch.tensor(1.0), atol=1e-3)


def test_a_method_that_gives_nothing_back_is_refused(tiny_model, tmp_path):
    draw_clip(tmp_path / "in.mkv", 3)
    with pytest.raises(TypeError, match="adapt: expected .* returns pysr.adapt.Adapted, got None"):
        video.upscale(
            tmp_path / "in.mkv", tmp_path / "out.mkv", model=tiny_model, adapt=lambda shot: None
        )


def filled(shot, value):
    """A shot's model with all weights the same, or as they are, as what it was taught."""
    model = copy.deepcopy(shot.model)
    for parameter in model.parameters() if value is not None else ():
        parameter.data.fill_(value)
    report = adapt.Report("onsr", 1, 0.0, shot.kernel, 0.0, 0.0, False, "")
    return adapt.Adapted(Upscaler(model, device="cpu"), report, shot.model)


def cut(path):
    """A clip of two shots, twelve frames each."""
    scenes = [photographs.astronaut()[:48, :64], photographs.coffee()[200:248, 300:364]]
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", 25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for scene in scenes:
            for _ in range(12):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(scene.copy(), "rgb24")))
        container.mux(stream.encode(None))
