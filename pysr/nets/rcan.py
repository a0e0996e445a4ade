"""RCAN: groups of residual blocks with channel attention (Zhang et al., ECCV 2018).

The state dict has the names of the public checkpoints; `sub_mean` and `add_mean` are treated as in
`pysr.nets.edsr`. Attention pools over all that the network is shown: of a picture in tiles each
tile has its own, which makes a difference that no halo takes away.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from pysr.nets.checkpoints import PublicNames, State, count
from pysr.nets.parts import AFFORDABLE_HALO, Conv3x3, HeadBodyTail, check_scale, shuffled_scale


@dataclass(frozen=True)
class RCANConfig:
    """Sizes of an RCAN; the defaults are the published ones (15.6 M parameters).

    Attributes:
        scale: s, 2, 3 or 4.
        features: channels.
        groups, blocks: residual groups, and blocks in each.
        reduction: channels over those in the middle of channel attention.
        levels: what white is inside the network; 255 in the published ones.
    """

    scale: int = 4
    features: int = 64
    groups: int = 10
    blocks: int = 20
    reduction: int = 16
    levels: float = 255.0

    def __post_init__(self):
        check_scale(self.scale, (2, 3, 4))
        if not 1 <= self.reduction <= self.features:
            raise ValueError(f"reduction: expected 1 to {self.features}, got {self.reduction}")


class ChannelAttention(nn.Module):
    """Every channel times a number in (0, 1) that depends on all channels' means."""

    def __init__(self, features: int, reduction: int):
        super().__init__()
        self.conv_du = nn.Sequential(
            nn.Conv2d(features, features // reduction, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(features // reduction, features, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv_du(x.mean((2, 3), keepdim=True))


class Residual(nn.Module):
    """x + body(x): a block, or a group of blocks."""

    def __init__(self, *body: nn.Module):
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class RCAN(HeadBodyTail):
    """See `HeadBodyTail`."""

    def __init__(self, config: RCANConfig | None = None):
        config = config or RCANConfig()
        groups = (_group(config) for _ in range(config.groups))
        super().__init__(groups, config.features, config.scale, config.levels)
        self.config = config

    @property
    def halo(self) -> int:
        """LR pixels of context for a tile: all that an output pixel depends on, attention aside, in
        small networks; those that see further are given no more (`AFFORDABLE_HALO`)."""
        reach = self.config.groups * (2 * self.config.blocks + 1) + 4
        return min(reach, AFFORDABLE_HALO)


def _group(config: RCANConfig) -> Residual:
    nf = config.features
    blocks = (
        Residual(
            Conv3x3(nf, nf),
            nn.ReLU(inplace=True),
            Conv3x3(nf, nf),
            ChannelAttention(nf, config.reduction),
        )
        for _ in range(config.blocks)
    )
    return Residual(*blocks, Conv3x3(nf, nf))


def _config(state: State, scale: int | None) -> RCANConfig:
    features = len(state["head.0.weight"])
    return RCANConfig(
        scale=shuffled_scale(state, "tail.0.", features),
        features=features,
        groups=count(state, "body.") - 1,  # the last is a convolution, here and in a group
        blocks=count(state, "body.0.body.") - 1,
        reduction=features // len(state["body.0.body.0.body.3.conv_du.0.weight"]),
        levels=HeadBodyTail.levels_of(state),
    )


PUBLIC_NAMES = (
    PublicNames("body.0.body.0.body.3.conv_du.0.weight", _config, dropped="(sub|add)_mean"),
)
