"""Image sequences in and out, in the shape of clips and segments."""

import os

import numpy as np
import pytest
from PIL import ImageCms
from video_clips import draw_clip, number, picture, upscale

from pysr import pictures
from pysr.video.clip import VideoError
from pysr.video.colour import to_rgb
from pysr.video.containers import check_target
from pysr.video.reader import probe, read
from pysr.video.writer import Encoding


def _draw(folder, names, dtype=np.uint8):
    folder.mkdir()
    for index, name in enumerate(names):
        pixels = picture(index).astype(dtype) * (257 if dtype == np.uint16 else 1)
        pictures.write(folder / name, pictures.Picture(pixels))
    return folder


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_folder_is_doubled_into_a_folder_exactly(tmp_path, dtype):
    names = [f"shot{i}.png" for i in range(8, 12)]  # 10 comes after 9
    folder = _draw(tmp_path / "in", names, dtype)
    clip = probe(folder)
    assert [file.name for file in clip.files] == names and len(clip) == 4
    assert clip.depth == (8 if dtype == np.uint8 else 16)
    upscale(clip, tmp_path / "out")
    for name in names:
        given, got = (pictures.read(tmp_path / f / name).pixels for f in ("in", "out"))
        assert got.dtype == dtype
        assert np.array_equal(got, given.repeat(2, 0).repeat(2, 1))


def test_pictures_become_a_video_and_a_video_pictures(tmp_path):
    _draw(tmp_path / "in", [f"{i:03d}.png" for i in range(5, 17)])
    clip = probe(tmp_path / "in" / "%03d.png")
    assert upscale(clip, tmp_path / "film.mp4") == ()
    film = probe(tmp_path / "film.mp4")
    assert len(film) == 12 and film.rate == 25 and film.colour.matrix == 6
    shown = [number(to_rgb(frame.planes, film.colour, film.depth)) for frame in read(film)]
    assert shown == list(range(12))
    upscale(film, tmp_path / "back" / "f%04d.png")
    assert sorted(p.name for p in (tmp_path / "back").iterdir())[0] == "f0001.png"
    back = probe(tmp_path / "back")
    assert [number(to_rgb(f.planes, back.colour, 8)) for f in read(back)] == list(range(12))


def test_other_percents_in_a_pattern_are_letters(tmp_path):
    clip = probe(draw_clip(tmp_path / "in.mp4", 3))
    upscale(clip, tmp_path / "out" / "100%_%02d_%03d.png")
    assert (tmp_path / "out" / "100%_01_%03d.png").is_file()
    assert len(probe(tmp_path / "out" / "100%_%02d_%03d.png")) == 3


def test_two_pictures_of_one_name_are_refused_before_the_work(tmp_path):
    clip = probe(_draw(tmp_path / "in", ["a1.png", "a1.jpg"]))
    encoding = Encoding.choose(clip, tmp_path / "out")
    with pytest.raises(VideoError, match="several pictures would be written to a1.png"):
        check_target(tmp_path / "out", clip, encoding)


def test_a_picture_whose_name_is_too_long_is_refused_before_the_work(tmp_path):
    clip = probe(draw_clip(tmp_path / "in.mp4", 10))
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    fits, too_long = (tmp_path / "out" / f"{'n' * (longest - more)}%d.png" for more in (6, 5))
    encoding = Encoding.choose(clip, fits)
    with pytest.raises(VideoError, match="n10.png: cannot be written .File name too long"):
        check_target(too_long, clip, encoding)
    assert upscale(clip, fits) == () and len(list(fits.parent.iterdir())) == 10


def test_what_pictures_have_beside_colours_is_told_to_be_lost(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = np.dstack([picture(0), np.full((48, 64), 99, np.uint8)])
    pictures.write(folder / "0.png", pictures.Picture(pixels, profile))
    assert probe(folder).lost == ("transparency", "the colour profile")


def test_sound_that_pictures_cannot_hold_is_told(tmp_path):
    clip = probe(draw_clip(tmp_path / "in.mp4", 3, languages=("fra",)))
    (words,) = upscale(clip, tmp_path / "out")
    assert "stream 1: audio aac, fra" in words


@pytest.mark.parametrize(
    "names, pattern, words",
    [
        ([], "", "no files of"),
        (["1.png", "3.png"], "%d.png", "picture 2.png is missing"),
        (["1.png"], "x%d.png", "no picture fits"),
    ],
)
def test_a_sequence_with_gaps_is_refused(tmp_path, names, pattern, words):
    folder = _draw(tmp_path / "in", names)
    with pytest.raises(VideoError, match=words):
        probe(folder / pattern if pattern else folder)


def test_pictures_of_other_sizes_and_damaged_ones_are_named(tmp_path):
    folder = _draw(tmp_path / "in", ["1.png", "2.png", "3.png"])
    pictures.write(folder / "2.png", pictures.Picture(picture(1, 48, 80)))
    with pytest.raises(VideoError, match="2.png: expected 64x48"):
        list(read(probe(folder)))
    (folder / "2.png").write_bytes((folder / "3.png").read_bytes()[:200])
    with pytest.raises(VideoError, match="2.png: not a readable picture"):
        list(read(probe(folder)))


def test_a_folder_with_files_in_it_is_not_written_over(tmp_path):
    clip = probe(_draw(tmp_path / "in", ["1.png"]))
    with pytest.raises(VideoError, match="a new or an empty folder"):
        upscale(clip, tmp_path / "in")
    with pytest.raises(VideoError, match="an image sequence is written as PNG"):
        Encoding.choose(clip, tmp_path / "out", crf=3)
