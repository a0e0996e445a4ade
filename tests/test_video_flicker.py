import math

import pytest
import torch
import torch.nn.functional as F
from skimage import data as photographs

from pysr import blur
from pysr.degrade import classical, imresize
from pysr.ops import blur_decimate
from pysr.video.flicker import Flicker


@pytest.fixture(scope="module")
def hr():
    return torch.from_numpy(photographs.astronaut()).permute(2, 0, 1)[None, :, :200, 100:400] / 255


def flicker_of(lr: list, out: list) -> Flicker:
    flicker = Flicker()
    for i in range(1, len(lr)):
        flicker.add(torch.cat(lr[i - 1 : i + 1]), torch.cat(out[i - 1 : i + 1]))
    return flicker


def test_a_still_clip_has_none(hr):
    flicker = flicker_of([imresize(hr, 0.5)] * 3, [hr] * 3)
    assert flicker.value == 0 and flicker.share == 1


@pytest.mark.parametrize("levels", [0.5, 2.0])
def test_brightness_that_jumps_is_measured_in_levels(hr, levels):
    lr = imresize(hr, 0.5).clamp(0, 1)
    out = [0.5 * hr + sign * levels / 510 for sign in (1, -1, 1, -1)]
    assert flicker_of([lr] * 4, out).value == pytest.approx(levels, rel=1e-3)


def test_it_grows_with_a_kernel_that_jumps(hr):
    lr = imresize(hr, 0.5).clamp(0, 1)
    values = []
    for jump in (0.0, 0.05, 0.2):
        out = [blur_decimate(hr, blur.isotropic(1 + s * jump, 9)[None]) for s in (0, 1, 0)]
        values.append(flicker_of([lr] * 3, out).value)
    assert values[0] == 0 and 2 * values[1] < values[2]


def test_noise_of_the_input_does_not_count(hr):
    kernel = blur.dirac(1)[None]
    frames = [classical(hr, kernel, 1, noise=3 / 255, generator=i) for i in range(4)]
    flicker = flicker_of(frames, frames)
    assert flicker.value < 0.1 and flicker.share > 0.9


@pytest.mark.parametrize("step", [1, 4])
def test_motion_does_not_count(hr, step):
    """A pan with a box that stands still: the box alone is judged."""
    frames = [hr[..., step * i : step * i + 200].clone() for i in range(4)]
    for frame in frames:
        frame[..., 40:180, 50:150] = hr[..., :140, 200:300]
    lr = [imresize(frame, 0.5).clamp(0, 1) for frame in frames]
    flicker = flicker_of(lr, frames)
    assert flicker.value < 0.3 and 0.1 < flicker.share < 0.5
    shaken = [(f + (-1) ** i / 255).clamp(0, 1) for i, f in enumerate(frames)]
    assert flicker_of(lr, shaken).value == pytest.approx(2, rel=0.2)


def test_nothing_static_is_not_a_number():
    noise = F.interpolate(torch.rand(6, 3, 8, 8), (64, 64), mode="bicubic").clamp(0, 1)
    frames = list(noise[:, None])
    assert math.isnan(flicker_of(frames, frames).value)
    assert math.isnan(Flicker().value) and math.isnan(Flicker().share)
