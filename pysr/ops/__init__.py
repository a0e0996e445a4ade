"""Operators: every one has a plain torch reference beside kernels for CPU and CUDA."""

from pysr.ops.blur_decimate import blur_decimate
from pysr.ops.conditional_residual_block import conditional_residual_block

__all__ = ["blur_decimate", "conditional_residual_block"]
