"""Measure every shipped model under the published protocols: JSON in bench/results, and a table.

    python bench/measure_models.py --data DIR [--only dan-lite-x4]

DIR holds the folders Set5, Set14 and BSD100 with HR pictures.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

from records import RESULTS, made_by

from pysr.evaluate import Report, evaluate
from pysr.nets import DAN, SHIPPED, load_model
from pysr.nets.vdsr import VDSR

# Protocol, folder, and how many of its pictures (None: all): what a 2-core machine does in minutes.
BLIND = (
    ("gaussian8", "Set5", None),
    ("gaussian8", "Set14", None),
    ("gaussian8", "BSD100", None),
    ("gaussian8-decimate", "Set5", None),
    ("gaussian8-jpeg", "Set5", None),
    ("div2krk", "BSD100", 30),
    ("bicubic", "Set5", None),
)
# What plain networks were trained for.
BICUBIC = (("bicubic", "Set5", None), ("bicubic", "Set14", None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--only", choices=SHIPPED, action="append")
    options = parser.parse_args()
    print(
        "| setting | pictures | method | PSNR dB | SSIM | kernel error |\n|---|---|---|---|---|---|"
    )
    for name in options.only or SHIPPED:
        model = load_model(name)
        scales = (2, 3, 4) if isinstance(model, VDSR) else (model.config.scale,)
        table = BLIND if isinstance(model, DAN) else BICUBIC
        for scale, (protocol, folder, limit) in itertools.product(scales, table):
            report = evaluate(protocol, scale, Path(options.data) / folder, [name], limit=limit)
            save(report, name if len(scales) == 1 else f"{name}-x{scale}", folder, limit)
            for row in report.rows:
                error = "" if row.kernel_error is None else f"{row.kernel_error:.3f}"
                print(
                    f"| {protocol} x{scale} | {folder} ({report.pictures}) | {row.method} "
                    f"| {row.psnr:.2f} | {row.ssim:.4f} | {error} |",
                    flush=True,
                )


def save(report: Report, label: str, folder: str, limit: int | None) -> None:
    command = (
        f"pysr evaluate --protocol {report.protocol} --scale {report.scale} "
        f"--data {folder} --model {report.rows[-1].method}" + (f" --limit {limit}" if limit else "")
    )
    content = {**made_by(command), **report.as_json(), "data": folder}
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"{label}_{report.protocol}_{folder}.json"
    target.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
