"""Blur every channel with its own weighted sum of fixed Gaussians (abl.txt, section 3.2.2).

The Gaussians of a channel are mixed into one kernel, and the picture is blurred once. The kernels
that this runs on it shares with `blur_decimate`: _blur.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pysr import _ext
from pysr.ops._autocast import in_widest_type
from pysr.ops._blur import accumulator, check_size, register_blur
from pysr.ops._check import HALVES, check_like, check_picture, check_shape, check_tensor
from pysr.ops._windows import check_padding, padded


@in_widest_type
def mixture_blur(x: Tensor, weights: Tensor, gaussians: Tensor, padding: str = "reflect") -> Tensor:
    """Blur every channel with its own weighted sum of Gaussians.

    With K[c] the sum over g of ``weights[c, g] * gaussians[g]``, out[n, c, i, j] is the sum over
    u, v of ``K[c, u, v] * x[n, c, i + u - k // 2, j + v - k // 2]``: an inner product (the kernel
    is not flipped) with tap ``k // 2`` over the output pixel, for odd and even k alike. This is the
    adaptive blurring layer of abl.txt, section 3.2.2; `pysr.blur.mixture_gaussians` builds its
    Gaussians. Nothing is asked of the weights: that they add up to 1 is the layer's concern.

    Kernels for CPU and CUDA give the same bits on every run and for every number of threads; half
    types are mixed and summed in float32. Other devices, and installations without the compiled
    extension, run `mixture_blur_reference`. Differentiable by x, weights and gaussians, any number
    of times. Under autocast all are taken in the widest of their types.

    Args:
        x: (N, C, H, W), no size empty; float32, float64, bfloat16 or float16; any strides.
        weights: (C, G), of x's dtype and on its device.
        gaussians: (G, k, k) with k from 1 to 64, of x's dtype and on its device.
        padding: what lies beyond the borders: "reflect" mirrors the picture without repeating the
            edge pixel, over and over where it is smaller than the kernel's reach (a single row or
            column is repeated); "replicate" repeats the edge pixel; "zeros"; "none" keeps only the
            pixels whose whole window lies inside.
    Returns:
        (N, C, H, W), or (N, C, H - k + 1, W - k + 1) for "none"; contiguous, of x's dtype.
    Raises:
        ValueError: for other shapes, sizes, paddings, or tensors on different devices.
        TypeError: for arguments of other types or dtypes.
    """
    check_arguments(x, weights, gaussians, padding)
    if _ext.serves(x.device):
        return torch.ops.pysr.mixture_blur(x, mixed(weights, gaussians), padding)
    return mixture_blur_reference(x, weights, gaussians, padding)


def mixture_blur_reference(
    x: Tensor, weights: Tensor, gaussians: Tensor, padding: str = "reflect"
) -> Tensor:
    """`mixture_blur` in plain torch: the definition, and what runs where no kernel does."""
    if x.dtype in HALVES:
        return mixture_blur_reference(x.float(), weights.float(), gaussians.float(), padding).to(
            x.dtype
        )
    kernels = torch.einsum("cg,guv->cuv", weights, gaussians)
    return F.conv2d(padded(x, kernels.shape[-1], padding), kernels[:, None], groups=x.shape[1])


def mixed(weights: Tensor, gaussians: Tensor) -> Tensor:
    """The kernels (C, k, k) of all channels, in the type that the blur's sums are taken in.

    No matrix product: that may round to TF32, and its bits may depend on the number of threads.
    """
    dtype = accumulator(weights.dtype)
    return (weights.to(dtype)[:, :, None, None] * gaussians.to(dtype)).sum(1)


def check_arguments(x: Tensor, weights: Tensor, gaussians: Tensor, padding: str) -> None:
    check_picture("x", x)
    check_tensor("weights", weights)
    check_tensor("gaussians", gaussians)
    if gaussians.ndim != 3 or gaussians.shape[0] < 1 or gaussians.shape[1] != gaussians.shape[2]:
        raise ValueError(
            f"gaussians: expected (G, k, k) with G of at least 1, got {tuple(gaussians.shape)}"
        )
    check_size("gaussians", gaussians)
    check_shape("weights", weights, (x.shape[1], gaussians.shape[0]))
    check_like("weights", weights, "x", x)
    check_like("gaussians", gaussians, "x", x)
    check_padding(padding, gaussians.shape[2], *x.shape[2:])


register_blur("mixture_blur", "str padding", per_channel=True, windows=lambda padding: (1, padding))
