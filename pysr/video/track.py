"""The blur of a shot, followed over time: one kernel as long as the evidence says one.

The blur is estimated on few frames only, the anchors: a shot's first and last, and in between at
gaps of 2, 2, 4, 8 and then 16 frames as long as the blur stands still, of 2 frames while it moves.
That is 5 estimates in a steady shot of 16 frames, 8 in one of 60, and one for every 16 frames of a
long one. Between anchors the code moves in a straight line.

An estimate of one frame errs twice: by chance, from frame to frame, and by its content, the same
way in frames that show the same. The first is handled by a random walk in code space, observed with
noise (a local level model: Durbin and Koopman, Time Series Analysis by State Space Methods, 2012,
chapter 2), smoothed by Kalman filter and Rauch-Tung-Striebel pass. How far an entry of the code
walks, in units of its noise, is found by marginal likelihood; that all stand still is the rule, and
has to be outweighed by one of them. An anchor's precision is taken to be proportional to the
gradient energy it shows, so that a frame of a fade to black says little. The second cannot be seen
from within a shot, where a pan brings new content slowly, as a drift would come. So a walk that
stays within the error that content alone makes is held to be none.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pysr.nets import DAN
from pysr.tiling import gradient_energy, informative_crops
from pysr.upscaler import Estimate, Upscaler
from pysr.video.shots import with_cuts

CLOSEST, FURTHEST = 2, 16  # frames between anchors
# Total variation between kernels, 0 to 1. Half the models' kernel error on photographs, which is
# 0.09 to 0.1 as a sum of absolute differences (pysr/weights): what other content alone may do.
CONTENT = 0.05
WALKS = (0.0, *(10.0**e for e in range(-4, 2)))  # variance per frame over the noise's variance
EVIDENCE = 3.0  # log likelihood by which an entry's walk has to beat standing still: 20 to 1
WINDOW = 8  # anchors that a live track looks back over: 128 frames
# What is known of the noise beforehand, worth so many anchors: the deviation of a code's entry from
# frame to frame, 0.002 to 0.07 on slow pans over photographs.
USUAL_NOISE = 0.01
USUAL_WEIGHT = 2


@dataclass(frozen=True)
class Anchor:
    """The blur estimated on one frame: its code, and its precision up to a factor.

    Numbers, not a tensor: one that is kept for every so many frames leaves holes between what a
    frame needs, and memory grows with the clip (glibc's aligned allocations do not fill them).
    """

    index: int
    code: tuple[float, ...]
    precision: float


@dataclass(frozen=True)
class Shot:
    """Frames first to stop - 1 and the blur along them.

    Attributes:
        first, stop: frame numbers.
        indices: the frames that `codes` belong to, rising; the code is linear between them.
        codes: (A, m) float32, on the CPU.
        spread: 0 to 1, how far the anchors' own estimates lie from the track: their mean total
            variation distance. Large values: the blur is not what the model knows, or flickers.
    """

    first: int
    stop: int
    indices: tuple[int, ...]
    codes: Tensor
    spread: float

    def code(self, index: int) -> Tensor:
        """(1, m), the code of a frame."""
        if len(self.indices) == 1:
            return self.codes
        after = max(bisect_left(self.indices, index), 1)
        start, end = self.indices[after - 1 : after + 1]
        share = (index - start) / (end - start)
        return torch.lerp(self.codes[after - 1], self.codes[after], share)[None]

    def estimate(self, model: DAN, index: int) -> Estimate:
        """The blur of a frame, as `Upscaler.restored` takes it."""
        code = self.code(index).to(model.encoder.device)
        return Estimate(model.decode(code)[0].cpu(), code, 1 - self.spread)

    def kernel(self, model: DAN) -> Tensor:
        """(k, k), the shot's mean kernel, for a report."""
        return model.decode(self.codes.mean(0, keepdim=True).to(model.encoder.device))[0].cpu()

    def to_json(self) -> dict:
        """Numbers, strings and lists; `from_json` gives the same shot back, to the bit."""
        return {
            "first": self.first,
            "stop": self.stop,
            "indices": list(self.indices),
            "codes": self.codes.tolist(),
            "spread": self.spread,
        }

    @staticmethod
    def from_json(content: dict) -> Shot:
        return Shot(
            content["first"],
            content["stop"],
            tuple(content["indices"]),
            torch.tensor(content["codes"], dtype=torch.float32),
            content["spread"],
        )


def track(upscaler: Upscaler, frames: Iterable[Tensor]) -> Iterator[Shot]:
    """Shot after shot of a clip, ahead of its restoration: every frame is seen once.

    Args:
        frames: (3, H, W) each, floating point in [0, 1]. One frame is held at a time, beside
            `with_cuts`' two.
    """
    anchors: list[Anchor] = []
    index, last = -1, None
    for index, (frame, begins) in enumerate(with_cuts(frames)):
        if begins:
            if last is not None:
                yield _closed(upscaler, anchors, index, last)
            anchors, live = [], LiveTrack(upscaler.model, index)
        if live.due == index:
            anchors.append(observe(upscaler, frame, index))
            live.add(anchors[-1])
        last = frame
    if last is not None:
        yield _closed(upscaler, anchors, index + 1, last)


def _closed(upscaler: Upscaler, anchors: list[Anchor], stop: int, last: Tensor) -> Shot:
    first = anchors[0].index
    if anchors[-1].index < stop - 1:
        anchors.append(observe(upscaler, last, stop - 1))
    codes, _ = smoothed(upscaler.model, anchors)
    spread = mean_distance(upscaler.model, anchors, codes)
    return Shot(first, stop, tuple(a.index for a in anchors), codes, spread)


class LiveTrack:
    """The track of a shot that is still going on: what is behind the last anchor is settled.

    It looks back over the last WINDOW anchors. A kernel once in use is kept while they can be told
    by one kernel which is no further from it than CONTENT; else the code moves to the newest anchor
    of the smoothed walk, in a straight line from the anchor before.

    Attributes:
        due: the frame that is to be the next anchor.
    """

    def __init__(self, model: DAN, first: int):
        self.due = self._first = first
        self._model = model
        self._anchors: deque[Anchor] = deque(maxlen=WINDOW)
        self._codes: deque[Tensor] = deque(maxlen=2)
        self._distance = 0.0
        self._seen = 0

    def add(self, anchor: Anchor) -> None:
        """The next anchor; frames up to it can be asked for when there are two, or no more come."""
        self._anchors.append(anchor)
        codes, still = smoothed(self._model, list(self._anchors))
        if len(self._anchors) <= 2:  # nothing was restored yet
            self._codes = deque(codes, maxlen=2)
        else:
            held, target = self._codes[-1], codes[-1]
            if still and float(distance(self._model, held[None], target[None])) <= CONTENT:
                target = held
            self._codes.append(target)
        self._distance += mean_distance(self._model, [anchor], self._codes[-1][None])
        self._seen += 1
        elapsed = anchor.index - self._first
        gap = min(max(elapsed, CLOSEST), FURTHEST) if still else CLOSEST
        self.due = anchor.index + gap

    def shot(self, stop: int) -> Shot:
        """The frames up to stop - 1, valid from the last anchor but one on."""
        indices = tuple(a.index for a in self._anchors)[-2:]
        codes = torch.stack(tuple(self._codes))
        return Shot(self._first, stop, indices, codes, self.spread)

    @property
    def spread(self) -> float:
        """As in `Shot`, of the anchors so far."""
        return self._distance / self._seen


def observe(upscaler: Upscaler, rgb: Tensor, index: int) -> Anchor:
    """Estimate the blur of a frame (3, H, W)."""
    crops = informative_crops(rgb[None])
    code = tuple(upscaler.estimate_on(crops).code[0].tolist())
    energy = sum(gradient_energy(crop) for _, _, crop in crops)
    return Anchor(index, code, energy / len(crops) + 1e-9)


def smoothed(model: DAN, anchors: Sequence[Anchor]) -> tuple[Tensor, bool]:
    """The track's codes at the anchors (A, m), and whether they are all the same."""
    seen = torch.tensor([a.code for a in anchors], dtype=torch.float64)
    precision = torch.tensor([a.precision for a in anchors], dtype=torch.float64)
    noise = (precision.mean() / precision).tolist()  # variances, 1 for an anchor like the others
    gaps = [b.index - a.index for a, b in zip(anchors, anchors[1:], strict=False)]
    runs = [_filter(seen, noise, gaps, walk) for walk in WALKS]
    gain = torch.stack([run.likelihood - runs[0].likelihood for run in runs])
    best = gain.argmax(0) if float(gain.max()) > EVIDENCE else torch.zeros_like(gain[0]).long()
    paths = torch.stack([_backwards(run, gaps) for run in runs])
    walked = torch.stack([paths[w, :, entry] for entry, w in enumerate(best)], 1).float()
    still = paths[0].float()
    if bool(best.any()) and float(distance(model, walked, still).max()) > CONTENT:
        return walked, False
    return still, True


def mean_distance(model: DAN, anchors: Sequence[Anchor], codes: Tensor) -> float:
    """`Shot.spread`, of the track's codes (A, m) at the anchors."""
    return float(distance(model, torch.tensor([a.code for a in anchors]), codes).mean())


def distance(model: DAN, a: Tensor, b: Tensor) -> Tensor:
    """Total variation between the kernels of codes (A, m): (A,), 0 the same, 1 nothing shared."""
    return (_kernels(model, a) - _kernels(model, b)).abs().sum((1, 2)) / 2


def _kernels(model: DAN, codes: Tensor) -> Tensor:
    return model.decode(codes.to(model.encoder)).cpu()


@dataclass(frozen=True)
class _Run:
    """A Kalman filter: means (A, m), variances in units of the noise's, log likelihoods (m,)."""

    means: list[Tensor]
    variances: list[float]
    walk: float
    likelihood: Tensor


def _filter(seen: Tensor, noise: list[float], gaps: list[int], walk: float) -> _Run:
    # A diffuse start: the first anchor is the first mean. The noise's variance is integrated out,
    # its prior a scaled inverse chi-squared, so that the gains are the same for all entries.
    means, variances = [seen[0]], [noise[0]]
    squares = torch.full_like(seen[0], USUAL_WEIGHT * USUAL_NOISE**2)
    log_determinant = 0.0
    for y, r, gap in zip(seen[1:], noise[1:], gaps, strict=True):
        predicted = variances[-1] + walk * gap
        total = predicted + r
        surprise = y - means[-1]
        squares = squares + surprise**2 / total
        log_determinant += math.log(total)
        means.append(means[-1] + predicted / total * surprise)
        variances.append(predicted * r / total)
    weight = USUAL_WEIGHT + len(gaps)
    return _Run(means, variances, walk, -0.5 * (weight * squares.log() + log_determinant))


def _backwards(run: _Run, gaps: list[int]) -> Tensor:
    path = [run.means[-1]]
    steps = zip(run.means[-2::-1], run.variances[-2::-1], gaps[::-1], strict=True)
    for mean, variance, gap in steps:
        step = run.walk * gap
        # Written so that no walk gives the last mean throughout, to the bit.
        path.append(path[-1] + step / (variance + step) * (mean - path[-1]))
    return torch.stack(path[::-1])
