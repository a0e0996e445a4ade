"""What is finished of a folder of clips: a command that was cut short goes on where it was."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
from pathlib import Path

import pysr
from pysr.cli.options import model_for_clips
from pysr.files import digest, json_text, written_whole
from pysr.nets import fingerprint

FILE = ".pysr.finished.json"  # among the results, until all of them are there
# Options that a result does not depend on, or whose files are looked at.
_APART = ("input", "output", "model", "kernel", "report", "progress", "restart", "jobs", "cluster")


class Finished:
    """The clips of a folder that runs of the same command have finished.

    A clip counts as finished while its source, the model, the options and the result are what they
    were then.

    Args:
        folder: of the results.
        options: of the command; `restart` forgets what is finished.
    """

    def __init__(self, folder: Path, options: argparse.Namespace):
        asked = {name: str(value) for name, value in vars(options).items() if name not in _APART}
        asked["model"] = fingerprint(model_for_clips(options))
        asked["kernel"] = options.kernel and digest([Path(options.kernel)])
        asked["version"] = pysr.__version__
        self._asked = hashlib.sha256(json_text(asked).encode()).hexdigest()
        self._file, self._clips = folder / FILE, {}
        if not options.restart:
            with contextlib.suppress(OSError, ValueError):  # there is none, or it is damaged
                self._clips = dict(json.loads(self._file.read_text()))

    def report(self, source: Path, target: Path) -> dict | None:
        """What a report says of a clip that is finished; None of one that is not."""
        noted = self._clips.get(target.name)
        if noted is None or not target.is_file() or noted["made"] != self._made(source, target):
            return None
        return noted["report"]

    def note(self, source: Path, target: Path, report: dict) -> None:
        """That a clip is finished now."""
        self._clips[target.name] = {"made": self._made(source, target), "report": report}
        with written_whole(self._file) as beside:
            beside.write_text(json_text(self._clips))

    def forget(self) -> None:
        """That all are."""
        self._file.unlink(missing_ok=True)

    def _made(self, source: Path, target: Path) -> list:
        result = target.stat()
        return [self._asked, digest([source]), result.st_size, result.st_mtime_ns]
