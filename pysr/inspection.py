"""What happened to a picture: blur, noise, and how sure that is, in numbers and in words."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pysr import arrays, blur
from pysr.noise import CLEAN_NOISE, estimate_noise
from pysr.upscaler import Upscaler

# In LR pixels. Photographs that were only reduced are estimated at 0.25 to 0.37, and bicubic
# reduction itself is about this wide: a blur below it leaves nothing to repair.
CLEAN_WIDTH = 0.4
STRONG_WIDTH = 0.9
STRONG_NOISE = 8 / 255
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
    Where the Upscaler assumes one, it is that.
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
        words=_words(width, noise, _source(upscaler, estimate.confidence), clean),
    )


def _source(upscaler: Upscaler, confidence: float) -> str:
    """Where a kernel comes from, as a sentence."""
    if upscaler.known() is not None:
        return "The blur was given, not looked for."
    if math.isnan(confidence):
        return "One part of it tells of the blur: estimated once, without a cross-check."
    if confidence < 0.7:
        return "Its parts disagree about the blur: take the estimate with care."
    return "Its parts agree about the blur."


def _words(width: float, noise: float, source: str, clean: bool) -> str:
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
    return " ".join((*sentences, source))
