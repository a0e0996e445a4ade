"""How long a picture may be learned from: steps or seconds, as a user writes them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_WRITTEN = re.compile(r"\s*([0-9.]+)\s*(s|sec|seconds?|steps?)\s*")


@dataclass(frozen=True)
class Budget:
    """Steps or seconds; the other one is None."""

    steps: int | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, value: Budget | int | float | str) -> Budget:
        """A whole number is steps, another number seconds; or "10s", "500 steps".

        Raises ValueError for anything else, and for a budget that is not above zero.
        """
        if isinstance(value, Budget):
            return value
        if isinstance(value, str):
            return cls.of(_number(value))
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _refused(value)
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"budget: expected more than zero steps or seconds, got {value}")
        return cls(steps=value) if isinstance(value, int) else cls(seconds=value)

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
