"""The loop that every method runs in: it can be stopped at any time, and never makes things worse.

Nobody knows the picture that is wanted, so weights are judged by what is known: the restored
picture, degraded again by the blur found so far, must give the picture that came in. Figures under
different blurs cannot be compared: a wrong one may be met perfectly. So the restorations of the
best weights so far and of the first ones are kept, and at every look all are judged anew under the
blur of that moment. In the end the best must beat the unadapted weights under the last blur and
under their own, or those are put back; a network that is told the blur is then told those with the
unadapted weights too. Weights are kept with the blur that was found by then: what is returned is a
pair that was judged, never weights of one step with the blur of another. Where the blur is part of
a degradation that was learned from a camera's pairs, that degradation judges.

Nothing between two looks waits for the device: losses are summed on it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from pysr.adapt.budget import Budget
from pysr.adapt.camera import Camera
from pysr.adapt.report import Check, Report
from pysr.consistency import squared_differences
from pysr.degrade.deep_linear import GivenBlur

LOOK_EVERY = 20  # steps
CLEAR = 10 * math.log10(12 * 255**2)  # dB, the noise of rounding to 8 bits: more tells nothing
WORST = 3.0  # dB under the unadapted weights, below which learning has gone astray


class Learner(Protocol):
    """A method at work on one picture.

    Attributes:
        model: what is taught, in place; its weights are kept or put back.
        finished: nothing is left to learn, whatever is left of the budget.
        settled: falling behind the unadapted weights is a bad sign by now; a network that begins
            from nothing does so at first.
        follows_blur: what is restored depends on the blur that is being learned, as a DAN's does.
    """

    model: nn.Module
    finished: bool
    settled: bool
    follows_blur: bool

    def step(self, index: int) -> Tensor:
        """Learn once; returns the loss, a detached number on the device."""

    def restore(self, lr: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 3, s*H, s*W), by the weights and the blur as they are."""

    def restore_under(self, lr: Tensor, degradation: GivenBlur | Camera) -> Tensor:
        """The same with the blur of a `degradation`; only asked of what follows one."""

    def degradation(self) -> GivenBlur | Camera:
        """What was done to the picture, as far as it is known; it stays as it is from now on."""


@dataclass(frozen=True)
class _Snapshot:
    step: int
    weights: dict[str, Tensor]
    restored: list[Tensor]
    degradation: GivenBlur | Camera  # as it was found by then


class _Diverged(Exception):
    """Learning has gone astray; the message says how that was seen."""


def consistency(
    lr: Sequence[Tensor], sr: Sequence[Tensor], degradation: GivenBlur | Camera
) -> float:
    """PSNR in dB between pictures (1, 3, H, W) and their restorations, degraded again.

    At most CLEAR; NaN where a restoration has one. See `pysr.consistency`.
    """
    errors = [
        squared_differences(one, degradation(restored), degradation.reach)
        for one, restored in zip(lr, sr, strict=True)
    ]
    error = float(sum(squares for squares, _ in errors)) / sum(count for _, count in errors)
    return min(-10 * math.log10(max(error, 1e-12)), CLEAR)


class Anytime:
    """Runs a learner within a budget.

    Args:
        lr: crops (1, 3, H, W) of the picture, by which weights are judged.
        started: `time.perf_counter()` when the method was called; the budget counts from there.
    """

    def __init__(
        self,
        learner: Learner,
        lr: Sequence[Tensor],
        budget: Budget,
        started: float,
    ):
        self.learner, self.lr = learner, lr
        self.budget, self.started = budget, started
        self.steps, self.history = 0, []
        before = time.perf_counter()
        self.degradation = learner.degradation()
        self.start = self.best = self._snapshot(self._restored(learner.restore))
        self._scored(self.start, self.degradation)
        # Kept free for the last look, and for those that `_unadapted` takes.
        looks = 3 if learner.follows_blur else 1
        self.look_seconds = looks * (time.perf_counter() - before)

    def run(self, method: str) -> Report:
        """Teach until the budget is spent; leaves the best weights in the learner's model, and says
        with which blur they were found.

        Ctrl-C ends it early. So does a loss that is not finite, or a restoration that falls
        far behind the unadapted one; the report then says so.
        """
        try:
            with torch.enable_grad():
                reason = self._learn()
        except KeyboardInterrupt:
            reason = "interrupted"
        except _Diverged as error:
            reason = f"diverged: {error}"
        judges = {self.degradation, self.best.degradation}  # one, where nothing of it learns
        before = {judge: self._unadapted(judge) for judge in judges}
        rolled_back = not all(
            self._scored(self.best, judge) > score for judge, score in before.items()
        )
        kept = self.start if rolled_back else self.best
        after = self._scored(kept, kept.degradation)
        self.learner.model.load_state_dict(kept.weights)
        if rolled_back:
            outcome = "nothing learned was better, the model is as it was"
        else:
            outcome = f"kept step {kept.step}"
        kernel = kept.degradation.kernel()
        return Report(
            method=method,
            steps=self.steps,
            seconds=self._elapsed(),
            kernel=None if kernel is None else kernel.float().cpu(),
            consistency_before=after if rolled_back else before[kept.degradation],
            consistency_after=after,
            rolled_back=rolled_back,
            reason=f"{reason}; {outcome}",
            history=tuple(self.history),
        )

    def _learn(self) -> str:
        total, looked = 0.0, 0
        while not self._spent():
            total = total + self.learner.step(self.steps)
            self.steps += 1
            if self.steps % LOOK_EVERY == 0 or self._spent():
                self._look(float(total) / (self.steps - looked))
                total, looked = 0.0, self.steps
        return "learned all it could" if self.learner.finished else "budget spent"

    def _spent(self) -> bool:
        spent = self.budget.spent(self.steps, self._elapsed() + self.look_seconds)
        return spent or self.learner.finished

    def _elapsed(self) -> float:
        return time.perf_counter() - self.started

    def _look(self, loss: float) -> None:
        degradation = self.learner.degradation()
        kernel = degradation.kernel()
        lost = kernel is not None and not bool(torch.isfinite(kernel).all())
        if lost or not math.isfinite(loss):
            raise _Diverged(f"loss {loss:.3g} at step {self.steps}")
        self.degradation = degradation
        current = self._restored(self.learner.restore)
        score = consistency(self.lr, current, degradation)
        unadapted = self._scored(self.start, degradation)
        self.history.append(Check(self.steps, self._elapsed(), loss, score, unadapted))
        if self.learner.settled and not score > unadapted - WORST:
            raise _Diverged(
                f"consistency {score:.1f} dB at step {self.steps}, unadapted {unadapted:.1f} dB"
            )
        if score > self._scored(self.best, degradation):
            self.best = self._snapshot(current)

    def _snapshot(self, restored: list[Tensor]) -> _Snapshot:
        state = self.learner.model.state_dict()
        weights = {name: value.detach().clone() for name, value in state.items()}
        return _Snapshot(self.steps, weights, restored, self.degradation)

    def _scored(self, snapshot: _Snapshot, degradation: GivenBlur | Camera) -> float:
        return consistency(self.lr, snapshot.restored, degradation)

    def _unadapted(self, degradation: GivenBlur | Camera) -> float:
        """The score of the weights that were begun with. What follows the blur has them restore
        anew with this one; the model is then left with them."""
        if not self.learner.follows_blur or degradation is self.start.degradation:
            return self._scored(self.start, degradation)
        self.learner.model.load_state_dict(self.start.weights)
        restore = partial(self.learner.restore_under, degradation=degradation)
        return consistency(self.lr, self._restored(restore), degradation)

    @torch.no_grad()
    def _restored(self, restore: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """The crops as a user gets them, clipped; what is not finite stays so."""
        made = (restore(crop) for crop in self.lr)
        return [torch.where(sr.isfinite(), sr.clamp(0, 1), sr) for sr in made]
