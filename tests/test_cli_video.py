"""pysr upscale on clips: what is told apart, what is said, and what the exit code tells."""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs
from video_clips import draw_clip
from video_jobs import decoded

from pysr import video
from pysr.adapt import METHODS, Budget
from pysr.cli import main


@pytest.fixture
def small(tmp_path):
    return draw_clip(tmp_path / "in.mkv", 5)


def run(*arguments):
    return main([str(a) for a in arguments])


def test_progress_for_programs_is_json_from_first_to_last_line(small, tiny_model, tmp_path, capsys):
    target = tmp_path / "out.mp4"
    assert run("upscale", small, target, "--model", tiny_model, "--progress", "json") == 0
    captured = capsys.readouterr()
    states = [json.loads(line) for line in captured.out.splitlines()]
    assert captured.err == ""
    assert [s["stage"] for s in states if s["stage"] == "restoring"]
    assert states[-1]["stage"] == "done" and states[-1]["frames"] == 5
    assert states[-1]["width"] == 2 * video.probe(small).width == video.probe(target).width


def test_lines_where_there_is_no_terminal_and_a_report(small, tiny_model, tmp_path, capsys):
    target, report = tmp_path / "out.mkv", tmp_path / "report.json"
    assert run("upscale", small, target, "--model", tiny_model, "--report", report) == 0
    captured = capsys.readouterr()
    assert "5 frames to 128x96: about 0:00:" in captured.err
    assert "restoring 5 of 5 frames" in captured.err and "\x1b" not in captured.err
    assert "128x96, 5 frames" in captured.out
    (shot,) = json.loads(report.read_text())["shots"]
    assert np.sum(shot["kernel"]) == pytest.approx(1, abs=1e-4)
    assert (shot["first"], shot["stop"]) == (0, 5) and shot["consistency"] is not None


def test_an_interrupted_clip_says_what_is_kept(small, tiny_model, tmp_path, capsys, monkeypatch):
    target, report = tmp_path / "out.mkv", tmp_path / "report.json"
    command = ("upscale", small, target, "--model", tiny_model, "--segment", 2)

    def until(stopping):
        def progress(state):
            if stopping(state):
                raise KeyboardInterrupt

        return lambda form: contextlib.nullcontext(progress)

    with monkeypatch.context() as patch:
        patch.setattr("pysr.cli.video.shown", until(lambda state: state.stage == "measuring"))
        assert run(*command) == 130
        assert capsys.readouterr().err == "pysr: interrupted\n"
        patch.setattr("pysr.cli.video.shown", until(lambda state: state.kept))
        assert run(*command) == 130
    kept, interrupted = capsys.readouterr().err.splitlines()
    words = "2 of 5 frames are kept: the same command goes on there"
    assert kept == f"pysr upscale: {target}: {words}" and interrupted == "pysr: interrupted"
    assert run(*command, "--report", report) == 0
    assert json.loads(report.read_text())["resumed"] == 2


@pytest.mark.parametrize(
    ("codec", "words"),
    [
        ("libx264", "preset: libx264 takes ultrafast, superfast, "),
        ("libx265", "preset: libx265 takes ultrafast, superfast, "),
        ("libsvtav1", "libsvtav1 refuses yuv420p at 25 fps with crf 24 and preset nope"),
    ],
)
def test_a_preset_that_is_none_is_one_line_of_ours(
    small, tiny_model, tmp_path, capfd, codec, words
):
    """x264 would print one of its own; and nobody asked for the size that encoders are tried on."""
    command = ("upscale", small, tmp_path / "out.mkv", "--model", tiny_model, "--progress", "json")
    assert run(*command, "--codec", codec, "--preset", "nope") == 2
    error = capfd.readouterr().err
    assert words in error and "nope" in error and error.count("\n") == 1 and "256" not in error


def test_a_name_with_a_newline_is_told_in_one_line(small, tiny_model, tmp_path, capsys):
    small = small.rename(tmp_path / "a\nclip.mkv")
    Image.fromarray(photographs.astronaut()[:40, :40]).save(tmp_path / "a\npicture.png")
    for source in (small, tmp_path / "a\npicture.png"):
        target = source.with_stem("its\nresult")
        assert run("upscale", source, target, "--model", tiny_model) == 0
        (result,) = capsys.readouterr().out.splitlines()
        assert f"{source.name} -> ".replace("\n", " ") in result


@pytest.mark.parametrize("method", METHODS)
def test_a_model_is_taught_a_clip(small, tiny_model, tmp_path, capsys, monkeypatch, method):
    monkeypatch.setattr("pysr.video.teaching.Budget", lambda seconds: Budget(steps=10))
    plain, taught = tmp_path / "plain.mkv", tmp_path / "taught.mkv"
    model = ("--model", tiny_model)
    assert run("upscale", small, plain, *model) == 0
    told = ("--adapt", method, "--noise", "2.5")
    assert run("upscale", small, taught, *model, *told) == 0
    error = capsys.readouterr().err
    assert f"{small}: {method}: 10 steps in " in error
    assert "noise 2.5 of 255" in error
    # Of what is put back the frames are those of before.
    assert (decoded(plain) == decoded(taught)) == ("nothing learned" in error and method != "zssr")


def test_a_folder_of_clips_and_pictures(small, tiny_model, tmp_path, capsys):
    folder, results = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    small.rename(folder / "a.mkv")
    draw_clip(folder / "b.avi", 3, codec="mjpeg", pixel_format="yuvj420p")
    Image.fromarray(photographs.astronaut()[:40, :40]).save(folder / "c.png")
    (folder / "d.mp4").write_text("no clip")
    (folder / "._a.mkv").write_text("what macOS leaves behind")
    report = ("--report", tmp_path / "report.json")
    assert run("upscale", folder, results, "--model", tiny_model, *report) == 2
    captured = capsys.readouterr()
    assert "d.mp4" in captured.err and "1 of 4 files were not upscaled" in captured.err
    assert sorted(p.name for p in results.iterdir() if p.name[0] != ".") == [
        *("a.mkv", "b.mkv", "c.png")
    ]
    assert len(decoded(results / "b.mkv")) == 3
    report = json.loads((tmp_path / "report.json").read_text())
    assert [Path(each.get("source", each.get("input"))).name for each in report] == [
        "a.mkv",
        "b.avi",
        "c.png",
    ]


def test_a_folder_goes_on_with_the_clip_that_is_not_finished(small, tiny_model, tmp_path, capsys):
    folder, results = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("a.mkv", "b.mkv"):
        shutil.copy(small, folder / name)
    (folder / "c.mp4").write_text("no clip")
    command = ("upscale", folder, results, "--model", tiny_model)
    assert run(*command) == 2

    def made():
        return {p.name: p.stat().st_mtime_ns for p in results.iterdir() if p.suffix != ".json"}

    before = made()
    draw_clip(folder / "c.mp4", 3)
    draw_clip(folder / "b.mkv", 4)  # another clip by an old name
    capsys.readouterr()
    report = tmp_path / "report.json"
    assert run(*command, "--report", report) == 0
    out = capsys.readouterr().out
    assert "a.mkv (finished by an earlier run)" in out and out.count("finished") == 1
    after = made()
    assert after["a.mkv"] == before["a.mkv"] and after["b.mkv"] > before["b.mkv"]
    assert [each["frames"] for each in json.loads(report.read_text())] == [5, 4, 3]
    assert sorted(p.name for p in results.iterdir()) == ["a.mkv", "b.mkv", "c.mp4"]

    (folder / "c.mp4").write_text("no clip")
    assert run(*command) == 2  # all anew: nothing was left to finish
    assert made()["a.mkv"] > after["a.mkv"]
    capsys.readouterr()
    for changed in (("--crf", 40), ("--restart",)):
        again = made()
        assert run(*command, *changed) == 2
        assert made()["a.mkv"] > again["a.mkv"] and "finished" not in capsys.readouterr().out


def test_pictures_in_sequence_to_a_clip_and_back(small, tiny_model, tmp_path):
    arguments = ("--model", tiny_model, "--progress", "lines")
    pattern = tmp_path / "pictures" / "%03d.png"
    assert run("upscale", small, pattern, *arguments) == 0
    pictures = sorted(pattern.parent.iterdir())
    assert len(pictures) == 5 and Image.open(pictures[0]).size == (128, 96)
    assert run("upscale", pattern, tmp_path / "again.mkv", *arguments) == 0
    assert len(decoded(tmp_path / "again.mkv")) == 5
    assert run("upscale", pattern.parent, tmp_path / "larger" / "%d.png", *arguments) == 0
    assert Image.open(tmp_path / "larger" / "4.png").size == (256, 192)


def test_a_picture_without_an_ending_is_one_where_a_picture_is_asked_for(tiny_model, tmp_path):
    Image.fromarray(photographs.astronaut()[:40, :40]).save(tmp_path / "in", "png")
    assert run("upscale", tmp_path / "in", tmp_path / "out.png", "--model", tiny_model) == 0
    assert Image.open(tmp_path / "out.png").size == (80, 80)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("{png}", "{tmp}/o.png", "--crf", "20", "--jobs", "2"),
            "--crf, --jobs, --progress: for video only",
        ),
        (("{clip}", "{clip}"), "overwrite its source"),
        (("{clip}", "{tmp}/none/o.mkv"), "no folder"),
        (("{clip}", "{tmp}/o.mkv", "--exact"), "--exact: for pictures only"),
        (("{clip}", "{tmp}/o.mkv", "--report", "{tmp}/none/r.json"), "r.json cannot be written"),
        (("{clip}", "{tmp}/o.mkv", "--report", "{tmp}/o.mkv"), "would replace"),
        (("{clip}", "{tmp}/o.mkv", "--report", "{clip}"), "would replace"),
        (
            ("{clip}", "{tmp}/o.mkv", "--adapt", "zssr", "--engine", "native"),
            "engine: expected auto or torch with --adapt zssr, got 'native'",
        ),
        (
            ("{png}", "{tmp}/o.png", "--adapt", "dsr", "--precision", "float16"),
            "precision: expected auto or float32 with --adapt dsr, got 'float16'",
        ),
        (("{clip}", "{tmp}/o.mkv", "--adapt", "dsr", "--hr-pool", "{tmp}"), "takes none"),
        (
            ("{png}", "{tmp}/o.png", "--adapt", "onsr", "--noise", "5", "--degradation", "x"),
            "--noise: given together with --degradation",
        ),
        (("{clip}", "{tmp}/o.mkv", "--adapt", "dsr", "--noise", "-1"), "from 0 to below 255"),
        (("{clip}", "{tmp}/o.mkv", "--noise", "5"), "--noise: means nothing without --adapt"),
        (
            ("{clip}", "{tmp}/o.mkv", "--adapt", "onsr", "--budget", "9 steps"),
            "budget: expected seconds",
        ),
        (("{clip}", "{tmp}/o.mkv", "--codec", "h999"), "h999"),
        (("{clip}", "{tmp}/o.mkv", "--stream", "7"), "stream"),
        (("{clip}", "{tmp}/o.mkv", "--segment", "0"), "at least 1 frame"),
        (("{clip}", "{tmp}/o.mkv", "--jobs", "0"), "jobs: expected at least 1"),
        (("{text}", "{tmp}/o.mkv"), "in.txt: not readable as video"),
        (("{tmp}/none.mkv", "{tmp}/o.mkv"), "no such file"),
        (("{clip}", "{tmp}/o.avi"), ".avi cannot hold this clip"),  # as its packets show
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(
    small, tiny_model, tmp_path, capsys, arguments, message
):
    Image.fromarray(photographs.astronaut()[:40, :40]).save(tmp_path / "in.png")
    (tmp_path / "in.txt").write_text("no clip")
    names = {
        "clip": small,
        "tmp": tmp_path,
        "png": tmp_path / "in.png",
        "text": tmp_path / "in.txt",
    }
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    filled = [a.format(**names) for a in arguments]
    assert run("upscale", *filled, "--model", tiny_model, "--progress", "json") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
