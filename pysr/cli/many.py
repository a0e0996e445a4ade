"""A command over many files: one that fails is told of, and the others are still done."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pysr.cli import CommandError, one_line


class Many:
    """The files of one command.

    Args:
        command: its name.
        done: what it does to a file, as a participle.
        files: how many there are; the failure of an only one is the command's.
    """

    def __init__(self, command: str, done: str, files: int):
        self._command, self._done, self._files, self.failed = command, done, files, 0

    @contextmanager
    def file(self, source: Path) -> Iterator[None]:
        """The work on one file, whose failure is told in a line."""
        try:
            yield
        except BrokenPipeError:  # the reader of our output has gone, no file is at fault
            raise
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            if self._files == 1:
                raise
            self.failed += 1
            words = str(error) or type(error).__name__
            where = "" if str(source) in words else f"{source}: "
            print(one_line(f"pysr {self._command}: {where}{words}"), file=sys.stderr)

    def check(self) -> None:
        """Raises CommandError where some failed."""
        if self.failed:
            raise CommandError(f"{self.failed} of {self._files} files were not {self._done}")
