"""A plain network through eager torch, channels last: the one engine that it has.

There is nothing to estimate and no code. As in `pysr.engines.torch_engine`, half precision casts
the weights, and the picture arrives in float32: the networks of `pysr.nets` cast it themselves, and
add to it in float32 where they add to it at all. CUDA graphs, which save launches, are left to DAN:
they are for the small pictures of its estimates.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from pysr.engines.torch_engine import PRECISIONS
from pysr.nets.parts import scale_of


class PlainEngine:
    """See `pysr.engines`; codes and gates are None. The model is moved to the device and must not
    be trained meanwhile."""

    def __init__(self, model: nn.Module, device: torch.device, precision: str = "float32"):
        self.device = device
        self.precision = precision
        self._scale = scale_of(model)
        self.model = model.eval().to(device, memory_format=torch.channels_last)
        self._network = self.model
        if precision != "float32":
            self._network = copy.deepcopy(self.model).to(PRECISIONS[precision])

    @torch.inference_mode()
    def restore(self, lr: Tensor, code: None = None, gates: None = None) -> Tensor:
        lr = lr.to(self.device, memory_format=torch.channels_last)
        sr = self._network(lr)
        n, _, h, w = lr.shape
        expected = (n, 3, self._scale * h, self._scale * w)
        if tuple(sr.shape) != expected:
            raise ValueError(f"model: expected {expected} of it, got {tuple(sr.shape)}")
        return sr.float()

    def warm_up(self, n: int, h: int, w: int) -> None:
        self.restore(torch.zeros(n, 3, h, w))

    def describe(self) -> str:
        name = type(self.model).__name__
        return f"torch {torch.__version__}, {name}, {self.precision}, {self.device}"

    def close(self) -> None:
        self.model = self._network = None
