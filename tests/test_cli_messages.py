"""What commands say of themselves, and of what they cannot do."""

import numpy as np
import pytest
from PIL import Image
from video_clips import draw_clip

from pysr.cli import main


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "in.png"
    Image.fromarray(np.full((24, 24, 3), 99, np.uint8)).save(path)
    return path


def line(capsys, *arguments) -> str:
    """The one line of a command that fails."""
    assert main([str(a) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_help_keeps_capitals(capsys):
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    assert "Write a model for other runtimes: ONNX graphs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--noise", "nan"), "noise: expected a finite deviation, got nan"),
        (("--model", "camera.safetensors", "--noise", "inf"), "finite deviation, got inf"),
        (("--motion", "--seed", 10**20), "seed: expected an integer of at most 64 bits"),
    ],
)
def test_degrade_refuses_what_is_no_noise_or_seed(picture, tmp_path, capsys, arguments, message):
    assert message in line(capsys, "degrade", picture, tmp_path / "out.png", *arguments)
    assert not (tmp_path / "out.png").exists()


def test_a_clip_takes_every_seed_that_a_picture_takes(tmp_path):
    source, target = draw_clip(tmp_path / "in.mkv", 2), tmp_path / "out.mkv"
    arguments = ("degrade", source, target, "--noise", 3, "--seed", 2**64 - 1)
    assert main([str(a) for a in arguments]) == 0
