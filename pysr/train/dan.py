"""Train a DAN: the published loss (dan.txt section 3.1), and a head start that may be left out."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pysr import blur
from pysr.degrade import FileDegradation, RandomDegradation
from pysr.evaluate.metrics import psnr
from pysr.evaluate.protocols import cases
from pysr.nets.dan import DAN, DANConfig, grown, initialise
from pysr.nets.parts import BicubicUpsample
from pysr.nets.registry import load_dan, save_model
from pysr.train.data import VALIDATION_CROP, TileCache, described
from pysr.train.loop import TrainingOptions, check_least, run

KERNELS_FOR_PCA = 20000
SMALLEST_MSE = 3e-6  # 55 dB: a flat patch, which is restored exactly, must not outweigh others


@dataclass(frozen=True)
class DANData:
    """Where the training pictures are and how they are cut.

    Attributes:
        folders: of HR pictures.
        patch: side of a LR patch in pixels (dan.txt: 64).
        batch: patches per step and process (dan.txt: 64).
        hold_out: pictures kept for validation.
        reduced, enlarged: shares of the patches, together at most 1, that are cut larger and
            reduced, or smaller and enlarged, see `pysr.train.data.TileCache.patches`.
        learns: "both"; "restorer": told the true code, while the Estimator stays as it is; or
            "estimator": in every iteration of the loop and for the picture that comes of it,
            while the Restorer stays as it is.
        apart: steps, the first ones, in which Restorer and Estimator are trained apart: the
            Restorer is given the true code and the Estimator sees bicubic interpolation. 0 trains
            as published.
        guided: steps, the next ones, in which the Restorer goes on with the true code, while the
            Estimator sees what the loop makes.
        damping: of the code's basis, see `pysr.blur.pca_basis`; left out, the basis is orthonormal.
        start: weights to begin from, with their basis, a file or a shipped name; the model may
            have more blocks and, with a compact tail, another scale, see `pysr.nets.dan.grown`.
            Left out, training begins from random weights.
    """

    folders: tuple[str, ...]
    patch: int = 64
    batch: int = 64
    hold_out: int = 6
    reduced: float = 0.0
    enlarged: float = 0.0
    learns: str = "both"
    apart: int = 0
    guided: int = 0
    damping: float | None = None
    start: str | None = None

    def __post_init__(self):
        check_least("data", self, 1, "patch", "batch")
        check_least("data", self, 0, "hold_out", "apart", "guided")
        shares = (self.reduced, self.enlarged)
        if not (min(shares) >= 0 and sum(shares) <= 1):
            raise ValueError(
                "data.reduced, data.enlarged: expected shares, together at most 1, got "
                f"{self.reduced} and {self.enlarged}"
            )
        if self.damping is not None and not 0 <= self.damping < math.inf:
            raise ValueError(f"data.damping: expected 0 or more, and finite, got {self.damping}")
        if self.learns not in LOSSES:
            raise ValueError(f"data.learns: expected {', '.join(LOSSES)}, got {self.learns!r}")
        if self.learns != "both" and (self.apart or self.guided):
            raise ValueError(
                f"data.learns: the {self.learns} alone learns neither apart nor guided"
            )


class DANLosses(nn.Module):
    """L1 of the picture and L1 of the code, of the last iteration only (dan.txt section 3.1)."""

    def __init__(self, model: DAN):
        super().__init__()
        self.model = model
        self.interpolate = BicubicUpsample(model.config.scale)

    def forward(
        self, hr: Tensor, lr: Tensor, kernels: Tensor, apart: bool, guided: bool
    ) -> dict[str, Tensor]:
        model = self.model
        true_code = model.encode(kernels)
        if apart or guided:
            sr = model.Restorer(lr, true_code)
            with torch.no_grad():
                seen = self.interpolate(lr) if apart else self.looped(lr)
            code = model.Estimator(seen, lr)
        else:
            sr, code = model(lr)
        return {"picture": F.l1_loss(sr, hr), "code": F.l1_loss(code, true_code)}

    def looped(self, lr: Tensor) -> Tensor:
        """The picture that the last iteration shows the Estimator."""
        return self.model.Restorer(lr, self.model.last_code(lr, self.model.config.iterations))


class RestorerLosses(nn.Module):
    """L1 of the picture, restored with the true code; the Estimator is frozen."""

    def __init__(self, model: DAN):
        super().__init__()
        self.model = model
        model.Estimator.requires_grad_(False)

    def forward(self, hr: Tensor, lr: Tensor, kernels: Tensor, **_) -> dict[str, Tensor]:
        return {"picture": F.l1_loss(self.model.Restorer(lr, self.model.encode(kernels)), hr)}


class EstimatorLosses(nn.Module):
    """L1 of the code of every iteration that a picture is restored with, and the logarithm of what
    the restored picture's mean square error then is; the Restorer is frozen.

    A picture that was soft to begin with looks like a sharp one after more blur. Of the two
    mistakes the code's error knows nothing; PSNR, which the logarithm stands for, tells them apart.

    Raises ValueError for a model of one iteration, which restores with the first code.
    """

    def __init__(self, model: DAN):
        super().__init__()
        if model.config.iterations < 2:
            raise ValueError(
                "data.learns: the estimator alone needs a model of at least 2 iterations, got "
                f"{model.config.iterations}"
            )
        self.model = model
        model.Restorer.requires_grad_(False)

    def forward(self, hr: Tensor, lr: Tensor, kernels: Tensor, **_) -> dict[str, Tensor]:
        model = self.model
        true_code = model.encode(kernels)
        code, losses = model.init_ker_map.expand(len(lr), -1), []
        for _ in range(model.config.iterations - 1):
            with torch.no_grad():
                sr = model.Restorer(lr, code)
            code = model.Estimator(sr, lr)
            losses.append(F.l1_loss(code, true_code))
        mse = (model.Restorer(lr, code).float() - hr).square().mean((1, 2, 3))
        return {"code": torch.stack(losses).mean(), "log_mse": (mse + SMALLEST_MSE).log().mean()}


LOSSES = {"both": DANLosses, "restorer": RestorerLosses, "estimator": EstimatorLosses}


class DANTask:
    """See `pysr.train.loop.Task`."""

    def __init__(
        self,
        config: DANConfig,
        data: DANData,
        degradation: RandomDegradation | FileDegradation,
        seed: int,
        device: torch.device,
    ):
        self.data, self.degradation, self.device = data, degradation, device
        torch.manual_seed(seed)
        if data.start:
            try:
                self.model = grown(load_dan(data.start), config)
            except ValueError as error:
                raise ValueError(f"start: {data.start}: {error}") from None
        else:
            kernels = degradation.kernels(KERNELS_FOR_PCA, seed)
            self.model = DAN(config, blur.pca_basis(kernels, config.code_length, data.damping))
            initialise(self.model)
        self.model.train().to(device, memory_format=torch.channels_last)
        self.module = LOSSES[data.learns](self.model)
        patch = data.patch * degradation.scale
        self.tiles = TileCache(data.folders, device, data.hold_out, patch)

    def batch(self, step: int, generator: torch.Generator) -> dict:
        scale = self.degradation.scale
        size = self.data.patch * scale
        shares = (self.data.reduced, self.data.enlarged)
        hr = self.tiles.patches(self.data.batch, size, generator, *shares)
        seed = int(torch.randint(2**62, (), generator=generator))
        lr, kernels = self.degradation(hr, torch.Generator(self.device).manual_seed(seed))
        return {
            "hr": hr.contiguous(memory_format=torch.channels_last),
            "lr": lr.contiguous(memory_format=torch.channels_last),
            "kernels": kernels,
            "apart": step < self.data.apart,
            "guided": step < self.data.apart + self.data.guided,
        }

    def validate(self, model: DAN) -> dict[str, float]:
        """PSNR and code error on the held-out pictures, under three of gaussian8's blurs and, where
        Setting 2 is trained, one of div2krk's.

        Nothing at scale 1, for which no protocol is published.
        """
        scale = model.config.scale
        if scale == 1:
            return {}
        scores: dict[str, list[float]] = {}
        for index, tile in enumerate(self.tiles.held_out):
            hr = tile[None, :, :VALIDATION_CROP, :VALIDATION_CROP].float() / 255
            tests = {"": list(cases("gaussian8", scale, hr))[::3]}
            if getattr(self.degradation, "setting2", 0):
                tests["irregular_"] = list(cases("div2krk", scale, hr, index))
            for name, case in ((name, case) for name, test in tests.items() for case in test):
                sr, code = model(case.lr.to(self.device))
                true_code = model.encode(case.kernel[None].to(self.device))
                figures = {
                    "psnr": psnr(sr.cpu().float(), case.hr, scale),
                    "code_error": float(F.l1_loss(code.float(), true_code)),
                }
                for figure, value in figures.items():
                    scores.setdefault(name + figure, []).append(value)
        return {name: sum(values) / len(values) for name, values in scores.items()}


def train_dan(
    config: DANConfig,
    data: DANData,
    degradation: RandomDegradation | FileDegradation,
    options: TrainingOptions,
    out: str | Path,
    device: str = "cpu",
) -> DAN:
    """Train a DAN and return its averaged model; see `pysr.train.loop.run` for what lands in `out`.

    Raises:
        ValueError: when model and degradation differ in scale or kernel size, and as `TileCache`
            and `run`.
        FileNotFoundError: when the training pictures are not there.
    """
    for name in ("scale", "kernel_size"):
        wanted, got = getattr(config, name), getattr(degradation, name)
        if wanted != got:
            raise ValueError(f"degradation.{name}: expected the model's {wanted}, got {got}")
    degradation.kernels(1, 0)  # raises where a learned degradation has none to teach
    task = DANTask(config, data, degradation, options.seed, torch.device(device))
    description = {
        "model": asdict(config),
        "degradation": described(degradation),
        "folders": list(data.folders),
        "files": task.tiles.files,
        "hold_out": data.hold_out,
        "reduced": data.reduced,
        "enlarged": data.enlarged,
        "learns": data.learns,
        "damping": data.damping,
        "start": data.start,
        "apart": data.apart,
        "guided": data.guided,
        "seed": options.seed,
    }
    return run(task, options, Path(out), description, torch.device(device))[0].eval()


@dataclass(frozen=True, kw_only=True)
class DANRecipe:
    """kind = "dan". The degradation's scale and kernel size are the model's."""

    model: DANConfig
    data: DANData
    degradation: RandomDegradation | FileDegradation
    training: TrainingOptions
    out: str
    device: str = "auto"

    OF_MODEL: ClassVar = {"degradation": ("scale", "kernel_size")}

    def train(self, options: TrainingOptions, out: Path, device: str) -> DAN:
        return train_dan(self.model, self.data, self.degradation, options, out, device)

    def save(self, trained: DAN, path: Path) -> None:
        save_model(trained, path)
