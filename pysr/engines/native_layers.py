"""The layers of a DAN as pysr's own kernels run them: weights packed once, pictures channels last."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pysr.nets.dan import ConditionalResidualBlock
from pysr.ops import (
    conditional_residual_block,
    conv_shuffle,
    pack_conditional_residual_block,
    pack_conv_shuffle,
)


class ConvShuffle:
    """A zero-padded convolution of side 3 or 5, and a pixel shuffle."""

    def __init__(self, weight: Tensor, bias: Tensor, shuffle: int = 1):
        self.weight, self.bias, self.shuffle = weight.contiguous(), bias.contiguous(), shuffle
        self.packed = pack_conv_shuffle(self.weight, shuffle)

    def __call__(self, x: Tensor) -> Tensor:
        return conv_shuffle(x, self.weight, self.bias, self.shuffle, self.packed)


class Block:
    """A conditional residual block, whose condition is `constant` or a picture."""

    def __init__(self, block: ConditionalResidualBlock, *, constant: bool):
        self.weights = [parameter.contiguous() for parameter in block.parameters()]
        conv1, _, conv2, *_ = self.weights
        self.packed = pack_conditional_residual_block(conv1, conv2, constant=constant)

    def __call__(self, f: Tensor, cond: Tensor, gate: Tensor | None = None) -> Tensor:
        return conditional_residual_block(f, cond, *self.weights, gate, self.packed)


class StridedHead:
    """The Estimator's convolution of side 9 and stride s, whose output is as large as the LR picture.

    Taken apart by `pixel_unshuffle`, the picture needs no stride: the kernel has side 3 at x4, 5 at
    x2 and x3.
    """

    def __init__(self, conv: nn.Conv2d):
        self.scale = conv.stride[0]
        reach = -(-conv.padding[0] // self.scale)
        side = 2 * reach + 1
        before = reach * self.scale - conv.padding[0]
        after = side * self.scale - conv.kernel_size[0] - before
        weight = F.pixel_unshuffle(F.pad(conv.weight, (before, after) * 2), self.scale)
        self.conv = ConvShuffle(weight, conv.bias)

    def __call__(self, unshuffled: Tensor) -> Tensor:
        return self.conv(unshuffled)


class LinearUpscaling:
    """`Restorer.upscale` as published, in one convolution: f (N, C, H, W) -> (N, 3, s*H, s*W).

    Upscaling convolutions, pixel shuffles and the last convolution have no activation in between:
    they are one 5x5 convolution and one pixel shuffle, which for 64 features at x4 takes 77 thousand
    multiplications per LR pixel instead of 764 thousand. Only the outermost LR pixels differ: what
    the layers in between would have beyond the border is zero. Those have kernels of their own.
    """

    REACH = 2  # LR pixels around an output's own that it depends on

    def __init__(self, chain: nn.Sequential):
        self.chain = chain
        self.scale = math.prod(x.upscale_factor for x in chain if isinstance(x, nn.PixelShuffle))
        weights, biases = self._responses()
        self.inner = ConvShuffle(weights[1, 1], biases[1, 1], self.scale)
        whole, first, last = slice(0, 5), slice(2, 5), slice(0, 3)
        self.borders = [
            (i, j, weights[i, j][..., rows, columns].contiguous(), biases[i, j].contiguous())
            for i, rows in enumerate((first, whole, last))
            for j, columns in enumerate((first, whole, last))
            if (i, j) != (1, 1)
        ]

    def __call__(self, f: Tensor) -> Tensor:
        h, w = f.shape[-2:]
        if min(h, w) <= self.REACH:
            return self.chain(f)
        sr, s = self.inner(f), self.scale
        # For first, inner and last rows or columns: where f is read, with which padding, what of the
        # result is kept, and where it goes.
        parts = [
            [(slice(0, 3), 0, slice(0, 1), slice(0, s)),
             (slice(0, n), 2, slice(1, n - 1), slice(s, s * (n - 1))),
             (slice(n - 3, n), 0, slice(0, 1), slice(s * (n - 1), s * n))]
            for n in (h, w)
        ]
        for i, j, weight, bias in self.borders:
            (rows, above, kept_rows, y), (columns, beside, kept_columns, x) = (
                parts[0][i], parts[1][j]
            )
            edge = F.conv2d(f[..., rows, columns], weight, bias, padding=(above, beside))
            sr[..., y, x] = F.pixel_shuffle(edge[..., kept_rows, kept_columns], s)
        return sr

    def _responses(self) -> tuple[Tensor, Tensor]:
        """Kernels (3, 3, 3 * s^2, C, 5, 5) and biases (3, 3, 3 * s^2) of a picture's pixels: in the
        first, an inner and the last row and column. A picture of 5x5 has them all."""
        first = self.chain[0].weight
        side, outputs = 2 * self.REACH + 1, 3 * self.scale**2
        origin = self.chain(first.new_zeros(1, first.shape[1], side, side))
        biases = F.pixel_unshuffle(origin, self.scale)[0].permute(1, 2, 0)[::2, ::2]
        # One output at a time, backwards through the layers.
        x = first.new_zeros(3, 3, outputs, outputs, side, side)
        for i in range(3):
            for j in range(3):
                x[i, j, :, :, 2 * i, 2 * j] = torch.eye(outputs)
        x = F.pixel_shuffle(x.flatten(0, 2), self.scale)
        for layer in reversed(self.chain):
            if isinstance(layer, nn.PixelShuffle):
                x = F.pixel_unshuffle(x, layer.upscale_factor)
            else:
                x = F.conv_transpose2d(x, layer.weight, padding=1)
        weights = x.view(3, 3, outputs, first.shape[1], side, side)
        # A pixel in the first row sees row r of the picture by row r + 2 of its kernel.
        for i in range(3):
            for j in range(3):
                weights[i, j] = weights[i, j].roll((2 - 2 * i, 2 - 2 * j), (-2, -1))
        return weights, biases
