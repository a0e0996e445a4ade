"""The layers of a DAN on pysr's own kernels: weights packed once, pictures channels last."""

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

    @classmethod
    def of(cls, conv: nn.Conv2d, dtype: torch.dtype, shuffle: int = 1) -> ConvShuffle:
        return cls(conv.weight.to(dtype), conv.bias.to(dtype), shuffle)

    def __call__(self, x: Tensor) -> Tensor:
        return conv_shuffle(x, self.weight, self.bias, self.shuffle, self.packed)


class Block:
    """A conditional residual block whose condition is `constant` or a picture; overwrites f.

    bfloat16: multiply so where the device is a CPU with matrix tiles, whatever the dtype.
    """

    def __init__(
        self,
        block: ConditionalResidualBlock,
        dtype: torch.dtype,
        *,
        constant: bool,
        bfloat16: bool = False,
    ):
        self.weights = [weight.to(dtype).contiguous() for weight in block.parameters()]
        conv1, _, conv2, *_ = self.weights
        self.bfloat16 = bfloat16
        self.packed = pack_conditional_residual_block(
            conv1, conv2, constant=constant, bfloat16=bfloat16
        )

    def __call__(self, f: Tensor, cond: Tensor, gate: Tensor | None = None) -> Tensor:
        return conditional_residual_block(
            f,
            cond,
            *self.weights,
            gate,
            packed=self.packed,
            inplace=True,
            bfloat16=self.bfloat16,
        )


class StridedHead:
    """The Estimator's 9x9 convolution of stride s of the SR picture, as one of stride 1.

    The picture comes taken apart by `pixel_unshuffle`; the kernel then has side 3 at x4, 5 at x2
    and x3.
    """

    def __init__(self, conv: nn.Conv2d):
        scale, margin = conv.stride[0], conv.padding[0]
        reach = math.ceil(margin / scale)
        side = 2 * reach + 1
        before = reach * scale - margin
        after = side * scale - conv.kernel_size[0] - before
        weight = F.pixel_unshuffle(F.pad(conv.weight, (before, after) * 2), scale)
        # At x1 nothing comes apart, and the side remains 9.
        self.conv = conv if scale == 1 else ConvShuffle(weight, conv.bias)

    def __call__(self, unshuffled: Tensor) -> Tensor:
        return self.conv(unshuffled)
