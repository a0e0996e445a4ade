"""Frames in, restored frames out, one by one, for frames that come from anywhere.

The kernel track settles a frame's blur when the next anchor has come, at most 16 frames later, and
a cut is known one frame late: that is all that waits. Memory does not grow with the stream: at most
18 input frames as float32 RGB (12 bytes a pixel), two results, and a few thumbnails and codes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from pysr import arrays
from pysr.upscaler import TILE, Estimate, Upscaled, Upscaler, check_tile
from pysr.video.figures import Meter, ShotReport, report
from pysr.video.shots import with_cuts
from pysr.video.track import LiveTrack, observe


def stream(
    upscaler: Upscaler,
    frames: Iterable,
    kernel=None,
    *,
    tile: int = TILE,
    on_shot: Callable[[ShotReport], None] | None = None,
) -> Iterator[Upscaled]:
    """Restore the frames of a video as they come.

    Args:
        frames: pictures as `Upscaler.__call__` takes them, one each (a torch frame is (1, 3, H,
            W)), all of one size. They are copied: the caller may fill the same array again.
        kernel, tile: as there; a kernel given holds for every frame, and none waits for an anchor.
        on_shot: called with what was found out about a shot when its last frame has come out.
    Returns:
        an iterator of as many results, in order, each of its frame's type, dtype and device. Their
        `consistency` is measured on every 32nd frame of a shot and stands until the next, their
        `confidence` is 1 less the spread of the shot so far.
    Raises:
        ValueError, TypeError: at once for a kernel or tile that `__call__` refuses; at its turn for
            a frame that it refuses or of another size than those before, named by its number. This,
            or an error of `frames` itself, comes when every frame before it has come out.
    """
    check_tile(tile)
    given = upscaler.known(kernel)
    if given is not None and given.kernel is None:
        raise ValueError("kernel: expected one, since this model does not estimate blur")
    return _Stream(upscaler, given, tile, on_shot).run(frames)


class _Stream:
    def __init__(
        self,
        upscaler: Upscaler,
        given: Estimate | None,
        tile: int,
        on_shot: Callable[[ShotReport], None] | None,
    ):
        self._upscaler, self._given, self._tile, self._on_shot = upscaler, given, tile, on_shot

    def run(self, frames: Iterable) -> Iterator[Upscaled]:
        source = _Source(frames)
        index = -1
        for index, (picture, begins) in enumerate(with_cuts(source, lambda p: p.rgb[0])):
            if begins:
                if index > 0:
                    yield from self._finish(index)
                self._begin(index)
            self._waiting.append(picture)
            if self._given is not None:
                yield from self._settle(index + 1)
            elif index == self._track.due:
                self._observe(index)
                if index > self._first:
                    yield from self._settle(index + 1)
        if index >= 0:
            yield from self._finish(index + 1)
        if source.failure is not None:
            raise source.failure

    def _begin(self, index: int) -> None:
        """A shot begins with this frame."""
        self._first = self._done = index
        self._waiting: deque[arrays.Unpacked] = deque()
        self._track = LiveTrack(self._upscaler.model, index)
        self._meter = Meter(self._upscaler)
        self._kernels: Tensor = torch.zeros(())  # their sum

    def _finish(self, stop: int) -> Iterator[Upscaled]:
        """Settle what still waits of the shot that ends before frame `stop`, and report."""
        if self._waiting and not (self._given or stop - 1 == self._first):
            self._observe(stop - 1)
        yield from self._settle(stop)
        if self._on_shot is not None:
            kernel = self._kernels / (stop - self._first)
            spread = 0.0 if self._given else self._track.spread
            self._on_shot(report(self._first, stop, kernel, spread, [self._meter.gathered]))

    def _observe(self, index: int) -> None:
        """Estimate the blur of the frame that came last."""
        self._track.add(observe(self._upscaler, self._waiting[-1].rgb[0], index))

    def _settle(self, stop: int) -> Iterator[Upscaled]:
        """Restore the waiting frames, the last of which is stop - 1."""
        shot = None if self._given else self._track.shot(stop)
        while self._waiting:
            index, picture = self._done, self._waiting.popleft()
            estimate = self._given or shot.estimate(self._upscaler.model, index)
            out, recomputed = self._upscaler.restored(picture, estimate, self._tile)
            self._meter.add(index - self._first, picture.rgb, out, estimate.kernel)
            self._kernels = self._kernels + estimate.kernel
            self._done += 1
            yield Upscaled(
                image=picture.pack(out),
                kernel=picture.like(estimate.kernel.clone()),  # of the whole shot
                consistency=self._meter.consistencies[-1],
                confidence=estimate.confidence,
                recomputed=recomputed,
            )


class _Source:
    """The caller's frames, taken apart; ends before the first that fails and keeps the error."""

    def __init__(self, frames: Iterable):
        self._frames = frames
        self.failure: Exception | None = None

    def __iter__(self) -> Iterator[arrays.Unpacked]:
        size = None
        frames = enumerate(self._frames)
        while True:
            try:
                index, frame = next(frames)
                picture = _unpacked(frame, index, size)
            except StopIteration:
                return
            except Exception as error:
                self.failure = error
                return
            size = picture.rgb.shape[-2:]
            yield picture


def _unpacked(frame, index: int, size: tuple[int, int] | None) -> arrays.Unpacked:
    try:
        picture = arrays.unpack(frame)
    except (ValueError, TypeError) as error:
        raise type(error)(f"frame {index}: {error}") from None
    count, _, height, width = picture.rgb.shape
    if count != 1:
        raise ValueError(f"frame {index}: expected one picture, got a batch of {count}")
    if size not in (None, (height, width)):
        raise ValueError(
            f"frame {index}: expected {size[1]}x{size[0]} pixels as the frames before, "
            f"got {width}x{height}"
        )
    return picture
