"""The figures of shots when segments are made in any order and anywhere.

What `pysr.video.report.Meter` measures of a shot that is seen from its first frame on, is measured
here by segments, kept with each, and put together in the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pysr.nets import DAN
from pysr.upscaler import Upscaler
from pysr.video.flicker import Flicker
from pysr.video.report import EVERY, ShotReport
from pysr.video.track import Shot


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
                shot.kernel(model),
                shot.spread,
                sum(consistency) / len(consistency) if consistency else math.nan,
                flicker.value,
            )
        )
    return reports
