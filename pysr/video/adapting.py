"""A model of its own for each shot: the hook that methods of learning at test time are hung on.

What a method has taught a model is written into the journal and read back before it is used, so
that a job that was interrupted restores with the very same weights, whatever the method left to
chance.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pysr.engines.defaults import undisturbed
from pysr.files import written_whole
from pysr.nets import DAN, save_model
from pysr.video.clip import Clip
from pysr.video.colour import to_rgb
from pysr.video.reader import read
from pysr.video.track import Shot

BUDGET = 60.0  # seconds


@dataclass(frozen=True)
class Adaptation:
    """What a method is given for one shot.

    Attributes:
        model: a copy for this shot, on `device`, to be taught in place.
        budget: seconds that it may take; keeping to them is the method's part.
        kernel: (k, k), the shot's mean kernel.
        before: weights file of the shot before, as it was taught; None for the first.
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


Adapt = Callable[[Adaptation], None]


def adapted(
    adapt: Adapt,
    budget: float,
    clip: Clip,
    shots: Sequence[Shot],
    model: DAN,
    device: torch.device,
    folder: Path,
) -> dict[int, Path]:
    """Weights files in `folder` by the shots' first frames; those that are there are kept."""
    folder.mkdir(exist_ok=True)
    files = {}
    before = None
    for shot in shots:
        files[shot.first] = path = folder / f"{shot.first:08d}.safetensors"
        if not path.exists():
            with undisturbed():
                taught = copy.deepcopy(model).to(device)
                adapt(Adaptation(clip, shot, taught, shot.kernel(model), device, budget, before))
            with written_whole(path) as beside:
                save_model(taught, beside)
        before = path
    return files


def name(adapt: Adapt | None) -> str | None:
    """What a journal knows a method by."""
    if adapt is None:
        return None
    if hasattr(adapt, "__qualname__"):
        return f"{adapt.__module__}.{adapt.__qualname__}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(adapt))  # another in every process
