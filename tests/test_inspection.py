import math

import numpy as np
import pytest
import torch
from skimage import data as photographs

import pysr
from pysr import blur, page
from pysr.degrade import classical
from pysr.inspection import inspect
from pysr.nets import load_model
from pysr.noise import CLEAN_NOISE


@pytest.fixture(scope="module")
def upscaler():
    return pysr.load("dan-lite-x2", device="cpu")


@pytest.fixture(scope="module")
def hr():
    return torch.from_numpy(photographs.astronaut()).permute(2, 0, 1)[None] / 255


def test_a_blurred_picture_is_called_blurred(upscaler, hr):
    lr = classical(hr, blur.isotropic(1.6), 2)
    found = inspect(upscaler, lr)
    assert not found.clean and "blurred" in found.words
    assert found.width == pytest.approx(0.8, abs=0.25)
    assert found.noise < CLEAN_NOISE
    assert "next to no noise" in found.words


def test_a_clean_picture_is_called_clean(upscaler, hr):
    found = inspect(upscaler, classical(hr, blur.dirac(1), 2))
    assert found.clean and "clean already" in found.words


def test_noise_is_named(upscaler, hr):
    lr = classical(hr, blur.isotropic(1.6), 2, noise=12 / 255, generator=0)
    found = inspect(upscaler, lr)
    assert "strong noise" in found.words and not found.clean


def test_small_pictures_have_no_cross_check(upscaler):
    found = inspect(upscaler, np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8))
    assert math.isnan(found.confidence) and "without a cross-check" in found.words


def test_a_blur_that_was_given_is_not_called_found(hr):
    lr = classical(hr, blur.isotropic(1.6), 2)
    model = load_model("dan-lite-x2")
    with pysr.Upscaler(model, kernel=blur.isotropic(2.4), device="cpu") as told:
        found = inspect(told, lr)
    assert found.width == pytest.approx(1.2, abs=0.01)
    assert "given" in found.words and "agree" not in found.words


@pytest.mark.parametrize("level", [0, 99, 255])
@pytest.mark.parametrize("size", [(1, 1), (64, 300)])
def test_nothing_is_said_of_a_picture_of_one_colour(upscaler, level, size):
    found = inspect(upscaler, np.full((*size, 3), level, np.uint8))
    assert math.isnan(found.width) and found.clean and "one colour" in found.words
    assert "unknown" in page.inspection_page("x.png", np.zeros((4, 4), np.uint8), found)


def test_pages_need_nothing_from_elsewhere(upscaler, hr):
    pixels = photographs.astronaut()[:64, :64]
    found = inspect(upscaler, pixels)
    comparison = page.comparison_page(
        "a <b> title", pixels, pixels, {"kernel": found.kernel}, {"PSNR": "30 dB"}
    )
    for text in (comparison, page.inspection_page("x.png", pixels, found)):
        assert text.startswith("<!doctype html>")
        assert "http:" not in text and "https:" not in text and 'src="data:' in text
    assert "a &lt;b&gt; title" in comparison and "30 dB" in comparison


def test_kernels_as_pictures():
    picture = page.kernel_picture(blur.isotropic(1.5, 9).numpy(), cell=5)
    assert picture.shape == (45, 45) and picture.dtype == np.uint8
    assert picture[22, 22] == 255 and picture[0, 0] < 30
