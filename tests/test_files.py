"""Files that appear whole or not at all."""

import os

import pytest

from pysr.files import written_whole


def test_a_failed_write_leaves_nothing_and_harms_nothing(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("before")
    with pytest.raises(RuntimeError), written_whole(target) as beside:
        beside.write_text("half")
        raise RuntimeError("power cut")
    assert target.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_refusal_names_the_file(tmp_path):
    with (
        pytest.raises(OSError, match="a.txt: cannot be written"),
        written_whole(tmp_path / "none" / "a.txt"),
    ):
        pass
