"""Measure every shipped model under the published protocols: JSON in bench/results, and a table.

    python bench/measure_models.py --data DIR [--only dan-lite-x4]

DIR holds the folders Set5, Set14 and BSD100 with HR pictures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

from pysr.evaluate import Report, evaluate
from pysr.nets import SHIPPED

RESULTS = Path(__file__).parent / "results"
# Protocol, folder, and how many of its pictures (None: all): what a 2-core machine does in minutes.
TABLE = (
    ("gaussian8", "Set5", None),
    ("gaussian8", "Set14", None),
    ("gaussian8-decimate", "Set5", None),
    ("div2krk", "BSD100", 30),
    ("bicubic", "Set5", None),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--only", choices=SHIPPED, action="append")
    options = parser.parse_args()
    print(
        "| setting | pictures | method | PSNR dB | SSIM | kernel error |\n|---|---|---|---|---|---|"
    )
    for name in options.only or SHIPPED:
        scale = int(name[-1])
        for protocol, folder, limit in TABLE:
            report = evaluate(protocol, scale, Path(options.data) / folder, [name], limit=limit)
            save(report, name, folder, limit)
            for row in report.rows:
                error = "" if row.kernel_error is None else f"{row.kernel_error:.3f}"
                print(
                    f"| {protocol} x{scale} | {folder} ({report.pictures}) | {row.method} "
                    f"| {row.psnr:.2f} | {row.ssim:.4f} | {error} |",
                    flush=True,
                )


def save(report: Report, name: str, folder: str, limit: int | None) -> None:
    command = (
        f"pysr evaluate --protocol {report.protocol} --scale {report.scale} "
        f"--data {folder} --model {name}" + (f" --limit {limit}" if limit else "")
    )
    commit = ["git", "rev-parse", "--short", "HEAD"]
    content = {
        "command": command,
        "commit": subprocess.run(commit, capture_output=True, text=True).stdout.strip(),
        **json.loads(report.to_json()),
        "data": folder,
    }
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"{name}_{report.protocol}_{folder}.json"
    target.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
