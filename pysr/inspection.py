"""What happened to a picture: blur, noise, and how sure that is, in numbers and in words."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pysr import arrays, blur
from pysr.upscaler import Upscaler

# In LR pixels. Photographs that were only reduced are estimated at 0.25 to 0.37, and bicubic
# reduction itself is about this wide: a blur below it leaves nothing to repair.
CLEAN_WIDTH = 0.4
STRONG_WIDTH = 0.9
# 8-bit rounding alone measures about 0.3 / 255 on smooth pictures.
CLEAN_NOISE = 1.5 / 255
STRONG_NOISE = 8 / 255


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        kernel: (k, k) float32, sums to 1, in HR pixels.
        width: root mean square width of the kernel, in pixels of the LR picture.
        noise: standard deviation of white noise, in [0, 1] units.
        confidence: 0 to 1, or NaN for a picture too small for several estimates, see `Upscaled`.
        clean: neither blur nor noise worth repairing: plain interpolation would do little harm.
        words: the same, as sentences.
    """

    kernel: np.ndarray
    width: float
    noise: float
    confidence: float
    clean: bool
    words: str


def inspect(upscaler: Upscaler, image) -> Inspection:
    """Look at one picture (a form that `Upscaler` takes; of a batch, the first).

    The kernel depends on the model's scale: it is the blur before an s-fold bicubic downsampling.
    """
    rgb = arrays.unpack(image).rgb[:1]
    estimate = upscaler.estimates(image)[0]
    width = float(blur.spread(estimate.kernel)) / upscaler.scale
    noise = estimate_noise(rgb)
    clean = width < CLEAN_WIDTH and noise < CLEAN_NOISE
    return Inspection(
        kernel=estimate.kernel.numpy(),
        width=width,
        noise=noise,
        confidence=estimate.confidence,
        clean=clean,
        words=_words(width, noise, estimate.confidence, clean),
    )


def estimate_noise(rgb: Tensor) -> float:
    """Standard deviation of white noise in (N, 3, H, W), in the picture's units.

    The median absolute value of the finest diagonal wavelet detail (Haar), over 0.6745 (Donoho and
    Johnstone 1994): edges are few there, noise is everywhere. What is black or white throughout,
    as bars are, is left out: clipping has taken its noise. 0 where nothing is left, and for
    pictures of a single row or column.
    """
    h, w = (n - n % 2 for n in rgb.shape[-2:])
    x = rgb[..., :h, :w]
    cells = torch.stack([x[..., dy::2, dx::2] for dy in (0, 1) for dx in (0, 1)])
    clipped = (cells == 0).all(0) | (cells == 1).all(0)
    a, b, c, d = cells[:, ~clipped]
    return float(((a - b - c + d) / 2).abs().median()) / 0.6745 if len(a) else 0.0


def _words(width: float, noise: float, confidence: float, clean: bool) -> str:
    if clean:
        return (
            "This picture looks clean already: no blur or noise worth repairing was found. "
            "Upscaling it will add size more than sharpness."
        )
    if width < CLEAN_WIDTH:
        sentences = ["It is not noticeably blurred."]
    else:
        strength = "strongly" if width > STRONG_WIDTH else "mildly"
        sentences = [f"It is {strength} blurred (about {width:.2f} pixels wide)."]
    if noise >= CLEAN_NOISE:
        strength = "strong" if noise > STRONG_NOISE else "mild"
        sentences.append(f"It has {strength} noise (deviation {noise * 255:.1f} of 255).")
    else:
        sentences.append("It has next to no noise.")
    if math.isnan(confidence):
        sentences.append("It is small, so the blur was estimated once, without a cross-check.")
    elif confidence < 0.7:
        sentences.append("Its parts disagree about the blur: take the estimate with care.")
    else:
        sentences.append("Its parts agree about the blur.")
    return " ".join(sentences)
