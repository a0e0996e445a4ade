"""pysr export"""

from __future__ import annotations

import argparse

import torch

from pysr.cli import CommandError
from pysr.engines import PRECISIONS, ExportError, export_onnx
from pysr.engines.tensorrt_build import (
    PACKAGES,
    Target,
    TensorRTError,
    export_tensorrt,
    local_target,
    rtx_target,
)
from pysr.nets import load_dan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a name that `pysr models` lists, or a weights file")
    parser.add_argument("output", help="folder for the files; made if it is missing")
    parser.add_argument("--format", choices=("onnx", *PACKAGES), default="onnx")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="what it computes in (default: float32 for onnx, else float16)",
    )
    parser.add_argument(
        "--target",
        help="GPUs that tensorrt-rtx builds for, without having them: sm89,sm120 (default: this "
        "machine's); tensorrt builds for this machine's alone",
    )


def run(options: argparse.Namespace) -> int:
    if options.target and options.format != "tensorrt-rtx":
        raise CommandError(f"--target is for tensorrt-rtx, not for {options.format}")
    model = load_dan(options.model)
    try:
        if options.format == "onnx":
            files = export_onnx(model, options.output, options.precision or "float32")
        else:
            target = _target(options)
            files = export_tensorrt(model, options.output, target, options.precision or "float16")
    except (ExportError, TensorRTError) as error:
        raise CommandError(str(error)) from None
    for path in files:
        print(path)
    return 0


def _target(options: argparse.Namespace) -> Target:
    if options.target:
        return rtx_target(*options.target.split(","))
    if not torch.cuda.is_available():
        other = "; --format tensorrt-rtx --target sm89 builds for one that is not here"
        raise CommandError(f"no GPU here that torch can use{other}")
    return local_target(options.format, torch.device("cuda"))
