"""pysr models"""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from pysr.nets import SHIPPED, load_model
from pysr.nets.registry import WEIGHTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="print this model's card")


def run(options: argparse.Namespace) -> int:
    if options.name is not None:
        if options.name not in SHIPPED:
            raise ValueError(f"model: expected one of {', '.join(SHIPPED)}, got {options.name!r}")
        print((WEIGHTS / SHIPPED[options.name].file).with_suffix(".md").read_text(), end="")
        return 0
    table = Table("name", "scale", "parameters", "file", "what for")
    for name, entry in SHIPPED.items():
        model = load_model(name)
        parameters = sum(p.numel() for p in model.parameters())
        size = (WEIGHTS / entry.file).stat().st_size
        table.add_row(
            name, f"x{model.config.scale}", f"{parameters / 1e6:.2f} M", f"{size / 1e6:.1f} MB",
            entry.summary,
        )  # fmt: skip
    Console().print(table)
    return 0
