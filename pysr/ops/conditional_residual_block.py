"""DAN's conditional residual block for a constant condition (dan.txt, equation 5), for inference.

The kernels never stretch the condition over the picture, compute both convolutions by Winograd's
method on the CPU, and apply channel attention and the residual while the second one is stored.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pysr import _ext
from pysr.ops._check import HALVES, check_like, check_picture, check_shape, check_tensor
from pysr.ops._launch import DEVICES, launch

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
) -> Tensor:
    """f + R(concat(f, cond)), cond being constant over the picture (dan.txt, equation 5).

    R is a zero-padded 3x3 convolution (conv1), LeakyReLU of slope 0.2, a second such convolution
    (conv2), and channel attention: every channel is multiplied by a gate in (0, 1), which two 1x1
    convolutions (reduce, LeakyReLU 0.2, expand, sigmoid) compute from the channels' means over the
    whole picture.

    The weights come in the order of ``pysr.nets.dan.ConditionalResidualBlock.parameters()``, so
    that, under ``torch.inference_mode()``, ``conditional_residual_block(f, cond,
    *block.parameters())`` is ``block(f, cond)``.

    Kernels for CPU and CUDA give the same bits on every run and for every number of threads; half
    types are computed and summed in float32. On the CPU float32 is fastest where f is channels
    last. Other devices, and installations without the compiled extension, run
    `conditional_residual_block_reference`.

    Args:
        f: (N, C, H, W), no size empty; float32, bfloat16 or float16; any strides. C, D and the
            reduced width R are from 1 to 512.
        cond: (N, D), the condition; of f's dtype and on its device, as all that follow.
        conv1_weight, conv1_bias: (C + D, C + D, 3, 3) and (C + D,), f's channels before cond's.
        conv2_weight, conv2_bias: (C, C + D, 3, 3) and (C,).
        reduce_weight, reduce_bias: (R, C, 1, 1) and (R,).
        expand_weight, expand_bias: (C, R, 1, 1) and (C,).
        gate: (N, C), takes the place of the attention's own gates, for a picture that is restored
            tile by tile, of which no tile knows the whole picture's means.
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
    if f.device.type in _ext.DEVICES:
        return torch.ops.pysr.conditional_residual_block(*arguments)
    return conditional_residual_block_reference(*arguments)


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
    """`conditional_residual_block` in plain torch, as published: the condition is stretched over
    the picture and concatenated. The definition, and what runs where no kernel does."""
    weights = (conv1_weight, conv1_bias, conv2_weight, conv2_bias)
    weights = (*weights, reduce_weight, reduce_bias, expand_weight, expand_bias)
    if f.dtype in HALVES:
        wide = [None if t is None else t.float() for t in (f, cond, *weights, gate)]
        return conditional_residual_block_reference(*wide).to(f.dtype)
    stretched = cond[:, :, None, None].expand(-1, -1, *f.shape[2:])
    hidden = F.conv2d(torch.cat((f, stretched), 1), conv1_weight, conv1_bias, padding=1)
    r = F.conv2d(F.leaky_relu(hidden, SLOPE), conv2_weight, conv2_bias, padding=1)
    if gate is None:
        reduced = F.conv2d(r.mean((2, 3), keepdim=True), reduce_weight, reduce_bias)
        gates = F.conv2d(F.leaky_relu(reduced, SLOPE), expand_weight, expand_bias).sigmoid()
    else:
        gates = gate[:, :, None, None]
    return f + r * gates


def check_arguments(f: Tensor, cond: Tensor, *others: Tensor | None) -> None:
    """others: the weights and the gate, in the public function's order."""
    check_tensor("f", f, DTYPES)
    check_picture("f", f)
    n, c = f.shape[:2]
    check_tensor("cond", cond)
    if cond.ndim != 2 or cond.shape[0] != n:
        raise ValueError(f"cond: expected (N, D) with N = {n}, got {tuple(cond.shape)}")
    check_like("cond", cond, "f", f)
    reduce_weight = others[4]
    check_tensor("reduce_weight", reduce_weight)
    if reduce_weight.ndim != 4:
        raise ValueError(f"reduce_weight: expected (R, C, 1, 1), got {tuple(reduce_weight.shape)}")
    d, r = cond.shape[1], reduce_weight.shape[0]
    for name, letter, size in (("f", "C", c), ("cond", "D", d), ("reduce_weight", "R", r)):
        if not 1 <= size <= MAX_CHANNELS:
            raise ValueError(f"{name}: expected {letter} from 1 to {MAX_CHANNELS}, got {size}")
    shapes = {
        "conv1_weight": (c + d, c + d, 3, 3),
        "conv1_bias": (c + d,),
        "conv2_weight": (c, c + d, 3, 3),
        "conv2_bias": (c,),
        "reduce_weight": (r, c, 1, 1),
        "reduce_bias": (r,),
        "expand_weight": (c, r, 1, 1),
        "expand_bias": (c,),
        "gate": (n, c),
    }
    for (name, shape), tensor in zip(shapes.items(), others, strict=True):
        if name == "gate" and tensor is None:
            continue
        check_tensor(name, tensor)
        check_shape(name, tensor, shape)
        check_like(name, tensor, "f", f)


torch.library.define(
    "pysr::conditional_residual_block",
    "(Tensor f, Tensor cond, Tensor conv1_weight, Tensor conv1_bias, Tensor conv2_weight, "
    "Tensor conv2_bias, Tensor reduce_weight, Tensor reduce_bias, Tensor expand_weight, "
    "Tensor expand_bias, Tensor? gate) -> Tensor",
)


@torch.library.register_fake("pysr::conditional_residual_block")
def _fake(f, *others):
    check_arguments(f, *others)
    return torch.empty_like(f)


@torch.library.register_kernel("pysr::conditional_residual_block", DEVICES)
def _forward(f, *others):
    check_arguments(f, *others)
    out = torch.empty_like(f)
    n, c, h, w = f.shape
    *weights, gate = (None if t is None else t.contiguous() for t in others)
    cond, conv1_weight, conv1_bias, conv2_weight, conv2_bias = weights[:5]
    reduce_weight, reduce_bias, expand_weight, expand_bias = weights[5:]
    launch(
        "conditional_residual_block",
        f.device,
        **{"f": f, "cond": cond, "gate": 0 if gate is None else gate, "out": out},
        **{"conv1_weight": conv1_weight, "conv1_bias": conv1_bias},
        **{"conv2_weight": conv2_weight, "conv2_bias": conv2_bias},
        **{"reduce_weight": reduce_weight, "reduce_bias": reduce_bias},
        **{"expand_weight": expand_weight, "expand_bias": expand_bias},
        **{"n": n, "c": c, "d": cond.shape[1], "h": h, "w": w, "r": reduce_weight.shape[0]},
        **{"f_stride": f.stride(), "out_stride": out.stride(), "dtype": _ext.DTYPES[f.dtype]},
    )
    return out


def _backward(ctx, grad):
    raise RuntimeError(NO_GRADIENT)


torch.library.register_autograd("pysr::conditional_residual_block", _backward)
