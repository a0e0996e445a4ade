"""Train a super-resolution network by L1: on pairs made as they are needed, on real ones, on both.

Pairs are made from HR patches, each degraded as a small picture of its own: no LR picture is ever
stored, and every step sees new noise and new blurs. VDSR is trained on Y, as published, and may see
another scale in every step; all others learn RGB at their own scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pysr.colour import unit_luma
from pysr.degrade import BicubicDegradation, FileDegradation, RandomDegradation, imresize
from pysr.evaluate.metrics import psnr
from pysr.nets.registry import ARCHITECTURES, build, load_model, save_model
from pysr.nets.vdsr import VDSR
from pysr.train.data import VALIDATION_CROP, TileCache, described
from pysr.train.loop import TrainingOptions, check_least, run
from pysr.train.pairs import PairCache

Degradation = BicubicDegradation | RandomDegradation | FileDegradation


@dataclass(frozen=True)
class SRData:
    """Where the pictures are and how they are cut. At least one of `folders` and `pairs` is needed.

    Attributes:
        folders: of HR pictures, which are degraded.
        pairs: folders of real pairs, see `pysr.train.pairs.find_pairs`.
        real: share of real pairs in a batch, where there are both.
        scales: of a VDSR, one drawn for each step; left out, the model's own.
        patch: side of a HR patch in pixels, a multiple of every scale.
        batch: patches per step and process.
        hold_out: pictures of the folders, and as many pairs, kept for validation.
        start: a model of the same configuration, by name or file, to begin from; left out, training
            begins from random weights.
        refuse_unregistered: stop where a pair is shifted by more than a LR pixel; else warn.
    """

    folders: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ()
    real: float = 0.5
    scales: tuple[int, ...] = ()
    patch: int = 192
    batch: int = 16
    hold_out: int = 4
    start: str | None = None
    refuse_unregistered: bool = False

    def __post_init__(self):
        if not self.folders and not self.pairs:
            raise ValueError("data: expected folders of HR pictures, folders of pairs, or both")
        check_least("data", self, 1, "patch")
        check_least("data", self, 0, "hold_out")
        if min(self.scales, default=1) < 1:
            raise ValueError(f"data.scales: expected at least 1, got {min(self.scales)}")
        if not 0 < self.real < 1:
            raise ValueError(f"data.real: expected a share between 0 and 1, got {self.real:g}")
        if self.pairs and len(self.scales) > 1:
            raise ValueError("data.scales: expected one at most with pairs, which have their own")
        kinds = bool(self.folders) + bool(self.pairs)
        if self.batch < kinds:
            raise ValueError(f"data.batch: expected at least {kinds}, got {self.batch}")

    @property
    def real_patches(self) -> int:
        """Patches of a batch that come from real pairs; of two kinds at least one each."""
        if not (self.folders and self.pairs):
            return self.batch if self.pairs else 0
        return min(max(round(self.batch * self.real), 1), self.batch - 1)


class SyntheticPairs:
    """HR pictures, degraded as they are drawn."""

    name = "synthetic"

    def __init__(self, data: SRData, degradation: Degradation, device: torch.device):
        self.degradation, self.device = degradation, device
        self.tiles = TileCache(data.folders, device, data.hold_out, data.patch)
        self.files = self.tiles.files

    def patches(
        self, n: int, size: int, scale: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        hr = self.tiles.patches(n, size, generator)
        return hr, self._degraded(hr, scale, int(torch.randint(2**62, (), generator=generator)))

    def held_out(self, scale: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Crops of the pictures kept for validation and what becomes of them, always the same."""
        for seed, tile in enumerate(self.tiles.held_out):
            h, w = (min(n, VALIDATION_CROP) // scale * scale for n in tile.shape[-2:])
            hr = tile[None, :, :h, :w].to(self.device).float() / 255
            yield hr, self._degraded(hr, scale, seed)

    def _degraded(self, hr: Tensor, scale: int, seed: int) -> Tensor:
        generator = torch.Generator(hr.device).manual_seed(seed)
        return replace(self.degradation, scale=scale)(hr, generator)[0]


class RealPairs:
    """Pairs from a camera."""

    name = "real"

    def __init__(self, data: SRData, scale: int, device: torch.device):
        self.cache = PairCache(
            data.pairs, scale, device, data.hold_out, data.refuse_unregistered, True, data.patch
        )
        self.files = self.cache.files
        self.device = device

    def patches(
        self, n: int, size: int, scale: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        return self.cache.patches(n, size, generator)

    def held_out(self, scale: int) -> Iterator[tuple[Tensor, Tensor]]:
        return ((hr.to(self.device), lr.to(self.device)) for hr, lr in self.cache.held_out)


class SRLoss(nn.Module):
    """L1 between what the network makes of LR and HR, at the scale between them."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, hr: Tensor, lr: Tensor) -> dict[str, Tensor]:
        if isinstance(self.model, VDSR):
            up = imresize(lr, hr.shape[-1] // lr.shape[-1])
            sr = up + self.model.residual(up)
        else:
            sr = self.model(lr)
        return {"picture": F.l1_loss(sr, hr)}


class SRTask:
    """See `pysr.train.loop.Task`."""

    def __init__(
        self,
        architecture: str,
        config: object,
        data: SRData,
        degradation: Degradation,
        seed: int,
        device: torch.device,
    ):
        self.data, self.device = data, device
        torch.manual_seed(seed)
        self.model = (
            _started(data.start, config) if data.start else build(architecture, **asdict(config))
        )
        self.model.train().to(device, memory_format=torch.channels_last)
        self.module = SRLoss(self.model)
        self.on_luma = isinstance(self.model, VDSR)
        self.scales = data.scales or (config.scale,)
        self._check_scales(config.scale)
        # Patches of a batch, by where they come from.
        self.sources: dict[SyntheticPairs | RealPairs, int] = {}
        if data.folders:
            synthetic = SyntheticPairs(data, degradation, device)
            self.sources[synthetic] = data.batch - data.real_patches
        if data.pairs:
            self.sources[RealPairs(data, self.scales[0], device)] = data.real_patches

    def _check_scales(self, own: int) -> None:
        if not self.on_luma and self.scales != (own,):
            raise ValueError(
                f"data.scales: expected none, or the model's own {own}; only a VDSR has several"
            )
        for scale in self.scales:
            if self.data.patch % scale:
                raise ValueError(
                    f"data.patch: expected a multiple of the scale {scale}, got {self.data.patch}"
                )

    def batch(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        scale = self.scales[int(torch.randint(len(self.scales), (), generator=generator))]
        parts = [
            source.patches(n, self.data.patch, scale, generator)
            for source, n in self.sources.items()
        ]
        hr, lr = (self._seen(torch.cat(side)) for side in zip(*parts, strict=True))
        return {"hr": hr, "lr": lr}

    def _seen(self, rgb: Tensor) -> Tensor:
        x = unit_luma(rgb) if self.on_luma else rgb
        return x.contiguous(memory_format=torch.channels_last)

    def validate(self, model: nn.Module) -> dict[str, float]:
        """PSNR of Y in dB on the held-out pictures and pairs, one mean per source and scale."""
        figures = {}
        for source in self.sources:
            for scale in self.scales:
                network = model.with_scale(scale) if self.on_luma else model
                scores = [psnr(network(lr).float(), hr, scale) for hr, lr in source.held_out(scale)]
                if scores:
                    figures[f"psnr_{source.name}_x{scale}"] = sum(scores) / len(scores)
        return figures


def _started(path: str, config: object) -> nn.Module:
    model = load_model(path, config.scale)
    if model.config != config:
        raise ValueError(f"data.start: {path} has another configuration: {model.config}")
    return model


def train_sr(
    architecture: str,
    config: object,
    data: SRData,
    degradation: Degradation,
    options: TrainingOptions,
    out: str | Path,
    device: str = "cpu",
) -> nn.Module:
    """Train a network of `pysr.nets.registry.ARCHITECTURES` and return its averaged weights.

    See `pysr.train.loop.run` for what lands in `out`.
    Raises:
        ValueError: for scales or patches that do not fit the network, and as `TileCache`,
            `PairCache` and `run`.
        FileNotFoundError: when the training pictures are not there.
    """
    task = SRTask(architecture, config, data, degradation, options.seed, torch.device(device))
    description = {
        "architecture": architecture,
        "model": asdict(config),
        "data": asdict(data),
        "files": [source.files for source in task.sources],
        "degradation": described(degradation),
        "seed": options.seed,
    }
    return run(task, options, Path(out), description, torch.device(device))[0].eval()


@dataclass(frozen=True, kw_only=True)
class SRRecipe:
    """kind = "sr". [model] holds the settings of `architecture`; the degradation's scale is the
    model's, and without a section it is bicubic downsampling."""

    architecture: str
    model: object
    data: SRData
    degradation: BicubicDegradation | RandomDegradation | FileDegradation
    training: TrainingOptions
    out: str
    device: str = "auto"

    OF_MODEL: ClassVar = {"degradation": ("scale",)}

    @staticmethod
    def section_types(content: Mapping) -> dict[str, type]:
        """What a recipe's own keys decide about its sections; see `pysr.train.recipe`."""
        architecture = content.get("architecture")
        if architecture not in ARCHITECTURES or architecture == "dan":
            known = ", ".join(sorted(set(ARCHITECTURES) - {"dan"}))
            raise ValueError(f"architecture: expected one of {known}, got {architecture!r}")
        return {"model": ARCHITECTURES[architecture].config}

    def train(self, options: TrainingOptions, out: Path, device: str) -> nn.Module:
        return train_sr(
            self.architecture, self.model, self.data, self.degradation, options, out, device
        )

    def save(self, trained: nn.Module, path: Path) -> None:
        save_model(trained, path)
