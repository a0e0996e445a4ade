"""What ZSSR and DSR learn from, drawn and degraded on the device: no picture but the one at hand.

A blur has a direction, so a patch is turned before it is degraded, not after.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from pysr.adapt.picture import LEAST_SIDE
from pysr.adapt.pool import Patches
from pysr.degrade import to_8bit
from pysr.degrade.deep_linear import GivenBlur
from pysr.resize import imresize
from pysr.tiling import inside

# The picture is its own ground truth at these sizes: the smaller, the sharper.
FATHERS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)


def noisy(lr: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """A degraded picture with noise of that deviation; of none, nothing is drawn."""
    if not noise:
        return lr
    return lr + noise * torch.randn(lr.shape, generator=generator, device=lr.device)


def observed(lr: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """The same as a file would have it: in 8 bits."""
    return to_8bit(noisy(lr, noise, generator))


def own_pairs(
    picture: Tensor, degradation: GivenBlur, patch: int, batch: int, noise: float, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The picture (1, 3, H, W) against itself degraded: (batch, 3, p/s, p/s) and (batch, 3, p, p).

    Fathers are flipped, turned and taken at random sizes. A small picture makes smaller patches, so
    that it too can be taken smaller; the smallest is s x s. Most of what mirrored borders reach is
    cut off.
    """
    scale, device = degradation.scale, picture.device
    side = min(picture.shape[-2:])
    patch = max(min(patch, max(side // 2, scale * LEAST_SIDE)) // scale, 1) * scale
    border = min(degradation.reach, patch // (8 * scale), (side - patch) // (2 * scale))
    size = patch + 2 * scale * border
    sizes = [f for f in FATHERS if f == 1 or math.ceil(side * f) >= size]
    fathers = Patches([imresize(picture, f)[0].clamp(0, 1) for f in sizes], device)
    draws = torch.Generator().manual_seed(seed)
    grain = torch.Generator(device).manual_seed(seed)
    while True:
        father = fathers.draw(batch, size, draws)
        son = observed(degradation(father), noise, grain)
        yield inside(son, border), inside(father, scale * border)


def matrix_pairs(
    degradation: GivenBlur, size: int, noise: float, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Random matrices (1, 1, size, size) and what the degradation makes of them (dsr.txt, 2.1)."""
    device = degradation.known.device
    draws = torch.Generator(device).manual_seed(seed)
    while True:
        matrix = torch.rand(1, 1, size, size, generator=draws, device=device)
        yield observed(degradation(matrix), noise, draws), matrix
