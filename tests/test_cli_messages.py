"""What commands say of themselves, and of what they cannot do."""

import re

import numpy as np
import pytest
from PIL import Image
from video_clips import draw_clip

from pysr import engines
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
        (("--noise", "nan"), "noise: expected a finite deviation of 0 or more, got nan"),
        (("--model", "camera.safetensors", "--noise", "inf"), "deviation of 0 or more, got inf"),
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("degrade", "IN", "OUT", "--noise-kind", "speckle"), "expected --noise with it"),
        (("degrade", "IN", "OUT", "--sigma", 11), "sigma: expected a width of at most 10.3"),
        (("evaluate", "--data", "FOLDER", "--model", "none", "--adapt", "onsr"), "none is interp"),
        (("evaluate", "--data", "FOLDER", "--model", "none", "--json", "IN"), "would replace"),
        (("evaluate", "--data", "FOLDER", "--model", "none", "--limit", 0), "limit: expected at"),
        (("inspect", "IN", "--html", "IN"), "--html: .* would replace an input"),
        (("upscale", "IN", "OUT", "--device", "hpu"), "device: 'hpu' is not usable here"),
    ],
)
def test_options_that_mean_nothing_or_cost_an_input_are_refused(
    picture, tmp_path, capsys, arguments, message
):
    before = picture.read_bytes()
    names = {"IN": picture, "OUT": tmp_path / "out.png", "FOLDER": tmp_path}
    assert re.search(message, line(capsys, *(names.get(a, a) for a in arguments)))
    assert picture.read_bytes() == before and not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("k.npy", lambda f: np.savez(f, np.eye(3)), "not|magic"),
        ("k.npy", lambda f: np.save(f, np.eye(3) / 3 + 0j), "expected numbers, got complex128"),
        ("k.json", lambda f: f.write(b'{"a": 1}'), 'or an object with "kernel"'),
        ("k.json", lambda f: f.write(b'{"kernel": {"a": 1}}'), "expected numbers, got object"),
        ("k.png", lambda f: Image.new("L", (5, 5)).save(f, "png"), "expected a sum of 1"),
    ],
)
def test_what_is_no_kernel_is_named(picture, tmp_path, capsys, name, content, message):
    with (tmp_path / name).open("wb") as file:
        content(file)
    told = line(capsys, "upscale", picture, tmp_path / "o.png", "--kernel", tmp_path / name)
    assert re.search(rf"kernel: .*{name}: .*({message})", told)


def test_a_report_does_not_replace_the_kernel(picture, tmp_path, capsys):
    kernel = tmp_path / "k.npy"
    np.save(kernel, np.eye(3) / 3)
    adapt = ("--adapt", "zssr", "--kernel", kernel, "--report", kernel)
    assert "would replace" in line(capsys, "upscale", picture, tmp_path / "o.png", *adapt)
    np.testing.assert_array_equal(np.load(kernel), np.eye(3) / 3)


def test_a_wide_blur_has_the_taps_that_it_needs(tmp_path):
    point = np.zeros((129, 129), np.uint16)
    point[64, 64] = 65535
    source, target = tmp_path / "point.png", tmp_path / "blurred.png"
    Image.fromarray(point).save(source)
    arguments = ("degrade", source, target, "--scale", 1, "--sigma", 8)
    assert main([str(a) for a in arguments]) == 0
    blurred = np.asarray(Image.open(target)).astype(float)
    x = np.arange(129) - 64
    width = ((blurred.sum(0) * x**2).sum() / blurred.sum()) ** 0.5
    assert abs(width - 8) < 0.3


def test_what_was_taught_restores_by_the_engine_that_was_asked_for(picture, tmp_path, monkeypatch):
    made = []
    create = engines.create

    def noted(engine, model, device, precision):
        made.append((engine, precision))
        return create(engine, model, device, precision)

    monkeypatch.setattr(engines, "create", noted)
    model = ("--model", "dan-lite-x2", "--engine", "torch", "--precision", "bfloat16")
    adapt = ("--adapt", "onsr", "--budget", "1 steps", "--device", "cpu")
    assert main([str(a) for a in ("upscale", picture, tmp_path / "o.png", *model, *adapt)]) == 0
    assert made[-1] == ("torch", "bfloat16")


@pytest.mark.parametrize("arguments", [(), ("upscale",), ("upscale", "a", "b", "--scale", "two")])
def test_a_command_that_is_not_understood_is_told_in_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1 and "--help" in error


def test_a_report_may_lie_beside_the_pictures_and_be_replaced(picture, capsys):
    report = picture.with_suffix(".json")
    report.write_text("{}")
    arguments = ("evaluate", "--data", picture.parent, "--model", "none", "--scale", 2)
    assert main([str(a) for a in (*arguments, "--json", report)]) == 0
    assert "rows" in report.read_text()
