"""Blur every sample with its own kernel and keep every stride-th pixel (dan.txt, equation 1).

The kernels that it runs on, and all but what is said here, it shares with `mixture_blur`: _blur.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pysr import _ext
from pysr.ops._autocast import in_widest_type
from pysr.ops._blur import accumulator, check_blur, register_blur
from pysr.ops._check import HALVES, check_like
from pysr.ops._windows import padded


@in_widest_type
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
    Under autocast all are taken in the widest of their types.

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
    check_blur(x, kernels, stride, "reflect", per_channel=False)
    check_like("kernels", kernels, "x", x)
    if _ext.serves(x.device):
        return torch.ops.pysr.blur_decimate(x, kernels.to(accumulator(x.dtype)), stride)
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


register_blur(
    "blur_decimate", "int stride", per_channel=False, windows=lambda stride: (stride, "reflect")
)
