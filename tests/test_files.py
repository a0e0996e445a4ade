"""Files that appear whole or not at all."""

import os
import tempfile

import pytest

from pysr.files import folder_written_whole, written_whole


def test_a_failed_write_leaves_nothing_and_harms_nothing(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("before")
    with pytest.raises(RuntimeError), written_whole(target) as beside:
        beside.write_text("half")
        raise RuntimeError("power cut")
    assert target.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("exists", [False, True])
def test_the_files_of_a_folder_appear_together(tmp_path, exists):
    target = tmp_path / "out"
    if exists:
        target.mkdir()
        for name in ("a.txt", "other.txt"):
            (target / name).write_text("before")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(RuntimeError), folder_written_whole(target) as beside:
        (beside / "a.txt").write_text("new")
        raise RuntimeError("power cut")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    with folder_written_whole(target) as beside:
        for name in ("a.txt", "b.txt"):
            (beside / name).write_text("new")
    found = {path.name: path.read_text() for path in target.iterdir()}
    assert found == {"a.txt": "new", "b.txt": "new"} | ({"other.txt": "before"} if exists else {})
    assert target.stat().st_mode & 0o700 == 0o700
    assert os.listdir(tmp_path) == ["out"]


def test_links_stay_and_what_is_no_file_is_written_to(tmp_path):
    (tmp_path / "a.txt").write_text("before")
    (tmp_path / "link").symlink_to("a.txt")
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    for name in ("link", "pipe"):
        with written_whole(tmp_path / name) as beside:
            beside.write_text("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "a.txt").read_text() == "new"
    assert os.read(reader, 9) == b"new" and (tmp_path / "pipe").is_fifo()
    os.close(reader)


@pytest.mark.parametrize("exists", [False, True])
def test_what_has_its_name_is_on_the_disk(tmp_path, monkeypatch, exists):
    """A name that outlives a power cut, and content that does not, would be an empty file."""
    flushed, fsync = [], os.fsync
    file, folder = tmp_path / "a.txt", tmp_path / "out"
    if exists:
        folder.mkdir()

    def noted(handle):
        fsync(handle)
        flushed.append((os.fstat(handle).st_ino, file.exists() or (folder / "b.txt").exists()))

    monkeypatch.setattr(os, "fsync", noted)
    with written_whole(file) as beside:
        beside.write_text("new")
    assert flushed == [(file.stat().st_ino, False), (tmp_path.stat().st_ino, True)]
    file.unlink()
    flushed.clear()
    with folder_written_whole(folder) as beside:
        (beside / "b.txt").write_text("new")
    assert flushed[0] == ((folder / "b.txt").stat().st_ino, False)
    assert flushed[-1] == (tmp_path.stat().st_ino, True)


def test_a_result_has_the_permissions_of_any_other_file(tmp_path, monkeypatch):
    """The mask is the whole process's: to read it by setting it is seen by other threads."""
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", None)
            with written_whole(tmp_path / "a.txt") as beside:
                beside.chmod(0o600)  # as safetensors does
            with folder_written_whole(tmp_path / "out"):
                pass
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750


def test_names_may_be_as_long_as_the_file_system_takes(tmp_path):
    name = "x" * (os.pathconf(tmp_path, "PC_NAME_MAX") - 4)
    with written_whole(tmp_path / f"{name}.png") as beside:
        beside.write_text("new")
        assert beside.suffix == ".png"  # which says the format to whoever writes
    with folder_written_whole(tmp_path / f"{name}.out") as beside:
        (beside / "a.txt").write_text("new")
    assert sorted(os.listdir(tmp_path)) == [f"{name}.out", f"{name}.png"]


def test_a_refusal_names_the_file(tmp_path):
    with (
        pytest.raises(OSError, match="a.txt: cannot be written"),
        written_whole(tmp_path / "none" / "a.txt"),
    ):
        pass


def test_what_is_said_of_another_file_is_not_said_of_the_target(tmp_path):
    for writing in (written_whole, folder_written_whole):
        with pytest.raises(FileNotFoundError, match="source.txt"), writing(tmp_path / "a"):
            (tmp_path / "source.txt").read_text()
        with (
            pytest.raises(OSError, match="b.txt: cannot be written") as caught,
            writing(tmp_path / "a"),
            written_whole(tmp_path / "none" / "b.txt"),
        ):
            pass
        assert str(tmp_path / "a:") not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_link_to_a_folder_on_another_file_system_is_filled(tmp_path):
    try:
        elsewhere = tempfile.TemporaryDirectory(dir="/dev/shm")
    except OSError:
        pytest.skip("no second file system at /dev/shm")
    with elsewhere as folder:
        if os.stat(folder).st_dev == tmp_path.stat().st_dev:
            pytest.skip("/dev/shm is no second file system")
        (tmp_path / "link").symlink_to(folder)
        with folder_written_whole(tmp_path / "link") as beside:
            (beside / "a.txt").write_text("new")
        assert (tmp_path / "link").is_symlink() and os.listdir(tmp_path) == ["link"]
        assert os.listdir(folder) == ["a.txt"]


def test_a_mount_point_is_refused_before_the_work(tmp_path, monkeypatch):
    """Nothing can be renamed to it, nor come into it from beside it."""
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path / "mount")
    (tmp_path / "mount").mkdir()
    (tmp_path / "link").symlink_to("mount")
    for name in ("mount", "link"):
        with (
            pytest.raises(OSError, match=f"{name}: is a mount point: name a folder inside it"),
            folder_written_whole(tmp_path / name),
        ):
            raise AssertionError("the work began")
    assert sorted(os.listdir(tmp_path)) == ["link", "mount"]


def test_a_file_in_place_of_a_folder_is_refused_before_the_work(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OSError, match="out: is no folder"), folder_written_whole(tmp_path / "out"):
        pytest.fail("the work began")
    assert (tmp_path / "out").read_text() == "a file" and len(list(tmp_path.iterdir())) == 1
