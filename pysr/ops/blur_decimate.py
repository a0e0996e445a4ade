"""Blur every sample with its own kernel and keep every stride-th pixel (dan.txt, equation 1).

The operator is bilinear, so its two gradients and it are closed under differentiation: each of the
three is the gradient of another, and gradients of any order run on the same kernels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pysr import _ext

MAX_SIZE, MAX_STRIDE = 64, 8
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_HALVES = (torch.bfloat16, torch.float16)


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
    if x.dtype in _HALVES:
        return blur_decimate_reference(x.float(), kernels.float(), stride).to(x.dtype)
    n, c, h, w = x.shape
    k = kernels.shape[-1]
    rows, columns = (_reflected(length, k, x.device) for length in (h, w))
    padded = x.index_select(2, rows).index_select(3, columns)
    weight = kernels[:, None, None].expand(n, c, 1, k, k).reshape(n * c, 1, k, k)
    out = F.conv2d(
        padded.reshape(1, n * c, *padded.shape[-2:]), weight, stride=stride, groups=n * c
    )
    return out.view(n, c, *out.shape[-2:])


def _reflected(length: int, k: int, device: torch.device) -> Tensor:
    """Index of the pixel that each padded position shows: k // 2 before, (k - 1) // 2 after."""
    period = max(2 * (length - 1), 1)
    index = torch.arange(-(k // 2), length + (k - 1) // 2, device=device).remainder(period)
    return torch.minimum(index, period - index) if length > 1 else index


def check_arguments(x: Tensor, kernels: Tensor, stride: int) -> None:
    for name, value in (("x", x), ("kernels", kernels)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
    if x.ndim != 4 or 0 in x.shape:
        raise ValueError(f"x: expected (N, C, H, W) without empty sizes, got {tuple(x.shape)}")
    if x.dtype not in _DTYPES:
        names = "float32, float64, bfloat16 or float16"
        raise TypeError(f"x: expected {names}, got {x.dtype}")
    if kernels.ndim != 3 or kernels.shape[0] != x.shape[0] or kernels.shape[1] != kernels.shape[2]:
        raise ValueError(
            f"kernels: expected (N, k, k) with N = {x.shape[0]}, got {tuple(kernels.shape)}"
        )
    if not 1 <= kernels.shape[2] <= MAX_SIZE:
        raise ValueError(f"kernels: expected k from 1 to {MAX_SIZE}, got {tuple(kernels.shape)}")
    if kernels.dtype != x.dtype:
        raise TypeError(f"kernels: expected {x.dtype}, the dtype of x, got {kernels.dtype}")
    if kernels.device != x.device:
        raise ValueError(f"kernels: expected device {x.device}, that of x, got {kernels.device}")
    if not isinstance(stride, (int, torch.SymInt)) or isinstance(stride, bool):
        raise TypeError(f"stride: expected an integer, got {type(stride).__name__}")
    if not 1 <= stride <= MAX_STRIDE:
        raise ValueError(f"stride: expected 1 to {MAX_STRIDE}, got {stride}")


def _check_slope(grad: Tensor, x: Tensor, stride: int, other: Tensor) -> None:
    n, c, h, w = x.shape
    expected = (n, c, -(-h // stride), -(-w // stride))
    if tuple(grad.shape) != expected:
        raise ValueError(f"grad: expected {expected}, got {tuple(grad.shape)}")
    if grad.dtype != other.dtype or grad.device != other.device:
        raise TypeError(
            f"grad: expected {other.dtype} on {other.device}, got {grad.dtype} on {grad.device}"
        )


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


def _run_cpu(name: str, x: Tensor, kernels: Tensor, out: Tensor, stride: int) -> None:
    getattr(_ext.require(), f"blur_decimate{name}_cpu")(
        x.data_ptr(),
        kernels.data_ptr(),
        out.data_ptr(),
        x.shape,
        x.stride(),
        out.stride(),
        kernels.shape[2],
        stride,
        _ext.DTYPES[x.dtype],
        torch.get_num_threads(),
    )


def _run_cuda(name: str, x: Tensor, kernels: Tensor, out: Tensor, stride: int) -> None:
    native = _ext.require("cuda")
    k, dtype = kernels.shape[2], _ext.DTYPES[x.dtype]
    with torch.cuda.device(x.device):
        workspace = None  # freed after the launch, and reused only by later work of this stream
        if name:
            size = getattr(native, f"blur_decimate{name}_workspace")(x.shape, k, stride, dtype)
            workspace = torch.empty(size, dtype=torch.uint8, device=x.device)
        getattr(native, f"blur_decimate{name}_cuda")(
            x.data_ptr(),
            kernels.data_ptr(),
            out.data_ptr(),
            x.shape,
            x.stride(),
            out.stride(),
            k,
            stride,
            dtype,
            0 if workspace is None else workspace.data_ptr(),
            torch.cuda.current_stream(x.device).cuda_stream,
        )


def _register(run, device_type: str) -> None:
    @torch.library.register_kernel("pysr::blur_decimate", device_type)
    def forward(x, kernels, stride):
        check_arguments(x, kernels, stride)
        kernels = kernels.contiguous()
        n, c, h, w = x.shape
        out = x.new_empty((n, c, -(-h // stride), -(-w // stride)))
        run("", x, kernels, out, stride)
        return out

    @torch.library.register_kernel("pysr::blur_decimate_grad_x", device_type)
    def grad_x(grad, kernels, height, width, stride):
        kernels = kernels.contiguous()
        x = grad.new_empty((grad.shape[0], grad.shape[1], height, width))
        check_arguments(x, kernels, stride)
        _check_slope(grad, x, stride, kernels)
        run("_grad_x", x, kernels, grad, stride)
        return x

    @torch.library.register_kernel("pysr::blur_decimate_grad_kernels", device_type)
    def grad_kernels(grad, x, k, stride):
        kernels = x.new_empty((x.shape[0], k, k))
        check_arguments(x, kernels, stride)
        _check_slope(grad, x, stride, x)
        run("_grad_kernels", x, kernels, grad, stride)
        return kernels


_register(_run_cpu, "cpu")
_register(_run_cuda, "cuda")


def _save(ctx, inputs, output):
    first, second, *sizes = inputs
    by_first, by_second = ctx.needs_input_grad[:2]
    # What one input's gradient needs is the other input.
    ctx.save_for_backward(first if by_second else None, second if by_first else None)
    ctx.shape, ctx.sizes = first.shape if by_first else None, sizes
    ctx.k = second.shape[-1] if by_second else None


def _backward(ctx, grad):
    (x, kernels), (stride,), ops = ctx.saved_tensors, ctx.sizes, torch.ops.pysr
    by_x, by_kernels = ctx.needs_input_grad[:2]
    return (
        ops.blur_decimate_grad_x(grad, kernels, *ctx.shape[2:], stride) if by_x else None,
        ops.blur_decimate_grad_kernels(grad, x, ctx.k, stride) if by_kernels else None,
        None,
    )


def _backward_of_grad_x(ctx, grad_x):
    (slope, kernels), stride, ops = ctx.saved_tensors, ctx.sizes[-1], torch.ops.pysr
    by_slope, by_kernels = ctx.needs_input_grad[:2]
    return (
        ops.blur_decimate(grad_x, kernels, stride) if by_slope else None,
        ops.blur_decimate_grad_kernels(slope, grad_x, ctx.k, stride) if by_kernels else None,
        *(None, None, None),
    )


def _backward_of_grad_kernels(ctx, grad_kernels):
    (slope, x), stride, ops = ctx.saved_tensors, ctx.sizes[-1], torch.ops.pysr
    by_slope, by_x = ctx.needs_input_grad[:2]
    return (
        ops.blur_decimate(x, grad_kernels, stride) if by_slope else None,
        ops.blur_decimate_grad_x(slope, grad_kernels, *ctx.x_size, stride) if by_x else None,
        *(None, None),
    )


def _save_sizes(ctx, inputs, output):
    _save(ctx, inputs, output)
    ctx.x_size = inputs[1].shape[2:]


torch.library.register_autograd("pysr::blur_decimate", _backward, setup_context=_save)
torch.library.register_autograd(
    "pysr::blur_decimate_grad_x", _backward_of_grad_x, setup_context=_save
)
torch.library.register_autograd(
    "pysr::blur_decimate_grad_kernels", _backward_of_grad_kernels, setup_context=_save_sizes
)
