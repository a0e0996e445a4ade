"""Builds pysr._C by calling CMake; everything native is decided in CMakeLists.txt.

Environment: PYSR_CUDA (AUTO, ON or OFF) and CMAKE_ARGS reach CMake as they are.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    def build_extension(self, ext):
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = (Path(self.build_temp) / "cmake").resolve()
        configure = [
            "cmake",
            *("-S", str(ROOT), "-B", str(build), "-G", "Ninja"),
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DPYSR_CUDA={os.environ.get('PYSR_CUDA', 'AUTO')}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]
        # A build folder remembers the compilers and tools that it was made with, which an isolated
        # build takes from a folder of its own, gone the next time.
        subprocess.run([*configure, "--fresh"], check=True)
        subprocess.run(["cmake", "--build", str(build), "--target", "_C"], check=True)


setup(ext_modules=[Extension("pysr._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
