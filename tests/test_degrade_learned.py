import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage import data as photographs

from pysr import arrays, blur, degrade, pictures
from pysr.cli import main
from pysr.colour import unit_luma
from pysr.degrade import Card, FileDegradation, LearnedDegradation, imresize
from pysr.degrade.classical import classical
from pysr.degrade.dataset import MANIFEST, write_pairs
from pysr.degrade.deep_linear import bicubic_taps, convolved
from pysr.evaluate import evaluate
from pysr.nets.abl import ABL, ABLConfig
from pysr.nets.dml import DMLConfig, build_dml
from pysr.ops import svconv
from pysr.train.pairs import find_pairs
from pysr.train.recipe import read_recipe

CARD = Card("a camera", "some pairs", "MIT", {"psnr": 30.5})


def learned(predicts="coefficients", **settings):
    torch.manual_seed(0)
    if predicts == "mixtures":
        return LearnedDegradation(ABL(ABLConfig(features=6, blocks=1, group=2)), CARD)
    sizes = {"bases": 3, "kernel_size": 5, "features": 4, "levels": 1} | settings
    return LearnedDegradation(build_dml(DMLConfig(predicts, **sizes)), CARD)


KINDS = ("coefficients", "kernels", "pixels", "mixtures")


@pytest.fixture
def hr():
    return arrays.unpack(photographs.astronaut()[100:148, 200:260]).rgb


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "clean"
    folder.mkdir()
    for i in range(3):
        pixels = photographs.astronaut()[i * 60 : i * 60 + 41, 150:201]
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def run(*arguments):
    return main([str(a) for a in arguments])


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_holds_everything(tmp_path, hr, kind):
    degradation = learned(kind)
    if kind == "mixtures":
        degradation = degradation.with_factor(0.5)
    degradation.save(tmp_path / "d.safetensors")
    again = degrade.load(tmp_path / "d.safetensors")
    assert torch.equal(again.degrade(hr), degradation.degrade(hr))
    assert again.card == CARD and again.network.config == degradation.network.config
    assert again.fingerprint() == degradation.fingerprint()


@pytest.mark.parametrize("kind", ["pixels", "mixtures"])
def test_a_predicted_luma_keeps_the_colours_of_bicubic_downsampling(hr, kind):
    degradation = learned(kind)
    with torch.no_grad():
        expected = degradation.network(unit_luma(hr))
    lr, plain = degradation.degrade(hr), imresize(hr, 1 / degradation.scale)
    torch.testing.assert_close(unit_luma(lr), expected, atol=1e-5, rtol=0)
    for other in (1, 2):
        torch.testing.assert_close(lr[:, 0] - lr[:, other], plain[:, 0] - plain[:, other])


@pytest.mark.parametrize("kind", ["coefficients", "kernels", "pixels"])
def test_the_picture_that_is_degraded_stays_as_it_was(hr, kind):
    before = hr.clone()
    learned(kind, scale=1).with_noise(0.1).degrade(hr, 0)
    assert torch.equal(hr, before)


@pytest.mark.parametrize(("kind", "scale"), [*((kind, 1) for kind in KINDS), ("kernels", 2)])
def test_nothing_is_rounded_under_autocast(hr, kind, scale):
    degradation = learned(kind, **({} if scale == 1 else {"scale": scale}))
    expected = degradation(hr, 0)
    with torch.autocast("cpu", torch.bfloat16):
        found = degradation(hr, 0)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None and theirs is None) or torch.equal(ours, theirs)


def test_predicted_kernels_blur_every_channel_alike(hr):
    degradation = learned()
    kernels = degradation.network.kernels(unit_luma(hr)).detach()
    with_alpha = torch.cat((hr, hr[:, :1]), 1)
    lr = degradation.degrade(with_alpha)
    torch.testing.assert_close(lr, svconv(with_alpha, kernels))


@pytest.mark.parametrize("scale", [2, 4])
def test_its_blur_is_what_comes_before_bicubic_downsampling(hr, scale):
    """A network whose kernels are a blur and bicubic taps in one gives that blur."""
    true = blur.isotropic(1.2, 9)
    folded = convolved(true, bicubic_taps(scale))
    degradation = learned(scale=scale, bases=1, kernel_size=len(folded))
    network = degradation.network
    with torch.no_grad():
        network.free_bases.copy_(folded[None])
        network.backbone.out.weight.zero_()
        network.backbone.out.bias.fill_(20.0)  # one basis, of weight 1
    lr, kernels = degradation(hr)
    inside = (..., slice(4, -4), slice(4, -4))
    want = classical(hr, true, scale)
    assert (lr - want)[inside].abs().max() <= 1.01 / 255
    found = blur.resized(kernels[0], len(true))
    moved = blur.resized(folded, len(true))
    assert (found - true).abs().sum() < 0.25 * (moved - true).abs().sum()


def test_a_file_that_was_made_anew_is_read_anew(tmp_path, hr):
    path = tmp_path / "camera.safetensors"
    named = FileDegradation(str(path), 1, noise=0.0)
    first, second = learned(), learned(features=6)
    for made in (first, second):
        made.save(path)
        assert torch.equal(named(hr, 0)[0], made(hr)[0])


def test_it_works_like_a_random_degradation(hr):
    degradation = learned().with_noise(0.1)
    batch = hr.expand(2, -1, -1, -1)
    lr, kernels = degradation(batch, torch.Generator().manual_seed(1))
    assert lr.shape == batch.shape and kernels.shape == (2, 5, 5)
    assert torch.equal(lr, degradation(batch, torch.Generator().manual_seed(1))[0])
    assert torch.allclose(lr * 255, (lr * 255).round(), atol=1e-4)
    noise = degradation.degrade(batch, 1) - learned().degrade(batch)
    assert float(noise.std()) == pytest.approx(0.1, rel=0.05)
    assert learned("mixtures")(hr, 0)[1] is None


def test_a_factor_moves_an_abl_to_another_camera(hr, tmp_path):
    degradation = learned("mixtures")
    moved = degradation.with_factor(3.0)
    assert moved.network.factor == 3.0 and degradation.network.factor == 1.0
    assert not torch.allclose(moved.degrade(hr), degradation.degrade(hr))
    moved.save(tmp_path / "moved.safetensors")
    again = degrade.load(tmp_path / "moved.safetensors")
    assert torch.equal(again.degrade(hr), moved.degrade(hr))
    assert again.fingerprint() == moved.fingerprint() != degradation.fingerprint()
    precise = LearnedDegradation(degradation.network.double()).with_factor(2.0)
    assert precise.degrade(hr.double()).dtype == torch.float64
    with pytest.raises(ValueError, match="only an ABL has one, this is a DML"):
        learned().with_factor(2.0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "no file"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "not a readable degradation"),
        (
            lambda path: save_file({"a": torch.ones(1)}, path, {"architecture": "dan"}),
            r"expected a learned degradation \(dml or abl\), the file says 'dan'",
        ),
        (
            lambda path: save_file(
                {"a": torch.ones(1)}, path, {"architecture": "dml", "config": "{}", "card": "{}"}
            ),
            "does not fit its network",
        ),
    ],
)
def test_bad_files(tmp_path, damage, message):
    path = tmp_path / "d.safetensors"
    learned().save(path)
    assert degrade.is_degradation(path)
    damage(path)
    with pytest.raises(degrade.DegradationError, match=message) as caught:
        degrade.load(path)
    assert "d.safetensors" in str(caught.value)


def test_the_command_degrades_pictures_of_every_kind(tmp_path):
    degradation = learned()
    degradation.save(tmp_path / "d.safetensors")
    rng = np.random.default_rng(0)
    for name, pixels in (
        ("rgba", rng.integers(0, 65535, (20, 31, 4), np.uint16)),
        ("grey", rng.integers(0, 255, (20, 31), np.uint8)),
    ):
        source, target = tmp_path / f"{name}.png", tmp_path / f"{name}_lr.png"
        pictures.write(source, pictures.Picture(pixels))
        assert run("degrade", source, target, "--model", tmp_path / "d.safetensors") == 0
        lr = pictures.read(target).pixels
        assert lr.shape == pixels.shape and lr.dtype == pixels.dtype
        unpacked = arrays.unpack(pixels)
        expected = degradation.degrade(unpacked.rgb)[0].mean(0).clamp(0, 1)
        got = arrays.unpack(lr).rgb[0].mean(0)
        if name == "grey":
            torch.testing.assert_close(got, expected, atol=1 / 255, rtol=0)
        else:
            assert (lr % 257 != 0).any()  # not rounded to 8 bits on the way


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--scale", 2), "scale: not with --model"),
        (("--motion",), "motion: not with --model"),
        (("--factor", 2), "only an ABL has one"),
        (("--pairs", "--pixel-format", "yuv420p"), "pixel-format: for video only"),
    ],
)
def test_the_command_refuses_what_means_nothing(tmp_path, folder, capsys, arguments, message):
    learned().save(tmp_path / "d.safetensors")
    model = ("--model", tmp_path / "d.safetensors")
    assert run("degrade", folder, tmp_path / "out", *model, *arguments) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert run("degrade", folder, tmp_path / "out", "--pairs") == 2
    assert "expected --model" in capsys.readouterr().err


def test_pairs_do_not_replace_their_sources(tmp_path):
    source = tmp_path / "set" / "hr"
    source.mkdir(parents=True)
    picture = pictures.Picture(np.full((9, 9, 4), 7, np.uint8))
    pictures.write(source / "a.png", picture)
    with pytest.raises(ValueError, match="hr/a.png: the result would overwrite its source"):
        list(write_pairs(source, tmp_path / "set", learned(scale=2)))
    assert pictures.read(source / "a.png").pixels.shape == (9, 9, 4)
    assert not (tmp_path / "set" / "lr").exists()


def test_a_set_of_pairs_goes_on_where_it_stopped(tmp_path, folder):
    degradation = learned(scale=2).with_noise(5 / 255)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert list(write_pairs(folder, whole, degradation, seed=3)) == [(1, 3), (2, 3), (3, 3)]
    next(write_pairs(folder, parts, degradation, seed=3))
    manifest = parts / MANIFEST
    manifest.write_text(manifest.read_text() + '{"name": "1", "wid')  # killed while writing
    list(write_pairs(folder, parts, degradation, seed=3))
    for path in [MANIFEST, *(f"{side}/{i}.png" for side in ("hr", "lr") for i in range(3))]:
        assert (whole / path).read_bytes() == (parts / path).read_bytes(), path
    settings, *lines = map(json.loads, manifest.read_text().splitlines())
    assert settings["camera"] == "a camera" and settings["noise"] == pytest.approx(5 / 255)
    assert [line["name"] for line in lines] == ["0", "1", "2"]
    assert (lines[0]["width"], lines[0]["height"]) == (50, 40)
    assert len(find_pairs([whole])) == 3
    hr, lr = (pictures.read(whole / side / "0.png").pixels for side in ("hr", "lr"))
    assert hr.shape == (40, 50, 3) and lr.shape == (20, 25, 3)
    clean = degradation.with_noise(0).degrade(arrays.unpack(hr).rgb)
    assert float((arrays.unpack(lr).rgb - clean).std()) == pytest.approx(5 / 255, rel=0.1)
    (parts / "lr" / "1.png").unlink()
    list(write_pairs(folder, parts, degradation, seed=3))
    noted = [json.loads(line).get("name") for line in manifest.read_text().splitlines()]
    assert sorted(noted[1:]) == ["0", "1", "2"]
    for other, seed in ((degradation.with_noise(0), 3), (degradation, 4)):
        with pytest.raises(ValueError, match="made otherwise"):
            next(write_pairs(folder, whole, other, seed))


def test_pairs_of_other_pictures_are_made_anew(tmp_path, folder):
    degradation, out = learned(scale=1).with_noise(5 / 255), tmp_path / "out"
    list(write_pairs(folder, out, degradation))
    before = {path: path.read_bytes() for path in out.rglob("*.png")}
    changed = np.ascontiguousarray(pictures.read(folder / "1.png").pixels[::-1])
    pictures.write(folder / "1.png", pictures.Picture(changed))
    folder.rename(tmp_path / "moved")
    list(write_pairs(tmp_path / "moved", out, degradation))
    differ = {path for path, content in before.items() if path.read_bytes() != content}
    assert differ == {out / "hr" / "1.png", out / "lr" / "1.png"}
    assert np.array_equal(pictures.read(out / "hr" / "1.png").pixels, changed)
    noted = [json.loads(line) for line in (out / MANIFEST).read_text().splitlines()[1:]]
    assert sorted(line["name"] for line in noted) == ["0", "1", "2"]
    # Nothing is made twice.
    written = {path: path.stat().st_mtime_ns for path in before}
    list(write_pairs(tmp_path / "moved", out, degradation))
    assert written == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize("content", [b"PK\x03\x04\xff\n", b"[1]\n", b"{}\n{}\n"])
def test_a_manifest_that_is_none_is_named(tmp_path, folder, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MANIFEST).write_bytes(content)
    with pytest.raises(ValueError, match=f"{MANIFEST}: expected the manifest of a set of pairs"):
        next(write_pairs(folder, tmp_path / "out", learned()))
    assert (tmp_path / "out" / MANIFEST).read_bytes() == content


def test_pairs_from_the_command_line(tmp_path, folder, capsys):
    learned().save(tmp_path / "d.safetensors")
    arguments = ("--model", tmp_path / "d.safetensors", "--pairs", "--noise", 2)
    assert run("degrade", folder, tmp_path / "out", *arguments) == 0
    assert "3 of 3 pairs" in capsys.readouterr().out
    settings = json.loads((tmp_path / "out" / MANIFEST).read_text().splitlines()[0])
    assert settings["noise"] == pytest.approx(2 / 255)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("coefficients", {"bases.png", "weights.png", "kernels.png"}),
        ("kernels", {"kernels.png"}),
        ("mixtures", {"mixtures.png"}),
    ],
)
def test_inspect_writes_what_was_learned(tmp_path, folder, capsys, kind, expected):
    learned(kind).save(tmp_path / "d.safetensors")
    picture = folder / "0.png"
    assert run("inspect", picture, "--model", tmp_path / "d.safetensors") == 0
    assert {path.name for path in (tmp_path / "d").iterdir()} == expected
    assert "a camera" in capsys.readouterr().out
    assert run("inspect", "--model", tmp_path / "d.safetensors", "--html", tmp_path / "p.html") == 2
    assert "html: expected a model that restores" in capsys.readouterr().err
    assert run("inspect", picture, "--model", tmp_path / "d.safetensors", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["camera"] == "a camera"
    assert {Path(path).name for path in facts["written"]} == expected
    for name in expected:
        assert pictures.read(tmp_path / "d" / name).pixels.std() > 1


def test_the_picture_of_bases_shows_the_taps():
    from pysr.degrade.views import kernel_sheet

    kernels = torch.stack([blur.dirac(5), -blur.dirac(5), blur.isotropic(1.0, 5)])
    sheet = kernel_sheet(kernels, 2, cell=1)
    assert sheet.shape == (5 + 4 + 5, 5 + 4 + 5)
    assert sheet[2, 2] == 255 and sheet[2, 11] == 0 and sheet[0, 0] == 128
    assert (sheet[9:, 9:] == 255).all()  # nothing there


def test_views_are_written_into_a_folder_alone(tmp_path, capsys):
    learned().save(tmp_path / "camera")
    assert run("inspect", "--model", tmp_path / "camera") == 2
    assert "out: expected a folder" in capsys.readouterr().err


def test_nothing_to_see_is_said(tmp_path, folder, capsys):
    learned("pixels").save(tmp_path / "d.safetensors")
    assert run("inspect", folder / "0.png", "--model", tmp_path / "d.safetensors") == 2
    assert "a DirectNet has nothing to look at" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_models_are_evaluated_under_it(tmp_path, folder, capsys):
    degradation = learned(scale=2)
    report = evaluate(degradation, 2, folder)
    assert report.pictures == report.cases == 3 and report.protocol == "learned from a camera"
    with pytest.raises(ValueError, match="this degradation is x2, expected x4"):
        evaluate(degradation, 4, folder)
    degradation.save(tmp_path / "d.safetensors")
    arguments = ("--degradation", tmp_path / "d.safetensors", "--scale", 2, "--model", "none")
    assert run("evaluate", *arguments, "--data", folder, "--json", tmp_path / "r.json") == 0
    rows = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert rows[0]["psnr"] == pytest.approx(report.rows[0].psnr)


def test_every_picture_is_evaluated_under_noise_of_its_own(tmp_path, folder):
    degradation, alone = learned(scale=2).with_noise(9 / 255), tmp_path / "alone"
    alone.mkdir()
    for name in ("1", "2"):
        (folder / f"{name}.png").write_bytes((folder / "0.png").read_bytes())
    (alone / "0.png").write_bytes((folder / "0.png").read_bytes())
    one, many = (evaluate(degradation, 2, path).rows[0].psnr for path in (alone, folder))
    assert one == evaluate(degradation, 2, folder, limit=1).rows[0].psnr
    assert abs(one - many) > 1e-3


def test_a_dan_trains_on_it(tmp_path, folder):
    learned(scale=2).save(tmp_path / "d.safetensors")
    (tmp_path / "r.toml").write_text(
        f'kind = "dan"\nout = "o"\n[degradation]\nfile = "{tmp_path / "d.safetensors"}"\n'
        "[model]\nscale = 2\nfeatures = 16\nblocks = 1\ncode_length = 3\niterations = 2\n"
        "estimator_features = 16\nestimator_blocks = 1\ncompact_tail = true\n"
        f'[data]\nfolders = ["{folder}"]\npatch = 16\nbatch = 1\nhold_out = 0\n'
        "[training]\nsteps = 2\n"
    )
    recipe = read_recipe(tmp_path / "r.toml")
    assert isinstance(recipe.degradation, FileDegradation)
    model = recipe.train(recipe.training, tmp_path / "o", "cpu")
    assert all(torch.isfinite(p).all() for p in model.parameters())
    kernels = recipe.degradation.kernels(50, 0)
    torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(50))
    assert len(kernels.unique(dim=0)) == 50
    learned(scale=2, features=6).save(tmp_path / "d.safetensors")
    with pytest.raises(ValueError, match=r"another recipe \(degradation differ\)"):
        recipe.train(recipe.training, tmp_path / "o", "cpu")
    wrong = dataclasses.replace(recipe.degradation, scale=4)
    with pytest.raises(ValueError, match="expected the model's scale 4, got 2"):
        wrong.kernels(1, 0)
