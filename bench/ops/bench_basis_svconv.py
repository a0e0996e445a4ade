"""basis_svconv beside what a user would write today: F.conv2d by every basis, then a weighted sum.

    pytest bench/ops/bench_basis_svconv.py

Prints the ratio for every case, and the share of the machine's measured limits that is reached.
"""

import pytest
import torch
import torch.nn.functional as F
from side_by_side import side_by_side

from pysr.ops import basis_svconv

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
# Name: N, C, H, W, M, k, stride, with gradients.
CASES = {
    "1080p, stride 1, forward": (1, 3, 1080, 1920, 8, 15, 1, False),
    "1080p, stride 4, forward": (1, 3, 1080, 1920, 8, 15, 4, False),
    "960x540, stride 1, forward+backward": (1, 3, 540, 960, 8, 15, 1, True),
    "training batch, stride 4, forward+backward": (8, 3, 192, 192, 8, 15, 4, True),
}


def _padded(x, k):
    return F.pad(x, (k // 2, (k - 1) // 2) * 2, mode="reflect")


def grouped_convolution(x, coefficients, bases, stride):
    (n, c), (m, k, _) = x.shape[:2], bases.shape
    weight = bases[None, :, None].expand(c, m, 1, k, k).reshape(c * m, 1, k, k)
    blurred = F.conv2d(_padded(x, k), weight, stride=stride, groups=c)
    return (blurred.view(n, c, m, *blurred.shape[-2:]) * coefficients[:, None]).sum(2)


def folded_convolution(x, coefficients, bases, stride):
    """Channels as samples, so that the convolution is an ordinary one from 1 to M channels."""
    (n, c), (m, k, _) = x.shape[:2], bases.shape
    planes = _padded(x, k).flatten(0, 1)[:, None]
    blurred = F.conv2d(planes, bases[:, None], stride=stride)
    return torch.einsum(
        "ncmij,nmij->ncij", blurred.view(n, c, m, *blurred.shape[-2:]), coefficients
    )


def forward_backward(function, x, coefficients, bases, stride):
    out = function(x, coefficients, bases, stride)
    return torch.autograd.grad(out, (x, coefficients, bases), torch.ones_like(out))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("device", DEVICES)
def test_basis_svconv(benchmark, device, case):
    n, c, h, w, m, k, stride, backward = CASES[case]
    device = torch.device(device)
    ho, wo = -(-h // stride), -(-w // stride)
    tensors = [
        torch.rand(shape, device=device, requires_grad=backward)
        for shape in ((n, c, h, w), (n, m, ho, wo), (m, k, k))
    ]
    run = forward_backward if backward else lambda function, *args: function(*args)
    side_by_side(
        benchmark,
        f"basis_svconv, {case}",
        lambda: run(basis_svconv, *tensors, stride),
        {
            "grouped convolution, weighted sum": lambda: run(grouped_convolution, *tensors, stride),
            "folded convolution, weighted sum": lambda: run(folded_convolution, *tensors, stride),
        },
        device,
        # Each of the four passes mixes M taps into a kernel's and applies it to C channels, for
        # every output pixel and tap, or does the same backwards.
        operations=2 * (4 if backward else 1) * (m + c) * k * k * n * ho * wo,
    )
