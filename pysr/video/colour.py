"""Planes of luma and chroma to RGB and back, exactly, on any device.

Done in floating point from the definitions (ITU-T H.273, tables 4 and 8), since FFmpeg's swscale is
made for eight bits: tests/test_video_colour.py measures how far it is off, and it runs on the CPU
only. Chroma is brought to the luma grid, and back, by linear interpolation about where the samples
lie: left, centre and so on, which for a chroma edge is half a pixel of difference.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pysr.video.clip import ColourTags, VideoError

Planes = tuple[Tensor, Tensor, Tensor]

RGB, LIMITED, FULL, LEFT = 0, 1, 2, 1
# Weights of red and blue in luma, by FFmpeg's number of the matrix: BT.709, FCC, BT.601 (two
# numbers), SMPTE 240M, BT.2020 non-constant luminance.
_WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
_UNSPECIFIED_MATRIX = 2
# By chroma location: whether a chroma sample lies on a luma sample, across and down; else it lies
# midway. A bottom location (5, 6) lies on the lower luma row, which nothing in use writes.
_SITED = {1: (True, False), 2: (False, False), 3: (True, True), 4: (False, True)}


def resolved(colour: ColourTags, height: int) -> ColourTags:
    """Tags with nothing left open that a conversion needs.

    The usual rule: an unspecified matrix is BT.709 from 720 lines on and BT.601 below, an
    unspecified range is limited (full for RGB), an unspecified chroma location is left.
    """
    matrix = colour.matrix
    if matrix == _UNSPECIFIED_MATRIX:
        matrix = 1 if height >= 720 else 6
    return replace(
        colour,
        matrix=matrix,
        range=colour.range or (FULL if matrix == RGB else LIMITED),
        chroma_location=colour.chroma_location or LEFT,
    )


def convert_alike(a: ColourTags, b: ColourTags) -> bool:
    """Whether planes of both are converted alike, as far as their matrix and range are stated."""
    weights = {_WEIGHTS.get(m, m) for m in {a.matrix, b.matrix} - {_UNSPECIFIED_MATRIX}}
    return len(weights) < 2 and len({a.range, b.range} - {0}) < 2


def check_tags(colour: ColourTags) -> None:
    """Raises VideoError for a matrix or a chroma location that pysr does not convert."""
    if colour.matrix not in (RGB, _UNSPECIFIED_MATRIX, *_WEIGHTS):
        raise VideoError(
            f"colour matrix {colour.matrix} (ITU-T H.273): expected RGB, BT.601, BT.709 or BT.2020 "
            "non-constant luminance; convert the clip first"
        )
    if colour.chroma_location not in (0, *_SITED):
        raise VideoError("chroma at the bottom location is not supported; convert the clip first")


def to_rgb(
    planes: Planes, colour: ColourTags, depth: int, device: torch.device | str = "cpu"
) -> Tensor:
    """(3, H, W) float32 in [0, 1], gamma-encoded as the clip is, on `device`.

    Args:
        planes: (H, W) luma and two (h, w) chroma planes of integers, h and w being H and W or half
            of them, rounded up; of RGB (matrix 0) green, blue, red.
        colour: unspecified tags are read as `resolved` says.
        depth: bits a sample.

    Raises VideoError as `check_tags`.
    """
    check_tags(colour)
    height, width = planes[0].shape
    colour = resolved(colour, height)
    # The integers travel to the device: a quarter of what floats would take.
    y, u, v = (_float32(plane.to(device)) for plane in planes)
    scale, offset, chroma_scale, chroma_offset = _quantisation(colour, depth)
    if colour.matrix == RGB:
        rgb = (torch.stack((v, y, u)) - offset) / scale
        return rgb.clamp_(0, 1)
    y = (y - offset) / scale
    across, down = _SITED[colour.chroma_location]
    u, v = (
        _upsample(_upsample((c - chroma_offset) / chroma_scale, height, 0, down), width, 1, across)
        for c in (u, v)
    )
    red, blue = _WEIGHTS[colour.matrix]
    green = 1 - red - blue
    r = y + (2 - 2 * red) * v
    b = y + (2 - 2 * blue) * u
    g = y - (red * (2 - 2 * red) / green) * v - (blue * (2 - 2 * blue) / green) * u
    return torch.stack((r, g, b)).clamp_(0, 1)


def from_rgb(rgb: Tensor, colour: ColourTags, depth: int, subsampling: tuple[int, int]) -> Planes:
    """(3, H, W) in [0, 1] to planes, rounded to the nearest level, on the same device.

    Args:
        rgb: gamma-encoded, floating point; values outside [0, 1] are clipped.
        colour: unspecified tags are read as `resolved` says.
        depth: bits a sample; planes are uint8 up to 8, uint16 above.
        subsampling: of chroma, across and down: (2, 2) is 4:2:0, (2, 1) is 4:2:2, (1, 1) is 4:4:4.

    Raises VideoError as `check_tags`.
    """
    check_tags(colour)
    colour = resolved(colour, rgb.shape[1])
    scale, offset, chroma_scale, chroma_offset = _quantisation(colour, depth)
    r, g, b = rgb.to(torch.float32).clamp(0, 1)
    if colour.matrix == RGB:
        return tuple(_levels(c, scale, offset, depth) for c in (g, b, r))
    red, blue = _WEIGHTS[colour.matrix]
    y = (red * r).add_(g, alpha=1 - red - blue).add_(b, alpha=blue)
    across, down = _SITED[colour.chroma_location]
    # Down first: that is fast, and leaves half as much to be picked apart across.
    u, v = (
        _downsample(_downsample(c, subsampling[1], 0, down), subsampling[0], 1, across)
        for c in ((b - y).div_(2 - 2 * blue), (r - y).div_(2 - 2 * red))
    )
    chroma = (_levels(c, chroma_scale, chroma_offset, depth) for c in (u, v))
    return (_levels(y, scale, offset, depth), *chroma)


def _quantisation(colour: ColourTags, depth: int) -> tuple[float, float, float, float]:
    """Levels of 1 and of 0 of luma, levels of 1 and of 0 of chroma."""
    unit, top, middle = 2.0 ** (depth - 8), 2.0**depth - 1, 2.0 ** (depth - 1)
    if colour.range == FULL:
        return top, 0.0, top, middle
    return 219 * unit, 16 * unit, 224 * unit, middle


def _float32(plane: Tensor) -> Tensor:
    # uint16 has few operators on any device; the bits are read as int16 and wrapped back.
    if plane.dtype == torch.uint16:
        return (plane.view(torch.int16).to(torch.int32) & 0xFFFF).to(torch.float32)
    return plane.to(torch.float32)


def _levels(x: Tensor, scale: float, offset: float, depth: int) -> Tensor:
    x = (x * scale).add_(offset).round_().clamp_(0, 2**depth - 1)
    return x.to(torch.uint8) if depth <= 8 else x.to(torch.int32).to(torch.uint16)


def _upsample(x: Tensor, size: int, dim: int, sited: bool) -> Tensor:
    """Linear interpolation from every second sample to `size` samples; edges are repeated."""
    if x.shape[dim] == size:
        return x
    before, after = _shifted(x, dim, -1), _shifted(x, dim, 1)
    if sited:
        even, odd = x, (x + after) / 2
    else:
        even, odd = (before + 3 * x) / 4, (3 * x + after) / 4
    return torch.stack((even, odd), dim + 1).flatten(dim, dim + 1).narrow(dim, 0, size)


def _downsample(x: Tensor, factor: int, dim: int, sited: bool) -> Tensor:
    """Every second sample, after the shortest filter that is centred on it."""
    if factor == 1:
        return x
    if x.shape[dim] % 2:
        x = torch.cat((x, x.narrow(dim, -1, 1)), dim)
    even, odd = x.unflatten(dim, (-1, 2)).unbind(dim + 1)
    if sited:
        return (_shifted(odd, dim, -1) + 2 * even + odd) / 4
    return (even + odd) / 2


def _shifted(x: Tensor, dim: int, by: int) -> Tensor:
    """x[i + by] along a dimension, for by = 1 or -1; the edge is repeated."""
    length = x.shape[dim]
    edge = x.narrow(dim, length - 1 if by > 0 else 0, 1)
    rest = x.narrow(dim, max(by, 0), length - 1)
    return torch.cat((rest, edge) if by > 0 else (edge, rest), dim)
