"""pysr bench engines"""

from __future__ import annotations

import argparse
import re

from rich.console import Console

from pysr.cli import CommandError
from pysr.cli.options import check_writable
from pysr.evaluate.speed import measure_engines
from pysr.files import write_json
from pysr.nets import default_model
from pysr.upscaler import usable_device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("engines",), help="every engine in every precision")
    parser.add_argument(
        "--model", help="a name or file (default: the shipped DAN that clips have here)"
    )
    parser.add_argument("--size", default="480x320", help="WxH of the input (default: 480x320)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--json", metavar="FILE", help="write the table as JSON too")


def run(options: argparse.Namespace) -> int:
    size = re.fullmatch(r"(\d+)x(\d+)", options.size)
    if size is None:
        raise ValueError(f"size: expected WxH, such as 480x320, got {options.size!r}")
    device = usable_device(options.device)
    model = options.model or default_model(many_on=device)
    check_writable(json=options.json)
    console = Console(stderr=True)
    with console.status("measuring"):
        report = measure_engines(model, tuple(int(n) for n in size.groups()), device)
    if not report.speeds:
        reasons = "; ".join(f"{name}: {why}" for name, why in report.obstacles.items())
        raise CommandError(f"nothing was measured: {reasons}")
    if options.json:
        write_json(options.json, report.as_json())
    out = Console()
    out.print(report.table())
    for name, obstacle in report.obstacles.items():
        out.print(f"not {name}: {obstacle}", highlight=False, markup=False, soft_wrap=True)
    return 0
