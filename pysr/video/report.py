"""What is reported of a shot, gathered while its frames are restored, in whatever way that is done.

Consistency and flicker cost a tenth of a small frame's restoration, so that they are measured on
every 16th frame and the one after it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pysr import arrays
from pysr.upscaler import Upscaler
from pysr.video.flicker import Flicker

EVERY = 16  # frames


@dataclass(frozen=True)
class ShotReport:
    """What was found out about a shot, frames first to stop - 1.

    Attributes:
        kernel: (k, k) float32, sums to 1: the mean of those that its frames were restored with.
        spread: as in `pysr.video.track.Shot`; 0.0 where the kernel was given.
        consistency: see `pysr.Upscaled`, the mean over every 16th frame.
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
    """Sees every restored frame of a shot, in order, from its first on.

    Attributes:
        consistency: of the frame that it was last measured on.
    """

    def __init__(self, upscaler: Upscaler, first: int):
        self._upscaler, self._first = upscaler, first
        self._kernels = torch.zeros(())
        self._count = 0
        self._consistencies: list[float] = []
        self._flicker = Flicker()
        self._before: tuple[Tensor, Tensor] | None = None

    def add(self, picture: arrays.Unpacked, out: Tensor, kernel: Tensor) -> None:
        """The next frame, what `Upscaler.restored` made of it, and the kernel (k, k) it used."""
        offset = self._count % EVERY
        self._kernels = self._kernels + kernel
        self._count += 1
        if offset == 0:
            self._consistencies.append(self._upscaler.consistency(picture.rgb, out, kernel))
        if offset > 1:
            return
        now = picture.rgb, arrays.as_float(out[:, :3]).expand(-1, 3, -1, -1)
        if offset == 1:
            pair = zip(self._before, now, strict=True)
            self._flicker.add(*(torch.cat(both) for both in pair))
        self._before = now if offset == 0 else None

    @property
    def consistency(self) -> float:
        return self._consistencies[-1]

    def report(self, spread: float) -> ShotReport:
        """Of the frames so far, given the spread of the shot's track."""
        return ShotReport(
            first=self._first,
            stop=self._first + self._count,
            kernel=self._kernels / self._count,
            spread=spread,
            consistency=sum(self._consistencies) / len(self._consistencies),
            flicker=self._flicker.value,
        )
