"""What learning at test time gains, and when: PSNR over steps and seconds, for every variant.

    python bench/adapt/quality.py --data ../shared/data/test --pool ../shared/data/train/hr_b

Twelve pictures are degraded by irregular kernels drawn from a seed (Setting 2, as in DIV2KRK), or
by a defocus that grows across the picture (--field). The start was trained for bicubic
downsampling, unless another model is named. Every case is a line of the log, and what is there is
not done again, so that it can run in pieces; the table is made from the whole log, and the first
columns say by which options a row came about.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from varying import VaryingBlur, defocused

from pysr import arrays, blur, pictures
from pysr.adapt import ZSSR, Budget, ONSRConfig, ZSSRSizes, dsr, zssr
from pysr.adapt.anytime import Anytime
from pysr.adapt.onsr import ONSR, first_blur
from pysr.adapt.picture import estimated_kernel
from pysr.adapt.pool import LEAVES, Patches, open_pool
from pysr.degrade.deep_linear import GivenBlur
from pysr.evaluate import psnr
from pysr.evaluate.protocols import Case, cases
from pysr.files import written_whole
from pysr.nets import load_model

sys.path.append(str(Path(__file__).parent.parent))
from records import made_by  # noqa: E402

PICTURES = (
    *(f"Set14/{name}" for name in ("comic", "face", "flowers", "foreman", "pepper", "zebra")),
    *(f"BSD100/{name}" for name in ("101085", "103070", "108005", "126007", "148026", "175043")),
)
KEYS = ("model", "field", "scale", "steps", "method")
SEED = 0
CPU = torch.device("cpu")
LARGEST = 4 * (32 + 2 * 5)  # pixels of a sharp patch at x4, with its margin
FOUND = ONSRConfig(batch=2)  # what a step costs decides how many a processor can do
QUICK = replace(FOUND, begin="gaussians", blur_rate=0.02)


@dataclass(frozen=True)
class Method:
    """A way to learn.

    Attributes:
        config: of ONSR.
        blur: what Gd is: "learned", "true" or "varying".
        leaves: the pool is of drawn pictures.
        taught: parts of the names of those weights that learn; all, if empty.
        other: learns instead of ONSR: model, picture, blur and steps to what restores pictures.
    """

    config: ONSRConfig = FOUND
    blur: str = "learned"
    leaves: bool = False
    taught: tuple[str, ...] = ()
    other: Callable[[nn.Module, Tensor, Tensor, int], nn.Module] | None = None


def by_dsr(model: nn.Module, lr: Tensor, kernel: Tensor, steps: int) -> nn.Module:
    return dsr(model, lr, budget=steps, kernel=kernel, device="cpu").upscaler.model


def by_finer_zssr(model: nn.Module, lr: Tensor, kernel: Tensor, steps: int) -> nn.Module:
    return by_dsr(ZSSR(ZSSRSizes(model.config.scale)), lr, kernel, steps)


def by_zssr(model: nn.Module, lr: Tensor, kernel: Tensor, steps: int) -> nn.Module:
    scale = model.config.scale
    return zssr(lr, scale, budget=steps, kernel=kernel, device="cpu").upscaler.model


METHODS = {
    "onsr": Method(QUICK),
    "onsr, DAN's blur": Method(FOUND),
    "ebsr": Method(replace(QUICK, variant="ebsr")),
    "ib-ebsr": Method(replace(QUICK, variant="ib-ebsr")),
    "ibsr": Method(replace(QUICK, variant="ibsr")),
    "joint": Method(replace(QUICK, joint=True)),
    "ib-eb-gsr": Method(replace(QUICK, variant="ib-eb-gsr")),
    "ebsr, DAN's blur": Method(replace(FOUND, variant="ebsr")),
    "dead leaves": Method(leaves=True),
    "true blur": Method(blur="true"),
    "varying blur": Method(blur="varying"),
    "last layers": Method(taught=("trunk_conv", "upconv", "HRconv", "conv_last")),
    "biases": Method(taught=("bias",)),
    "dsr": Method(other=by_dsr),
    "zssr": Method(other=by_zssr),
    "lr finer + zssr": Method(other=by_finer_zssr),
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


def learn(method: Method, case: Case, model: nn.Module, pool: Patches, steps: int) -> dict:
    """One case; `curve` has seconds and PSNR of the start and of every look after it."""
    if method.other is not None:
        return learn_otherwise(method, case, model, steps)
    model = copy.deepcopy(model)
    gd = degradation(method, case, model)
    learner = Watched(model, case.lr, pool, gd, method.config, SEED)
    for name, weights in model.named_parameters():
        weights.requires_grad_(any(part in name for part in method.taught or (name,)))
    if isinstance(gd, VaryingBlur):
        gd.hasten(learner)
    learner.watch(case.hr)
    loop = Anytime(learner, [case.lr], Budget(steps=steps), time.perf_counter())
    report = loop.run("onsr")
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


def degradation(method: Method, case: Case, model: nn.Module) -> nn.Module:
    """Gd as it begins."""
    scale = model.config.scale
    if method.blur == "true":
        return GivenBlur(scale, blur.aligned(case.kernel, scale), "decimate")
    begin = first_blur(case.lr, model, method.config)
    return VaryingBlur(scale, begin.kernel().detach()) if method.blur == "varying" else begin


@torch.no_grad()
def learn_otherwise(method: Method, case: Case, model: nn.Module, steps: int) -> dict:
    """The same for what is no ONSR: from the blur that DAN estimates, with the last look alone."""
    kernel, started = estimated_kernel(case.lr, model), time.perf_counter()
    with torch.enable_grad():
        learned = method.other(model, case.lr, kernel, steps)
    seconds = round(time.perf_counter() - started, 1)
    restored = (model(case.lr), learned(case.lr))
    before, after = (round(psnr(sr.clamp(0, 1), case.hr, learned.scale), 3) for sr in restored)
    curve = [[0.0, before], [seconds, after]]
    return {"before": before, "after": after, "seconds": seconds, "curve": curve}


def seen_case(name: str, index: int, scale: int, options: argparse.Namespace) -> Case:
    """A picture as it came in."""
    hr = arrays.unpack(pictures.read(options.data / f"{name}.png").pixels).rgb
    (case,) = cases("div2krk", scale, hr, index, SEED)
    if options.field == "defocus":
        return Case(case.hr, defocused(case.hr, scale), None)
    return case


def table(lines: list[dict]) -> list[dict]:
    """Means over pictures, for every method, scale and number of steps."""
    rows = []
    for key in sorted({keys_of(line) for line in lines}):
        mine = [line for line in lines if keys_of(line) == key]
        looks = zip(*(line["curve"] for line in mine), strict=False)
        rows.append(
            {
                **dict(zip(KEYS, key, strict=True)),
                "pictures": len(mine),
                "before": mean(line["before"] for line in mine),
                "after": mean(line["after"] for line in mine),
                "gain": mean(line["after"] - line["before"] for line in mine),
                "worst gain": round(min(line["after"] - line["before"] for line in mine), 3),
                "seconds": mean(line["seconds"] for line in mine),
                "curve": [[mean(seen[i] for seen in look) for i in (0, 1)] for look in looks],
            }
        )
    return sorted(rows, key=lambda row: (*keys_of(row)[:-1], -row["gain"]))


def keys_of(line: dict) -> tuple:
    return tuple(line[key] for key in KEYS)


def mean(values) -> float:
    values = list(values)
    return round(sum(values) / len(values), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of Set14 and BSD100")
    parser.add_argument("--pool", type=Path, required=True, help="a folder of sharp pictures")
    parser.add_argument("--model", default="rrdb-lite-x{scale}", help="{scale} stands for 2 or 4")
    parser.add_argument("--method", action="append", choices=METHODS)
    parser.add_argument("--field", default="irregular", choices=("irregular", "defocus"))
    parser.add_argument("--scale", type=int, action="append", choices=(2, 4))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--log", type=Path, default=Path("adapt_quality.jsonl"))
    parser.add_argument("--results", type=Path, help="write the table as JSON")
    options = parser.parse_args()
    options.log.touch()
    lines = [json.loads(line) for line in options.log.read_text().splitlines()]
    done = {(*keys_of(line), line["picture"]) for line in lines}
    drawn, pool = (open_pool(source, LARGEST, SEED, CPU) for source in (LEAVES, options.pool))
    for scale in options.scale or (2, 4):
        model = load_model(options.model.format(scale=scale))
        for index, name in enumerate(PICTURES):
            case = seen_case(name, index, scale, options)
            for method in options.method or METHODS:
                key = (options.model, options.field, scale, options.steps, method)
                if (*key, name) in done:
                    continue
                chosen = METHODS[method]
                sharp = drawn if chosen.leaves else pool
                result = learn(chosen, case, model, sharp, options.steps)
                lines.append({**dict(zip(KEYS, key, strict=True)), "picture": name} | result)
                with options.log.open("a") as log:
                    log.write(json.dumps(lines[-1]) + "\n")
    rows = table(lines)
    print("|", " | ".join([*KEYS, "pictures", "before", "after", "gain", "worst", "s"]), "|")
    print("|---" * 11 + "|")
    for row in rows:
        print("|", " | ".join(str(value) for value in list(row.values())[:-1]), "|")
    if options.results:
        with written_whole(options.results) as beside:
            beside.write_text(
                json.dumps({**made_by(), "seed": SEED, "rows": rows}, indent=1) + "\n"
            )


if __name__ == "__main__":
    main()
