"""What learning from a picture gives: an upscaler for that picture, and what happened."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pysr.adapt import delta
from pysr.upscaler import Upscaler


@dataclass(frozen=True)
class Check:
    """One look at the weights while they were taught.

    Attributes:
        step, seconds: taken so far.
        loss: mean over the steps since the last look.
        consistency: of the weights as they are, in dB, under the kernel found so far.
        unadapted: the same of the weights that were begun with, under that same kernel; of a DAN,
            what they made of the picture when told the blur that was begun with.
    """

    step: int
    seconds: float
    loss: float
    consistency: float
    unadapted: float


@dataclass(frozen=True)
class Report:
    """What happened while a model was taught one picture.

    Attributes:
        method: its name in `pysr.adapt.METHODS`.
        steps, seconds: taken in all; the best weights may be those of an earlier step.
        kernel: (k, k) float32, the blur that was found by the step that is returned (what was begun
            with where nothing learned was better), or the one that was given; None under a learned
            degradation without kernels.
        consistency_before, consistency_after: PSNR in dB between the picture and its restoration
            degraded again by `kernel`, or by the learned degradation, of the unadapted weights and
            of those that are returned. A DAN is told `kernel` with both. Of DSR and ZSSR it is what
            the networks make, without the ensemble and the back-projection after them: nearly any
            picture agrees with the one that it was back-projected to. Where there is noise it is
            an estimate for the picture without that, see `pysr.adapt.anytime`.
        rolled_back: nothing that was learned was better: the weights are the unadapted ones.
        reason: why learning ended, and what was given up; one line.
        history: the looks that were taken.
        noise: standard deviation of the picture's noise, in [0, 1] units, as it was told or found.
    """

    method: str
    steps: int
    seconds: float
    kernel: Tensor | None
    consistency_before: float
    consistency_after: float
    rolled_back: bool
    reason: str
    history: tuple[Check, ...] = ()
    noise: float = 0.0

    def as_json(self) -> dict:
        kernel = self.kernel
        if kernel is not None:
            kernel = [[round(tap, 6) for tap in row] for row in kernel.tolist()]
        # A copy of the kernel by dataclasses would be lost here.
        return asdict(replace(self, kernel=None)) | {"kernel": kernel}

    @classmethod
    def from_json(cls, content: dict) -> Report:
        history = tuple(Check(**check) for check in content["history"])
        kernel = content["kernel"]
        kernel = None if kernel is None else torch.tensor(kernel)
        return cls(**content | {"kernel": kernel, "history": history})

    def line(self) -> str:
        """For people."""
        before, after = self.consistency_before, self.consistency_after
        noise = f"noise {self.noise * 255:.1f} of 255, " if self.noise else ""
        return (
            f"{self.method}: {self.steps} steps in {self.seconds:.1f} s, {noise}"
            f"consistency {before:.1f} -> {after:.1f} dB, {self.reason}"
        )


@dataclass(frozen=True)
class Adapted:
    """A model that was taught one picture.

    Attributes:
        upscaler: for that picture, and others of the same degradation.
        report: what happened.
        base: the model that was begun with, as it was.
        form: makes of the base what learning began with: a copy, or a copy and networks of the
            method's own, always with the same weights.
        settings: what the method's entry in METHODS needs to make that form again; any JSON.
    """

    upscaler: Upscaler
    report: Report
    base: nn.Module
    form: Callable[[nn.Module], nn.Module] = copy.deepcopy
    settings: dict = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write what was learned, as `pysr.adapt.load` reads it. Raises OSError."""
        start, report = self.form(self.base), self.report.as_json()
        delta.save(path, self.upscaler.model, start, self.base, report, self.settings)
