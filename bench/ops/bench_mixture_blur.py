"""mixture_blur beside what a user would write today: F.pad and a grouped F.conv2d, channels last.

    pytest bench/ops/bench_mixture_blur.py

The case is the adaptive blurring layer of abl.txt: 128 channels, four 16x16 Gaussians, batches of 8
patches. Prints the ratio, and the share of the machine's measured limits that is reached.
"""

import pytest
import torch
import torch.nn.functional as F
from side_by_side import side_by_side

from pysr import blur
from pysr.ops import mixture_blur

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
N, C, H, W, K = 8, 128, 256, 256, 16


def grouped_convolution(x, weights, gaussians):
    kernels = (weights @ gaussians.flatten(1)).view(-1, 1, K, K)
    padded = F.pad(x, (K // 2, (K - 1) // 2) * 2, mode="reflect")
    return F.conv2d(
        padded.to(memory_format=torch.channels_last),
        kernels.to(memory_format=torch.channels_last),
        groups=x.shape[1],
    )


def inputs(device):
    x = torch.rand(N, C, H, W, device=device)
    weights = torch.rand(C, 4, device=device).softmax(1)
    return x, weights, blur.mixture_gaussians(K).to(device)


# What is differentiated, and how many passes over all products that takes.
PASSES = {
    "forward": ((), 1),
    "forward+gradient by the kernels": ((1, 2), 2),
    "forward+backward": ((0, 1, 2), 3),
}


@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("device", DEVICES)
def test_mixture_blur(benchmark, device, passes):
    device, (wanted, count) = torch.device(device), PASSES[passes]
    tensors = inputs(device)
    leaves = [tensors[index].requires_grad_() for index in wanted]

    def run(function):
        out = function(*tensors)
        return torch.autograd.grad(out, leaves, torch.ones_like(out)) if leaves else out

    # Channels last is how torch is fastest; it then gets its input so.
    last = (tensors[0].to(memory_format=torch.channels_last), *tensors[1:])
    side_by_side(
        benchmark,
        f"mixture_blur, {passes}",
        lambda: run(mixture_blur),
        {
            "grouped convolution": lambda: run(grouped_convolution),
        },
        device,
        operations=2 * count * N * C * H * W * K * K,
    )
