"""The operator's part of a training step of DML and of ABL, beside what a user would write today.

    pytest bench/degrade/bench_step.py

A step's operator part is the operator forwards and backwards, for all that its network learns from.
Also the memory that DML's part takes beyond its inputs, which must not grow with the kernel's area.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from side_by_side import side_by_side

from pysr import blur
from pysr.ops import basis_svconv, mixture_blur

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
BATCH, PATCH, M, K = 16, 192, 8, 15  # dml.txt, section 4.2
# abl.txt, 4.1.2, has 8 patches of 256, of which unfold alone would take 69 GB.
FEATURES, ABL_BATCH, ABL_PATCH, ABL_K = 128, 1, 96, 16


def padded(x, k):
    return F.pad(x, (k // 2, (k - 1) // 2) * 2, mode="reflect")


def dml_by_unfold(x, coefficients, bases):
    n, m, h, w = coefficients.shape
    kernels = torch.einsum("nmij,mt->ntij", coefficients, bases.flatten(1))
    windows = F.unfold(padded(x, K), K).view(n, K * K, h, w)
    return (windows * kernels).sum(1, keepdim=True)


def dml_by_convolution(x, coefficients, bases):
    return (F.conv2d(padded(x, K), bases[:, None]) * coefficients).sum(1, keepdim=True)


def abl_by_unfold(x, weights, gaussians):
    n, c, h, w = x.shape
    kernels = (weights @ gaussians.flatten(1))[None, :, :, None]
    windows = F.unfold(padded(x, ABL_K), ABL_K).view(n, c, ABL_K**2, h * w)
    return (windows * kernels).sum(2).view(n, c, h, w)


def abl_by_convolution(x, weights, gaussians):
    kernels = (weights @ gaussians.flatten(1)).view(-1, 1, ABL_K, ABL_K)
    return F.conv2d(padded(x, ABL_K), kernels, groups=x.shape[1])


def step(function, tensors, learned):
    """The operator and its gradients by what is learned."""
    out = function(*tensors)
    return torch.autograd.grad(out, learned, torch.ones_like(out))


@pytest.mark.parametrize("device", DEVICES)
def test_dml(benchmark, device):
    device = torch.device(device)
    shapes = ((BATCH, 1, PATCH, PATCH), (BATCH, M, PATCH, PATCH), (M, K, K))
    x, coefficients, bases = tensors = [torch.rand(shape, device=device) for shape in shapes]
    learned = [coefficients.requires_grad_(), bases.requires_grad_()]
    peers = {"grouped convolution": dml_by_convolution, "unfold": dml_by_unfold}
    run(benchmark, "DML, batch of 16 patches of 192", basis_svconv, peers, tensors, learned, device)


@pytest.mark.parametrize("device", DEVICES)
def test_abl(benchmark, device):
    device = torch.device(device)
    x = torch.rand(ABL_BATCH, FEATURES, ABL_PATCH, ABL_PATCH, device=device, requires_grad=True)
    weights = torch.rand(FEATURES, 4, device=device).softmax(1).requires_grad_()
    tensors = [x, weights, blur.mixture_gaussians(ABL_K).to(device)]
    peers = {"grouped convolution": abl_by_convolution, "unfold": abl_by_unfold}
    title = "ABL, 128 channels, a patch of 96"
    run(benchmark, title, mixture_blur, peers, tensors, [x, weights], device)


def run(benchmark, title, ours, peers, tensors, learned, device):
    for peer in peers.values():
        torch.testing.assert_close(peer(*tensors), ours(*tensors), rtol=1e-4, atol=1e-4)
    side_by_side(
        benchmark,
        f"training step's operator part: {title}",
        lambda: step(ours, tensors, learned),
        {name: lambda peer=peer: step(peer, tensors, learned) for name, peer in peers.items()},
        device,
        rounds=5,
    )


def memory(k: int) -> float:
    """MiB that the operator's part of a step added to the peak of this process."""
    x, coefficients, bases = (
        torch.rand(4, 1, PATCH, PATCH),
        torch.rand(4, M, PATCH, PATCH, requires_grad=True),
        torch.rand(M, k, k, requires_grad=True),
    )
    before = peak()
    step(basis_svconv, (x, coefficients, bases), (coefficients, bases))
    return (peak() - before) / 1024


def peak() -> int:
    """KiB of this process at most so far; getrusage would give the parent's, where that is more."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+)", status)[1])


def test_memory_does_not_grow_with_the_kernel():
    """A process of its own for each size, since a peak never falls."""
    taken, environment = {}, os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for k in (5, 15, 31):
        command = [sys.executable, __file__, str(k)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        taken[k] = float(done.stdout)
    print("\nDML step, MiB beyond its inputs:", {k: round(v, 1) for k, v in taken.items()})
    kernels = 4 * 31 * 31 * PATCH**2 * 4 / 2**20
    gradient = 4 * M * PATCH**2 * 4 / 2**20
    assert min(taken.values()) > gradient  # it is measured at all
    assert taken[31] - taken[5] < 0.05 * kernels  # a hundredth would do; pages come in lumps


if __name__ == "__main__":
    print(memory(int(sys.argv[1])))
