"""pysr train RECIPE.toml"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path

import torch

from pysr.files import written_whole
from pysr.train.recipe import read_recipe
from pysr.upscaler import usable_device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a TOML file, or the name of one that comes with pysr")
    parser.add_argument("--out", help="where results go, instead of the recipe's")
    parser.add_argument("--steps", type=int, help="steps in all, instead of the recipe's")
    parser.add_argument("--device", help="auto, cpu or cuda, instead of the recipe's")


def run(options: argparse.Namespace) -> int:
    recipe = read_recipe(options.recipe)
    training = recipe.training
    if options.steps is not None:
        training = dataclasses.replace(training, steps=options.steps)
    out = Path(options.out or recipe.out)
    device = _device(options.device or recipe.device)
    try:
        trained = recipe.train(training, out, device)
    except KeyboardInterrupt:
        if (out / "last.pt").exists():
            print(f"pysr train: {out} is kept: the same command goes on there", file=sys.stderr)
        raise
    if int(os.environ.get("RANK", 0)) == 0:
        target = out / "model.safetensors"
        with written_whole(target) as beside:
            recipe.save(trained, beside)
        print(f"wrote {target}")
    return 0


def _device(name: str) -> str:
    rank = os.environ.get("LOCAL_RANK")
    if rank is not None and name in ("auto", "cuda") and torch.cuda.is_available():
        torch.cuda.set_device(int(rank))  # under torchrun every process has a GPU of its own
    return str(usable_device(name))
