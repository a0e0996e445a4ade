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


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """A context to learn in, whatever default device, `torch.autocast` or `torch.inference_mode`
    it is entered under. No gradient knows tensors made in the latter: those are to be copied, as
    networks are that are deep-copied.

    Raises TypeError under another default dtype than float32, which is one for all threads.
    """
    if torch.get_default_dtype() != torch.float32:
        raise TypeError(
            "expected torch's default dtype to be torch.float32 while a picture is learned from, "
            f"got {torch.get_default_dtype()} (torch.set_default_dtype)"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.inference_mode(False), own_defaults(device):
        yield
