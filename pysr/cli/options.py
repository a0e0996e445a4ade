"""Arguments that several commands share, and how they are read."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import nn

from pysr import pictures
from pysr.adapt.budget import Budget
from pysr.adapt.camera import opened
from pysr.adapt.methods import METHODS, check_method
from pysr.blur import check_kernel
from pysr.files import is_writable
from pysr.nets import default_model, load_model
from pysr.upscaler import Upscaler, load, usable_device


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """--model, --scale, --engine, --precision, --device, as `upscaler` reads them."""
    parser.add_argument("--model", help="a name that `pysr models` lists, or a weights file")
    parser.add_argument(
        "--scale",
        type=int,
        help="without --model 2, 3 or 4: the shipped model of that scale; a VDSR takes any",
    )
    parser.add_argument(
        "--engine", default="auto", help="auto, or one that `pysr doctor` lists (default: auto)"
    )
    parser.add_argument(
        "--precision", default="auto", help="auto, float32, bfloat16 or float16 (default: auto)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")


def add_adapt_arguments(parser: argparse.ArgumentParser) -> None:
    """--adapt, --budget, --hr-pool and --noise, as `adaptation` reads them."""
    group = parser.add_argument_group("learning at test time")
    group.add_argument("--adapt", metavar="METHOD", help=f"teach the model: {', '.join(METHODS)}")
    group.add_argument(
        "--budget", help='for each picture "10s" or "200 steps", for each shot "10s" (default: 10s)'
    )
    group.add_argument(
        "--hr-pool", metavar="DIR", help="sharp pictures for onsr (default: drawn ones)"
    )
    group.add_argument(
        "--noise", type=float, help="of what is learned: its deviation, of 255 (default: found)"
    )


def adaptation(options: argparse.Namespace, degradation: str | None = None) -> dict | None:
    """How to call `pysr.adapt.taught`, or None without --adapt; `degradation` as of that."""
    pool = options.hr_pool
    if options.adapt is None:
        given = {
            "budget": options.budget,
            "hr-pool": pool,
            "noise": options.noise,
            "degradation": degradation,
        }
        given = [name for name, value in given.items() if value is not None]
        if given:
            raise ValueError(f"--{given[0]}: means nothing without --adapt")
        return None
    if check_method(options.adapt, pool, degradation).plain:
        _check_plain(options)
    if options.noise is not None and degradation is not None:
        raise ValueError("--noise: given together with --degradation, which brings its own")
    if options.noise is not None and not 0 <= options.noise < 255:
        raise ValueError(f"noise: expected a deviation from 0 to below 255, got {options.noise}")
    if degradation is not None:
        degradation = opened(degradation)
    budget = Budget.of("10s" if options.budget is None else options.budget)
    return {
        "method": options.adapt,
        "budget": budget,
        "hr_pool": pool,
        "degradation": degradation,
        "noise": None if options.noise is None else options.noise / 255,
    }


def _check_plain(options: argparse.Namespace) -> None:
    """Refuse, before the lessons, an engine or a precision that a plain network does not have."""
    for name, served in (("engine", ("auto", "torch")), ("precision", ("auto", "float32"))):
        asked = getattr(options, name, "auto")
        if asked not in served:
            expected = f"expected {' or '.join(served)} with --adapt {options.adapt}"
            raise ValueError(f"{name}: {expected}, got {asked!r}")


def model_for_clips(options: argparse.Namespace) -> nn.Module:
    """The model that --model and --scale ask for, by default one for many passes."""
    name = options.model or default_model(options.scale, many_on=usable_device(options.device))
    return load_model(name, options.scale)


def upscaler(options: argparse.Namespace) -> Upscaler:
    """The Upscaler that --model, --scale, --engine and --device ask for; by default of a model for
    single pictures, unless it is to learn."""
    many_on = usable_device(options.device) if getattr(options, "adapt", None) else None
    return load(
        options.model or default_model(options.scale, many_on),
        scale=options.scale,
        device=options.device,
        engine=options.engine,
        precision=options.precision,
    )


def check_writable(*used: str | Path | None, **reports: str | None) -> None:
    """Refuse, before the work, files named by options that could not be written after it, or that
    would replace what is `used`: files, and pictures of folders, that the command reads or writes.
    """
    taken = set()
    for path in map(Path, filter(None, used)):
        inside = path.iterdir() if path.is_dir() else ()
        taken |= {f.resolve() for f in inside if f.suffix.lower() in pictures.READABLE}
        taken.add(path.resolve())
    for name, path in reports.items():
        if path is None:
            continue
        if not is_writable(path):
            raise ValueError(f"--{name}: {path} cannot be written")
        if Path(path).resolve() in taken:
            raise ValueError(f"--{name}: {path} would replace an input or a result")


def kernel(path: str | None) -> np.ndarray | None:
    """A kernel file: .npy, .json (nested lists, or an object with "kernel"), or a grey picture.

    Raises ValueError, naming the file, when it is not a kernel.
    """
    if path is None:
        return None
    suffix = Path(path).suffix.lower()
    try:
        if not Path(path).is_file():
            raise ValueError("no such file")
        if suffix == ".npy":
            with open(path, "rb") as file:
                values = np.lib.format.read_array(file, allow_pickle=False)
        elif suffix == ".json":
            values = json.loads(Path(path).read_text())
            if isinstance(values, dict):
                if "kernel" not in values:
                    raise ValueError('expected a list of lists, or an object with "kernel"')
                values = values["kernel"]
            values = np.array(values)
        elif suffix in pictures.READABLE:
            values = pictures.read(path).pixels.astype("float64")
            values = values / max(values.sum(), 1)  # of a black one nothing is divided
        else:
            raise ValueError("expected .npy, .json or a grey picture")
        if values.dtype.kind not in "buif":
            raise ValueError(f"expected numbers, got {values.dtype}")
        return check_kernel(values.astype("float32")).numpy()
    except (ValueError, TypeError, EOFError) as error:
        raise ValueError(f"kernel: {path}: {error}") from None


# What a result of a folder is called; formats that cannot hold every result become PNG.
PICTURES = {
    suffix: suffix if suffix in (".png", ".jpg", ".jpeg", ".webp") else ".png"
    for suffix in pictures.READABLE
}


def outputs(
    source: Path, target: Path, endings: Mapping[str, str] = PICTURES
) -> list[tuple[Path, Path]]:
    """Input and output files of a command that takes a file or a folder of files.

    A folder is made when it is missing; results keep their names.

    Args:
        endings: of the files in a folder that are taken, and what those of their results are.
    Raises:
        ValueError: where a result would overwrite a source or another result.
    """
    if target.is_dir() and not source.is_dir():
        named = source.suffix.lower() in endings
        target = target / (_result_name(source, endings) if named else source.name)
    if target.exists() and source.exists() and target.samefile(source):
        raise ValueError(f"{target}: the result would overwrite its source")
    if not source.is_dir():
        return [(source, target)]
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target}: expected a folder, since {source} is one")
    paths = pictures.listing(source, tuple(endings))
    target.mkdir(parents=True, exist_ok=True)
    pairs = [(path, target / _result_name(path, endings)) for path in paths]
    sources = {path.resolve() for path in paths}
    for _, out in pairs:  # through links, of a source or of a result
        if out.resolve() in sources:
            raise ValueError(f"{out}: the result would overwrite its source")
    names = Counter(out.name for _, out in pairs)
    clashes = sorted(name for name, count in names.items() if count > 1)
    if clashes:
        raise ValueError(f"{target}: several results would be written to {', '.join(clashes)}")
    return pairs


def fitting(target: Path, picture: pictures.Picture, scale: int, taken: set[Path]) -> Path:
    """The name of a picture's result in a folder, where nobody chose it: `target`, or, where that
    format cannot hold `scale` times the picture, the same with .png, which is added to `taken`.

    Args:
        taken: resolved paths of all sources and results.
    Raises:
        ValueError: where the other name is taken.
    """
    reason = pictures.misfit(target, picture, scale)
    if reason is None:
        return target
    other = target.with_suffix(".png")
    if other.resolve() in taken:
        raise ValueError(f"{target}: {reason}, and {other} is taken; rename the source")
    taken.add(other.resolve())
    return other


def _result_name(path: Path, endings: Mapping[str, str]) -> str:
    ending = endings[path.suffix.lower()]
    return path.name if ending == path.suffix.lower() else path.stem + ending
