"""Checks that operators share: one line naming the argument, what was expected, and what came."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
HALVES = (torch.bfloat16, torch.float16)


def check_tensor(name: str, value: object, dtypes: Sequence[torch.dtype] = FLOATS) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
    if value.dtype not in dtypes:
        *first, last = (str(dtype).removeprefix("torch.") for dtype in dtypes)
        expected = f"{', '.join(first)} or {last}" if first else last
        raise TypeError(f"{name}: expected {expected}, got {value.dtype}")


def check_like(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """That value has the dtype and the device of another argument."""
    if value.dtype != other.dtype:
        raise TypeError(
            f"{name}: expected {other.dtype}, the dtype of {other_name}, got {value.dtype}"
        )
    check_device(name, value, other_name, other)


def check_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.device != other.device:
        raise ValueError(
            f"{name}: expected device {other.device}, that of {other_name}, got {value.device}"
        )


def check_shape(name: str, value: Tensor, expected: Sequence[int]) -> None:
    if tuple(value.shape) != tuple(expected):
        raise ValueError(f"{name}: expected {tuple(expected)}, got {tuple(value.shape)}")


def check_picture(name: str, value: object) -> None:
    check_tensor(name, value)
    if value.ndim != 4 or 0 in value.shape:
        raise ValueError(
            f"{name}: expected (N, C, H, W) without empty sizes, got {tuple(value.shape)}"
        )


def check_integer(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, (int, torch.SymInt)) or isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name}: expected {low} to {high}, got {value}")
