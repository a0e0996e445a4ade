"""ONSR for clips: what `pysr.video.adapting` has a model taught each shot by.

A clip's blur is followed from frame to frame by the model itself, so a shot's blur counts as known:
what is taught is the Restorer of a DAN, under the shot's mean blur. A shot mostly looks like the
one before, so learning goes on from there; whether that was good, the shot's own frames judge, and
what is put back is the unadapted model.
"""

from __future__ import annotations

import time
from itertools import islice
from pathlib import Path

from pysr import blur
from pysr.adapt.anytime import Anytime
from pysr.adapt.budget import Budget
from pysr.adapt.onsr import ONSR, ONSRConfig, pool_for
from pysr.adapt.pool import LEAVES
from pysr.degrade.deep_linear import GivenBlur
from pysr.nets import load_model
from pysr.tiling import informative_crops
from pysr.video.adapting import Adaptation

LOOKED_AT = (0, 100, 33)  # the frames of a shot by which weights are judged: a range


class ShotTeacher:
    """Teaches a DAN one shot after the other, in place; what `pysr.video.upscale` takes as `adapt`.

    Args:
        hr_pool, config, seed: as for `pysr.adapt.onsr`.
    """

    def __init__(
        self,
        hr_pool: str | Path = LEAVES,
        config: ONSRConfig | None = None,
        seed: int = 0,
    ):
        self.config, self.hr_pool, self.seed = config or ONSRConfig(), hr_pool, seed
        self.reports = []
        # A journal knows a method by its name: other settings are another method.
        self.__qualname__ = f"ShotTeacher({hr_pool}, {self.config}, {seed})"

    def __call__(self, shot: Adaptation) -> None:
        started, scale = time.perf_counter(), shot.model.config.scale
        frames = [frame[None] for frame in islice(shot.frames(), *LOOKED_AT)]
        degradation = GivenBlur(scale, blur.normalise(shot.kernel.to(shot.device)))
        budget = Budget(seconds=shot.budget)
        pool = pool_for(frames[0], scale, self.hr_pool, self.config, self.seed, degradation, budget)
        learner = ONSR(shot.model, frames[0], pool, degradation, self.config, self.seed)
        crops = [informative_crops(frame)[0][2] for frame in frames]
        loop = Anytime(learner, crops, budget, started)
        if shot.before is not None:
            shot.model.load_state_dict(load_model(shot.before).state_dict())
        self.reports.append(loop.run("onsr"))
