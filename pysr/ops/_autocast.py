"""What operators do under autocast."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from pysr.ops._check import FLOATS


def in_widest_type(operator: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Under autocast, take all arguments in the widest of their types: as torch does with its own
    operators of several inputs that it does not round."""

    @functools.wraps(operator)
    def wrapped(*arguments, **named):
        given = [a for a in (*arguments, *named.values()) if _is_float(a)]
        if not given:
            return operator(*arguments, **named)
        device = given[0].device.type
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            return operator(*arguments, **named)
        dtype = functools.reduce(torch.promote_types, [a.dtype for a in given])
        arguments = [a.to(dtype) if _is_float(a) else a for a in arguments]
        named = {name: a.to(dtype) if _is_float(a) else a for name, a in named.items()}
        with torch.autocast(device, enabled=False):
            return operator(*arguments, **named)

    return wrapped


def _is_float(argument: object) -> bool:
    return isinstance(argument, Tensor) and argument.dtype in FLOATS
