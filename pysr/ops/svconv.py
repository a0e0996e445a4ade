"""Filter every pixel with a kernel of its own (dml.txt, equation 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from pysr import _ext
from pysr.ops._autocast import in_widest_type
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
from pysr.ops._windows import check_padding, outputs, padded

MAX_SIZE, MAX_STRIDE = 31, 4


@in_widest_type
def svconv(x: Tensor, kernels: Tensor, stride: int = 1, padding: str = "reflect") -> Tensor:
    """Filter every stride-th pixel with a kernel of its own, which all channels share.

    With K = kernels and r = k // 2, out[n, c, i, j] is the sum over u, v of
    ``K[n, u, v, i, j] * x[n, c, stride * i + u - r, stride * j + v - r]``: an inner product (the
    kernels are not flipped) with tap r over the pixel, for odd and even k alike. This is dml.txt,
    equation 2, without its noise.

    Kernels for CPU and CUDA give the same bits on every run and for every number of threads; half
    types are summed in float32. Other devices, and installations without the compiled extension,
    run `svconv_reference`. Differentiable by x and kernels, any number of times.
    Under autocast all are taken in the widest of their types.

    Args:
        x: (N, C, H, W), no size empty; float32, float64, bfloat16 or float16; any strides.
        kernels: (N, k, k, Ho, Wo) with k from 1 to 31, of x's dtype and on its device; copied where
            their columns are not adjacent in memory.
        stride: 1 to 4.
        padding: what x shows beyond its borders: "reflect" mirrors it without repeating the edge
            pixel, over and over where it is smaller than the kernels' reach, and repeats a single
            row or column; "replicate" repeats the edge pixel; "zeros". With "none", outputs exist
            only where the whole kernel lies inside the picture, and r is 0.
    Returns:
        (N, C, Ho, Wo), contiguous, of x's dtype; Ho is ceil(H / stride), or with padding "none"
        (H - k) // stride + 1, and Wo likewise.
    Raises:
        ValueError: for other shapes, sizes, strides or paddings, or tensors on different devices.
        TypeError: for arguments of other types or dtypes.
    """
    check_arguments(x, kernels, stride, padding)
    if _ext.serves(x.device):
        return torch.ops.pysr.svconv(x, kernels, stride, padding)
    return svconv_reference(x, kernels, stride, padding)


def svconv_reference(
    x: Tensor, kernels: Tensor, stride: int = 1, padding: str = "reflect"
) -> Tensor:
    """`svconv` in plain torch: the definition, and what runs where no kernel does."""
    if x.dtype in HALVES:
        return svconv_reference(x.float(), kernels.float(), stride, padding).to(x.dtype)
    k, ho, wo = kernels.shape[2:]
    x = padded(x, k, padding)
    out = x.new_zeros(*x.shape[:2], ho, wo)
    # unbind, because the gradient of every plain index would fill a tensor as large as the kernels.
    for u, tap_row in enumerate(kernels.unbind(1)):
        rows = x[:, :, u : u + stride * (ho - 1) + 1 : stride]
        for v, taps in enumerate(tap_row.unbind(1)):
            out = out + taps[:, None] * rows[..., v : v + stride * (wo - 1) + 1 : stride]
    return out


def check_arguments(x: Tensor, kernels: Tensor, stride: int, padding: str) -> None:
    check_picture("x", x)
    check_tensor("kernels", kernels)
    check_integer("stride", stride, 1, MAX_STRIDE)
    n, _, h, w = x.shape
    if kernels.ndim != 5 or kernels.shape[0] != n or kernels.shape[1] != kernels.shape[2]:
        raise ValueError(
            f"kernels: expected (N, k, k, Ho, Wo) with N = {n}, got {tuple(kernels.shape)}"
        )
    k = kernels.shape[1]
    if not 1 <= k <= MAX_SIZE:
        raise ValueError(f"kernels: expected k from 1 to {MAX_SIZE}, got {tuple(kernels.shape)}")
    check_padding(padding, k, h, w)
    check_shape("kernels", kernels, (n, k, k, *_size(h, w, k, stride, padding)))
    check_like("kernels", kernels, "x", x)


def _size(h: int, w: int, k: int, stride: int, padding: str) -> tuple[int, int]:
    return outputs(h, k, stride, padding), outputs(w, k, stride, padding)


def _check_slope(
    grad: Tensor, x: Tensor, k: int, stride: int, padding: str, name: str, other: Tensor
) -> None:
    n, c, h, w = x.shape
    check_shape("grad", grad, (n, c, *_size(h, w, k, stride, padding)))
    check_like("grad", grad, name, other)


# The three operators. Each writes one of x, kernels and out = svconv(x, kernels) from the other
# two; a gradient stands in the place of the tensor that it belongs to.

torch.library.define(
    "pysr::svconv", "(Tensor x, Tensor kernels, int stride, str padding) -> Tensor"
)
torch.library.define(
    "pysr::svconv_grad_x",
    "(Tensor grad, Tensor kernels, SymInt height, SymInt width, int stride, str padding) -> Tensor",
)
torch.library.define(
    "pysr::svconv_grad_kernels",
    "(Tensor grad, Tensor x, SymInt k, int stride, str padding) -> Tensor",
)


@torch.library.register_fake("pysr::svconv")
def _fake(x, kernels, stride, padding):
    check_arguments(x, kernels, stride, padding)
    return x.new_empty(*x.shape[:2], *kernels.shape[3:])


@torch.library.register_fake("pysr::svconv_grad_x")
def _fake_grad_x(grad, kernels, height, width, stride, padding):
    return grad.new_empty(*grad.shape[:2], height, width)


@torch.library.register_fake("pysr::svconv_grad_kernels")
def _fake_grad_kernels(grad, x, k, stride, padding):
    return x.new_empty(x.shape[0], k, k, *grad.shape[2:])


def _run(name: str, x: Tensor, kernels: Tensor, out: Tensor, stride: int, padding: str) -> None:
    n, c, h, w = x.shape
    launch(
        name,
        x.device,
        **{"x": x, "kernels": kernels, "out": out, "n": n, "c": c, "h": h, "w": w},
        **{"k": kernels.shape[1], "stride": stride, "padding": _ext.PADDINGS[padding]},
        **{"x_stride": x.stride(), "kernels_stride": kernels.stride()[:4]},
        **{"out_stride": out.stride(), "dtype": _ext.DTYPES[x.dtype]},
    )


def _with_adjacent_columns(kernels: Tensor) -> Tensor:
    return kernels if kernels.stride(4) == 1 else kernels.contiguous()


@torch.library.register_kernel("pysr::svconv", DEVICES)
def _forward(x, kernels, stride, padding):
    check_arguments(x, kernels, stride, padding)
    kernels = _with_adjacent_columns(kernels)
    out = x.new_empty((*x.shape[:2], *kernels.shape[3:]))
    _run("svconv", x, kernels, out, stride, padding)
    return out


@torch.library.register_kernel("pysr::svconv_grad_x", DEVICES)
def _grad_x(grad, kernels, height, width, stride, padding):
    kernels = _with_adjacent_columns(kernels)
    x = grad.new_empty((*grad.shape[:2], height, width))
    check_arguments(x, kernels, stride, padding)
    _check_slope(grad, x, kernels.shape[1], stride, padding, "kernels", kernels)
    _run("svconv_grad_x", x, kernels, grad, stride, padding)
    return x


@torch.library.register_kernel("pysr::svconv_grad_kernels", DEVICES)
def _grad_kernels(grad, x, k, stride, padding):
    _check_slope(grad, x, k, stride, padding, "x", x)
    kernels = x.new_empty((x.shape[0], k, k, *grad.shape[2:]))
    check_arguments(x, kernels, stride, padding)
    _run("svconv_grad_kernels", x, kernels, grad, stride, padding)
    return kernels


register_gradients("svconv")
