"""pysr degrade on clips: every frame degraded as a picture would be, all else as it was."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video_clips import draw_clip
from video_jobs import decoded, others

from pysr.cli import main
from pysr.degrade import LearnedDegradation, imresize
from pysr.nets.dml import DMLConfig, build_dml
from pysr.video import pipeline
from pysr.video.colour import to_rgb
from pysr.video.reader import probe, read


@pytest.fixture
def clip(tmp_path):
    return draw_clip(tmp_path / "in.mkv", 6, languages=("eng",), subtitles=("deu",))


def run(*arguments):
    return main(["degrade", *map(str, arguments)])


def frames(path):
    clip = probe(path)
    return [to_rgb(frame.planes, clip.colour, clip.depth)[None] for frame in read(clip)]


def test_every_frame_is_degraded_and_all_else_kept(clip, tmp_path, capsys):
    target = tmp_path / "out.mkv"
    assert run(clip, target, "--scale", 2) == 0
    assert "(32x24, 6 frames)" in capsys.readouterr().out
    for before, after in zip(frames(clip), frames(target), strict=True):
        # What remains is the encoder's and the chroma subsampling's doing.
        assert (imresize(before, 1 / 2) - after).abs().mean() < 0.03
    assert [time for time, _ in decoded(target)] == [time for time, _ in decoded(clip)]
    assert others(target) == others(clip)


def test_pictures_come_into_the_current_folder(clip, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert run("../in.mkv", "%d.png") == 0
    assert sorted(os.listdir(".")) == [f"{i}.png" for i in range(1, 7)]


def test_a_mount_point_is_refused_before_the_work(clip, tmp_path, monkeypatch, capsys):
    """Nothing can be renamed to it, nor come into it from beside it."""
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "mount")
    monkeypatch.setattr(pipeline, "run", None)
    (tmp_path / "mount").mkdir()
    assert run(clip, tmp_path / "mount" / "%d.png") == 2
    assert capsys.readouterr().err.endswith("mount: is a mount point: name a folder inside it\n")


def test_the_longest_name_that_the_file_system_holds(clip, tmp_path):
    target = tmp_path / f"{'n' * (os.pathconf(tmp_path, 'PC_NAME_MAX') - 4)}.mkv"
    assert run(clip, target, "--scale", 2) == 0
    assert sorted(os.listdir(tmp_path)) == ["in.mkv", target.name]


def test_noise_is_drawn_anew_for_each_frame_and_from_the_seed(clip, tmp_path):
    learned = LearnedDegradation(build_dml(DMLConfig(bases=2, kernel_size=3, features=4, levels=1)))
    learned.save(tmp_path / "dml.safetensors")
    results = []
    for name, noise, seed in (("clean", 0, 0), ("a", 25, 0), ("b", 25, 0), ("c", 25, 1)):
        model = ("--model", tmp_path / "dml.safetensors", "--noise", noise, "--seed", seed)
        assert run(clip, tmp_path / name / "%03d.png", *model) == 0 or name
        results.append(
            [np.asarray(Image.open(p), float) for p in sorted((tmp_path / name).iterdir())]
        )
    clean, first, again, other = (np.stack(result) for result in results)
    np.testing.assert_array_equal(first, again)
    grain = (first - clean)[:, 12:]  # below the bars, where nothing is clipped
    assert grain.std() == pytest.approx(25, rel=0.1)
    for a, b in ((grain[0], grain[1]), (grain[0], (other - clean)[0, 12:])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{odd}", "{tmp}/o.mkv", "--scale", 4), "yuv420p needs even sizes, the result is 15x12"),
        (("{clip}", "{clip}"), "overwrite its source"),
        (("{clip}", "{tmp}/o.avi"), "o.avi"),
        (("{png}", "{tmp}/o.png", "--pixel-format", "yuv444p"), "pixel-format: for video only"),
    ],
)
def test_what_cannot_be_done_is_one_line(clip, tmp_path, capsys, arguments, message):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "in.png")
    odd = draw_clip(tmp_path / "odd.mkv", 2, size=(48, 60))
    names = {"clip": clip, "tmp": tmp_path, "png": tmp_path / "in.png", "odd": odd}
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert run(*(str(a).format(**names) for a in arguments)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
