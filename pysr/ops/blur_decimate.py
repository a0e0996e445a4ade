"""Blur every sample with its own kernel and keep every stride-th pixel (dan.txt, equation 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pysr import _ext
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
from pysr.ops._windows import padded

MAX_SIZE, MAX_STRIDE = 64, 8


def blur_decimate(x: Tensor, kernels: Tensor, stride: int = 1) -> Tensor:
    """Blur every sample with its own kernel, then keep every stride-th row and column.

    With K = kernels, out[n, c, i, j] is the sum over u, v of
    ``K[n, u, v] * x[n, c, reflect(stride * i + u - k // 2), reflect(stride * j + v - k // 2)]``: an
    inner product (the kernel is not flipped) with tap ``k // 2`` over the output pixel, for odd and
    even k alike. Borders are mirrored without repeating the edge pixel, over and over where the
    picture is smaller than the kernel's reach; a single row or column is repeated. This is the blur
    and the decimation of dan.txt, equation 1.

    Kernels for CPU and CUDA give the same bits on every run and for every number of threads; half
    types are summed in float32. Other devices, and installations without the compiled extension,
    run `blur_decimate_reference`. Differentiable by x and kernels, any number of times.

    Args:
        x: (N, C, H, W), no size empty; float32, float64, bfloat16 or float16; any strides.
        kernels: (N, k, k) with k from 1 to 64, of x's dtype and on its device.
        stride: 1 to 8.
    Returns:
        (N, C, ceil(H / stride), ceil(W / stride)), contiguous, of x's dtype.
    Raises:
        ValueError: for other shapes, sizes, strides, or tensors on different devices.
        TypeError: for arguments of other types or dtypes.
    """
    check_arguments(x, kernels, stride)
    if x.device.type in _ext.DEVICES:
        return torch.ops.pysr.blur_decimate(x, kernels, stride)
    return blur_decimate_reference(x, kernels, stride)


def blur_decimate_reference(x: Tensor, kernels: Tensor, stride: int = 1) -> Tensor:
    """`blur_decimate` in plain torch: the definition, and what runs where no kernel does."""
    if x.dtype in HALVES:
        return blur_decimate_reference(x.float(), kernels.float(), stride).to(x.dtype)
    (n, c), k = x.shape[:2], kernels.shape[-1]
    x = padded(x, k, "reflect")
    weight = kernels[:, None, None].expand(n, c, 1, k, k).reshape(n * c, 1, k, k)
    out = F.conv2d(x.reshape(1, n * c, *x.shape[-2:]), weight, stride=stride, groups=n * c)
    return out.view(n, c, *out.shape[-2:])


def check_arguments(x: Tensor, kernels: Tensor, stride: int) -> None:
    check_picture("x", x)
    check_tensor("kernels", kernels)
    if kernels.ndim != 3 or kernels.shape[0] != x.shape[0] or kernels.shape[1] != kernels.shape[2]:
        raise ValueError(
            f"kernels: expected (N, k, k) with N = {x.shape[0]}, got {tuple(kernels.shape)}"
        )
    if not 1 <= kernels.shape[2] <= MAX_SIZE:
        raise ValueError(f"kernels: expected k from 1 to {MAX_SIZE}, got {tuple(kernels.shape)}")
    check_like("kernels", kernels, "x", x)
    check_integer("stride", stride, 1, MAX_STRIDE)


def _check_slope(grad: Tensor, x: Tensor, stride: int, name: str, other: Tensor) -> None:
    n, c, h, w = x.shape
    check_shape("grad", grad, (n, c, -(-h // stride), -(-w // stride)))
    check_like("grad", grad, name, other)


# The three operators. Each writes one of x, kernels and out = blur_decimate(x, kernels) from the
# other two; a gradient stands in the place of the tensor that it belongs to.

torch.library.define("pysr::blur_decimate", "(Tensor x, Tensor kernels, int stride) -> Tensor")
torch.library.define(
    "pysr::blur_decimate_grad_x",
    "(Tensor grad, Tensor kernels, SymInt height, SymInt width, int stride) -> Tensor",
)
torch.library.define(
    "pysr::blur_decimate_grad_kernels", "(Tensor grad, Tensor x, SymInt k, int stride) -> Tensor"
)


@torch.library.register_fake("pysr::blur_decimate")
def _fake(x, kernels, stride):
    check_arguments(x, kernels, stride)
    n, c, h, w = x.shape
    return x.new_empty(n, c, -(-h // stride), -(-w // stride))


@torch.library.register_fake("pysr::blur_decimate_grad_x")
def _fake_grad_x(grad, kernels, height, width, stride):
    return grad.new_empty(grad.shape[0], grad.shape[1], height, width)


@torch.library.register_fake("pysr::blur_decimate_grad_kernels")
def _fake_grad_kernels(grad, x, k, stride):
    return x.new_empty(x.shape[0], k, k)


def _run(name: str, x: Tensor, kernels: Tensor, out: Tensor, stride: int) -> None:
    n, c, h, w = x.shape
    launch(
        name,
        x.device,
        **{"x": x, "kernels": kernels, "out": out, "n": n, "c": c, "h": h, "w": w},
        **{"k": kernels.shape[2], "stride": stride, "padding": _ext.PADDINGS["reflect"]},
        **{"x_stride": x.stride(), "out_stride": out.stride(), "dtype": _ext.DTYPES[x.dtype]},
    )


@torch.library.register_kernel("pysr::blur_decimate", DEVICES)
def _forward(x, kernels, stride):
    check_arguments(x, kernels, stride)
    kernels = kernels.contiguous()
    n, c, h, w = x.shape
    out = x.new_empty((n, c, -(-h // stride), -(-w // stride)))
    _run("blur_decimate", x, kernels, out, stride)
    return out


@torch.library.register_kernel("pysr::blur_decimate_grad_x", DEVICES)
def _grad_x(grad, kernels, height, width, stride):
    kernels = kernels.contiguous()
    x = grad.new_empty((grad.shape[0], grad.shape[1], height, width))
    check_arguments(x, kernels, stride)
    _check_slope(grad, x, stride, "kernels", kernels)
    _run("blur_decimate_grad_x", x, kernels, grad, stride)
    return x


@torch.library.register_kernel("pysr::blur_decimate_grad_kernels", DEVICES)
def _grad_kernels(grad, x, k, stride):
    kernels = x.new_empty((x.shape[0], k, k))
    check_arguments(x, kernels, stride)
    _check_slope(grad, x, stride, "x", x)
    _run("blur_decimate_grad_kernels", x, kernels, grad, stride)
    return kernels


register_gradients("blur_decimate")
