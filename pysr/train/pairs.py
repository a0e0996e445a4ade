"""Real HR-LR pairs to learn from: found by name, checked, and cut into patches by a seeded draw.

What is wrong with a pair shows up in training as a model that is a little worse, hours later; so
sizes and registration are looked at before the first step.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from pysr import arrays, pictures
from pysr.colour import unit_luma
from pysr.degrade import imresize
from pysr.train.data import VALIDATION_LEAST, check_size, draw, fingerprint, split

MAX_SHIFT = 1.0  # LR pixels


class RegistrationWarning(UserWarning):
    """Pairs that show the same scene at different places."""


@dataclass(frozen=True)
class Pair:
    """Two files of one scene."""

    hr: Path
    lr: Path


def find_pairs(folders: Sequence[str | Path]) -> list[Pair]:
    """The pairs of some folders, sorted by name within each.

    A folder holds NAME_hr and NAME_lr of any picture format side by side, or two folders hr and lr
    with the same names in both.
    Raises:
        FileNotFoundError: for a missing folder.
        ValueError: for a folder without pictures, a picture in no pair, two of one name, or a file
            that ends in _hr or _lr and is not of a format that pysr reads.
    """
    return [pair for folder in map(Path, folders) for pair in _pairs_of(folder)]


def _pairs_of(folder: Path) -> list[Pair]:
    if not folder.is_dir():
        raise FileNotFoundError(f"pairs: no folder {folder}")
    if (folder / "hr").is_dir():
        hr, lr = (_by_name(pictures.listing(folder / side)) for side in ("hr", "lr"))
    else:
        hr, lr = (_by_name(_with_suffix(folder, suffix), suffix) for suffix in ("_hr", "_lr"))
    if not hr and not lr:
        raise ValueError(
            f"pairs: {folder}: expected NAME_hr and NAME_lr pictures, or folders hr and lr"
        )
    alone = sorted(hr.keys() ^ lr.keys())
    if alone:
        missing = "LR" if alone[0] in hr else "HR"
        there = (hr | lr)[alone[0]]
        raise ValueError(f"pairs: {there}: expected a {missing} picture of the same name beside it")
    return [Pair(hr[name], lr[name]) for name in sorted(hr)]


def _by_name(paths: Iterable[Path], suffix: str = "") -> dict[str, Path]:
    """Files by the name of their pair, which is theirs without the suffix."""
    found = {}
    for path in paths:
        name = path.stem[: len(path.stem) - len(suffix)]
        if name in found:
            raise ValueError(
                f"pairs: {path}: expected one picture of this name, got {found[name].name} too"
            )
        found[name] = path
    return found


def _with_suffix(folder: Path, suffix: str) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if not path.stem.lower().endswith(suffix) or path.name.startswith("."):
            continue
        if path.suffix.lower() not in pictures.READABLE:
            raise ValueError(
                f"pairs: {path}: unknown format; expected {', '.join(pictures.READABLE)}"
            )
        yield path


def read_pair(pair: Pair, scale: int, colour: bool = False) -> tuple[Tensor, Tensor]:
    """Y of both pictures, or RGB, in [0, 1], float32: (1, C, s * h, s * w) and (1, C, h, w).

    8 and 16 bits are read as they are; a grey pair is its own luma, in the range that colour has.
    Raises ValueError, naming the file, when one picture is grey and the other is not, or when HR
    is not `scale` times as large as LR.
    """
    hr, lr = (pictures.read(path).pixels for path in (pair.hr, pair.lr))
    if (hr.ndim == 2) != (lr.ndim == 2):
        kinds = ["grey" if pixels.ndim == 2 else "colour" for pixels in (hr, lr)]
        raise ValueError(
            f"pairs: {pair.hr}: expected both grey or both in colour, got HR {kinds[0]} and "
            f"LR {kinds[1]}"
        )
    wanted = tuple(n * scale for n in lr.shape[:2])
    if hr.shape[:2] != wanted:
        raise ValueError(
            f"pairs: {pair.hr}: expected {wanted[1]}x{wanted[0]} pixels, {scale} times its LR "
            f"picture, got {hr.shape[1]}x{hr.shape[0]}"
        )
    rgb = (arrays.unpack(pixels).rgb for pixels in (hr, lr))
    return tuple(rgb if colour else map(unit_luma, rgb))


def shift(hr: Tensor, lr: Tensor) -> float:
    """How far the LR picture lies from the HR one, in LR pixels, by phase correlation.

    hr (1, C, s * h, s * w) and lr (1, C, h, w), as `read_pair` gives them.
    """
    here, there = (
        x[0, 0].double().numpy() for x in (imresize(hr, lr.shape[-1] / hr.shape[-1]), lr)
    )
    window = cv2.createHanningWindow(here.shape[::-1], cv2.CV_64F) if min(here.shape) > 1 else None
    moved, _ = cv2.phaseCorrelate(here, there, window)
    return float(np.hypot(*moved))


class PairCache:
    """Y, or RGB, of all pairs of some folders, on one device.

    Args:
        folders: see `find_pairs`.
        scale: HR size over LR size.
        device: where they live; patches are cut there.
        hold_out: pairs, evenly spread over all, kept for validation instead.
        refuse_unregistered: raise where a pair is shifted by more than a LR pixel; else warn.
        colour: keep RGB instead of Y.
        patch: side of the HR patches that will be cut; no HR picture may be smaller.

    Attributes:
        files: what tells the pairs from others, see `pysr.train.data.fingerprint`.
    Raises:
        ValueError: for too few pairs, one that is smaller than a patch, or than a validation takes,
            unregistered ones if those are refused, and as `find_pairs` and `read_pair`.
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        scale: int,
        device: str | torch.device = "cpu",
        hold_out: int = 0,
        refuse_unregistered: bool = False,
        colour: bool = False,
        patch: int = 1,
    ):
        found = find_pairs(folders)
        if len(found) <= hold_out:
            raise ValueError(
                f"pairs: expected more than {hold_out} in {', '.join(map(str, folders))}, "
                f"found {len(found)}"
            )
        self.files = fingerprint(path for pair in found for path in (pair.hr, pair.lr))
        read = [(pair, *read_pair(pair, scale, colour)) for pair in found]
        kept, held_out = split(read, hold_out)
        for pair, hr, _ in kept:
            check_size(pair.hr, hr, patch)
        for pair, hr, _ in held_out:
            check_size(pair.hr, hr, max(patch, VALIDATION_LEAST), "validation")
        _check_registration(read, refuse_unregistered)
        self.scale = scale
        self.pairs = [(pair, hr[0].to(device), lr[0].to(device)) for pair, hr, lr in kept]
        self.held_out = [(hr, lr) for _, hr, lr in held_out]

    def __len__(self) -> int:
        return len(self.pairs)

    def patches(self, n: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n random patches, HR (n, C, size, size) and LR (n, C, size / s, size / s) of one place.

        Flipped left-right and up-down at random (dml.txt, section 4.2), and not turned: a camera's
        rows are not its columns. `generator` is a CPU generator.
        Raises ValueError when a picture is smaller than a patch, or the scale does not divide size.
        """
        s = self.scale
        if size % s:
            raise ValueError(f"patch: expected a multiple of the scale {s}, got {size}")
        out = []
        for _ in range(n):
            index, mirrored, upside_down = draw((len(self), 2, 2), generator)
            pair, hr, lr = self.pairs[index]
            check_size(pair.hr, hr, size)
            y, x = draw([length - size // s + 1 for length in lr.shape[-2:]], generator)
            flips = [axis for axis, flip in ((1, upside_down), (2, mirrored)) if flip]
            out.append(
                (
                    hr[:, y * s : y * s + size, x * s : x * s + size].flip(flips),
                    lr[:, y : y + size // s, x : x + size // s].flip(flips),
                )
            )
        hr, lr = (torch.stack(side) for side in zip(*out, strict=True))
        return hr, lr


def _check_registration(read: list[tuple[Pair, Tensor, Tensor]], refuse: bool) -> None:
    shifts = {pair.lr: shift(hr, lr) for pair, hr, lr in read}
    beyond = {path: moved for path, moved in shifts.items() if moved > MAX_SHIFT}
    if not beyond:
        return
    worst = max(beyond, key=beyond.get)
    message = (
        f"pairs: {len(beyond)} of {len(shifts)} are shifted by more than {MAX_SHIFT:g} pixel; "
        f"{worst} by {beyond[worst]:.1f}"
    )
    if refuse:
        raise ValueError(message)
    warnings.warn(message, RegistrationWarning, stacklevel=3)
