"""From a stand-in to what takes minutes to make, without anyone waiting."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Takeover:
    """Makes things by name in a background thread, one after the other, each once.

    What cannot be made is warned of once, and its stand-in stays for good. A making that has begun
    is finished before the process ends; others are not begun after `close`.
    """

    def __init__(self, make: Callable[[str], object]):
        self._make = make
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pysr-build")
        self._made: dict[str, Future] = {}
        self._failed: set[str] = set()
        self._lock, self._closed = threading.Lock(), False

    def get(self, name: str, *, wait: bool = False):
        """What was made, None as long as it is not ready (unless `wait`), where it failed, or
        after `close`."""
        if name in self._failed:
            return None
        with self._lock:
            if self._closed:
                return None
            if name not in self._made:
                self._made[name] = self._pool.submit(self._make, name)
            made = self._made[name]
        if not (wait or made.done()):
            return None
        try:
            return made.result()
        except Exception as error:  # foreign runtimes raise anything
            self.give_up(name, error)
            return None

    def give_up(self, name: str, error: Exception) -> None:
        """Use the stand-in from now on."""
        self._failed.add(name)
        reason = " ".join(str(error).split()) or type(error).__name__
        warnings.warn(f"{name}: torch serves, since {reason}", stacklevel=3)

    def close(self) -> None:
        """Close what was made, now or when it is ready; idempotent."""
        with self._lock:
            self._closed = True
            taken, self._made = list(self._made.values()), {}
        self._pool.shutdown(wait=False, cancel_futures=True)
        for made in taken:
            made.add_done_callback(_close)


def _close(made: Future) -> None:
    if not made.cancelled() and made.exception() is None:
        made.result().close()
