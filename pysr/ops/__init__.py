"""Operators: every one has a plain torch reference beside kernels for CPU and CUDA."""

from pysr.ops.basis_svconv import basis_svconv
from pysr.ops.blur_decimate import blur_decimate
from pysr.ops.conditional_residual_block import (
    conditional_residual_block,
    pack_conditional_residual_block,
)
from pysr.ops.conv_shuffle import conv_shuffle, pack_conv_shuffle
from pysr.ops.mixed_residual_block import mixed_residual_block
from pysr.ops.mixture_blur import mixture_blur
from pysr.ops.svconv import svconv

__all__ = [
    "basis_svconv",
    "blur_decimate",
    "conditional_residual_block",
    "conv_shuffle",
    "mixed_residual_block",
    "mixture_blur",
    "pack_conditional_residual_block",
    "pack_conv_shuffle",
    "svconv",
]
