"""What is measured of each shot while its frames pass: on few of them, since it is not free."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pysr.nets import DAN
from pysr.upscaler import Upscaler
from pysr.video.flicker import Flicker
from pysr.video.track import Shot

EVERY = 32  # frames of a shot; of them and their next neighbours it is measured


@dataclass(frozen=True)
class ShotReport:
    """Of frames first to stop - 1.

    Attributes:
        kernel: (k, k), sums to 1: the mean over the shot.
        spread: see `pysr.video.track.Shot`; 0 for a kernel that was given.
        consistency: mean in dB, see `pysr.Upscaled`; None for a shot of which nothing was measured.
        flicker: 8-bit levels, see `pysr.video.flicker`; None where nothing stands still.
    """

    first: int
    stop: int
    kernel: list[list[float]]
    spread: float
    consistency: float | None
    flicker: float | None


class Figures:
    """Measures the frames of one segment."""

    def __init__(self, upscaler: Upscaler):
        self._upscaler = upscaler
        self._consistency: dict[int, list[float]] = {}
        self._flicker: dict[int, Flicker] = {}
        self._before: tuple[int, Tensor, Tensor] | None = None

    def add(self, index: int, shot: Shot, kernel: Tensor, lr: Tensor, out: Tensor) -> None:
        """The next frame: its shot and the shot's kernel, lr (1, 3, H, W), out (1, 3, s*H, s*W)."""
        turn = (index - shot.first) % EVERY
        if turn == 0:
            found = self._upscaler.consistency(lr, out, kernel)
            self._consistency.setdefault(shot.first, []).append(found)
            self._before = (index, lr, out)
        elif turn == 1 and self._before is not None and self._before[0] == index - 1:
            pairs = (torch.cat(pair) for pair in zip(self._before[1:], (lr, out), strict=True))
            self._flicker.setdefault(shot.first, Flicker()).add(*pairs)
            self._before = None

    @property
    def gathered(self) -> dict[str, dict]:
        """By a shot's first frame, as JSON."""
        return {
            str(first): {
                "consistency": found,
                "flicker": self._flicker[first].sums if first in self._flicker else None,
            }
            for first, found in self._consistency.items()
        }


def report(shots: Sequence[Shot], model: DAN, gathered: Sequence[dict]) -> list[ShotReport]:
    """Of every shot what all of its segments gathered."""
    reports = []
    for shot in shots:
        parts = [each[str(shot.first)] for each in gathered if str(shot.first) in each]
        consistency = [value for part in parts for value in part["consistency"]]
        flicker = Flicker()
        for part in parts:
            flicker.add_sums(*(part["flicker"] or (0.0, 0, 0)))
        reports.append(
            ShotReport(
                shot.first,
                shot.stop,
                shot.kernel(model).tolist(),
                shot.spread,
                sum(consistency) / len(consistency) if consistency else None,
                None if math.isnan(flicker.value) else flicker.value,
            )
        )
    return reports
