"""Restorer and Estimator in the form that an exporter traces.

They compute what `pysr.nets.dan` computes, from a copy of its weights. What differs serves graphs:
the border cases (see `pysr.nets.dan`) of all blocks are one convolution, and each block picks its
own by two indices that all share. Types come from the graph, as strongly typed networks need it:
convolutions in `dtype`; float32 at the interface and where it costs next to nothing: border cases,
means and channel attention, the skip connection, the Estimator's average.

`onnx_trace` relies on `blocks`: blocks that are alike, each one's output the next one's input.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pysr.nets import DAN
from pysr.nets.dan import ChannelAttention, ConditionalResidualBlock, whiten


class RestorerGraph(nn.Module):
    """forward(lr, code) -> sr, see `pysr.nets.dan.Restorer`; H and W from 3 on."""

    inputs = ("lr", "code")
    output = "sr"

    def __init__(self, model: DAN, dtype: torch.dtype):
        super().__init__()
        restorer = copy.deepcopy(model.Restorer).eval().cpu()
        firsts = [block.body[0] for block in restorer.body]
        features = model.config.features
        self.border_weight = _fixed(torch.cat([conv.weight[:, features:] for conv in firsts]))
        self.border_bias = _fixed(torch.cat([conv.bias for conv in firsts]))
        self.head = restorer.head.to(dtype)
        self.blocks = nn.ModuleList(_Block(block, dtype) for block in restorer.body)
        self.fusion, self.upscale = restorer.fusion.to(dtype), restorer.upscale.to(dtype)
        self.skip = restorer.skip
        self.dtype = dtype

    def forward(self, lr: Tensor, code: Tensor) -> Tensor:
        return self._restored(lr, code, [None] * len(self.blocks))

    def _restored(self, lr: Tensor, code: Tensor, gates) -> Tensor:
        constant = code[:, :, None, None].expand(-1, -1, 3, 3)
        cases = F.conv2d(constant, self.border_weight, self.border_bias, padding=1).to(self.dtype)
        rows, columns = (_case_index(n) for n in lr.shape[-2:])
        f = self.head(lr.to(self.dtype))
        for block, nine, gate in zip(self.blocks, cases.chunk(len(gates), 1), gates, strict=True):
            f = block(f, nine, rows, columns, gate)
        sr = self.upscale(self.fusion(f)).float()
        return sr if self.skip is None else sr + self.skip(lr)


class GatedRestorerGraph(RestorerGraph):
    """The same with gates (blocks, features), which replace the blocks' own channel attention."""

    inputs = ("lr", "code", "gates")

    def forward(self, lr: Tensor, code: Tensor, gates: Tensor) -> Tensor:
        return self._restored(lr, code, gates.to(self.dtype).chunk(len(self.blocks)))


class EstimatorGraph(nn.Module):
    """forward(lr, sr) -> code, see `pysr.nets.dan.Estimator`; H and W from 3 on."""

    inputs = ("lr", "sr")
    output = "code"

    def __init__(self, model: DAN, dtype: torch.dtype):
        super().__init__()
        estimator = copy.deepcopy(model.Estimator).eval().cpu()
        self.head_LR, self.head_HR = estimator.head_LR.to(dtype), estimator.head_HR.to(dtype)
        self.blocks = nn.ModuleList(_PictureBlock(block, dtype) for block in estimator.body)
        self.out = estimator.out.to(dtype)
        self.scale, self.whitened, self.dtype = estimator.scale, estimator.whitened, dtype

    def forward(self, lr: Tensor, sr: Tensor) -> Tensor:
        if self.whitened:
            lr, sr = whiten(lr, sr, self.scale)
        f, condition = self.head_LR(lr.to(self.dtype)), self.head_HR(sr.to(self.dtype))
        for block in self.blocks:
            f = block(f, condition)
        return self.out(f).float().mean((2, 3))


class _Block(nn.Module):
    """A conditional block whose constant condition comes as its nine border cases."""

    def __init__(self, block: ConditionalResidualBlock, dtype: torch.dtype):
        super().__init__()
        first, self.activation, second, self.attention = block.body
        self.weight = _fixed(first.weight[:, : block.channels].to(dtype))
        self.second = second.to(dtype)

    def forward(self, f, nine, rows, columns, gate: Tensor | None) -> Tensor:
        cases = nine.index_select(2, rows).index_select(3, columns)
        r = self.second(self.activation(F.conv2d(f, self.weight, padding=1) + cases))
        return _attended(f, r, self.attention) if gate is None else f + r * gate[..., None, None]


class _PictureBlock(nn.Module):
    """A conditional block whose condition is a picture of features."""

    def __init__(self, block: ConditionalResidualBlock, dtype: torch.dtype):
        super().__init__()
        first, self.activation, second, self.attention = block.body
        self.first, self.second = first.to(dtype), second.to(dtype)

    def forward(self, f: Tensor, condition: Tensor) -> Tensor:
        r = self.second(self.activation(self.first(torch.cat((f, condition), 1))))
        return _attended(f, r, self.attention)


def _attended(f: Tensor, r: Tensor, attention: ChannelAttention) -> Tensor:
    gate = attention(r.float().mean((2, 3), keepdim=True))
    return f + r * gate.to(r.dtype)


def _case_index(length: int) -> Tensor:
    """(length,): 0 for the first row or column, 2 for the last, 1 for those between."""
    index = torch.arange(length)
    return (index > 0).long() + (index == length - 1).long()


def _fixed(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().clone(), requires_grad=False)


GRAPHS = {
    "restorer": RestorerGraph,
    "restorer_gated": GatedRestorerGraph,
    "estimator": EstimatorGraph,
}
