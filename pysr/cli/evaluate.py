"""pysr evaluate --protocol P --scale S --data DIR"""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.progress import Progress

from pysr import degrade
from pysr.cli.options import adaptation, add_adapt_arguments, check_writable
from pysr.evaluate import PROTOCOLS, evaluate
from pysr.files import write_json
from pysr.nets import DEFAULTS, default_model
from pysr.upscaler import usable_device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    settings = parser.add_mutually_exclusive_group()
    settings.add_argument("--protocol", choices=PROTOCOLS, default="gaussian8")
    settings.add_argument("--degradation", metavar="FILE", help="a learned degradation instead")
    parser.add_argument("--scale", type=int, default=4, help="2, 3 or 4 (default: 4)")
    parser.add_argument("--data", required=True, help="a folder of HR pictures")
    parser.add_argument(
        "--model",
        action="append",
        help="a name or file; may be given again; none for interpolation alone "
        "(default: the shipped DAN of that scale)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--seed", type=int, default=0, help="of div2krk's kernels (default: 0)")
    parser.add_argument("--limit", type=int, help="only the first so many pictures")
    add_adapt_arguments(parser)
    parser.add_argument("--json", metavar="FILE", help="write the table as JSON too")


def run(options: argparse.Namespace) -> int:
    usual = []
    if options.scale in DEFAULTS:
        many_on = usable_device(options.device) if options.adapt else None
        usual = [default_model(options.scale, many_on)]
    models = options.model or usual
    if "none" in models:
        if len(models) > 1 or options.adapt:
            raise ValueError("model: none is interpolation alone, without --adapt or other models")
        models = []
    check_writable(options.data, options.degradation, *models, json=options.json)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("pictures", total=None)
        report = evaluate(
            degrade.load(options.degradation) if options.degradation else options.protocol,
            options.scale,
            options.data,
            models,
            seed=options.seed,
            limit=options.limit,
            device=options.device,
            learning=adaptation(options),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if options.json:
        write_json(options.json, report.as_json())
    Console().print(report.table())
    return 0
