"""Degradations learned from real pairs: one file each, used like any other degradation.

Networks see luma only, as the papers train them. In colour, predicted kernels blur R, G and B
alike, as a lens would; networks that predict pixels give the new luma, and the colours come from
bicubic downsampling.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pysr import blur
from pysr.colour import unit_luma, with_luma
from pysr.degrade.classical import to_8bit
from pysr.degrade.deep_linear import before_bicubic
from pysr.files import read_safetensors
from pysr.nets.abl import ABL, ABLConfig
from pysr.nets.dml import DMLConfig, build_dml
from pysr.resize import imresize

# Of the noise that makes generated pairs look real (dml.txt, section 3.3).
PAIR_NOISE = 5 / 255

ARCHITECTURES = {"dml": (DMLConfig, build_dml), "abl": (ABLConfig, ABL)}


class DegradationError(ValueError):
    """A degradation file that is missing, damaged or of another kind; the message is one line."""


@dataclass(frozen=True)
class Card:
    """What a learned degradation was learned from, and how well.

    Attributes:
        camera: that made the pairs.
        data: the pairs' name, with their number.
        licence: of the pairs' pictures.
        figures: measured on held-out pairs, by name.
    """

    camera: str = "unknown"
    data: str = "unknown"
    licence: str = "unknown"
    figures: dict[str, float] = field(default_factory=dict)


class LearnedDegradation:
    """A trained network in the place of blur and downsampling.

    Args:
        network: a DML, one of its rivals, or an ABL.
        card: where it comes from.
        noise: standard deviation of the white noise that a call adds, in [0, 1] units.

    Attributes:
        scale: HR size over LR size.
        kernel_size: k of the kernels that a call returns.
    """

    def __init__(self, network: nn.Module, card: Card | None = None, noise: float = 0.0):
        if not 0 <= noise < math.inf:
            raise ValueError(f"noise: expected a finite deviation of at least 0, got {noise:.4g}")
        self.network, self.card, self.noise = network.eval(), card or Card(), noise
        self.scale = network.config.scale
        self.kernel_size = network.config.kernel_size

    def to(self, device: str | torch.device) -> LearnedDegradation:
        """Move the network; pictures are expected on its device."""
        self.network.to(device)
        return self

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def has_kernels(self) -> bool:
        """Whether pixels come from kernels, which can be looked at and learned from."""
        return hasattr(self.network, "kernels")

    @torch.no_grad()
    def degrade(self, hr: Tensor, generator: blur.Seed = None) -> Tensor:
        """LR pictures, not rounded, whatever `torch.autocast` is in force: (N, C, ceil(H/s),
        ceil(W/s)).

        Args:
            hr: (N, 3, H, W) in [0, 1]; further channels, as transparency is one, are degraded
                alongside, without noise.
            generator: for the noise; a torch.Generator on the device of hr, a seed, or None.
        """
        with torch.autocast(hr.device.type, enabled=False):
            y, network = unit_luma(hr[:, :3]), self.network
            if self.has_kernels:
                lr = network(y, hr)
            else:
                lr = imresize(hr, 1 / self.scale)
                lr = torch.cat((with_luma(lr[:, :3], network(y)), lr[:, 3:]), 1)
            if self.noise:
                generator = blur.as_generator(generator, lr.device)
                colours = lr[:, :3]
                colours += self.noise * torch.randn(
                    colours.shape, generator=generator, dtype=lr.dtype, device=lr.device
                )
        return lr

    @torch.no_grad()
    def mean_kernels(self, hr: Tensor) -> Tensor:
        """The blur of each picture (N, 3, H, W), the mean over its pixels: (N, k, k), sum 1.

        It comes before bicubic downsampling, as those that a DAN is told, see `before_bicubic`.
        Raises ValueError where the network has no kernels.
        """
        if not self.has_kernels:
            raise ValueError(f"degradation: {type(self.network).__name__} predicts no kernels")
        with torch.autocast(hr.device.type, enabled=False):
            return before_bicubic(self.network.mean_kernels(unit_luma(hr)), self.scale)

    def __call__(self, hr: Tensor, generator: blur.Seed = None) -> tuple[Tensor, Tensor | None]:
        """LR pictures on 256 levels and their mean kernels, or None: as `RandomDegradation`."""
        return to_8bit(self.degrade(hr, generator)), (
            self.mean_kernels(hr) if self.has_kernels else None
        )

    def with_factor(self, factor: float) -> LearnedDegradation:
        """The same for another imaging system (abl.txt, section 4.2.2).

        Raises ValueError where there is no factor to change, or as `ABL.set_factor`.
        """
        if not isinstance(self.network, ABL):
            raise ValueError(
                f"factor: only an ABL has one, this is a {type(self.network).__name__}"
            )
        network = copy.deepcopy(self.network)
        network.set_factor(factor)
        return LearnedDegradation(network, self.card, self.noise)

    def with_noise(self, noise: float) -> LearnedDegradation:
        """The same with noise of this deviation, in [0, 1] units."""
        return LearnedDegradation(self.network, self.card, noise)

    def fingerprint(self) -> str:
        """Of all that decides about a result but the noise: the same for the same network."""
        digest = hashlib.sha256(json.dumps(asdict(self.network.config)).encode())
        for name, value in sorted(self._state().items()):
            digest.update(name.encode() + value.numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Write network and card as one safetensors file; the noise is each user's own."""
        metadata = {
            "architecture": "abl" if isinstance(self.network, ABL) else "dml",
            "config": json.dumps(asdict(self.network.config)),
            "card": json.dumps(asdict(self.card)),
        }
        save_file(self._state(), path, metadata)

    def _state(self) -> dict[str, Tensor]:
        return {
            name: value.detach().cpu().contiguous()
            for name, value in self.network.state_dict().items()
        }


def is_degradation(path: str | Path) -> bool:
    """Whether a file says that it is a learned degradation; False for any other, or none."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("architecture") in ARCHITECTURES
    except (OSError, SafetensorError):
        return False


def load(path: str | Path) -> LearnedDegradation:
    """A learned degradation from a file that `LearnedDegradation.save` wrote.

    Raises DegradationError for a file that is missing, damaged or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise DegradationError(f"degradation: no file {path}")
    try:
        metadata, state = read_safetensors(path)
    except (OSError, SafetensorError) as error:
        raise DegradationError(f"{path}: not a readable degradation file ({error})") from None
    architecture = metadata.get("architecture")
    if architecture not in ARCHITECTURES:
        expected = " or ".join(ARCHITECTURES)
        raise DegradationError(
            f"{path}: expected a learned degradation ({expected}), the file says {architecture!r}"
        )
    try:
        kind, build = ARCHITECTURES[architecture]
        with torch.random.fork_rng(devices=[]):  # what it draws first is overwritten
            network = build(kind(**json.loads(metadata["config"])))
        network.load_state_dict(state)
        card = Card(**json.loads(metadata["card"]))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DegradationError(f"{path}: does not fit its network: {reason}") from None
    return LearnedDegradation(network, card)


@dataclass(frozen=True)
class FileDegradation:
    """A learned degradation as a recipe names it, in the place of a `RandomDegradation`.

    Attributes:
        file: made by pysr train; for a DAN a DML, since others have no kernels to draw.
        scale, kernel_size: what is expected of it, and what its kernels are brought to.
        noise: standard deviation of Gaussian noise, in [0, 1] units.
    """

    file: str
    scale: int
    kernel_size: int = 21
    noise: float = PAIR_NOISE

    def kernels(self, n: int, generator: blur.Seed) -> Tensor:
        """The blurs, before bicubic downsampling, of n random mixtures of the bases, evenly spread
        over all that sum to 1: (n, k, k).

        Raises ValueError for a network without bases, or of another scale.
        """
        bases = self._bases()
        generator = blur.as_generator(generator)
        device = generator.device if generator else "cpu"
        # Exponential variables over their sum are evenly spread (Dirichlet, all parameters 1).
        shares = -torch.rand(n, len(bases), generator=generator, device=device).clamp(1e-9).log()
        shares = shares / shares.sum(1, keepdim=True)
        kernels = torch.einsum("nm,mkl->nkl", shares, bases.to(device))
        return blur.resized(before_bicubic(kernels, self.scale), self.kernel_size)

    def __call__(self, hr: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """LR pictures for HR (N, 3, H, W) on the generator's device, and their mean kernels, or
        None where the network has none."""
        lr, kernels = self._degradation(str(hr.device)).with_noise(self.noise)(hr, generator)
        return lr, None if kernels is None else blur.resized(kernels, self.kernel_size)

    def _bases(self) -> Tensor:
        network = self._degradation("cpu").network
        if not hasattr(network, "bases"):
            raise ValueError(f"degradation.file: {self.file}: expected a DML, which has kernels")
        return network.bases.detach()

    def _degradation(self, device: str) -> LearnedDegradation:
        degradation = _opened(self.file, _changed(self.file), device)
        if degradation.scale != self.scale:
            raise ValueError(
                f"degradation.file: {self.file}: expected the model's scale {self.scale}, got "
                f"{degradation.scale}"
            )
        return degradation


def _changed(path: str) -> tuple[int, int] | None:
    """What tells a file from another under its name."""
    with contextlib.suppress(OSError):
        found = os.stat(path)
        return found.st_ino, found.st_mtime_ns
    return None


@lru_cache(maxsize=4)
def _opened(path: str, changed: tuple[int, int] | None, device: str) -> LearnedDegradation:
    return load(path).to(device)
