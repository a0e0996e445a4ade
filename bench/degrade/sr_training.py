"""VDSR on bicubic, generated and real pairs, tested on real pairs (abl.txt, Table 4).

    python bench/degrade/sr_training.py --data DIR --degradation FILE --out RUNS
        [--noise S] [--steps N]

DIR holds train and test pairs; the generated pairs come from FILE, trained on the same pairs, with
noise of deviation S of 255 (dml.txt, section 3.3: 5). All networks are trained by the recipe sr, on
the same HR pictures, for as many steps from the same weights, the row "start", which know bicubic
downsampling already. Bicubic pairs of one size would be identical ones, from which there is nothing
to learn: that row is left out.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from common import links_to_hr, read, save, scores
from torch import nn

from pysr.degrade import BicubicDegradation, FileDegradation, imresize, load
from pysr.files import written_whole
from pysr.nets import load_model
from pysr.train.recipe import read_recipe
from pysr.train.sr import SRRecipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--degradation", required=True, type=Path, help="made by pysr train")
    parser.add_argument("--out", required=True, type=Path, help="where trained networks are kept")
    parser.add_argument("--noise", type=float, default=0.0, help="of generated pairs, of 255")
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    options = parser.parse_args()
    recipe = read_recipe("sr")
    if options.steps:
        recipe = replace(recipe, training=replace(recipe.training, steps=options.steps))
    scale = load(options.degradation).scale
    sources = recipes(recipe, options, scale)
    test = [(lr, hr) for hr, lr in read(options.data / "test")]
    rows = {
        "interpolation": scores(test, lambda lr: imresize(lr, scale)),
        "start": scores(test, load_model(recipe.data.start, scale)),
    }
    for name, source in sources.items():
        rows[name] = scores(test, trained(source, options.out / f"x{scale}-{name}"))
    settings = {"pairs": len(test), "scale": scale, "steps": recipe.training.steps}
    save(f"sr_training_{options.data.name}", settings | {"noise": options.noise}, rows)


def recipes(recipe: SRRecipe, options: argparse.Namespace, scale: int) -> dict[str, SRRecipe]:
    """The recipe for this scale with each kind of data, by name."""
    train = options.data / "train"
    hr = (str(links_to_hr(train, options.out / f"x{scale}-hr")),)
    recipe = replace(recipe, model=replace(recipe.model, scale=scale))
    synthetic = replace(recipe.data, folders=hr, pairs=())
    generated = FileDegradation(str(options.degradation), scale, noise=options.noise / 255)
    bicubic = BicubicDegradation(scale)
    found = {
        "bicubic": replace(recipe, data=synthetic, degradation=bicubic),
        "generated": replace(recipe, data=synthetic, degradation=generated),
        "real": replace(recipe, data=replace(recipe.data, pairs=(str(train),))),
    }
    return {name: r for name, r in found.items() if scale > 1 or name != "bicubic"}


def trained(recipe: SRRecipe, out: Path) -> nn.Module:
    """The network that a recipe leaves in `out`, trained where it is not there yet."""
    target = out / "model.safetensors"
    if not target.exists():
        result = recipe.train(recipe.training, out, "cpu")
        with written_whole(target) as beside:
            recipe.save(result, beside)
    return load_model(target)


if __name__ == "__main__":
    main()
