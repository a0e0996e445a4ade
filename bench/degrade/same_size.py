"""Generated LR of City100's Nikon: DML against its rivals, identity and the best single kernel.

    python bench/degrade/same_size.py --data DIR --out RUNS [--steps N]

DIR holds train and test, as shared/data/pairs/city100_nikon does. All networks are trained by the
recipe dml-lite: same backbone, patches, steps and seed (dml.txt, Table 1).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from common import read, save, scores, trained
from torch import Tensor

from pysr.ops import blur_decimate
from pysr.train.pairs import PairCache

METHODS = {
    "dml4": {"predicts": "coefficients", "bases": 4},
    "dml8": {"predicts": "coefficients", "bases": 8},
    "dml16": {"predicts": "coefficients", "bases": 16},
    "direct-net": {"predicts": "pixels"},
    "direct-kpn": {"predicts": "kernels"},
}
PATCHES, PATCH, KERNEL = 256, 96, 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path, help="where trained networks are kept")
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    options = parser.parse_args()
    train, test = options.data / "train", read(options.data / "test")
    kernel = single_kernel(train)
    rows = {
        "identity": scores(test, lambda hr: hr),
        "single kernel": scores(test, lambda hr: blur_decimate(hr, kernel.expand(len(hr), -1, -1))),
    }
    steps = set()
    for name, model in METHODS.items():
        degradation = trained("dml-lite", options.out / name, train, options.steps, **model)
        steps.add(degradation.card.figures["steps"])
        rows[name] = scores(test, degradation.degrade)
    save("learned_same_size", {"pairs": len(test), "steps": sorted(steps)}, rows)


def single_kernel(folder: Path) -> Tensor:
    """The (k, k) kernel that brings HR closest to LR, by least squares over random patches."""
    hr, lr = PairCache([folder], 1).patches(PATCHES, PATCH, torch.Generator().manual_seed(0))
    reach = KERNEL // 2
    normal, right = torch.zeros(KERNEL**2, KERNEL**2).double(), torch.zeros(KERNEL**2).double()
    for x, y in zip(hr, lr, strict=True):
        windows = F.unfold(x[None], KERNEL)[0].double()  # (k * k, places)
        normal += windows @ windows.T
        right += windows @ y[0, reach:-reach, reach:-reach].flatten().double()
    return torch.linalg.solve(normal, right).view(KERNEL, KERNEL).float()


if __name__ == "__main__":
    main()
