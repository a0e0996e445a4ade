"""HR-LR pairs made from a folder of clean pictures by a learned degradation (dml.txt, section 3.3).

A set of thousands of pairs takes hours and will be interrupted: every pair is written whole and
then noted in the manifest, and a second run makes what is not noted, or was made of other pixels.
A picture's noise is drawn from the seed and its name, so that it does not matter in how many runs a
set was made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from pysr import arrays, blur, pictures
from pysr.degrade.learned import LearnedDegradation
from pysr.files import digest, written_whole

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
    made with, and in one line per pair its name, size, source and the source's SHA-256. Pairs that
    were made of other sources are kept, but for those of the same names, which are made anew.

    Raises:
        PictureError: for a source without pictures or with one that cannot be read.
        ValueError: for two pictures of one name, a pair that would overwrite a source, a target
            that was made in another way, or a manifest that is none.
    """
    paths, target = pictures.listing(source), Path(target)
    names = [path.stem for path in paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{source}: several pictures would be written as {', '.join(twice)}")
    sources = {path.resolve() for path in paths}
    for side in ("hr", "lr"):
        for name in names:
            result = target / side / f"{name}.png"
            if result.resolve() in sources:
                raise ValueError(f"{result}: the result would overwrite its source")
    for side in ("hr", "lr"):
        (target / side).mkdir(parents=True, exist_ok=True)
    done = _resume(target, _settings(degradation, seed), paths)
    for index, path in enumerate(paths):
        if path.stem not in done:
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


def _resume(target: Path, settings: dict, sources: list[Path]) -> set[str]:
    """Names of the pairs that are noted and there; the manifest is begun, or freed of a last line
    that is half written, of pairs that are gone and of those that `sources` now make otherwise."""
    manifest = target / MANIFEST
    text = manifest.read_text(errors="replace") if manifest.exists() else ""
    lines = _read(manifest, text) or [settings]
    if lines[0] != settings:
        changed = sorted(key for key in settings if lines[0].get(key) != settings[key])
        raise ValueError(
            f"{manifest}: these pairs were made otherwise ({', '.join(changed)} differ); use "
            "another folder, or the same settings"
        )
    by_name = {path.stem: path for path in sources}
    noted = {}
    for line in lines[1:]:
        there = all((target / side / f"{line['name']}.png").is_file() for side in ("hr", "lr"))
        source = by_name.get(line["name"])
        if there and (source is None or line.get("sha256") == digest([source])):
            noted[line["name"]] = line
    kept = "".join(json.dumps(line) + "\n" for line in (settings, *noted.values()))
    if kept != text:
        with written_whole(manifest) as beside:
            beside.write_text(kept)
    return set(noted)


def _read(manifest: Path, text: str) -> list[dict]:
    """The complete lines of a manifest."""
    try:
        lines = [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]
    except ValueError:
        lines = [None]
    if not all(isinstance(line, dict) for line in lines) or any("name" not in x for x in lines[1:]):
        raise ValueError(
            f"{manifest}: expected the manifest of a set of pairs, a line of JSON for each; use "
            "another folder"
        )
    return lines


def _write_pair(path: Path, target: Path, degradation: LearnedDegradation, seed: int) -> dict:
    content, pixels = digest([path]), pictures.read(path).pixels
    height, width = (n - n % degradation.scale for n in pixels.shape[:2])
    if 0 in (height, width):
        raise ValueError(
            f"{path}: expected at least {degradation.scale}x{degradation.scale} pixels, got "
            f"{pixels.shape[1]}x{pixels.shape[0]}"
        )
    hr = arrays.unpack(pixels[:height, :width]).rgb.to(degradation.device)
    lr, _ = degradation(hr, blur.named_seed(seed, path.stem))
    for side, colours in (("hr", hr), ("lr", lr)):
        eight_bit = (colours[0].permute(1, 2, 0) * 255).round().to(torch.uint8)
        picture = pictures.Picture(np.ascontiguousarray(eight_bit.cpu().numpy()))
        pictures.write(target / side / f"{path.stem}.png", picture)
    size = {"width": width, "height": height}
    return {"name": path.stem, **size, "source": str(path), "sha256": content}
