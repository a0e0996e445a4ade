"""The blur of a shot, followed over time: one kernel as long as the evidence says one.

The blur is estimated on few frames only, the anchors: at a shot's first frame, then after 4, 8, 16,
32 frames and every 16 from there, and at its last. That is an estimate every 16 frames in a long
shot and about 7 in one of 60 frames. Between anchors the code moves in a straight line.

An estimate of one frame errs twice: by chance, from frame to frame, and by its content, the same
way in frames that show the same. The first is handled by a random walk in code space, observed with
noise (a local level model: Durbin and Koopman, Time Series Analysis by State Space Methods, 2012,
chapter 2), smoothed by Kalman filter and Rauch-Tung-Striebel pass. How far the walk goes per frame,
in units of the noise, is the one number in it, found by maximum likelihood over all entries of the
code together; not going at all is the rule, which has to be outweighed. An anchor's precision is
taken to be proportional to the gradient energy it shows, so that a frame of a fade to black says
little. The second cannot be seen from within a shot, where a pan brings new content slowly, as a
drift would come. So a walk that stays within the error that content alone makes is held to be none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pysr.nets import DAN
from pysr.upscaler import Estimate, Upscaler, informative_crops
from pysr.video.shots import with_cuts

FIRST = 4  # frames to the second anchor
FURTHEST = 16  # frames between anchors at most: about half a second
# Total variation between kernels, 0 to 1. Half the models' kernel error on photographs, which is
# 0.09 to 0.1 as a sum of absolute differences (pysr/weights): what other content alone may do.
CONTENT = 0.05
WALKS = (0.0, *(10.0**e for e in range(-4, 2)))  # variance per frame over the noise's variance
EVIDENCE = 3.0  # log likelihood by which a walk has to beat standing still: 20 to 1
FLOOR = 1e-3  # deviation of a code's entry that makes no visible difference


@dataclass(frozen=True)
class Anchor:
    """The blur estimated on one frame: its code (m,), and its precision up to a factor."""

    index: int
    code: Tensor
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
        return _between(self.indices, self.codes, index)

    def estimate(self, model: DAN, index: int) -> Estimate:
        """The blur of a frame, as `Upscaler.restored` takes it."""
        return _as_estimate(model, self.code(index), self.spread)

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
    first, next_anchor, last = 0, 0, None
    index = -1
    for index, (frame, begins) in enumerate(with_cuts(frames)):
        if begins:
            if last is not None:
                yield _closed(upscaler, anchors, first, index, last)
            anchors, first, next_anchor = [], index, 0
        if index - first == next_anchor:
            anchors.append(observe(upscaler, frame, index))
            next_anchor = following(next_anchor)
        last = frame
    if last is not None:
        yield _closed(upscaler, anchors, first, index + 1, last)


def _closed(
    upscaler: Upscaler, anchors: list[Anchor], first: int, stop: int, last: Tensor
) -> Shot:
    if anchors[-1].index < stop - 1:
        anchors.append(observe(upscaler, last, stop - 1))
    codes, _ = smoothed(upscaler.model, anchors)
    spread = sum(distances(upscaler.model, anchors, codes)) / len(anchors)
    return Shot(first, stop, tuple(a.index for a in anchors), codes, spread)


def following(offset: int) -> int:
    """The anchor after the one at `offset` frames from a shot's beginning."""
    return offset + min(max(offset, FIRST), FURTHEST)


def observe(upscaler: Upscaler, rgb: Tensor, index: int) -> Anchor:
    """Estimate the blur of a frame (3, H, W)."""
    crops = informative_crops(rgb[None])
    code = upscaler.estimate_on(crops).code[0].float().cpu()
    energy = sum(
        float(crop.diff(dim=axis).square().mean()) if crop.shape[axis] > 1 else 0.0
        for _, _, crop in crops
        for axis in (2, 3)
    )
    return Anchor(index, code, energy / len(crops) + 1e-9)


def smoothed(model: DAN, anchors: Sequence[Anchor]) -> tuple[Tensor, bool]:
    """The track's codes at the anchors (A, m), and whether they are all the same."""
    seen = torch.stack([a.code for a in anchors]).double()
    precision = torch.tensor([a.precision for a in anchors], dtype=torch.float64)
    noise = (precision.mean() / precision).tolist()  # variances, 1 for an anchor like the others
    gaps = [b.index - a.index for a, b in zip(anchors, anchors[1:], strict=False)]
    still = (seen * (precision / precision.sum())[:, None]).sum(0).expand_as(seen)
    runs = [_filter(seen, noise, gaps, walk) for walk in WALKS]
    best = max(runs[1:], key=lambda run: run.likelihood)
    if best.likelihood - runs[0].likelihood > EVIDENCE:
        walked = _backwards(best, gaps)
        apart = total_variation(model.decode(walked.float()), model.decode(still.float()))
        if float(apart.max()) > CONTENT:
            return walked.float(), False
    return still.float(), True


def distances(model: DAN, anchors: Sequence[Anchor], codes: Tensor) -> list[float]:
    """Total variation between every anchor's own kernel and the track's."""
    own = model.decode(torch.stack([a.code for a in anchors]))
    return total_variation(own, model.decode(codes)).tolist()


def total_variation(a: Tensor, b: Tensor) -> Tensor:
    """Of kernels (..., k, k): 0 where they are the same, 1 where they share nothing."""
    return (a - b).abs().sum((-2, -1)) / 2


@dataclass(frozen=True)
class _Run:
    """A Kalman filter's means (A, m) and variances, these in units of the noise's variance."""

    means: list[Tensor]
    variances: list[float]
    walk: float
    likelihood: float


def _filter(seen: Tensor, noise: list[float], gaps: list[int], walk: float) -> _Run:
    # A diffuse start: the first anchor is the first mean. The noise's variance of every entry is
    # profiled out of the likelihood, so that gains are the same for all of them.
    means, variances = [seen[0]], [noise[0]]
    squares, log_determinant = torch.zeros_like(seen[0]), 0.0
    for y, r, gap in zip(seen[1:], noise[1:], gaps, strict=True):
        predicted = variances[-1] + walk * gap
        total = predicted + r
        surprise = y - means[-1]
        squares = squares + surprise**2 / total
        log_determinant += float(torch.log(torch.tensor(total, dtype=torch.float64)))
        means.append(means[-1] + predicted / total * surprise)
        variances.append(predicted * r / total)
    n, m = len(gaps), seen.shape[1]
    variance = squares / max(n, 1) + FLOOR**2
    likelihood = -0.5 * (n * float(variance.log().sum()) + m * log_determinant)
    return _Run(means, variances, walk, likelihood)


def _backwards(run: _Run, gaps: list[int]) -> Tensor:
    path = [run.means[-1]]
    for mean, variance, gap in zip(
        run.means[-2::-1], run.variances[-2::-1], gaps[::-1], strict=True
    ):
        gain = variance / (variance + run.walk * gap)
        path.append(mean + gain * (path[-1] - mean))
    return torch.stack(path[::-1])


def _between(indices: Sequence[int], codes: Tensor, index: int) -> Tensor:
    if len(indices) == 1:
        return codes
    after = next((i for i, at in enumerate(indices) if at >= index), len(indices) - 1)
    before = max(after - 1, 0)
    length = max(indices[after] - indices[before], 1)
    share = min(max((index - indices[before]) / length, 0.0), 1.0)
    return (codes[before] + share * (codes[after] - codes[before]))[None]


def _as_estimate(model: DAN, code: Tensor, spread: float) -> Estimate:
    code = code.to(model.encoder.device)
    return Estimate(model.decode(code)[0].cpu(), code, 1 - spread)
