"""blur_decimate beside what a user would write today: F.pad and a grouped F.conv2d.

    pytest bench/bench_blur_decimate.py

Prints, for every case, the share of the machine's measured limits that is reached: products over
the rate of a matrix product, and bytes that must move over the bandwidth of a copy.
"""

import pytest
import torch
import torch.nn.functional as F
from limits import copy_bandwidth, flops, synchronise

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


@pytest.mark.parametrize("function", [blur_decimate, grouped_convolution])
@pytest.mark.parametrize("passes", [1, 3], ids=["forward", "forward+backward"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("device", DEVICES)
def test_blur_decimate(benchmark, device, case, passes, function):
    n, c, h, w, k, stride = CASES[case]
    device = torch.device(device)
    x = torch.rand(n, c, h, w, device=device, requires_grad=passes > 1)
    kernels = torch.rand(n, k, k, device=device, requires_grad=passes > 1)

    def work():
        if passes > 1:
            forward_backward(function, x, kernels, stride)
        else:
            function(x, kernels, stride)
        synchronise(device)

    benchmark.group = f"{device.type}, {case}, {'forward' if passes == 1 else 'forward+backward'}"
    benchmark.pedantic(work, rounds=5, warmup_rounds=1)
    outputs = n * c * -(-h // stride) * -(-w // stride)
    # Each of the three passes multiplies every output pixel with every tap, and touches x and out.
    products, moved = 2 * passes * outputs * k * k, 4 * passes * (x.numel() + outputs)
    best = benchmark.stats.stats.min
    arithmetic = products / best / flops(device)
    traffic = moved / best / copy_bandwidth(device)
    benchmark.extra_info.update(share_of_flops=arithmetic, share_of_bandwidth=traffic)
    print(
        f"\n{benchmark.group}, {function.__name__}: {best * 1e3:.2f} ms, "
        f"{products / best / 1e9:.1f} GFLOP/s = {arithmetic:.0%} of the matrix rate "
        f"({flops(device) / 1e9:.0f}), {traffic:.0%} of the copy bandwidth "
        f"({copy_bandwidth(device) / 1e9:.1f} GB/s)"
    )
