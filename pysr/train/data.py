"""Training pictures: decoded once into memory, random patches cut from them by a seeded draw."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pysr import pictures
from pysr.degrade import FileDegradation, load

VALIDATION_CROP = 192  # the side of what is validated on, of a held-out picture
# The least side of one: the borders that div2krk's blurs reflect have 13 pixels.
VALIDATION_LEAST = 16


class TileCache:
    """All pictures of some folders as uint8 tensors on one device.

    Args:
        folders: searched for pictures, not recursively; sorted by name, so that an index is stable.
        device: where the pictures live; patches are cut there.
        hold_out: the first pictures, evenly spread over all, kept for validation instead.
        patch: side of the patches that will be cut; no picture may be smaller.

    Attributes:
        files: what tells the pictures from others, see `fingerprint`.
    Raises:
        FileNotFoundError: for a missing folder, or when no folder holds a picture.
        PictureError: for one that cannot be read.
        ValueError: for one that is smaller than a patch, or than a validation takes.
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        device: str | torch.device = "cpu",
        hold_out: int = 0,
        patch: int = 1,
    ):
        paths = []
        for folder in map(Path, folders):
            if not folder.is_dir():
                raise FileNotFoundError(f"training data: no folder {folder}")
            paths += pictures.files_of(folder)
        if len(paths) <= hold_out:
            raise FileNotFoundError(
                f"training data: expected more than {hold_out} pictures in "
                f"{', '.join(map(str, folders))}, found {len(paths)}"
            )
        self.files = fingerprint(paths)
        self.paths, held_out = split(paths, hold_out)
        least = max(patch, VALIDATION_LEAST)
        self.held_out = [check_size(p, self._load(p), least, "validation") for p in held_out]
        self.tiles = [check_size(p, self._load(p), patch).to(device) for p in self.paths]

    @staticmethod
    def _load(path: Path) -> Tensor:
        colours = pictures.eight_bit_rgb(pictures.read(path).pixels)
        return torch.from_numpy(colours).permute(2, 0, 1).contiguous()

    def __len__(self) -> int:
        return len(self.tiles)

    def patches(
        self,
        n: int,
        size: int,
        generator: torch.Generator,
        reduced: float = 0.0,
        enlarged: float = 0.0,
    ) -> Tensor:
        """n random patches (n, 3, size, size) in [0, 1], each flipped and rotated at random.

        A share `reduced` of them is cut larger, up to twice, and reduced by that: small pictures
        have denser detail than parts of large ones. A share `enlarged` is cut smaller, down to
        half, and enlarged: photographs of many pixels are soft.
        `generator` is a CPU generator: the draw costs no synchronisation with the device.
        Raises ValueError when a picture is smaller than a patch.
        """
        out = []
        for _ in range(n):
            index, flip, turns = draw((len(self), 2, 4), generator)
            tile = check_size(self.paths[index], self.tiles[index], size)
            side = size
            if reduced or enlarged:
                kind = torch.rand((), generator=generator)
                if kind < reduced:
                    (more,) = draw((min(2 * size, *tile.shape[-2:]) - size + 1,), generator)
                    side += more
                elif kind < reduced + enlarged:
                    (less,) = draw((size // 2 + 1,), generator)
                    side -= less
            y, x = draw((tile.shape[-2] - side + 1, tile.shape[-1] - side + 1), generator)
            patch = _resized(tile[:, y : y + side, x : x + side], size).rot90(turns, (1, 2))
            out.append(patch.flip(2) if flip else patch)
        return torch.stack(out).float() / 255


def _resized(patch: Tensor, size: int) -> Tensor:
    """A square uint8 patch (C, side, side) at `size` pixels a side, of 8 bits again."""
    if patch.shape[-1] == size:
        return patch
    other = F.interpolate(patch[None].float(), (size, size), mode="bicubic", antialias=True)[0]
    return other.round().clamp(0, 255).to(patch.dtype)


def check_size(path: Path, picture: Tensor, least: int, use: str = "a patch") -> Tensor:
    """The picture (C, H, W); raises ValueError, naming its file, for a side below `least`."""
    height, width = picture.shape[-2:]
    if min(height, width) < least:
        raise ValueError(
            f"{path}: expected at least {least}x{least} pixels for {use}, got {width}x{height}"
        )
    return picture


def fingerprint(paths: Iterable[Path]) -> str:
    """What tells the files of one training from another's, by their names in their order."""
    names = "/".join(path.name for path in paths)
    return hashlib.sha256(os.fsencode(names)).hexdigest()[:16]


def described(degradation) -> dict:
    """A degradation, a dataclass, as a checkpoint remembers it; of a learned one not the name of
    its file alone. Raises DegradationError for a file that is none."""
    settings = asdict(degradation)
    if isinstance(degradation, FileDegradation):
        settings["fingerprint"] = load(degradation.file).fingerprint()
    return settings


def split(items: Sequence, hold_out: int) -> tuple[list, list]:
    """What is trained on, and `hold_out` items, evenly spread over all, that are not."""
    stride = len(items) // hold_out if hold_out else 0
    held = {i * stride for i in range(hold_out)}
    return (
        [item for i, item in enumerate(items) if i not in held],
        [item for i, item in enumerate(items) if i in held],
    )


def draw(bounds: Sequence[int], generator: torch.Generator) -> list[int]:
    """One integer from 0 up to, and without, each bound, from a CPU generator."""
    uniform = torch.rand(len(bounds), generator=generator, dtype=torch.float64)
    return [int(u * b) for u, b in zip(uniform.tolist(), bounds, strict=True)]
