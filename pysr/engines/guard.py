"""NaN and infinity never reach a picture.

Half precision overflows at 65504, and a network that was not trained in it may go there. Both
survive every sum, so one sum of what an engine gives tells, and its one value is read back once a
picture. What is bad is made again in float32 by torch.
"""

from __future__ import annotations

import contextlib
import math
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

from torch import Tensor

Result = TypeVar("Result")


class Guard:
    """Runs work on an engine, and once more in float32 if what comes out is not finite.

    Args:
        float32: makes the engine for that, when it is needed first.
    """

    def __init__(self, engine, float32: Callable[[], object]):
        self.engine = engine
        self._make_float32 = float32
        self._float32 = None
        self._making = threading.Lock()
        self._lock = threading.Lock()
        self._users = 0
        self._closed = False

    def run(self, what: str, work: Callable[..., tuple[Result, Tensor]]) -> tuple[Result, bool]:
        """What `work` makes, and whether it had to be made again, of which a warning tells.

        Args:
            what: a name of it for messages.
            work: from an engine to a result and the sum of all its values.
        Raises:
            ValueError: if it is not finite in float32 either, or after `close`.
        """
        with self.in_use():
            return self._run(what, work)

    def _run(self, what: str, work: Callable[..., tuple[Result, Tensor]]) -> tuple[Result, bool]:
        result, total = work(self.engine)
        if math.isfinite(total):
            return result, False
        warnings.warn(
            f"{what}: not finite from engine {self.engine.describe()}; made again in float32",
            stacklevel=4,
        )
        with self._making:
            if self._float32 is None:
                self._float32 = self._make_float32()
        result, total = work(self._float32)
        if not math.isfinite(total):
            raise ValueError(f"{what}: the model gives NaN or infinity, in float32 too")
        return result, True

    def close(self) -> None:
        """Close the engines, now or when work that other threads do on them has ended."""
        with self._lock:
            self._closed = True
            if self._users == 0:
                self._close_engines()

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """The engines stay open meanwhile. Raises ValueError after `close`."""
        with self._lock:
            if self._closed:
                raise ValueError("upscaler: expected an open one, it has been closed")
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._closed and self._users == 0:
                    self._close_engines()

    def _close_engines(self) -> None:
        for engine in filter(None, (self.engine, self._float32)):
            engine.close()
        self.engine = self._float32 = None
