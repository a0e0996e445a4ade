"""What torch does by default, when a caller has changed it for work of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def own_defaults(device: str = "cpu") -> Iterator[None]:
    """A context, or a decorator, in which tensors are made on the CPU and have the types that the
    code says, whatever default device and `torch.autocast` the caller has set.

    Args:
        device: the type of another device that is worked on.
    """
    with contextlib.ExitStack() as stack:
        for kind in {"cpu", device}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":  # this context slows every call down
            stack.enter_context(torch.device("cpu"))
        yield
