"""How well a result explains its input: blurred and reduced again it should be what it was made of.

The one quality of a restored picture that can be measured without knowing the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from pysr import arrays, blur
from pysr.ops import blur_decimate
from pysr.resize import imresize
from pysr.tiling import Crop, inside


def consistency(out: Tensor, crops: Sequence[Crop], kernel: Tensor | None, scale: int) -> float:
    """PSNR in dB between a picture and its restoration degraded again, on crops of the picture;
    identical gives infinity.

    Args:
        crops: of the picture (1, 3, H, W) in [0, 1].
        out: (1, C, s*H, s*W), of any dtype that pictures have; grey (C = 1), RGB or with alpha.
        kernel: (k, k), the blur before bicubic downsampling; None for none.
    """
    error, count = 0.0, 0
    kernel = blur.dirac(1) if kernel is None else kernel
    reach = math.ceil(len(kernel) / 2 / scale) + 2  # of the blur, and of the bicubic taps after it
    for rows, columns, crop in crops:
        window = (slice(scale * s.start, scale * s.stop) for s in (rows, columns))
        sr = arrays.as_float(out[(..., *window)][:, :3])
        seen = crop[:, :1] if out.shape[1] == 1 else crop
        again = imresize(blur_decimate(sr, kernel[None].to(sr)), 1 / scale)
        squares, values = squared_differences(seen, again, reach)
        error, count = error + float(squares), count + values
    return math.inf if error == 0 else -10 * math.log10(error / count)


def squared_differences(lr: Tensor, again: Tensor, reach: int) -> tuple[Tensor, int]:
    """How far a picture that was restored and degraded again is from what it was, (1, C, h, w).

    Returns the sum of squared differences and how many they are. A border of `reach` pixels is left
    out: a crop is blurred with what lies outside it, which is not known.
    """
    reach = min(reach, (min(lr.shape[-2:]) - 1) // 2)
    difference = inside(again - lr, reach)
    return difference.square().sum(), difference.numel()
