"""How k x k windows lie over a picture: the Python side of csrc/common/window.h."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PADDINGS = ("reflect", "replicate", "zeros", "none")


def check_padding(padding: str, k: int, height: int, width: int) -> None:
    if padding not in PADDINGS:
        raise ValueError(f"padding: expected one of {', '.join(PADDINGS)}, got {padding!r}")
    if padding == "none" and (height < k or width < k):
        raise ValueError(
            f"x: expected at least {k}x{k} pixels, the kernel's size, without padding, got "
            f"{height}x{width}"
        )


def outputs(length: int, k: int, stride: int, padding: str) -> int:
    """Number of windows along a side."""
    return (length - k) // stride + 1 if padding == "none" else -(-length // stride)


def padded(x: Tensor, k: int, padding: str) -> Tensor:
    """x (..., H, W) with the k // 2 pixels before and (k - 1) // 2 after that its windows touch."""
    if padding == "none":
        return x
    before, after = k // 2, (k - 1) // 2
    if padding == "zeros":
        return F.pad(x, (before, after, before, after))
    for dim in (-2, -1):
        length = x.shape[dim]
        index = torch.arange(-before, length + after, device=x.device)
        if padding == "replicate" or length == 1:
            index = index.clamp(0, length - 1)
        else:
            # Mirrored over and over, where the picture is smaller than the kernel's reach.
            index = index.remainder(2 * (length - 1))
            index = torch.minimum(index, 2 * (length - 1) - index)
        x = x.index_select(dim, index)
    return x
