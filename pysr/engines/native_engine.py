"""DAN on pysr's own kernels: all that takes time of the Restorer and of the Estimator.

In bfloat16 on a CPU, which takes matrix tiles (AMX), the blocks of both multiply in it; what they
add to, and all else, stays in float32.

What remains in torch is a pass or two over a picture (the skip connection, whitening, averages)
and the border of the published upscaling. On GPUs the Estimator does as well: it stays in float32,
for which cuDNN has tensor cores (TF32) and we do not.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pysr import _ext
from pysr.engines.linear_upscaling import LinearUpscaling
from pysr.engines.native_layers import Block, ConvShuffle, StridedHead
from pysr.engines.torch_engine import PRECISIONS, TorchEngine
from pysr.nets import DAN
from pysr.nets.dan import whitened
from pysr.ops.mixed_residual_block import on_matrix_tiles


class NativeEngine(TorchEngine):
    """See `pysr.engines`. The weights are those that the model has when the engine is made.

    On the CPU the calling thread keeps the memory of the largest picture or tile it restored, up to
    256 MiB, until `close`.
    """

    @staticmethod
    def obstacle(device: torch.device, precision: str = "float32") -> str:
        if device.type not in _ext.DEVICES:
            return f"no compiled kernels for {device.type}"
        if not _ext.serves(device):
            return f"the kernels do not run on {device}: {_ext.cuda_obstacle(device.index)}"
        if device.type != "cpu" or precision == "float32":
            return ""
        if precision == "bfloat16":
            return "" if on_matrix_tiles(device) else "has no matrix tiles (AMX) here for bfloat16"
        return f"computes in float32 or bfloat16 on the CPU, not in {precision}"

    def __init__(self, model: DAN, device: torch.device, precision: str = "float32"):
        # What bfloat16 does on a CPU, the blocks do by themselves.
        of_tensors = "float32" if device.type == "cpu" else precision
        # Its own weights: the model's may change, and what is packed does not.
        super().__init__(copy.deepcopy(model.to(device)), device, of_tensors)
        self.precision = precision
        self._pack(of_tensors, precision)

    @torch.inference_mode()
    def _pack(self, of_tensors: str, precision: str) -> None:
        """Layers of our kernels, with copies of the weights, computing in a precision."""
        model = self.model
        restorer, estimator = model.Restorer, model.Estimator
        dtype = PRECISIONS[of_tensors]
        self._head = ConvShuffle.of(restorer.head, dtype)
        self._body = [
            Block(block, dtype, constant=True, bfloat16=precision == "bfloat16")
            for block in restorer.body
        ]
        self._fusion = ConvShuffle.of(restorer.fusion, dtype)
        if model.config.compact_tail:
            self._upscale = ConvShuffle.of(restorer.upscale[0], dtype, model.config.scale)
        else:
            self._upscale = LinearUpscaling(restorer.upscale, dtype)
        # As in the torch engine, the Estimator's tensors stay in float32.
        self._estimator_head = StridedHead(estimator.head_HR)
        self._estimator_body = [
            Block(block, torch.float32, constant=False, bfloat16=precision == "bfloat16")
            for block in estimator.body
        ]
        self._estimator_out = ConvShuffle.of(estimator.out, torch.float32)

    @torch.inference_mode()
    def estimate(self, lr: Tensor, sr: Tensor) -> Tensor:
        if self.device.type != "cpu":
            return super().estimate(lr, sr)
        estimator = self.model.Estimator
        lr, sr = self._placed(lr), self._placed(sr)
        sr = self._placed(F.pixel_unshuffle(sr, estimator.scale))
        if estimator.whitened:
            lr, sr = whitened(lr, lr), _whitened_unshuffled(sr, estimator.scale)
        f, cond = estimator.head_LR(lr), self._estimator_head(sr)
        for block in self._estimator_body:
            f = block(f, cond)
        return self._estimator_out(f).mean((2, 3))

    @torch.inference_mode()
    def gates(self, crops: Tensor, code: Tensor, margin: tuple[int, int]) -> list[Tensor]:
        rows, columns = (slice(m, -m or None) for m in margin)
        code, gates = self._cast(code), []
        f = self._head(self._cast(self._placed(crops)))
        open_gate = code.new_ones(1, f.shape[1])
        for block, module in zip(self._body, self._restorer.body, strict=True):
            r = f.clone()
            for crop in r.split(1):  # one at a time stays in the cache
                block(crop, code, open_gate)
            r -= f
            means = r[..., rows, columns].mean((0, 2, 3), keepdim=True)
            gates.append(module.body[3](means))
            f.addcmul_(r, gates[-1])
        return gates

    def describe(self) -> str:
        return f"native kernels in torch {torch.__version__}, {self.precision}, {self.device}"

    def close(self) -> None:
        super().close()
        self._body = self._upscale = self._estimator_body = None
        _ext.release_memory()

    def _run(self, lr: Tensor, code: Tensor, gates: Sequence[Tensor] | None = None) -> Tensor:
        n = len(lr)
        code = self._cast(code).expand(n, -1)
        f = self._head(self._cast(lr))
        for i, block in enumerate(self._body):
            gate = None if gates is None else gates[i].flatten(1).expand(n, -1)
            f = block(f, code, gate)
        sr = self._upscale(self._fusion(f)).float()
        skip = self.model.Restorer.skip
        return sr if skip is None else sr.add_(skip(lr))


def _whitened_unshuffled(x: Tensor, scale: int) -> Tensor:
    """`whitened(sr, sr averaged over s x s)` of x = pixel_unshuffle(sr, s), in place."""
    phases = x.unflatten(1, (-1, scale**2))
    coarse = phases.mean(2)
    low = F.avg_pool2d(F.pad(coarse, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    phases -= low[:, :, None]
    size = torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True) / x[0].numel() ** 0.5
    return x.div_(size + 0.005)
