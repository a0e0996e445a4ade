"""Runs a launcher of csrc/ops on the device of its tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from pysr import _ext

DEVICES = ("cpu", "cuda")


def launch(name: str, device: torch.device, **fields) -> None:
    """Call launcher `name` with the fields of its params struct, tensors as their addresses.

    On CUDA the launch goes to the current stream of `device`, under a device guard. The caller
    keeps the tensors alive until this returns; what is freed later is only reused by later work of
    the same stream.

    Raises:
        RuntimeError: where the kernels are missing, or the launch fails; names the operator.
    """
    native = _ext.require(device.type)
    given = {
        field: value.data_ptr() if isinstance(value, Tensor) else value
        for field, value in fields.items()
    }
    if device.type == "cpu":
        getattr(native, f"{name}_cpu")(threads=torch.get_num_threads(), **given)
        return
    with torch.cuda.device(device):
        size = getattr(native, f"{name}_workspace")(**given)
        workspace = torch.empty(size, dtype=torch.uint8, device=device)
        stream = torch.cuda.current_stream(device).cuda_stream
        getattr(native, f"{name}_cuda")(workspace=workspace.data_ptr(), stream=stream, **given)
