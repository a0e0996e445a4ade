"""Where a clip's result goes, and how it gets there: whole, checked, or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pysr.files import flush
from pysr.video import checks, images
from pysr.video.clip import Clip, VideoError
from pysr.video.encoding import Encoding
from pysr.video.mux import assemble


def place(target: Path) -> Path:
    """The one file or folder that appears in the end."""
    pattern = images.is_sequence(target) and not target.is_dir()
    return target.parent if pattern else target


def followed(target: Path) -> Path:
    """The target by its absolute path, without links: what is renamed to a link replaces it, and
    may come from another disk; and beside the current folder is not in it."""
    final = place(target)
    return final.resolve() if final == target else final.resolve() / target.name


def check_paths(source: Path, place: Path) -> None:
    """Raises VideoError where a result cannot be written, or would overwrite its source."""
    images.check_name(place)
    if place.exists() and not (place.is_file() or place.is_dir()):
        raise VideoError(f"{place}: expected a file, got a pipe or a device; it would be replaced")
    if os.path.ismount(place):  # to which nothing can be renamed from beside it
        raise VideoError(f"{place}: is a mount point: name a folder inside it")
    if not place.parent.is_dir():
        raise VideoError(f"{place}: no folder {place.parent}")
    if not os.access(place.parent, os.W_OK):
        raise VideoError(f"{place}: cannot be written")
    if place.exists() and source.exists() and place.samefile(source):
        raise VideoError(f"{place}: the result would overwrite its source")


def put_together(
    target: Path,
    clip: Clip,
    segments: Sequence[Path],
    encoding: Encoding,
    size: tuple[int, int],
    work: Path,
    rehearsed: Clip,
) -> tuple[Path, tuple[str, ...]]:
    """The finished file or folder in `work`, made of segments whose frames have a size (height,
    width), and checked; what it lost, in words. `rehearsed` is what `pysr.video.mux.rehearse` gave.

    Raises VideoError and CheckError, as `assemble` and `checks.check`.
    """
    final = place(target)
    whole = work / final.name
    made = whole if final == target else whole / target.name
    lost = assemble(made, clip, segments, encoding)
    checks.check(made, clip, size, rehearsed)
    return whole, lost


def put_in_place(whole: Path, final: Path) -> None:
    """Give a result, which lies on the same disk, its name; if it has it, nothing is to do. A
    folder that is there stays and takes the pictures in: it may be the current one of a shell.

    Raises VideoError where it is under neither name, or a picture would be replaced.
    """
    if whole.exists():
        if whole.is_dir() and final.is_dir():
            _fill(final, whole)
        else:
            os.replace(whole, final)
            flush(final.parent)
    elif not final.exists():
        raise VideoError(
            f"{final}: was finished, and has been taken away since; --restart makes it again"
        )


def _fill(folder: Path, whole: Path) -> None:
    pictures = sorted(whole.iterdir())  # those that an earlier run came to are not among them
    for picture in pictures:
        if (folder / picture.name).exists():
            raise VideoError(f"{folder}: {picture.name} has come there since; it would be replaced")
    for picture in pictures:
        os.replace(picture, folder / picture.name)
    flush(folder)
    whole.rmdir()
