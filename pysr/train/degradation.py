"""Learn a degradation from real pairs: DML and its rivals (dml.txt, 3.2), ABL (abl.txt, 4.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pysr.degrade.learned import Card, LearnedDegradation
from pysr.nets.abl import ABL, ABLConfig
from pysr.nets.dml import DMLConfig, build_dml
from pysr.train.loop import TrainingOptions, check_least, run
from pysr.train.pairs import PairCache


@dataclass(frozen=True)
class PairData:
    """Where the pairs are and how they are cut.

    Attributes:
        folders: of pairs, see `pysr.train.pairs.find_pairs`.
        patch: side of a HR patch in pixels (dml.txt: 192, abl.txt: 256).
        batch: patches per step and process (dml.txt: 16, abl.txt: 8).
        hold_out: pairs kept for validation.
        refuse_unregistered: stop where a pair is shifted by more than a LR pixel; else warn.
    """

    folders: tuple[str, ...]
    patch: int = 192
    batch: int = 16
    hold_out: int = 4
    refuse_unregistered: bool = False

    def __post_init__(self):
        check_least("data", self, 1, "patch", "batch")
        check_least("data", self, 0, "hold_out")


class PairLoss(nn.Module):
    """How far the network's LR pictures are from the real ones."""

    def __init__(self, model: nn.Module, distance: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.model, self.distance = model, distance

    def forward(self, hr: Tensor, lr: Tensor) -> dict[str, Tensor]:
        return {"picture": self.distance(self.model(hr), lr)}


class DegradationTask:
    """See `pysr.train.loop.Task`."""

    def __init__(
        self,
        model: nn.Module,
        distance: Callable[[Tensor, Tensor], Tensor],
        data: PairData,
        device: torch.device,
    ):
        self.data, self.device = data, device
        self.model = model.train().to(device, memory_format=torch.channels_last)
        self.module = PairLoss(self.model, distance)
        self.pairs = PairCache(
            data.folders,
            model.config.scale,
            device,
            data.hold_out,
            data.refuse_unregistered,
            patch=data.patch,
        )

    def batch(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        hr, lr = self.pairs.patches(self.data.batch, self.data.patch, generator)
        return {"hr": hr, "lr": lr}

    def validate(self, model: nn.Module) -> dict[str, float]:
        """PSNR in dB and L1 of the generated Y on the held-out pairs, means over pairs."""
        scores = []
        for hr, lr in self.pairs.held_out:
            error = model(hr.to(self.device)).cpu().clamp(0, 1) - lr
            psnr = -10 * torch.log10(error.square().mean())
            scores.append((float(psnr), float(error.abs().mean())))
        if not scores:
            return {}
        psnr, l1 = (sum(column) / len(column) for column in zip(*scores, strict=True))
        return {"psnr": psnr, "l1": l1}


@dataclass(frozen=True, kw_only=True)
class _PairRecipe:
    model: DMLConfig | ABLConfig
    data: PairData
    training: TrainingOptions
    card: Card
    out: str
    device: str = "auto"

    def train(self, options: TrainingOptions, out: Path, device: str) -> LearnedDegradation:
        return train_degradation(
            self._network, self._distance, self.data, options, self.card, out, device
        )

    def save(self, trained: LearnedDegradation, path: Path) -> None:
        trained.save(path)


@dataclass(frozen=True, kw_only=True)
class DMLRecipe(_PairRecipe):
    """kind = "dml": a DML or one of its rivals, by L2 (dml.txt, equation 4)."""

    model: DMLConfig
    _distance = staticmethod(F.mse_loss)

    def _network(self) -> nn.Module:
        return build_dml(self.model)


@dataclass(frozen=True, kw_only=True)
class ABLRecipe(_PairRecipe):
    """kind = "abl": an ABL, by L1 (abl.txt, section 4.1.2)."""

    model: ABLConfig
    _distance = staticmethod(F.l1_loss)

    def _network(self) -> nn.Module:
        return ABL(self.model)


def train_degradation(
    build: Callable[[], nn.Module],
    distance: Callable[[Tensor, Tensor], Tensor],
    data: PairData,
    options: TrainingOptions,
    card: Card,
    out: Path,
    device: str = "cpu",
) -> LearnedDegradation:
    """Train a network that `build` makes, and return its averaged weights as a degradation.

    Its card gets the figures of the held-out pairs and what was trained for how long; see
    `pysr.train.loop.run` for what lands in `out`.
    Raises:
        ValueError: as `pysr.train.pairs.PairCache` and `run`.
        FileNotFoundError: for a missing folder of pairs.
    """
    torch.manual_seed(options.seed)
    task = DegradationTask(build(), distance, data, torch.device(device))
    description = {
        "model": asdict(task.model.config),
        "folders": list(data.folders),
        "files": task.pairs.files,
        "hold_out": data.hold_out,
        "seed": options.seed,
    }
    model, steps = run(task, options, out, description, torch.device(device))
    with torch.no_grad():
        figures = {**task.validate(model.eval()), "pairs": len(task.pairs), "steps": steps}
    return LearnedDegradation(model, replace(card, figures=figures))
