"""Planes blurred by kernels that they share: the Python side of csrc/ops/blur.h.

`blur_decimate` (a kernel for every sample) and `mixture_blur` (a kernel for every channel) are this
one native operator, registered under two names with what each of them leaves open.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pysr import _ext
from pysr._ext import MOST_TAPS
from pysr.ops._bilinear import register_gradients
from pysr.ops._check import (
    HALVES,
    check_integer,
    check_like,
    check_picture,
    check_shape,
    check_tensor,
)
from pysr.ops._launch import DEVICES, launch
from pysr.ops._windows import check_padding, outputs

MAX_STRIDE = 8


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The type that sums over tensors of `dtype` are taken in."""
    return torch.float32 if dtype in HALVES else dtype


def check_size(name: str, kernels: Tensor) -> None:
    """That kernels (..., k, k) are of a size that the native operator takes."""
    if not 1 <= kernels.shape[-1] <= MOST_TAPS:
        raise ValueError(f"{name}: expected k from 1 to {MOST_TAPS}, got {tuple(kernels.shape)}")


def check_blur(x: Tensor, kernels: Tensor, stride: int, padding: str, per_channel: bool) -> None:
    """All but the kernels' dtype."""
    check_picture("x", x)
    check_tensor("kernels", kernels)
    letter, count = ("C", x.shape[1]) if per_channel else ("N", x.shape[0])
    if kernels.ndim != 3 or kernels.shape[0] != count or kernels.shape[1] != kernels.shape[2]:
        raise ValueError(
            f"kernels: expected ({letter}, k, k) with {letter} = {count}, got "
            f"{tuple(kernels.shape)}"
        )
    check_size("kernels", kernels)
    check_integer("stride", stride, 1, MAX_STRIDE)
    check_padding(padding, kernels.shape[2], *x.shape[2:])


def register_blur(
    name: str, option: str, per_channel: bool, windows: Callable[..., tuple[int, str]]
) -> None:
    """Define pysr::name(x, kernels, option) and its gradients by x and by the kernels.

    The kernels are of the type that sums over x are taken in.

    Args:
        name: of the operator; its gradients are called name_grad_x and name_grad_kernels.
        option: schema of the operator's last argument.
        per_channel: whether kernels are (C, k, k), shared by the samples, or (N, k, k).
        windows: gives stride and padding from the last argument.
    """
    # Each of the three writes one of x, kernels and out = name(x, kernels) from the other two; a
    # gradient stands in the place of the tensor that it belongs to.
    schemas = {
        name: f"(Tensor x, Tensor kernels, {option}) -> Tensor",
        f"{name}_grad_x": (
            f"(Tensor grad, Tensor kernels, SymInt height, SymInt width, {option}) -> Tensor"
        ),
        f"{name}_grad_kernels": f"(Tensor grad, Tensor x, SymInt k, {option}) -> Tensor",
    }

    def output(x, k, option):
        n, c, h, w = x.shape
        stride, padding = windows(option)
        return n, c, outputs(h, k, stride, padding), outputs(w, k, stride, padding)

    def empty_kernels(x, k):
        return x.new_empty((x.shape[1 if per_channel else 0], k, k), dtype=accumulator(x.dtype))

    def check(x, kernels, option):
        check_blur(x, kernels, *windows(option), per_channel)
        if kernels.dtype != accumulator(x.dtype):
            raise TypeError(
                f"kernels: expected {accumulator(x.dtype)} beside x of {x.dtype}, got "
                f"{kernels.dtype}"
            )

    def check_slope(grad, x, k, option, other_name, other):
        check_shape("grad", grad, output(x, k, option))
        check_like("grad", grad, other_name, other)

    def run(launcher, x, kernels, out, option):
        n, c, h, w = x.shape
        stride, padding = windows(option)
        launch(
            launcher,
            x.device,
            **{"x": x, "kernels": kernels, "out": out, "n": n, "c": c, "h": h, "w": w},
            **{"k": kernels.shape[2], "stride": stride, "padding": _ext.PADDINGS[padding]},
            **{"per_channel": per_channel, "dtype": _ext.DTYPES[x.dtype]},
            **{"x_stride": x.stride(), "out_stride": out.stride()},
        )

    def forward_fake(x, kernels, option):
        check(x, kernels, option)
        return x.new_empty(output(x, kernels.shape[2], option))

    def grad_x_fake(grad, kernels, height, width, option):
        return grad.new_empty((*grad.shape[:2], height, width))

    def grad_kernels_fake(grad, x, k, option):
        return empty_kernels(x, k)

    def forward(x, kernels, option):
        out = forward_fake(x, kernels, option)
        kernels = kernels.contiguous()
        run("blur", x, kernels, out, option)
        return out

    def grad_x(grad, kernels, height, width, option):
        kernels = kernels.contiguous()
        x = grad_x_fake(grad, kernels, height, width, option)
        check(x, kernels, option)
        check_slope(grad, x, kernels.shape[2], option, "x", x)
        run("blur_grad_x", x, kernels, grad, option)
        return x

    def grad_kernels(grad, x, k, option):
        kernels = empty_kernels(x, k)
        check(x, kernels, option)
        check_slope(grad, x, k, option, "x", x)
        run("blur_grad_kernels", x, kernels, grad, option)
        return kernels

    implementations = (
        (forward_fake, forward),
        (grad_x_fake, grad_x),
        (grad_kernels_fake, grad_kernels),
    )
    for (operator, schema), (fake, kernel) in zip(schemas.items(), implementations, strict=True):
        torch.library.define(f"pysr::{operator}", schema)
        torch.library.register_fake(f"pysr::{operator}", fake)
        torch.library.register_kernel(f"pysr::{operator}", DEVICES, kernel)
    register_gradients(name)
