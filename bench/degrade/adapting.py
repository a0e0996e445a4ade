"""Real LR pictures of a camera, restored by a network that is taught each of them by ONSR.

    python bench/degrade/adapting.py --data DIR --degradation FILE [--pool DIR] [--steps N]

DIR holds train and test pairs; FILE was trained on the train pairs. ONSR begins from the blur that
DAN estimates, or learns under FILE's degradation; its sharp pictures are the HR of the train pairs,
or those of a pool. The network was trained for bicubic downsampling. The last row has white noise
of deviation 5/255 on the pictures that are learned from (dml.txt, section 3.3).
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import torch
from common import links_to_hr, read, save, scores
from torch import Tensor, nn

from pysr import adapt
from pysr.degrade import LearnedDegradation, load
from pysr.degrade.learned import PAIR_NOISE
from pysr.nets import load_model

CONFIG = adapt.ONSRConfig(batch=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--degradation", required=True, type=Path, help="made by pysr train")
    parser.add_argument("--pool", type=Path, help="a folder of sharp pictures")
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as links:
        pool = options.pool or links_to_hr(options.data / "train", Path(links))
        measure(options, pool)


def measure(options: argparse.Namespace, pool: Path) -> None:
    degradation = load(options.degradation)
    model = load_model(f"rrdb-lite-x{degradation.scale}")
    test = [(lr, hr) for hr, lr in read(options.data / "test")]
    taught = partial(restored, model=model, pool=pool, steps=options.steps)
    rows = {
        "start": scores(test, model),
        "ONSR, DAN's blur": scores(test, taught),
        "ONSR, learned degradation": scores(test, partial(taught, degradation=degradation)),
        "the same with noise": scores(
            test, partial(taught, degradation=degradation.with_noise(PAIR_NOISE))
        ),
    }
    settings = {"pairs": len(test), "steps": options.steps, "pool": str(options.pool or "train")}
    save(f"learned_adapting_{options.data.name}", settings, rows)


@torch.enable_grad()
def restored(
    lr: Tensor,
    model: nn.Module,
    pool: Path,
    steps: int,
    degradation: LearnedDegradation | None = None,
) -> Tensor:
    learned = adapt.onsr(
        model, lr, pool, budget=steps, degradation=degradation, config=CONFIG, device="cpu"
    )
    print(learned.report.line(), flush=True)
    return learned.upscaler(lr).image


if __name__ == "__main__":
    main()
