"""Files that appear whole or not at all, their checksums, and those that weights lie in."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors import safe_open
from torch import Tensor


@contextlib.contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to; flushed to the disk and renamed to it on success, removed
    on failure.

    A link stays one, what it leads to is replaced; to what is no file, such as a pipe or /dev/null,
    the content is written.

    Raises OSError, one line naming `path`, when the file system refuses; what is said of another
    file on the way stays as it is.
    """
    path = Path(path)
    if _is_stream(path):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder, path.name)
            path.write_bytes(Path(folder, path.name).read_bytes())
        return
    path = path.resolve() if path.is_symlink() else path
    # Without its stem: a file system that takes just this name takes none that is longer.
    beside = path.parent / f".{secrets.token_hex(8)}{path.suffix}"
    try:
        beside.touch(exist_ok=False)
        mode = beside.stat().st_mode
    except OSError as error:
        raise _refused(path, error) from None
    try:
        yield beside
        beside.chmod(mode)  # safetensors leaves a file that is private
        flush(beside)
        os.replace(beside, path)
        flush(path.parent)
    except OSError as error:
        raise _refused(path, error, beside) from None
    finally:
        beside.unlink(missing_ok=True)


def is_writable(path: str | Path) -> bool:
    """Whether `written_whole` may: write into a pipe, or replace a file, but no folder, in its
    folder."""
    path = Path(path)
    place = path if _is_stream(path) else path.resolve().parent
    return not path.is_dir() and os.access(place, os.W_OK)


def write_json(path: str | Path, content: object) -> None:
    """Write a report; see `json_text` and `written_whole`."""
    with written_whole(path) as beside:
        beside.write_text(json_text(content, indent=2) + "\n")


def json_text(content: object, indent: int | None = None) -> str:
    """JSON that any reader takes: infinity and NaN, for which it has no word, are null."""
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_stream(path: Path) -> bool:
    return path.exists() and not (path.is_file() or path.is_dir())


@contextlib.contextmanager
def folder_written_whole(folder: str | Path) -> Iterator[Path]:
    """A folder beside `folder` to write files to; on success they are flushed to the disk and
    appear in `folder`, which is made if it is missing, in place of files of the same names; on
    failure nothing of them remains.

    A link stays one, what it leads to is filled.

    Raises OSError, one line naming `folder`, when the file system refuses or `folder` is a file or
    a mount point; what is said of another file on the way stays as it is.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise OSError(f"{folder}: is no folder")
    if os.path.ismount(folder.resolve()):  # to which nothing can be renamed from beside it
        raise OSError(f"{folder}: is a mount point: name a folder inside it")
    folder = folder.resolve() if folder.is_symlink() else folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = folder.parent / f".{secrets.token_hex(8)}"
        beside.mkdir()
    except OSError as error:
        raise _refused(folder, error) from None
    try:
        yield beside
        flush_all(beside)
        try:
            beside.rename(folder)  # whoever looks sees all files or none
        except OSError:
            if not folder.is_dir():
                raise
            for path in beside.iterdir():
                os.replace(path, folder / path.name)
            flush(folder)
        flush(folder.parent)
    except OSError as error:
        raise _refused(folder, error, beside) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def flush(path: Path) -> None:
    """Out of the system's memory onto the disk; a folder's names too, where the system can."""
    with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def flush_all(path: Path) -> None:
    """`flush` a file, or a folder and all that is in it."""
    for each in (*path.rglob("*"), path):
        flush(each)


class _Refused(OSError):
    """Names its file already."""


def _refused(path: Path, error: OSError, beside: Path | None = None) -> OSError:
    """What to raise for a target, whose content was written to `beside`."""
    named = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else None
    elsewhere = beside is not None and named is not None and str(beside) not in named
    if elsewhere or isinstance(error, _Refused):
        return error
    return _Refused(f"{path}: cannot be written ({error.strerror or error})")


def digest(files: Sequence[Path]) -> str:
    """SHA-256 of a file, or of several and their names.

    Of every byte: one that changed in the middle would else be missed, and half the clip would come
    from another film. Reading and hashing run at 1 GB/s or more, restoring at some MB/s.
    """
    found = hashlib.sha256()
    for file in files:
        if len(files) > 1:
            found.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                found.update(block)
    return found.hexdigest()


def read_safetensors(path: str | Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file. Raises OSError or SafetensorError."""
    with safe_open(path, "pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        return file.metadata() or {}, state
