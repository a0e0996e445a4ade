"""What several networks are built from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pysr.nets.checkpoints import State
from pysr.ops import conv_shuffle
from pysr.ops.mixed_residual_block import on_matrix_tiles
from pysr.resize import cubic

# The most LR pixels of context that tiles are given. A tile of 768 then costs a third more than its
# share; the 350 that RRDB's 23 blocks can see would cost three times as much again, for what
# they hardly use.
AFFORDABLE_HALO = 64

# Below these, torch's convolution and its gradients are as fast as ours.
FEW_CHANNELS, FEW_PIXELS = 16, 2048


def scale_of(network: nn.Module) -> int:
    """Output over input size, as `config.scale` or `scale` says. Raises ValueError for neither, and
    for what is no whole number of at least 1."""
    scale = getattr(getattr(network, "config", network), "scale", None)
    if scale is None:
        kind = type(network).__name__
        raise ValueError(f"model: expected a scale, as scale or config.scale; {kind} has none")
    if isinstance(scale, bool) or not isinstance(scale, Integral) or scale < 1:
        raise ValueError(f"model: expected a whole scale of at least 1, got {scale!r}")
    return int(scale)


def halo_of(network: nn.Module) -> int:
    """LR pixels of context that its tiles are given. Raises ValueError for what is no number of
    pixels."""
    halo = getattr(network, "halo", AFFORDABLE_HALO)
    if not isinstance(halo, Integral) or halo < 0:
        raise ValueError(f"model: expected a halo of whole pixels from 0 on, got {halo!r}")
    return halo


def check_scale(scale: int, expected: tuple[int, ...]) -> None:
    """Raises ValueError for a scale that a network is not made for."""
    if scale not in expected or not isinstance(scale, Integral):
        names = ", ".join(str(s) for s in expected[:-1])
        raise ValueError(f"scale: expected {names} or {expected[-1]}, got {scale}")


def check_ranges(sizes: object, **ranges: tuple[int, int]) -> None:
    """Raises ValueError for a size of a network outside of its range, whose ends are in it."""
    for name, (low, high) in ranges.items():
        value = getattr(sizes, name)
        if not low <= value <= high:
            raise ValueError(f"{name}: expected {low} to {high}, got {value}")


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution that keeps height and width. (N, C, H, W) -> (N, O, H, W)."""

    def __init__(self, into: int, out: int, bias: bool = True):
        super().__init__(into, out, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return convolve(x, self.weight, self.bias, self.training)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, training: bool) -> Tensor:
    """A 3x3 convolution that keeps height and width: torch's, which engines are compared with.

    While something learns on a CPU (`training`, or gradients are recorded) it is `conv_shuffle`,
    which with its gradients is the faster one, unless there are few channels or pixels.
    """
    learning = training or (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
    if learning and learns_by_ours(x) and weight.dtype == x.dtype:
        return conv_shuffle(x, weight, weight.new_zeros(len(weight)) if bias is None else bias)
    return F.conv2d(x, weight, bias, padding=1)


def learns_by_ours(x: Tensor) -> bool:
    """Whether our operators are the faster ones to learn with, for features (N, C, H, W)."""
    n, channels, height, width = x.shape
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and channels >= FEW_CHANNELS
        and n * height * width >= FEW_PIXELS
    )


def learns_on_matrix_tiles(x: Tensor) -> bool:
    """Whether features learn in bfloat16 on this processor's matrix tiles."""
    return (
        on_matrix_tiles(x.device)
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )


def pixel_shuffles(into: int, features: int, scale: int) -> list[nn.Module]:
    """Convolutions and pixel shuffles to s times the size, x4 as twice x2; named 0, 2 in a row."""
    layers: list[nn.Module] = []
    for factor in [2, 2] if scale == 4 else [scale]:
        layers += [Conv3x3(into, features * factor**2), nn.PixelShuffle(factor)]
        into = features
    return layers


def shuffled_scale(state: State, prefix: str, features: int) -> int:
    """The scale of `pixel_shuffles` under a prefix in a state dict."""
    widths = (len(state[f"{prefix}{i}.weight"]) for i in (0, 2) if f"{prefix}{i}.weight" in state)
    return math.prod(math.isqrt(width // features) for width in widths if width > features)


class HeadBodyTail(nn.Module):
    """The frame that EDSR and RCAN share: blocks with a residual around them, then pixel shuffles.

    The published networks see values up to 255 less the mean colour of DIV2K. Here this is part of
    the network: forward(lr): (N, 3, H, W) RGB in [0, 1] -> (N, 3, s*H, s*W), not clipped.

    Args:
        levels: what 1 becomes inside.
    """

    MEAN = (0.4488, 0.4371, 0.4040)

    def __init__(self, blocks: Iterable[nn.Module], features: int, scale: int, levels: float):
        super().__init__()
        self.levels = levels
        mean = torch.tensor(self.MEAN).view(1, 3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)
        self.head = nn.Sequential(Conv3x3(3, features))
        self.body = nn.Sequential(*blocks, Conv3x3(features, features))
        shuffles = nn.Sequential(*pixel_shuffles(features, features, scale))
        self.tail = nn.Sequential(shuffles, Conv3x3(features, 3))

    def forward(self, lr: Tensor) -> Tensor:
        mean = self.mean.to(lr.dtype)
        f = self.head(((lr - mean) * self.levels).to(self.head[0].weight.dtype))
        f = f + self.body(f)
        return self.tail(f).to(lr.dtype) / self.levels + mean

    @classmethod
    def levels_of(cls, state: State) -> float:
        """`levels` of a public state dict, which has the mean colour as a layer's bias."""
        return round(float(state["add_mean.bias"][0]) / cls.MEAN[0], 1)


class BicubicUpsample(nn.Module):
    """Bicubic interpolation (a = -0.5) by a whole factor, as one convolution and a pixel shuffle.

    Every output phase is a fixed 5x5 filter of the LR picture, which exports to any runtime. Edge
    pixels are repeated. (N, C, H, W) -> (N, C, s*H, s*W).
    """

    def __init__(self, scale: int):
        super().__init__()
        self.scale = scale
        phase = (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5
        taps = cubic(phase[:, None] - torch.arange(-2.0, 3.0, dtype=torch.float64))  # (s, 5)
        weight = torch.einsum("ai,bj->abij", taps, taps).reshape(scale**2, 1, 5, 5)
        self.register_buffer("weight", weight.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        padded = F.pad(x, (2, 2, 2, 2), mode="replicate").reshape(n * c, 1, h + 4, w + 4)
        phases = F.conv2d(padded, self.weight.to(x.dtype))
        return F.pixel_shuffle(phases, self.scale).view(n, c, h * self.scale, w * self.scale)
