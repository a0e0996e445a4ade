"""A training step of DAN's Restorer, told the code, beside the published network's by torch alone.

    pytest bench/train/bench_restorer_step.py

That one stretches the code over the image and concatenates it in every block; both are channels
last, in float32, and of the published sizes.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from published import model_of, restorer
from side_by_side import side_by_side
from torch import nn

from pysr.nets.parts import Conv3x3

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
PATCHES, SIDE = 10, 40


def step_of(model, restored):
    optimiser = torch.optim.Adam(model.Restorer.parameters(), 1e-4)

    def step():
        optimiser.zero_grad(set_to_none=True)
        sr, hr = restored()
        F.l1_loss(sr, hr).backward()
        optimiser.step()

    return step


@pytest.mark.parametrize("device", DEVICES)
def test_restorer_step(benchmark, device):
    device = torch.device(device)
    ours = model_of("published sizes").train().to(device, memory_format=torch.channels_last)
    theirs = copy.deepcopy(ours)
    for layer in theirs.modules():
        if isinstance(layer, Conv3x3):
            layer.__class__ = nn.Conv2d
    generator, s = torch.Generator().manual_seed(0), ours.config.scale
    lr, hr, code = (
        torch.rand(PATCHES, *size, generator=generator).to(device)
        for size in ((3, SIDE, SIDE), (3, s * SIDE, s * SIDE), (ours.config.code_length,))
    )
    lr, hr = (x.contiguous(memory_format=torch.channels_last) for x in (lr, hr))
    side_by_side(
        benchmark,
        f"a training step of the Restorer, {PATCHES} patches of {SIDE}x{SIDE}",
        step_of(ours, lambda: (ours.Restorer(lr, code), hr)),
        {
            "the published network by torch": step_of(
                theirs, lambda: (restorer(theirs, lr, code), hr)
            )
        },
        device,
        rounds=5,
    )
