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
    return F.conv2d(padded, kernels, groups=x.shape[1])


def work(function, tensors, passes):
    if passes == "forward":
        return lambda: function(*tensors)
    only_weights = passes == "gradient by the weights"
    x, weights, gaussians = (tensor.detach() for tensor in tensors)
    weights.requires_grad_()
    x.requires_grad_(not only_weights)
    out = function(x, weights, gaussians)
    slope = torch.ones_like(out)  # in the layout of the output
    if only_weights:
        return lambda: torch.autograd.grad(out, weights, slope, retain_graph=True)
    return lambda: torch.autograd.grad(function(x, weights, gaussians), (x, weights), slope)


# In each pass every output pixel is multiplied with every tap.
@pytest.mark.parametrize(
    "passes, count", [("forward", 1), ("gradient by the weights", 1), ("forward+backward", 3)]
)
@pytest.mark.parametrize("device", DEVICES)
def test_mixture_blur(benchmark, device, passes, count):
    device = torch.device(device)
    x = torch.rand(N, C, H, W, device=device)
    others = torch.rand(C, 4, device=device).softmax(1), blur.mixture_gaussians(K).to(device)
    last = x.to(memory_format=torch.channels_last)  # as torch is fastest, and converted beforehand
    side_by_side(
        benchmark,
        f"mixture_blur, {passes}",
        work(mixture_blur, (x, *others), passes),
        {"grouped convolution": work(grouped_convolution, (last, *others), passes)},
        device,
        operations=2 * count * N * C * H * W * K * K,
    )
