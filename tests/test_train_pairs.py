import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage import data as photographs

from pysr import arrays, pictures
from pysr.colour import unit_luma
from pysr.train.pairs import PairCache, RegistrationWarning, find_pairs, read_pair, shift

SCALE = 2


def write(path, pixels):
    pictures.write(path, pictures.Picture(np.ascontiguousarray(pixels)))


def scene(i=0):
    return photographs.astronaut()[i * 60 : i * 60 + 60, 150:222]


def write_pair(folder, name, lr, hr=None):
    """A pair whose HR pixels repeat those of LR, so that block means of HR are LR exactly."""
    write(folder / f"{name}_lr.png", lr)
    repeated = lr.repeat(SCALE, 0).repeat(SCALE, 1)
    write(folder / f"{name}_hr.png", repeated if hr is None else hr)


@pytest.fixture
def folder(tmp_path):
    for i in range(4):
        write_pair(tmp_path, f"p{i}", scene(i))
    return tmp_path


def generator():
    return torch.Generator().manual_seed(0)


def test_patches_of_a_pair_show_one_place(folder):
    cache = PairCache([folder], SCALE, hold_out=1)
    assert len(cache) == 3 and len(cache.held_out) == 1
    hr, lr = cache.patches(32, 24, generator())
    assert hr.shape == (32, 1, 24, 24) and lr.shape == (32, 1, 12, 12)
    torch.testing.assert_close(F.avg_pool2d(hr, SCALE), lr)
    assert len({tuple(patch.flatten().tolist()) for patch in lr}) == 32
    again = cache.patches(32, 24, generator())
    assert torch.equal(hr, again[0]) and torch.equal(lr, again[1])


def test_patches_are_flipped_and_not_turned(folder):
    cache = PairCache([folder], SCALE)
    _, lr = cache.patches(16, 120, generator())  # as tall as the pictures
    windows = torch.cat([lr.unfold(2, 60, 1)[0].movedim(1, 0) for _, _, lr in cache.pairs])
    flips = [()], [(1,)], [(2,)], [(1, 2)]
    for patch in lr:
        upright = torch.cat([patch.flip(axes) for (axes,) in flips])  # (4, 60, 60)
        matches = (windows[:, None] == upright).all(-1).all(-1)
        assert matches.any()


@pytest.mark.parametrize("kind", ["grey", "16-bit"])
def test_grey_and_16_bit_pairs_are_read_as_they_are(tmp_path, kind):
    lr = scene()[..., 0] if kind == "grey" else scene().astype(np.uint16) * 257 + 100
    write_pair(tmp_path, "a", lr)
    hr_y, lr_y = read_pair(find_pairs([tmp_path])[0], SCALE)
    torch.testing.assert_close(F.avg_pool2d(hr_y, SCALE), lr_y)
    torch.testing.assert_close(lr_y, unit_luma(arrays.unpack(lr).rgb))


def test_two_folders_of_the_same_names(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("folders")
    for side in ("hr", "lr"):
        (other / side).mkdir()
        for i in range(2):
            (folder / f"p{i}_{side}.png").rename(other / side / f"p{i}.png")
    assert [(p.hr.parent.name, p.lr.name) for p in find_pairs([other])] == [
        ("hr", "p0.png"),
        ("hr", "p1.png"),
    ]
    assert len(find_pairs([folder, other])) == 4


def test_two_pictures_of_one_name_are_refused(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("folders")
    for side in ("hr", "lr"):
        (other / side).mkdir()
        write(other / side / "x.png", scene())
    write(other / "hr" / "x.tif", scene(1))
    with pytest.raises(ValueError, match=r"hr/x.tif: expected one picture .*, got x.png too"):
        find_pairs([other])


@pytest.mark.parametrize("offset", [(0, 0), (2, -1), (0, 3)])
def test_shifts_are_measured_in_lr_pixels(offset):
    picture = torch.from_numpy(photographs.camera()[:256, :256] / 255)[None, None].float()
    moved = picture.roll([n * SCALE for n in offset], (2, 3))
    lr = F.avg_pool2d(moved, SCALE)
    assert shift(picture, lr) == pytest.approx(np.hypot(*offset), abs=0.1)


def test_unregistered_pairs_are_told_of_or_refused(tmp_path):
    picture = photographs.astronaut()[:200, :200]
    write_pair(tmp_path, "good", picture)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PairCache([tmp_path], SCALE)
    hr = np.roll(picture, 3, 1).repeat(SCALE, 0).repeat(SCALE, 1)
    write_pair(tmp_path, "moved", picture, hr)
    with pytest.warns(RegistrationWarning, match=r"1 of 2 .*moved_lr.png by 3\.0"):
        PairCache([tmp_path], SCALE)
    with pytest.raises(ValueError, match="1 of 2 are shifted by more than 1 pixel"):
        PairCache([tmp_path], SCALE, refuse_unregistered=True)


def break_size(folder):
    write(folder / "p1_hr.png", scene()[:50])


def break_match(folder):
    (folder / "p2_lr.png").unlink()


def break_colour(folder):
    write(folder / "p1_lr.png", scene()[..., 0])


def break_format(folder):
    (folder / "p3_lr.png").rename(folder / "p3_lr.raw")


def break_file(folder):
    (folder / "p3_lr.png").write_bytes(b"no picture")


def empty(folder):
    for path in folder.iterdir():
        path.unlink()


def repeat_name(folder):
    write(folder / "p1_HR.tif", scene())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (repeat_name, r"p1_hr.png: expected one picture of this name, got p1_HR.tif too"),
        (break_size, r"p1_hr.png: expected 144x120 pixels, 2 times its LR picture, got 72x50"),
        (break_match, r"p2_hr.png: expected a LR picture of the same name"),
        (break_colour, r"p1_hr.png: expected both grey or both in colour, got HR colour and LR"),
        (break_format, r"p3_lr.raw: unknown format; expected .png"),
        (break_file, r"p3_lr.png: not a readable picture"),
        (empty, r"expected NAME_hr and NAME_lr pictures"),
    ],
)
def test_bad_pairs_are_named(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message):
        PairCache([folder], SCALE)


def test_too_few_pairs_and_too_large_patches(folder, tmp_path):
    with pytest.raises(ValueError, match="expected more than 4 in .*, found 4"):
        PairCache([folder], SCALE, hold_out=4)
    with pytest.raises(FileNotFoundError, match="no folder"):
        PairCache([tmp_path / "none"], SCALE)
    cache = PairCache([folder], SCALE)
    with pytest.raises(ValueError, match="at least 130x130 pixels for a patch, got 144x120"):
        cache.patches(1, 130, generator())
    with pytest.raises(ValueError, match=r"p0_hr.png: expected at least 130x130 pixels for a pat"):
        PairCache([folder], SCALE, patch=130)
    write_pair(folder, "p", scene()[:7, :7])
    with pytest.raises(ValueError, match=r"p_hr.png: .* 16x16 pixels for validation, got 14x14"):
        PairCache([folder], SCALE, hold_out=1)
    with pytest.raises(ValueError, match="multiple of the scale 2, got 25"):
        cache.patches(1, 25, generator())
