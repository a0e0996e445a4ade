"""MATLAB's imresize with the bicubic kernel, the downsampler behind the published tables.

Torch's own bicubic differs twice over: without antialiasing it uses a = -0.75, and with it the
borders are renormalised where MATLAB mirrors them. Tables in the papers move by tenths of a dB with
that.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


def imresize(x: Tensor, scale: float) -> Tensor:
    """Resize by `scale` as MATLAB's imresize(x, scale, "bicubic"), antialiasing when it shrinks.

    Args:
        x: (N, C, H, W), floating point.
        scale: output over input, > 0; the output is (N, C, ceil(H * scale), ceil(W * scale)).
    Raises:
        ValueError: if x has no pixels, is not 4-dimensional floating point, or scale is not
        positive.
    """
    if x.ndim != 4 or not x.is_floating_point() or 0 in x.shape[-2:]:
        raise ValueError(
            f"x: expected floating point (N, C, H, W) with pixels, got {x.dtype} {tuple(x.shape)}"
        )
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"scale: expected a positive number, got {scale}")
    if scale == 1:
        return x
    return _resize_axis(_resize_axis(x, 2, scale), 3, scale)


def _resize_axis(x: Tensor, axis: int, scale: float) -> Tensor:
    indices, weights = _contributions(x.shape[axis], scale)
    indices, weights = indices.to(x.device), weights.to(x.device, x.dtype)
    shape = [1] * x.ndim
    shape[axis] = -1
    out = None
    for tap in range(indices.shape[0]):  # one pass a tap keeps memory at one extra picture
        term = x.index_select(axis, indices[tap]) * weights[tap].view(shape)
        out = term if out is None else out.add_(term)
    return out


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept must serve training too, whoever asks first
def _contributions(length: int, scale: float) -> tuple[Tensor, Tensor]:
    """Source index and weight of every tap of every output: two (taps, out) tensors.

    Output pixel i (from 0) sits at source coordinate (i + 0.5) / scale - 0.5. When shrinking, the
    kernel is widened by 1 / scale; its support is rounded up with a tap to spare at either side.
    """
    out_length = math.ceil(round(length * scale, 9))
    shrink = min(scale, 1.0)
    width = 4.0 / shrink
    centre = (torch.arange(out_length, dtype=torch.float64) + 0.5) / scale - 0.5
    taps = math.ceil(width) + 2
    indices = torch.floor(centre - width / 2)[None, :] + torch.arange(taps)[:, None]
    weights = cubic((centre[None, :] - indices) * shrink)
    weights = weights / weights.sum(0)
    # Borders are mirrored with the edge pixel repeated: ... 1 0 | 0 1 2 ...
    indices = torch.remainder(indices, 2 * length)
    indices = torch.minimum(indices, 2 * length - 1 - indices).long()
    used = (weights != 0).any(1)
    return indices[used].contiguous(), weights[used].contiguous()


def cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = -0.5."""
    x = x.abs()
    inner = (1.5 * x - 2.5) * x**2 + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x <= 1, inner, torch.where(x < 2, outer, torch.zeros_like(x)))
