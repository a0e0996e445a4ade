"""L1 of the LR that ABL generates, by group and factor, and after a change of the factor alone.

    python bench/degrade/factors.py --data DIR --out RUNS [--scale 4] [--transfer DIR]
        [--groups 1 2] [--factors 0.25 0.5 1 2 3] [--steps N]

DIR holds train and test (abl.txt, Table 1); --transfer names a folder of test pairs from another
camera, where every network is tried with every factor (abl.txt, Tables 2 and 3).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common import read, save, scores, trained

from pysr.degrade import imresize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path, help="where trained networks are kept")
    parser.add_argument("--transfer", type=Path, help="test pairs of another camera")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--factors", type=float, nargs="+", default=[0.25, 0.5, 1, 2, 3])
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    options = parser.parse_args()
    own, other = read(options.data / "test"), options.transfer and read(options.transfer)
    rows = {"bicubic": row(lambda hr: imresize(hr, 1 / options.scale), own, other)}
    for group in options.groups:
        for factor in options.factors:
            model = {"scale": options.scale, "group": group, "factor": factor}
            out = options.out / f"x{options.scale}-group{group}-{factor:g}"
            network = trained("abl-lite", out, options.data / "train", options.steps, **model)
            figures = row(network.degrade, own, None)
            for adjusted in options.factors if other else ():
                moved = scores(other, network.with_factor(adjusted).degrade)
                figures[f"other camera, factor {adjusted:g}"] = moved["l1"]
            rows[f"group {group}, factor {factor:g}"] = figures
    for adjusted in options.factors if other else ():
        rows["bicubic"][f"other camera, factor {adjusted:g}"] = rows["bicubic"]["other camera"]
    rows["bicubic"].pop("other camera", None)
    save(f"learned_factors_x{options.scale}", {"pairs": len(own)}, rows)


def row(degrade, own, other) -> dict[str, float]:
    figures = scores(own, degrade)
    return figures | ({"other camera": scores(other, degrade)["l1"]} if other else {})


if __name__ == "__main__":
    main()
