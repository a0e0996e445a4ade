"""RDN: dense blocks, all of whose results are fused (Zhang et al., CVPR 2018).

The state dict has the names of the public PyTorch code (SFENet1, RDBs, GFF, UPNet). It subtracts no
mean colour, and the range of its values does not show in the weights: 255, as that code trains it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pysr.nets.checkpoints import PublicNames, State, count
from pysr.nets.parts import AFFORDABLE_HALO, Conv3x3, check_scale, pixel_shuffles, shuffled_scale


@dataclass(frozen=True)
class RDNConfig:
    """Sizes of an RDN; the defaults are the published ones (22.3 M parameters at x4).

    Attributes:
        scale: s, 2, 3 or 4.
        features: G0, channels between blocks.
        growth: G, channels that each convolution of a block adds, and those of the upsampling.
        blocks: D, dense blocks. layers: C, convolutions in each.
        levels: what white is inside the network; 255 in the published ones.
    """

    scale: int = 4
    features: int = 64
    growth: int = 64
    blocks: int = 16
    layers: int = 8
    levels: float = 255.0

    def __post_init__(self):
        check_scale(self.scale, (2, 3, 4))


class DenseLayer(nn.Module):
    """A convolution whose result is put beside what it saw: (N, C, H, W) to (N, C + G, H, W)."""

    def __init__(self, into: int, growth: int):
        super().__init__()
        self.conv = nn.Sequential(Conv3x3(into, growth))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, F.relu(self.conv(x), inplace=True)), 1)


class ResidualDenseBlock(nn.Module):
    """Dense layers, fused by a 1x1 convolution, and a residual. (N, G0, H, W) to the same."""

    def __init__(self, config: RDNConfig):
        super().__init__()
        widths = [config.features + i * config.growth for i in range(config.layers + 1)]
        self.convs = nn.Sequential(*(DenseLayer(width, config.growth) for width in widths[:-1]))
        self.LFF = nn.Conv2d(widths[-1], config.features, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.LFF(self.convs(x))


class RDN(nn.Module):
    """forward(lr): (N, 3, H, W) RGB in [0, 1] -> (N, 3, s*H, s*W), not clipped."""

    def __init__(self, config: RDNConfig | None = None):
        super().__init__()
        self.config = config = config or RDNConfig()
        nf = config.features
        self.SFENet1, self.SFENet2 = Conv3x3(3, nf), Conv3x3(nf, nf)
        self.RDBs = nn.ModuleList(ResidualDenseBlock(config) for _ in range(config.blocks))
        self.GFF = nn.Sequential(nn.Conv2d(config.blocks * nf, nf, 1), Conv3x3(nf, nf))
        shuffles = pixel_shuffles(nf, config.growth, config.scale)
        self.UPNet = nn.Sequential(*shuffles, Conv3x3(config.growth, 3))

    def forward(self, lr: Tensor) -> Tensor:
        shallow = self.SFENet1((lr * self.config.levels).to(self.SFENet1.weight.dtype))
        f, found = self.SFENet2(shallow), []
        for block in self.RDBs:
            f = block(f)
            found.append(f)
        f = shallow + self.GFF(torch.cat(found, 1))
        return self.UPNet(f).to(lr.dtype) / self.config.levels

    @property
    def halo(self) -> int:
        """LR pixels of context for a tile: all that an output pixel depends on in small networks;
        those that see further are given no more (`AFFORDABLE_HALO`)."""
        return min(self.config.blocks * self.config.layers + 5, AFFORDABLE_HALO)


def _config(state: State, scale: int | None) -> RDNConfig:
    growth = len(state["RDBs.0.convs.0.conv.0.weight"])
    return RDNConfig(
        scale=shuffled_scale(state, "UPNet.", growth),
        features=len(state["SFENet1.weight"]),
        growth=growth,
        blocks=count(state, "RDBs."),
        layers=count(state, "RDBs.0.convs."),
    )


PUBLIC_NAMES = (PublicNames("RDBs.0.convs.0.conv.0.weight", _config),)
