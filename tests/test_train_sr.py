import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch
from skimage import data as photographs

from pysr import arrays, blur, pictures
from pysr.cli import main
from pysr.colour import unit_luma
from pysr.degrade import BicubicDegradation, FileDegradation, LearnedDegradation, classical
from pysr.evaluate import psnr
from pysr.nets import SHIPPED, load_model
from pysr.nets.abl import ABL, ABLConfig
from pysr.nets.registry import ARCHITECTURES
from pysr.resize import imresize
from pysr.train.loop import TrainingOptions, data_generator
from pysr.train.recipe import RECIPES, read_recipe
from pysr.train.sr import SRData, SRTask, train_sr

OPTIONS = TrainingOptions(
    steps=4, learning_rate=1e-3, ema=0.5, log_every=1, validate_every=100, save_every=2
)
TINY = {
    "vdsr": {"scale": 2, "layers": 4, "features": 16},
    "rrdb": {"scale": 2, "features": 8, "growth": 4, "blocks": 1, "bicubic_skip": True},
}
KERNEL = blur.isotropic(1.0, 7)


def config(architecture):
    return ARCHITECTURES[architecture].config(**TINY[architecture])


def crop(i):
    """Print, which interpolation blurs visibly."""
    return np.repeat(photographs.page()[i * 30 : i * 30 + 96, 60:156, None], 3, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hr")
    for i in range(4):
        pictures.write(folder / f"{i}.png", pictures.Picture(np.ascontiguousarray(crop(i))))
    return folder


@pytest.fixture(scope="module")
def pairs(folder, tmp_path_factory):
    """Pairs whose camera blurs more than bicubic downsampling does."""
    target = tmp_path_factory.mktemp("pairs")
    for i in range(4):
        hr = pictures.read(folder / f"{i}.png")
        lr = classical(arrays.unpack(hr.pixels).rgb, KERNEL, 2)
        lr = (lr[0].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)
        for side, picture in (("hr", hr), ("lr", pictures.Picture(lr))):
            pictures.write(target / f"{i}_{side}.png", picture)
    return target


def task(data, architecture="rrdb", degradation=None):
    degradation = degradation or BicubicDegradation(2)
    return SRTask(architecture, config(architecture), data, degradation, 0, torch.device("cpu"))


@pytest.mark.parametrize("architecture", TINY)
def test_training_gets_better_than_interpolation(architecture, folder, tmp_path):
    data = SRData((str(folder),), patch=32, batch=4, hold_out=1)
    options = dataclasses.replace(
        OPTIONS, steps=60, learning_rate=2e-3, cooldown=40, ema=0.9, log_every=60
    )
    degradation = BicubicDegradation(2)
    model = train_sr(
        architecture, config(architecture), data, degradation, options, tmp_path / "run"
    )
    start = task(data, architecture)
    with torch.no_grad():
        before, after = (start.validate(m)["psnr_synthetic_x2"] for m in (start.model, model))
    assert after > before + 0.1
    hr, lr = next(next(iter(start.sources)).held_out(2))
    assert before == pytest.approx(psnr(imresize(lr, 2), hr, 2), abs=0.2)


@pytest.mark.parametrize("architecture", TINY)
def test_a_resumed_run_equals_an_uninterrupted_one(architecture, folder, pairs, tmp_path):
    data = SRData((str(folder),), (str(pairs),), patch=32, batch=2, hold_out=1)
    states = []
    for out, parts in (("whole", (4,)), ("parts", (2, 4))):
        for steps in parts:
            options = dataclasses.replace(OPTIONS, steps=steps)
            model = train_sr(
                architecture, config(architecture), data, BicubicDegradation(2), options,
                tmp_path / out,
            )  # fmt: skip
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    other = dataclasses.replace(data, real=0.25)
    with pytest.raises(ValueError, match=r"another recipe \(data differ\)"):
        train_sr(
            architecture, config(architecture), other, BicubicDegradation(2), OPTIONS,
            tmp_path / "whole",
        )  # fmt: skip


def test_other_pictures_do_not_continue_a_run(folder, pairs, tmp_path):
    data = SRData((str(tmp_path / "hr"),), patch=32, batch=2, hold_out=1)
    shutil.copytree(folder, tmp_path / "hr")

    def train(data):
        options = dataclasses.replace(OPTIONS, steps=1)
        train_sr("rrdb", config("rrdb"), data, BicubicDegradation(2), options, tmp_path / "out")

    train(data)
    (tmp_path / "hr" / "3.png").rename(tmp_path / "hr" / "other.png")
    with pytest.raises(ValueError, match=r"another recipe \(files differ\)"):
        train(data)


@pytest.mark.parametrize(("name", "use"), [("0", "validation"), ("2", "a patch")])
def test_a_picture_that_is_too_small_is_named_before_the_first_step(folder, tmp_path, name, use):
    shutil.copytree(folder, tmp_path / "hr")
    pictures.write(tmp_path / "hr" / f"{name}.png", pictures.Picture(crop(0)[:20].copy()))
    with pytest.raises(ValueError, match=f"{name}.png: .* 32x32 pixels for {use}, got 96x20"):
        task(SRData((str(tmp_path / "hr"),), patch=32, batch=2, hold_out=1))


def test_a_batch_has_its_share_of_real_pairs(folder, pairs):
    batch = task(SRData((str(folder),), (str(pairs),), 0.25, patch=48, batch=8, hold_out=0)).batch(
        0, data_generator(0, 0, 0)
    )
    # LR of a real pair has lost more than bicubic downsampling of its HR patch, away from borders.
    error = (imresize(batch["hr"], 1 / 2) - batch["lr"])[..., 6:-6, 6:-6].abs().mean((1, 2, 3))
    assert (error > 0.003).tolist() == [False] * 6 + [True] * 2


def test_a_learned_degradation_makes_the_pairs(folder, tmp_path):
    torch.manual_seed(0)
    learned = LearnedDegradation(ABL(ABLConfig(scale=2, features=8, blocks=1)))
    learned.save(tmp_path / "abl.safetensors")
    degradation = FileDegradation(str(tmp_path / "abl.safetensors"), scale=2, noise=0)
    batch = task(
        SRData((str(folder),), patch=32, batch=2, hold_out=0), degradation=degradation
    ).batch(0, data_generator(0, 0, 0))
    torch.testing.assert_close(learned(batch["hr"])[0], batch["lr"])


def test_a_vdsr_sees_luma_at_every_scale(folder):
    data = SRData((str(folder),), scales=(2, 3), patch=48, batch=2, hold_out=1)
    vdsr = task(data, "vdsr")
    sizes = set()
    for step in range(8):
        batch = vdsr.batch(step, data_generator(0, 0, step))
        assert batch["hr"].shape == (2, 1, 48, 48)
        scale = 48 // batch["lr"].shape[-1]
        sizes.add(scale)
        # The loss of an untrained VDSR is the error of interpolating Y.
        error = (imresize(batch["lr"], scale) - batch["hr"]).abs().mean()
        assert float(vdsr.module(**batch)["picture"].detach()) == pytest.approx(float(error))
    assert sizes == {2, 3}
    with torch.no_grad():
        figures = vdsr.validate(vdsr.model)
    assert set(figures) == {"psnr_synthetic_x2", "psnr_synthetic_x3"}


def test_real_pairs_are_validated_on_luma_of_colour(pairs):
    real = task(SRData(pairs=(str(pairs),), patch=32, batch=2, hold_out=1), "vdsr")
    hr, lr = next(iter(real.sources)).cache.held_out[0]
    assert hr.shape[1] == lr.shape[1] == 3
    expected = psnr(imresize(lr, 2), hr, 2)
    assert real.validate(real.model)["psnr_real_x2"] == pytest.approx(expected, abs=1e-3)
    batch = real.batch(0, data_generator(0, 0, 0))
    assert batch["hr"].shape == (2, 1, 32, 32)
    assert unit_luma(hr).min() > 16 / 256 and batch["hr"].min() > 16 / 256


RECIPE = """kind = "sr"
architecture = "{architecture}"
out = "unused"
[model]
scale = 2
features = 8
{model}
[data]
folders = ["{folder}"]
patch = 32
batch = 2
hold_out = 1
{data}
[training]
steps = 2
"""


def written(path, folder, architecture="rrdb", model="growth = 4\nblocks = 1", data=""):
    path.write_text(RECIPE.format(folder=folder, architecture=architecture, model=model, data=data))
    return str(path)


def test_the_command_leaves_a_model_that_loads(folder, tmp_path):
    recipe = written(tmp_path / "r.toml", folder)
    arguments = ["train", recipe, "--out", str(tmp_path / "o"), "--device", "cpu"]
    assert main(arguments) == 0
    model = load_model(tmp_path / "o" / "model.safetensors")
    assert model.config == dataclasses.replace(config("rrdb"), bicubic_skip=False)
    assert model(torch.rand(1, 3, 8, 9)).shape == (1, 3, 16, 18)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "rdb"}, r"architecture: expected one of .*rrdb.*, got 'rdb'"),
        ({"model": "growths = 4"}, r"model\.growths: unknown; expected one of .*growth"),
        ({"data": "scales = [2, 3]"}, r"data\.scales: expected none, or the model's own 2"),
        ({"data": "real = 1.0"}, r"data\.real: expected a share between 0 and 1, got 1"),
        ({"model": "scale = 3", "architecture": "rrdb"}, "not a TOML file"),
        ({"data": '[degradation]\nfile = "none"\nseting2 = 1'}, r"degradation\.seting2: unknown"),
        ({"data": '[degradation]\nfile = "none"'}, r"degradation: no file none"),
    ],
)
def test_a_bad_recipe_is_one_line(folder, tmp_path, capsys, settings, message):
    recipe = written(tmp_path / "r.toml", folder, **settings)
    assert main(["train", recipe, "--out", str(tmp_path / "o"), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(message, error), error


def test_no_data_and_other_data_are_refused(folder, pairs):
    with pytest.raises(ValueError, match="expected folders of HR pictures, folders of pairs"):
        SRData()
    with pytest.raises(ValueError, match=r"data\.patch: expected a multiple of the scale 3"):
        task(SRData((str(folder),), scales=(3,), patch=32), "vdsr")
    with pytest.raises(ValueError, match=r"data\.scales: expected one at most with pairs"):
        SRData(pairs=(str(pairs),), scales=(2, 3))
    with pytest.raises(ValueError, match=r"data\.patch: expected at least 1, got -8"):
        SRData((str(folder),), patch=-8)
    with pytest.raises(ValueError, match=r"data\.scales: expected at least 1, got 0"):
        SRData((str(folder),), scales=(2, 0))
    with pytest.raises(ValueError, match=r"data\.batch: expected at least 2, got 1"):
        SRData((str(folder),), (str(pairs),), batch=1)


@pytest.mark.parametrize("name", [name for name in SHIPPED if not name.startswith("dan")])
def test_shipped_starts_know_bicubic_downsampling(name):
    hr = arrays.unpack(photographs.astronaut()[:192, 128:320]).rgb
    model = load_model(name)
    scale = model.config.scale
    lr, _ = BicubicDegradation(scale)(hr, None)
    with torch.no_grad():
        assert psnr(model(lr), hr, scale) > psnr(imresize(lr, scale), hr, scale) + 0.7


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_recipes_read(path):
    assert read_recipe(path.stem).training.steps >= 1
    assert json.dumps(dataclasses.asdict(read_recipe(path).training))
