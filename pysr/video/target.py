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
    """The target that links lead to, in place of a link or of a pattern in a folder that is one:
    what is renamed to a link replaces it, and may come from another disk."""
    final = place(target)
    if not final.is_symlink():
        return target
    return final.resolve() if final == target else final.resolve() / target.name


def check_paths(source: Path, place: Path) -> None:
    """Raises VideoError where a result cannot be written, or would overwrite its source."""
    if place.exists() and not (place.is_file() or place.is_dir()):
        raise VideoError(f"{place}: expected a file, got a pipe or a device; it would be replaced")
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
    """Give a result, which lies on the same disk, its name; if it has it, nothing is to do.

    Raises VideoError where it is under neither name.
    """
    if whole.exists():
        if final.is_dir():
            final.rmdir()  # an empty one; no other gets this far
        os.replace(whole, final)
        flush(final.parent)
    elif not final.exists():
        raise VideoError(
            f"{final}: was finished, and has been taken away since; --restart makes it again"
        )
