"""Networks taught one after the other, each on pairs that are drawn; for ZSSR and DSR.

ZSSR's steps towards a large factor, DSR's LR Finer and its resolver: each learns from what the ones
before it make of the picture, so that they share a budget and take turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pysr.adapt.budget import Budget
from pysr.adapt.line_fit import LineFit
from pysr.degrade.deep_linear import GivenBlur

Pairs = Iterator[tuple[Tensor, Tensor]]

# The end of a phase over which its learning rate falls linearly to 0: Adam's scatter at a rate that
# learns fast costs more than the steps do. A budget is mostly spent before any line fit says so.
COOLDOWN = 0.4
# Steps over which it rises to what it is: Adam's first steps know nothing of how far to go.
WARM_UP = 20
# Steps of a turn in which its network may make things worse: it mostly begins from nothing.
SETTLING = 100


@dataclass(frozen=True)
class Rates:
    """Learning rates of a phase: see `pysr.adapt.line_fit.LineFit`."""

    rate: float
    divide_by: float
    stop_at: float


@dataclass(frozen=True)
class Phase:
    """One network's turn.

    Attributes:
        network: what learns.
        begin: called when its turn comes; gives pairs of what the network sees and of what it ought
            to make of that, without end.
        loss: of what it made and what it ought to have made.
        share: of the budget, relative to the other phases.
    """

    network: nn.Module
    begin: Callable[[], Pairs]
    loss: Callable[[Tensor, Tensor], Tensor]
    rates: Rates
    share: float = 1.0


class Phases:
    """A `pysr.adapt.anytime.Learner`.

    Args:
        model: holds all networks that are taught.
        unadapted: restores (N, 3, H, W) as it was done before; stands for the first weights.
        adapted: the same by the networks as they are.
        degradation: of the picture.
        started: as of `pysr.adapt.anytime.Anytime`.
    """

    def __init__(
        self,
        model: nn.Module,
        phases: Sequence[Phase],
        unadapted: Callable[[Tensor], Tensor],
        adapted: Callable[[Tensor], Tensor],
        degradation: GivenBlur,
        budget: Budget,
        started: float,
    ):
        self.model, self.finished, self.follows_blur = model, False, False
        self._waiting, self._turn = list(phases), None
        self._unadapted, self._adapted, self._degradation = unadapted, adapted, degradation
        self._budget, self._started = budget, started

    def restore(self, lr: Tensor) -> Tensor:
        return (self._unadapted if self._turn is None else self._adapted)(lr)

    @property
    def settled(self) -> bool:
        return self._turn is not None and self._turn.steps > SETTLING

    def degradation(self) -> GivenBlur:
        return self._degradation

    def step(self, index: int) -> Tensor:
        spent = self._budget.share(index, time.perf_counter() - self._started)
        if self._turn is None or self._turn.over(spent):
            self._turn = self._next(spent)
        loss = self._turn.step(spent)
        self.finished = not self._waiting and self._turn.rates.finished
        return loss

    def _next(self, spent: float) -> _Turn:
        # The last phase keeps what is left, also of a budget that ran out a moment ago.
        phase = self._waiting.pop(0) if self._waiting else self._turn.phase
        rest = phase.share / (phase.share + sum(p.share for p in self._waiting))
        return _Turn(phase, spent, spent + (1 - spent) * rest)


class _Turn:
    """A phase at work, from one share of the budget to another."""

    def __init__(self, phase: Phase, first: float, last: float):
        self.phase, self._first, self._last = phase, first, last
        self._pairs, self.steps = phase.begin(), 0
        # Whoever froze it, here it learns.
        parameters = list(phase.network.requires_grad_(True).parameters())
        rates = phase.rates
        self.rates = LineFit(rates.rate, rates.divide_by, rates.stop_at, parameters[0].device)
        self._optimiser = torch.optim.Adam(parameters, rates.rate, fused=True)

    def over(self, spent: float) -> bool:
        return spent >= self._last or self.rates.finished

    def step(self, spent: float) -> Tensor:
        left = (self._last - spent) / max(COOLDOWN * (self._last - self._first), 1e-9)
        for group in self._optimiser.param_groups:
            begun = (self.steps + 1) / WARM_UP
            group["lr"] = self.rates.rate * min(max(left, 0.0), begun, 1.0)
        seen, wanted = next(self._pairs)
        loss = self.phase.loss(self.phase.network(seen), wanted)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()
        self.rates.see(loss.detach())
        self.steps += 1
        return loss.detach()
