"""What pysr's shortcuts, and not knowing the blur, cost in PSNR, from the same weights.

    python bench/quality.py loop --data DIR [--model dan-lite-x2] [--join N] [--limit N]
        [--json FILE]
    python bench/quality.py precision --data DIR [--model dan-lite-x4] [--limit N] [--json FILE]
    python bench/quality.py told --data DIR [--model dan-x4] [--limit N] [--json FILE]
    python bench/quality.py clean --data DIR [--model dan-x4] [--limit N] [--json FILE]

loop: estimating on crops, by a scout where the model has one, and restoring once, beside the
published full-size loop, and pysr's exact loop beside both, on three of gaussian8's blurs a
picture. Only pictures of more than about 51000 LR pixels are estimated on crops; smaller ones are
restored by the published loop anyway and are left out. With --join N pictures are N times N of the
folder's, in a square, which makes large ones of small.

precision: every engine in every half precision that works here, beside torch in float32, blind, on
one of gaussian8's blurs a picture, by turns.

told: the true kernel given, beside the one that is estimated, on three of gaussian8's blurs a
picture: what a better Estimator could still gain.

clean: what bicubic downsampling alone made small, beside interpolation: no picture may come out
below it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from published import loop
from records import made_by
from torch import Tensor

import pysr
from pysr import engines, nets, pictures
from pysr.arrays import unpack
from pysr.degrade import imresize, to_8bit
from pysr.evaluate import Case, cases, psnr
from pysr.tiling import ESTIMATE_CROP, ESTIMATE_CROPS

CPU = torch.device("cpu")
Method = Callable[[Case], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=METHODS)
    parser.add_argument("--join", type=int, default=1, help="of so many pictures a side")
    add_arguments(parser, "dan-lite-x2")
    options = parser.parse_args()
    scale = nets.load_model(options.model).config.scale
    methods = METHODS[options.what](options.model)
    names, rows = list(methods), []
    for name, case in given(options, scale):
        with torch.inference_mode():
            values = [psnr(method(case), case.hr, scale) for method in methods.values()]
        rows.append(values)
        print(name, ", ".join(f"{n} {v:.3f}" for n, v in zip(names, values, strict=True)), "dB")
        sys.stdout.flush()
    write_summary(options, names, rows)


def add_arguments(parser: argparse.ArgumentParser, model: str) -> None:
    parser.add_argument("--model", default=model)
    parser.add_argument("--data", required=True, help="a folder of HR pictures")
    parser.add_argument("--limit", type=int, help="only the first so many pictures")
    parser.add_argument("--json", metavar="FILE")


def loops(model: str) -> dict[str, Method]:
    network, upscaler = nets.load_model(model), pysr.load(model, device="cpu")
    methods = {
        "published loop": lambda case: to_8bit(loop(network, case.lr)),
        "pysr, exact": lambda case: upscaler(case.lr, exact=True).image,
        "pysr": lambda case: upscaler(case.lr).image,
    }
    if nets.load_scout(model):
        alone = pysr.Upscaler(network, device="cpu")
        methods["pysr, without its scout"] = lambda case: alone(case.lr).image
    return methods


def precisions(model: str) -> dict[str, Method]:
    kinds = [("torch", "float32")]
    kinds += [
        (engine, precision)
        for engine in engines.ENGINES
        for precision in ("bfloat16", "float16")
        if not engines.ENGINES[engine].obstacle(CPU, precision)
    ]

    def method(engine: str, precision: str) -> Method:
        upscaler = pysr.load(model, device="cpu", engine=engine, precision=precision)
        return lambda case: upscaler(case.lr).image

    return {f"{engine} {precision}": method(engine, precision) for engine, precision in kinds}


def told(model: str) -> dict[str, Method]:
    upscaler = pysr.load(model, device="cpu")
    return {
        "told the kernel": lambda case: upscaler(case.lr, kernel=case.kernel).image,
        "blind": lambda case: upscaler(case.lr).image,
    }


def clean(model: str) -> dict[str, Method]:
    upscaler = pysr.load(model, device="cpu")
    return {
        "interpolation": lambda case: to_8bit(imresize(case.lr, upscaler.scale)),
        "pysr": lambda case: upscaler(case.lr).image,
    }


METHODS = {"loop": loops, "precision": precisions, "told": told, "clean": clean}


def given(options: argparse.Namespace, scale: int) -> Iterator[tuple[str, Case]]:
    """Every case to restore, by the name of its picture."""
    for index, (name, hr) in enumerate(itertools.islice(sharp(options), options.limit)):
        large = hr.shape[-2] * hr.shape[-1] >= scale**2 * ESTIMATE_CROPS * ESTIMATE_CROP**2
        if options.what == "loop" and not large:
            continue
        made = list(cases("bicubic" if options.what == "clean" else "gaussian8", scale, hr))
        for case in [made[index % len(made)]] if options.what == "precision" else made[::3]:
            yield name, case


def sharp(options: argparse.Namespace) -> Iterator[tuple[str, Tensor]]:
    """HR pictures (1, 3, H, W), joined or not, by the first one's name."""
    paths, n = pictures.listing(options.data), options.join
    for first in range(0, len(paths) - n * n + 1, n * n):
        parts = [unpack(pictures.read(path).pixels).rgb for path in paths[first : first + n * n]]
        if n > 1:
            parts = [part if part.shape[-1] > part.shape[-2] else part.mT for part in parts]
        height, width = (min(part.shape[axis] for part in parts) for axis in (-2, -1))
        parts = [part[..., :height, :width] for part in parts]
        rows = [torch.cat(parts[i : i + n], -1) for i in range(0, n * n, n)]
        yield paths[first].name, torch.cat(rows, -2)


def write_summary(options: argparse.Namespace, names: list[str], rows: list[list[float]]) -> None:
    """Mean PSNR of every method, and what it loses against the first, in dB."""
    methods = {}
    for name, column in zip(names, zip(*rows, strict=True), strict=True):
        losses = [row[0] - value for row, value in zip(rows, column, strict=True)]
        gains = [value - row[0] for row, value in zip(rows, column, strict=True)]
        methods[name] = {
            "psnr": round(sum(column) / len(column), 4),
            "mean_loss": round(sum(losses) / len(losses), 4),
            "largest_loss_of_a_case": round(max(losses), 4),
            "largest_gain_of_a_case": round(max(gains), 4),
        }
    content = {
        **made_by(),
        "model": options.model,
        "cases": len(rows),
        "methods": methods,
    }
    print(json.dumps(content, indent=2))
    if options.json:
        Path(options.json).write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
