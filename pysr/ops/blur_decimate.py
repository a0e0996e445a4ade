"""Blur every sample with its own kernel and keep every stride-th pixel (dan.txt, equation 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def blur_decimate_reference(x: Tensor, kernels: Tensor, stride: int = 1) -> Tensor:
    n, c, h, w = x.shape
    k = kernels.shape[-1]
    before, after = k // 2, (k - 1) // 2
    padded = F.pad(x, (before, after, before, after), mode="reflect")
    weight = kernels[:, None, None].expand(n, c, 1, k, k).reshape(n * c, 1, k, k)
    out = F.conv2d(padded.reshape(1, n * c, *padded.shape[-2:]), weight, stride=stride, groups=n * c)
    return out.view(n, c, *out.shape[-2:])


blur_decimate = blur_decimate_reference
