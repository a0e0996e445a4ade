"""Published test settings: which kernels and which downsampler make the LR pictures of a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pysr import blur
from pysr.degrade import LearnedDegradation, classical, jpeg

# Known to the models trained for them under the same names (dan.txt section 4.1).
PROTOCOLS = ("gaussian8", "gaussian8-decimate", "gaussian8-jpeg", "div2krk", "bicubic")
QUALITY = 85  # of gaussian8-jpeg


@dataclass(frozen=True)
class Case:
    """One test case: hr (1, 3, H, W), its lr (1, 3, H/s, W/s), and the kernel (k, k) between
    them, before the move of div2krk; None where there is no such thing."""

    hr: Tensor
    lr: Tensor
    kernel: Tensor | None


def cases(protocol: str, scale: int, hr: Tensor, index: int = 0, seed: int = 0) -> Iterator[Case]:
    """The test cases that a protocol makes of one picture.

    - gaussian8: eight isotropic blurs (`pysr.blur.gaussian8`), MATLAB's bicubic downsampling, 8-bit
      rounding; how the papers' code makes Setting 1.
    - gaussian8-decimate: the same blurs with plain decimation, as equation 1 is written; the
      papers' bicubic rows come close to this one.
    - gaussian8-jpeg: as gaussian8, then JPEG of quality 85; no published table has it.
    - div2krk: one irregular kernel a picture (Setting 2), decimation. As in DIV2KRK's generator the
      kernel is moved by (s - 1) / 2 pixels, which keeps LR and HR aligned. Drawn from (seed,
      index).
    - bicubic: no blur but bicubic downsampling itself; a clean picture.

    Args:
        hr: (1, 3, H, W) in [0, 1]; cropped to a multiple of the scale first.
        scale: 2, 3 or 4. index, seed: the picture's number and the table's seed, for div2krk.
    Raises:
        ValueError: for an unknown protocol or scale, or a picture without a pixel at that scale.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol: expected one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    if scale not in blur.GAUSSIAN8_RANGE:
        raise ValueError(f"scale: expected 2, 3 or 4, got {scale}")
    h, w = (n - n % scale for n in hr.shape[-2:])
    if min(h, w) == 0:
        raise ValueError(
            f"hr: expected at least {scale}x{scale} pixels, got {hr.shape[-1]}x{hr.shape[-2]}"
        )
    hr = hr[..., :h, :w]
    downsample = "bicubic"
    if protocol.startswith("gaussian8"):
        kernels = blur.gaussian8(scale)
        downsample = "decimate" if protocol == "gaussian8-decimate" else "bicubic"
    elif protocol == "div2krk":
        generator = torch.Generator().manual_seed((seed * 1_000_003 + index) % 2**64)
        kernels = blur.random_irregular(1, blur.SETTING2_SIZE[scale], generator=generator)
        downsample = "decimate"
    else:
        kernels = blur.dirac(1)[None]
    for kernel in kernels:
        applied = blur.aligned(kernel, scale) if protocol == "div2krk" else kernel
        lr = classical(hr, applied, scale, downsample=downsample)
        yield Case(hr, jpeg(lr, QUALITY) if protocol == "gaussian8-jpeg" else lr, kernel)


def learned_cases(degradation: LearnedDegradation, hr: Tensor, seed: int = 0) -> Iterator[Case]:
    """The one test case that a learned degradation makes of a picture (1, 3, H, W) in [0, 1].

    HR is cropped to a multiple of the scale first; the kernel is the mean of the pixels' own.
    """
    h, w = (n - n % degradation.scale for n in hr.shape[-2:])
    hr = hr[..., :h, :w]
    lr, kernels = degradation(hr, seed)
    yield Case(hr, lr, None if kernels is None else kernels[0])
