"""VDSR: twenty convolutions that correct the interpolated picture (Kim et al., CVPR 2016).

It works at full size on the Y channel alone, after MATLAB's bicubic interpolation, so that one set
of weights serves every scale. There are no biases, as in the public PyTorch weights. Their Y is
MATLAB's, from 16 / 255 to 235 / 255: taken as 0 to 1 they lose 0.03 to 0.08 dB on Set5.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn

from pysr.colour import RANGE, unit_luma
from pysr.nets.checkpoints import PublicNames, State, count
from pysr.nets.parts import Conv3x3
from pysr.resize import imresize


@dataclass(frozen=True)
class VDSRConfig:
    """Sizes of a VDSR; the defaults are the published network (0.66 M parameters).

    Attributes:
        scale: s, what it interpolates by, 1 or more; no weight depends on it.
        layers: convolutions, at least 2.
        features: channels between them, at least 1.
    """

    scale: int = 4
    layers: int = 20
    features: int = 64

    def __post_init__(self):
        if self.scale < 1:
            raise ValueError(f"scale: expected a whole number from 1 on, got {self.scale}")
        if self.layers < 2:
            raise ValueError(f"layers: expected at least 2, got {self.layers}")
        if self.features < 1:
            raise ValueError(f"features: expected at least 1, got {self.features}")


class VDSR(nn.Module):
    """Interpolation and a correction of Y.

    forward(lr): (N, 3, H, W) RGB in [0, 1], of which Y is corrected and Cb and Cr are interpolated;
    or (N, 1, H, W), Y as `pysr.colour.unit_luma` gives it -> (N, C, s*H, s*W), not clipped.
    Training begins at interpolation.
    """

    def __init__(self, config: VDSRConfig | None = None):
        super().__init__()
        self.config = config = config or VDSRConfig()
        widths = [1, *[config.features] * (config.layers - 1), 1]
        self.layers = nn.ModuleList(
            Conv3x3(a, b, bias=False) for a, b in zip(widths, widths[1:], strict=False)
        )
        for conv in self.layers[:-1]:
            nn.init.kaiming_normal_(conv.weight)
        nn.init.zeros_(self.layers[-1].weight)

    def forward(self, lr: Tensor) -> Tensor:
        up = imresize(lr, self.config.scale)
        if lr.shape[1] == 1:
            return up + self.residual(up)
        return up + (255 / RANGE) * self.residual(unit_luma(up))  # moves Y alone

    def residual(self, y: Tensor) -> Tensor:
        """What is missing in an interpolated Y channel (N, 1, H, W)."""
        f = y.to(self.layers[0].weight.dtype)
        for conv in self.layers[:-1]:
            f = F.relu(conv(f), inplace=True)
        return self.layers[-1](f)

    def with_scale(self, scale: int) -> VDSR:
        """A copy that upscales by another factor with the same weights."""
        other = copy.deepcopy(self)
        other.config = replace(self.config, scale=scale)
        return other

    @property
    def halo(self) -> int:
        """LR pixels around an output pixel that it depends on."""
        interpolation = 3
        return math.ceil(len(self.layers) / self.config.scale) + interpolation


def _config(state: State, scale: int | None) -> VDSRConfig:
    features = len(state["layers.0.weight"])
    given = {} if scale is None else {"scale": scale}
    return VDSRConfig(layers=count(state, "layers."), features=features, **given)


def _renames(layers: int) -> tuple[tuple[str, str], ...]:
    inner = tuple((rf"^residual_layer\.{i}\.conv\.", f"layers.{i + 1}.") for i in range(layers - 2))
    return ((r"^input\.", "layers.0."), *inner, (r"^output\.", f"layers.{layers - 1}."))


# The public 20 layers: input, residual_layer.0.conv to residual_layer.17.conv, output.
PUBLIC_NAMES = (PublicNames("residual_layer.17.conv.weight", _config, _renames(20)),)
