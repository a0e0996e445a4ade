"""ZSSR's learning rate: lowered when the errors fall no faster than they scatter.

A line is fitted to the recent errors. The standard deviation of its slope says how much of that
slope is chance; when it outweighs the slope, a smaller rate takes over. ZSSR divides by 10, DSR by
2, and either stops where the rate has become small.

The errors stay on the device, and are read back once in EVERY steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

EVERY = 60  # steps between two fits
WINDOW = 256  # errors that a line is fitted to, all of one rate
RATIO = 1.5  # how often the slope must contain its own deviation


def stalled(errors: Sequence[float]) -> bool:
    """Whether errors, one a step and at least three, have stopped falling for certain."""
    (slope, _), covariance = np.polyfit(np.arange(len(errors)), errors, 1, cov=True)
    return bool(-RATIO * slope < np.sqrt(covariance[0, 0]))


class LineFit:
    """The learning rate of a training, told every step's error.

    Args:
        rate: to begin with.
        divide_by: above 1.
        stop_at: learning is over when the rate has come down to this.
        device: of the errors.

    Attributes:
        rate: the learning rate of the next step.
    """

    def __init__(self, rate: float, divide_by: float, stop_at: float, device: torch.device):
        self.rate, self._divide_by, self._stop_at = rate, divide_by, stop_at
        self._errors = torch.zeros(WINDOW, device=device)
        self._seen = 0  # since the rate was changed

    @property
    def finished(self) -> bool:
        return self.rate <= self._stop_at * (1 + 1e-9)

    def see(self, error: Tensor) -> None:
        """Take note of a step's error, a detached number on the device."""
        self._errors[self._seen % WINDOW] = error
        self._seen += 1
        if self._seen % EVERY or self._seen < WINDOW:
            return
        oldest = self._seen % WINDOW
        if stalled(self._errors.roll(-oldest).tolist()):
            self.rate /= self._divide_by
            self._seen = 0
