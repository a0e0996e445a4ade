"""What a model knows about a picture's blur; the part of `pysr.upscaler` that depends on the model.

A DAN estimates the kernel, restores with its code, and has gates that tiles of one picture share. A
plain network does none of that: to it a kernel is something to be measured against.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pysr import blur
from pysr.engines import Guard
from pysr.nets import DAN
from pysr.tiling import GATE_CROP, Crop, spread_crops


@dataclass(frozen=True)
class Estimate:
    """The blur of one picture: kernel (k, k), code (1, m), the rest as in `Upscaled`.

    A plain network has no code, and where nobody gave one no kernel either.
    """

    kernel: Tensor | None
    code: Tensor | None
    confidence: float
    recomputed: bool = False


def estimation_of(model: nn.Module, guard: Guard, device: torch.device) -> Estimation:
    """What serves a model."""
    return DANEstimation(model, guard, device) if isinstance(model, DAN) else Estimation(model)


def check_scout(model: nn.Module, scout: nn.Module) -> None:
    """Raises ValueError for a scout that a model cannot restore by the codes of."""
    for kind in (model, scout):
        if not isinstance(kind, DAN):
            raise ValueError(f"scout: expected a DAN for a DAN, got {type(kind).__name__}")
    wanted, got = model.encoder.dtype, scout.encoder.dtype
    if got != wanted:
        raise ValueError(f"scout: expected weights in {wanted}, as the model's, got {got}")
    wanted, got = model.config.scale, scout.config.scale
    if got != wanted:
        raise ValueError(f"scout: expected the model's scale, {wanted}, got {got}")
    if not torch.equal(scout.encoder.cpu(), model.encoder.cpu()):
        raise ValueError("scout: expected the model's kernel code, got another basis")


class Estimation:
    """Of a plain network.

    Attributes:
        unknown: what it restores with where no kernel is given, or None: it has to be estimated.
    """

    unknown: Estimate | None = Estimate(None, None, math.nan)

    def __init__(self, model: nn.Module):
        self._model = model

    def given(self, kernel) -> Estimate:
        """A known kernel (k, k), a tensor or an array. Raises as `Upscaler` does."""
        return Estimate(blur.check_kernel(kernel).cpu(), None, 1.0)

    def on(self, crops: list[Crop]) -> Estimate:
        """The blur of one picture, from crops of it."""
        kind = type(self._model).__name__
        raise ValueError(
            f"estimate: expected a DAN, which estimates blur; {kind} does not, so give the kernel"
        )

    def gates(self, engine, lr: Tensor, estimate: Estimate, halo: int) -> list[Tensor] | None:
        """What all tiles of lr (1, 3, H, W) share."""
        return None


class DANEstimation(Estimation):
    """Of a DAN, whose loop `guard` watches over."""

    unknown = None

    def __init__(self, model: DAN, guard: Guard, device: torch.device):
        super().__init__(model)
        self._guard, self._device = guard, device

    def given(self, kernel) -> Estimate:
        kernel = super().given(kernel).kernel
        code = self._model.encode(kernel[None].to(self._device))
        if not torch.isfinite(code).all():
            size = self._model.config.kernel_size
            raise ValueError(f"kernel: nothing of it lies in the middle {size}x{size} taps")
        return Estimate(kernel, code, 1.0)

    def on(self, crops: list[Crop]) -> Estimate:
        model = self._model
        # The loop's last picture is made with the kernel of the iteration before (Figure 1); a DAN
        # of one iteration, which would never use what it estimates, makes one more.
        iterations = max(model.config.iterations - 1, 1)
        lr = torch.cat([crop for _, _, crop in crops])

        def loop(engine) -> tuple[Tensor, Tensor]:
            codes = model.init_ker_map.expand(len(lr), -1)
            for _ in range(iterations):
                codes = engine.estimate(lr, engine.restore(lr, codes))
            return codes, codes.sum()

        codes, recomputed = self._guard.run("kernel", loop)
        code = codes.mean(0, keepdim=True)
        kernel = model.decode(code)[0].cpu()
        confidence = math.nan
        if len(codes) > 1:
            apart = (model.decode(codes).cpu() - kernel).abs().sum((1, 2)) / 2
            confidence = 1 - float(apart.mean())
        return Estimate(kernel, code, confidence, recomputed)

    def gates(self, engine, lr: Tensor, estimate: Estimate, halo: int) -> list[Tensor]:
        side = GATE_CROP + 2 * halo
        crops = torch.cat(list(spread_crops(lr, side)))
        # A crop as long as the picture ends where the picture does: nothing to leave out.
        margin = tuple(halo * (n > side) for n in lr.shape[-2:])
        return engine.gates(crops, estimate.code, margin)
