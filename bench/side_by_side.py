"""An operator beside what a user would pick today, timed by turns in one run.

Other load on the machine then falls on all of them alike, and the ratio of the medians means
something even where the times do not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from pysr.evaluate.limits import copy_bandwidth, flops, read_bandwidth, synchronise

REST, SHORT = 0.02, 0.2  # seconds
SLOW = 2.0  # seconds; what takes longer is timed once
RECORDS: list[dict] = []  # what was measured in this run, for conftest to write


def side_by_side(
    benchmark,
    title: str,
    ours: Callable[[], object],
    peers: dict[str, Callable[[], object]],
    device: torch.device,
    *,
    operations: int = 0,
    read: int = 0,
    moved: int = 0,
    dtype: torch.dtype = torch.float32,
    rounds: int = 7,
) -> None:
    """Time ours with pytest-benchmark and every peer before each of its rounds; print the ratios.

    What the work cannot do without, of which the share of the machine's measured limit is printed:
    operations counts floating point operations, in dtype; read and moved count bytes, read alone or
    read and written.
    """
    times: dict[str, list[float]] = {name: [] for name in peers}

    def prepare():
        for name, peer in peers.items():
            if not times[name] or times[name][0] <= SLOW:
                times[name].append(_alone(peer, device))
        _alone(ours, device)

    def work():
        ours()
        synchronise(device)

    benchmark.group = title
    benchmark.pedantic(work, setup=prepare, rounds=rounds, warmup_rounds=1)
    mine = benchmark.stats.stats.median
    possible = flops(device, dtype) if operations else 1.0
    shares = {
        "of the matrix product's rate": operations / mine / possible,
        "of the read bandwidth": read / mine / read_bandwidth(device) if read else 0,
        "of the copy bandwidth": moved / mine / copy_bandwidth(device) if moved else 0,
    }
    ratios = {}
    print(f"\n{title}, {device.type}: {mine * 1e3:.2f} ms")
    for name, share in shares.items():
        if share:
            print(f"    {share:7.0%} {name}")
    for name, taken in times.items():
        # The first call also pays for what is set up once.
        ratios[name] = median(taken[1:] or taken) / mine
        print(f"    {ratios[name]:7.2f} times faster than {name}")
    RECORDS.append(
        {
            "file": Path(benchmark.fullname.split("::")[0]).stem,
            "device": device.type,
            "title": title,
            "milliseconds": round(mine * 1e3, 3),
            "times_faster_than": {name: round(ratio, 2) for name, ratio in ratios.items()},
            "share": {name: round(share, 3) for name, share in shares.items() if share},
        }
    )


def _alone(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call that finds the machine as its own last call leaves it.

    What another left running has ended: OpenMP's workers spin a while for more work, on the cores
    that the next call would be timed on. A short call is made twice, since a core that has slept
    takes its time to wake.
    """
    time.sleep(REST)
    taken = 0.0
    for _ in range(2):
        synchronise(device)
        start = time.perf_counter()
        work()
        synchronise(device)
        taken = time.perf_counter() - start
        if taken > SHORT:
            break
    return taken
