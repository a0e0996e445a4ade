"""The engines beside the network as published, run eagerly: the Restorer, and a whole picture.

    pytest bench/engines -o python_files='bench_*.py' -s

Published means stretched and concatenated, every iteration at full size; once as torch lays tensors
out by itself, once channels last. How far the results are apart in PSNR is measured by
bench/quality.py.
"""

import copy

import pytest
import torch
from published import loop, model_of, restorer
from side_by_side import side_by_side
from skimage import data as photographs

from pysr import blur, engines
from pysr.degrade import classical, imresize
from pysr.nets import load_scout
from pysr.upscaler import Upscaler

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def peers(model, device, run):
    """What is published, and every engine that works here but the one under test."""
    plain = copy.deepcopy(model).to(device)
    last = copy.deepcopy(model).to(device, memory_format=torch.channels_last)
    return {
        "published, eager": lambda: run(plain, torch.contiguous_format),
        "published, eager, channels last": lambda: run(last, torch.channels_last),
    }


@pytest.mark.parametrize("engine", engines.ENGINES)
@pytest.mark.parametrize(
    "name, size", [("published sizes", (128, 128)), ("dan-lite-x4", (320, 480))]
)
@pytest.mark.parametrize("device", DEVICES)
def test_restorer(benchmark, device, name, size, engine):
    device = torch.device(device)
    if engines.ENGINES[engine].obstacle(device):
        pytest.skip(engines.ENGINES[engine].obstacle(device))
    model = model_of(name)
    lr = torch.rand(1, 3, *size, device=device)
    code = torch.rand(1, model.config.code_length, device=device)

    @torch.inference_mode()
    def run(model, layout):
        restorer(model, lr.contiguous(memory_format=layout), code)

    others = peers(model, device, run)
    ours = engines.create(engine, model, device)
    side_by_side(
        benchmark,
        f"engine {engine}, {ours.precision}, Restorer of {name}, {size[1]}x{size[0]}",
        lambda: ours.restore(lr, code),
        others,
        device,
        rounds=5,
    )


@pytest.mark.parametrize("engine", engines.ENGINES)
@pytest.mark.parametrize(
    "name, known",
    [
        ("dan-lite-x4", False),
        ("dan-lite-x4", True),
        ("dan-mid-x4", False),
        ("dan-x4", False),
        ("published sizes", False),
    ],
)
@pytest.mark.parametrize("device", DEVICES)
def test_picture(benchmark, device, name, known, engine):
    """Picture in, picture out: bytes, estimate, restoration, consistency."""
    device = torch.device(device)
    if engines.ENGINES[engine].obstacle(device):
        pytest.skip(engines.ENGINES[engine].obstacle(device))
    coffee = torch.from_numpy(photographs.coffee()).permute(2, 0, 1)[None] / 255  # 600x400
    hr = imresize(coffee, 3.2).clamp(0, 1)[..., :1280, :1920]
    kernel = blur.isotropic(2.4)
    picture = (classical(hr, kernel, 4)[0].permute(1, 2, 0) * 255).round().byte().numpy()

    @torch.inference_mode()
    def run(model, layout):
        lr = torch.from_numpy(picture).to(device).permute(2, 0, 1)[None].float() / 255
        sr = loop(model, lr.contiguous(memory_format=layout))[0].clamp(0, 1)
        return (sr * 255).round().byte().permute(1, 2, 0).cpu().numpy()

    model, scout = model_of(name), load_scout(name)
    others = {} if known else peers(model, device, run)
    upscaler = Upscaler(model, scout=scout, device=str(device), engine=engine)
    if scout and not known:
        alone = Upscaler(copy.deepcopy(model), device=str(device), engine=engine)
        others["without its scout"] = lambda: alone(picture)
    side_by_side(
        benchmark,
        f"engine {engine}, {upscaler.engine.precision}, {name}, 480x320 picture, "
        + ("known kernel" if known else "blind"),
        lambda: upscaler(picture, kernel.numpy() if known else None),
        others,
        device,
        rounds=2 if name in ("published sizes", "dan-x4") else 5,
    )
