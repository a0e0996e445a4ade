"""svconv beside what a user would write today: a loop over the taps, or unfold and einsum.

    pytest bench/ops/bench_svconv.py

Prints the ratio for every case, and the share of the machine's read bandwidth at which the kernels,
which are hundreds of times larger than the picture, pass by.
"""

import pytest
import torch
import torch.nn.functional as F
from side_by_side import side_by_side

from pysr.ops import svconv

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
K = 15
# Name: H, W, stride, whether with the gradients, whether small enough for the wasteful peers.
CASES = {
    "1080p, stride 1, forward": (1080, 1920, 1, False, False),
    "1080p, stride 4, forward": (1080, 1920, 4, False, True),
    "1080p, stride 4, forward+backward": (1080, 1920, 4, True, True),
    "960x540, stride 1, forward+backward": (540, 960, 1, True, False),
    "480x270, stride 1, forward": (270, 480, 1, False, True),
    "480x270, stride 1, forward+backward": (270, 480, 1, True, True),
}


def padded(x, stride):
    """With borders for the windows, and on to whole strides."""
    x = F.pad(x, (K // 2, (K - 1) // 2) * 2, mode="reflect")
    return F.pad(x, (0, -x.shape[-1] % stride, 0, -x.shape[-2] % stride))


def loop_of_slices(x, kernels, stride):
    """What one writes first."""
    *_, k, ho, wo = kernels.shape
    x = padded(x, stride)
    out = x.new_zeros(*x.shape[:2], ho, wo)
    for u in range(k):
        for v in range(k):
            rows = x[:, :, u : u + stride * (ho - 1) + 1 : stride]
            under = rows[..., v : v + stride * (wo - 1) + 1 : stride]
            out.addcmul_(kernels[:, None, u, v], under)
    return out


def loop_of_unbound_slices(x, kernels, stride):
    """As well as it can be written: slices of stride^2 small pictures, for adjacent columns, and
    unbind, since the gradient of every plain slice fills a tensor as large as the whole."""
    n, c = x.shape[:2]
    *_, k, ho, wo = kernels.shape
    phases = F.pixel_unshuffle(padded(x, stride), stride)
    phases = phases.view(n, c, stride * stride, *phases.shape[-2:]).unbind(2)
    out = x.new_zeros(n, c, ho, wo)
    for tap, kernel in enumerate(kernels.flatten(1, 2).unbind(1)):
        u, v = divmod(tap, k)
        phase = phases[u % stride * stride + v % stride]
        top, left = u // stride, v // stride
        out.addcmul_(kernel[:, None], phase[:, :, top : top + ho, left : left + wo])
    return out


def unfold_and_einsum(x, kernels, stride):
    n, c = x.shape[:2]
    _, k, _, ho, wo = kernels.shape
    padded = F.pad(x, (k // 2, (k - 1) // 2) * 2, mode="reflect")
    columns = F.unfold(padded, k, stride=stride).view(n, c, k * k, ho * wo)
    out = torch.einsum("nctl,ntl->ncl", columns, kernels.reshape(n, k * k, ho * wo))
    return out.view(n, c, ho, wo)


def forward_backward(function, x, kernels, stride):
    out = function(x, kernels, stride)
    return torch.autograd.grad(out, (x, kernels), torch.ones_like(out))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("device", DEVICES)
def test_svconv(benchmark, device, case):
    h, w, stride, backward, small = CASES[case]
    device = torch.device(device)
    x = torch.rand(1, 3, h, w, device=device, requires_grad=backward)
    size = (1, K, K, -(-h // stride), -(-w // stride))
    kernels = torch.rand(size, device=device).div_(K * K).requires_grad_(backward)
    run = forward_backward if backward else lambda function, *args: function(*args)
    peers = {"loop of unbound slices": loop_of_unbound_slices}
    if small:
        peers |= {"loop of slices": loop_of_slices, "unfold and einsum": unfold_and_einsum}
    for peer in peers.values():
        torch.testing.assert_close(peer(x, kernels, stride), svconv(x, kernels, stride))
    side_by_side(
        benchmark,
        f"svconv 15x15, RGB, {case}",
        lambda: run(svconv, x, kernels, stride),
        {name: lambda peer=peer: run(peer, x, kernels, stride) for name, peer in peers.items()},
        device,
        read=0 if backward else kernels.nbytes,
        moved=3 * kernels.nbytes if backward else 0,
    )
