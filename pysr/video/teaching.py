"""Learning at test time for clips: what `pysr.video.adapting` has each shot taught by.

A clip's blur is followed from frame to frame by the job's model, so a shot's blur counts as known.
Of ONSR what is left to learn is the Restorer of a DAN, under the shot's mean blur. A shot mostly
looks like the one before, so it goes on from there; whether that was good, the shot's own frames
judge, and what is put back is the unadapted model. DSR and ZSSR learn each shot anew, from the one
of its frames that shows most, and restore without their ensemble: a clip has many frames, and each
would be restored eight times over.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from pysr import blur
from pysr.adapt import Adapted, DSRConfig, ONSRConfig, ZSSRConfig, load
from pysr.adapt.anytime import Anytime
from pysr.adapt.budget import Budget
from pysr.adapt.dsr import TRAINED
from pysr.adapt.methods import check_method
from pysr.adapt.onsr import ONSR, pool_for
from pysr.adapt.picture import check_noise, noise_of
from pysr.adapt.pool import LEAVES
from pysr.adapt.zssr import Learning
from pysr.degrade.deep_linear import GivenBlur
from pysr.tiling import gradient_energy, informative_crops
from pysr.upscaler import Upscaler
from pysr.video.adapting import Adaptation

LOOKED_AT = (100, 33)  # of a shot are learned from or judged by: before which, every so many
LEAST = 1e-3  # seconds, where reading has taken all: a budget is more than none
CONFIGS = {
    "onsr": ONSRConfig(),
    "dsr": DSRConfig(resolver=Learning(rates=TRAINED, ensemble=False)),
    "zssr": ZSSRConfig(ensemble=False),
}


class ShotTeacher:
    """Teaches one shot after the other; what `pysr.video.upscale` takes as `adapt`.

    Args:
        method: of `pysr.adapt.METHODS`.
        hr_pool, noise, seed: as for `pysr.adapt.taught`.
        config: of the method; None for that of CONFIGS.
    Attributes:
        reports: `pysr.adapt.Report` of each shot so far.

    Raises ValueError as `pysr.adapt.taught` for these, and TypeError for another method's config.
    """

    def __init__(
        self,
        method: str = "onsr",
        hr_pool: str | Path | None = None,
        config: ONSRConfig | DSRConfig | ZSSRConfig | None = None,
        noise: float | None = None,
        seed: int = 0,
    ):
        self._entry = check_method(method, hr_pool)
        self.noise = None if noise is None else check_noise(noise)
        self.method, self.seed = method, seed
        self.hr_pool, self.config = hr_pool or LEAVES, config or CONFIGS[method]
        expected = type(CONFIGS[method])
        if not isinstance(self.config, expected):
            kind = type(self.config).__name__
            raise TypeError(f"config: expected {expected.__name__} for {method}, got {kind}")
        self.reports = []
        # A journal knows a method by its name: other settings are another method.
        settings = f"{method}, {self.hr_pool}, {self.config}, {noise}, {seed}"
        self.__qualname__ = f"ShotTeacher({settings})"

    def __call__(self, shot: Adaptation) -> Adapted:
        started = time.perf_counter()
        frames = [frame[None] for frame in shot.frames(*LOOKED_AT)]
        picture = max(frames, key=gradient_energy)
        if self.method == "onsr":
            adapted = self._onsr(shot, frames, picture, started)
        else:
            left = shot.budget - (time.perf_counter() - started)
            adapted = self._entry.teach(
                shot.model,
                picture,
                budget=Budget(seconds=max(left, LEAST)),
                kernel=blur.normalise(shot.kernel),
                noise=self.noise,
                config=self.config,
                device=str(shot.device),
                seed=self.seed,
            )
        self.reports.append(adapted.report)
        return adapted

    def _onsr(
        self, shot: Adaptation, frames: Sequence[Tensor], picture: Tensor, started: float
    ) -> Adapted:
        scale, budget = shot.model.config.scale, Budget(seconds=shot.budget)
        degradation = GivenBlur(scale, blur.normalise(shot.kernel.to(shot.device)))
        pool = pool_for(picture, scale, self.hr_pool, self.config, self.seed, degradation, budget)
        model, noise = copy.deepcopy(shot.model), noise_of(picture, self.noise)
        learner = ONSR(model, picture, pool, degradation, self.config, self.seed, noise)
        crops = [informative_crops(frame)[0][2] for frame in frames]
        loop = Anytime(learner, crops, budget, started, noise)
        if shot.before is not None:
            with load(shot.before, shot.model, str(shot.device)).upscaler as before:
                model.load_state_dict(before.model.state_dict())
        report = loop.run("onsr")
        upscaler = Upscaler(model.eval(), device=str(shot.device), kernel=report.kernel)
        return Adapted(upscaler, report, shot.model)
