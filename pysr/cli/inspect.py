"""pysr inspect IN"""

from __future__ import annotations

import argparse
import json
import math

from pysr import inspection, pictures
from pysr.cli.options import add_model_arguments, upscaler
from pysr.files import written_whole
from pysr.page import inspection_page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", help="a picture")
    add_model_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--html", metavar="FILE", help="write a page with the picture and its kernel"
    )


def run(options: argparse.Namespace) -> int:
    pixels = pictures.read(options.input).pixels
    found = inspection.inspect(upscaler(options), pixels)
    if options.html:
        with written_whole(options.html) as beside:
            beside.write_text(inspection_page(options.input, pixels, found))
    if options.json:
        print(json.dumps(_as_json(found)))
        return 0
    confidence = "one estimate" if math.isnan(found.confidence) else f"{found.confidence:.2f}"
    print(found.words)
    print(f"blur width  {found.width:.2f} pixels of this picture")
    print(f"noise       {found.noise * 255:.1f} of 255")
    print(f"confidence  {confidence}")
    return 0


def _as_json(found: inspection.Inspection) -> dict:
    return {
        "kernel": found.kernel.tolist(),
        "width": found.width,
        "noise": found.noise,
        "confidence": None if math.isnan(found.confidence) else found.confidence,
        "clean": found.clean,
        "words": found.words,
    }
