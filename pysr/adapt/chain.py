"""What stands around networks taught one picture: a chain, an ensemble, a last correction.

Each is a module that `pysr.Upscaler` takes: `scale`, and `halo` in LR pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pysr.degrade.deep_linear import GivenBlur, convolved
from pysr.nets.parts import BicubicUpsample, halo_of, scale_of

ORIENTATIONS = tuple((turns, flip) for flip in (False, True) for turns in range(4))
UPRIGHT = ORIENTATIONS[:1]
# How much of a kernel may lie elsewhere after a turn for the turned picture to count as one of the
# same blur: half the sum of differences.
SAME_BLUR = 0.1
ROUNDS = 10  # of back-projection, as in ZSSR


class Chain(nn.Module):
    """Networks one after the other: (N, 3, H, W) to (N, 3, s*H, s*W), s the product of theirs."""

    def __init__(self, stages: Sequence[nn.Module]):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.scale = math.prod(scale_of(stage) for stage in stages)

    def forward(self, lr: Tensor) -> Tensor:
        for stage in self.stages:
            lr = stage(lr)
        return lr

    @property
    def halo(self) -> int:
        total, larger = 0, 1
        for stage in self.stages:
            total += math.ceil(halo_of(stage) / larger)
            larger *= scale_of(stage)
        return total


class SelfEnsemble(nn.Module):
    """The median of what a network makes of a picture flipped and turned, turned back again."""

    def __init__(self, network: nn.Module, orientations: Sequence[tuple[int, bool]] = ORIENTATIONS):
        super().__init__()
        self.network, self.orientations = network, tuple(orientations)
        self.scale, self.halo = scale_of(network), halo_of(network)

    def forward(self, lr: Tensor) -> Tensor:
        made = []
        for turns, flip in self.orientations:
            x = turned(lr, turns, flip).contiguous(memory_format=torch.channels_last)
            sr = self.network(x).rot90(-turns, (2, 3))
            made.append(sr.flip(3) if flip else sr)
        # With an even number the median is the mean of the two in the middle.
        first, last = (len(made) - 1) // 2, len(made) // 2
        return torch.stack(made).sort(0).values[first : last + 1].mean(0)


class BackProjected(nn.Module):
    """Corrects a network's picture until, degraded again, it gives the one that it was made from.

    Every round adds the interpolated difference. Noise would be added too: not for noisy pictures.
    The halo covers two rounds; what later ones bring from further away is far below a level.
    """

    def __init__(self, network: nn.Module, degradation: GivenBlur, rounds: int = ROUNDS):
        super().__init__()
        self.network, self.degradation, self.rounds = network, degradation, rounds
        self.scale = scale_of(network)
        self.interpolate = BicubicUpsample(self.scale)
        self.halo = halo_of(network) + 2 * (degradation.reach + 2)

    def forward(self, lr: Tensor) -> Tensor:
        sr = self.network(lr)
        for _ in range(self.rounds):
            sr = sr + self.interpolate(lr - self.degradation(sr))
        return sr


def finished(network: nn.Module, degradation: GivenBlur, noise: float) -> BackProjected:
    """A network that was taught a picture, back-projected unless the picture is noisy."""
    return BackProjected(network, degradation, 0 if noise else ROUNDS)


def turned(x: Tensor, turns: int, flip: bool) -> Tensor:
    """x (..., H, W), flipped left-right if asked for, then turned by quarters anticlockwise."""
    return (x.flip(-1) if flip else x).rot90(turns, (-2, -1))


def symmetries(degradation: GivenBlur) -> list[tuple[int, bool]]:
    """The ORIENTATIONS in which a degraded picture still has the same degradation.

    LR pixels stand for squares of s x s pixels, and a picture turns about their middles.
    """
    folded, step = convolved(degradation.known, degradation.bicubic), degradation.scale - 1
    before, after = len(folded) // 2, (len(folded) - 1) // 2 - step
    reach = max(before, after)
    low, high = reach - before, reach - after
    folded = nn.functional.pad(folded, (low, high, low, high))
    return [
        (turns, flip)
        for turns, flip in ORIENTATIONS
        if float((turned(folded, turns, flip) - folded).abs().sum()) / 2 <= SAME_BLUR
    ]
