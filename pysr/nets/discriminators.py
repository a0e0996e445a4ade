"""Discriminators: whether a picture, or each part of one, is real or made.

They give logits, for `softplus` losses or others. Nothing is normalised: online, a batch is a few
patches of one picture, real and made apart, whose statistics would give away which is which.
"""

from __future__ import annotations

from torch import Tensor, nn

from pysr.nets.parts import Conv3x3

SLOPE = 0.2  # of every LeakyReLU


class VGGDiscriminator(nn.Module):
    """The VGG-style discriminator of 32x32 patches (onsr.txt, section 3.5; widths are ours).

    forward(x): (N, C, 32, 32) -> (N, 1), above 0 for real. Raises ValueError for another size.

    Args:
        channels: C. features: of the first of five stages, doubled three times; every stage but
            the first halves height and width.
    """

    SIZE = 32

    def __init__(self, channels: int = 3, features: int = 32):
        super().__init__()
        layers = [Conv3x3(channels, features), nn.LeakyReLU(SLOPE, inplace=True)]
        widths = [features, 2 * features, 4 * features, 8 * features]
        for width, wider in zip(widths, [*widths[1:], widths[-1]], strict=True):
            layers += [
                nn.Conv2d(width, width, 4, stride=2, padding=1),
                nn.LeakyReLU(SLOPE, inplace=True),
                Conv3x3(width, wider),
                nn.LeakyReLU(SLOPE, inplace=True),
            ]
        self.features = nn.Sequential(*layers)
        left = self.SIZE // 2 ** len(widths)
        self.classifier = nn.Sequential(
            nn.Linear(widths[-1] * left**2, 100),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Linear(100, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[-2:]) != (self.SIZE, self.SIZE):
            raise ValueError(f"x: expected patches of 32x32, got {tuple(x.shape)}")
        return self.classifier(self.features(x).flatten(1))


class PatchDiscriminator(nn.Module):
    """Judges every part of a picture by itself (Isola et al., CVPR 2017, "PatchGAN").

    forward(x): (N, C, H, W) -> (N, 1, h, w), above 0 for real; each value sees 70x70 pixels with
    three layers, 34x34 with two, 16x16 with one. Raises ValueError for less than 3 * 2 ** layers
    pixels.

    Args:
        channels: C. features: of the first convolution, doubled by each further one up to eight
            times. layers: convolutions of stride 2, at least 1.
    """

    def __init__(self, channels: int = 3, features: int = 64, layers: int = 3):
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers: expected at least 1, got {layers}")
        body = [
            nn.Conv2d(channels, features, 4, stride=2, padding=1),
            nn.LeakyReLU(SLOPE, inplace=True),
        ]
        width = features
        for i in range(1, layers + 1):
            wider = features * min(2**i, 8)
            body += [
                nn.Conv2d(width, wider, 4, stride=2 if i < layers else 1, padding=1),
                nn.LeakyReLU(SLOPE, inplace=True),
            ]
            width = wider
        self.body = nn.Sequential(*body, nn.Conv2d(width, 1, 4, padding=1))
        self.smallest = 3 * 2**layers

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[-2:]) < self.smallest:
            raise ValueError(
                f"x: expected at least {self.smallest}x{self.smallest} pixels, got {tuple(x.shape)}"
            )
        return self.body(x)
