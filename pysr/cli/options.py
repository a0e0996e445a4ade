"""Arguments that several commands share, and how they are read."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from pysr import pictures
from pysr.blur import check_kernel


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """--model, --scale, --engine, --precision, --device, as `upscaler` reads them."""
    parser.add_argument("--model", help="a name that `pysr models` lists, or a weights file")
    parser.add_argument("--scale", type=int, help="2 or 4: the shipped model of that scale")
    parser.add_argument(
        "--engine", default="auto", help="auto, or one that `pysr doctor` lists (default: auto)"
    )
    parser.add_argument(
        "--precision", default="auto", help="auto, float32, bfloat16 or float16 (default: auto)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")


def upscaler(options: argparse.Namespace):
    """The Upscaler that --model and --scale ask for."""
    from pysr.nets import SHIPPED
    from pysr.upscaler import DEFAULT_MODEL, load

    name = options.model
    if name is None:
        name = DEFAULT_MODEL if options.scale is None else f"dan-lite-x{options.scale}"
        if name not in SHIPPED:
            raise ValueError(
                f"scale: no model for x{options.scale} is shipped; give one by --model"
            )
    loaded = load(name, device=options.device, engine=options.engine, precision=options.precision)
    if options.scale not in (None, loaded.scale):
        raise ValueError(f"scale: {name} upscales x{loaded.scale}, asked for x{options.scale}")
    return loaded


def kernel(path: str | None) -> np.ndarray | None:
    """A kernel file: .npy, .json (nested lists, or an object with "kernel"), or a grey picture.

    Raises ValueError, naming the file, when it is not a kernel.
    """
    if path is None:
        return None
    suffix = Path(path).suffix.lower()
    try:
        if suffix == ".npy":
            values = np.load(path, allow_pickle=False)
        elif suffix == ".json":
            values = json.loads(Path(path).read_text())
            values = np.array(values["kernel"] if isinstance(values, dict) else values)
        elif suffix in pictures.READABLE:
            values = pictures.read(path).pixels.astype("float64")
            values = values / values.sum()
        else:
            raise ValueError("expected .npy, .json or a grey picture")
        return check_kernel(values.astype("float32")).numpy()
    except (ValueError, KeyError, EOFError) as error:
        raise ValueError(f"kernel: {path}: {error}") from None


def outputs(source: str, target: str) -> list[tuple[Path, Path]]:
    """Input and output files of a command that takes a picture or a folder of pictures.

    A folder is made when it is missing; results keep their names, apart from formats that cannot
    hold every result, which become .png.
    """
    source, target = Path(source), Path(target)
    if not source.is_dir():
        if target.is_dir():
            target = target / source.name
        return [(source, target)]
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target}: expected a folder, since {source} is one")
    if target.exists() and target.samefile(source):
        raise ValueError(f"{target}: results would overwrite their sources")
    paths = pictures.listing(source)
    target.mkdir(parents=True, exist_ok=True)
    keeps = (".png", ".jpg", ".jpeg", ".webp")
    pairs = [
        (p, target / (p.name if p.suffix.lower() in keeps else p.stem + ".png")) for p in paths
    ]
    names = [out.name for _, out in pairs]
    clashes = sorted({name for name in names if names.count(name) > 1})
    if clashes:
        raise ValueError(f"{target}: several pictures would be written to {', '.join(clashes)}")
    return pairs
