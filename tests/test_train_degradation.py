import dataclasses
import json

import numpy as np
import pytest
import torch
from skimage import data as photographs

from pysr import arrays, blur, degrade, pictures
from pysr.cli import main
from pysr.degrade import classical
from pysr.nets.abl import ABLConfig
from pysr.nets.dml import DMLConfig
from pysr.train.degradation import ABLRecipe, DegradationTask, DMLRecipe, PairData
from pysr.train.loop import TrainingOptions

KERNEL = blur.isotropic(1.0, 7)
CARD = degrade.Card("a simulated camera", "three crops", "public domain")
OPTIONS = TrainingOptions(
    steps=4, learning_rate=0.01, ema=0.5, log_every=1, validate_every=100, save_every=2
)


def write_pairs(folder, scale):
    for i in range(4):
        hr = photographs.astronaut()[i * 60 : i * 60 + 64, 150:214]
        lr = classical(arrays.unpack(hr).rgb, KERNEL, scale)
        lr = (lr[0].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)
        for side, pixels in (("hr", hr), ("lr", lr)):
            pictures.write(folder / f"{i}_{side}.png", pictures.Picture(pixels))


def recipe(folder, kind, **settings):
    scale = 1 if kind == "dml" else 2
    write_pairs(folder, scale)
    model = (
        DMLConfig(bases=4, kernel_size=7, features=4, levels=1)
        if kind == "dml"
        else ABLConfig(scale=2, features=8, blocks=1)
    )
    data = PairData((str(folder),), patch=32, batch=2, hold_out=1)
    options = dataclasses.replace(OPTIONS, **settings)
    kinds = {"dml": DMLRecipe, "abl": ABLRecipe}
    return kinds[kind](model=model, data=data, training=options, card=CARD, out="out")


def test_a_dml_learns_the_blur_of_its_pairs(tmp_path):
    dml = recipe(tmp_path, "dml", steps=150, cooldown=100, log_every=50, ema=0.9)
    trained = dml.train(dml.training, tmp_path / "out", "cpu")
    hr = arrays.unpack(photographs.astronaut()[300:364, 150:214]).rgb  # in no pair
    error = (trained(hr)[0] - classical(hr, KERNEL, 1)).square().mean()
    assert error < (hr - classical(hr, KERNEL, 1)).square().mean() / 4
    assert trained.card.figures["psnr"] > 30 and trained.card.camera == CARD.camera


@pytest.mark.parametrize("kind", ["dml", "abl"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, kind):
    whole = recipe(tmp_path, kind)
    first = dataclasses.replace(whole.training, steps=2)
    states = []
    for out, parts in (("whole", (OPTIONS,)), ("parts", (first, OPTIONS))):
        for options in parts:
            trained = whole.train(options, tmp_path / out, "cpu")
        states.append(trained.network.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_the_card_says_how_long_was_trained_in_all(tmp_path):
    dml = recipe(tmp_path, "dml")
    dml.train(dml.training, tmp_path / "out", "cpu")
    with pytest.warns(UserWarning, match="is of step 4: nothing is left to train"):
        again = dml.train(dataclasses.replace(OPTIONS, steps=2), tmp_path / "out", "cpu")
    assert again.card.figures["steps"] == 4


def test_other_pairs_do_not_continue_a_run(tmp_path):
    dml = recipe(tmp_path, "dml")
    dml.train(dml.training, tmp_path / "out", "cpu")
    for side in ("hr", "lr"):
        (tmp_path / f"3_{side}.png").rename(tmp_path / f"other_{side}.png")
    with pytest.raises(ValueError, match=r"another recipe \(files differ\)"):
        dml.train(dml.training, tmp_path / "out", "cpu")


def test_a_pair_that_is_too_small_is_named_before_the_first_step(tmp_path):
    dml = recipe(tmp_path, "dml")
    for side in ("hr", "lr"):
        picture = pictures.read(tmp_path / f"2_{side}.png")
        cut = np.ascontiguousarray(picture.pixels[:30])
        pictures.write(tmp_path / f"2_{side}.png", picture.with_pixels(cut))
    with pytest.raises(
        ValueError, match=r"2_hr.png: .*at least 32x32 pixels for a patch, got 64x30"
    ):
        dml.train(dml.training, tmp_path / "out", "cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["patch", "batch"])
def test_data_options_out_of_range(name):
    with pytest.raises(ValueError, match=f"data.{name}: expected at least 1, got 0"):
        PairData(("pairs",), **{name: 0})


def test_what_is_measured_is_y(tmp_path):
    dml = recipe(tmp_path, "dml")

    class Identity(torch.nn.Module):
        config = dml.model

        def forward(self, y):
            return y

    task = DegradationTask(Identity(), torch.nn.functional.mse_loss, dml.data, torch.device("cpu"))
    figures = task.validate(task.model)
    hr, lr = task.pairs.held_out[0]
    error = (hr - lr).double() * 255
    assert figures["l1"] == pytest.approx(float(error.abs().mean()) / 255, rel=1e-4)
    assert figures["psnr"] == pytest.approx(
        float(10 * torch.log10(255**2 / error.square().mean())), rel=1e-4
    )


@pytest.mark.parametrize("kind", ["dml", "abl"])
def test_the_command_leaves_a_file_that_degrades(tmp_path, capsys, kind):
    wanted = recipe(tmp_path, kind)
    lines = [f'kind = "{kind}"', 'out = "unused"']
    for name in ("model", "data", "card"):
        values = dataclasses.asdict(getattr(wanted, name))
        values.pop("figures", None)
        lines += [f"[{name}]", *(f"{key} = {json.dumps(v)}" for key, v in values.items())]
    (tmp_path / "r.toml").write_text("\n".join([*lines, "[training]", "steps = 2"]))
    arguments = ["train", str(tmp_path / "r.toml"), "--out", str(tmp_path / "o"), "--device", "cpu"]
    assert main(arguments) == 0
    loaded = degrade.load(tmp_path / "o" / "model.safetensors")
    assert loaded.network.config == wanted.model and loaded.card.data == CARD.data
    assert loaded.card.figures["pairs"] == 3 and loaded.card.figures["steps"] == 2
    lr, _ = loaded(torch.rand(1, 3, 20, 24), 0)
    assert lr.shape == (1, 3, 20 // loaded.scale, 24 // loaded.scale)


def test_unregistered_pairs_are_one_line_on_the_command_line(tmp_path, capsys):
    recipe(tmp_path, "dml")
    hr = pictures.read(tmp_path / "1_hr.png")
    pictures.write(tmp_path / "1_hr.png", hr.with_pixels(np.roll(hr.pixels, 4, 1)))
    text = (
        'kind = "dml"\nout = "o"\n[model]\nfeatures = 2\nbases = 1\n[training]\nsteps = 1\n'
        f'[data]\nfolders = ["{tmp_path}"]\npatch = 16\nbatch = 1\nhold_out = 1\n'
    )
    arguments = ["--out", str(tmp_path / "o"), "--device", "cpu"]
    (tmp_path / "warns.toml").write_text(text)
    assert main(["train", str(tmp_path / "warns.toml"), *arguments]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "shifted" in line]
    assert len(told) == 1 and told[0].startswith("pysr train: ")
    assert "pairs: 1 of 4 are shifted" in told[0]
    (tmp_path / "refuses.toml").write_text(text + "refuse_unregistered = true\n")
    assert main(["train", str(tmp_path / "refuses.toml"), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "1_lr.png" in error
