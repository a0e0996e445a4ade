"""pysr export"""

from __future__ import annotations

import argparse

from pysr.engines import export_onnx
from pysr.nets import load_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a name that `pysr models` lists, or a weights file")
    parser.add_argument("output", help="folder for the ONNX graphs; made if it is missing")


def run(options: argparse.Namespace) -> int:
    for path in export_onnx(load_model(options.model), options.output):
        print(path)
    return 0
