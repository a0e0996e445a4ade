"""DAN through eager torch, channels last: works everywhere, and is the reference for the rest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pysr.nets import DAN


class TorchEngine:
    """See `pysr.engines`. The model is moved to the device and must not be trained meanwhile."""

    @staticmethod
    def obstacle(device: torch.device) -> str:
        return ""

    def __init__(self, model: DAN, device: torch.device):
        self.device = device
        self.model = model.eval().to(device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def restore(self, lr: Tensor, code: Tensor, gates: Sequence[Tensor] | None = None) -> Tensor:
        return self.model.Restorer(self._placed(lr), code, gates)

    @torch.inference_mode()
    def estimate(self, lr: Tensor, sr: Tensor) -> Tensor:
        return self.model.Estimator(self._placed(sr), self._placed(lr))

    @torch.inference_mode()
    def gates(self, crops: Tensor, code: Tensor, margin: tuple[int, int]) -> list[Tensor]:
        return self.model.Restorer.gates(self._placed(crops), code, margin)

    def describe(self) -> str:
        return f"torch {torch.__version__}, float32, channels last, {self.device}"

    def _placed(self, x: Tensor) -> Tensor:
        return x.to(self.device, memory_format=torch.channels_last)
