"""Image sequences, in and out, in the shape of clips and segments.

A sequence is a folder of pictures in natural order (2 before 10), or a printf pattern. It has no
clock of its own; it runs at 25 frames a second, as FFmpeg reads it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pysr import pictures
from pysr.files import folder_written_whole
from pysr.video.clip import Clip, ColourTags, VideoError

RATE = Fraction(25)
# sRGB: BT.709 primaries (1), IEC 61966-2-1 transfer (13), RGB planes (0) of full range (2).
_SRGB = ColourTags(matrix=0, range=2, primaries=1, transfer=13)
_NUMBER = re.compile(r"%(0\d+)?d")


def is_sequence(path: Path) -> bool:
    """Whether a path names an image sequence: a folder, or a pattern such as frames/%05d.png."""
    pattern = path.suffix.lower() in pictures.READABLE and _NUMBER.search(path.name) is not None
    return path.is_dir() or (pattern and not path.is_file())


def _numbered(path: Path, number: int) -> str:
    """The name of a pattern's picture."""
    return _NUMBER.sub(lambda found: found[0] % number, path.name, count=1)


def probe(path: Path) -> Clip:
    """See `pysr.video.reader.probe`; the first picture sets the size and the depth."""
    files = _files(path)
    picture = _read(files[0])
    first = picture.pixels
    height, width = first.shape[:2]
    depth = 8 if first.dtype == np.uint8 else 16
    count = len(files)
    return Clip(
        path=path,
        stream=-1,
        codec="png",
        width=width,
        height=height,
        depth=depth,
        pixel_format="gbrp" if depth == 8 else "gbrp16le",
        time_base=1 / RATE,
        rate=RATE,
        pts=tuple(range(count)),
        durations=(1,) * count,
        keys=tuple(range(count)),
        colour=_SRGB,
        lost=_lost(picture),
        files=files,
    )


def _files(path: Path) -> tuple[Path, ...]:
    if path.is_dir():
        try:
            return tuple(sorted(pictures.listing(path), key=lambda file: _natural(file.name)))
        except pictures.PictureError as error:
            raise VideoError(str(error)) from None
    found = _NUMBER.search(path.name)
    head, tail = path.name[: found.start()], path.name[found.end() :]
    shape = re.compile(f"{re.escape(head)}(\\d+){re.escape(tail)}")
    numbered = {}
    for file in path.parent.iterdir() if path.parent.is_dir() else ():
        match = shape.fullmatch(file.name)
        if match and file.name == _numbered(path, int(match[1])):
            numbered[int(match[1])] = file
    if not numbered:
        raise VideoError(f"{path}: no picture fits this pattern")
    missing = sorted(set(range(min(numbered), max(numbered))) - set(numbered))
    if missing:
        raise VideoError(
            f"{path}: picture {_numbered(path, missing[0])} is missing from the sequence"
        )
    return tuple(numbered[number] for number in sorted(numbered))


def _natural(name: str) -> tuple:
    return tuple(int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name))


def _read(file: Path) -> pictures.Picture:
    try:
        return pictures.read(file)
    except pictures.PictureError as error:
        raise VideoError(str(error)) from None


def _lost(picture: pictures.Picture) -> tuple[str, ...]:
    """What a picture has that a clip has not, in words."""
    alpha = picture.pixels.ndim == 3 and picture.pixels.shape[2] == 4
    there = {"transparency": alpha, "the colour profile": picture.icc is not None}
    return tuple(name for name, has in there.items() if has)


def decoded(clip: Clip, first: int, stop: int) -> Iterator[tuple[int, tuple, tuple[str, ...]]]:
    """Numbers, planes (green, blue, red) and what is lost of a clip's pictures."""
    for index in range(first, stop):
        picture = _read(clip.files[index])
        pixels = picture.pixels
        if pixels.shape[:2] != (clip.height, clip.width):
            raise VideoError(
                f"{clip.files[index]}: expected {clip.width}x{clip.height} as the first picture, "
                f"got {pixels.shape[1]}x{pixels.shape[0]}"
            )
        if clip.depth == 16 and pixels.dtype == np.uint8:
            pixels = pixels.astype(np.uint16) * 257
        elif clip.depth == 8 and pixels.dtype == np.uint16:
            raise VideoError(f"{clip.files[index]}: 16 bits, but the first picture has 8")
        if pixels.ndim == 2:
            pixels = np.stack([pixels] * 3, axis=-1)
        r, g, b = (torch.from_numpy(np.ascontiguousarray(pixels[..., i])) for i in range(3))
        yield index, (g, b, r), _lost(picture)


class Folder:
    """A segment of pictures: a folder that appears whole, or not at all."""

    def __init__(self, path: Path, clip: Clip, size: tuple[int, int], encoding):
        self._path = path
        self._levels = 255 if encoding.pixel_format == "rgb24" else 65535
        self._written = 0

    def __enter__(self) -> Folder:
        self._exits = contextlib.ExitStack()
        self._beside = self._exits.enter_context(folder_written_whole(self._path))
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._exits.__exit__(kind, error, trace)

    def samples(self, rgb: Tensor) -> tuple[Tensor, ...]:
        levels = (rgb.clamp(0, 1) * self._levels).round().to(torch.int32)
        dtype = torch.uint8 if self._levels == 255 else torch.uint16
        return (levels.to(dtype).permute(1, 2, 0),)

    def write(self, samples: tuple[Tensor, ...], pts: int) -> None:
        picture = pictures.Picture(np.ascontiguousarray(samples[0].numpy()))
        path = self._beside / f"{self._written:08d}.png"
        # Not whole by itself: the folder is, and is flushed once.
        path.write_bytes(pictures.encoded(path, picture))
        self._written += 1


def check_target(target: Path, clip: Clip) -> None:
    """Raises VideoError unless the folder of the target is new or empty and can be made, and every
    frame gets a name of its own there that the file system holds."""
    folder = target if not _NUMBER.search(target.name) else target.parent
    if _NUMBER.search(target.name) and target.suffix.lower() != ".png":
        raise VideoError(f"{target}: image sequences are written as PNG; use a .png pattern")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise VideoError(f"{folder}: expected a new or an empty folder for the pictures")
    if not folder.resolve().parent.is_dir():
        raise VideoError(f"{folder}: no folder {folder.parent}")
    names = Counter(_names(target, clip))
    twice = sorted(name for name, count in names.items() if count > 1)
    if twice:
        raise VideoError(f"{folder}: several pictures would be written to {', '.join(twice)}")
    # Beside the folder, which may not be there yet.
    check_name(folder.resolve().with_name(max(names, key=lambda name: len(os.fsencode(name)))))


def check_name(path: Path) -> None:
    """Raises VideoError for a name that the file system cannot hold."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise VideoError(f"{path.name}: cannot be written ({error.strerror})") from None


def _names(target: Path, clip: Clip) -> list[str]:
    """Of the pictures of all frames."""
    if _NUMBER.search(target.name):
        return [_numbered(target, i + 1) for i in range(len(clip))]
    if clip.files:
        return [f"{file.stem}.png" for file in clip.files]
    return [f"{i + 1:06d}.png" for i in range(len(clip))]


def assemble(target: Path, clip: Clip, segments: Sequence[Path]) -> None:
    """Gather the segments' pictures under the target's names, counted from 1, all or none.

    A folder keeps the names of the pictures that came in, where pictures came in.
    """
    check_target(target, clip)
    files = [file for segment in segments for file in sorted(segment.iterdir())]
    if len(files) != len(clip):
        raise VideoError(f"{target}: expected {len(clip)} frames, the segments hold {len(files)}")
    folder = target.parent if _NUMBER.search(target.name) else target
    with folder_written_whole(folder) as beside:
        for file, name in zip(files, _names(target, clip), strict=True):
            _link(file, beside / name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
