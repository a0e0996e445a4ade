"""How long a picture may be learned from: steps or seconds, as a user writes them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from numbers import Integral, Real

_WRITTEN = re.compile(r"\s*([0-9.]+)\s*(s|sec|seconds?|steps?)\s*")


@dataclass(frozen=True)
class Budget:
    """Steps or seconds; the other one is None.

    Raises ValueError for none, for both, and for what is not above zero.
    """

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self):
        given = [value for value in (self.steps, self.seconds) if value is not None]
        if len(given) != 1:
            raise ValueError("budget: expected either steps or seconds")
        if not 0 < given[0] < math.inf:
            raise ValueError(f"budget: expected more than zero steps or seconds, got {given[0]}")

    @classmethod
    def of(cls, value: Budget | int | float | str) -> Budget:
        """A whole number is steps, another number seconds; or "10s", "500 steps".

        Raises ValueError for anything else, and for a budget that is not above zero.
        """
        if isinstance(value, Budget):
            return value
        if isinstance(value, str):
            return cls.of(_number(value))
        if isinstance(value, bool) or not isinstance(value, Real):
            raise _refused(value)
        whole = isinstance(value, Integral)
        return cls(steps=int(value)) if whole else cls(seconds=float(value))

    def share(self, steps: int, seconds: float) -> float:
        """How much of it is spent, from 0 on; 1 is all."""
        return steps / self.steps if self.steps is not None else seconds / self.seconds

    def spent(self, steps: int, seconds: float) -> bool:
        return self.share(steps, seconds) >= 1


def _number(text: str) -> int | float:
    match = _WRITTEN.fullmatch(text)
    if match is None:
        raise _refused(text)
    number, unit = match.groups()
    try:
        return float(number) if unit.startswith("se") or unit == "s" else int(number)
    except ValueError:
        raise _refused(text) from None


def _refused(value: object) -> ValueError:
    return ValueError(
        f'budget: expected steps or seconds, like "500 steps" or "10s", got {value!r}'
    )
