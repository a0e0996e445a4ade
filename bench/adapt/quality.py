"""What learning at test time gains, and when: PSNR over steps and seconds, for every variant.

    python bench/adapt/quality.py --data ../shared/data/test --pool ../shared/data/train/hr_b

Twelve pictures are degraded by irregular kernels drawn from a seed (Setting 2, as in DIV2KRK). The
start was trained for bicubic downsampling. Every case is a line of the log, and what is there is
not done again, so that it can run in pieces; the table is made from the whole log.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from common import made_by
from torch import Tensor, nn

from pysr import arrays, pictures
from pysr.adapt import Budget, ONSRConfig
from pysr.adapt.anytime import Anytime
from pysr.adapt.onsr import ONSR, first_blur
from pysr.adapt.pool import LEAVES, Patches, open_pool
from pysr.degrade.deep_linear import GivenBlur
from pysr.evaluate import psnr
from pysr.evaluate.protocols import Case, cases
from pysr.files import written_whole
from pysr.nets import load_model

PICTURES = (
    *(f"Set14/{name}" for name in ("comic", "face", "flowers", "foreman", "pepper", "zebra")),
    *(f"BSD100/{name}" for name in ("101085", "103070", "108005", "126007", "148026", "175043")),
)
SEED = 0
CPU = torch.device("cpu")
LARGEST = 4 * (32 + 2 * 5)  # pixels of a sharp patch at x4, with its margin
FOUND = ONSRConfig(batch=2)  # what a step costs decides how many a processor can do
QUICK = replace(FOUND, begin="gaussians", blur_rate=0.02)
METHODS = {
    "onsr": QUICK,
    "onsr, DAN's blur": FOUND,
    "ebsr": replace(QUICK, variant="ebsr"),
    "ib-ebsr": replace(QUICK, variant="ib-ebsr"),
    "ibsr": replace(QUICK, variant="ibsr"),
    "joint": replace(QUICK, joint=True),
    "ib-eb-gsr": replace(QUICK, variant="ib-eb-gsr"),
    "ebsr, DAN's blur": replace(FOUND, variant="ebsr"),
    "dead leaves": FOUND,
    "true blur": FOUND,
}


class Watched(ONSR):
    """Notes the PSNR of all that the loop has restored to judge it."""

    def watch(self, hr: Tensor) -> None:
        self.hr, self.seen, self.started = hr, [], time.perf_counter()

    def restore(self, lr: Tensor) -> Tensor:
        sr = super().restore(lr)
        if len(lr) == 1 and sr.shape == self.hr.shape:
            seconds = time.perf_counter() - self.started
            self.seen.append((round(seconds, 2), round(psnr(sr, self.hr, self.scale), 3)))
        return sr


def learn(method: str, case: Case, model: nn.Module, pool: Patches, steps: int) -> dict:
    """One case; `curve` has seconds and PSNR of the start and of every look after it."""
    scale, config = model.config.scale, METHODS[method]
    if method == "true blur":
        degradation = GivenBlur(scale, case.kernel, "decimate")
    else:
        degradation = first_blur(case.lr, model, config)
    learner = Watched(copy.deepcopy(model), case.lr, pool, degradation, config, SEED)
    learner.watch(case.hr)
    loop = Anytime(learner, [case.lr], scale, Budget(steps=steps), time.perf_counter())
    report = loop.run(method)
    kept = 0 if report.rolled_back else loop.best.step
    looks = [0, *(check.step for check in report.history)]
    return {
        "before": learner.seen[0][1],
        "after": learner.seen[looks.index(kept)][1],
        "seconds": round(report.seconds, 1),
        "consistency": [round(report.consistency_before, 2), round(report.consistency_after, 2)],
        "reason": report.reason,
        "curve": learner.seen,
    }


def table(lines: list[dict]) -> list[dict]:
    """Means over pictures, for every method, scale and number of steps."""
    rows = []
    for key in sorted({(line["scale"], line["steps"], line["method"]) for line in lines}):
        mine = [line for line in lines if (line["scale"], line["steps"], line["method"]) == key]
        looks = zip(*(line["curve"] for line in mine), strict=False)
        rows.append(
            {
                **dict(zip(("scale", "steps", "method"), key, strict=True)),
                "pictures": len(mine),
                "before": mean(line["before"] for line in mine),
                "after": mean(line["after"] for line in mine),
                "gain": mean(line["after"] - line["before"] for line in mine),
                "worst gain": round(min(line["after"] - line["before"] for line in mine), 3),
                "seconds": mean(line["seconds"] for line in mine),
                "curve": [[mean(seen[i] for seen in look) for i in (0, 1)] for look in looks],
            }
        )
    return sorted(rows, key=lambda row: (row["scale"], row["steps"], -row["gain"]))


def mean(values) -> float:
    values = list(values)
    return round(sum(values) / len(values), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of Set14 and BSD100")
    parser.add_argument("--pool", type=Path, required=True, help="a folder of sharp pictures")
    parser.add_argument("--model", default="rrdb-lite-x{scale}", help="{scale} stands for 2 or 4")
    parser.add_argument("--method", action="append", choices=METHODS)
    parser.add_argument("--scale", type=int, action="append", choices=(2, 4))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--log", type=Path, default=Path("adapt_quality.jsonl"))
    parser.add_argument("--results", type=Path, help="write the table as JSON")
    options = parser.parse_args()
    options.log.touch()
    lines = [json.loads(line) for line in options.log.read_text().splitlines()]
    done = {(line["method"], line["scale"], line["picture"], line["steps"]) for line in lines}
    drawn, pool = (open_pool(source, LARGEST, SEED, CPU) for source in (LEAVES, options.pool))
    for scale in options.scale or (2, 4):
        model = load_model(options.model.format(scale=scale))
        for index, name in enumerate(PICTURES):
            hr = arrays.unpack(pictures.read(options.data / f"{name}.png").pixels).rgb
            (case,) = cases("div2krk", scale, hr, index, SEED)
            for method in options.method or METHODS:
                if (method, scale, name, options.steps) in done:
                    continue
                leaves = method == "dead leaves"
                result = learn(method, case, model, drawn if leaves else pool, options.steps)
                keys = {"method": method, "scale": scale, "picture": name, "steps": options.steps}
                lines.append(keys | result)
                with options.log.open("a") as log:
                    log.write(json.dumps(lines[-1]) + "\n")
    rows = table(lines)
    print("| scale | steps | method | pictures | before | after | gain | worst | s |")
    print("|---" * 9 + "|")
    for row in rows:
        print("|", " | ".join(str(value) for value in list(row.values())[:-1]), "|")
    if options.results:
        with written_whole(options.results) as beside:
            beside.write_text(
                json.dumps({**made_by(), "seed": SEED, "rows": rows}, indent=1) + "\n"
            )


if __name__ == "__main__":
    main()
