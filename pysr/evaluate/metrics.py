"""PSNR and SSIM as the papers' tables have them: on luma, 8-bit, with the border left out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pysr.colour import luma
from pysr.degrade import to_8bit

LARGEST = 16  # networks may overshoot 1; what goes further counts to 255, or to more


@torch.no_grad()
def psnr(x: Tensor, y: Tensor, border: int = 0) -> float:
    """PSNR in dB between two pictures (1, 3, H, W) in [0, 1], rounded to 8 bits, on Y.

    `border` pixels are left out at each side. Identical pictures give infinity.
    Raises ValueError for pictures of two sizes or of another shape, not in floating point or in
    another range, or where no pixel is left.
    """
    x, y = _prepared(x, y, border)
    error = torch.mean((x - y) ** 2)
    return float(10 * torch.log10(255.0**2 / error))


@torch.no_grad()
def ssim(x: Tensor, y: Tensor, border: int = 0) -> float:
    """SSIM between two pictures (1, 3, H, W) in [0, 1], rounded to 8 bits, on Y.

    The window is an 11x11 Gaussian of sigma 1.5 over the valid region (Wang et al. 2004, K1 = 0.01,
    K2 = 0.03, L = 255); `border` pixels are left out at each side first.
    Raises ValueError as `psnr`, and where less than 11 pixels are left.
    """
    x, y = _prepared(x, y, border)
    if min(x.shape[-2:]) < 11:
        raise ValueError(
            f"ssim: expected at least 11x11 pixels inside the border, got {tuple(x.shape)}"
        )
    axis = torch.arange(-5.0, 6.0, dtype=torch.float64, device=x.device)
    line = torch.exp(-(axis**2) / (2 * 1.5**2))
    line = line / line.sum()

    def window(z: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(z, line.view(1, 1, 11, 1)), line.view(1, 1, 1, 11))

    mean_x, mean_y = window(x), window(y)
    var_x, var_y = window(x * x) - mean_x**2, window(y * y) - mean_y**2
    covariance = window(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    score = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    score = score / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(score.mean())


def _prepared(x: Tensor, y: Tensor, border: int) -> tuple[Tensor, Tensor]:
    """Y of both in 8 bits, inside the border."""
    if x.shape != y.shape:
        raise ValueError(f"expected pictures of one size, got {tuple(x.shape)}, {tuple(y.shape)}")
    if x.ndim != 4 or x.shape[:2] != (1, 3):
        raise ValueError(f"expected pictures of (1, 3, H, W), got {tuple(x.shape)}")
    for picture in (x, y):
        if not picture.is_floating_point() or picture.amax() > LARGEST:
            raise ValueError(
                "expected pictures in floating point, in [0, 1], got values up to "
                f"{float(picture.amax()):g} of {picture.dtype}"
            )
    height, width = x.shape[-2:]
    if border < 0 or min(height, width) <= 2 * border:
        raise ValueError(f"expected pixels inside a border of {border}, got {width}x{height}")
    rows, columns = slice(border, height - border), slice(border, width - border)
    return luma(to_8bit(x))[..., rows, columns], luma(to_8bit(y))[..., rows, columns]
