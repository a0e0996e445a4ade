import io
import math
from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photographs

from pysr import blur
from pysr.cli import main
from pysr.degrade import RandomDegradation, classical, imresize, jpeg, to_8bit


def matlab_line(line, scale):
    """MATLAB's imresize of one line, bicubic, one output at a time, in plain Python."""

    def cubic(x):
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0

    n, narrow = len(line), min(scale, 1)
    out = []
    for i in range(1, math.ceil(n * scale) + 1):  # MATLAB counts from 1
        u = i / scale + 0.5 * (1 - 1 / scale)
        total = weight_sum = 0.0
        for j in range(math.floor(u - 2 / narrow) - 1, math.ceil(u + 2 / narrow) + 2):
            weight = narrow * cubic(narrow * (u - j))
            m = (j - 1) % (2 * n)
            total += weight * line[m if m < n else 2 * n - 1 - m]
            weight_sum += weight
        out.append(total / weight_sum)
    return out


@pytest.mark.parametrize("scale", [1 / 2, 1 / 3, 1 / 4, 2, 3, 4, 0.7])
@pytest.mark.parametrize("size", [(12, 24), (13, 7), (1, 5), (25, 2)])
def test_bicubic_is_matlabs(scale, size):
    image = np.random.default_rng(0).random(size)
    rows = np.array([matlab_line(column, scale) for column in image.T]).T
    expected = np.array([matlab_line(row, scale) for row in rows])
    got = imresize(torch.from_numpy(image)[None, None], scale)[0, 0].numpy()
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=1e-12)
    single = imresize(torch.from_numpy(image).float()[None, None], scale)[0, 0].numpy()
    np.testing.assert_allclose(single, expected, atol=1e-6)


def test_bicubic_of_a_published_example():
    # Halving the ramp 1..8 with antialiasing; by hand from the widened kernel's weights
    # (-3, -9, 29, 111, 111, 29, -9, -3) / 256, edges mirrored.
    weights = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256
    mirrored = np.array([3, 2, 1, 1, 2, 3, 4, 5, 6, 7, 8, 8, 7, 6], dtype=float)
    expected = [float(weights @ mirrored[2 * i : 2 * i + 8]) for i in range(4)]
    ramp = torch.arange(1.0, 9.0, dtype=torch.float64).expand(1, 1, 8, 8)
    np.testing.assert_allclose(imresize(ramp, 0.5)[0, 0, 1].numpy(), expected, atol=1e-12)


def test_constant_pictures_stay_constant():
    x = torch.full((1, 3, 17, 11), 0.3, dtype=torch.float64)
    for scale in (1 / 3, 1 / 4, 2, 3):
        y = imresize(x, scale)
        torch.testing.assert_close(y, torch.full_like(y, 0.3))


def test_decimation_keeps_the_top_left_of_each_patch():
    hr = torch.rand(2, 3, 13, 10)
    lr = classical(hr, blur.dirac(5), 3, downsample="decimate", quantise=False)
    torch.testing.assert_close(lr, hr[:, :, ::3, ::3])


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("downsample", ["bicubic", "decimate"])
def test_equation_one_step_by_step(scale, downsample):
    hr = torch.rand(2, 3, 24, 31, dtype=torch.float64)
    kernels = blur.random_irregular(2, 7, generator=0).double()
    padded = torch.nn.functional.pad(hr, (3, 3, 3, 3), mode="reflect")
    blurred = torch.zeros_like(hr)
    for n in range(2):
        for u in range(7):
            for v in range(7):
                blurred[n] += kernels[n, u, v] * padded[n, :, u : u + 24, v : v + 31]
    small = blurred[:, :, ::scale, ::scale]
    if downsample == "bicubic":
        small = imresize(blurred, 1 / scale)
    lr = classical(hr, kernels, scale, downsample=downsample)
    assert lr.shape == (2, 3, math.ceil(24 / scale), math.ceil(31 / scale))
    torch.testing.assert_close(lr, to_8bit(small))


@pytest.mark.parametrize("downsample", ["bicubic", "decimate"])
def test_degradations_on_every_device(device, downsample):
    hr, kernels = torch.rand(2, 3, 40, 52), blur.random_irregular(2, 21, generator=0)
    here = classical(hr, kernels, 4, downsample=downsample, quantise=False)
    there = classical(hr.to(device), kernels, 4, downsample=downsample, quantise=False)
    assert there.device.type == device.type
    torch.testing.assert_close(there.cpu(), here, atol=1e-5, rtol=0)
    random = RandomDegradation(4, setting2=0.5, noise=0.02, noisy=0.5, downsample=downsample)
    lr, used = random(hr.to(device), torch.Generator(device).manual_seed(0))
    assert lr.device.type == used.device.type == device.type


def test_results_are_on_the_8_bit_grid():
    lr = classical(torch.rand(1, 3, 16, 16), blur.isotropic(1.0, 5), 2, noise=0.5, generator=0)
    levels = lr * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert lr.min() >= 0 and lr.max() <= 1


def test_noise_has_the_deviation_asked_for_sample_by_sample():
    hr = torch.full((3, 3, 200, 200), 0.5)
    sigma = torch.tensor([0.0, 0.02, 0.1])
    lr = classical(hr, blur.dirac(3), 1, noise=sigma, quantise=False, generator=1)
    assert lr.std((1, 2, 3)).tolist() == pytest.approx(sigma.tolist(), rel=0.02, abs=1e-6)


def test_speckle_grows_with_brightness():
    hr = torch.tensor([0.1, 0.8]).view(2, 1, 1, 1).expand(2, 3, 200, 200).contiguous()
    lr = classical(
        hr, blur.dirac(3), 1, noise=0.05, noise_kind="speckle", quantise=False, generator=1
    )
    assert lr.std((1, 2, 3)).tolist() == pytest.approx([0.005, 0.04], rel=0.03)


def test_a_seed_decides_the_noise():
    hr, kernel = torch.rand(1, 3, 16, 16), blur.isotropic(1.0, 5)
    first, second, third = (
        classical(hr, kernel, 2, noise=0.1, generator=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_pictures_and_frames_of_one_command_have_noise_of_their_own(tmp_path):
    grey = Image.fromarray(np.full((40, 40), 128, np.uint8))

    def degraded(source, *names, pattern=""):
        for name in names:
            (tmp_path / source).mkdir(exist_ok=True)
            grey.save(tmp_path / source / name)
        out = tmp_path / f"{source}_lr"
        files = (str(tmp_path / source / pattern), str(out / pattern))
        assert main(["degrade", *files, "--noise", "9", "--scale", "1", "--seed", "3"]) == 0
        return [np.array(Image.open(out / name)).tobytes() for name in names]

    pictures = degraded("pictures", "a.png", "b.png")
    clip = degraded("clip", "c1.png", "c2.png", pattern="c%d.png")
    another = degraded("another", "d1.png", "d2.png", pattern="d%d.png")
    assert len({*pictures, *clip, *another}) == 6
    # Which others are there does not matter.
    assert degraded("alone", "b.png") == pictures[1:]


def test_random_degradations_mix_both_settings():
    random = RandomDegradation(4, setting2=0.5, noise=0.1, noisy=0.5)
    kernels = random.kernels(400, 0)
    # Isotropic kernels are symmetric about the centre, irregular ones are not.
    symmetric = (kernels - kernels.flip(1)).abs().sum((1, 2)) < 1e-4
    assert 0.4 < symmetric.float().mean() < 0.6
    lr, used = random(torch.full((64, 3, 48, 48), 0.5), torch.Generator().manual_seed(0))
    assert lr.shape == (64, 3, 12, 12) and used.shape == (64, 21, 21)
    noisy = lr.std((1, 2, 3)) > 0.002
    assert 0.3 < noisy.float().mean() < 0.6


def test_setting_2_is_decimated_and_aligned():
    """As the div2krk protocol makes its cases."""
    hr = torch.rand(3, 3, 40, 48)
    lr, kernels = RandomDegradation(4, setting2=1.0)(hr, torch.Generator().manual_seed(0))
    moved = blur.shifted(blur.resized(kernels, 27), 1.5)
    torch.testing.assert_close(lr, classical(hr, moved, 4, downsample="decimate"))
    lr, kernels = RandomDegradation(4)(hr, torch.Generator().manual_seed(0))
    torch.testing.assert_close(lr, classical(hr, kernels, 4))


def test_jpeg_does_what_a_file_does():
    picture = photographs.astronaut()[:301, :213]
    x = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
    for quality in (20, 60, 90):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=quality, subsampling="4:2:0")
        saved = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None].float()
        ours = jpeg(x, quality) * 255
        loss = (saved - x * 255).abs().mean()
        # libjpeg's transform rounds in integers, which moves a few coefficients by a step.
        assert (ours - saved).abs().mean() < 0.3 * loss
        assert (ours - saved).square().mean() < 0.1 * (saved - x * 255).square().mean()


def test_jpeg_of_a_batch_and_on_every_device(device):
    x = torch.rand(3, 3, 19, 32, generator=torch.Generator().manual_seed(0))
    quality = torch.tensor([30, 75, 100])
    each = torch.cat([jpeg(x[i : i + 1], int(quality[i])) for i in range(3)])
    out = jpeg(x.to(device), quality.to(device)).cpu()
    assert (out - each).abs().mean() < 1e-3
    error = (out - x).abs().mean((1, 2, 3)).tolist()
    assert error[0] > error[1] > error[2]
    with pytest.raises(ValueError, match="quality: expected 1 to 100"):
        jpeg(x, 0)


def test_qualities_are_drawn_from_all_of_their_range(monkeypatch):
    drawn = []
    module = import_module(RandomDegradation.__module__)  # a function has its name
    monkeypatch.setattr(module, "jpeg", lambda x, quality: drawn.extend(quality.tolist()) or x)
    degradation = RandomDegradation(1, quality=(50, 60), compressed=1.0)
    degradation(torch.rand(200, 3, 8, 8), torch.Generator().manual_seed(0))
    assert set(drawn) == set(range(50, 61))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_jpeg_is_computed_in_full_precision(device, dtype):
    x = torch.rand(2, 3, 37, 41, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    expected = jpeg(x.float(), 80)
    assert torch.equal(jpeg(x, 80), expected.to(dtype))
    with torch.autocast(device.type, torch.bfloat16):
        assert torch.equal(jpeg(x.float(), 80), expected)


def test_random_degradations_compress_the_share_asked_for():
    flat = torch.full((64, 3, 32, 32), 0.5)
    flat[:, 0] = torch.rand(64, 32, 32, generator=torch.Generator().manual_seed(0))
    untouched, _ = RandomDegradation(1)(flat, torch.Generator().manual_seed(0))
    pressed = RandomDegradation(1, quality=(50, 60), compressed=0.5)
    lr, _ = pressed(flat, torch.Generator().manual_seed(0))
    assert 0.3 < ((lr - untouched).abs().amax((1, 2, 3)) > 0).float().mean() < 0.7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": 5}, "scale: expected one of 1, 2, 3, 4, got 5"),
        ({"downsample": "nearest"}, "downsample: expected one of bicubic, decimate"),
        ({"noise_kind": "salt"}, "noise_kind: expected one of gaussian, speckle"),
        ({"noise": -0.1}, "noise: expected finite deviations of at least 0, got -0.1"),
        ({"noise": math.nan}, "noise: expected finite deviations of at least 0, got nan"),
        ({"noise": torch.tensor([0.1, math.inf])}, "noise: expected finite .*, got inf"),
        ({"noise": torch.ones(3) / 9}, "noise: expected one .* each of 1 pictures, got 3"),
        ({"noise": 0.1, "generator": 2**64}, "seed: expected an integer of at most 64 bits"),
    ],
)
def test_bad_arguments(arguments, message):
    options = {"scale": 2} | arguments
    with pytest.raises(ValueError, match=message):
        classical(torch.rand(1, 3, 8, 8), blur.dirac(3), **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"setting2": 40.0}, "setting2: expected a share, 0 to 1, got 40.0"),
        ({"noisy": -0.1}, "noisy: expected a share"),
        ({"quality": (95, 70)}, "quality: expected a range, lowest first, from 1, got 95 to 70"),
        ({"axes": (5.0, 0.6)}, "axes: expected a range, lowest first"),
        ({"axes": (1, 2, 3)}, "axes: expected a range, lowest first, from 0, got 1 to 2 to 3"),
        ({"scale": 5}, "scale: expected one of 1, 2, 3, 4, got 5"),
        ({"noise": 5.0}, "noise: expected a deviation from 0 to below 1, got 5.0"),
    ],
)
def test_bad_random_degradations(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandomDegradation(**{"scale": 2} | arguments)


def test_imresize_refuses_what_is_no_picture():
    with pytest.raises(ValueError, match="floating point"):
        imresize(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), 2)
    with pytest.raises(ValueError, match="with pixels"):
        imresize(torch.zeros(1, 3, 0, 4), 2)
    with pytest.raises(ValueError, match="scale"):
        imresize(torch.zeros(1, 3, 4, 4), -1)
