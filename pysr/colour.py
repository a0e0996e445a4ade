"""Luma: what the papers measure on, and what learned degradations are trained on."""

from __future__ import annotations

import torch
from torch import Tensor

# BT.601 studio range, as MATLAB: Y, in 255ths, of RGB in [0, 1] is OFFSET + WEIGHTS . RGB.
OFFSET, WEIGHTS = 16.0, (65.481, 128.553, 24.966)
# How far Y, in 255ths, moves when R, G and B all move by 1: Cb and Cr stay as they are then.
RANGE = sum(WEIGHTS)


def luma(rgb: Tensor) -> Tensor:
    """Y of YCbCr, BT.601 studio range, as MATLAB's rgb2ycbcr.

    (N, 3, H, W) in [0, 1] -> (N, 1, H, W) in [16, 235], float64.
    """
    weights = rgb.new_tensor(WEIGHTS, dtype=torch.float64)
    return OFFSET + torch.einsum("nchw,c->nhw", rgb.double(), weights)[:, None]


def unit_luma(rgb: Tensor) -> Tensor:
    """`luma` over 255, of rgb's dtype: what networks on the Y channel see."""
    return (luma(rgb) / 255).to(rgb.dtype)


def with_luma(rgb: Tensor, y: Tensor) -> Tensor:
    """rgb (N, 3, H, W) with y (N, 1, H, W), as `unit_luma` gives it, in place of its own."""
    return rgb + (y - unit_luma(rgb)) * (255 / RANGE)
