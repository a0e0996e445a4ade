"""What a job has done so far, in a folder beside its target, so that no crash costs more than a
segment.

    .NAME.pysr/       beside the target NAME; of a long one its digest
        lock          held by the process that works on it, and let go of by the system if that dies
        job.json      what the result depends on: input, model, options, versions, each as a digest
                      or a value
        *.json        what was found out about the whole clip, such as the kernel track
        models/       weights that were learned for it
        segments/     finished segments, and beside each what is known about it
        result        the finished file or folder, until it has its name
        done.json     what is told of it; written before it gets its name
        work-*/       of one run: what is not finished; the next run removes it

A name appears in segments/ by one rename of a file that is whole and on the disk. Only the holder
of the lock renames, so that a worker that outlives its job cannot leave anything behind. Without
job.json nothing in the folder counts, so it goes first where the folder is cleared.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from pysr.files import flush, flush_all, written_whole
from pysr.video.clip import VideoError

_LOCK, _JOB, _WORK, _DONE = "lock", "job", "work-", "done"
_LONG = 100  # bytes: a file system that takes just the target's name takes none that is longer


class Journal:
    """Of the job that makes `target`; `Journal.opened` makes one.

    Attributes:
        work: an empty folder for what is not finished, gone when the journal is closed.
        result: where the finished result lies until it is put in place.
    """

    def __init__(self, folder: Path, suffix: str):
        self.folder, self._suffix = folder, suffix
        self.work = folder / f"{_WORK}{secrets.token_hex(4)}"
        self.result = folder / "result"
        self.removed = False
        self._segments = folder / "segments"

    @classmethod
    @contextlib.contextmanager
    def opened(
        cls,
        target: Path,
        identity: Mapping[str, object],
        *,
        suffix: str = "",
        restart: bool = False,
    ) -> Iterator[Journal]:
        """The journal of a job, begun now or found as an earlier run left it; locked meanwhile.

        Args:
            identity: what the result depends on, by names that a user knows, as JSON.
            suffix: of a segment's name.
            restart: forget what an earlier run has done.
        Raises:
            VideoError: if another process works on this target, or what an earlier run has made
                there is another job's.
            OSError: if the folder cannot be written.
        """
        folder = _beside(target)
        folder.mkdir(exist_ok=True)
        lock = FileLock(folder / _LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise VideoError(f"{target}: another process is working on it") from None
        journal = cls(folder, suffix)
        try:
            journal._begin(target, identity, restart)
            yield journal
        finally:
            shutil.rmtree(journal.work, ignore_errors=True)
            if not journal.removed and journal.empty:
                journal.remove()
            lock.release()

    def _begin(self, target: Path, identity: Mapping[str, object], restart: bool) -> None:
        """Make the folder hold the job of that identity and no other."""
        for work in self.folder.glob(f"{_WORK}*"):
            shutil.rmtree(work, ignore_errors=True)
        identity = json.loads(json.dumps(identity))  # as it will be read: tuples are lists
        before = None if restart else self.noted(_JOB)
        changed = [] if before is None else _changed(before, identity)
        if changed and self._holds_work:
            raise VideoError(
                f"{target}: the job that is half done there was begun with another "
                f"{', '.join(changed)}; run it as it was begun, or start over with --restart"
            )
        if changed or before is None:
            _clear(self.folder)
            self.note(_JOB, identity)
        self._segments.mkdir(exist_ok=True)
        self.work.mkdir()

    @property
    def _holds_work(self) -> bool:
        """It took long to make, and another job must not throw it away."""
        made = (self._segments, self.models, self.result)
        return any(path.is_file() or any(path.glob("*")) for path in made)

    @property
    def models(self) -> Path:
        """A folder for weights that belong to the job."""
        return self.folder / "models"

    @property
    def empty(self) -> bool:
        """Nothing in it is worth keeping."""
        kept = {path.name for path in self.folder.rglob("*")}
        return kept <= {_LOCK, f"{_JOB}.json", self._segments.name}

    def segment(self, index: int) -> Path:
        return self._segments / f"{index:06d}{self._suffix}"

    def facts(self, index: int) -> dict | None:
        """What was noted with a finished segment; None if it is not finished."""
        return _read_json(self._facts(index)) if self.segment(index).exists() else None

    def finish(self, index: int, beside: Path, facts: Mapping[str, object]) -> None:
        """Take in a whole segment, a file or a folder in `work`."""
        _write_json(self._facts(index), facts)
        flush_all(beside)
        os.replace(beside, self.segment(index))
        flush(self._segments)

    def _facts(self, index: int) -> Path:
        return self._segments / f"{index:06d}.json"

    def noted(self, name: str) -> object | None:
        """What `note` was given; None if it was not yet."""
        return _read_json(self.folder / f"{name}.json")

    def note(self, name: str, value: object) -> None:
        _write_json(self.folder / f"{name}.json", value)

    @property
    def done(self) -> object | None:
        """What `complete` was given; None if the job is not so far."""
        return self.noted(_DONE)

    def complete(self, whole: Path, report: object) -> None:
        """Take in the result, a file or a folder in `work` that is on the disk, and what is told of
        it. Nothing but `result` is needed from now on."""
        if self.result.is_dir():  # of a run that was killed between these lines
            shutil.rmtree(self.result)
        os.replace(whole, self.result)
        self.note(_DONE, report)

    def remove(self) -> None:
        """Nothing of this is needed any more, most often because the target is whole."""
        self.removed = True
        for folder in (self._segments, self.models):  # for long; `done` is known meanwhile
            shutil.rmtree(folder, ignore_errors=True)
        _clear(self.folder)
        (self.folder / _LOCK).unlink()
        with contextlib.suppress(OSError):  # another process has just begun the next job here
            self.folder.rmdir()


def _beside(target: Path) -> Path:
    name = os.fsencode(target.name)
    words = target.name if len(name) <= _LONG else hashlib.sha256(name).hexdigest()
    return target.with_name(f".{words}.pysr")


def _changed(before: Mapping[str, object], identity: Mapping[str, object]) -> list[str]:
    """What makes one identity another, in words."""
    names = [*identity, *(name for name in before if name not in identity)]
    return [
        f"{name} ({_brief(before.get(name))}, now {_brief(identity.get(name))})"
        for name in names
        if before.get(name) != identity.get(name)
    ]


def _clear(folder: Path) -> None:
    (folder / f"{_JOB}.json").unlink(missing_ok=True)
    flush(folder)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()


def _brief(value: object) -> str:
    words = str(value)
    return words if len(words) <= 40 else f"{words[:12]}..."


def _read_json(path: Path) -> dict | None:
    return json.loads(path.read_text()) if path.exists() else None


def _write_json(path: Path, value: object) -> None:
    with written_whole(path) as beside:
        beside.write_text(json.dumps(value, indent=1) + "\n")
