"""DAN's conditional residual block in mixed precision, with its gradients: what training runs on.

Pictures are bfloat16 and weights float32. On processors with matrix tiles for bfloat16 (AMX) the
block and its gradients are one pass each over every picture, which stays in a core's cache.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pysr import _ext
from pysr.ops._check import check_device, check_picture, check_tensor
from pysr.ops._launch import launch
from pysr.ops.conditional_residual_block import (
    SLOPE,
    check_weights,
    conditional_residual_block_reference,
)

NO_SECOND = (
    "mixed_residual_block: its kernels have first gradients alone; "
    "conditional_residual_block_reference has those of any order"
)
SMALLEST = 3  # rows and columns of a picture whose border is all of border_cases


def mixed_residual_block(
    f: Tensor,
    cond: Tensor,
    conv1_weight: Tensor,
    conv1_bias: Tensor,
    conv2_weight: Tensor,
    conv2_bias: Tensor,
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
) -> Tensor:
    """`conditional_residual_block` of a constant condition (dan.txt, equation 5), to be learned.

    The kernels round weights, features between the convolutions and gradients of pictures to
    bfloat16, sum in float32, and give the same bits for every number of threads. They need a CPU
    with matrix tiles and pictures of 3x3 pixels or more; elsewhere,
    `mixed_residual_block_reference` runs.

    Args:
        f: (N, C, H, W), bfloat16, no size empty; fastest where channels last.
        cond: (N, D), float32, on f's device, as all weights, whose shapes are those of
            `conditional_residual_block`.
    Returns:
        (N, C, H, W), bfloat16; channels last where kernels made it.
    Raises:
        ValueError: for other shapes, sizes, or tensors on different devices.
        TypeError: for arguments of other types or dtypes.
    """
    weights = (conv1_weight, conv1_bias, conv2_weight, conv2_bias)
    weights = (*weights, reduce_weight, reduce_bias, expand_weight, expand_bias)
    check_arguments(f, cond, *weights)
    if not on_matrix_tiles(f.device) or min(f.shape[2:]) < SMALLEST:
        return mixed_residual_block_reference(f, cond, *weights)
    with torch.autocast(f.device.type, enabled=False):
        cases = border_cases(cond, conv1_weight[:, f.shape[1] :], conv1_bias, f.shape[2:])
        cases = cases.permute(0, 2, 3, 1)
    others = (conv2_weight, conv2_bias, *weights[4:])
    return torch.ops.pysr.mixed_residual_block(f, cases, conv1_weight, *others)[0]


def mixed_residual_block_reference(f: Tensor, cond: Tensor, *weights: Tensor) -> Tensor:
    """`mixed_residual_block` in plain torch, all in float32 but f and the result."""
    with torch.autocast(f.device.type, enabled=False):
        return conditional_residual_block_reference(f.float(), cond, *weights).to(f.dtype)


def on_matrix_tiles(device: torch.device) -> bool:
    """Whether the kernels' bfloat16 products run on matrix tiles there."""
    return device.type == "cpu" and _ext.ISA == "amx"


def border_cases(code: Tensor, weight: Tensor, bias: Tensor, size: tuple[int, int]) -> Tensor:
    """A zero-padded 3x3 convolution of a constant, where it differs: (N, O, min(H, 3), min(W, 3)).

    Row 0 is the image's top row, the last row its bottom row and any row between all the others;
    likewise the columns. code (N, D), weight (O, D, 3, 3), bias (O,), size the image's (H, W).
    """
    height, width = (min(n, 3) for n in size)
    return F.conv2d(code[:, :, None, None].expand(-1, -1, height, width), weight, bias, padding=1)


def check_arguments(f: Tensor, cond: Tensor, *weights: Tensor) -> None:
    """weights: in the public function's order."""
    check_tensor("f", f, (torch.bfloat16,))
    check_picture("f", f)
    n, c = f.shape[:2]
    check_tensor("cond", cond, (torch.float32,))
    if cond.ndim != 2 or len(cond) != n:
        raise ValueError(f"cond: expected (N, D) with N = {n}, got {tuple(cond.shape)}")
    check_device("cond", cond, "f", f)
    check_weights(c, cond.shape[1], weights, "cond", cond)


# After f: the condition's share by cases (N, 3, 3, C + D), the weights, and what is kept for the
# gradient: hidden features, residual, its means, the reduced means and the gates.
_INPUTS = (
    "Tensor f, Tensor cases, Tensor conv1_weight, Tensor conv2_weight, Tensor conv2_bias, "
    "Tensor reduce_weight, Tensor reduce_bias, Tensor expand_weight, Tensor expand_bias"
)
_KEPT = "Tensor hidden, Tensor residual, Tensor means, Tensor reduced, Tensor gates"
torch.library.define(
    "pysr::mixed_residual_block",
    f"({_INPUTS}) -> (Tensor out, {_KEPT})",
)
torch.library.define(
    "pysr::mixed_residual_block_grad",
    f"(Tensor grad, {_INPUTS}, {_KEPT}) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)


def _channels_last(n: int, c: int, h: int, w: int, like: Tensor) -> Tensor:
    return like.new_empty(n, h, w, c).permute(0, 3, 1, 2)


def _outputs(f, conv1_weight, reduce_weight):
    (n, c, h, w), hidden, r = f.shape, len(conv1_weight), len(reduce_weight)
    pictures = [_channels_last(n, c, h, w, f) for _ in range(2)]
    size = _ext.require().mixed_residual_block_hidden(h, w, hidden)
    vectors = [f.new_empty(n, width, dtype=torch.float32) for width in (c, r, c)]
    return (pictures[0], f.new_empty(n, size), pictures[1], *vectors)


@torch.library.register_fake("pysr::mixed_residual_block")
def _fake(f, cases, conv1_weight, conv2_weight, conv2_bias, reduce_weight, *others):
    return _outputs(f, conv1_weight, reduce_weight)


_NAMES = ("conv1_weight", "conv2_weight", "conv2_bias", "reduce_weight", "reduce_bias")
_NAMES += ("expand_weight", "expand_bias")
_KEPT_NAMES = ("hidden", "residual", "means", "reduced", "gates")


def _fields(f, cases, weights):
    (n, c, h, w), hidden = f.shape, len(weights[0])
    r = len(weights[3])
    sizes = {"n": n, "c": c, "d": hidden - c, "h": h, "w": w, "r": r}
    shapes = [(n, 3, 3, hidden), (hidden, hidden, 3, 3), (c, hidden, 3, 3), (c,)]
    shapes += [(r, c, 1, 1), (r,), (c, r, 1, 1), (c,)]
    for name, tensor, shape in zip(("cases", *_NAMES), (cases, *weights), shapes, strict=True):
        if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
            got = f"{tensor.dtype} {tuple(tensor.shape)}"
            raise ValueError(f"{name}: expected float32 {shape}, got {got}")
    tensors = dict(zip(_NAMES, (weight.contiguous() for weight in weights), strict=True))
    f = f.contiguous(memory_format=torch.channels_last)
    return {"f": f, "cases": cases.contiguous(), **tensors, **sizes}


@torch.library.register_kernel("pysr::mixed_residual_block", "cpu")
def _forward(f, cases, *weights):
    fields = _fields(f, cases, weights)
    out, *kept = _outputs(f, weights[0], weights[3])
    fields |= {"out": out, **dict(zip(_KEPT_NAMES, kept, strict=True))}
    launch("mixed_residual_block", f.device, **fields)
    return out, *kept


@torch.library.register_fake("pysr::mixed_residual_block_grad")
def _fake_grad(grad, f, cases, conv1_weight, conv2_weight, conv2_bias, reduce_weight, *others):
    (n, c, h, w), hidden, r = f.shape, len(conv1_weight), len(reduce_weight)
    sizes = (n, 3, 3, hidden), (hidden, c, 3, 3), (c, hidden, 3, 3), (n, c), (n, r), (n, c)
    return _channels_last(n, c, h, w, f), *(cases.new_empty(size) for size in sizes)


@torch.library.register_kernel("pysr::mixed_residual_block_grad", "cpu")
def _grad(grad, f, cases, *others):
    weights, kept = others[: len(_NAMES)], others[len(_NAMES) :]
    fields = _fields(f, cases, weights)
    results = _fake_grad(grad, f, cases, *weights)
    names = ("grad_f", "grad_cases", "grad_conv1_weight", "grad_conv2_weight", "grad_conv2_bias")
    names += ("grad_reduced", "grad_expanded")
    fields |= dict(zip(_KEPT_NAMES, kept, strict=True))
    fields |= dict(zip(names, results, strict=True))
    grad = grad.contiguous(memory_format=torch.channels_last)
    fields |= {"grad_out": grad, "out": grad}  # `out` does not matter
    launch("mixed_residual_block_grad", f.device, **fields)
    return results


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad, *_):
    f, _, conv1_weight, *_ = ctx.saved_tensors
    means, reduced = ctx.saved_tensors[-3:-1]
    by_f, by_cases, by_conv1, by_conv2, by_bias, by_reduced, by_expanded = (
        torch.ops.pysr.mixed_residual_block_grad(grad, *ctx.saved_tensors)
    )
    whole = F.pad(by_conv1, (0, 0, 0, 0, 0, conv1_weight.shape[1] - f.shape[1]))
    by_reduce = (by_reduced.T @ means)[:, :, None, None]
    by_expand = (by_expanded.T @ F.leaky_relu(reduced, SLOPE))[:, :, None, None]
    sums = (t.sum(0) for t in (by_bias, by_reduced, by_expanded))
    by_bias, by_reduced, by_expanded = sums
    return by_f, by_cases, whole, by_conv2, by_bias, by_reduce, by_reduced, by_expand, by_expanded


def _no_second(ctx, *grads):
    raise RuntimeError(NO_SECOND)


torch.library.register_autograd("pysr::mixed_residual_block", _backward, setup_context=_save)
torch.library.register_autograd("pysr::mixed_residual_block_grad", _no_second)
