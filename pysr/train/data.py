"""Training pictures: decoded once into memory, random patches cut from them by a seeded draw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pysr import pictures


class TileCache:
    """All pictures of some folders as uint8 tensors on one device.

    Args:
        folders: searched for pictures, not recursively; sorted by name, so that an index is stable.
        device: where the pictures live; patches are cut there.
        hold_out: the first pictures, evenly spread over all, kept for validation instead.
    Raises:
        FileNotFoundError: for a missing folder, or when no folder holds a picture.
        PictureError: for one that cannot be read.
    """

    def __init__(self, folders: Sequence[str | Path], device: str = "cpu", hold_out: int = 0):
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
        self.paths, held_out = split(paths, hold_out)
        self.tiles = [self._load(p).to(device) for p in self.paths]
        self.held_out = [self._load(p) for p in held_out]

    @staticmethod
    def _load(path: Path) -> Tensor:
        pixels = pictures.read(path).pixels
        if pixels.dtype == np.uint16:
            pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
        colours = pixels[..., :3] if pixels.ndim == 3 else np.stack([pixels] * 3, -1)
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
            tile = self.tiles[index]
            if min(tile.shape[-2:]) < size:
                raise ValueError(
                    f"{self.paths[index]}: expected at least {size}x{size} pixels for a patch, "
                    f"got {tile.shape[-1]}x{tile.shape[-2]}"
                )
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
