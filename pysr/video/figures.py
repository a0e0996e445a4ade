"""What is reported of a shot, gathered while its frames are restored.

Consistency and flicker cost about half of a small frame's restoration, so that they are measured on
every 32nd frame of a shot and the one after it. A shot may be seen from its first frame to its last
(a stream) or in parts, in any order and anywhere (the segments of a job): what a part has gathered
is kept as JSON and put together in the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pysr import arrays
from pysr.upscaler import Upscaler
from pysr.video.flicker import Flicker

EVERY = 32  # frames


@dataclass(frozen=True)
class ShotReport:
    """What was found out about a shot, frames first to stop - 1.

    Attributes:
        kernel: (k, k) float32, sums to 1: the mean of those that its frames were restored with.
        spread: as in `pysr.video.track.Shot`; 0.0 where the kernel was given.
        consistency: see `pysr.Upscaled`, the mean over every 32nd frame; NaN if none was seen.
        flicker: 8-bit levels, see `pysr.video.flicker`, between those and the frames after them;
            NaN where nothing was static.
    """

    first: int
    stop: int
    kernel: Tensor
    spread: float
    consistency: float
    flicker: float


class Meter:
    """Measures the frames of a shot, or of a part of it, that come in order.

    Attributes:
        consistencies: of the frames that it was measured on.
    """

    def __init__(self, upscaler: Upscaler):
        self._upscaler = upscaler
        self.consistencies: list[float] = []
        self._flicker = Flicker()
        self._before: tuple[Tensor, Tensor] | None = None

    def add(self, offset: int, lr: Tensor, out: Tensor, kernel: Tensor) -> None:
        """The frame that is so many after the shot's first.

        lr: (1, 3, H, W). out, kernel (k, k): what `Upscaler.restored` made of it, with which blur.
        """
        turn = offset % EVERY
        if turn == 0:
            self.consistencies.append(self._upscaler.consistency(lr, out, kernel))
        if turn > 1:
            return
        now = lr, arrays.as_float(out[:, :3]).expand(-1, 3, -1, -1)
        if turn == 1 and self._before is not None:
            pair = zip(self._before, now, strict=True)
            self._flicker.add(*(torch.cat(both) for both in pair))
        self._before = now if turn == 0 else None

    @property
    def gathered(self) -> dict:
        """As JSON, for `report`."""
        return {"consistencies": self.consistencies, "flicker": self._flicker.sums}


def report(
    first: int, stop: int, kernel: Tensor, spread: float, parts: Sequence[dict]
) -> ShotReport:
    """Of a shot, from what each of its parts gathered."""
    consistencies = [value for part in parts for value in part["consistencies"]]
    consistency = sum(consistencies) / len(consistencies) if consistencies else math.nan
    flicker = Flicker()
    for part in parts:
        flicker.add_sums(*part["flicker"])
    return ShotReport(first, stop, kernel, spread, consistency, flicker.value)
