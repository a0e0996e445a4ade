"""RRDB: the generator of ESRGAN (Wang et al., ECCVW 2018), ONSR's reconstruction module.

The state dict has the names of the public ESRGAN checkpoints, so that these load unchanged; those
of its first release, numbered, and those of BasicSR load through key maps. x4 upsamples twice by 2;
x2 and x3 have one upsampling and no `upconv2`, as the public x2 generator of BSRGAN does.
Real-ESRGAN's x2, which folds the picture first, is another network.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pysr.nets.checkpoints import PublicNames, State, count
from pysr.nets.parts import AFFORDABLE_HALO, BicubicUpsample, Conv3x3, check_scale

SLOPE = 0.2  # of every LeakyReLU
RESIDUAL = 0.2  # the share of what a block adds


@dataclass(frozen=True)
class RRDBConfig:
    """Sizes of an RRDB network; the defaults are the published ones (16.7 M parameters).

    Attributes:
        scale: s, 2, 3 or 4.
        features: channels between blocks.
        growth: channels that each convolution of a dense block adds.
        blocks: residual-in-residual blocks of three dense blocks each.
        bicubic_skip: the network adds to bicubic interpolation, where training then begins: what
            makes a network of a few blocks trainable in hours. No published one has it.
    """

    scale: int = 4
    features: int = 64
    growth: int = 32
    blocks: int = 23
    bicubic_skip: bool = False

    def __post_init__(self):
        check_scale(self.scale, (2, 3, 4))


class ResidualDenseBlock(nn.Module):
    """Five convolutions, each of which sees what all before it gave. (N, C, H, W) to the same."""

    def __init__(self, features: int, growth: int):
        super().__init__()
        for i in range(5):
            out = growth if i < 4 else features
            conv = Conv3x3(features + i * growth, out)
            nn.init.kaiming_normal_(conv.weight)
            conv.weight.data.mul_(0.1)
            nn.init.zeros_(conv.bias)
            self.add_module(f"conv{i + 1}", conv)

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            seen = torch.cat((seen, F.leaky_relu(conv(seen), SLOPE, inplace=True)), 1)
        return torch.add(x, self.conv5(seen), alpha=RESIDUAL)


class ResidualInResidualDenseBlock(nn.Module):
    """Three dense blocks and a residual around them. (N, C, H, W) to the same."""

    def __init__(self, features: int, growth: int):
        super().__init__()
        self.RDB1, self.RDB2, self.RDB3 = (ResidualDenseBlock(features, growth) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.RDB3(self.RDB2(self.RDB1(x))), alpha=RESIDUAL)


class RRDB(nn.Module):
    """forward(lr): (N, 3, H, W) RGB in [0, 1] -> (N, 3, s*H, s*W), not clipped."""

    def __init__(self, config: RRDBConfig | None = None):
        super().__init__()
        self.config = config = config or RRDBConfig()
        nf = config.features
        self.conv_first = Conv3x3(3, nf)
        self.RRDB_trunk = nn.Sequential(
            *(ResidualInResidualDenseBlock(nf, config.growth) for _ in range(config.blocks))
        )
        self.trunk_conv = Conv3x3(nf, nf)
        self.upconv1 = Conv3x3(nf, nf)
        self.upconv2 = Conv3x3(nf, nf) if config.scale == 4 else None
        self.HRconv = Conv3x3(nf, nf)
        self.conv_last = Conv3x3(nf, 3)
        self.skip = BicubicUpsample(config.scale) if config.bicubic_skip else None
        if config.bicubic_skip:
            nn.init.zeros_(self.conv_last.weight)
            nn.init.zeros_(self.conv_last.bias)

    def forward(self, lr: Tensor) -> Tensor:
        f = self.conv_first(lr.to(self.conv_first.weight.dtype))
        f = f + self.trunk_conv(self.RRDB_trunk(f))
        f = self._upsampled(f, self.upconv1, 2 if self.upconv2 is not None else self.config.scale)
        if self.upconv2 is not None:
            f = self._upsampled(f, self.upconv2, 2)
        sr = self.conv_last(F.leaky_relu(self.HRconv(f), SLOPE, inplace=True))
        return sr if self.skip is None else sr + self.skip(lr)

    @staticmethod
    def _upsampled(f: Tensor, conv: nn.Conv2d, factor: int) -> Tensor:
        larger = F.interpolate(f, scale_factor=factor, mode="nearest")
        return F.leaky_relu(conv(larger), SLOPE, inplace=True)

    @property
    def halo(self) -> int:
        """LR pixels of context for a tile: all that an output pixel depends on up to four blocks;
        deeper networks, which see further, are given no more (`AFFORDABLE_HALO`)."""
        upsampling = 2  # three convolutions at full size and one at half
        return min(15 * len(self.RRDB_trunk) + 2 + upsampling, AFFORDABLE_HALO)


def _config(state: State, scale: int | None) -> RRDBConfig:
    usual = 4 if "upconv2.weight" in state else 2
    return RRDBConfig(
        # One upsampling may be by 2 or by 3; the weights do not tell.
        scale=3 if scale == 3 and usual == 2 else usual,
        features=len(state["conv_first.weight"]),
        growth=len(state["RRDB_trunk.0.RDB1.conv1.weight"]),
        blocks=count(state, "RRDB_trunk."),
    )


# The same layers of x4 and of x2, which has one upsampling less, have different numbers at the end.
_NUMBERED = (
    (r"^model\.0\.", "conv_first."),
    (r"^model\.1\.sub\.(\d+)\.(RDB\d)\.(conv\d)\.0\.", r"RRDB_trunk.\1.\2.\3."),
    (r"^model\.1\.sub\.\d+\.(weight|bias)$", r"trunk_conv.\1"),
    (r"^model\.3\.", "upconv1."),
    (r"^model\.6\.", "upconv2."),
    (r"^model\.[58]\.", "HRconv."),
    (r"^model\.(7|10)\.", "conv_last."),
)

_BASICSR = (
    (r"^body\.(\d+)\.rdb", r"RRDB_trunk.\1.RDB"),
    (r"^conv_body\.", "trunk_conv."),
    (r"^conv_up", "upconv"),
    (r"^conv_hr\.", "HRconv."),
)

PUBLIC_NAMES = (
    PublicNames("RRDB_trunk.0.RDB1.conv1.weight", _config),
    PublicNames("model.1.sub.0.RDB1.conv1.0.weight", _config, _NUMBERED),
    PublicNames("body.0.rdb1.conv1.weight", _config, _BASICSR),
)
