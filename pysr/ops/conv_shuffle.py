"""A zero-padded 3x3 or 5x5 convolution stored through a pixel shuffle.

These are the layers of a super-resolution network. The CPU kernels compute them, and both their
gradients, by Winograd's method, and no unshuffled picture is ever written.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pysr import _ext
from pysr.ops._check import (
    HALVES,
    check_integer,
    check_like,
    check_picture,
    check_shape,
    check_tensor,
)
from pysr.ops._launch import DEVICES, check_packed, launch, pack

MAX_CHANNELS = 4096
MAX_SHUFFLE = 16
SIDES = (3, 5)
DTYPES = (torch.float32, *HALVES)


def conv_shuffle(
    x: Tensor, weight: Tensor, bias: Tensor, shuffle: int = 1, packed: Tensor | None = None
) -> Tensor:
    """``F.pixel_shuffle(F.conv2d(x, weight, bias, padding=k // 2), shuffle)``.

    Kernels for CPU and CUDA give the same bits on every run and for every number of threads; half
    types are computed and summed in float32. The gradient by the weight on CUDA is torch's, under
    the settings of `torch.backends.cudnn`. On the CPU float32 is fastest where x is channels last
    and C a multiple of 16. Other devices, and installations without the compiled extension, run
    `conv_shuffle_reference`.

    Args:
        x: (N, C, H, W), no size empty; float32, bfloat16 or float16; any strides.
        weight: (O, C, k, k), k being 3 or 5; of x's dtype and on its device, as bias. C and O are
            from 1 to 4096.
        bias: (O,).
        shuffle: r, from 1 to 16; r * r divides O.
        packed: what `pack_conv_shuffle(weight, shuffle)` gave, for weights used many times.
    Returns:
        (N, O / r^2, r * H, r * W), of x's dtype, dense; channels last where x is, as is then the
        gradient by x.
    Raises:
        ValueError: for other shapes, sizes, or tensors on different devices.
        TypeError: for arguments of other types or dtypes.
    """
    check_arguments(x, weight, bias, shuffle)
    if _ext.serves(x.device):
        return torch.ops.pysr.conv_shuffle(x, weight, bias, shuffle, packed)
    return conv_shuffle_reference(x, weight, bias, shuffle)


def conv_shuffle_reference(x: Tensor, weight: Tensor, bias: Tensor, shuffle: int = 1) -> Tensor:
    """`conv_shuffle` in plain torch: the definition, and what runs where no kernel does."""
    if x.dtype in HALVES:
        wide = (tensor.float() for tensor in (x, weight, bias))
        return conv_shuffle_reference(*wide, shuffle).to(x.dtype)
    return F.pixel_shuffle(F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2), shuffle)


def pack_conv_shuffle(weight: Tensor, shuffle: int = 1) -> Tensor:
    """`weight` as the kernels of its device use it: an opaque tensor, for `conv_shuffle` with the
    same weight and shuffle. Saves every call this work, which for few pixels is most of it."""
    check_weight(weight, shuffle)
    weight = weight.contiguous()
    return pack("conv_shuffle", weight.device, **_fields(weight, shuffle))


def check_weight(weight: Tensor, shuffle: int) -> None:
    check_tensor("weight", weight, DTYPES)
    if weight.ndim != 4 or weight.shape[2] not in SIDES or weight.shape[2] != weight.shape[3]:
        raise ValueError(
            f"weight: expected (O, C, 3, 3) or (O, C, 5, 5), got {tuple(weight.shape)}"
        )
    for letter, size in zip("OC", weight.shape, strict=False):
        if not 1 <= size <= MAX_CHANNELS:
            raise ValueError(f"weight: expected {letter} from 1 to {MAX_CHANNELS}, got {size}")
    check_integer("shuffle", shuffle, 1, MAX_SHUFFLE)
    if weight.shape[0] % shuffle**2 != 0:
        raise ValueError(
            f"weight: expected O to be a multiple of shuffle^2 = {shuffle**2}, "
            f"got {weight.shape[0]}"
        )


def check_arguments(x: Tensor, weight: Tensor, bias: Tensor, shuffle: int) -> None:
    check_tensor("x", x, DTYPES)
    check_picture("x", x)
    check_weight(weight, shuffle)
    check_shape("weight", weight, (weight.shape[0], x.shape[1], *weight.shape[2:]))
    check_like("weight", weight, "x", x)
    check_tensor("bias", bias)
    check_shape("bias", bias, weight.shape[:1])
    check_like("bias", bias, "x", x)


def _fields(weight: Tensor, shuffle: int) -> dict:
    """What depends on the weight alone; the rest is left empty."""
    o, c, side, _ = weight.shape
    return {
        **{"x": 0, "bias": 0, "out": 0, "n": 1, "h": 1, "w": 1, "x_stride": (0, 0, 0, 0)},
        **{"weight": weight, "packed": 0, "c": c, "o": o, "side": side, "shuffle": shuffle},
        **{"out_stride": (0, 0, 0, 0), "dtype": _ext.DTYPES[weight.dtype]},
    }


def _empty(x: Tensor, weight: Tensor, shuffle: int) -> Tensor:
    n, _, h, w = x.shape
    return torch.empty(
        (n, weight.shape[0] // shuffle**2, h * shuffle, w * shuffle),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last if _channels_last(x) else torch.contiguous_format,
    )


def _channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


torch.library.define(
    "pysr::conv_shuffle",
    "(Tensor x, Tensor weight, Tensor bias, SymInt shuffle, Tensor? packed) -> Tensor",
)


@torch.library.register_fake("pysr::conv_shuffle")
def _fake(x, weight, bias, shuffle, packed):
    check_arguments(x, weight, bias, shuffle)
    return _empty(x, weight, shuffle)


@torch.library.register_kernel("pysr::conv_shuffle", DEVICES)
def _forward(x, weight, bias, shuffle, packed):
    check_arguments(x, weight, bias, shuffle)
    out = _empty(x, weight, shuffle)
    weight, bias = weight.contiguous(), bias.contiguous()
    fields = _fields(weight, shuffle)
    if packed is not None:
        check_packed("conv_shuffle", x.device, packed, fields)
    n, _, h, w = x.shape
    fields |= {"x": x, "bias": bias, "out": out, "n": n, "h": h, "w": w}
    fields |= {"packed": 0 if packed is None else packed}
    fields |= {"x_stride": x.stride(), "out_stride": out.stride()}
    launch("conv_shuffle", x.device, **fields)
    return out


# The convolution's gradient by its weight, `grad` being that of its unshuffled result.
torch.library.define(
    "pysr::conv_shuffle_grad_weight", "(Tensor x, Tensor grad, SymInt side) -> Tensor"
)


def _check_grad(x: Tensor, grad: Tensor, side: int) -> None:
    """Of the gradient by a weight of this side: that x and grad are before and after it."""
    check_tensor("x", x, DTYPES)
    check_picture("x", x)
    check_picture("grad", grad)
    check_shape("grad", grad, (x.shape[0], grad.shape[1], *x.shape[2:]))
    check_like("grad", grad, "x", x)
    if side not in SIDES:
        raise ValueError(f"side: expected 3 or 5, got {side}")


@torch.library.register_fake("pysr::conv_shuffle_grad_weight")
def _fake_grad_weight(x, grad, side):
    _check_grad(x, grad, side)
    return x.new_empty(grad.shape[1], x.shape[1], side, side)


@torch.library.register_kernel("pysr::conv_shuffle_grad_weight", "cpu")
def _grad_weight(x, grad, side):
    _check_grad(x, grad, side)
    (n, c, h, w), o = x.shape, grad.shape[1]
    grad_weight = x.new_empty(o, c, side, side)
    fields = {"x": x, "grad": grad, "grad_weight": grad_weight, "n": n, "c": c, "o": o}
    fields |= {"h": h, "w": w, "side": side, "dtype": _ext.DTYPES[x.dtype]}
    fields |= {"x_stride": x.stride(), "grad_stride": grad.stride()}
    launch("conv_shuffle_grad_weight", x.device, **fields)
    return grad_weight


@torch.library.register_kernel("pysr::conv_shuffle_grad_weight", "cuda")
def _grad_weight_by_torch(x, grad, side):
    _check_grad(x, grad, side)
    shape = (grad.shape[1], x.shape[1], side, side)
    # cuDNN gives it channels last where x is.
    return torch.nn.grad.conv2d_weight(x, shape, grad, padding=side // 2).contiguous()


def _save(ctx, inputs, output):
    x, weight, _, ctx.shuffle, _ = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx, grad):
    x, weight = ctx.saved_tensors
    if ctx.shuffle > 1:  # by 1 it would copy
        grad = F.pixel_unshuffle(grad, ctx.shuffle)
    if _channels_last(x):  # so is then the gradient by x, and of all layers before
        grad = grad.contiguous(memory_format=torch.channels_last)
    wanted = ctx.needs_input_grad
    grad_x = _transposed(grad, weight) if wanted[0] else None
    grad_weight = None
    if wanted[1]:
        grad_weight = torch.ops.pysr.conv_shuffle_grad_weight(x, grad, weight.shape[-1])
    return grad_x, grad_weight, grad.sum((0, 2, 3)) if wanted[2] else None, None, None


def _transposed(grad: Tensor, weight: Tensor) -> Tensor:
    """The convolution's gradient by its input: a convolution with turned weights."""
    turned = weight.flip(2, 3).transpose(0, 1)
    return torch.ops.pysr.conv_shuffle(grad, turned, weight.new_zeros(weight.shape[1]), 1, None)


def _save_both(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:2])


def _backward_twice(ctx, by_weight):
    """The weight's gradient is linear in x and in grad: each has the other, convolved."""
    x, grad = ctx.saved_tensors
    zeros = by_weight.new_zeros(by_weight.shape[0])
    by_grad = torch.ops.pysr.conv_shuffle(x, by_weight, zeros, 1, None)
    return _transposed(grad, by_weight), by_grad, None


torch.library.register_autograd("pysr::conv_shuffle", _backward, setup_context=_save)
torch.library.register_autograd(
    "pysr::conv_shuffle_grad_weight", _backward_twice, setup_context=_save_both
)
