"""DAN with the Restorer's blocks, where nearly all of its time goes, on pysr's own kernels.

Its head and tail, the Estimator (whose condition is a whole picture, not a constant), and the
channel attention of tiled pictures run as in the torch engine.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pysr import _ext
from pysr.engines.torch_engine import TorchEngine
from pysr.ops import conditional_residual_block


class NativeEngine(TorchEngine):
    """See `pysr.engines`."""

    @staticmethod
    def obstacle(device: torch.device, precision: str = "float32") -> str:
        if device.type not in _ext.DEVICES:
            return f"no compiled kernels for {device.type}"
        return "" if precision == "float32" else f"computes in float32, not in {precision}"

    def _run(self, lr: Tensor, code: Tensor, gates: Sequence[Tensor] | None = None) -> Tensor:
        restorer, n = self.model.Restorer, len(lr)
        code = code.expand(n, -1)
        f = restorer.head(lr)
        for i, block in enumerate(restorer.body):
            gate = None if gates is None else gates[i].flatten(1).expand(n, -1)
            f = conditional_residual_block(f, code, *block.parameters(), gate)
        return restorer.tail(lr, f)

    def describe(self) -> str:
        return f"native kernels in torch {torch.__version__}, float32, {self.device}"
