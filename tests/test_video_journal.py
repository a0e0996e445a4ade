"""The journal: what an earlier run leaves is found again, or refused when it is another job's."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pysr.files import digest
from pysr.video.clip import VideoError
from pysr.video.journal import Journal

IDENTITY = {"input": "aaa", "model": "bbb", "crf": 18, "versions": {"pysr": "1"}}


def finish(journal, index, content=b"frames", facts=None):
    path = journal.work / "part"
    path.write_bytes(content)
    journal.finish(index, path, facts or {})


def test_finished_segments_and_notes_are_found_again(tmp_path):
    target = tmp_path / "out.mkv"
    with Journal.opened(target, IDENTITY) as journal:
        finish(journal, 3, b"three", {"flicker": 0.5})
        journal.note("track", [1, 2])
        (journal.work / "half").write_bytes(b"half a segment")
    with Journal.opened(target, IDENTITY) as journal:
        assert journal.segment(3).read_bytes() == b"three"
        assert journal.facts(3) == {"flicker": 0.5} and journal.facts(2) is None
        assert journal.noted("track") == [1, 2] and journal.noted("other") is None
        assert list(journal.work.iterdir()) == []
        journal.remove()
    assert os.listdir(tmp_path) == []


def test_what_is_known_of_a_segment_counts_with_the_segment_alone(tmp_path):
    """A crash between the two leaves the facts, which are written first."""
    with Journal.opened(tmp_path / "out.mkv", IDENTITY) as journal:
        finish(journal, 0, facts={"flicker": 0.5})
        journal.segment(0).unlink()
        assert journal.facts(0) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": "ccc"}, r"input \(aaa, now ccc\)"),
        ({"model": "ccc"}, "model"),
        ({"crf": 20}, r"crf \(18, now 20\)"),
        ({"versions": {"pysr": "2"}}, "versions"),
        ({"tile": 64}, r"tile \(None, now 64\)"),
    ],
)
def test_another_job_is_refused_and_loses_nothing(tmp_path, change, message):
    target = tmp_path / "out.mkv"
    with Journal.opened(target, IDENTITY) as journal:
        finish(journal, 0)
    with (
        pytest.raises(VideoError, match=message + ".*--restart"),
        Journal.opened(target, {**IDENTITY, **change}),
    ):
        pass
    with Journal.opened(target, IDENTITY) as journal:
        assert journal.facts(0) == {}
    with Journal.opened(target, {**IDENTITY, **change}, restart=True) as journal:
        assert journal.facts(0) is None


def test_a_job_that_has_made_nothing_yet_blocks_no_other(tmp_path):
    """What was noted is soon found out again; models took as long to learn as they were given."""
    target = tmp_path / "out.mkv"
    with Journal.opened(target, IDENTITY) as journal:
        journal.note("track", [1, 2])
    with Journal.opened(target, {**IDENTITY, "crf": 20}) as journal:
        assert journal.noted("track") is None
        journal.models.mkdir()
        (journal.models / "0.safetensors").touch()
    with pytest.raises(VideoError, match=r"crf \(20, now 18\)"), Journal.opened(target, IDENTITY):
        pass


def test_a_full_disk_at_the_beginning_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    def full(path, *_):
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as a write says it, with no name

    monkeypatch.setattr(Path, "write_text", full)
    with (
        pytest.raises(OSError, match="out.mkv.*No space left on device"),
        Journal.opened(tmp_path / "out.mkv", IDENTITY),
    ):
        pass
    assert os.listdir(tmp_path) == []


def test_a_restart_that_is_killed_leaves_nothing_that_counts(tmp_path, monkeypatch):
    """Whatever a folder lists first, half of the segments are not a job that goes on."""
    target = tmp_path / "out.mkv"
    with Journal.opened(target, IDENTITY) as journal:
        finish(journal, 0)
        finish(journal, 1)
    listed = Path.iterdir

    def killed(folder, *_, **__):
        for segment in folder.glob("*1"):
            segment.unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", lambda folder: sorted(listed(folder), reverse=True))
        patch.setattr(shutil, "rmtree", killed)
        with (
            pytest.raises(KeyboardInterrupt),
            Journal.opened(target, IDENTITY, restart=True),
        ):
            pass
    with Journal.opened(target, IDENTITY) as journal:
        assert journal.facts(0) is None and journal.facts(1) is None


def test_a_second_job_on_the_target_is_refused_until_the_first_dies(tmp_path):
    target = tmp_path / "out.mkv"
    holder = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from pysr.video.journal import Journal
        with Journal.opened(Path(sys.argv[1]), {}) as journal:
            (journal.work / "half").write_text("")
            print("held", flush=True)
            time.sleep(60)
    """)
    first = subprocess.Popen([sys.executable, "-c", holder, target], stdout=subprocess.PIPE)
    assert first.stdout.readline() == b"held\n"
    with pytest.raises(VideoError, match="another process"), Journal.opened(target, {}):
        pass
    first.send_signal(signal.SIGKILL)
    first.communicate()
    with Journal.opened(target, {}) as journal:
        assert [p.name for p in journal.folder.glob("work-*")] == [journal.work.name]


def test_the_digest_notices_every_byte_and_name(tmp_path):
    file, picture = tmp_path / "clip", tmp_path / "1.png"
    content = bytearray(3 << 20)
    file.write_bytes(content)
    picture.write_bytes(b"x")
    digests = {digest([file]), digest([file, picture])}
    times = file.stat()
    content[3 << 19] = 1
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    digests.add(digest([file]))
    digests.add(digest([file, picture.rename(tmp_path / "2.png")]))
    assert len(digests) == 4
