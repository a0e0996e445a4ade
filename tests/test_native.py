"""Builds and runs the native tests under AddressSanitizer and UndefinedBehaviorSanitizer.

They call the launchers without Python: the CPU kernels of every instruction set, and the CUDA
sources under the emulator.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))) or shutil.which("cmake") is None,
    reason="no C++ compiler or no cmake",
)
def test_native_kernels_under_sanitizers():
    build = ROOT / "build" / "native"  # kept, so that only what changed is compiled again
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    options = ["-DPYSR_BINDINGS=OFF", "-DPYSR_TESTS=ON", "-DPYSR_SANITIZE=ON", "-DPYSR_CUDA=OFF"]
    run("cmake", "-S", str(ROOT), "-B", str(build), *generator, *options)
    run("cmake", "--build", str(build), "--parallel", str(os.cpu_count()))
    run("ctest", "--test-dir", str(build), "--output-on-failure", "--parallel", "2")
