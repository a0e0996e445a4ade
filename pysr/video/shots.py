"""Where one shot ends and the next begins, found while the frames go by.

Two frames are compared as thumbnails of their luma, once the one has been moved over the other to
where they agree best: a pan then costs no more than what comes into view. What is left is measured
against the thumbnails' own contrast, so that dark shots are judged as bright ones are, and against
the frames just before, so that a shot full of motion has to change more than a still one. A
histogram's distance is added: it sees a cut between two scenes that happen to align.

A flash looks like a cut until the frame after it: that one frame is all that is looked ahead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch.nn.functional as F
from torch import Tensor

THUMBNAIL = (36, 48)  # rows, columns
REACH = 6  # cells that a pan may move a frame: an eighth of its width
RECENT = 8  # frames that a change is compared with
LEAST = 0.75  # a cut's score at least: 999 of 1000 pairs of unrelated photographs are above
TIMES = 3.0  # and at least so many times the recent mean
CONTRAST = 4 / 255  # below this a thumbnail is held to be flat: what changes there is noise

Item = TypeVar("Item")


def with_cuts(
    frames: Iterable[Item], rgb: Callable[[Item], Tensor] = lambda frame: frame
) -> Iterator[tuple[Item, bool]]:
    """Every frame, one frame late, and whether a shot begins with it (the first: always).

    Holds two frames and a few thumbnails, whatever the length.

    Args:
        frames: anything.
        rgb: gives a frame as (..., 3, H, W), floating point in [0, 1].
    """
    detector = _Detector()
    held = None
    for item in frames:
        thumbnail = _thumbnail(rgb(item))
        if held is not None:
            yield held[0], detector.begins(held[1], thumbnail)
        held = item, thumbnail
    if held is not None:
        yield held[0], detector.begins(held[1], None)


def find_shots(frames: Iterable[Tensor]) -> list[int]:
    """The index of every shot's first frame, 0 first; [] for no frames. Frames: (3, H, W)."""
    return [index for index, (_, begins) in enumerate(with_cuts(frames)) if begins]


class _Detector:
    def __init__(self) -> None:
        self.before: Tensor | None = None  # the last thumbnail that was no flash
        self.recent: deque[float] = deque(maxlen=RECENT)

    def begins(self, frame: Tensor, after: Tensor | None) -> bool:
        """Whether a shot begins at `frame`, of which the next is `after` (None at the end)."""
        if self.before is None:
            self.before = frame
            return True
        score = _score(self.before, frame)
        usual = sum(self.recent) / max(len(self.recent), 1)
        needed = max(LEAST, TIMES * usual)
        if score < needed:
            self.before = frame
            self.recent.append(score)
            return False
        if after is not None and _score(self.before, after) < needed:
            return False  # a flash: the frame after it goes on where the one before it was
        self.before = frame
        self.recent.clear()
        return True


def _thumbnail(rgb: Tensor) -> Tensor:
    luma = rgb.new_tensor((0.299, 0.587, 0.114)) @ rgb.reshape(3, -1)
    thumbnail = F.adaptive_avg_pool2d(luma.view(1, *rgb.shape[-2:]), THUMBNAIL)[0].float().cpu()
    return thumbnail - thumbnail.mean()


def _score(a: Tensor, b: Tensor) -> float:
    """Difference of two thumbnails, in units of their contrast."""
    contrast = (_contrast(a) + _contrast(b)) / 2
    distance = _moved(a, b) + float((a.flatten().sort()[0] - b.flatten().sort()[0]).abs().mean())
    return distance / max(contrast, CONTRAST)


def _contrast(a: Tensor) -> float:
    return float(a.abs().mean())


def _moved(a: Tensor, b: Tensor) -> float:
    """Mean absolute difference of a's middle and b, where b fits best."""
    height, width = (n - 2 * REACH for n in THUMBNAIL)
    windows = b.unfold(0, height, 1).unfold(1, width, 1)
    middle = a[REACH : REACH + height, REACH : REACH + width]
    return float((windows - middle).abs().mean((2, 3)).min())
