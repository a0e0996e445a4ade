"""A camera's degradation, learned from its pairs, where a picture is learned from.

It stands where a blur stands that was given: nothing in it learns.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from pysr.adapt.picture import estimated_kernel
from pysr.degrade import LearnedDegradation, load
from pysr.degrade.learned import PAIR_NOISE
from pysr.nets import DAN
from pysr.resize import imresize


class Camera(nn.Module):
    """A learned degradation with the interface of `pysr.degrade.deep_linear.GivenBlur`.

    forward(hr): (N, 3, H, W) -> (N, 3, ceil(H / s), ceil(W / s)), not clipped, without gradient,
    with the degradation's noise.

    Args:
        kernel: (k, k), the blur that stands for it where one number per tap is asked for; None
            for none.
        seed: of the noise.
    """

    reach = 8  # LR pixels at a border that what lies outside it has a part in, nearly all of it

    def __init__(self, degradation: LearnedDegradation, kernel: Tensor | None, seed: int = 0):
        super().__init__()
        self.degradation, self.scale = degradation, degradation.scale
        self._kernel = kernel
        self._noise = torch.Generator(degradation.device).manual_seed(seed)

    def kernel(self) -> Tensor | None:
        return self._kernel

    def frozen(self) -> Camera:
        """The same without noise: what pictures are judged by, always one object."""
        return self._without_noise

    @cached_property
    def _without_noise(self) -> Camera:
        return Camera(self.degradation.with_noise(0), self._kernel)

    def forward(self, hr: Tensor) -> Tensor:
        return self.degradation.degrade(hr.float(), self._noise)


def opened(file: str | Path) -> LearnedDegradation:
    """A file's degradation with the noise that generated pairs have: without it, that of real
    pictures is sharpened with them. Raises DegradationError for a file that is none.
    """
    return load(file).with_noise(PAIR_NOISE)


def camera_of(
    degradation: LearnedDegradation | str | Path, lr: Tensor, model: nn.Module, seed: int
) -> Camera:
    """A degradation for a picture (1, 3, H, W) that a model is to be taught, on its device.

    Its kernel is the mean one of the picture, where it predicts any; else what a DAN estimates, who
    is told one. Raises as `opened`, and ValueError for another scale than the model's.
    """
    if not isinstance(degradation, LearnedDegradation):
        degradation = opened(degradation)
    scale = model.config.scale
    if degradation.scale != scale:
        raise ValueError(
            f"degradation: expected the model's scale {scale}, got {degradation.scale}"
        )
    degradation = degradation.to(lr.device)
    if degradation.has_kernels:
        kernel = degradation.mean_kernels(imresize(lr, scale))[0]
    else:
        kernel = estimated_kernel(lr, model) if isinstance(model, DAN) else None
    return Camera(degradation, kernel, seed)
