"""HR-LR pairs made from a folder of clean pictures by a learned degradation (dml.txt, section 3.3).

A set of thousands of pairs takes hours and will be interrupted: every pair is written whole and
then noted in the manifest, and a second run goes on behind the last note. A picture's noise is
drawn from the seed and its name, so that it does not matter in how many runs a set was made.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from pysr import arrays, pictures
from pysr.degrade.learned import LearnedDegradation

MANIFEST = "manifest.jsonl"


def write_pairs(
    source: str | Path,
    target: str | Path,
    degradation: LearnedDegradation,
    seed: int = 0,
) -> Iterator[tuple[int, int]]:
    """Write a folder of pairs that `pysr.train.pairs.find_pairs` reads; yields (done, of how many).

    target/hr holds the pictures, cropped to a multiple of the scale, and target/lr what became of
    them, both as 8-bit RGB PNG files; target/manifest.jsonl says in its first line what they were
    made with, and in one line per pair its name, size and source.

    Raises:
        PictureError: for a source without pictures or with one that cannot be read.
        ValueError: for two pictures of one name, or a target that was made in another way.
    """
    paths, target = pictures.listing(source), Path(target)
    names = [path.stem for path in paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{source}: several pictures would be written as {', '.join(twice)}")
    for side in ("hr", "lr"):
        (target / side).mkdir(parents=True, exist_ok=True)
    done = _resume(target / MANIFEST, _settings(degradation, seed))
    for index, path in enumerate(paths):
        both = [target / side / f"{path.stem}.png" for side in ("hr", "lr")]
        if path.stem not in done or not all(file.is_file() for file in both):
            entry = _write_pair(path, target, degradation, seed)
            with (target / MANIFEST).open("a") as manifest:
                manifest.write(json.dumps(entry) + "\n")
        yield index + 1, len(paths)


def _settings(degradation: LearnedDegradation, seed: int) -> dict:
    return {
        "degradation": degradation.fingerprint(),
        "camera": degradation.card.camera,
        "scale": degradation.scale,
        "noise": degradation.noise,
        "seed": seed,
    }


def _resume(manifest: Path, settings: dict) -> set[str]:
    """Names that are noted as done; the manifest is begun, or freed of a half-written last line."""
    if not manifest.exists():
        manifest.write_text(json.dumps(settings) + "\n")
        return set()
    complete = manifest.read_text().rpartition("\n")[0]
    lines = [json.loads(line) for line in complete.splitlines()]
    if lines and lines[0] != settings:
        changed = sorted(key for key in settings if lines[0].get(key) != settings[key])
        raise ValueError(
            f"{manifest}: these pairs were made otherwise ({', '.join(changed)} differ); use "
            "another folder, or the same settings"
        )
    lines = lines or [settings]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {line["name"] for line in lines[1:]}


def _write_pair(path: Path, target: Path, degradation: LearnedDegradation, seed: int) -> dict:
    pixels = pictures.read(path).pixels
    height, width = (n - n % degradation.scale for n in pixels.shape[:2])
    if 0 in (height, width):
        raise ValueError(
            f"{path}: expected at least {degradation.scale}x{degradation.scale} pixels, got "
            f"{pixels.shape[1]}x{pixels.shape[0]}"
        )
    hr = arrays.unpack(pixels[:height, :width]).rgb.to(degradation.device)
    drawn = hashlib.sha256(os.fsencode(f"{seed} {path.stem}")).digest()
    noise = torch.Generator(hr.device).manual_seed(int.from_bytes(drawn[:7], "big"))
    lr, _ = degradation(hr, noise)
    for side, colours in (("hr", hr), ("lr", lr)):
        eight_bit = (colours[0].permute(1, 2, 0) * 255).round().to(torch.uint8)
        picture = pictures.Picture(np.ascontiguousarray(eight_bit.cpu().numpy()))
        pictures.write(target / side / f"{path.stem}.png", picture)
    return {"name": path.stem, "width": width, "height": height, "source": str(path)}
