import dataclasses
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from skimage import data as photographs
from skimage.metrics import structural_similarity

from pysr import blur
from pysr.degrade import classical, imresize, jpeg, to_8bit
from pysr.evaluate import PROTOCOLS, cases, evaluate, luma, psnr, ssim
from pysr.evaluate.report import INTERPOLATION
from pysr.nets import SHIPPED, load_model


def test_luma_of_known_colours():
    # MATLAB's rgb2ycbcr: black 16, white 235, and the BT.601 primaries.
    colours = torch.tensor([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]).float()
    got = luma(colours.T.reshape(1, 3, 1, 5)).flatten().tolist()
    assert got == pytest.approx([16, 235, 81.481, 144.553, 40.966])


def test_psnr_of_a_known_error():
    # A grey difference of 1 level is 219 / 255 levels of luma.
    x = torch.full((1, 3, 20, 20), 100 / 255)
    y = torch.full((1, 3, 20, 20), 101 / 255)
    assert psnr(x, y) == pytest.approx(20 * math.log10(255 / (219 / 255)))
    assert psnr(x, x) == math.inf


@pytest.mark.parametrize(
    ("shape", "border", "message"),
    [
        ((1, 3, 20, 20), -1, "inside a border of -1"),
        ((2, 3, 20, 20), 0, r"\(1, 3, H, W\), got \(2, 3, 20, 20\)"),
        ((1, 1, 20, 20), 0, r"\(1, 3, H, W\), got \(1, 1, 20, 20\)"),
    ],
)
def test_what_cannot_be_compared_is_one_line(shape, border, message):
    for figure in (psnr, ssim):
        with pytest.raises(ValueError, match=f"^expected [^\n]*{message}[^\n]*$"):
            figure(torch.rand(shape), torch.rand(shape), border)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_pictures_that_count_to_255_are_not_taken_for_identical(dtype):
    x = torch.full((1, 3, 20, 20), 100, dtype=dtype)
    for figure in (psnr, ssim):
        with pytest.raises(ValueError, match=r"in \[0, 1\], got values up to 200 of torch"):
            figure(x / 255 if dtype == torch.float32 else x + 100, x + 100)


def test_a_picture_smaller_than_the_scale_is_one_line():
    with pytest.raises(ValueError, match="^hr: expected at least 4x4 pixels, got 3x9$"):
        next(cases("bicubic", 4, torch.rand(1, 3, 9, 3)))


def test_the_border_is_left_out():
    x = torch.rand(1, 3, 20, 20)
    y = x.clone()
    y[..., :4, :] = 0
    assert psnr(x, y, border=4) == math.inf
    assert psnr(x, y, border=3) < 40


def test_pictures_that_cannot_be_compared():
    x = torch.rand(1, 3, 20, 20)
    with pytest.raises(ValueError, match="pictures of one size, got .*20, 20.*20, 1"):
        psnr(x, x[..., :1])
    with pytest.raises(ValueError, match="inside a border of 10, got 20x20"):
        psnr(x, x, 10)


def test_psnr_is_of_8_bit_pictures():
    x = torch.full((1, 3, 8, 8), 0.5)
    assert psnr(x, x + 0.1 / 255) == math.inf
    assert psnr(torch.full((1, 3, 8, 8), 1.7), torch.ones(1, 3, 8, 8)) == math.inf


def test_ssim_is_wangs():
    rng = np.random.default_rng(0)
    x = photographs.astronaut()[100:180, 200:290].astype(float)
    y = np.clip(x + rng.normal(0, 12, x.shape), 0, 255).round()
    tensors = [torch.from_numpy(a / 255).permute(2, 0, 1)[None] for a in (x, y)]
    planes = [luma(t)[0, 0].numpy() for t in tensors]
    # Full maps, then the valid region of the 11x11 window, as MATLAB's reference code does.
    _, full = structural_similarity(
        *planes,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    assert ssim(*tensors) == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-6)
    assert ssim(tensors[0], tensors[0]) == pytest.approx(1)


def test_ssim_of_too_little():
    with pytest.raises(ValueError, match="at least 11x11"):
        ssim(torch.rand(1, 3, 14, 14), torch.rand(1, 3, 14, 14), border=2)


def test_protocols_make_what_they_say():
    hr = torch.rand(1, 3, 67, 70)
    made = {name: list(cases(name, 4, hr)) for name in PROTOCOLS}
    assert {name: len(c) for name, c in made.items()} == {
        "gaussian8": 8,
        "gaussian8-decimate": 8,
        "gaussian8-jpeg": 8,
        "div2krk": 1,
        "bicubic": 1,
    }
    for case in (c for cs in made.values() for c in cs):
        assert torch.equal(case.hr, hr[..., :64, :68])
        assert case.lr.shape == (1, 3, 16, 17)
        assert float(case.kernel.sum()) == pytest.approx(1)
    for clean, pressed in zip(made["gaussian8"], made["gaussian8-jpeg"], strict=True):
        torch.testing.assert_close(pressed.lr, jpeg(clean.lr, 85))
    (clean,) = made["bicubic"]
    torch.testing.assert_close(clean.lr, to_8bit(imresize(hr[..., :64, :68], 1 / 4)))


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("protocol", ["gaussian8", "div2krk", "bicubic"])
def test_protocols_keep_the_picture_in_place(protocol, scale):
    # A straight edge stays where it was, to a fraction of a HR pixel, after going down and up.
    ramp = torch.linspace(0.2, 0.8, 96 * scale)
    hr = ramp.expand(1, 3, 96 * scale, -1).contiguous()
    for case in cases(protocol, scale, hr):
        error = (imresize(case.lr, scale) - hr)[
            ..., 32 * scale : 64 * scale, 32 * scale : 64 * scale
        ]
        assert error.mean().abs() < 0.1 * float(ramp[1] - ramp[0]) + 0.5 / 255 / scale


def test_div2krks_kernel_is_the_blur_without_the_move_that_aligns():
    hr = torch.rand(1, 3, 64, 64)
    (case,) = cases("div2krk", 4, hr)
    assert case.kernel.shape == (21, 21)
    moved = blur.shifted(blur.resized(case.kernel, 27), 1.5)
    torch.testing.assert_close(case.lr, classical(hr, moved, 4, downsample="decimate"))


def test_div2krk_is_decided_by_seed_and_index():
    hr = torch.rand(1, 3, 64, 64)

    def kernel(index, seed):
        return next(cases("div2krk", 2, hr, index, seed)).kernel

    assert torch.equal(kernel(3, 0), kernel(3, 0))
    assert not torch.equal(kernel(3, 0), kernel(4, 0))
    assert not torch.equal(kernel(3, 0), kernel(3, 1))
    assert not torch.equal(kernel(3, 0), kernel(3, 2**64 - 1))


def test_unknown_protocols_and_scales():
    with pytest.raises(ValueError, match="protocol: expected one of gaussian8"):
        next(cases("gaussian9", 4, torch.rand(1, 3, 64, 64)))
    with pytest.raises(ValueError, match="scale: expected 2, 3 or 4, got 5"):
        next(cases("bicubic", 5, torch.rand(1, 3, 64, 64)))


@pytest.fixture
def pictures_folder(tmp_path):
    folder = tmp_path / "hr"
    folder.mkdir()
    Image.fromarray(photographs.astronaut()[:96, 180:276]).save(folder / "colour.png")
    Image.fromarray(photographs.camera()[100:190, 200:280]).save(folder / "grey.png")
    return folder


def test_a_report_has_a_row_for_interpolation_and_each_model(pictures_folder):
    report = evaluate("bicubic", 2, pictures_folder, ["dan-lite-x2"])
    assert [row.method for row in report.rows] == [INTERPOLATION, "dan-lite-x2"]
    assert report.pictures == report.cases == 2
    interpolation, model = report.rows
    expected = []
    for path in ("colour.png", "grey.png"):
        pixels = np.array(Image.open(pictures_folder / path).convert("RGB"))
        hr = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        lr = to_8bit(imresize(hr, 0.5))
        expected.append(psnr(imresize(lr, 2), hr, 2))
    assert interpolation.psnr == pytest.approx(sum(expected) / 2)
    assert interpolation.kernel_error is None
    assert 0 <= model.kernel_error <= 2 and model.seconds > 0
    content = report.as_json()
    assert content["rows"][0]["psnr"] == interpolation.psnr
    assert content["protocol"] == "bicubic" and content["scale"] == 2


@pytest.mark.parametrize("name", [name for name in SHIPPED if name.startswith("dan")])
def test_the_shipped_dans_restore_what_they_were_made_for(pictures_folder, name):
    scale = load_model(name).config.scale
    gains = {"gaussian8": 1.0}
    if not name.endswith("-iso"):
        gains |= {"gaussian8-jpeg": 0.3, "div2krk": 0.5}
    for protocol, gain in gains.items():
        interpolation, model = evaluate(protocol, scale, pictures_folder, [name]).rows
        assert model.psnr > interpolation.psnr + gain, protocol
        assert model.ssim > interpolation.ssim, protocol


@pytest.mark.parametrize("name", [name for name in SHIPPED if name.startswith("dan")])
def test_no_clean_picture_comes_out_below_interpolation(pictures_folder, tmp_path, name):
    scale = load_model(name).config.scale
    for picture in pictures_folder.iterdir():
        alone = tmp_path / picture.stem
        alone.mkdir()
        picture.rename(alone / picture.name)
        interpolation, model = evaluate("bicubic", scale, alone, [name]).rows
        assert model.psnr > interpolation.psnr, picture.name


def test_a_picture_that_is_too_small_is_named(pictures_folder):
    Image.new("RGB", (16, 16)).save(pictures_folder / "small.png")
    with pytest.raises(ValueError, match=r"small.png: .*expected at least 11x11 pixels"):
        evaluate("bicubic", 4, pictures_folder)


def test_names_in_tables_are_no_markup(pictures_folder):
    report = evaluate("bicubic", 2, pictures_folder)
    row = dataclasses.replace(report.rows[0], method="m[v1].safetensors")
    report = dataclasses.replace(report, data="hr[old]", rows=(row,))
    console = Console(width=200, file=io.StringIO())
    console.print(report.table())
    assert "hr[old]" in console.file.getvalue() and "m[v1]" in console.file.getvalue()


def test_models_of_another_scale_are_refused(pictures_folder):
    with pytest.raises(ValueError, match="dan-lite-x2 upscales x2, expected x4"):
        evaluate("gaussian8", 4, pictures_folder, ["dan-lite-x2"])


def test_kernel_error_is_zero_for_the_truth():
    from pysr.evaluate.protocols import Case
    from pysr.evaluate.report import _score

    hr = torch.rand(1, 3, 32, 32)
    case = Case(hr, hr, blur.isotropic(1.0, 15))
    truth = _score(lambda c: (c.hr, blur.isotropic(1.0, 21)), case, 2)
    assert truth[2] == pytest.approx(0, abs=1e-5)
    wrong = _score(lambda c: (c.hr, blur.isotropic(2.0, 21)), case, 2)
    assert wrong[2] > 0.5
