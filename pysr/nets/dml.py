"""DML and its two rivals: degradations with a kernel per pixel (dml.txt, sections 3.2 and 4.3).

The three differ in what one and the same encoder-decoder predicts for every pixel: how much of each
learned basis kernel (DML), a whole kernel (DirectKPN), or what to add to the pixel (DirectNet).
The paper names the backbone's parts and no sizes; depth, widths and the skip connections are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pysr.nets.parts import Conv3x3, check_ranges
from pysr.ops import basis_svconv, svconv


@dataclass(frozen=True)
class DMLConfig:
    """Sizes of a DML or of a rival.

    Attributes:
        predicts: "coefficients" (DML), "kernels" (DirectKPN) or "pixels" (DirectNet).
        scale: s, 1 to 4: every s-th pixel is kept. RealSR's pairs, which the paper trains on, are
            of one size (1).
        bases: N, how many basis kernels; only DML has any.
        kernel_size: k of bases or kernels.
        features: channels of the backbone at full size; each level below has twice as many.
        levels: max poolings of the backbone.
    """

    predicts: str = "coefficients"
    scale: int = 1
    bases: int = 8
    kernel_size: int = 15
    features: int = 64
    levels: int = 2

    def __post_init__(self):
        if self.predicts not in NETWORKS:
            raise ValueError(
                f"predicts: expected one of {', '.join(NETWORKS)}, got {self.predicts!r}"
            )
        check_ranges(
            self,
            scale=(1, 4),
            bases=(1, 32),
            kernel_size=(1, 31),
            features=(1, 1024),
            levels=(0, 6),
        )


class EncoderDecoder(nn.Module):
    """Max pooling down, bilinear interpolation up, two 3x3 convolutions a level (dml.txt, 3.2).

    forward(y): y (N, 1, H, W) -> (N, channels, H, W), of any size; the features of the way down are
    added to those of the way up.
    """

    def __init__(self, config: DMLConfig, channels: int):
        super().__init__()
        widths = [config.features * 2**level for level in range(config.levels + 1)]
        self.down = nn.ModuleList(
            _two_convolutions(inner, width)
            for inner, width in zip([1, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(
            Conv3x3(wide, narrow) for narrow, wide in zip(widths, widths[1:], strict=False)
        )
        self.out = Conv3x3(widths[0], channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)  # dml.txt, section 4.2
                nn.init.zeros_(module.bias)

    def forward(self, y: Tensor) -> Tensor:
        features = [self.down[0](y)]
        for level in self.down[1:]:
            features.append(level(F.max_pool2d(features[-1], 2, ceil_mode=True)))
        f = features.pop()
        for level in reversed(self.up):
            skip = features.pop()
            f = F.interpolate(f, skip.shape[-2:], mode="bilinear", align_corners=False)
            f = F.relu(level(f)) + skip
        return self.out(f)


def _two_convolutions(inner: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        Conv3x3(inner, width),
        nn.ReLU(inplace=True),
        Conv3x3(width, width),
        nn.ReLU(inplace=True),
    )


class DML(nn.Module):
    """Per pixel a weighted sum of learned basis kernels (dml.txt, equations 2 and 3).

    The bases sum to 1 at every step, since only their deviation from the mean is learned; the
    coefficients come from a sigmoid and may sum to anything. Training starts at coefficients that
    sum to about 1: at the sigmoid's middle, N bases would make the picture N / 2 times as bright.
    """

    def __init__(self, config: DMLConfig):
        super().__init__()
        self.config, k = config, config.kernel_size
        self.backbone = EncoderDecoder(config, config.bases)
        nn.init.constant_(self.backbone.out.bias, -math.log(max(config.bases - 1, 0.01)))
        random = torch.rand(config.bases, k, k)
        self.free_bases = nn.Parameter(random / random.sum((1, 2), keepdim=True))

    @property
    def bases(self) -> Tensor:
        """(M, k, k); each sums to 1. Taps may be negative."""
        free = self.free_bases
        return free - free.mean((1, 2), keepdim=True) + 1 / free[0].numel()

    def coefficients(self, y: Tensor) -> Tensor:
        """Weights of the bases in (0, 1) for every output pixel: (N, M, ceil(H/s), ceil(W/s))."""
        s = self.config.scale
        return torch.sigmoid(self.backbone(y))[..., ::s, ::s].contiguous()

    def kernels(self, y: Tensor, step: int = 1) -> Tensor:
        """The kernels that the coefficients stand for, of every step-th output pixel.

        (N, k, k, ceil(Ho / step), ceil(Wo / step)); at step 1 k * k times as large as the output.
        """
        return torch.einsum(
            "nmij,mkl->nklij", self.coefficients(y)[..., ::step, ::step], self.bases
        )

    def mean_kernels(self, y: Tensor) -> Tensor:
        """`kernels`, averaged over the pixels, without building them: (N, k, k)."""
        return torch.einsum("nm,mkl->nkl", self.coefficients(y).mean((2, 3)), self.bases)

    def forward(self, y: Tensor, picture: Tensor | None = None) -> Tensor:
        """Degrade y (N, 1, H, W), or a picture (N, C, H, W) by the kernels that y asks for.

        Returns (N, C, ceil(H/s), ceil(W/s)), not clipped.
        """
        x = y if picture is None else picture
        return basis_svconv(x, self.coefficients(y), self.bases, self.config.scale)


class DirectKPN(nn.Module):
    """A kernel per pixel straight from the backbone (dml.txt, section 4.3).

    Training starts about the mean kernel's place, as DML's does: at a box of sum 1.
    """

    def __init__(self, config: DMLConfig):
        super().__init__()
        self.config, taps = config, config.kernel_size**2
        self.backbone = EncoderDecoder(config, taps)
        nn.init.constant_(self.backbone.out.bias, 1 / taps)
        self.backbone.out.weight.data.mul_(1 / taps)

    def kernels(self, y: Tensor, step: int = 1) -> Tensor:
        """As `DML.kernels`; neither their sums nor their signs are bounded."""
        s, k = self.config.scale * step, self.config.kernel_size
        return self.backbone(y)[..., ::s, ::s].unflatten(1, (k, k)).contiguous()

    def mean_kernels(self, y: Tensor) -> Tensor:
        """`kernels`, averaged over the pixels: (N, k, k)."""
        return self.kernels(y).mean((3, 4))

    def forward(self, y: Tensor, picture: Tensor | None = None) -> Tensor:
        """As `DML.forward`."""
        return svconv(y if picture is None else picture, self.kernels(y), self.config.scale)


class DirectNet(nn.Module):
    """What is added to every pixel, straight from the backbone (dml.txt, section 4.3)."""

    def __init__(self, config: DMLConfig):
        super().__init__()
        self.config = config
        self.backbone = EncoderDecoder(config, 1)
        self.backbone.out.weight.data.mul_(0.1)

    def forward(self, y: Tensor) -> Tensor:
        """(N, 1, H, W) -> (N, 1, ceil(H/s), ceil(W/s)), not clipped."""
        s = self.config.scale
        return (y + self.backbone(y))[..., ::s, ::s]


NETWORKS = {"coefficients": DML, "kernels": DirectKPN, "pixels": DirectNet}


def build_dml(config: DMLConfig) -> DML | DirectKPN | DirectNet:
    """The network of a configuration, with random weights."""
    return NETWORKS[config.predicts](config)
