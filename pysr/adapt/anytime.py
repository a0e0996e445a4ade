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

Where the picture is known to have noise, one that is met perfectly has been restored with it. What
then judges is how far the restoration, degraded again, is from the picture without its noise:
Stein's unbiased estimate of that, which needs no such picture, but to know how much of a change in
the input comes through; a random one tells (Ramani, Blu and Unser, "Monte-Carlo SURE", 2008).

None of that sees a blur that was estimated wrong. Where a plain network is taught, the DAN that
found the blur can be asked for its own restoration, in which a wrong blur does less harm, as it
learned to expect some error. What was learned and lies further from that than the unadapted weights
did is put back, unless the two are alike anyway.

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
from pysr.tiling import inside

LOOK_EVERY = 20  # steps
CLEAR = 10 * math.log10(12 * 255**2)  # dB, the noise of rounding to 8 bits: more tells nothing
WORST = 3.0  # dB under the unadapted weights, below which learning has gone astray
ASTRAY = 0.5  # dB further from a DAN's restoration than before, and
ALIKE = 36.0  # dB, nearer than that anyway
CHANGE = 0.25  # of the noise's deviation: what the input is changed by to see what comes through


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


class Judge:
    """Scores what is made of some crops of a picture.

    Args:
        lr: crops (1, 3, H, W).
        noise: standard deviation of their noise, in [0, 1] units.
    """

    def __init__(self, lr: Sequence[Tensor], noise: float = 0.0):
        self.lr, self.noise, self._changes = list(lr), noise, []
        if noise:
            draws = torch.Generator(self.lr[0].device).manual_seed(0)
            chance = (
                torch.rand(crop.shape, generator=draws, device=crop.device) for crop in self.lr
            )
            self._changes = [CHANGE * noise * (drawn - 0.5).sign() for drawn in chance]

    @torch.no_grad()
    def restored(self, restore: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """The crops as a user gets them, clipped, and those of changed crops; what is not finite
        stays so."""
        changed = (crop + change for crop, change in zip(self.lr, self._changes, strict=False))
        made = (restore(crop) for crop in (*self.lr, *changed))
        return [torch.where(sr.isfinite(), sr.clamp(0, 1), sr) for sr in made]

    def score(self, restored: Sequence[Tensor], degradation: GivenBlur | Camera) -> float:
        """PSNR in dB between the crops, without their noise, and what `restored` gave, degraded
        again.

        At most CLEAR; NaN where a restoration has one. See `pysr.consistency`.
        """
        again = [degradation(sr) for sr in restored]
        errors = [
            squared_differences(crop, one, degradation.reach)
            for crop, one in zip(self.lr, again, strict=False)
        ]
        count = sum(values for _, values in errors)
        error = float(sum(squares for squares, _ in errors)) / count
        if self.noise:
            error += (2 * self._come_through(again, degradation.reach) / count - 1) * self.noise**2
        return min(-10 * math.log10(max(error, 1e-12)), CLEAR)

    def _come_through(self, again: list[Tensor], reach: int) -> float:
        """How many values' worth of a change in the crops is found again."""
        through, crops = 0.0, len(self.lr)
        for change, one, other in zip(self._changes, again[:crops], again[crops:], strict=True):
            found = inside(change * (other - one), min(reach, (min(change.shape[-2:]) - 1) // 2))
            through += float(found.sum()) / (CHANGE * self.noise) ** 2
        return through


class Anytime:
    """Runs a learner within a budget.

    Args:
        lr: crops (1, 3, H, W) of the picture, by which weights are judged.
        started: `time.perf_counter()` when the method was called; the budget counts from there.
        noise: of the picture, as of `Judge`.
        opinion: what a DAN makes of the crops, see `pysr.adapt.picture.second_opinion`; none where
            the blur is known.
    """

    def __init__(
        self,
        learner: Learner,
        lr: Sequence[Tensor],
        budget: Budget,
        started: float,
        noise: float = 0.0,
        opinion: Sequence[Tensor] = (),
    ):
        self.learner, self.judge, self.opinion = learner, Judge(lr, noise), opinion
        self.budget, self.started = budget, started
        self.steps, self.history = 0, []
        before = time.perf_counter()
        self.degradation = learner.degradation()
        self.start = self.best = self._snapshot(self.judge.restored(learner.restore))
        self._scored(self.start, self.degradation)
        # Kept free for the last look, and for those that `_unadapted` takes.
        looks = 3 if learner.follows_blur else 1
        self.look_seconds = looks * (time.perf_counter() - before)

    def run(self, method: str, otherwise: str = "the model is as it was") -> Report:
        """Teach until the budget is spent; leaves the best weights in the learner's model, and says
        with which blur they were found; `otherwise` says what nothing learned was better than.

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
        better = all(self._scored(self.best, judge) > score for judge, score in before.items())
        astray = better and self._astray()
        rolled_back = astray or not better
        kept = self.start if rolled_back else self.best
        after = self._scored(kept, kept.degradation)
        self.learner.model.load_state_dict(kept.weights)
        if astray:
            outcome = f"went away from what a DAN makes of it, so its blur is doubted, {otherwise}"
        elif rolled_back:
            found = "nothing learned was better" if self.steps else "no time was left to learn"
            outcome = f"{found}, {otherwise}"
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
            noise=self.judge.noise,
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
        current = self.judge.restored(self.learner.restore)
        score = self.judge.score(current, degradation)
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

    def _astray(self) -> bool:
        """Whether the best weights went away from what a DAN makes of the picture."""
        if not self.opinion:
            return False
        now, before = (_agreement(s.restored, self.opinion) for s in (self.best, self.start))
        return now < min(before - ASTRAY, ALIKE)

    def _scored(self, snapshot: _Snapshot, degradation: GivenBlur | Camera) -> float:
        return self.judge.score(snapshot.restored, degradation)

    def _unadapted(self, degradation: GivenBlur | Camera) -> float:
        """The score of the weights that were begun with. What follows the blur has them restore
        anew with this one; the model is then left with them."""
        if not self.learner.follows_blur or degradation is self.start.degradation:
            return self._scored(self.start, degradation)
        self.learner.model.load_state_dict(self.start.weights)
        restore = partial(self.learner.restore_under, degradation=degradation)
        return self.judge.score(self.judge.restored(restore), degradation)


def _agreement(restored: Sequence[Tensor], opinion: Sequence[Tensor]) -> float:
    """PSNR in dB between restorations of the same crops."""
    squares = [(a - b).square() for a, b in zip(restored, opinion, strict=False)]
    error = float(sum(each.sum() for each in squares)) / sum(each.numel() for each in squares)
    return -10 * math.log10(max(error, 1e-12))
