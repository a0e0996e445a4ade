"""One frame through the model, and what happens when the machine cannot.

Frames go one by one: on a CPU one fills every core, on a GPU all but the smallest do, and no
frame's bits depend on which others it was restored with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pysr import arrays
from pysr.upscaler import Estimate, Upscaler, out_of_memory
from pysr.video.clip import Clip

SMALLEST_TILE = 64  # below, the halo is most of the work


class FrameError(RuntimeError):
    """A frame that could not be restored in two attempts, by its number."""


class FrameRestorer:
    """Restores the frames of a clip.

    Attributes:
        tile: side of the tiles in use. It is halved when memory runs out, and stays so: what did
            not fit once does not fit the next time either. The same frame is then made again.
    """

    def __init__(self, clip: Clip, tile: int):
        self._clip = clip
        self.tile = tile

    def __call__(self, upscaler: Upscaler, index: int, rgb: Tensor, estimate: Estimate) -> Tensor:
        """(1, 3, s*H, s*W) from rgb (1, 3, H, W), both in [0, 1] on the upscaler's device.

        Raises:
            FrameError: if it fails twice for another reason than memory, or for memory in tiles of
                SMALLEST_TILE.
        """
        failed = None
        while True:
            result, error = self._attempt(upscaler, rgb, estimate)
            if error is None:
                return result
            if out_of_memory(error) and self._halve_tile():
                continue
            if failed is not None:
                words = " ".join(str(error).split()) or type(error).__name__
                raise FrameError(f"frame {index} failed twice: {words}") from error
            failed = error

    def _attempt(
        self, upscaler: Upscaler, rgb: Tensor, estimate: Estimate
    ) -> tuple[Tensor | None, Exception | None]:
        try:
            return upscaler.restored(arrays.unpack(rgb), estimate, self.tile)[0], None
        except Exception as error:
            # Its traceback would keep the tensors of the failed attempt alive during the next.
            return None, error.with_traceback(None)

    def _halve_tile(self) -> bool:
        whole = math.isqrt(self._clip.width * self._clip.height)
        half = min(self.tile, whole) // 2
        if half < SMALLEST_TILE:
            return False
        self.tile = half
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        return True


@dataclass(frozen=True)
class Moving:
    """Tensors on their way; `ready` is recorded on the stream that makes them, None on a CPU."""

    tensors: tuple[Tensor, ...]
    ready: torch.cuda.Event | None = None


class Copier:
    """Copies between host and device while the model runs: pinned memory and a stream of its own.

    One for each direction. On a CPU nothing moves.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def upload(self, tensors: tuple[Tensor, ...]) -> Moving:
        """From the host; called by the thread that decodes."""
        if self._stream is None:
            return Moving(tensors)
        with torch.cuda.stream(self._stream):
            placed = tuple(t.pin_memory().to(self._device, non_blocking=True) for t in tensors)
            return Moving(placed, self._stream.record_event())

    def arrived(self, moving: Moving) -> tuple[Tensor, ...]:
        """What was uploaded, for use on the current stream."""
        if moving.ready is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(moving.ready)
            for tensor in moving.tensors:
                tensor.record_stream(current)
        return moving.tensors

    def made(self, tensors: tuple[Tensor, ...]) -> Moving:
        """What the current stream has been told to make, to be downloaded."""
        if self._stream is None:
            return Moving(tensors)
        return Moving(tensors, torch.cuda.current_stream(self._device).record_event())

    def download(
        self, moving: Moving, last: Callable[..., tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """What `last` makes of the tensors on the device, to the host; waits.

        Called by the thread that encodes; `last` too runs beside the model.
        """
        if self._stream is None:
            return last(*moving.tensors)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(moving.ready)
            for tensor in moving.tensors:
                tensor.record_stream(self._stream)
            host = []
            for tensor in last(*moving.tensors):
                pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                host.append(pinned.copy_(tensor, non_blocking=True))
        self._stream.synchronize()
        return tuple(host)
