"""conv_shuffle beside torch's convolution and pixel shuffle, channels last, at the layers of DAN.

    pytest bench/ops/bench_conv_shuffle.py

Prints the ratio for every case and both largest errors against float64, as a part of the largest
output.
"""

import pytest
import torch
from side_by_side import side_by_side
from torch.nn import functional as F

from pysr.ops import conv_shuffle, pack_conv_shuffle
from pysr.ops.conv_shuffle import conv_shuffle_reference

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
# Name: C, O, side, shuffle.
CASES = {
    "fusion, 64 to 64, 3x3": (64, 64, 3, 1),
    "upscaling, 64 to 256, 3x3, shuffle 2": (64, 256, 3, 2),
    "whole linear upscaling, 64 to 48, 5x5, shuffle 4": (64, 48, 5, 4),
    "compact tail, 48 to 48, 3x3, shuffle 4": (48, 48, 3, 4),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("device", DEVICES)
def test_conv_shuffle(benchmark, device, case):
    c, o, side, shuffle = CASES[case]
    h = w = 128
    device = torch.device(device)
    torch.manual_seed(0)
    last = {"memory_format": torch.channels_last}
    x = torch.randn(1, c, h, w, device=device).contiguous(**last)
    weight = (torch.randn(o, c, side, side, device=device) / (c * side**2) ** 0.5).contiguous(
        **last
    )
    bias = torch.randn(o, device=device)
    packed = pack_conv_shuffle(weight, shuffle)
    with torch.inference_mode():
        ours = lambda: conv_shuffle(x, weight, bias, shuffle, packed)  # noqa: E731
        torchs = lambda: F.pixel_shuffle(  # noqa: E731
            F.conv2d(x, weight, bias, padding=side // 2), shuffle
        )
        results = {"pysr": ours(), "torch": torchs()}
        exact = conv_shuffle_reference(x.double(), weight.double(), bias.double(), shuffle)
        side_by_side(
            benchmark,
            f"conv_shuffle, {case}, {w}x{h}",
            ours,
            {"torch": torchs},
            device,
            # As a direct convolution; Winograd's method needs a quarter of it, or 36 %.
            operations=2 * side**2 * h * w * c * o,
        )
    errors = {
        name: ((result - exact).abs().max() / exact.abs().max()).item()
        for name, result in results.items()
    }
    print("    error against float64: " + ", ".join(f"{n} {e:.1e}" for n, e in errors.items()))
    benchmark.extra_info["errors"] = errors


# What a step of training or of learning at test time does: forward, and all gradients.
LEARNING = {
    "block, first, 48 to 64, batch of 8, 40x40": (8, 48, 64, 40),
    "block, second, 64 to 48, batch of 8, 40x40": (8, 64, 48, 40),
    "published block, 74 to 64, batch of 8, 64x64": (8, 74, 64, 64),
    "VDSR, 32 to 32, batch of 16, 48x48": (16, 32, 32, 48),
}


@pytest.mark.parametrize("case", LEARNING)
@pytest.mark.parametrize("device", DEVICES)
def test_learning(benchmark, device, case):
    n, c, o, size = LEARNING[case]
    device = torch.device(device)
    torch.manual_seed(0)
    last = {"memory_format": torch.channels_last}
    x = torch.randn(n, c, size, size, device=device).contiguous(**last).requires_grad_()
    weight = (torch.randn(o, c, 3, 3, device=device) / (9 * c) ** 0.5).contiguous(**last)
    leaves = (x, weight.requires_grad_(), torch.randn(o, device=device, requires_grad=True))
    grad = torch.randn(n, o, size, size, device=device).contiguous(**last)

    def step(convolution):
        return torch.autograd.grad(convolution(*leaves), leaves, grad)

    torchs = lambda x, weight, bias: F.conv2d(x, weight, bias, padding=1)  # noqa: E731
    exact = [t.detach().double().requires_grad_() for t in leaves]
    exact = torch.autograd.grad(conv_shuffle_reference(*exact), exact, grad.double())
    errors = {
        name: max(
            ((ours - theirs).abs().max() / theirs.abs().max()).item()
            for ours, theirs in zip(step(convolution), exact, strict=True)
        )
        for name, convolution in (("pysr", conv_shuffle), ("torch", torchs))
    }
    side_by_side(
        benchmark,
        f"conv_shuffle, forward+backward, {case}",
        lambda: step(conv_shuffle),
        {"torch": lambda: step(torchs)},
        device,
        operations=3 * 2 * 9 * n * size**2 * c * o,
    )
    print("    error against float64: " + ", ".join(f"{n} {e:.1e}" for n, e in errors.items()))
    benchmark.extra_info["errors"] = errors
