"""The published upscaling in one convolution.

Upscaling convolutions, pixel shuffles and the last convolution have no activation in between: they
are one 5x5 convolution and one pixel shuffle, which for 64 features at x4 takes 77 thousand
multiplications per LR pixel instead of 764 thousand, and no picture in between. Only the outermost
LR pixels differ, since what the layers in between would have beyond the border is zero. Those have
kernels of their own.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pysr.engines.native_layers import ConvShuffle
from pysr.ops import conv_shuffle
from pysr.tiling import scaled

REACH = 2  # LR pixels around an output's own that it depends on
SIDE = 2 * REACH + 1


class LinearUpscaling:
    """`Restorer.upscale` as published: f (N, C, H, W) -> (N, 3, s*H, s*W)."""

    def __init__(self, chain: nn.Sequential, dtype: torch.dtype):
        self.chain, self.dtype = chain, dtype
        self.scale = math.prod(x.upscale_factor for x in chain if isinstance(x, nn.PixelShuffle))
        weights, biases = (
            tensor.to(chain[0].weight.device, dtype) for tensor in kernels(chain, self.scale)
        )
        self.inner = ConvShuffle(weights[1, 1], biases[1, 1], self.scale)
        inside = slice(REACH, None), slice(None), slice(None, -REACH)  # of a kernel, by border
        self.borders = [
            (i, j, weights[i, j][..., inside[i], inside[j]].contiguous(), biases[i, j].contiguous())
            for i in range(3)
            for j in range(3)
            if (i, j) != (1, 1)
        ]

    def __call__(self, f: Tensor) -> Tensor:
        if min(f.shape[-2:]) <= REACH:
            return self.chain(f.float()).to(self.dtype)
        sr, s = self.inner(f), self.scale
        rows, columns = (_bands(n) for n in f.shape[-2:])
        for i, j, weight, bias in self.borders:
            (y, to_y, above), (x, to_x, beside) = rows[i], columns[j]
            edge = F.conv2d(f[..., y, x], weight, bias, padding=(above, beside))
            sr[..., scaled(to_y, s), scaled(to_x, s)] = F.pixel_shuffle(edge, s)
        return sr


def _bands(length: int) -> list[tuple[slice, slice, int]]:
    """First, inner and last rows (or columns): those to read, those to write, and the padding."""
    return [
        (slice(0, REACH + 1), slice(0, 1), 0),
        (slice(0, length), slice(1, length - 1), REACH - 1),
        (slice(length - REACH - 1, length), slice(length - 1, length), 0),
    ]


@torch.inference_mode()
def kernels(chain: nn.Sequential, scale: int) -> tuple[Tensor, Tensor]:
    """Kernels (3, 3, 3 * s^2, C, 5, 5) and biases (3, 3, 3 * s^2) of the pixels in the first, an
    inner and the last row and column, on the CPU: a GPU's convolutions may round to fewer bits.

    They are read off a picture of 5x5 pixels, which has all nine kinds.
    """
    chain = copy.deepcopy(chain).cpu()
    channels, outputs = chain[0].in_channels, 3 * scale**2
    origin = chain(torch.zeros(1, channels, SIDE, SIDE))
    biases = F.pixel_unshuffle(origin, scale)[0].permute(1, 2, 0)[::REACH, ::REACH]
    # Each output of the nine pixels alone, taken backwards through the layers.
    x = torch.zeros(3, 3, outputs, outputs, SIDE, SIDE)
    for i in range(3):
        for j in range(3):
            x[i, j, :, :, REACH * i, REACH * j] = torch.eye(outputs)
    x = F.pixel_shuffle(x.flatten(0, 2), scale)
    for layer in reversed(chain):
        if isinstance(layer, nn.PixelShuffle):
            x = F.pixel_unshuffle(x, layer.upscale_factor)
        else:
            weight = layer.weight.transpose(0, 1).flip(2, 3)
            x = conv_shuffle(x, weight, weight.new_zeros(len(weight)))
    weights = x.view(3, 3, outputs, channels, SIDE, SIDE)
    # Row r of the picture lies under row r + 2 of a kernel at the first row, r + 2 - 4 at the last.
    for i in range(3):
        for j in range(3):
            shifts = REACH - REACH * i, REACH - REACH * j
            weights[i, j] = weights[i, j].roll(shifts, (-2, -1))
    return weights, biases
