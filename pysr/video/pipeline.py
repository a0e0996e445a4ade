"""Decoding, restoring and encoding at the same time, each in a thread, joined by short queues.

Nearly all of the time goes into restoring, in the calling thread; the other two keep out of its way
and hold few frames, since one of 4K takes 100 MB. FFmpeg and torch release the GIL. On Linux, where
threads have priorities, theirs and those of FFmpeg's threads are low: on a CPU the network is a
chain of short parallel steps, each as slow as its slowest thread, and encoding fits into the gaps
between them. Where it does not, its queue fills up, and it has the CPU while the network waits. An
error in any of the three stops them all and is raised once.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, fields
from typing import Generic, TypeVar

NICE = 10  # levels of 19
DEPTH = 3  # frames in a queue: enough to bridge a key frame that takes longer than the others

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Times:
    """Seconds: elapsed in all; busy in each part; waiting of the model for the other two."""

    elapsed: float = 0.0
    decode: float = 0.0
    model: float = 0.0
    encode: float = 0.0
    waiting: float = 0.0

    def __add__(self, other: Times) -> Times:
        return Times(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Times)))


def run(
    source: Generator[A, None, None],
    work: Callable[[A], B],
    sink: Callable[[Iterator[B]], None],
    depth: int = DEPTH,
) -> Times:
    """Send everything that `source` yields through `work` into `sink`, in order.

    Args:
        source: iterated, and closed in the end, in a thread of its own.
        work: called here, once for each item.
        sink: called once, in a thread of its own, with all results as an iterator. That raises in
            the midst of it when another stage failed, so that context managers are left properly.
            When it returns, the other two end, whatever is left.
    Raises:
        The first error of any stage, when all three have ended.
    """
    queues = decoded, restored = _Queue(depth), _Queue(depth)
    failures: list[BaseException] = []
    started = time.perf_counter()
    ended = {}

    def beside(name: str, stage: Callable[[], None]) -> None:
        _yield_to_others()
        guarded(name, stage)

    def guarded(name: str, stage: Callable[[], None]) -> None:
        try:
            stage()
        except _Stopped:
            pass
        except BaseException as error:
            failures.append(error)
            stop()
        ended[name] = time.perf_counter() - started

    def stop() -> None:
        for queue in queues:
            queue.stop()

    def decode() -> None:
        with closing(source):
            for item in source:
                decoded.put(item)
        decoded.close()

    def restore() -> None:
        for item in decoded:
            restored.put(work(item))
        restored.close()

    def encode() -> None:
        sink(iter(restored))
        stop()

    def end() -> None:
        for thread in threads:
            thread.join()

    threads = [
        threading.Thread(target=beside, args=(stage.__name__, stage), daemon=True)
        for stage in (decode, encode)
    ]
    for thread in threads:
        thread.start()
    guarded("model", restore)
    while any(thread.is_alive() for thread in threads):  # once, unless it is interrupted
        guarded("end", end)
    if failures:
        raise failures[0]
    waiting = decoded.empty + restored.full
    return Times(
        elapsed=time.perf_counter() - started,
        decode=ended["decode"] - decoded.full,
        model=ended["model"] - waiting,
        encode=ended["encode"] - restored.empty,
        waiting=waiting,
    )


def _yield_to_others() -> None:
    """Lower the calling thread's priority, and that of threads it will start."""
    if sys.platform == "linux":  # elsewhere it would be the whole process's
        os.nice(NICE)


class _Stopped(Exception):
    """Another stage has failed, or the last one has ended."""


class _Queue(Generic[A]):
    """A bounded queue that can be closed and stopped, and knows how long its two ends waited.

    Attributes:
        full, empty: seconds that `put` waited for room, and the reader for an item.
    """

    def __init__(self, depth: int):
        self._items: deque[A] = deque()
        self._depth = depth
        self._changed = threading.Condition()
        self._closed = self._stopped = False
        self.full = self.empty = 0.0

    def put(self, item: A) -> None:
        with self._changed:
            self.full += self._wait(lambda: len(self._items) < self._depth)
            self._items.append(item)
            self._changed.notify_all()

    def __iter__(self) -> Iterator[A]:
        while True:
            with self._changed:
                self.empty += self._wait(lambda: self._items or self._closed)
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
            del item  # a frame less in memory while waiting for the next

    def close(self) -> None:
        """No more items come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Both ends raise from now on."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _wait(self, condition: Callable[[], object]) -> float:
        started = time.perf_counter()
        self._changed.wait_for(lambda: self._stopped or condition())
        if self._stopped:
            raise _Stopped
        return time.perf_counter() - started
