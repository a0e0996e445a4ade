"""Equation 1 of dan.txt: y = (x * k) downsampled by s, plus noise, rounded to 8 bits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pysr import blur
from pysr.degrade.jpeg import jpeg
from pysr.ops import blur_decimate
from pysr.resize import imresize

DOWNSAMPLERS = ("bicubic", "decimate")
NOISES = ("gaussian", "speckle")
SCALES = (1, 2, 3, 4)


def classical(
    hr: Tensor,
    kernels: Tensor,
    scale: int,
    *,
    downsample: str = "bicubic",
    noise: float | Tensor = 0.0,
    noise_kind: str = "gaussian",
    quantise: bool = True,
    generator: blur.Seed = None,
) -> Tensor:
    """Degrade HR pictures: blur, downsample, add noise, round (dan.txt, equation 1).

    Args:
        hr: (N, C, H, W), floating point in [0, 1], on any device.
        kernels: (N, k, k) or (k, k) for all; applied with reflected borders (see `pysr.blur`).
        scale: s, 1 to 4. The result is (N, C, ceil(H / s), ceil(W / s)).
        downsample: "bicubic", MATLAB's imresize with antialiasing, as the published tables were
            made; or "decimate", the top left pixel of each s x s patch, as equation 1 is written.
        noise: standard deviation in [0, 1] units, one number or (N,).
        noise_kind: "gaussian" adds noise; "speckle" adds noise times the picture.
        quantise: clip to [0, 1] and round to multiples of 1/255.
        generator: for the noise; a torch.Generator on the device of hr, a seed, or None.
    Raises:
        ValueError: for a scale, downsampler or noise kind outside these; for noise below zero or
            not finite, or of another number than 1 or N; for a seed beyond 64 bits; and as
            `pysr.ops.blur_decimate` for shapes.
    """
    check_choice("scale", scale, SCALES)
    check_choice("downsample", downsample, DOWNSAMPLERS)
    check_choice("noise_kind", noise_kind, NOISES)
    if kernels.ndim == 2:
        kernels = kernels.expand(len(hr), -1, -1)
    kernels = kernels.to(hr)
    if downsample == "decimate":
        lr = blur_decimate(hr, kernels, scale)
    else:
        lr = imresize(blur_decimate(hr, kernels), 1 / scale)
    noise = torch.as_tensor(noise, dtype=lr.dtype, device=lr.device)
    unusable = noise[~((noise >= 0) & noise.isfinite())]
    if len(unusable):
        raise ValueError(
            f"noise: expected finite deviations of at least 0, got {unusable[0].item():.4g}"
        )
    if noise.numel() not in (1, len(lr)):
        raise ValueError(
            f"noise: expected one deviation, or one for each of {len(lr)} pictures, got "
            f"{noise.numel()}"
        )
    generator = blur.as_generator(generator, lr.device)
    if bool((noise > 0).any()):
        grain = torch.randn(lr.shape, generator=generator, dtype=lr.dtype, device=lr.device)
        grain = grain * noise.reshape(-1, 1, 1, 1)
        lr = lr + (grain * lr if noise_kind == "speckle" else grain)
    return to_8bit(lr) if quantise else lr


def to_8bit(x: Tensor) -> Tensor:
    """Clip to [0, 1] and round to the nearest of 256 levels, as a picture file would."""
    return (x.clamp(0, 1) * 255).round() / 255


@dataclass(frozen=True)
class BicubicDegradation:
    """Bicubic downsampling by `scale` and 8-bit rounding, in the place of a `RandomDegradation`."""

    scale: int

    def __call__(self, hr: Tensor, generator: torch.Generator) -> tuple[Tensor, None]:
        """LR pictures for HR (N, C, H, W), and no kernels."""
        return to_8bit(imresize(hr, 1 / self.scale)), None


@dataclass(frozen=True)
class RandomDegradation:
    """Draws the degradations that a DAN is trained on: Setting 1 and Setting 2, mixed.

    Attributes:
        scale: s, 1 to 4.
        setting2: share of samples of Setting 2: irregular kernels and, as in DIV2KRK, decimation
            that keeps LR and HR aligned. The rest are isotropic Gaussians of Setting 1 (dan.txt
            section 4.1.1, widths by scale).
        kernel_size: size that every kernel is brought to.
        axes: range of Setting 2's widths.
        noise: largest standard deviation of Gaussian noise, in [0, 1] units, uniform from 0.
        noisy: share of samples with noise.
        quality: range of JPEG qualities, uniform.
        compressed: share of samples that are compressed, after the noise.
        downsample: of Setting 1's samples, as in `classical`.
    """

    scale: int
    setting2: float = 0.0
    kernel_size: int = 21
    axes: tuple[float, float] = (0.6, 5.0)
    noise: float = 0.0
    noisy: float = 0.0
    quality: tuple[float, float] = (70, 95)
    compressed: float = 0.0
    downsample: str = "bicubic"

    def __post_init__(self):
        check_choice("scale", self.scale, SCALES)
        check_choice("downsample", self.downsample, DOWNSAMPLERS)
        for name in ("setting2", "noisy", "compressed"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a share, 0 to 1, got {getattr(self, name)}")
        for name, least in (("axes", 0), ("quality", 1)):
            given = getattr(self, name)
            if len(given) != 2 or not least <= given[0] <= given[1] or given[1] == 0:
                raise ValueError(
                    f"{name}: expected a range, lowest first, from {least}, got "
                    f"{' to '.join(map(str, given))}"
                )
        if not 0 <= self.noise < 1:
            raise ValueError(f"noise: expected a deviation from 0 to below 1, got {self.noise}")

    def kernels(self, n: int, generator: blur.Seed) -> Tensor:
        """n kernels of this mixture: (n, k, k), unmoved."""
        return self._drawn(n, blur.as_generator(generator))[0]

    def _drawn(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Kernels (n, k, k), and which of them (n,) are Setting 2's."""
        first = blur.random_isotropic(
            n, blur.SETTING1_RANGE[self.scale], self.kernel_size, generator
        )
        second = blur.random_irregular(
            n, blur.SETTING2_SIZE[self.scale], self.axes, generator=generator
        )
        irregular = torch.rand(n, generator=generator, device=first.device) < self.setting2
        second = blur.resized(second, self.kernel_size)
        return torch.where(irregular[:, None, None], second, first), irregular

    def __call__(self, hr: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """LR pictures and the kernels that made them, for HR (N, C, H, W) on the generator's
        device."""
        n = len(hr)
        kernels, irregular = self._drawn(n, generator)
        draws = torch.rand((4, n), generator=generator, device=generator.device)
        noise = draws[0] * self.noise * (draws[1] < self.noisy)
        size = (-(-side // self.scale) for side in hr.shape[-2:])
        lr = hr.new_empty(*hr.shape[:2], *size)
        first, second = (which.nonzero()[:, 0] for which in (~irregular, irregular))
        for which, applied, downsample in (
            (first, kernels[first], self.downsample),
            (second, blur.aligned(kernels[second], self.scale), "decimate"),
        ):
            if len(which):
                lr[which] = classical(
                    hr[which],
                    applied,
                    self.scale,
                    downsample=downsample,
                    noise=noise[which],
                    generator=generator,
                )
        which = (draws[2] < self.compressed).nonzero()[:, 0]
        if len(which):
            low, high = self.quality
            lr[which] = jpeg(lr[which], (low + (high - low) * draws[3, which]).round())
        return lr, kernels


def check_choice(name: str, value, choices) -> None:
    """Raises ValueError, naming what was expected, for a value outside `choices`."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(str, choices))}, got {value!r}")
