"""What LR Finer, and learning from the picture itself, bring: dsr.txt, Table 1, at x2.

    python bench/adapt/components.py --data DIR --start FILE [--steps N] [--jobs N]

DIR holds Set14 and BSD100. Middle parts of a few of their pictures are blurred by seeded
anisotropic Gaussians (dsr.txt, 3.4), reduced bicubically, and restored with the true blur and with
the one that DAN estimates, all methods in as many steps. FILE is a network trained for bicubic x2.
Every restoration is scored as it is and after back-projection, which every method ends with.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import pysr
from pysr import adapt, arrays, blur, pictures
from pysr.adapt.chain import BackProjected, Chain, SelfEnsemble
from pysr.degrade import classical, imresize
from pysr.degrade.deep_linear import GivenBlur
from pysr.evaluate import psnr
from pysr.files import written_whole
from pysr.nets import load_model
from pysr.nets.parts import BicubicUpsample

sys.path.append(str(Path(__file__).parent.parent))
from records import made_by  # noqa: E402

SCALE, SIDE, FEATURES = 2, 160, 32
PICTURES = ("BSD100/101085", "BSD100/148026", "BSD100/253027", "Set14/barbara", "Set14/comic")
RESULT = Path(__file__).parent.parent / "results" / "adapt_components.json"


@dataclass(frozen=True)
class Case:
    """One picture (1, 3, SIDE, SIDE) with the blur that is done to it."""

    name: str
    hr: Tensor
    kernel: Tensor

    @property
    def lr(self) -> Tensor:
        return classical(self.hr, self.kernel, SCALE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--start", required=True)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    work = [(case, blind) for case in cases(options.data) for blind in (False, True)]
    score = partial(scores, start=options.start, steps=options.steps)
    rows = []
    with ProcessPoolExecutor(
        options.jobs, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        for row in pool.map(score, work):
            print(json.dumps(row), flush=True)
            rows.append(row)
    save(options, rows)


def cases(folder: Path) -> list[Case]:
    found = []
    for index, name in enumerate(PICTURES):
        [path] = (folder / name).parent.glob(Path(name).name + ".*")
        hr = arrays.unpack(pictures.read(path).pixels).rgb
        top, left = ((n - SIDE) // 2 for n in hr.shape[-2:])
        draw = torch.rand(3, generator=torch.Generator().manual_seed(index))
        widths, angle = (draw[:2] * SCALE**2).sqrt().clamp(min=0.2), draw[2:] * math.pi
        kernel = blur.anisotropic(widths[:1], widths[1:], angle)[0]
        found.append(Case(name, hr[..., top : top + SIDE, left : left + SIDE], kernel))
    return found


def scores(work: tuple[Case, bool], start: str, steps: int) -> dict:
    """PSNR in dB on Y of every method on one case, blind or with the true blur."""
    case, blind = work
    network, lr = load_model(start), case.lr
    kernel = torch.as_tensor(pysr.load("dan-lite-x2").estimate(lr)) if blind else case.kernel
    learn = {"budget": steps, "kernel": kernel, "device": "cpu"}
    sizes = adapt.ZSSRSizes(SCALE, features=FEATURES)
    config = adapt.DSRConfig(features=FEATURES)
    zssr = adapt.zssr(lr, SCALE, config=adapt.ZSSRConfig(features=FEATURES), **learn)
    finer_zssr = adapt.dsr(adapt.ZSSR(sizes), lr, config=config, **learn)
    dsr = adapt.dsr(network, lr, config=config, **learn)
    methods = {
        "bicubic": BicubicUpsample(SCALE),
        "start": network,
        "ZSSR": inner(zssr),
        "LR Finer + ZSSR": inner(finer_zssr),
        "LR Finer + start": inner(dsr) if dsr.report.rolled_back else unlearned(dsr, network),
        "DSR": inner(dsr),
    }
    degradation = GivenBlur(SCALE, kernel)
    return {
        "picture": case.name,
        "kernel": "estimated" if blind else "true",
        "clean": clean(dsr, case),
        "plain": {name: scored(method, case) for name, method in methods.items()},
        "back-projected": {
            name: scored(BackProjected(method, degradation), case)
            for name, method in methods.items()
        },
        "reports": [each.report.line() for each in (zssr, finer_zssr, dsr)],
    }


def inner(learned: adapt.Adapted) -> nn.Module:
    """What was learned, without back-projection."""
    model = learned.upscaler.model
    return model.network if isinstance(model, BackProjected) else model


def unlearned(dsr: adapt.Adapted, network: nn.Module) -> nn.Module:
    """LR Finer as it was learned, and the network as it was before."""
    return Chain([inner(dsr).stages[0], SelfEnsemble(network)])


@torch.no_grad()
def scored(method: nn.Module, case: Case) -> float:
    return round(psnr(method(case.lr).clamp(0, 1), case.hr, SCALE), 3)


@torch.no_grad()
def clean(dsr: adapt.Adapted, case: Case) -> dict[str, float]:
    """How near the picture, and what LR Finer made of it, are to bicubic downsampling alone."""
    wanted, found = imresize(case.hr, 1 / SCALE), {"input": case.lr}
    if not dsr.report.rolled_back:
        found["LR Finer"] = inner(dsr).stages[0](case.lr).clamp(0, 1)
    return {name: round(psnr(x, wanted, SCALE), 3) for name, x in found.items()}


def save(options: argparse.Namespace, rows: Sequence[dict]) -> None:
    means = {
        f"{kind}, {kernel} kernel": {
            name: round(sum(values) / len(values), 3)
            for name in rows[0][kind]
            if (values := [row[kind][name] for row in rows if row["kernel"] == kernel])
        }
        for kind in ("plain", "back-projected")
        for kernel in ("true", "estimated")
    }
    content = {
        **made_by(),
        "start": os.path.basename(options.start),
        "steps": options.steps,
        "side": SIDE,
        "features": FEATURES,
        "mean PSNR": means,
        "rows": rows,
    }
    print(json.dumps(means, indent=2))
    with written_whole(RESULT) as beside:
        beside.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
