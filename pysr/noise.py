"""How much noise a picture has, from the picture alone."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 8  # values of wavelet detail a side, 16 pixels: smooth spots are mostly small
SMOOTHEST = 0.1  # share of the blocks in which noise is looked for
MANY = 10  # blocks, of which that share is one
LOWER_HALF = 0.3246  # mean of |x| where it is under its median, x being normal of deviation 1
# How far the quantile SMOOTHEST of many blocks' estimates lies below the truth: 1.28 deviations of
# one, each 1.64 / sqrt(2 * values), as the lower half tells less than all of them.
TOO_LOW = 1.28 * 1.64
MOST_CLIPPED = 0.02  # share of a block's pixels that may be black or white
# How much more energy detail has at half the resolution, in the smoothest fifth of the blocks:
# white noise has as much (more here, as blocks are chosen in which it happens to be little), the
# texture of photographs at least four times, and mostly more than this.
FIFTH = 5
OF_NOISE, OF_TEXTURE = 3.0, 10.0
MOST = 0.5  # deviation that a picture can have
# An estimate below this counts as none. 8-bit rounding alone measures 0.3 / 255 on smooth pictures.
CLEAN_NOISE = 1.5 / 255


def estimate_noise(rgb: Tensor) -> float:
    """Standard deviation of white noise in pictures (N, 3, H, W) in [0, 1].

    Of the finest diagonal wavelet detail (Haar) the smaller half of the values, as edges are few
    there (Donoho and Johnstone 1994 take the median), in the smoothest blocks of the picture, as
    texture is not everywhere and noise is. What is mostly black or white is left out: clipping has
    taken its noise; so is what is one colour, as drawn bars are. How much of it is texture, the
    detail at half the resolution tells, where noise would be no larger. 0 where nothing is left,
    and for pictures of a single row or column.

    Of the photographs of BSD100 and Set14, bicubically reduced, one in six (x2) or five (x4)
    without noise reads as 1.5/255 or more, blurred by 0.3 pixels before that one in forty, by 0.6
    none. Noise of 2, 3 and 5/255 reads in the median as 1.9 to 2.7, 3.1 to 3.8 and 5.2 to 6.0, and
    as less than 1.5/255 in one photograph of six, one of seventeen, one of seventy. Compression
    takes it off the finest detail first: noise of 10/255 reads as 7 after JPEG at a quality of 90,
    as 5 after H.264 at a CRF of 18, and mostly as none at 75 and 23 (bench/noise.py).
    """
    if min(rgb.shape[-2:]) < 2:
        return 0.0
    detail, halved, cells = _haar(rgb)
    detail = _blocks(detail).abs()
    clipped = _blocks(((cells <= 0) | (cells >= 1)).float().mean(0)).mean(1)
    usable = detail.amax(1) > 0
    if not bool(usable.any()):
        return 0.0
    # Of a picture that is black or white nearly everywhere, the blocks that are so the least.
    usable &= clipped <= max(MOST_CLIPPED, float(clipped[usable].quantile(0.25)))
    values = detail.shape[1]
    levels = _level(detail[usable])
    noise = float(levels.quantile(SMOOTHEST))
    if len(levels) >= MANY:
        noise /= 1 - TOO_LOW / math.sqrt(2 * values)
    if min(rgb.shape[-2:]) >= 2 * BLOCK:
        coarser = _level(_blocks(_haar(halved)[0], BLOCK // 2).abs()[usable])
        smooth = levels.topk(math.ceil(len(levels) / FIFTH), largest=False).indices
        energies = (float(of[smooth].square().mean()) for of in (levels, coarser))
        noise *= math.sqrt(_share_of_noise(*energies))
    return noise if noise <= MOST else 0.0  # of a pattern such as a chessboard


def _haar(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of (N, C, H, W) the diagonal detail and what is left of the picture, both of half the size,
    and the four pixels that each value is made of."""
    h, w = (n - n % 2 for n in x.shape[-2:])
    cells = torch.stack([x[..., dy:h:2, dx:w:2] for dy in (0, 1) for dx in (0, 1)])
    a, b, c, d = cells
    return (a - b - c + d) / 2, (a + b + c + d) / 2, cells


def _blocks(x: Tensor, side: int = BLOCK) -> Tensor:
    """(N, 3, H, W) to (blocks, values), side * side of each channel if there are as many; what is
    left over at the right and below is not taken."""
    height, width = x.shape[-2:]
    rows = min(side, height)
    sides = (rows, min(side * side // rows, width))
    return F.unfold(x, sides, stride=sides).transpose(1, 2).flatten(0, 1)


def _level(detail: Tensor) -> Tensor:
    """(blocks, values) of magnitudes to (blocks,), the deviation of noise that would have them."""
    half = detail.shape[1] // 2
    return detail.topk(half, largest=False).values.mean(1) / LOWER_HALF


def _share_of_noise(fine: float, coarse: float) -> float:
    """Of the finest detail's energy, given that at half the resolution."""
    if fine == 0:
        return 1.0
    return min(max((OF_TEXTURE - coarse / fine) / (OF_TEXTURE - OF_NOISE), 0.0), 1.0)
