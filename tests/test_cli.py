import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photographs

import pysr
from pysr import _ext, blur, ops, pictures, tiling
from pysr.cli import COMMANDS, main
from pysr.engines.torch_engine import TorchEngine
from pysr.nets import default_model


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "in.png"
    Image.fromarray(photographs.astronaut()[100:148, 200:260]).save(path)
    return path


def run(*arguments):
    return main([str(a) for a in arguments])


def failure(capsys, *arguments, code=2):
    """The one line that a failing command leaves on stderr."""
    assert run(*arguments) == code
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "Traceback" not in captured.err
    return captured.err


def test_python_dash_m_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "pysr", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"pysr {pysr.__version__}\n"


def test_an_unknown_instruction_set_is_refused_in_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "pysr", "doctor"],
        env=os.environ | {"PYSR_ISA": "avx-2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "PYSR_ISA: expected baseline, avx2, avx512 or amx, got avx-2" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(command, "--help")
    assert stopped.value.code == 0
    assert COMMANDS[command][:20].lower() in capsys.readouterr().out.lower()


def test_upscale_a_picture(picture, tmp_path, capsys):
    assert run("upscale", picture, tmp_path / "out.png", "--scale", 2) == 0
    pixels = pictures.read(tmp_path / "out.png").pixels
    expected = pysr.load(scale=2)(pictures.read(picture).pixels).image
    np.testing.assert_array_equal(pixels, expected)
    assert "120x96" in capsys.readouterr().out


def test_upscale_with_a_known_kernel(picture, tmp_path):
    kernel = blur.isotropic(1.2, 15).numpy()
    np.save(tmp_path / "k.npy", kernel)
    (tmp_path / "k.json").write_text(json.dumps({"kernel": kernel.tolist()}))
    outputs = []
    for name in ("k.npy", "k.json"):
        out = tmp_path / f"{name}.png"
        assert run("upscale", picture, out, "--scale", 2, "--kernel", tmp_path / name) == 0
        outputs.append(pictures.read(out).pixels)
    np.testing.assert_array_equal(*outputs)
    expected = pysr.load(scale=2)(pictures.read(picture).pixels, kernel=kernel).image
    np.testing.assert_array_equal(outputs[0], expected)


def test_upscale_exactly(picture, tmp_path, monkeypatch):
    monkeypatch.setattr(tiling, "ESTIMATE_CROP", 16)  # a small picture is estimated on crops too
    assert run("upscale", picture, tmp_path / "out.png", "--scale", 2, "--exact") == 0
    pixels, upscaler = pictures.read(picture).pixels, pysr.load(scale=2)
    written = pictures.read(tmp_path / "out.png").pixels
    np.testing.assert_array_equal(written, upscaler(pixels, exact=True).image)
    assert (written != upscaler(pixels).image).any()


def test_upscale_a_folder_and_name_what_failed(picture, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(2):
        (folder / f"{i}.png").write_bytes(picture.read_bytes())
    assert run("upscale", folder, tmp_path / "out", "--scale", 2) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["0.png", "1.png"]
    (folder / "bad.png").write_text("no picture")
    capsys.readouterr()
    assert run("upscale", folder, tmp_path / "again", "--scale", 2) == 2
    error = capsys.readouterr().err
    assert "bad.png" in error and "1 of 3 files were not upscaled" in error
    assert sorted(p.name for p in (tmp_path / "again").iterdir()) == ["0.png", "1.png"]


def test_a_picture_that_memory_is_short_for_does_not_end_the_others(
    picture, tiny_model, tmp_path, capsys, monkeypatch
):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "c.png"):
        (folder / name).write_bytes(picture.read_bytes())
    Image.fromarray(photographs.astronaut()[:50, :50]).save(folder / "b.png")
    restore = TorchEngine.restore

    def short(self, lr, *arguments):
        if lr.shape[-2] == 50:
            torch.empty(1 << 46)  # really fails, as it would for a picture that is too large
        return restore(self, lr, *arguments)

    monkeypatch.setattr(TorchEngine, "restore", short)
    settings = ("--model", tiny_model, "--engine", "torch")
    assert run("upscale", folder, tmp_path / "out", *settings) == 2
    failed, summary = capsys.readouterr().err.splitlines()
    assert "b.png: " in failed and "1 of 3 files" in summary
    assert "too little memory for 50x50 pixels on cpu" in failed
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]
    for exact, remedy in (((), "a tile smaller than 50"), (("--exact",), "without exact")):
        alone = (folder / "b.png", tmp_path / "b.png", *settings, "--tile", 64, *exact)
        assert run("upscale", *alone) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith("pysr upscale: picture: too little memory") and remedy in said


def test_a_reader_that_has_gone_is_no_fault_of_the_files(picture, tiny_model, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(picture.read_bytes())
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "pysr", "upscale", folder, tmp_path / "out"]
    done = subprocess.run(
        [*command, "--model", tiny_model], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("command", ["upscale", "degrade"])
def test_results_do_not_overwrite_their_sources(command, picture, tmp_path, capsys):
    before = picture.read_bytes()
    for source, target in [(tmp_path, tmp_path), (picture, tmp_path), (picture, picture)]:
        assert "would overwrite" in failure(capsys, command, source, target, "--scale", 2)
    assert picture.read_bytes() == before


def test_results_do_not_overwrite_their_sources_through_links(picture, tmp_path, capsys):
    before = picture.read_bytes()
    for name in ("picked", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / picture.name).symlink_to(picture)
    for source, target in [(tmp_path / "picked", tmp_path), (tmp_path, tmp_path / "out")]:
        assert "would overwrite its source" in failure(capsys, "upscale", source, target)
    assert picture.read_bytes() == before


def test_a_folders_result_that_its_format_cannot_hold_becomes_png(tiny_model, tmp_path, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    clear, wide = Image.new("RGBA", (24, 24), (9, 99, 199, 99)), Image.new("RGB", (9000, 4))
    for name, image in {"a.jpg": clear, "b.jpg": clear, "c.webp": wide}.items():
        image.save(folder / name, "PNG")
    clear.convert("RGB").save(folder / "b.png")
    assert run("upscale", folder, out, "--model", tiny_model) == 2
    captured = capsys.readouterr()
    assert re.search(
        r"b\.jpg: this format has no transparency, and \S+b\.png is taken", captured.err
    )
    assert "1 of 4 files" in captured.err and "a.png (48x48" in captured.out
    assert sorted(p.name for p in out.iterdir()) == ["a.png", "b.png", "c.png"]
    assert pictures.read(out / "a.png").pixels.shape == (48, 48, 4)
    assert pictures.read(out / "b.png").pixels.shape == (48, 48, 3)
    assert pictures.read(out / "c.png").pixels.shape == (8, 18000, 3)
    (folder / "b.jpg").unlink()
    assert run("degrade", folder, tmp_path / "small", "--scale", 2) == 0
    assert sorted(p.name for p in (tmp_path / "small").iterdir()) == ["a.png", "b.png", "c.webp"]
    assert pictures.read(tmp_path / "small" / "a.png").pixels.shape == (12, 12, 4)


def test_results_of_one_name_are_refused(picture, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "a.bmp"):
        Image.open(picture).save(folder / name)
    assert "a.png" in failure(capsys, "upscale", folder, tmp_path / "out", "--scale", 2)


def test_inspect(picture, tmp_path, capsys):
    assert run("inspect", picture, "--scale", 2, "--json", "--html", tmp_path / "page.html") == 0
    found = json.loads(capsys.readouterr().out)
    assert np.sum(found["kernel"]) == pytest.approx(1, abs=1e-4)
    assert found["width"] >= 0 and found["words"]
    page = (tmp_path / "page.html").read_text()
    assert "data:image/png;base64" in page and "http" not in page
    assert run("inspect", picture, "--scale", 2) == 0
    assert found["words"] in capsys.readouterr().out


def test_the_page_of_a_picture_whose_name_is_no_text(picture, tiny_model, tmp_path):
    odd = picture.rename(tmp_path / os.fsdecode(b"odd\xff.png"))
    arguments = ("--model", tiny_model, "--html", tmp_path / "page.html")
    assert run("inspect", odd, *arguments) == 0
    assert r"odd\udcff.png" in (tmp_path / "page.html").read_text("utf-8")


def test_degrade_is_the_librarys_degradation(picture, tmp_path):
    from pysr import arrays
    from pysr.degrade import classical

    arguments = ("--scale", 3, "--sigma", 1.3, "--noise", 2, "--seed", 5)
    assert run("degrade", picture, tmp_path / "lr.png", *arguments) == 0
    hr = arrays.unpack(pictures.read(picture).pixels).rgb
    seed = blur.named_seed(5, picture.name)
    lr = classical(hr, blur.isotropic(1.3), 3, noise=2 / 255, generator=seed)
    expected = (lr[0].permute(1, 2, 0) * 255).round().numpy()
    np.testing.assert_array_equal(pictures.read(tmp_path / "lr.png").pixels, expected)


def test_degrade_names_what_failed_of_a_folder_and_does_the_rest(picture, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "c.png"):
        (folder / name).write_bytes(picture.read_bytes())
    (folder / "b.png").write_text("no picture")
    assert run("degrade", folder, tmp_path / "out", "--scale", 2) == 2
    error = capsys.readouterr().err
    assert "b.png" in error and "1 of 3 files were not degraded" in error
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]


def test_degrade_keeps_alpha_and_depth(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65535, (40, 40, 4), np.uint16)
    pictures.write(tmp_path / "deep.png", pictures.Picture(pixels))
    assert run("degrade", tmp_path / "deep.png", tmp_path / "lr.png", "--scale", 2, "--motion") == 0
    lr = pictures.read(tmp_path / "lr.png").pixels
    assert lr.shape == (20, 20, 4) and lr.dtype == np.uint16
    assert (lr % 257 != 0).any()  # not rounded to 8 bits on the way


def test_degrade_gives_a_grey_picture_the_noise_asked_for(tmp_path):
    flat = np.full((200, 200), 128, np.uint8)
    pictures.write(tmp_path / "flat.png", pictures.Picture(flat))
    arguments = ("--scale", 1, "--noise", 10, "--seed", 3)
    assert run("degrade", tmp_path / "flat.png", tmp_path / "lr.png", *arguments) == 0
    lr = pictures.read(tmp_path / "lr.png").pixels
    assert lr.shape == flat.shape
    assert lr.std() == pytest.approx(10, rel=0.02)


def test_evaluate_writes_the_table_it_shows(picture, tmp_path, capsys):
    arguments = ("--protocol", "bicubic", "--scale", 2, "--data", tmp_path)
    assert run("evaluate", *arguments, "--json", tmp_path / "table.json") == 0
    report = json.loads((tmp_path / "table.json").read_text())
    usual = default_model(2)
    assert [row["method"] for row in report["rows"]] == ["bicubic interpolation", usual]
    out = capsys.readouterr().out
    assert f"{report['rows'][0]['psnr']:.2f}" in out and usual in out


def test_a_table_holds_json_where_a_figure_is_infinite(tmp_path):
    Image.new("RGB", (48, 48), "grey").save(tmp_path / "flat.png")
    arguments = ("--protocol", "bicubic", "--scale", 2, "--data", tmp_path, "--model", "none")
    assert run("evaluate", *arguments, "--json", tmp_path / "table.json") == 0

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    report = json.loads((tmp_path / "table.json").read_text(), parse_constant=refuse)
    assert report["rows"][0]["psnr"] is None


def test_models_and_their_cards(capsys):
    assert run("models") == 0
    assert "dan-lite-x4" in capsys.readouterr().out
    assert run("models", "dan-lite-x4") == 0
    card = capsys.readouterr().out
    assert "PSNR" in card and "licence" in card.lower()


def test_doctor_finds_everything_in_order(capsys):
    assert run("doctor") == 0
    out = capsys.readouterr().out
    for expected in ("torch", "dan-lite-x4", "engine native", "what auto takes"):
        assert expected in out
    isas = ", ".join(_ext.report().isas)
    for operator in ops.__all__:
        assert re.search(rf"operator {operator} +cpu \({isas}\)", out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("upscale", "{tmp}/none.png", "{tmp}/o.png"), "none.png: no such file"),
        (("upscale", "{in}", "{tmp}/no/o.png"), "no folder"),
        (("upscale", "{in}", "{tmp}/o.xyz"), "ending in"),
        (("upscale", "{in}", "{tmp}/o.png", "--model", "dan-huge"), "model: expected one of"),
        (
            ("upscale", "{in}", "{tmp}/o.png", "--model", "dan-lite-x4", "--scale", "2"),
            "upscales x4",
        ),
        (("upscale", "{in}", "{tmp}/o.png", "--scale", "7"), "no model for x7"),
        (("upscale", "{in}", "{tmp}/o.png", "--kernel", "{tmp}/no.npy"), "no.npy: no such file"),
        (("upscale", "{in}", "{tmp}/o.png", "--kernel", "{tmp}/sum2.npy"), "sum of 1"),
        (("upscale", "{in}", "{tmp}/o.png", "--kernel", "{tmp}/nan.npy"), "finite"),
        (("upscale", "{in}", "{tmp}/o.png", "--device", "cuda:99"), "not usable here"),
        (("inspect", "{tmp}"), "expected a file, this is a folder"),
        (("inspect", "{tmp}/sum2.npy"), "not a readable picture"),
        (("degrade", "{in}", "{tmp}/o.png", "--scale", "9"), "scale: expected one of 1, 2, 3, 4"),
        (("degrade", "{in}", "{tmp}/o.png", "--device", "cuda:99"), "not usable here"),
        (("evaluate", "--data", "{tmp}/none"), "no such folder"),
        (("evaluate", "--data", "{tmp}", "--json", "{tmp}/no/t.json"), "t.json cannot be written"),
        (("bench", "engines", "--json", "{tmp}"), "cannot be written"),
        (("inspect", "{in}", "--html", "{tmp}/no/p.html"), "p.html cannot be written"),
        (("train", "{tmp}/none.toml"), "pysr comes with abl"),
        (("models", "dan-huge"), "expected one of"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(picture, tmp_path, capsys, arguments, message):
    np.save(tmp_path / "sum2.npy", np.full((3, 3), 2 / 9))
    np.save(tmp_path / "nan.npy", np.full((3, 3), np.nan))
    before = sorted(p.name for p in tmp_path.iterdir())
    filled = [a.format(**{"in": picture, "tmp": tmp_path}) for a in arguments]
    assert message in failure(capsys, *filled)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_an_output_that_cannot_be_written(picture, tmp_path, capsys):
    (tmp_path / "o.png").mkdir()
    (tmp_path / "o.png" / "in.png").mkdir()
    assert "cannot be written" in failure(capsys, "upscale", picture, tmp_path / "o.png")


def test_faults_of_our_own_are_told_apart(picture, tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("inner fault")

    monkeypatch.delenv("PYSR_DEBUG", raising=False)
    monkeypatch.setattr("pysr.upscaler.Upscaler.__call__", fail)
    line = failure(capsys, "upscale", picture, tmp_path / "o.png", code=1)
    assert "ZeroDivisionError" in line and "PYSR_DEBUG" in line
