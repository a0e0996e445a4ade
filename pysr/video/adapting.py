"""A model of its own for each shot: the hook that methods of learning at test time are hung on.

What a shot was taught is written into the journal and read back before it is used, so that a job
that was interrupted restores with the very same weights, whatever the method left to chance.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pysr.engines.defaults import undisturbed
from pysr.nets import DAN
from pysr.video.clip import Clip
from pysr.video.colour import to_rgb
from pysr.video.reader import read
from pysr.video.track import Shot

if TYPE_CHECKING:
    from pysr.adapt import Adapted

BUDGET = 60.0  # seconds


@dataclass(frozen=True)
class Adaptation:
    """What a method is given for one shot.

    Attributes:
        model: the job's, on `device`; it stays as it is.
        budget: seconds that it may take; keeping to them is the method's part.
        kernel: (k, k), the shot's mean kernel.
        before: what the shot before was taught, as `pysr.adapt.load` reads it; None for the first.
    """

    clip: Clip
    shot: Shot
    model: DAN
    kernel: Tensor
    device: torch.device
    budget: float
    before: Path | None

    def frames(self) -> Iterator[Tensor]:
        """The shot's frames, (3, H, W) in [0, 1], decoded as they are asked for."""
        for frame in read(self.clip, self.shot.first, self.shot.stop):
            yield to_rgb(frame.planes, self.clip.colour, self.clip.depth, self.device)


# What restores the shot, as the methods of `pysr.adapt` give it: taught from the shot's model.
Adapt = Callable[[Adaptation], "Adapted"]


def adapted(
    adapt: Adapt,
    budget: float,
    clip: Clip,
    shots: Sequence[Shot],
    model: DAN,
    device: torch.device,
    folder: Path,
) -> dict[int, Path]:
    """What each shot was taught, files in `folder` by the shots' first frames; those that are there
    are kept.

    Raises TypeError for a method that returns something else."""
    from pysr.adapt import Adapted  # which most jobs do without

    folder.mkdir(exist_ok=True)
    files = {}
    before = None
    for shot in shots:
        files[shot.first] = path = folder / f"{shot.first:08d}.safetensors"
        if not path.exists():
            with undisturbed():
                own = copy.deepcopy(model).to(device)
                given = Adaptation(clip, shot, own, shot.kernel(model), device, budget, before)
                taught = adapt(given)
                if not isinstance(taught, Adapted):
                    raise TypeError(
                        "adapt: expected a method that returns pysr.adapt.Adapted, got "
                        f"{type(taught).__name__}"
                    )
                with taught.upscaler:
                    taught.save(path)
        before = path
    return files


def name(adapt: Adapt | None) -> str | None:
    """What a journal knows a method by."""
    if adapt is None:
        return None
    if hasattr(adapt, "__qualname__"):
        return f"{adapt.__module__}.{adapt.__qualname__}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(adapt))  # another in every process
