"""DSR: first undo the blur, then enlarge (dsr.txt).

LR Finer is a small network that is taught one blur, on random matrices: it makes of the picture the
one that bicubic downsampling alone would have left. From there any network that was trained for
bicubic downsampling goes on, after a few lessons on that very picture.

Where this differs from the paper: LR Finer sees one channel at a time, as blur does, and is
compared with the reduced matrix instead of the matrix itself, much of whose detail no network could
find. The result is back-projected to the picture under its own blur, not to the clean one under
bicubic.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pysr import blur
from pysr.adapt.anytime import Anytime
from pysr.adapt.budget import Budget
from pysr.adapt.chain import (
    ORIENTATIONS,
    UPRIGHT,
    BackProjected,
    Chain,
    SelfEnsemble,
    finished,
)
from pysr.adapt.pairs import matrix_pairs, own_pairs
from pysr.adapt.phases import Pairs, Phase, Phases, Rates
from pysr.adapt.picture import (
    estimated_kernel,
    judged_on,
    noise_of,
    own_teacher,
    second_opinion,
    student,
    teaching,
)
from pysr.adapt.report import Adapted, Report
from pysr.adapt.zssr import ZSSR, Learning, plain_body, zssr_phases
from pysr.degrade.deep_linear import GivenBlur
from pysr.nets import DAN
from pysr.nets.parts import BicubicUpsample
from pysr.upscaler import Upscaler, usable_device

TRAINED = Rates(1e-4, 10.0, 1e-6)  # of a network that was trained before


@dataclass(frozen=True)
class DSRConfig:
    """How DSR learns.

    Attributes:
        layers, features: of LR Finer (dsr.txt, 3.1).
        matrix: side of the random matrices, in pixels.
        finer_rates: of LR Finer's learning. The paper begins at 1e-4.
        finer_share: of the budget that LR Finer has.
        resolver: how the network after it learns. None for the paper's rate of a trained network,
            and ZSSR's of a ZSSR.
    """

    layers: int = 8
    features: int = 64
    matrix: int = 128
    finer_rates: Rates = Rates(1e-3, 2.0, 1.25e-5)
    finer_share: float = 0.7
    resolver: Learning | None = None

    def __post_init__(self):
        if self.layers < 2:
            raise ValueError(f"layers: expected at least 2, got {self.layers}")
        if not 0 < self.finer_share < 1:
            raise ValueError(
                f"finer_share: expected a number between 0 and 1, got {self.finer_share}"
            )

    def resolver_of(self, model: nn.Module) -> Learning:
        """How a model learns the clean picture."""
        if self.resolver is not None:
            return self.resolver
        return Learning() if isinstance(model, ZSSR) else Learning(rates=TRAINED)


class LRFiner(nn.Module):
    """What bicubic downsampling alone would have left of a picture (dsr.txt, equation 10).

    forward(lr): (N, C, H, W) in [0, 1] to the same size, not clipped. It goes through the picture s
    times as large, where the network adds to interpolation, beginning at nothing.
    """

    def __init__(self, factor: int, layers: int, features: int, seed: int = 0):
        super().__init__()
        self.scale, self.halo = 1, layers + 4
        self.interpolate = BicubicUpsample(factor)
        generator = torch.Generator().manual_seed(seed)
        self.body = plain_body(1, features, factor**2, layers, generator)
        self.shuffle = nn.PixelShuffle(factor)
        self.reduce = GivenBlur(factor, blur.dirac(1))

    def forward(self, lr: Tensor) -> Tensor:
        planes = lr.reshape(-1, 1, *lr.shape[-2:])
        hr = self.interpolate(planes) + self.shuffle(self.body(planes))
        return self.reduce(hr).view(lr.shape)


class SharpDAN(nn.Module):
    """A DAN as a network for bicubic downsampling: its Restorer, told that there was no blur."""

    def __init__(self, model: DAN):
        super().__init__()
        self.model, self.scale, self.halo = model, model.config.scale, model.Restorer.halo

    def forward(self, lr: Tensor) -> Tensor:
        return self.model.Restorer(lr, self.model.init_ker_map.expand(len(lr), -1))


def assembled(
    base: nn.Module,
    kernel: Tensor,
    *,
    downsample: str,
    layers: int,
    features: int,
    noise: float,
    seed: int,
    ensemble: bool = True,
) -> BackProjected:
    """An untrained LR Finer, a copy of the base, and what stands around them."""
    resolver = copy.deepcopy(base)
    resolver = SharpDAN(resolver) if isinstance(base, DAN) else resolver
    degradation = GivenBlur(base.config.scale, kernel, downsample)
    finer = LRFiner(base.config.scale, layers, features, seed)
    resolver = SelfEnsemble(resolver, ORIENTATIONS if ensemble else UPRIGHT)
    return finished(Chain([finer, resolver]), degradation, noise)


def dsr_form(base: nn.Module, report: Report, settings: dict) -> nn.Module:
    """What learning began with, or the base alone where nothing was learned."""
    if report.rolled_back:  # LR Finer changes a picture even before it has learned
        return copy.deepcopy(base)
    return assembled(base, report.kernel, **settings)


def dsr_phases(
    model: BackProjected, lr: Tensor, config: DSRConfig, noise: float, seed: int
) -> list[Phase]:
    """LR Finer's turn, and that of the network after it."""
    finer, resolver = model.network.stages[0], model.network.stages[1].network
    bicubic = GivenBlur(model.scale, blur.dirac(1)).to(lr.device)
    learning = config.resolver_of(resolver)

    def matrices() -> Pairs:
        for seen, matrix in matrix_pairs(model.degradation, config.matrix, noise, seed):
            yield seen, bicubic(matrix)

    @torch.no_grad()
    def clean() -> Tensor:
        return finer(lr).clamp(0, 1)

    def own() -> Pairs:
        return own_pairs(clean(), bicubic, learning.patch, learning.batch, 0.0, seed)

    if isinstance(resolver, ZSSR):
        after = zssr_phases(resolver, blur.dirac(1), "bicubic", clean, learning, 0.0, seed)
    else:
        after = [Phase(resolver, own, F.mse_loss, learning.rates)]
    share = config.finer_share * len(after) / (1 - config.finer_share)
    return [Phase(finer, matrices, F.mse_loss, config.finer_rates, share), *after]


@teaching
def dsr(
    model: nn.Module | str | Path,
    image,
    *,
    budget: Budget | int | float | str,
    kernel=None,
    downsample: str = "bicubic",
    noise: float | None = None,
    config: DSRConfig | None = None,
    device: str = "auto",
    seed: int = 0,
) -> Adapted:
    """Teach a network of its own the blur of one picture, and a model the picture itself.

    Args:
        model: trained for bicubic downsampling: a network of `pysr.nets`, which stays as it is, or
            what `pysr.nets.load_model` takes; a `pysr.adapt.ZSSR` for LR Finer and ZSSR.
        image: as for `pysr.Upscaler`, one picture.
        budget: see `Budget.of`; seconds count from this call.
        kernel: (k, k), the blur; None has it estimated, by the model if it is a DAN, else by the
            shipped DAN of its scale.
        downsample: what the blur comes with, "bicubic", as all estimates mean it, or "decimate".
        noise: of the picture, as for `pysr.adapt.zssr`; LR Finer learns to take it off.
        seed: of all that is drawn.
    Raises:
        ValueError, TypeError: for a picture, kernel, noise, budget or seed that cannot be used, or
            a scale at which no shipped model estimates a blur.
    """
    seed = blur.check_seed(seed)
    started, budget, config = time.perf_counter(), Budget.of(budget), config or DSRConfig()
    device = usable_device(device)
    model = student(model)
    scale = model.config.scale
    lr = own_teacher(image, scale, device)
    estimated = kernel is None
    kernel = estimated_kernel(lr, model) if estimated else kernel
    kernel = blur.check_kernel(kernel).cpu()
    noise = noise_of(lr, noise)
    settings = {
        "downsample": downsample,
        "layers": config.layers,
        "features": config.features,
        "noise": noise,
        "ensemble": config.resolver_of(model).ensemble,
        "seed": seed,
    }
    whole = assembled(model, kernel, **settings).to(device, memory_format=torch.channels_last)
    finer, ensemble = whole.network.stages
    before = copy.deepcopy(model).to(device)

    def unadapted(x: Tensor) -> Tensor:
        return before(x, kernel=kernel.to(device)).sr if isinstance(before, DAN) else before(x)

    phases = dsr_phases(whole, lr, config, noise, seed)
    chain = Chain([finer, ensemble.network])
    learner = Phases(whole, phases, unadapted, chain, whole.degradation, budget, started)
    parts = judged_on(lr)
    opinion = second_opinion(parts, model, kernel) if estimated and not noise else []
    report = Anytime(learner, parts, budget, started, noise, opinion).run("dsr")
    upscaler = Upscaler(before if report.rolled_back else whole, device=str(device), kernel=kernel)
    form = partial(dsr_form, report=report, settings=settings)
    return Adapted(upscaler, report, model, form, settings)
