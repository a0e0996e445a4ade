"""The only importer of pysr._C, the compiled kernels.

Importing pysr does not fail for want of them: operators fall back to their plain torch references,
and what cannot do so calls `require`, which explains. `report` is what ``pysr doctor`` shows.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass

import torch

try:
    from pysr import _C
except ImportError as error:
    _C = None
    _REASON = str(error)
else:
    _REASON = ""

# Device types that there are kernels for.
DEVICES = frozenset(
    device
    for device, present in (
        ("cpu", _C is not None),
        ("cuda", _C is not None and _C.cuda_version is not None),
    )
    if present
)

# The largest side of a kernel that pictures are blurred with.
MOST_TAPS = 64

# The CPU instruction set in use, None without kernels.
ISA: str | None = None if _C is None else _C.isa()

# Types that the kernels take, with the numbers that csrc/common/dtype.h gives them.
DTYPES = {getattr(torch, name): code for name, code in (_C.dtypes if _C else {}).items()}

# Paddings by name, with the numbers that csrc/common/window.h gives them.
PADDINGS: dict[str, int] = _C.paddings if _C else {}


@dataclass(frozen=True)
class Report:
    """State of the compiled kernels.

    Attributes:
        built: whether pysr._C could be imported.
        reason: why not; empty when built.
        cuda: version of the CUDA runtime that the kernels were compiled with, None without them.
        cuda_architectures: GPU architectures compiled for.
        isa: CPU instruction set in use (baseline, avx2, avx512 or amx; PYSR_ISA lowers it).
        isas: those that this processor can run, best first.
        threads: threads that the CPU kernels use, those of torch.
    """

    built: bool
    reason: str
    cuda: str | None
    cuda_architectures: tuple[str, ...]
    isa: str | None
    isas: tuple[str, ...]
    threads: int


def report() -> Report:
    if _C is None:
        return Report(False, _REASON, None, (), None, (), torch.get_num_threads())
    cuda = _C.cuda_version
    return Report(
        built=True,
        reason="",
        cuda=None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        cuda_architectures=tuple(_C.cuda_architectures.split()),
        isa=ISA,
        isas=tuple(_C.isas()),
        threads=torch.get_num_threads(),
    )


@torch.compiler.assume_constant_result
def serves(device: torch.device) -> bool:
    """Whether the kernels run on this device; compiled graphs can branch on it."""
    if device.type not in DEVICES:
        return False
    return device.type != "cuda" or cuda_obstacle(device.index) == ""


def cuda_obstacle(index: int | None = None) -> str:
    """Why CUDA kernels that are there do not run on a GPU (None: the current one), in CUDA's words:
    it, or its driver, may be older than they are. Empty if they do."""
    if not torch.cuda.is_available():
        return "torch can use no GPU"
    return _obstacle_of(torch.cuda.current_device() if index is None else index)


@functools.cache
def _obstacle_of(index: int) -> str:
    with torch.cuda.device(index):
        return _C.cuda_obstacle()


def release_memory() -> None:
    """Free what the CPU kernels keep for the next calls of all threads."""
    if _C is not None:
        _C.release_memory()


def require(device_type: str = "cpu"):
    """The module pysr._C, with kernels for this device type.

    Raises:
        RuntimeError: if it is missing or has none, with the likely causes.
    """
    if _C is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise RuntimeError(
            f"pysr._C, the compiled kernels, could not be imported ({_REASON}). Likely causes: "
            f"they are not built yet (run `pip install -e .` in the source tree); they were built "
            f"for another Python than this {version}; or a library that they link is missing. "
            f"`pysr doctor` shows more."
        )
    if device_type not in DEVICES:
        raise RuntimeError(
            f"pysr._C has no kernels for {device_type}: it was built without nvcc. Reinstall pysr "
            f"where nvcc is on the path, with PYSR_CUDA=ON to make its absence an error."
        )
    return _C
