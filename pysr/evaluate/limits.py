"""What this machine can do at best, measured in the same run as what is compared with it.

A figure from a data sheet would not know about the other load on the machine, its clock, or the
number of threads; these do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch


def seconds(work: Callable[[], object], device: torch.device, rounds: int = 10) -> float:
    """The fastest of several calls, after one to warm up."""
    best = float("inf")
    for round in range(rounds + 1):
        synchronise(device)
        start = time.perf_counter()
        work()
        synchronise(device)
        if round > 0:
            best = min(best, time.perf_counter() - start)
    return best


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@cache
def flops(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Floating point operations per second of torch's own matrix product, without TF32."""
    size = 1024 if device.type == "cpu" else 8192
    a = torch.rand(size, size, device=device, dtype=dtype)
    return 2 * size**3 / seconds(lambda: a @ a, device)


@cache
def read_bandwidth(device: torch.device) -> float:
    """Bytes per second of reading 1 GiB, as the sum of it does."""
    source = torch.rand(2**28, device=device)
    return source.nbytes / seconds(lambda: source.sum(), device)


@cache
def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second, read and written, of copying 256 MiB."""
    source = torch.rand(2**26, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source), device)
