"""ZSSR: a small network learns a picture from the picture itself (Shocher, Cohen and Irani, CVPR
2018).

Degraded once more by its own blur, a picture shows how what was lost in it is found again. Nothing
comes from other pictures: the baseline that onsr.txt and dsr.txt measure against.

A large factor is reached in steps. The first one undoes the whole blur, shrunk to its size; what it
makes counts as sharp, and the next step learns from that as from a bicubically reduced picture.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pysr import blur
from pysr.adapt.anytime import Anytime
from pysr.adapt.budget import Budget
from pysr.adapt.chain import UPRIGHT, BackProjected, Chain, SelfEnsemble, finished, symmetries
from pysr.adapt.pairs import own_pairs
from pysr.adapt.phases import Pairs, Phase, Phases, Rates
from pysr.adapt.picture import check_counts, judged_on, noise_of, own_teacher, teaching
from pysr.adapt.report import Adapted
from pysr.adapt.weights import drawn
from pysr.degrade.deep_linear import GivenBlur
from pysr.nets.parts import BicubicUpsample, check_scale
from pysr.upscaler import Upscaler, usable_device

STEPS = {2: (2,), 3: (3,), 4: (2, 2)}  # gradual scales, by the factor that they come to


@dataclass(frozen=True)
class ZSSRSizes:
    """Sizes of a ZSSR network; the defaults are the published ones.

    Attributes:
        scale: s, 2, 3 or 4.
        layers, features: of each step.
        gradual: x4 in two steps of x2; else in one.
    """

    scale: int = 2
    layers: int = 8
    features: int = 64
    gradual: bool = True

    def __post_init__(self):
        check_scale(self.scale, tuple(STEPS))
        check_counts(self, "features")
        if self.layers < 2:
            raise ValueError(f"layers: expected at least 2, got {self.layers}")
        for name in ("scale", "layers", "features"):  # a file has no word for NumPy's numbers
            object.__setattr__(self, name, int(getattr(self, name)))


@dataclass(frozen=True)
class Learning:
    """How a network learns a picture from itself.

    Attributes:
        patch, batch: of pixels of what is restored, per step of learning. ZSSR's patch is 128; in
            the time of one step on a CPU, this makes four.
        rates: of learning.
        ensemble: the result is the median of what is made of the picture in every orientation that
            the blur allows: up to eight times as long, and a little better.
    """

    patch: int = 64
    batch: int = 1
    rates: Rates = Rates(1e-3, 10.0, 1e-6)
    ensemble: bool = True

    def __post_init__(self):
        check_counts(self, "patch", "batch")


@dataclass(frozen=True)
class ZSSRConfig(Learning):
    """How ZSSR learns, and its sizes: see `Learning` and `ZSSRSizes`."""

    layers: int = 8
    features: int = 64
    gradual: bool = True


class ZSSR(Chain):
    """One step, or several in a row: (N, 3, H, W) in [0, 1] -> (N, 3, s*H, s*W), not clipped.

    Untrained, it interpolates. Its weights are always the same for a seed. Raises as
    `pysr.blur.check_seed`.
    """

    def __init__(self, sizes: ZSSRSizes | None = None, seed: int = 0):
        sizes = sizes or ZSSRSizes()
        factors = STEPS[sizes.scale] if sizes.gradual else (sizes.scale,)
        generator = blur.as_generator(seed)
        super().__init__([Step(s, sizes.layers, sizes.features, generator) for s in factors])
        self.config = sizes


class Step(nn.Module):
    """Interpolation, and a correction of it at full size."""

    def __init__(self, scale: int, layers: int, features: int, generator: torch.Generator):
        super().__init__()
        self.scale = scale
        self.interpolate = BicubicUpsample(scale)
        self.body = plain_body(3, features, 3, layers, generator)
        self.halo = math.ceil(layers / scale) + 3

    def forward(self, lr: Tensor) -> Tensor:
        up = self.interpolate(lr)
        return up + self.body(up)


def plain_body(
    inner: int, features: int, outer: int, layers: int, generator: torch.Generator
) -> nn.Sequential:
    """3x3 convolutions with ReLU between them; the last one begins at zero."""
    widths = [inner, *[features] * (layers - 1), outer]
    parts = []
    for a, b in zip(widths, widths[1:], strict=False):
        conv = drawn(partial(nn.Conv2d, a, b, 3, padding=1), generator)
        nn.init.kaiming_normal_(conv.weight, generator=generator)
        nn.init.zeros_(conv.bias)
        parts += [conv, nn.ReLU(inplace=True)]
    nn.init.zeros_(parts[-2].weight)
    return nn.Sequential(*parts[:-1])


def degradations(
    kernel: Tensor, factors: Sequence[int], downsample: str, device: torch.device
) -> list[GivenBlur]:
    """What each step undoes, the first step first.

    `kernel` is in pixels of the result. In those of the first step's result it is smaller; that
    result counts as the true picture, bicubically reduced: no blur is left for later steps.
    """
    for factor in factors[1:]:
        kernel = shrunk(kernel, factor, (factor - 1) / 2 if downsample == "decimate" else 0.0)
    first = GivenBlur(factors[0], kernel, downsample)
    rest = [GivenBlur(factor, blur.dirac(1)) for factor in factors[1:]]
    return [degradation.to(device) for degradation in (first, *rest)]


def shrunk(kernel: Tensor, factor: int, offset: float = 0.0) -> Tensor:
    """A kernel (k, k) in pixels `factor` times as large, splatted bilinearly; sums to 1.

    A tap d pixels from tap k // 2 comes to lie (d - offset) / factor pixels from it: decimation by
    s reads the top left pixel of a square, (s - 1) / 2 pixels from its middle.
    """
    side = 2 * (len(kernel) // factor // 2 + 1) + 1
    place = (torch.arange(len(kernel)) - len(kernel) // 2 - offset) / factor + side // 2
    weights = (1 - (place[None] - torch.arange(side)[:, None]).abs()).clamp(min=0).to(kernel)
    return blur.normalise(weights @ kernel @ weights.T)


def zssr_phases(
    network: ZSSR,
    kernel: Tensor,
    downsample: str,
    picture: Callable[[], Tensor],
    learning: Learning,
    noise: float,
    seed: int,
) -> list[Phase]:
    """A phase for every step; `picture` gives what is to be restored when the first one begins,
    with that noise."""
    factors = [step.scale for step in network.stages]
    device = next(network.parameters()).device
    found = degradations(kernel, factors, downsample, device)

    def begin(i: int) -> Pairs:
        with torch.no_grad():
            father = Chain(network.stages[:i])(picture()).clamp(0, 1)
        left = 0.0 if i else noise
        own_seed = (seed + i) % 2**64  # as torch takes it, also after the largest
        return own_pairs(father, found[i], learning.patch, learning.batch, left, own_seed)

    return [
        Phase(step, partial(begin, i), F.l1_loss, learning.rates)
        for i, step in enumerate(network.stages)
    ]


def finished_zssr(
    base: ZSSR, kernel: Tensor, *, downsample: str, noise: float, ensemble: bool = True
) -> BackProjected:
    """A copy of a network as pictures are restored by it: in all orientations that the blur allows,
    or in one, and back-projected."""
    degradation = GivenBlur(base.scale, kernel, downsample)
    orientations = symmetries(degradation) if ensemble else UPRIGHT
    return finished(SelfEnsemble(copy.deepcopy(base), orientations), degradation, noise)


@teaching
def zssr(
    image,
    scale: int,
    *,
    budget: Budget | int | float | str,
    kernel=None,
    downsample: str = "bicubic",
    noise: float | None = None,
    config: ZSSRConfig | None = None,
    device: str = "auto",
    seed: int = 0,
) -> Adapted:
    """Learn to upscale one picture from itself.

    Args:
        image: as for `pysr.Upscaler`, one picture.
        scale: 2, 3 or 4.
        budget: see `Budget.of`; seconds count from this call, and the steps to a factor share it.
        kernel: (k, k), the blur, in pixels of the result; None for bicubic downsampling alone.
        downsample: what the blur comes with, "bicubic" or "decimate", see
            `pysr.degrade.classical`.
        noise: standard deviation, in [0, 1] units, of the picture's noise; None has it found, see
            `pysr.adapt.picture.noise_of`. It is put on what is learned from, what is learned is
            judged without it, and the result is not back-projected.
        seed: of all that is drawn.
    Raises:
        ValueError, TypeError: for a picture, scale, kernel, noise, budget or seed that cannot be
            used.
    """
    seed = blur.check_seed(seed)
    started, budget, config = time.perf_counter(), Budget.of(budget), config or ZSSRConfig()
    base = ZSSR(ZSSRSizes(scale, config.layers, config.features, config.gradual), seed)
    device = usable_device(device)
    lr = own_teacher(image, scale, device)
    noise = noise_of(lr, noise)
    kernel = blur.dirac(1) if kernel is None else blur.check_kernel(kernel).cpu()
    around = {"downsample": downsample, "noise": noise, "ensemble": config.ensemble}
    settings = around | {"sizes": asdict(base.config), "seed": seed}
    form = partial(finished_zssr, kernel=kernel, **around)
    model = form(base).to(device, memory_format=torch.channels_last)
    network = model.network.network
    phases = zssr_phases(network, kernel, downsample, lambda: lr, config, noise, seed)
    learner = Phases(model, phases, network, network, model.degradation, budget, started)
    loop = Anytime(learner, judged_on(lr), budget, started, noise)
    report = loop.run("zssr", "interpolation is kept")
    upscaler = Upscaler(model, device=str(device), kernel=kernel)
    return Adapted(upscaler, report, base, form, settings)
