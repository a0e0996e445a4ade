"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to; renamed to it on success, removed on failure.

    Raises OSError, one line naming `path`, when the file system refuses.
    """
    path = Path(path)
    try:
        handle, beside = tempfile.mkstemp(path.suffix, f".{path.stem}.", path.parent)
        os.close(handle)
    except OSError as error:
        raise _refused(path, error) from None
    beside = Path(beside)
    try:
        yield beside
        mask = os.umask(0)
        os.umask(mask)
        beside.chmod(0o666 & ~mask)  # mkstemp makes private files; a result is an ordinary one
        os.replace(beside, path)
    except OSError as error:
        raise _refused(path, error) from None
    finally:
        beside.unlink(missing_ok=True)


def _refused(path: Path, error: OSError) -> OSError:
    return OSError(f"{path}: cannot be written ({error.strerror or error})")
