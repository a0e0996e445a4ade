"""CUDA graphs by shape: a small network on a small picture waits for launches, not for arithmetic.

Only shapes that were asked for are captured: capturing runs the work several times, which pays for
a video and not for a single picture. torch.compile would fuse more, but compiles for minutes at the
first shape, again where shapes change, and needs a compiler on the user's machine.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

KEPT = 4  # shapes; each holds the memory of its features
WARM_UPS = 3  # before a capture, as torch's documentation has it
_capturing = threading.Lock()  # torch can make one graph at a time in a process


class CudaGraphs:
    """`work(*tensors) -> tensor`, replayed for the last KEPT captured shapes, called for others.

    Threads may share one, on streams of their own: a replay waits for the one before, whose tensors
    it overwrites.
    """

    def __init__(self, work: Callable[..., Tensor]):
        self._work = work
        self._captured: OrderedDict[tuple, tuple] = OrderedDict()
        self._lock = threading.Lock()
        self._replayed: torch.cuda.Event | None = None

    def __call__(self, *given: Tensor) -> Tensor:
        key = _key(given)
        with self._lock:
            if key in self._captured:
                self._captured.move_to_end(key)
                with torch.cuda.device(given[0].device):
                    return self._replay(given, *self._captured[key])
        return self._work(*given)

    def _replay(self, given: tuple[Tensor, ...], graph, inputs, output) -> Tensor:
        if self._replayed is None:
            self._replayed = torch.cuda.Event()
        else:
            self._replayed.wait()
        for held, value in zip(inputs, given, strict=True):
            held.copy_(value)
        graph.replay()
        copy = output.clone()  # the next replay overwrites it
        self._replayed.record()
        return copy

    def capture(self, *given: Tensor) -> None:
        """Capture the work for tensors of these shapes, unless it has been."""
        with self._lock:
            if _key(given) not in self._captured:
                self._capture(*given)

    def _capture(self, *given: Tensor) -> None:
        if self._replayed is not None:
            self._replayed.synchronize()  # another stream may read the inputs that go
        while len(self._captured) >= KEPT:
            self._captured.popitem(last=False)
        inputs = [x.clone() for x in given]
        with _capturing, torch.cuda.device(given[0].device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    self._work(*inputs)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # On a stream of this device: torch's own is of the device that captured first. Other
            # threads may allocate and upload meanwhile.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                output = self._work(*inputs)
        self._captured[_key(given)] = graph, inputs, output


def _key(given: tuple[Tensor, ...]) -> tuple:
    return tuple((tuple(x.shape), x.dtype) for x in given)
