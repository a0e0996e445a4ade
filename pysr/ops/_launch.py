"""Runs a launcher of csrc/ops on the device of its tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from pysr import _ext

DEVICES = ("cpu", "cuda")
ALIGNMENT = 16  # bytes, of what kernels copy at once


def launch(name: str, device: torch.device, **fields) -> None:
    """Call launcher `name` with the fields of its params struct, tensors as their addresses.

    On CUDA the launch goes to the current stream of `device`, under a device guard. The caller
    keeps the tensors alive until this returns; what is freed later is only reused by later work of
    the same stream.

    Raises:
        RuntimeError: where the kernels are missing, or the launch fails; names the operator.
    """
    native = _ext.require(device.type)
    given = _addresses(fields)
    if device.type == "cpu":
        getattr(native, f"{name}_cpu")(threads=torch.get_num_threads(), **given)
        return
    with torch.cuda.device(device):
        size = getattr(native, f"{name}_workspace")(**given)
        workspace = torch.empty(size, dtype=torch.uint8, device=device)
        stream = torch.cuda.current_stream(device).cuda_stream
        getattr(native, f"{name}_cuda")(workspace=workspace.data_ptr(), stream=stream, **given)


def pack(name: str, device: torch.device, **fields) -> Tensor:
    """An operator's weights as its kernels use them: what `packed` of its params struct is for."""
    packed = torch.empty(_packed_bytes(name, device, fields), dtype=torch.uint8, device=device)
    launch(f"{name}_pack", device, **{**fields, "packed": packed})
    return packed


def check_packed(name: str, device: torch.device, packed: Tensor, fields: dict) -> None:
    """That `packed` can be what `pack` gives for these fields.

    Raises:
        ValueError: for one of another size, as weights of other shapes have, on another device, or
            a part of another tensor, whose address may not be one that kernels can read from.
    """
    expected = _packed_bytes(name, device, fields)
    whole = packed.is_contiguous() and packed.data_ptr() % ALIGNMENT == 0
    right = packed.dtype == torch.uint8 and packed.device == device and packed.numel() == expected
    if not (whole and right):
        raise ValueError(
            f"packed: expected {expected} bytes on {device} from pack_{name}, "
            f"got {packed.numel()} of {packed.dtype} on {packed.device}"
            f"{'' if whole else ', a part of another tensor'}"
        )


def _packed_bytes(name: str, device: torch.device, fields: dict) -> int:
    native = _ext.require(device.type)
    return getattr(native, f"{name}_packed_{device.type}")(**_addresses(fields))


def _addresses(fields: dict) -> dict:
    return {
        field: value.data_ptr() if isinstance(value, Tensor) else value
        for field, value in fields.items()
    }
