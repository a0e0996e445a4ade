"""pysr inspect IN"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from pathlib import Path

from pysr import arrays, degrade, inspection, pictures
from pysr.cli.options import add_model_arguments, check_writable, upscaler
from pysr.degrade.views import write_views
from pysr.files import json_text, written_whole
from pysr.nets import DAN
from pysr.page import inspection_page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", nargs="?", help="a picture; not needed for a learned degradation")
    add_model_arguments(parser)
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        help="where pictures of what a learned degradation (--model FILE) has learned are written",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--html", metavar="FILE", help="write a page with the picture and its kernel"
    )


def run(options: argparse.Namespace) -> int:
    if options.model and degrade.is_degradation(options.model):
        return _inspect_degradation(options)
    if options.input is None:
        raise ValueError("input: expected a picture")
    check_writable(options.input, options.model, html=options.html)
    if options.out:
        raise ValueError("out: expected a learned degradation as --model")
    pixels = pictures.read(options.input).pixels
    model = upscaler(options)
    if not isinstance(model.model, DAN):
        kind = type(model.model).__name__
        raise ValueError(f"model: expected a DAN, which estimates blur, such as dan-x4; got {kind}")
    found = inspection.inspect(model, pixels)
    if options.html:
        with written_whole(options.html) as beside:
            page = inspection_page(options.input, pixels, found)
            beside.write_text(page, "utf-8", "backslashreplace")  # the name may be no text
    if options.json:
        print(json_text(_facts(found)))
        return 0
    confidence = "one estimate" if math.isnan(found.confidence) else f"{found.confidence:.2f}"
    print(found.words)
    print(f"blur width  {found.width_in_words}")
    print(f"noise       {found.noise * 255:.1f} of 255")
    print(f"confidence  {confidence}")
    return 0


def _inspect_degradation(options: argparse.Namespace) -> int:
    if options.html:
        raise ValueError("html: expected a model that restores, a learned degradation has no page")
    for name in ("scale", "engine", "precision", "device"):
        if getattr(options, name) not in (None, "auto"):
            raise ValueError(f"{name}: expected a model that restores, not a learned degradation")
    degradation = degrade.load(options.model)
    picture = options.input and arrays.unpack(pictures.read(options.input).pixels).rgb
    folder = options.out or Path(options.model).with_suffix("")
    if Path(folder).is_file():
        raise ValueError(f"out: expected a folder for the pictures, {folder} is a file")
    card = degradation.card
    if options.json:
        written = [str(path) for path in write_views(degradation, folder, picture)]
        print(json_text({**asdict(card), "written": written}))
        return 0
    print(f"camera   {card.camera}\ndata     {card.data}\nlicence  {card.licence}")
    for name, figure in card.figures.items():
        print(f"{name:8} {figure:.4g}")
    for path in write_views(degradation, folder, picture):
        print(f"wrote {path}")
    return 0


def _facts(found: inspection.Inspection) -> dict:
    return {
        "kernel": found.kernel.tolist(),
        "width": found.width,
        "noise": found.noise,
        "confidence": found.confidence,
        "clean": found.clean,
        "words": found.words,
    }
