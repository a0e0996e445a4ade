"""DAN through eager torch, channels last: works everywhere, and is the reference for the rest.

In half precision the Restorer's weights and features are cast; autocast, which would keep them in
float32 and cast for every convolution, is neither faster nor more exact. The picture that the
network adds to stays in float32, and so does the Estimator, which runs on crops and costs little.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from pysr.engines.cuda_graphs import CudaGraphs
from pysr.nets import DAN

PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class TorchEngine:
    """See `pysr.engines`. The model is moved to the device and must not be trained meanwhile."""

    @staticmethod
    def obstacle(device: torch.device, precision: str = "float32") -> str:
        return ""

    def __init__(self, model: DAN, device: torch.device, precision: str = "float32"):
        self.device = device
        self.precision = precision
        self._dtype = PRECISIONS[precision]
        self.model = model.eval().to(device, memory_format=torch.channels_last)
        self._restorer = self.model.Restorer
        # A graph has the addresses of its weights: they are its own, wherever the model goes.
        if precision != "float32" or device.type == "cuda":
            self._restorer = copy.deepcopy(self._restorer).to(self._dtype)
        self._graphs = CudaGraphs(self._run) if device.type == "cuda" else None

    @torch.inference_mode()
    def restore(self, lr: Tensor, code: Tensor, gates: Sequence[Tensor] | None = None) -> Tensor:
        lr = self._placed(lr)
        if gates is None and self._graphs is not None:
            return self._graphs(lr, code)
        return self._run(lr, code, gates)

    @torch.inference_mode()
    def estimate(self, lr: Tensor, sr: Tensor) -> Tensor:
        return self.model.Estimator(self._placed(sr), self._placed(lr))

    @torch.inference_mode()
    def gates(self, crops: Tensor, code: Tensor, margin: tuple[int, int]) -> list[Tensor]:
        return self._restorer.gates(self._placed(crops), self._cast(code), margin)

    @torch.inference_mode()
    def warm_up(self, n: int, h: int, w: int) -> None:
        lr = self._placed(torch.zeros(n, 3, h, w))
        code = self.model.init_ker_map.expand(n, -1)
        if self._graphs is not None:
            self._graphs.capture(lr, code)
        self.restore(lr, code)

    def describe(self) -> str:
        return f"torch {torch.__version__}, {self.precision}, channels last, {self.device}"

    def close(self) -> None:
        self.model = self._restorer = self._graphs = None

    def _run(self, lr: Tensor, code: Tensor, gates: Sequence[Tensor] | None = None) -> Tensor:
        return self._restorer(lr, self._cast(code), gates).float()

    def _placed(self, x: Tensor) -> Tensor:
        return x.to(self.device, memory_format=torch.channels_last)

    def _cast(self, x: Tensor) -> Tensor:
        return x.to(self._dtype)
