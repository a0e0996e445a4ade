"""EDSR: plain residual blocks without normalisation (Lim et al., CVPRW 2017).

The state dict has the names of the public PyTorch checkpoints, which load unchanged but for
`sub_mean` and `add_mean`: what these layers do needs no weights here (`HeadBodyTail`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pysr.nets.checkpoints import PublicNames, State, count
from pysr.nets.parts import AFFORDABLE_HALO, Conv3x3, HeadBodyTail, check_scale, shuffled_scale


@dataclass(frozen=True)
class EDSRConfig:
    """Sizes of an EDSR; the defaults are the published baseline (1.5 M parameters at x4).

    Attributes:
        scale: s, 2, 3 or 4.
        features: channels; the large network has 256 (43 M parameters).
        blocks: residual blocks; the large network has 32.
        residual: the share of what a block adds; 0.1 in the large network, which would not train
            without.
        levels: what white is inside the network; 255 in the published ones.
    """

    scale: int = 4
    features: int = 64
    blocks: int = 16
    residual: float = 1.0
    levels: float = 255.0

    def __post_init__(self):
        check_scale(self.scale, (2, 3, 4))


class ResidualBlock(nn.Module):
    """Two convolutions with a ReLU between them. (N, C, H, W) to the same."""

    def __init__(self, features: int, residual: float):
        super().__init__()
        self.body = nn.Sequential(
            Conv3x3(features, features), nn.ReLU(inplace=True), Conv3x3(features, features)
        )
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.body(x), alpha=self.residual)


class EDSR(HeadBodyTail):
    """See `HeadBodyTail`."""

    def __init__(self, config: EDSRConfig | None = None):
        config = config or EDSRConfig()
        blocks = (ResidualBlock(config.features, config.residual) for _ in range(config.blocks))
        super().__init__(blocks, config.features, config.scale, config.levels)
        self.config = config

    @property
    def halo(self) -> int:
        """LR pixels of context for a tile: all that an output pixel depends on up to 30 blocks;
        deeper networks, which see further, are given no more (`AFFORDABLE_HALO`)."""
        return min(2 * self.config.blocks + 4, AFFORDABLE_HALO)


def _config(state: State, scale: int | None) -> EDSRConfig:
    features = len(state["head.0.weight"])
    return EDSRConfig(
        scale=shuffled_scale(state, "tail.0.", features),
        features=features,
        blocks=count(state, "body.") - 1,  # the last is a convolution
        # The weights do not tell; of the published networks only those of 256 channels scale.
        residual=0.1 if features >= 256 else 1.0,
        levels=HeadBodyTail.levels_of(state),
    )


PUBLIC_NAMES = (PublicNames("body.0.body.0.weight", _config, dropped="(sub|add)_mean"),)
