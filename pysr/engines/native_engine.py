"""DAN on pysr's own kernels: all that takes time of the Restorer and of the Estimator.

What remains in torch is a pass or two over a picture: the skip connection, whitening, averages; and
the channel attention of tiled pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pysr import _ext
from pysr.engines.native_layers import Block, ConvShuffle, LinearUpscaling, StridedHead
from pysr.engines.torch_engine import TorchEngine
from pysr.nets import DAN


class NativeEngine(TorchEngine):
    """See `pysr.engines`. The weights are those that the model has when the engine is made."""

    @staticmethod
    def obstacle(device: torch.device) -> str:
        return "" if device.type in _ext.DEVICES else f"no compiled kernels for {device.type}"

    @torch.inference_mode()
    def __init__(self, model: DAN, device: torch.device):
        super().__init__(model, device)
        restorer, estimator = self.model.Restorer, self.model.Estimator
        self._head = ConvShuffle(restorer.head.weight, restorer.head.bias)
        self._body = [Block(block, constant=True) for block in restorer.body]
        self._fusion = ConvShuffle(restorer.fusion.weight, restorer.fusion.bias)
        last = restorer.upscale[0]
        if model.config.compact_tail:
            self._upscale = ConvShuffle(last.weight, last.bias, model.config.scale)
        else:
            self._upscale = LinearUpscaling(restorer.upscale)
        self._estimator_head = StridedHead(estimator.head_HR)
        self._estimator_body = [Block(block, constant=False) for block in estimator.body]
        self._estimator_out = ConvShuffle(estimator.out.weight, estimator.out.bias)

    @torch.inference_mode()
    def restore(self, lr: Tensor, code: Tensor, gates: Sequence[Tensor] | None = None) -> Tensor:
        n = len(lr)
        lr, code = self._placed(lr), code.expand(n, -1)
        f = self._head(lr)
        for i, block in enumerate(self._body):
            gate = None if gates is None else gates[i].flatten(1).expand(n, -1)
            f = block(f, code, gate)
        sr = self._upscale(self._fusion(f))
        skip = self.model.Restorer.skip
        return sr if skip is None else sr.add_(skip(lr))

    @torch.inference_mode()
    def estimate(self, lr: Tensor, sr: Tensor) -> Tensor:
        estimator = self.model.Estimator
        lr, sr = self._placed(lr), self._placed(sr)
        if estimator.whitened:
            lr, sr = estimator.whiten(lr, sr)
        f = estimator.head_LR(lr)
        cond = self._estimator_head(self._placed(F.pixel_unshuffle(sr, estimator.scale)))
        for block in self._estimator_body:
            f = block(f, cond)
        return self._estimator_out(f).mean((2, 3))

    def describe(self) -> str:
        return f"native kernels in torch {torch.__version__}, float32, {self.device}"
