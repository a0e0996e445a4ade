"""Planes of luma and chroma to RGB and back, exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from pysr.video.clip import ColourTags

Planes = tuple[Tensor, Tensor, Tensor]


def to_rgb(
    planes: Planes, colour: ColourTags, depth: int, device: torch.device | str = "cpu"
) -> Tensor:
    """(3, H, W) float32 in [0, 1], gamma-encoded as the clip is."""
    raise NotImplementedError


def from_rgb(rgb: Tensor, colour: ColourTags, depth: int, subsampling: tuple[int, int]) -> Planes:
    """(3, H, W) in [0, 1] to planes on the same device; subsampling (2, 2) is 4:2:0."""
    raise NotImplementedError
