"""What the measurements of learned degradations share: training once, scoring, and the file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pysr import arrays, pictures
from pysr.colour import luma
from pysr.degrade import LearnedDegradation, load, to_8bit
from pysr.evaluate import psnr, ssim
from pysr.files import written_whole
from pysr.train.pairs import find_pairs
from pysr.train.recipe import read_recipe

sys.path.append(str(Path(__file__).parent.parent))
from records import RESULTS, made_by  # noqa: E402


def trained(
    name: str, out: Path, folder: Path, steps: int | None, **model: object
) -> LearnedDegradation:
    """The degradation that recipe `name` leaves in `out`, with other data and model settings.

    Trained where it is not there yet; an interrupted training goes on.
    """
    target = out / "model.safetensors"
    if not target.exists():
        recipe = read_recipe(name)
        recipe = replace(
            recipe,
            model=replace(recipe.model, **model),
            data=replace(recipe.data, folders=(str(folder),)),
        )
        options = replace(recipe.training, steps=steps or recipe.training.steps)
        result = recipe.train(options, out, "cpu")
        with written_whole(target) as beside:
            recipe.save(result, beside)
    return load(target)


def read(folder: Path) -> list[tuple[Tensor, Tensor]]:
    """HR and LR of all pairs, RGB (1, 3, H, W) in [0, 1]."""
    return [
        tuple(arrays.unpack(pictures.read(path).pixels).rgb for path in (pair.hr, pair.lr))
        for pair in find_pairs([folder])
    ]


def links_to_hr(pairs: Path, folder: Path) -> Path:
    """A folder of the HR pictures of pairs alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for pair in find_pairs([pairs]):
        link = folder / pair.hr.name
        if not link.is_symlink():
            link.symlink_to(pair.hr.resolve())
    return folder


@torch.no_grad()
def scores(
    pairs: Sequence[tuple[Tensor, Tensor]], degrade: Callable[[Tensor], Tensor]
) -> dict[str, float]:
    """PSNR in dB, SSIM and L1 of Y (over 255) of the generated LR, means over pairs, 8 bits."""
    rows = []
    for hr, lr in pairs:
        made = degrade(hr)
        l1 = float((luma(to_8bit(made)) - luma(lr)).abs().mean()) / 255
        rows.append((psnr(made, lr), ssim(made, lr), l1))
    means = [sum(column) / len(column) for column in zip(*rows, strict=True)]
    return dict(zip(("psnr", "ssim", "l1"), means, strict=True))


def save(name: str, settings: dict, rows: dict) -> None:
    """Print the table, and write bench/results/NAME.json."""
    content = {**made_by(), **settings, "rows": rows}
    columns = list(next(iter(rows.values())))
    print("|".join(["", "", *columns, ""]) + "\n" + "|---" * (len(columns) + 1) + "|")
    for row, figures in rows.items():
        print("|".join(["", row, *(f"{figures[c]:.4f}" for c in columns), ""]))
    with written_whole(RESULTS / f"{name}.json") as beside:
        beside.write_text(json.dumps(content, indent=2) + "\n")
