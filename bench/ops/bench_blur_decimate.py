"""blur_decimate beside what a user would write today: F.pad and a grouped F.conv2d.

    pytest bench/ops/bench_blur_decimate.py

Prints the ratio for every case, and the share of the machine's measured limits that is reached.
"""

import pytest
import torch
import torch.nn.functional as F
from side_by_side import side_by_side

from pysr.ops import blur_decimate

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
# Name: N, C, H, W, k, stride.
CASES = {
    "training batch, stride 1": (8, 3, 192, 192, 21, 1),
    "training batch, stride 4": (8, 3, 192, 192, 21, 4),
    "1080p, stride 1": (1, 3, 1080, 1920, 21, 1),
    "1080p, stride 4": (1, 3, 1080, 1920, 21, 4),
}


def grouped_convolution(x, kernels, stride):
    n, c, h, w = x.shape
    k = kernels.shape[-1]
    padded = F.pad(x, (k // 2, (k - 1) // 2) * 2, mode="reflect")
    weight = kernels[:, None, None].expand(n, c, 1, k, k).reshape(n * c, 1, k, k)
    out = F.conv2d(padded.view(1, n * c, *padded.shape[-2:]), weight, stride=stride, groups=n * c)
    return out.view(n, c, *out.shape[-2:])


def forward_backward(function, x, kernels, stride):
    out = function(x, kernels, stride)
    return torch.autograd.grad(out, (x, kernels), torch.ones_like(out))


@pytest.mark.parametrize("passes", ["forward", "forward+backward"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("device", DEVICES)
def test_blur_decimate(benchmark, device, case, passes):
    n, c, h, w, k, stride = CASES[case]
    device, backward = torch.device(device), passes != "forward"
    x = torch.rand(n, c, h, w, device=device, requires_grad=backward)
    kernels = torch.rand(n, k, k, device=device, requires_grad=backward)
    run = forward_backward if backward else lambda function, *args: function(*args)
    outputs = n * c * -(-h // stride) * -(-w // stride)
    side_by_side(
        benchmark,
        f"blur_decimate, {case}, {passes}",
        lambda: run(blur_decimate, x, kernels, stride),
        {"grouped convolution": lambda: run(grouped_convolution, x, kernels, stride)},
        device,
        # Each of the three passes multiplies every output pixel with every tap.
        operations=2 * (3 if backward else 1) * outputs * k * k,
    )
