"""JPEG's loss, for whole batches on any device: what compression leaves, without a file."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# The tables of ITU-T T.81, annex K.1, which libjpeg scales by quality.
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *(((99,) * 8,) * 4),
)
# JFIF: Y, Cb and Cr, the latter two around 128, of RGB in [0, 255].
_TO_YCC = (
    (0.299, 0.587, 0.114),
    (-0.168735892, -0.331264108, 0.5),
    (0.5, -0.418687589, -0.081312411),
)
_TO_RGB = ((1, 0, 1.402), (1, -0.344136286, -0.714136286), (1, 1.772, 0))
_BLOCK = 8


def jpeg(x: Tensor, quality: Tensor | int) -> Tensor:
    """Pictures as they come back from a baseline JPEG file with chroma at half the size (4:2:0).

    Computed as libjpeg does it, which is what most files were made by, to within its own rounding
    of the transform, in float32 or wider, whatever `torch.autocast` is in force; not
    differentiable.

    Args:
        x: (N, 3, H, W) in [0, 1], floating point.
        quality: from 1 to 100, libjpeg's scale; one number or (N,).
    Returns:
        (N, 3, H, W), multiples of 1/255, of x's dtype.
    Raises:
        ValueError: for a quality outside that range, and for other shapes or types.
    """
    if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
        got = f"{tuple(x.shape)} of {x.dtype}"
        raise ValueError(f"x: expected (N, 3, H, W) in floating point, got {got}")
    wide = torch.promote_types(x.dtype, torch.float32)
    quality = torch.as_tensor(quality, dtype=wide, device=x.device)
    if quality.numel() not in (1, len(x)):
        raise ValueError(f"quality: expected one or {len(x)}, got {quality.numel()}")
    quality = quality.expand(len(x))
    if not bool(((quality >= 1) & (quality <= 100)).all()):
        raise ValueError(f"quality: expected 1 to 100, got {quality.tolist()}")
    with torch.autocast(x.device.type, enabled=False):
        return _compressed(x.to(wide), quality).to(x.dtype)


def _compressed(x: Tensor, quality: Tensor) -> Tensor:
    """`jpeg` for qualities (N,)."""
    height, width = x.shape[-2:]
    # Whole blocks of the halved chroma.
    bottom, right = -height % (2 * _BLOCK), -width % (2 * _BLOCK)
    x = F.pad((x.clamp(0, 1) * 255).round(), (0, right, 0, bottom), mode="replicate")
    y, chroma = torch.einsum("dc,nchw->ndhw", x.new_tensor(_TO_YCC), x).round().split((1, 2), 1)
    y = _coded(y - 128, _table(_LUMA, quality)) + 128
    chroma = _coded(F.avg_pool2d(chroma, 2).round(), _table(_CHROMA, quality))
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear")
    rgb = torch.einsum("dc,nchw->ndhw", x.new_tensor(_TO_RGB), torch.cat((y, chroma), 1))
    return rgb[..., :height, :width].round().clamp(0, 255) / 255


def _table(table: tuple, quality: Tensor) -> Tensor:
    """Steps of the quantiser, (N, 1, 1, 8, 1, 8), for qualities (N,)."""
    percent = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    steps = quality.new_tensor(table) * percent[:, None, None]
    return ((steps + 50) / 100).floor().clamp(1, 255)[:, None, None, :, None, :]


def _coded(plane: Tensor, steps: Tensor) -> Tensor:
    """Planes (N, C, H, W) after their cosine transform has been rounded to whole steps."""
    n, channels, height, width = plane.shape
    blocks = plane.reshape(n, channels, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
    dct = _dct().to(plane)
    waves = torch.einsum("ui,ncyixj,vj->ncyuxv", dct, blocks, dct)
    waves = (waves / steps).round() * steps
    blocks = torch.einsum("ui,ncyuxv,vj->ncyixj", dct, waves, dct)
    return blocks.reshape(plane.shape).round().clamp(-128, 127)


def _dct() -> Tensor:
    """The orthonormal cosine transform of 8 samples: (frequency, sample)."""
    frequency, sample = torch.arange(_BLOCK)[:, None], torch.arange(_BLOCK)
    waves = torch.cos((2 * sample + 1) * frequency * (math.pi / (2 * _BLOCK))) * 0.5
    waves[0] *= math.sqrt(0.5)
    return waves
