"""Prints what each CUDA kernel takes per shipped architecture: registers, shared memory, spills.

    python scripts/cuda_report.py [sm_90a ...]

Compiles with warnings as errors. Needs nvcc, but no GPU. Exits non-zero on a warning or a spill.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURES = ["sm_80", "sm_90a", "sm_120"]
KERNEL = re.compile(
    r"Function properties for (?P<name>\S+)\n"
    r"\s*(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads\n"
    r"ptxas info\s*: Used (?P<registers>\d+) registers(?P<rest>[^\n]*)"
)


def readable(names: list[str]) -> list[str]:
    """Kernel names without namespaces and parameters."""
    plain = subprocess.run(["c++filt", *names], capture_output=True, text=True, check=True).stdout
    plain = plain.replace("(anonymous namespace)::", "").replace("pysr::", "")
    return [re.sub(r"^void |\(.*$", "", name) for name in plain.splitlines()]


def report(source: Path, architecture: str) -> tuple[list[str], int]:
    """Compiles; returns one line per kernel, and how many spill."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["nvcc", "-std=c++17", "-O3", f"-arch={architecture}", f"-I{ROOT / 'csrc'}"]
        command += ["-Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra", "-Xptxas", "-v"]
        command += ["-c", str(source), "-o", str(Path(folder) / "out.o")]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stdout + done.stderr)
    kernels = list(KERNEL.finditer(done.stdout + done.stderr))
    if not kernels:
        sys.exit(f"{source.name}: found no kernel in the output of ptxas")
    lines, spilling = [], 0
    for name, kernel in zip(readable([k["name"] for k in kernels]), kernels, strict=True):
        shared = re.search(r"(\d+) bytes smem", kernel["rest"])
        spills = int(kernel["stores"]) + int(kernel["loads"])
        spilling += spills > 0
        lines.append(
            f"{architecture:7} {name:42} {kernel['registers']:>3} registers, "
            f"{shared[1] if shared else 0:>6} B static shared, {kernel['stack']:>4} B stack, "
            f"{spills:>4} B spilled"
        )
    return lines, spilling


def main() -> None:
    sources = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    jobs = list(product(sources, sys.argv[1:] or ARCHITECTURES))
    spilling = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for lines, spills in pool.map(report, *zip(*jobs, strict=True)):
            print("\n".join(lines), flush=True)
            spilling += spills
    if spilling:
        sys.exit(f"{spilling} kernels spill registers")


if __name__ == "__main__":
    main()
