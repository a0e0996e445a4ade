"""Sharp pictures to learn from: a user's folder, or dead leaves that a seed draws.

A method that also learns from other pictures needs some at hand. Photographs do not ship with a
library; a drawing program does, in a page of code. Dead leaves are opaque shapes of power-law sizes
that fall over each other: the occlusions give the edges, and the sizes the spectrum, of natural
pictures (Achddou, Gousseau and Ladjal, "Synthetic images as a regularity prior for image
restoration neural networks", 2021).

Patches are cut by one gather for a whole batch, on the device that the pictures live on.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from pysr import pictures

LEAVES = "<leaves>"  # stands for the pool that is drawn; no name that a folder has
COUNT = 8  # pictures in it
SIDE = 256  # of each, in pixels, unless patches are larger
SHAPES = 600  # on SIDE x SIDE pixels, which they cover about twice
RADII = (3.5, 90.0)  # of the shapes, in pixels; their density falls with the third power
_SUBPIXEL = 4  # bits of a corner's position
# Pixels of a folder that are read at most: thirty photographs of a million, in 90 MB. The patches
# of a minute's learning do not cover them.
MOST_READ = 30_000_000
READING = 0.25  # the share of a method's seconds that it may take to read them


class Patches:
    """Random patches of some pictures.

    Args:
        images: (3, H, W), uint8 or float in [0, 1], all of one dtype.
        turned: whether they are flipped and turned; not for what is blurred, as a blur has a
            direction.
    """

    def __init__(self, images: Sequence[Tensor], device: torch.device, turned: bool = True):
        self.orientations = 8 if turned else 1
        sizes = torch.tensor([image.shape[-2:] for image in images])
        self.heights, self.widths = sizes.unbind(1)
        planes = self.heights * self.widths
        self.first = torch.cat((torch.zeros(1, dtype=torch.long), (3 * planes).cumsum(0)[:-1]))
        self.flat = torch.cat([image.flatten() for image in images]).to(device)
        self.side = int(sizes.min())

    def draw(self, n: int, size: int, generator: torch.Generator) -> Tensor:
        """(n, 3, size, size) float32 in [0, 1]; `generator` is the CPU's, so nothing is waited for.

        Raises ValueError when a picture is smaller than a patch.
        """
        if size > self.side:
            raise ValueError(f"patch: expected at most {self.side} pixels, got {size}")
        chance = torch.rand((5, n), generator=generator, dtype=torch.float64)
        which = (chance[0] * len(self.first)).long()
        height, width = self.heights[which], self.widths[which]
        top, left = (chance[1:3] * (torch.stack((height, width)) - size + 1)).long()
        # A patch is a walk over its picture's pixels: turning it changes nothing but the strides.
        turned = (chance[3] * self.orientations).long()
        one = torch.ones_like(width)
        down, right = torch.where(turned < 4, torch.stack((width, one)), torch.stack((one, width)))
        corner = self.first[which] + top * width + left
        for bit, stride in ((1, down), (2, right)):
            backwards = (turned & bit) > 0
            corner = corner + torch.where(backwards, stride * (size - 1), 0)
            stride[backwards] *= -1
        walk = torch.stack((corner, height * width, down, right)).to(
            self.flat.device, non_blocking=True
        )
        corner, plane, down, right = walk.view(4, n, 1, 1, 1)
        along = torch.arange(size, device=self.flat.device)
        channel = torch.arange(3, device=self.flat.device).view(3, 1, 1)
        patches = self.flat[corner + plane * channel + down * along.view(-1, 1) + right * along]
        return patches.float() / 255 if patches.dtype == torch.uint8 else patches


def open_pool(
    source: str | Path | None,
    least: int,
    seed: int,
    device: torch.device,
    seconds: float | None = None,
) -> Patches:
    """Patches of at least `least` pixels of the pictures in a folder, or of dead leaves where
    `source` is LEAVES.

    Of a large folder some are read, which the seed draws: MOST_READ pixels, or fewer where
    `seconds` are over by then, but one picture. They are kept for the next picture that is learned
    from with the same folder. Files that are no readable picture, or smaller than `least` pixels,
    are skipped with one warning that names them. Raises ValueError for a missing folder, or when
    nothing is left.
    """
    if source == LEAVES:
        return Patches(dead_leaves(seed, max(SIDE, least)), device)
    paths = pictures.listing(source)
    known = tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in paths)
    images, skipped = _reading(known, least, seed).read(seconds)
    if not images:
        raise ValueError(
            f"{source}: expected readable pictures of at least {least}x{least} pixels, found none"
        )
    if skipped:
        names = ", ".join(skipped[:5]) + (", ..." if len(skipped) > 5 else "")
        warnings.warn(
            f"{source}: skipped {len(skipped)} files that are unreadable or smaller than "
            f"{least}x{least} pixels ({names})",
            stacklevel=2,
        )
    return Patches(images, device)


class _Reading:
    """The pictures of a folder in the order that a seed draws, as far as they have been read."""

    def __init__(self, paths: Sequence[Path], least: int, seed: int):
        order = np.random.default_rng(seed % 2**64).permutation(len(paths))
        self._waiting = [paths[i] for i in reversed(order)]
        self._least, self._pixels = least, 0
        self._images, self._skipped = {}, []
        self._lock = threading.Lock()

    def read(self, seconds: float | None) -> tuple[list[Tensor], list[str]]:
        """Go on with it; all that there is by then, and the names of what was no use, by name."""
        with self._lock:
            self._read_on(seconds)
            return [self._images[path] for path in sorted(self._images)], sorted(self._skipped)

    def _read_on(self, seconds: float | None) -> None:
        started = time.perf_counter()
        while self._waiting and self._pixels < MOST_READ:
            if self._images and seconds is not None and time.perf_counter() - started > seconds:
                break
            path = self._waiting.pop()
            try:
                colours = pictures.eight_bit_rgb(pictures.read(path).pixels)
            except pictures.PictureError:
                self._skipped.append(path.name)
                continue
            if min(colours.shape[:2]) < self._least:
                self._skipped.append(path.name)
            else:
                self._images[path] = torch.from_numpy(colours).permute(2, 0, 1).contiguous()
                self._pixels += colours.shape[0] * colours.shape[1]


@lru_cache(maxsize=1)
def _reading(known: tuple[tuple[Path, int, int], ...], least: int, seed: int) -> _Reading:
    """One for files that are what they were, by their times and sizes."""
    return _Reading([path for path, _, _ in known], least, seed)


@lru_cache(maxsize=2)
def dead_leaves(seed: int = 0, side: int = SIDE) -> tuple[Tensor, ...]:
    """COUNT pictures (3, side, side) uint8, always the same for a seed and a side."""
    rng = np.random.default_rng(seed % 2**64)  # torch takes negative seeds so too
    return tuple(_leaves(rng, side) for _ in range(COUNT))


def _leaves(rng: np.random.Generator, side: int) -> Tensor:
    picture = np.empty((side, side, 3), np.float32)
    palette = _palette(rng)
    picture[:] = _colours(side, side, palette, rng)
    low, high = (radius**-2 for radius in RADII)
    shapes = round(SHAPES * (side / SIDE) ** 2)
    for radius in (low + (high - low) * rng.random(shapes)) ** -0.5:
        _drop(picture, float(radius), palette, rng)
    pixels = (picture.clip(0, 1) * 255).round().astype(np.uint8)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def _palette(rng: np.random.Generator) -> np.ndarray:
    """Colours that go together: greys of all levels, with little colour about a common cast."""
    level = rng.random((32, 1))
    cast = rng.normal(0, 0.06, (1, 3))
    return np.clip(level + cast + rng.normal(0, 0.08, (32, 3)), 0, 1).astype(np.float32)


def _drop(picture: np.ndarray, radius: float, palette: np.ndarray, rng: np.random.Generator):
    """Let one shape fall: a disc, or a polygon with its corners on one."""
    x, y = rng.random(2) * len(picture)
    reach = int(radius) + 2
    top, left = max(int(y) - reach, 0), max(int(x) - reach, 0)
    window = picture[top : int(y) + reach, left : int(x) + reach]
    corners = 24 if rng.random() < 0.4 else int(rng.integers(3, 7))
    turn = np.arange(corners) / corners if corners == 24 else np.sort(rng.random(corners))
    outline = radius * np.exp(2j * np.pi * turn) + complex(x - left, y - top)
    points = np.stack((outline.real, outline.imag), 1) * 2**_SUBPIXEL
    cover = np.zeros(window.shape[:2], np.uint8)
    cv2.fillPoly(cover, [points.round().astype(np.int32)], 255, cv2.LINE_AA, _SUBPIXEL)
    share = (cover / np.float32(255))[..., None]
    window += share * (_colours(*cover.shape, palette, rng) - window)


def _colours(h: int, w: int, palette: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a shape is painted with: a colour that turns into another, under stripes or grain."""
    first, second = palette[rng.integers(len(palette), size=2)]
    if max(h, w) < 12:
        return first  # too small to show more
    angle, frequency, strength, kind = rng.random(4, np.float32)
    direction = np.exp(2j * np.pi * angle)
    along = np.arange(h, dtype=np.float32)[:, None] * np.float32(direction.imag)
    along = along + np.arange(w, dtype=np.float32) * np.float32(direction.real)
    colours = first + (second - first) * (0.4 * along / max(h, w))[..., None]
    if kind < 0.3:
        colours += 0.15 * strength * np.sin(along * (0.1 + 1.4 * frequency))[..., None]
    elif kind < 0.6:
        grain = rng.standard_normal((h // 2 + 1, w // 2 + 1), np.float32)
        colours += 0.15 * strength * cv2.resize(grain, (w, h))[..., None]
    return colours
