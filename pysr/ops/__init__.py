"""Operators: every one has a plain torch reference beside kernels for CPU and CUDA."""

from pysr.ops.basis_svconv import basis_svconv
from pysr.ops.blur_decimate import blur_decimate

__all__ = ["basis_svconv", "blur_decimate"]
