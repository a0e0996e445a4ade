"""What happened to a picture: blur, noise, and how sure that is, in numbers and in words."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
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

BLOCK = 8  # values of wavelet detail a side, 16 pixels: smooth spots are mostly small
SMOOTHEST = 0.1  # share of the blocks in which noise is looked for
MANY = 10  # blocks, of which that share is one
LOWER_HALF = 0.3246  # mean of |x| where it is under its median, x being normal of deviation 1
# How far the quantile SMOOTHEST of many blocks' estimates lies below the truth: 1.28 deviations of
# one, each 1.64 / sqrt(2 * values), as the lower half tells less than all of them.
TOO_LOW = 1.28 * 1.64
MOST_CLIPPED = 0.02  # share of a block's pixels that may be black or white
LEAST_CONTRAST = 2 / 255  # of a picture that anything is to be seen in


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        kernel: (k, k) float32, sums to 1, in HR pixels.
        width: root mean square width of the kernel, in pixels of the LR picture; NaN for a picture
            of one colour, which shows no blur.
        noise: standard deviation of white noise, in [0, 1] units; too large where texture as fine
            as noise is everywhere.
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

    @property
    def width_in_words(self) -> str:
        return "unknown" if math.isnan(self.width) else f"{self.width:.2f} pixels of this picture"


def inspect(upscaler: Upscaler, image) -> Inspection:
    """Look at one picture (a form that `Upscaler` takes; of a batch, the first).

    The kernel depends on the model's scale: it is the blur before an s-fold bicubic downsampling.
    """
    rgb = arrays.unpack(image).rgb[:1]
    estimate = upscaler.estimates(image)[0]
    plain = float((rgb.amax((2, 3)) - rgb.amin((2, 3))).max()) < LEAST_CONTRAST
    width = math.nan if plain else float(blur.spread(estimate.kernel)) / upscaler.scale
    noise = estimate_noise(rgb)
    clean = plain or (width < CLEAN_WIDTH and noise < CLEAN_NOISE)
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

    Of the finest diagonal wavelet detail (Haar) the smaller half of the values, as edges are few
    there (Donoho and Johnstone 1994 take the median), in the smoothest blocks of the picture, as
    texture is not everywhere and noise is. What is mostly black or white is left out: clipping has
    taken its noise; so is what is one colour, as drawn bars are. 0 where nothing is left, and for
    pictures of a single row or column.

    On the photographs of BSD100, bicubically reduced, noise of 5/255 reads as 5 to 6 mostly, of
    none as 1 to 2, where all of a small picture is texture as up to 6.
    """
    h, w = (n - n % 2 for n in rgb.shape[-2:])
    if min(h, w) == 0:
        return 0.0
    x = rgb[..., :h, :w]
    cells = torch.stack([x[..., dy::2, dx::2] for dy in (0, 1) for dx in (0, 1)])
    a, b, c, d = cells
    detail = _blocks((a - b - c + d) / 2).abs()
    clipped = _blocks(((cells <= 0) | (cells >= 1)).float().mean(0)).mean(1)
    drawn = detail.amax(1) == 0
    detail, clipped = detail[~drawn], clipped[~drawn]
    if len(detail) == 0:
        return 0.0
    # Of a picture that is black or white nearly everywhere, the blocks that are so the least.
    detail = detail[clipped <= max(MOST_CLIPPED, float(clipped.quantile(0.25)))]
    values = detail.shape[1]
    lower = detail.topk(values // 2, largest=False).values.mean(1) / LOWER_HALF
    noise = float(lower.quantile(SMOOTHEST))
    return noise / (1 - TOO_LOW / math.sqrt(2 * values)) if len(lower) >= MANY else noise


def _blocks(x: Tensor) -> Tensor:
    """(N, 3, H, W) to (blocks, values), BLOCK * BLOCK of each channel if there are as many; what is
    left over at the right and below is not taken."""
    height, width = x.shape[-2:]
    rows = min(BLOCK, height)
    side = (rows, min(BLOCK * BLOCK // rows, width))
    return F.unfold(x, side, stride=side).transpose(1, 2).flatten(0, 1)


def _words(width: float, noise: float, confidence: float, clean: bool) -> str:
    if math.isnan(width):
        return "This picture is of one colour: no blur can be seen in it."
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
        kind = "noise" if noise > STRONG_NOISE else "noise, or texture as fine"
        sentences.append(f"It has {strength} {kind} (deviation {noise * 255:.1f} of 255).")
    else:
        sentences.append("It has next to no noise.")
    if math.isnan(confidence):
        sentences.append("One part of it tells of the blur: estimated once, without a cross-check.")
    elif confidence < 0.7:
        sentences.append("Its parts disagree about the blur: take the estimate with care.")
    else:
        sentences.append("Its parts agree about the blur.")
    return " ".join(sentences)
