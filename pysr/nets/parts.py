"""What several networks are built from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The most LR pixels of context that tiles are given. A tile of 768 then costs a third more than its
# share; the 350 that RRDB's 23 blocks can see would cost three times as much again, for what
# they hardly use.
AFFORDABLE_HALO = 64


def check_scale(scale: int, expected: tuple[int, ...]) -> None:
    """Raises ValueError for a scale that a network is not made for."""
    if scale not in expected:
        names = ", ".join(str(s) for s in expected[:-1])
        raise ValueError(f"scale: expected {names} or {expected[-1]}, got {scale}")


class BicubicUpsample(nn.Module):
    """Bicubic interpolation (a = -0.5) by a whole factor, as one convolution and a pixel shuffle.

    Every output phase is a fixed 5x5 filter of the LR picture, which exports to any runtime. Edge
    pixels are repeated. (N, C, H, W) -> (N, C, s*H, s*W).
    """

    def __init__(self, scale: int):
        super().__init__()
        self.scale = scale
        phase = (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5
        distance = (phase[:, None] - torch.arange(-2.0, 3.0, dtype=torch.float64)).abs()
        inner = (1.5 * distance - 2.5) * distance**2 + 1
        outer = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        taps = torch.where(distance <= 1, inner, torch.where(distance < 2, outer, 0.0))  # (s, 5)
        weight = torch.einsum("ai,bj->abij", taps, taps).reshape(scale**2, 1, 5, 5)
        self.register_buffer("weight", weight.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        padded = F.pad(x, (2, 2, 2, 2), mode="replicate").reshape(n * c, 1, h + 4, w + 4)
        phases = F.conv2d(padded, self.weight.to(x.dtype))
        return F.pixel_shuffle(phases, self.scale).view(n, c, h * self.scale, w * self.scale)
