"""Which parts of a picture are looked at, or restored, at a time; for `pysr.upscaler`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

ESTIMATE_CROP = 160  # side of the crops that a kernel is estimated on: few large beat many small
ESTIMATE_CROPS = 2
GATE_CROP = 96  # side of the crops that stand for a tiled picture in channel attention
GATE_CROPS = 8  # along each axis


Crop = tuple[slice, slice, Tensor]  # rows, columns and what is there, (1, 3, h, w)


def informative_crops(lr: Tensor) -> list[Crop]:
    """The crops of (1, 3, H, W) that say most about its blur.

    A picture with no more pixels than all crops together is taken whole. Else every crop is a
    square, of a narrow picture as high or wide as that, where the gradient energy that the ones
    before it leave uncovered is largest: blur shows where there is detail. Where none is left there
    are fewer.
    """
    sides = lr.shape[-2:]
    if math.prod(sides) <= ESTIMATE_CROPS * ESTIMATE_CROP**2:
        return [whole(lr)]
    grey = lr.mean(1)
    energy = torch.zeros_like(grey)
    energy[:, 1:] += (grey[:, 1:] - grey[:, :-1]) ** 2
    energy[:, :, 1:] += (grey[:, :, 1:] - grey[:, :, :-1]) ** 2
    extents = [min(ESTIMATE_CROP, n) for n in sides]
    # Crops are placed on a grid of quarters of them; the last ones end where the picture does.
    steps = [extent // 4 if extent < n else n for extent, n in zip(extents, sides, strict=True)]
    counts = [extent // step for extent, step in zip(extents, steps, strict=True)]
    cells = F.avg_pool2d(energy[None], steps, ceil_mode=True, divisor_override=1)
    crops = []
    for _ in range(ESTIMATE_CROPS):
        sums = F.avg_pool2d(cells, counts, stride=1, divisor_override=1)[0, 0]
        if crops and not bool(sums.any()):
            break
        at = divmod(int(sums.argmax()), sums.shape[1])
        cells[(..., *(slice(i, i + count) for i, count in zip(at, counts, strict=True)))] = 0
        starts = [
            min(i * step, n - extent)
            for i, step, n, extent in zip(at, steps, sides, extents, strict=True)
        ]
        crops.append(_crop(lr, *map(slice, starts, map(sum, zip(starts, extents, strict=True)))))
    return crops


def gradient_energy(rgb: Tensor) -> float:
    """Of (1, 3, H, W), mean of the squares: how much it shows, of blur and else."""
    along = (rgb.diff(dim=axis) for axis in (2, 3) if rgb.shape[axis] > 1)
    return sum(float(gradient.square().mean()) for gradient in along)


def _crop(lr: Tensor, rows: slice, columns: slice) -> Crop:
    return rows, columns, lr[..., rows, columns]


def whole(lr: Tensor) -> Crop:
    """All of (1, 3, H, W), in the form of a crop."""
    return _crop(lr, *(slice(0, n) for n in lr.shape[-2:]))


def spread_crops(lr: Tensor, side: int) -> Iterator[Tensor]:
    """Crops of one size, evenly spread over (1, 3, H, W), at most GATE_CROPS on each axis."""
    h, w = lr.shape[-2:]
    side_y, side_x = min(side, h), min(side, w)
    for y in _starts(h, side_y):
        for x in _starts(w, side_x):
            yield lr[..., y : y + side_y, x : x + side_x]


def _starts(length: int, side: int) -> list[int]:
    count = min(GATE_CROPS, math.ceil(length / side))
    return [round(i * (length - side) / max(count - 1, 1)) for i in range(count)]


@dataclass(frozen=True)
class Tile:
    """A tile by its rows and columns: what it keeps, and what it sees with its halo."""

    kept: tuple[slice, slice]
    seen: tuple[slice, slice]


def tiles(h: int, w: int, tile: int, halo: int) -> list[Tile]:
    """The tiles of a picture; a single one up to tile * tile pixels."""
    step = tile if h * w > tile * tile else max(h, w)

    def seen(kept: slice, length: int) -> slice:
        return slice(max(kept.start - halo, 0), min(kept.stop + halo, length))

    return [
        Tile((rows, columns), (seen(rows, h), seen(columns, w)))
        for rows in spans(h, step)
        for columns in spans(w, step)
    ]


def scaled(span: slice, scale: int, offset: int = 0) -> slice:
    """A span of LR pixels, moved by `offset` of them, in SR pixels."""
    return slice(scale * (span.start + offset), scale * (span.stop + offset))


def spans(length: int, step: int) -> list[slice]:
    """Consecutive slices of about equal length, none longer than `step`, that cover `length`."""
    count = math.ceil(length / step)
    edges = [round(i * length / count) for i in range(count + 1)]
    return [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]


def inside(x: Tensor, border: int) -> Tensor:
    """(..., H, W) without a border of so many pixels."""
    return x[..., border : x.shape[-2] - border, border : x.shape[-1] - border]
