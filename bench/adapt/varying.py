"""A degradation whose blur varies over the picture, in the place of ONSR's; and a picture with one.

Not part of the library: what it brings, and what not, is in bench/results/adapt_quality.json.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from pysr import blur
from pysr.adapt.onsr import ONSR
from pysr.colour import unit_luma
from pysr.degrade import imresize, to_8bit
from pysr.degrade.deep_linear import bicubic_taps, convolved
from pysr.nets.dml import DMLConfig, EncoderDecoder
from pysr.ops import basis_svconv, svconv

SIDE = 31  # of the basis kernels, which bicubic downsampling is part of
WIDTHS = (0.0, 0.7, 1.4)  # HR pixels that the bases begin wider by than the estimate
BACKBONE_RATE = 1e-3


class VaryingBlur(nn.Module):
    """Per pixel a mixture of learned kernels, weighed by what the picture looks like there.

    The interface is that of `pysr.degrade.deep_linear.DeepLinear`. It begins as `begin` (k, k).
    """

    reach = 8

    def __init__(self, scale: int, begin: Tensor):
        super().__init__()
        self.scale = scale
        wider = [blur.dirac(1), *(blur.isotropic(width, 9) for width in WIDTHS[1:])]
        folded = [convolved(convolved(begin, each), bicubic_taps(scale)) for each in wider]
        self.bases = nn.Parameter(torch.stack([blur.resized(one, SIDE) for one in folded]))
        self.backbone = EncoderDecoder(DMLConfig(features=8, levels=2), len(WIDTHS))
        nn.init.zeros_(self.backbone.out.weight)
        with torch.no_grad():
            self.backbone.out.bias[0] = 3.0
        self.begin = begin

    def kernel(self) -> Tensor:
        return self.begin

    def frozen(self) -> VaryingBlur:
        return copy.deepcopy(self).requires_grad_(False)

    def forward(self, hr: Tensor) -> Tensor:
        # The weights are looked up in the picture as it is, and teach it nothing.
        shares = self.backbone(unit_luma(hr.detach()))[..., :: self.scale, :: self.scale]
        bases = blur.normalise(self.bases)
        return basis_svconv(hr, shares.softmax(1).contiguous(), bases, self.scale)

    def hasten(self, learner: ONSR) -> None:
        """ONSR's rate is one for kernels."""
        kernels = {id(self.bases), *(id(p) for p in learner.model.parameters())}
        for group in learner.optimiser.param_groups:
            if not any(id(p) in kernels for p in group["params"]):
                group["lr"] = BACKBONE_RATE


def defocused(hr: Tensor, scale: int, widths: tuple[float, float] = (0.5, 2.4)) -> Tensor:
    """(1, 3, H, W) under Gaussians that widen from left to right, then bicubic, in 8 bits."""
    height, width = hr.shape[-2:]
    columns = torch.linspace(*widths, width)
    kernels = torch.stack([blur.isotropic(float(sigma), 17) for sigma in columns])
    field = kernels.permute(1, 2, 0)[None, :, :, None].expand(-1, -1, -1, height, -1)
    return to_8bit(imresize(svconv(hr, field.contiguous()), 1 / scale))
