"""Correlate every output pixel with its own mixture of basis kernels (dml.txt, equations 2 and 3).

The operator is trilinear, so its three gradients and it are closed under differentiation: each of
the four is the gradient of another, and gradients of any order run on the same kernels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pysr import _ext
from pysr.ops._autocast import in_widest_type
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

MAX_BASES, MAX_SIZE, MAX_STRIDE = 32, 31, 4


@in_widest_type
def basis_svconv(
    x: Tensor, coefficients: Tensor, bases: Tensor, stride: int = 1, padding: str = "reflect"
) -> Tensor:
    """Correlate every output pixel with its own kernel, a weighted sum of basis kernels.

    With K[u, v] the sum over m of ``coefficients[n, m, i, j] * bases[m, u, v]`` (dml.txt, equation
    3), out[n, c, i, j] is the sum over u, v of ``K[u, v] * x[n, c, stride * i + u - r, stride * j +
    v - r]`` with r = k // 2 (equation 2, without its noise): an inner product (the kernel is not
    flipped), for odd and even k alike. The kernels are the same for all channels, and never stored:
    memory beyond inputs and outputs does not grow with k * k times the number of pixels.

    Kernels for CPU and CUDA give the same bits on every run and for every number of threads; half
    types are summed in float32. Other devices, and installations without the compiled extension,
    run `basis_svconv_reference`. Differentiable by x, coefficients and bases, any number of times.
    Under autocast all are taken in the widest of their types.

    Args:
        x: (N, C, H, W), no size empty; float32, float64, bfloat16 or float16; any strides.
        coefficients: (N, M, Ho, Wo), of x's dtype and on its device; M from 1 to 32. Ho is
            ceil(H / stride), or (H - k) // stride + 1 with padding "none"; Wo likewise.
        bases: (M, k, k) with k from 1 to 31, of x's dtype and on its device.
        stride: 1 to 4.
        padding: what lies beyond the borders. "reflect": the picture mirrored without repeating the
            edge pixel, over and over where it is smaller than the kernel's reach; "replicate": the
            edge pixel; "zeros"; "none": nothing, so r is 0 and only windows that lie inside the
            picture have an output.
    Returns:
        (N, C, Ho, Wo), contiguous, of x's dtype.
    Raises:
        ValueError: for other shapes, sizes, strides, paddings, or tensors on different devices.
        TypeError: for arguments of other types or dtypes.
    """
    check_arguments(x, coefficients, bases, stride, padding)
    if _ext.serves(x.device):
        return torch.ops.pysr.basis_svconv(x, coefficients, bases, stride, padding)
    return basis_svconv_reference(x, coefficients, bases, stride, padding)


def basis_svconv_reference(
    x: Tensor, coefficients: Tensor, bases: Tensor, stride: int = 1, padding: str = "reflect"
) -> Tensor:
    """`basis_svconv` in plain torch: the definition, and what runs where no kernel does.

    Correlates x with every basis, then takes each pixel's weighted sum: M times the output in
    memory.
    """
    if x.dtype in HALVES:
        wide = (tensor.float() for tensor in (x, coefficients, bases))
        return basis_svconv_reference(*wide, stride, padding).to(x.dtype)
    (n, c), (m, k, _) = x.shape[:2], bases.shape
    x = padded(x, k, padding)
    # Grouped, where one channel at a time would be a little slower.
    weight = bases[None, :, None].expand(c, m, 1, k, k).reshape(c * m, 1, k, k)
    blurred = F.conv2d(x, weight, stride=stride, groups=c)
    return (blurred.view(n, c, m, *blurred.shape[-2:]) * coefficients[:, None]).sum(2)


def check_arguments(
    x: Tensor, coefficients: Tensor, bases: Tensor, stride: int, padding: str
) -> None:
    check_picture("x", x)
    check_tensor("coefficients", coefficients)
    check_tensor("bases", bases)
    if bases.ndim != 3 or bases.shape[1] != bases.shape[2]:
        raise ValueError(f"bases: expected (M, k, k), got {tuple(bases.shape)}")
    m, k, _ = bases.shape
    if not (1 <= m <= MAX_BASES and 1 <= k <= MAX_SIZE):
        raise ValueError(
            f"bases: expected M from 1 to {MAX_BASES} and k from 1 to {MAX_SIZE}, got "
            f"{tuple(bases.shape)}"
        )
    check_integer("stride", stride, 1, MAX_STRIDE)
    check_padding(padding, k, *x.shape[2:])
    check_shape("coefficients", coefficients, (x.shape[0], m, *_outputs(x, k, stride, padding)))
    check_like("coefficients", coefficients, "x", x)
    check_like("bases", bases, "x", x)


def _outputs(x: Tensor, k: int, stride: int, padding: str) -> tuple[int, int]:
    height, width = x.shape[2:]
    return outputs(height, k, stride, padding), outputs(width, k, stride, padding)


# The four operators. Each writes one of x, coefficients, bases and out = basis_svconv(x,
# coefficients, bases) from the other three; a gradient stands in the place of the tensor that it
# belongs to.

torch.library.define(
    "pysr::basis_svconv",
    "(Tensor x, Tensor coefficients, Tensor bases, int stride, str padding) -> Tensor",
)
torch.library.define(
    "pysr::basis_svconv_grad_x",
    "(Tensor grad, Tensor coefficients, Tensor bases, SymInt height, SymInt width, int stride, "
    "str padding) -> Tensor",
)
torch.library.define(
    "pysr::basis_svconv_grad_coefficients",
    "(Tensor grad, Tensor x, Tensor bases, int stride, str padding) -> Tensor",
)
torch.library.define(
    "pysr::basis_svconv_grad_bases",
    "(Tensor grad, Tensor x, Tensor coefficients, SymInt k, int stride, str padding) -> Tensor",
)


def _new_out(x, bases, stride, padding):
    return x.new_empty(*x.shape[:2], *_outputs(x, bases.shape[2], stride, padding))


def _new_x(grad, height, width):
    return grad.new_empty(*grad.shape[:2], height, width)


def _new_coefficients(grad, bases):
    return grad.new_empty(grad.shape[0], bases.shape[0], *grad.shape[2:])


def _new_bases(coefficients, k):
    return coefficients.new_empty(coefficients.shape[1], k, k)


@torch.library.register_fake("pysr::basis_svconv")
def _fake(x, coefficients, bases, stride, padding):
    check_arguments(x, coefficients, bases, stride, padding)
    return _new_out(x, bases, stride, padding)


@torch.library.register_fake("pysr::basis_svconv_grad_x")
def _fake_grad_x(grad, coefficients, bases, height, width, stride, padding):
    return _new_x(grad, height, width)


@torch.library.register_fake("pysr::basis_svconv_grad_coefficients")
def _fake_grad_coefficients(grad, x, bases, stride, padding):
    return _new_coefficients(grad, bases)


@torch.library.register_fake("pysr::basis_svconv_grad_bases")
def _fake_grad_bases(grad, x, coefficients, k, stride, padding):
    return _new_bases(coefficients, k)


def _run(name, x, coefficients, bases, out, stride, padding) -> None:
    check_arguments(x, coefficients, bases, stride, padding)
    (n, c, h, w), (m, k, _) = x.shape, bases.shape
    check_shape("grad", out, (n, c, *coefficients.shape[2:]))
    check_like("grad", out, "coefficients", coefficients)
    launch(
        name,
        x.device,
        **{"x": x, "coefficients": coefficients, "bases": bases, "out": out},
        **{"n": n, "c": c, "m": m, "h": h, "w": w, "k": k, "stride": stride},
        **{"padding": _ext.PADDINGS[padding], "dtype": _ext.DTYPES[x.dtype]},
        **{"x_stride": x.stride(), "out_stride": out.stride()},
    )


@torch.library.register_kernel("pysr::basis_svconv", DEVICES)
def _forward(x, coefficients, bases, stride, padding):
    check_arguments(x, coefficients, bases, stride, padding)
    coefficients, bases = coefficients.contiguous(), bases.contiguous()
    out = _new_out(x, bases, stride, padding)
    _run("basis_svconv", x, coefficients, bases, out, stride, padding)
    return out


@torch.library.register_kernel("pysr::basis_svconv_grad_x", DEVICES)
def _grad_x(grad, coefficients, bases, height, width, stride, padding):
    coefficients, bases = coefficients.contiguous(), bases.contiguous()
    x = _new_x(grad, height, width)
    _run("basis_svconv_grad_x", x, coefficients, bases, grad, stride, padding)
    return x


@torch.library.register_kernel("pysr::basis_svconv_grad_coefficients", DEVICES)
def _grad_coefficients(grad, x, bases, stride, padding):
    bases = bases.contiguous()
    coefficients = _new_coefficients(grad, bases)
    _run("basis_svconv_grad_coefficients", x, coefficients, bases, grad, stride, padding)
    return coefficients


@torch.library.register_kernel("pysr::basis_svconv_grad_bases", DEVICES)
def _grad_bases(grad, x, coefficients, k, stride, padding):
    coefficients = coefficients.contiguous()
    bases = _new_bases(coefficients, k)
    _run("basis_svconv_grad_bases", x, coefficients, bases, grad, stride, padding)
    return bases


# Autograd. The sum of out * basis_svconv(x, coefficients, bases) is linear in each of the four
# tensors, and each operator is its derivative by the tensor that it writes. So with a slope in the
# place of that tensor, the operator's gradient by an input is the derivative by that input.

X, COEFFICIENTS, BASES, OUT = range(4)


def _derivative(by, tensors, sizes, k, stride, padding):
    x, coefficients, bases, out = tensors
    ops = torch.ops.pysr
    if by == X:
        return ops.basis_svconv_grad_x(out, coefficients, bases, *sizes, stride, padding)
    if by == COEFFICIENTS:
        return ops.basis_svconv_grad_coefficients(out, x, bases, stride, padding)
    if by == BASES:
        return ops.basis_svconv_grad_bases(out, x, coefficients, k, stride, padding)
    return ops.basis_svconv(x, coefficients, bases, stride, padding)


def _register_autograd(name: str, written: int, read: tuple[int, int, int]) -> None:
    def save(ctx, inputs, output):
        tensors, needed = dict(zip(read, inputs, strict=False)), ctx.needs_input_grad
        # What one input's gradient needs are the other two.
        others = [any(needed[at] for at in range(3) if at != own) for own in range(3)]
        ctx.save_for_backward(
            *(tensor if wanted else None for tensor, wanted in zip(inputs, others, strict=False))
        )
        tensors[written] = output
        ctx.sizes, ctx.k = tensors[X].shape[2:], tensors[BASES].shape[2]
        ctx.stride, ctx.padding = inputs[-2:]
        ctx.inputs = len(inputs)

    def backward(ctx, slope):
        tensors = dict(zip(read, ctx.saved_tensors, strict=True))
        tensors[written] = slope
        four = [tensors[place] for place in range(4)]
        gradients = (
            _derivative(by, four, ctx.sizes, ctx.k, ctx.stride, ctx.padding) if needed else None
            for by, needed in zip(read, ctx.needs_input_grad, strict=False)
        )
        return *gradients, *[None] * (ctx.inputs - 3)

    torch.library.register_autograd(name, backward, setup_context=save)


_register_autograd("pysr::basis_svconv", OUT, (X, COEFFICIENTS, BASES))
_register_autograd("pysr::basis_svconv_grad_x", X, (OUT, COEFFICIENTS, BASES))
_register_autograd("pysr::basis_svconv_grad_coefficients", COEFFICIENTS, (OUT, X, BASES))
_register_autograd("pysr::basis_svconv_grad_bases", BASES, (OUT, X, COEFFICIENTS))
