import pytest
import torch
from skimage import data as photographs

from pysr import blur
from pysr.degrade import classical
from pysr.noise import CLEAN_NOISE, estimate_noise


@pytest.fixture(scope="module")
def hr():
    return torch.from_numpy(photographs.astronaut()).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("sigma", [2 / 255, 10 / 255, 25 / 255])
def test_noise_is_measured_on_a_photograph(hr, sigma):
    lr = classical(hr, blur.isotropic(1.5), 2, noise=sigma, quantise=False, generator=0)
    # Texture is nowhere wholly absent: a little more than the truth on a photograph.
    assert 0.95 * sigma < estimate_noise(lr) < 1.06 * sigma + 0.3 / 255


@pytest.mark.parametrize("bars", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("level", [0, 1])
def test_bars_do_not_hide_the_noise(hr, bars, level):
    noisy = hr + 20 / 255 * torch.randn(hr.shape, generator=torch.Generator().manual_seed(0))
    noisy = noisy.clamp(0, 1)
    without = estimate_noise(noisy[..., int(512 * bars) :])
    noisy[..., : int(512 * bars)] = level
    assert without > 15 / 255
    assert estimate_noise(noisy) == pytest.approx(without, rel=0.05)


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
@pytest.mark.parametrize("scale", [2, 4])
def test_texture_is_not_taken_for_noise(name, scale):
    hr = torch.from_numpy(getattr(photographs, name)().copy()).permute(2, 0, 1)[None] / 255
    assert estimate_noise(classical(hr, blur.dirac(1), scale)) < CLEAN_NOISE
    noisy = classical(hr, blur.dirac(1), scale, noise=15 / 255, generator=0)
    assert estimate_noise(noisy) == pytest.approx(15 / 255, rel=0.1)


@pytest.mark.parametrize(("height", "width"), [(2, 400), (400, 3), (6, 7)])
def test_noise_of_thin_and_small_pictures(height, width):
    grain = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    assert estimate_noise(0.5 + 0.05 * grain) == pytest.approx(0.05, rel=0.35)


def test_a_pattern_is_no_noise():
    """A chessboard has more of the finest detail than any noise."""
    board = (torch.arange(64)[:, None] + torch.arange(64)) % 2
    for low in (0.0, 0.1, 0.4):
        assert estimate_noise((low + (1 - 2 * low) * board).expand(1, 3, 64, 64)) == 0


def test_noise_of_next_to_nothing():
    assert estimate_noise(torch.zeros(1, 3, 8, 8)) == 0
    assert estimate_noise(torch.rand(1, 3, 1, 50)) == 0
    assert estimate_noise(torch.full((1, 3, 8, 8), 0.4)) == 0
