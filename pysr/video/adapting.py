"""A model of its own for each shot: the hook that methods of learning at test time are hung on.

What a shot was taught is written into the journal and read back before it is used, so that a job
that was interrupted restores with the very same weights, whatever the method left to chance.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pysr.engines.defaults import undisturbed
from pysr.nets import DAN, fingerprint
from pysr.video.clip import Clip
from pysr.video.colour import to_rgb
from pysr.video.reader import read
from pysr.video.track import Shot

if TYPE_CHECKING:
    from pysr.adapt import Adapted
    from pysr.video.worker import Work

BUDGET = 60.0  # seconds


@dataclass(frozen=True)
class Adaptation:
    """What a method is given for one shot.

    Attributes:
        model: the job's, on `device`; it stays as it is.
        budget: seconds that it may take; keeping to them is the method's part.
        kernel: (k, k), the shot's mean kernel, or the one that the job was told.
        before: what the shot before was taught, as `pysr.adapt.load` reads it; None for the first.
    """

    clip: Clip
    shot: Shot
    model: DAN
    kernel: Tensor
    device: torch.device
    budget: float
    before: Path | None

    def frames(self, stop: int | None = None, step: int = 1) -> Iterator[Tensor]:
        """The shot's frames, (3, H, W) in [0, 1], decoded as they are asked for; every so many of
        those before `stop`."""
        for frame in islice(read(self.clip, self.shot.first, self.shot.stop), 0, stop, step):
            yield to_rgb(frame.planes, self.clip.colour, self.clip.depth, self.device)


# What restores the shot, as the methods of `pysr.adapt` give it: taught from the shot's model.
Adapt = Callable[[Adaptation], "Adapted"]


def adapted(
    adapt: Adapt,
    budget: float,
    work: Work,
    device: torch.device,
    kernel: Tensor | None,
    folder: Path,
) -> dict[int, Path]:
    """What each shot was taught, files in `folder` by the shots' first frames; those that are there
    are kept.

    Args:
        kernel: the one that was told, if any.
    Raises:
        TypeError, ValueError: for a method that returns what the shot cannot be restored by; that
            is not kept.
    """
    folder.mkdir(exist_ok=True)
    files = {}
    before = None
    for shot in work.shots:
        files[shot.first] = path = folder / f"{shot.first:08d}.safetensors"
        if not path.exists():
            with undisturbed():
                model = copy.deepcopy(work.model).to(device)
                blur = shot.kernel(work.model) if kernel is None else kernel
                taught = adapt(Adaptation(work.clip, shot, model, blur, device, budget, before))
                _check(taught, work.model)
                with work.upscaler(taught.upscaler.model):  # by the engine that was asked for
                    taught.save(path)
        before = path
    return files


def _check(taught: object, model: DAN) -> None:
    """Raises TypeError and ValueError for what does not restore a clip of that model."""
    from pysr.adapt import METHODS, Adapted  # which most jobs do without

    if not isinstance(taught, Adapted):
        kind = type(taught).__name__
        raise TypeError(f"adapt: expected a method that returns pysr.adapt.Adapted, got {kind}")
    if taught.upscaler.scale != model.config.scale:
        raise ValueError(
            f"adapt: expected what upscales by {model.config.scale}, as the model does, got "
            f"{taught.upscaler.scale}"
        )
    own = METHODS[taught.report.method].base is not None
    if not own and fingerprint(taught.base) != fingerprint(model):
        raise ValueError("adapt: expected what was taught from the shot's model, got another's")


def name(adapt: Adapt | None) -> str | None:
    """What a journal knows a method by."""
    if adapt is None:
        return None
    if hasattr(adapt, "__qualname__"):
        return f"{adapt.__module__}.{adapt.__qualname__}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(adapt))  # another in every process
