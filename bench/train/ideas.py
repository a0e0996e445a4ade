"""What makes a DAN learn faster on a CPU: PSNR after equal time, from random weights.

    python bench/train/ideas.py --data ../shared/data/train/hr_a ../shared/data/train/hr_b

Every row is the compact DAN's recipe with one idea added or taken away, or all of them; each is
given the same time of one core (processor time, so that other load on the machine matters little),
over which its learning rate falls. What is measured are the averaged weights, on held-out pictures
under three of gaussian8's blurs and one of div2krk's. Writes bench/results/training_ideas.json, a
result as soon as it is there, by row and seed; what is there is not made again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pysr.files import written_whole
from pysr.nets import parts
from pysr.train.dan import DANTask
from pysr.train.loop import data_generator
from pysr.train.recipe import read_recipe

sys.path.append(str(Path(__file__).parent.parent))
from records import RESULTS, made_by  # noqa: E402

AVERAGING = 0.99  # of a few hundred steps


@dataclass(frozen=True)
class Idea:
    """How a network is built and taught.

    Attributes:
        rate, warmup: learning rate, and the share of the time over which it rises.
        fall: the share over which it falls to 0.
        apart: the share in which Restorer and Estimator learn apart, the first with the true code.
        guided: the next share, in which the Restorer keeps the true code and the Estimator sees
            what the loop makes.
        patch, batch: LR pixels of a patch's side, and patches.
        model: what differs in the configuration.
        torchs: torch's convolutions in the place of ours.
    """

    rate: float = 1e-3
    warmup: float = 0.02
    fall: float = 0.4
    apart: float = 0.65
    guided: float = 0.0
    patch: int = 40
    batch: int = 8
    model: tuple[tuple[str, object], ...] = ()
    torchs: bool = False


PUBLISHED_PARTS = (
    ("bicubic_skip", False),
    ("compact_tail", False),
    ("whitened_estimator", False),
)
IDEAS = {
    "the recipe": Idea(),
    "smaller patches: 24x24, batch 22": Idea(patch=24, batch=22),
    "guided, then the loop": Idea(guided=0.2),
    "guided instead of the loop": Idea(guided=0.35),
    "without the bicubic skip": Idea(model=PUBLISHED_PARTS[:1]),
    "with the published tail": Idea(model=PUBLISHED_PARTS[1:2]),
    "with the Estimator on raw pictures": Idea(model=PUBLISHED_PARTS[2:]),
    "together from the start": Idea(apart=0.0),
    "at the published rate, 4e-4": Idea(rate=4e-4),
    "without a fall of the rate": Idea(fall=0.0),
    "by torch's convolutions": Idea(torchs=True),
    "as published": Idea(4e-4, 0.0, 0.0, 0.0, model=PUBLISHED_PARTS, torchs=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", required=True, help="folders of HR pictures")
    parser.add_argument("--recipe", default="dan-lite-x4")
    parser.add_argument("--seconds", type=float, default=180.0, help="of one core, for every row")
    parser.add_argument("--only", choices=IDEAS, action="append", help="rows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of weights and data")
    options = parser.parse_args()
    torch.set_num_threads(1)
    target = RESULTS / "training_ideas.json"
    content = json.loads(target.read_text()) if target.exists() else {"rows": {}}
    asked = {"recipe": options.recipe, "seconds": options.seconds}
    if content["rows"] and asked != {name: content[name] for name in asked}:
        parser.error(f"{target} holds other rows than of {asked}: move it away")
    about = made_by()  # of the code that runs, whatever is committed meanwhile
    for name, seed in itertools.product(options.only or IDEAS, options.seeds):
        row = content["rows"].setdefault(name, {})
        if str(seed) in row:
            continue
        result = learned(IDEAS[name], options.recipe, tuple(options.data), options.seconds, seed)
        print(name, seed, result, flush=True)
        row[str(seed)] = {**about, **result}
        content = {**asked, "rows": content["rows"]}
        with written_whole(target) as beside:
            beside.write_text(json.dumps(content, indent=2) + "\n")


def learned(
    idea: Idea, name: str, folders: tuple[str, ...], seconds: float, seed: int
) -> dict[str, float]:
    """Steps taken, and what `DANTask.validate` says after them."""
    recipe = read_recipe(name)
    data = replace(recipe.data, folders=folders, patch=idea.patch, batch=idea.batch, start=None)
    config = replace(recipe.model, **dict(idea.model))
    task = DANTask(config, data, recipe.degradation, seed, torch.device("cpu"))
    optimiser = torch.optim.Adam(task.model.parameters(), betas=recipe.training.betas)
    average = AveragedModel(task.model, multi_avg_fn=get_ema_multi_avg_fn(AVERAGING))
    few = parts.FEW_PIXELS
    parts.FEW_PIXELS = float("inf") if idea.torchs else few
    steps, started = 0, time.process_time()
    while (done := (time.process_time() - started) / seconds) < 1:
        batch = task.batch(steps, data_generator(seed, 0, steps))
        rise = min(1.0, done / idea.warmup) if idea.warmup else 1.0
        fall = min(1.0, (1 - done) / idea.fall) if idea.fall else 1.0
        for group in optimiser.param_groups:
            group["lr"] = idea.rate * rise * fall
        phase = {"apart": done < idea.apart, "guided": done < idea.apart + idea.guided}
        losses = task.module(**{**batch, **phase})
        optimiser.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        optimiser.step()
        average.update_parameters(task.model)
        steps += 1
    parts.FEW_PIXELS = few
    with torch.no_grad():
        return {"steps": steps, **task.validate(average.module.eval())}


if __name__ == "__main__":
    main()
