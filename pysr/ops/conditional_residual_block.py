"""DAN's conditional residual block (dan.txt, equation 5), for inference.

The kernels never stretch a constant condition over the picture, nor copy one that is a picture
beside f; they compute both convolutions by Winograd's method on the CPU, and apply channel
attention and the residual while the second one is stored.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pysr import _ext
from pysr.ops._check import HALVES, check_like, check_picture, check_shape, check_tensor
from pysr.ops._launch import DEVICES, check_packed, launch, pack

MAX_CHANNELS = 512
SLOPE = 0.2  # of every LeakyReLU
DTYPES = (torch.float32, *HALVES)
NO_GRADIENT = (
    "conditional_residual_block: is for inference and has no gradient; call it under "
    "torch.inference_mode(), or train pysr.nets.dan.ConditionalResidualBlock"
)


def conditional_residual_block(
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
    gate: Tensor | None = None,
    packed: Tensor | None = None,
    inplace: bool = False,
    bfloat16: bool = False,
) -> Tensor:
    """f + R(concat(f, cond)), where cond is constant or a picture (dan.txt, equation 5).

    R is a zero-padded 3x3 convolution (conv1), LeakyReLU of slope 0.2, a second such convolution
    (conv2), and channel attention: every channel is multiplied by a gate in (0, 1), which two 1x1
    convolutions (reduce, LeakyReLU 0.2, expand, sigmoid) compute from the channels' means over the
    whole picture.

    The weights come in the order of ``pysr.nets.dan.ConditionalResidualBlock.parameters()``, so
    that, under ``torch.inference_mode()``, ``conditional_residual_block(f, cond,
    *block.parameters())`` is ``block(f, cond)``.

    Kernels for CPU and CUDA give the same bits on every run and for every number of threads; half
    types are computed and summed in float32, but that bfloat16 runs on the matrix tiles of a CPU
    that has them, and that on GPUs and those tiles the features between the convolutions are
    rounded: in float16, values beyond 65504 become infinity. On the CPU float32 is fastest where f,
    and a cond that is a picture, are channels last. Other devices, and installations without the
    compiled extension, run `conditional_residual_block_reference`.

    Args:
        f: (N, C, H, W), no size empty; float32, bfloat16 or float16; any strides. C, D and the
            reduced width R are from 1 to 512.
        cond: (N, D) or (N, D, H, W), the condition; of f's dtype and on its device, as all weights.
        conv1_weight, conv1_bias: (C + D, C + D, 3, 3) and (C + D,), f's channels before cond's.
        conv2_weight, conv2_bias: (C, C + D, 3, 3) and (C,).
        reduce_weight, reduce_bias: (R, C, 1, 1) and (R,).
        expand_weight, expand_bias: (C, R, 1, 1) and (C,).
        gate: (N, C), takes the place of the attention's own gates, for a picture that is restored
            tile by tile, of which no tile knows the whole picture's means.
        packed: what `pack_conditional_residual_block` gave, for weights used many times.
        bfloat16: let float32 be multiplied so too, on matrix tiles; f and the result keep their
            bits. Changes nothing elsewhere.
        inplace: overwrite f, and return it. Large pictures gain most: fresh memory comes page by
            page from the system.
    Returns:
        (N, C, H, W), of f's dtype, dense, with its dimensions in memory in the order of f's.
    Raises:
        RuntimeError: where gradients would be recorded: there are none; train
            `pysr.nets.dan.ConditionalResidualBlock` instead.
        ValueError: for other shapes, sizes, or tensors on different devices.
        TypeError: for arguments of other types or dtypes.
    """
    arguments = (f, cond, conv1_weight, conv1_bias, conv2_weight, conv2_bias, reduce_weight)
    arguments = (*arguments, reduce_bias, expand_weight, expand_bias, gate)
    check_arguments(*arguments)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in arguments):
        raise RuntimeError(NO_GRADIENT)
    if not _ext.serves(f.device):
        out = conditional_residual_block_reference(*arguments)
        return f.copy_(out) if inplace else out
    if not inplace:
        return torch.ops.pysr.conditional_residual_block(*arguments, packed, bfloat16)
    torch.ops.pysr.conditional_residual_block_(*arguments, packed, bfloat16)
    return f


def conditional_residual_block_reference(
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
    gate: Tensor | None = None,
) -> Tensor:
    """`conditional_residual_block` in plain torch, as published: a constant condition is stretched
    over the picture, and any is concatenated. The definition, and what runs without kernels."""
    weights = (conv1_weight, conv1_bias, conv2_weight, conv2_bias)
    weights = (*weights, reduce_weight, reduce_bias, expand_weight, expand_bias)
    if f.dtype in HALVES:
        wide = [None if t is None else t.float() for t in (f, cond, *weights, gate)]
        return conditional_residual_block_reference(*wide).to(f.dtype)
    if cond.ndim == 2:
        cond = cond[:, :, None, None].expand(-1, -1, *f.shape[2:])
    hidden = F.conv2d(torch.cat((f, cond), 1), conv1_weight, conv1_bias, padding=1)
    r = F.conv2d(F.leaky_relu(hidden, SLOPE), conv2_weight, conv2_bias, padding=1)
    if gate is None:
        reduced = F.conv2d(r.mean((2, 3), keepdim=True), reduce_weight, reduce_bias)
        gates = F.conv2d(F.leaky_relu(reduced, SLOPE), expand_weight, expand_bias).sigmoid()
    else:
        gates = gate[:, :, None, None]
    return f + r * gates


def pack_conditional_residual_block(
    conv1_weight: Tensor, conv2_weight: Tensor, *, constant: bool = True, bfloat16: bool = False
) -> Tensor:
    """Both weights as the kernels of their device use them: an opaque tensor, for calls of
    `conditional_residual_block` with the same weights, the same `bfloat16`, and a condition that is
    constant, or, where `constant` is False, a picture. Saves every call this work, a tenth of it at
    128x128 pixels."""
    check_tensor("conv1_weight", conv1_weight, DTYPES)
    check_tensor("conv2_weight", conv2_weight)
    check_like("conv2_weight", conv2_weight, "conv1_weight", conv1_weight)
    hidden, c = conv1_weight.shape[0], conv2_weight.shape[0]
    check_shape("conv1_weight", conv1_weight, (hidden, hidden, 3, 3))
    check_shape("conv2_weight", conv2_weight, (c, hidden, 3, 3))
    weights = conv1_weight.contiguous(), conv2_weight.contiguous()
    device = conv1_weight.device
    fields = _weight_fields(*weights, constant, bfloat16)
    return pack("conditional_residual_block", device, **fields)


def check_arguments(f: Tensor, cond: Tensor, *others: Tensor | None) -> None:
    """others: the weights and the gate, in the public function's order."""
    check_tensor("f", f, DTYPES)
    check_picture("f", f)
    n, c = f.shape[:2]
    check_tensor("cond", cond)
    if cond.ndim not in (2, 4) or cond.shape[0] != n or cond.shape[2:] not in ((), f.shape[2:]):
        height, width = f.shape[2:]
        raise ValueError(
            f"cond: expected (N, D) or (N, D, H, W) with N = {n}, H = {height}, W = {width}, "
            f"got {tuple(cond.shape)}"
        )
    check_like("cond", cond, "f", f)
    *weights, gate = others
    check_weights(c, cond.shape[1], weights, "f", f)
    if gate is not None:
        check_tensor("gate", gate)
        check_shape("gate", gate, (n, c))
        check_like("gate", gate, "f", f)


def check_weights(c: int, d: int, weights: Sequence[Tensor], name: str, like: Tensor) -> None:
    """A block's weights, in the public function's order, for C and D channels; `name` is that of
    the argument whose dtype and device they have."""
    reduce_weight = weights[4]
    check_tensor("reduce_weight", reduce_weight)
    if reduce_weight.ndim != 4:
        raise ValueError(f"reduce_weight: expected (R, C, 1, 1), got {tuple(reduce_weight.shape)}")
    r = reduce_weight.shape[0]
    for argument, letter, size in (("f", "C", c), ("cond", "D", d), ("reduce_weight", "R", r)):
        if not 1 <= size <= MAX_CHANNELS:
            raise ValueError(f"{argument}: expected {letter} from 1 to {MAX_CHANNELS}, got {size}")
    shapes = {
        "conv1_weight": (c + d, c + d, 3, 3),
        "conv1_bias": (c + d,),
        "conv2_weight": (c, c + d, 3, 3),
        "conv2_bias": (c,),
        "reduce_weight": (r, c, 1, 1),
        "reduce_bias": (r,),
        "expand_weight": (c, r, 1, 1),
        "expand_bias": (c,),
    }
    for (argument, shape), tensor in zip(shapes.items(), weights, strict=True):
        check_tensor(argument, tensor)
        check_shape(argument, tensor, shape)
        check_like(argument, tensor, name, like)


def _weight_fields(
    conv1_weight: Tensor, conv2_weight: Tensor, constant: bool, bfloat16: bool
) -> dict:
    """What depends on the weights alone; the rest is left empty."""
    pointers = ("f", "cond", "conv1_bias", "conv2_bias", "reduce_weight", "reduce_bias")
    pointers += ("expand_weight", "expand_bias", "gate", "packed", "out")
    c, hidden = conv2_weight.shape[:2]
    return {
        **dict.fromkeys(pointers, 0),
        **{"conv1_weight": conv1_weight, "conv2_weight": conv2_weight},
        **{"n": 1, "c": c, "d": hidden - c, "h": 1, "w": 1, "r": 1},
        **dict.fromkeys(("f_stride", "out_stride"), (0, 0, 0, 0)),
        **{"cond_stride": (0, 0, 0, 0) if constant else (0, 0, 1, 1)},
        **{"dtype": _ext.DTYPES[conv1_weight.dtype], "bfloat16": bfloat16},
    }


def _strided(cond: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """The condition and its strides; only those of a constant one are 0 along rows and columns."""
    if cond.ndim == 2:
        return cond.contiguous(), (cond.shape[1], 1, 0, 0)
    if 0 in cond.stride():
        cond = cond.contiguous()
    return cond, tuple(max(step, 1) for step in cond.stride())


_OTHERS = (
    "Tensor cond, Tensor conv1_weight, Tensor conv1_bias, Tensor conv2_weight, Tensor conv2_bias, "
    "Tensor reduce_weight, Tensor reduce_bias, Tensor expand_weight, Tensor expand_bias, "
    "Tensor? gate, Tensor? packed, bool bfloat16"
)
torch.library.define("pysr::conditional_residual_block", f"(Tensor f, {_OTHERS}) -> Tensor")
torch.library.define("pysr::conditional_residual_block_", f"(Tensor(a!) f, {_OTHERS}) -> ()")


@torch.library.register_fake("pysr::conditional_residual_block")
def _fake(f, *others):
    check_arguments(f, *others[:-2])
    return torch.empty_like(f)


@torch.library.register_fake("pysr::conditional_residual_block_")
def _fake_inplace(f, *others):
    check_arguments(f, *others[:-2])


@torch.library.register_kernel("pysr::conditional_residual_block", DEVICES)
def _forward(f, *others):
    check_arguments(f, *others[:-2])
    out = torch.empty_like(f)
    _run(f, out, *others)
    return out


@torch.library.register_kernel("pysr::conditional_residual_block_", DEVICES)
def _forward_inplace(f, *others):
    check_arguments(f, *others[:-2])
    if _overlaps(f):
        raise ValueError(f"f: expected pixels of its own to overwrite, got strides {f.stride()}")
    _run(f, f, *others)
    if not f.is_inference():  # which autograd does not look after
        torch.autograd.graph.increment_version(f)


def _overlaps(x: Tensor) -> bool:
    """Whether two values may lie in one place: those of some dimensions reach into the next."""
    reach = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size > 1:
            if stride < reach:
                return True
            reach += stride * (size - 1)
    return False


def _run(f, out, cond, *others):
    *others, packed, bfloat16 = others
    n, _, h, w = f.shape
    cond, cond_stride = _strided(cond)
    *weights, gate = (None if t is None else t.contiguous() for t in others)
    conv1_weight, conv1_bias, conv2_weight, conv2_bias = weights[:4]
    reduce_weight, reduce_bias, expand_weight, expand_bias = weights[4:]
    fields = _weight_fields(conv1_weight, conv2_weight, cond.ndim == 2, bfloat16)
    if packed is not None:
        check_packed("conditional_residual_block", f.device, packed, fields)
        fields |= {"packed": packed}
    fields |= {"f": f, "cond": cond, "gate": 0 if gate is None else gate, "out": out}
    fields |= {"conv1_bias": conv1_bias, "conv2_bias": conv2_bias}
    fields |= {"reduce_weight": reduce_weight, "reduce_bias": reduce_bias}
    fields |= {"expand_weight": expand_weight, "expand_bias": expand_bias}
    fields |= {"n": n, "h": h, "w": w, "r": reduce_weight.shape[0]}
    fields |= {"f_stride": f.stride(), "cond_stride": cond_stride, "out_stride": out.stride()}
    launch("conditional_residual_block", f.device, **fields)


def _backward(ctx, grad):
    raise RuntimeError(NO_GRADIENT)


torch.library.register_autograd("pysr::conditional_residual_block", _backward)
