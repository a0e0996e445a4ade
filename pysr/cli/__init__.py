"""The command line: one file per command, each thin over the library.

Exit codes: 0 the whole job is done; 2 something in what was asked for or given is wrong, said in
one line; 1 a fault of pysr's own, with how to get its details; 130 interrupted. A warning is one
line on stderr too.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import pysr

# Modules are imported when their command is run, so that help and version come at once.
COMMANDS = {
    "upscale": "restore a picture, a clip or a folder of them",
    "inspect": "what happened to a picture: blur kernel, noise, confidence",
    "degrade": "make low-resolution pictures, clips or pairs from clean ones",
    "train": "train a model from a recipe",
    "evaluate": "measure models under a published protocol",
    "export": "write a model for other runtimes: ONNX graphs or TensorRT engines",
    "bench": "time the engines on this machine",
    "models": "list the models that come with pysr",
    "doctor": "what pysr can use on this machine",
}


class CommandError(Exception):
    """What was asked for cannot be done; the message is one line that says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name may not be writable as it is
            stream.reconfigure(errors="backslashreplace")
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        print("pysr: interrupted", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with a command in one line, as all errors are said."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {one_line(message)}; see {self.prog} --help\n")


def _run(arguments: list[str]) -> int:
    parser = _Parser(prog="pysr", description="Blind super-resolution of images and video.")
    parser.add_argument("--version", action="version", version=f"pysr {pysr.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    asked = arguments[0] if arguments else None
    try:
        for name, summary in COMMANDS.items():
            sentence = summary[0].upper() + summary[1:] + "."
            command = commands.add_parser(name, help=summary, description=sentence)
            if name == asked:
                import_module(f"pysr.cli.{name}").add_arguments(command)
        options = parser.parse_args(arguments)
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(
                f"pysr {asked}: warning: {one_line(message)}", file=sys.stderr
            )
            return import_module(f"pysr.cli.{asked}").run(options) or 0
    except BrokenPipeError:
        # The reader of our output has gone; Python would complain once more while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (CommandError, ValueError, TypeError, OSError, MemoryError) as error:
        if "PYSR_DEBUG" in os.environ:
            raise
        print(f"pysr {asked}: {one_line(error) or type(error).__name__}", file=sys.stderr)
        return 2
    except Exception as error:
        if "PYSR_DEBUG" in os.environ:
            raise
        print(
            f"pysr {asked}: {type(error).__name__}: {one_line(error)} "
            "(set PYSR_DEBUG=1 for the details)",
            file=sys.stderr,
        )
        return 1


def one_line(message: object) -> str:
    """What is said of a file, whose name may hold newlines, or of an error."""
    return " ".join(str(message).split())
