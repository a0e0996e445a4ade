"""Flicker: what changes from frame to frame in the output where nothing changed in the input.

Only static regions tell: where things move, the output has to change. A pixel of the input is held
to be static between two frames when the change of its luma, as the root mean square over a window
around it, is no more than noise makes it, and so are all pixels as far around as the restoration of
one takes in visibly. The noise is the input's own, measured in time and in space, each where there
is least of it: motion does not pass for noise where the picture is flat, nor detail where it stands
still; of the two the lesser is believed.

The output's mean squared change there, less that of the input, is flicker that restoration added;
its root is in 8-bit levels. Noise in the input counts as far as restoration amplifies it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 5  # pixels
REACH = 4  # LR pixels around a pixel that have to be static too
QUIETEST = 0.1  # of the windows
# Noise changes a static pixel by sqrt(2) deviations; a window of 25 values leaves some to chance.
NOISES = 2.5
LEAST = 0.25 / 255


class Flicker:
    """Gathers the flicker of pairs of neighbouring frames.

    Attributes:
        share: of the pixels compared so far, how many were static: 0 to 1, NaN before any.
    """

    def __init__(self) -> None:
        self._excess = 0.0
        self._static = self._pixels = 0

    def add(self, lr: Tensor, out: Tensor) -> None:
        """Two frames, before and after: lr (2, 3, H, W), out (2, 3, s*H, s*W), all in [0, 1]."""
        before, after = _luma(lr)
        static = static_pixels(before, after)
        scale = out.shape[-1] // lr.shape[-1]
        changed = _mean_square((after - before)[static])
        restored_before, restored_after = _luma(out)
        there = static.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
        added = _mean_square((restored_after - restored_before)[there]) - changed
        static = int(static.sum())
        self._excess += added * static
        self._static += static
        self._pixels += after.numel()

    @property
    def sums(self) -> tuple[float, int, int]:
        """What was gathered, to be added to what was gathered elsewhere."""
        return self._excess, self._static, self._pixels

    def add_sums(self, excess: float, static: int, pixels: int) -> None:
        """Take in the `sums` of another."""
        self._excess += excess
        self._static += static
        self._pixels += pixels

    @property
    def value(self) -> float:
        """8-bit levels of luma, root mean square a frame; NaN where nothing was static."""
        if self._static == 0:
            return math.nan
        return 255 * math.sqrt(max(self._excess / self._static, 0.0))

    @property
    def share(self) -> float:
        return self._static / self._pixels if self._pixels else math.nan


def static_pixels(before: Tensor, after: Tensor) -> Tensor:
    """(H, W) bool: which pixels show no motion from one frame's luma (H, W) to the next's."""
    changed = _local(after - before)
    # The finest diagonal detail, in which white noise keeps its deviation.
    diagonal = (after[1:, 1:] - after[1:, :-1] - after[:-1, 1:] + after[:-1, :-1]) / 2
    noise = _quietest(changed) / math.sqrt(2)
    if diagonal.numel():
        noise = min(noise, _quietest(_local(diagonal)))
    largest = F.max_pool2d(changed[None], 2 * REACH + 1, 1, REACH)[0]
    return largest <= NOISES * noise + LEAST


def _local(x: Tensor) -> Tensor:
    """Root mean square over the window around every pixel of (H, W)."""
    padding = WINDOW // 2
    squares = F.avg_pool2d(x.square()[None], WINDOW, 1, padding, count_include_pad=False)
    return squares[0].sqrt()


def _quietest(x: Tensor) -> float:
    return float(x.flatten().kthvalue(int(QUIETEST * x.numel()) + 1).values)


def _mean_square(x: Tensor) -> float:
    return float(x.double().square().mean()) if x.numel() else 0.0


def _luma(rgb: Tensor) -> Tensor:
    weights = torch.tensor((0.299, 0.587, 0.114), device=rgb.device)
    return torch.einsum("nchw,c->nhw", rgb.float(), weights)
