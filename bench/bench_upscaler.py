"""A 480x320 picture through dan-lite-x4: pysr beside the network as published, in one run.

    make bench            or    python -m pytest bench/bench_upscaler.py --benchmark-json=FILE

The ratio stands in parentheses behind each figure. Both do the same job, picture in, picture out,
blur unknown; how far the results are apart in PSNR is measured by bench/quality.py.
"""

import numpy as np
import pytest
import torch
from published import loop
from skimage import data as photographs

import pysr
from pysr import blur, nets
from pysr.degrade import classical, imresize


@pytest.fixture(scope="module")
def picture():
    coffee = torch.from_numpy(photographs.coffee()).permute(2, 0, 1)[None] / 255  # 600x400
    hr = imresize(coffee, 3.2).clamp(0, 1)[..., :1280, :1920]
    lr = classical(hr, blur.isotropic(2.4), 4)
    return (lr[0].permute(1, 2, 0) * 255).round().byte().numpy()


@pytest.fixture(scope="module")
def upscaler():
    return pysr.load("dan-lite-x4", device="cpu")


@pytest.mark.benchmark(group="480x320 to 1920x1280, dan-lite-x4", min_rounds=5, warmup=True)
def test_pysr(benchmark, upscaler, picture):
    assert benchmark(upscaler, picture).image.shape == (1280, 1920, 3)


@pytest.mark.benchmark(group="480x320 to 1920x1280, dan-lite-x4", min_rounds=5, warmup=True)
def test_published(benchmark, upscaler, picture):
    model = nets.load_model("dan-lite-x4")  # not the upscaler's, which is channels last

    @torch.inference_mode()
    def run():
        lr = torch.from_numpy(picture).permute(2, 0, 1)[None].contiguous().float() / 255
        sr = loop(model, lr)[0].clamp(0, 1)
        return (sr * 255).round().byte().permute(1, 2, 0).numpy()

    assert isinstance(benchmark(run), np.ndarray)


@pytest.mark.benchmark(group="480x320 to 1920x1280, dan-lite-x4, kernel known", min_rounds=5)
def test_pysr_with_a_kernel(benchmark, upscaler, picture):
    kernel = blur.isotropic(2.4).numpy()
    assert benchmark(upscaler, picture, kernel).image.shape == (1280, 1920, 3)
