"""ABL: features blurred by mixtures of Gaussians that stand for the optics (abl.txt, section 3.2).

What is learned is how a picture turns into features, which mixture blurs each of them, and how they
turn back into a picture. The Gaussians are given, by the factor of their variances: changing it
afterwards moves the degradation to another imaging system.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pysr import blur
from pysr._ext import MOST_TAPS
from pysr.nets.parts import Conv3x3, check_ranges
from pysr.ops import mixture_blur

SECOND_FACTOR = 1.2  # abl.txt, section 4.1.2


@dataclass(frozen=True)
class ABLConfig:
    """Sizes of an ABL. The paper gives channels and Gaussians; the number of blocks is ours.

    Attributes:
        scale: s, 1, 2 or 4: the decoder has a convolution of stride 2 for each halving.
        group: 1, four Gaussians of `factor`; 2, four more of 1.2 * `factor`.
        factor: of the Gaussians' variances (abl.txt, equation 6).
        features: channels that are blurred.
        blocks: residual blocks of the encoder.
        kernel_size: k of the Gaussians.
    """

    scale: int = 4
    group: int = 1
    factor: float = 1.0
    features: int = 128
    blocks: int = 4
    kernel_size: int = 16

    def __post_init__(self):
        for name, choices in (("scale", (1, 2, 4)), ("group", (1, 2))):
            if getattr(self, name) not in choices:
                listed = ", ".join(map(str, choices))
                raise ValueError(f"{name}: expected one of {listed}, got {getattr(self, name)}")
        check_ranges(self, features=(1, 1024), blocks=(1, 64), kernel_size=(1, MOST_TAPS))


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), without normalisation (abl.txt, Figure 3). (N, C, H, W)."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            Conv3x3(channels, channels),
            nn.ReLU(inplace=True),
            Conv3x3(channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ABL(nn.Module):
    """Grey HR picture to grey LR picture (abl.txt, Figure 2)."""

    def __init__(self, config: ABLConfig):
        super().__init__()
        self.config, c = config, config.features
        self.encoder = nn.Sequential(
            Conv3x3(1, c), *(ResidualBlock(c) for _ in range(config.blocks))
        )
        self.logits = nn.Parameter(torch.zeros(c, len(blur.MIXTURE_ANGLES) * config.group))
        halvings = config.scale.bit_length() - 1
        strided = [nn.Conv2d(c, c, 3, stride=2, padding=1) for _ in range(halvings)]
        layers = [layer for step in strided for layer in (step, nn.ReLU(inplace=True))]
        self.decoder = nn.Sequential(*layers, Conv3x3(c, 1))
        self.register_buffer("gaussians", torch.empty(0), persistent=False)
        self.set_factor(config.factor)

    @property
    def factor(self) -> float:
        """Of the Gaussians in use."""
        return self.config.factor

    def set_factor(self, factor: float) -> None:
        """Blur by other Gaussians from now on, noted in `config`; what was learned stays.

        Raises ValueError unless the factor is above 0, and for one whose Gaussians are so wide, or
        so narrow, that the kernels keep less than half of them.
        """
        factors = (factor, SECOND_FACTOR * factor)[: self.config.group]
        gaussians = blur.mixture_gaussians(self.config.kernel_size, factors)
        kept = gaussians.sum((1, 2))
        if not bool(((kept - 1).abs() <= 0.5).all()):
            raise ValueError(
                f"factor: expected Gaussians that {self.config.kernel_size} taps hold at least "
                f"half of, {factor:.4g} leaves {kept.min().item():.2g}"
            )
        self.gaussians = gaussians.to(self.logits)
        self.config = replace(self.config, factor=float(factor))

    @property
    def weights(self) -> Tensor:
        """(C, G): what each channel takes of each Gaussian; positive, sums to 1 per channel."""
        return F.softmax(self.logits, 1)

    def forward(self, y: Tensor) -> Tensor:
        """(N, 1, H, W) -> (N, 1, ceil(H/s), ceil(W/s)), not clipped."""
        features = self.encoder(y)
        blurred = mixture_blur(features, self.weights, self.gaussians)
        return self.decoder(blurred)
