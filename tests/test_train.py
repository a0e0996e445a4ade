import dataclasses
import errno
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data as photographs

from pysr.cli import main
from pysr.degrade import RandomDegradation
from pysr.evaluate import psnr
from pysr.nets import SHIPPED, DANConfig, load_model, save_model
from pysr.nets.abl import ABLConfig
from pysr.nets.dan import BicubicUpsample
from pysr.nets.dml import DMLConfig
from pysr.train.dan import DANData, DANTask, train_dan
from pysr.train.data import TileCache
from pysr.train.loop import TrainingOptions, data_generator
from pysr.train.recipe import RECIPES, read_recipe

TINY = DANConfig(
    scale=2,
    features=16,
    blocks=1,
    code_length=4,
    iterations=2,
    estimator_features=16,
    estimator_blocks=1,
    compact_tail=True,
    bicubic_skip=True,
    whitened_estimator=True,
)
DEGRADATION = RandomDegradation(2, setting2=0.3, noise=0.01, noisy=0.5)
OPTIONS = TrainingOptions(
    steps=6, learning_rate=1e-3, ema=0.5, log_every=1, validate_every=100, save_every=2
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiles")
    astronaut = photographs.astronaut()
    for i in range(4):
        Image.fromarray(astronaut[i * 60 : i * 60 + 200, 150:350]).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def data(folder):
    return DANData((str(folder),), patch=16, batch=2, hold_out=1, apart=3, damping=0.01)


def log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_training_gets_better_than_interpolation(folder, tmp_path):
    data = DANData((str(folder),), patch=24, batch=4, hold_out=1, apart=60, damping=0.01)
    options = dataclasses.replace(
        OPTIONS, steps=80, learning_rate=3e-3, cooldown=30, ema=0.9, log_every=20
    )
    model = train_dan(TINY, data, DEGRADATION, options, tmp_path / "run").eval()
    task = DANTask(TINY, data, DEGRADATION, 0, torch.device("cpu"))
    with torch.no_grad():
        trained = task.validate(model)["psnr"]
        interpolated = task.validate(Interpolation(TINY))["psnr"]
    assert trained > interpolated + 0.2


class Interpolation(torch.nn.Module):
    """Looks like a DAN to the validation, and interpolates."""

    def __init__(self, config):
        super().__init__()
        self.config, self.upsample = config, BicubicUpsample(config.scale)

    def forward(self, lr):
        return self.upsample(lr), torch.zeros(1, 4)

    def encode(self, kernel):
        return torch.zeros(len(kernel), 4)


def test_a_resumed_run_equals_an_uninterrupted_one(data, tmp_path):
    whole = train_dan(TINY, data, DEGRADATION, OPTIONS, tmp_path / "whole")
    first = dataclasses.replace(OPTIONS, steps=4)
    train_dan(TINY, data, DEGRADATION, first, tmp_path / "parts")
    parts = train_dan(TINY, data, DEGRADATION, OPTIONS, tmp_path / "parts")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    losses = [
        [line["picture"] for line in log(tmp_path / run) if "picture" in line]
        for run in ("whole", "parts")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 6


def test_every_step_and_process_has_data_of_its_own():
    draws = {
        int(torch.randint(2**62, (), generator=data_generator(seed, rank, step)))
        for seed in range(2)
        for rank in range(2)
        for step in range(50)
    }
    assert len(draws) == 200


def test_another_recipe_does_not_continue_a_run(data, tmp_path):
    options = dataclasses.replace(OPTIONS, steps=2)
    train_dan(TINY, data, DEGRADATION, options, tmp_path)
    before = (tmp_path / "last.pt").read_bytes()
    other = dataclasses.replace(TINY, blocks=2)
    with pytest.raises(ValueError, match=r"another recipe \(model differ\)"):
        train_dan(other, data, DEGRADATION, options, tmp_path)
    assert (tmp_path / "last.pt").read_bytes() == before


def test_held_out_pictures_stay_so_when_a_run_goes_on(data, tmp_path):
    options = dataclasses.replace(OPTIONS, steps=1)
    train_dan(TINY, data, DEGRADATION, options, tmp_path)
    other = dataclasses.replace(data, hold_out=data.hold_out + 1)
    with pytest.raises(ValueError, match=r"another recipe \(hold_out differ\)"):
        train_dan(TINY, other, DEGRADATION, options, tmp_path)


def test_other_pictures_do_not_continue_a_run(folder, data, tmp_path):
    shutil.copytree(folder, tmp_path / "tiles")
    data = dataclasses.replace(data, folders=(str(tmp_path / "tiles"),))
    train_dan(TINY, data, DEGRADATION, dataclasses.replace(OPTIONS, steps=1), tmp_path / "out")
    (tmp_path / "tiles" / "new.png").write_bytes((folder / "0.png").read_bytes())
    with pytest.raises(ValueError, match=r"another recipe \(files differ\)"):
        train_dan(TINY, data, DEGRADATION, OPTIONS, tmp_path / "out")


def test_a_validation_that_fails_leaves_what_was_learned(data, tmp_path, monkeypatch):
    def fails(task, model):
        raise RuntimeError("out of memory")

    options = dataclasses.replace(OPTIONS, validate_every=3, save_every=100)
    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="out of memory"):
        patched.setattr(DANTask, "validate", fails)
        train_dan(TINY, data, DEGRADATION, options, tmp_path / "parts")
    parts = train_dan(TINY, data, DEGRADATION, options, tmp_path / "parts")
    assert [line["step"] for line in log(tmp_path / "parts") if "picture" in line] == [*range(1, 7)]
    whole = train_dan(TINY, data, DEGRADATION, options, tmp_path / "whole")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name


@pytest.mark.parametrize(
    ("name", "patch", "message"),
    [
        ("0.png", 16, r"0.png: expected at least 32x32 pixels for validation, got 200x14"),
        ("0.png", 4, r"0.png: expected at least 16x16 pixels for validation, got 200x14"),
        ("2.png", 16, r"2.png: expected at least 32x32 pixels for a patch, got 200x14"),
    ],
)
def test_a_picture_that_is_too_small_is_named_before_the_first_step(
    folder, data, tmp_path, name, patch, message
):
    shutil.copytree(folder, tmp_path / "tiles")
    Image.fromarray(photographs.astronaut()[:14, :200]).save(tmp_path / "tiles" / name)
    data = dataclasses.replace(data, folders=(str(tmp_path / "tiles"),), patch=patch)
    with pytest.raises(ValueError, match=message):
        train_dan(TINY, data, DEGRADATION, OPTIONS, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"no checkpoint",
        lambda content: saved({"model": {}}),
        lambda content: saved([1, 2]),
        lambda content: saved(torch.load(io.BytesIO(content)) | {"optimiser": 3}),
        lambda content: saved(torch.load(io.BytesIO(content)) | {"description": 3}),
    ],
    ids=["empty", "cut", "text", "parts", "list", "optimiser", "description"],
)
def test_a_damaged_checkpoint_is_named(data, tmp_path, damage):
    train_dan(TINY, data, DEGRADATION, dataclasses.replace(OPTIONS, steps=1), tmp_path)
    checkpoint = tmp_path / "last.pt"
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    with pytest.raises(ValueError, match=r"last.pt: not a readable checkpoint") as caught:
        train_dan(TINY, data, DEGRADATION, OPTIONS, tmp_path)
    assert "\n" not in str(caught.value)


def saved(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def test_weights_that_are_not_finite_are_not_saved(data, tmp_path, monkeypatch):
    options = dataclasses.replace(OPTIONS, steps=2, save_every=2, log_every=100)
    train_dan(TINY, data, DEGRADATION, options, tmp_path)
    before = (tmp_path / "last.pt").read_bytes()
    options = dataclasses.replace(OPTIONS, steps=8, save_every=4, log_every=100)
    monkeypatch.setattr(TrainingOptions, "rate", lambda *_: math.inf)
    with pytest.raises(RuntimeError, match="weights are not finite near step 4"):
        train_dan(TINY, data, DEGRADATION, options, tmp_path)
    assert (tmp_path / "last.pt").read_bytes() == before


def test_an_interrupt_waits_for_the_step_and_keeps_it(data, tmp_path):
    whole = train_dan(TINY, data, DEGRADATION, OPTIONS, tmp_path / "whole")

    class Interrupting(RandomDegradation):
        def __call__(self, hr, generator):
            signal.raise_signal(signal.SIGINT)  # in the midst of the first step
            return super().__call__(hr, generator)

    interrupting = Interrupting(**dataclasses.asdict(DEGRADATION))
    options = dataclasses.replace(OPTIONS, save_every=100)
    with pytest.raises(KeyboardInterrupt):
        train_dan(TINY, data, interrupting, options, tmp_path / "parts")
    assert torch.load(tmp_path / "parts" / "last.pt", weights_only=True)["step"] == 1
    parts = train_dan(TINY, data, DEGRADATION, options, tmp_path / "parts")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    with pytest.warns(UserWarning, match="is of step 6: nothing is left to train"):
        train_dan(
            TINY, data, DEGRADATION, dataclasses.replace(options, steps=3), tmp_path / "parts"
        )


def test_a_checkpoint_that_cannot_be_written_is_one_line(data, tmp_path, monkeypatch):
    def full(state, file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"last.pt: cannot be written \(No space left on device\)"):
        train_dan(TINY, data, DEGRADATION, OPTIONS, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_training_goes_on_from_given_weights(data, tmp_path):
    options = dataclasses.replace(OPTIONS, steps=1, learning_rate=1e-9)
    model = train_dan(TINY, data, DEGRADATION, options, tmp_path / "a")
    save_model(model, tmp_path / "a.safetensors")
    data = dataclasses.replace(data, start=str(tmp_path / "a.safetensors"))
    options = dataclasses.replace(options, seed=9)
    again = train_dan(TINY, data, DEGRADATION, options, tmp_path / "b")
    start = load_model(tmp_path / "a.safetensors")
    for name, value in start.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="start: .*a.safetensors: expected DANConfig.* got DANC"):
        other = dataclasses.replace(TINY, iterations=3)
        train_dan(other, data, DEGRADATION, options, tmp_path / "c")
    with pytest.raises(ValueError, match="start: vdsr-lite: model: expected a DAN, got VDSR"):
        other = dataclasses.replace(data, start="vdsr-lite")
        train_dan(TINY, other, DEGRADATION, options, tmp_path / "d")


def test_the_averaged_model_follows_the_trained_one(data, tmp_path):
    options = dataclasses.replace(OPTIONS, steps=4, ema=0.9)
    average = train_dan(TINY, data, DEGRADATION, options, tmp_path)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    name = "Restorer.head.weight"
    assert torch.equal(state["average"][f"module.{name}"], average.state_dict()[name])
    assert not torch.equal(state["model"][name], average.state_dict()[name])


def test_apart_and_together_are_both_supervised(data):
    task = DANTask(TINY, data, DEGRADATION, 0, torch.device("cpu"))
    for step in (0, 3):  # apart for 3 steps
        task.model.zero_grad()
        losses = task.module(**task.batch(step, data_generator(0, 0, step)))
        sum(losses.values()).backward()
        assert set(losses) == {"picture", "code"}
        assert all(p.grad is not None for p in task.model.parameters())


def test_guided_means_a_true_code_for_the_restorer_and_the_loop_for_the_estimator(data):
    data = dataclasses.replace(data, guided=1)  # step 3, after 3 apart
    task = DANTask(TINY, data, DEGRADATION, 0, torch.device("cpu"))
    model, batch = task.model, task.batch(3, data_generator(0, 0, 3))
    with torch.no_grad():
        for p in model.parameters():  # an Estimator's output begins at zero
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    losses = task.module(**batch)
    true_code = model.encode(batch["kernels"])
    by_true_code = F.l1_loss(model(batch["lr"], code=true_code).sr, batch["hr"])
    in_the_loop = F.l1_loss(model(batch["lr"]).code, true_code)
    by_its_own = F.l1_loss(model(batch["lr"]).sr, batch["hr"])
    assert abs(by_its_own - by_true_code) > 1e-3 * by_true_code
    torch.testing.assert_close(losses["picture"], by_true_code)
    torch.testing.assert_close(losses["code"], in_the_loop)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    together = task.module(**{**batch, "apart": False, "guided": False})
    torch.testing.assert_close(together["picture"], by_its_own)
    assert not task.batch(4, data_generator(0, 0, 4))["guided"]


def test_schedules():
    published = TrainingOptions(steps=400, learning_rate=4e-4, halve_every=200)
    assert [published.rate(s) for s in (0, 199, 200, 399)] == [4e-4, 4e-4, 2e-4, 2e-4]
    ours = TrainingOptions(steps=100, learning_rate=1e-3, warmup=10, cooldown=20)
    rates = [ours.rate(s) for s in (0, 9, 50, 80, 90, 99)]
    assert rates == pytest.approx([1e-4, 1e-3, 1e-3, 1e-3, 5e-4, 5e-5])


def test_bf16_trains_too_on_every_device(device, data, tmp_path):
    options = dataclasses.replace(OPTIONS, steps=2, precision="bf16")
    model = train_dan(TINY, data, DEGRADATION, options, tmp_path, str(device))
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert next(model.parameters()).dtype == torch.float32


def test_sixteen_bit_grey_is_scaled_and_what_cannot_be_read_is_named(tmp_path):
    levels = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    (tile,) = TileCache([tmp_path]).tiles
    assert torch.equal(
        tile, torch.from_numpy((levels / 257).round().astype(np.uint8)).expand(3, 8, 8)
    )
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(ValueError, match="b.png: not a readable picture"):
        TileCache([tmp_path])


def test_patches_are_cut_from_the_pictures(folder):
    tiles = TileCache([folder], hold_out=1)
    assert len(tiles) == 3 and len(tiles.held_out) == 1
    generator = torch.Generator().manual_seed(0)
    patches = tiles.patches(64, 200, generator)  # as large as the tiles: only turned and flipped
    assert patches.shape == (64, 3, 200, 200)
    turned = {
        tuple(
            (tile.rot90(k, (1, 2)).flip(2) if f else tile.rot90(k, (1, 2))).flatten()[:50].tolist()
        )
        for tile in tiles.tiles
        for k in range(4)
        for f in (0, 1)
    }
    seen = {tuple((p * 255).round().byte().flatten()[:50].tolist()) for p in patches}
    assert seen <= turned and len(seen) > 18
    with pytest.raises(ValueError, match="at least 201x201 pixels for a patch, got 200x200"):
        tiles.patches(1, 201, generator)
    with pytest.raises(ValueError, match="0.png: expected at least 201x201 pixels for a patch"):
        TileCache([folder], patch=201)


def test_a_share_of_the_patches_is_cut_larger_or_smaller(tmp_path):
    slope = 3  # of a ramp, grey levels a pixel: a patch reduced by r shows r times that
    ramp = np.broadcast_to(np.arange(80, dtype=np.uint8) * slope, (80, 80))
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    tiles = TileCache([tmp_path])

    def slopes(size, *shares):
        patches = tiles.patches(200, size, torch.Generator().manual_seed(0), *shares)
        assert patches.shape == (200, 3, size, size)
        inner = patches[:, 0, 5:-5, 5:-5] * 255
        across, down = inner.diff(dim=2).mean((1, 2)).abs(), inner.diff(dim=1).mean((1, 2)).abs()
        return torch.maximum(across, down) / slope

    assert torch.equal(slopes(40), torch.ones(200))
    for size, shares, least, most in (
        (40, (0.5, 0.0), 1, 2),
        (40, (1.0, 0.0), 1, 2),
        (64, (1.0, 0.0), 1, 1.25),  # the picture has no more than 80
        (40, (0.0, 1.0), 0.5, 1),
        (40, (0.3, 0.3), 0.5, 2),
    ):
        factors = slopes(size, *shares)
        assert least * 0.97 <= factors.min() <= least * 1.1
        assert most * 0.9 <= factors.max() <= most * 1.03
    assert 60 < (slopes(40, 0.5) > 1.01).sum() < 140
    assert torch.equal(slopes(80, 1.0), torch.ones(200))  # no room for a larger cut


@pytest.mark.parametrize(
    "options, words",
    [
        ({"reduced": 1.5}, "data.reduced, data.enlarged: expected shares, .* got 1.5 and 0"),
        ({"reduced": 0.6, "enlarged": 0.6}, "together at most 1, got 0.6 and 0.6"),
        ({"enlarged": -0.1}, "expected shares"),
        ({"patch": 0}, "data.patch: expected at least 1, got 0"),
        ({"hold_out": -1}, "data.hold_out: expected at least 0, got -1"),
        ({"learns": "all"}, "data.learns: expected both, restorer, estimator, got 'all'"),
        (
            {"learns": "estimator", "apart": 5},
            "the estimator alone learns neither apart nor guided",
        ),
        ({"learns": "restorer", "guided": 5}, "the restorer alone learns neither apart nor guided"),
    ],
)
def test_data_options_out_of_range(options, words):
    with pytest.raises(ValueError, match=words):
        DANData(folders=("tiles",), **options)


@pytest.mark.parametrize(
    "learns, loss, share", [("restorer", "picture", 0.97), ("estimator", "code", 0.8)]
)
def test_one_of_the_two_learns_alone(learns, loss, share, data, tmp_path):
    data = dataclasses.replace(data, apart=0, patch=24, batch=8, learns=learns)
    start = DANTask(TINY, data, DEGRADATION, 0, torch.device("cpu")).model
    before = {name: value.clone() for name, value in start.state_dict().items()}
    options = dataclasses.replace(OPTIONS, steps=300, ema=0.9, learning_rate=3e-3)
    after = train_dan(TINY, data, DEGRADATION, options, tmp_path).state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {learns.capitalize()}
    values = [line[loss] for line in log(tmp_path) if loss in line]
    assert sum(values[-50:]) < share * sum(values[:50])


def test_the_estimator_alone_needs_a_loop(data, tmp_path):
    data = dataclasses.replace(data, apart=0, learns="estimator")
    once = dataclasses.replace(TINY, iterations=1)
    with pytest.raises(ValueError, match="data.learns: .* at least 2 iterations, got 1"):
        train_dan(once, data, DEGRADATION, OPTIONS, tmp_path)


def test_missing_pictures(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        TileCache([tmp_path / "none"])
    with pytest.raises(FileNotFoundError, match="more than 2 pictures"):
        TileCache([tmp_path], hold_out=2)


def test_a_loss_that_is_not_finite_stops_the_run(data, tmp_path):
    options = dataclasses.replace(OPTIONS, learning_rate=1e30)
    with pytest.raises(RuntimeError, match="not finite near step"):
        train_dan(TINY, data, DEGRADATION, options, tmp_path)


def recipe_text(folder, **training):
    lines = [f"{name} = {json.dumps(value)}" for name, value in training.items()]
    config = {k: v for k, v in dataclasses.asdict(TINY).items()}
    model = [f"{name} = {json.dumps(value)}" for name, value in config.items()]
    return "\n".join(
        [
            'kind = "dan"',
            'out = "out"',
            "[model]",
            *model,
            "[data]",
            f'folders = ["{folder}"]',
            "patch = 16",
            "batch = 2",
            "hold_out = 1",
            "[degradation]",
            "setting2 = 0.5",
            "[training]",
            *lines,
        ]
    )


def test_the_command_trains_and_leaves_a_model(folder, tmp_path, capsys):
    (tmp_path / "r.toml").write_text(recipe_text(folder, steps=3, log_every=1))
    arguments = ["train", str(tmp_path / "r.toml"), "--out", str(tmp_path / "o"), "--device", "cpu"]
    assert main([*arguments, "--steps", "2"]) == 0
    assert load_model(tmp_path / "o" / "model.safetensors").config == TINY
    lines = log(tmp_path / "o")
    assert lines[0]["step"] == 1 and {"picture", "code", "rate"} <= lines[0].keys()
    assert np.isfinite(lines[-1]["psnr"])
    assert main(arguments) == 0  # goes on to the recipe's three steps
    assert log(tmp_path / "o")[-1]["step"] == 3


def test_the_recipes_that_ship_are_sound():
    names = {path.stem for path in RECIPES.glob("*.toml")}
    full = {f"dan-x{scale}{kind}" for scale in (2, 4) for kind in ("", "-iso")}
    assert full | {"dan", "dml", "dml-lite", "abl", "abl-lite"} <= names
    recipes = {name: read_recipe(name) for name in names}
    for name in (name for name in names if name.startswith("dan")):
        assert recipes[name].degradation.scale == recipes[name].model.scale
    assert recipes["dan"].model == DANConfig()
    assert recipes["dml"].model == DMLConfig() and recipes["abl"].model == ABLConfig()
    for name in (name for name in SHIPPED if name.startswith("dan")):
        assert recipes[name].model == load_model(name).config


DAN = 'kind = "dan"\nout = "o"\n[data]\nfolders = ["f"]\n[training]\nsteps = 1\n'


@pytest.mark.parametrize("name", ["none/dan-lite-x4", "dan-lite-x4.txt", "none/dan.toml"])
def test_a_shipped_recipe_is_meant_by_its_bare_name_alone(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sr").mkdir()
    assert read_recipe("sr").out
    with pytest.raises(ValueError, match="recipe: no file"):
        read_recipe(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind = ", "not a TOML file"),
        ('kind = "dan"\n[model]\nfeatures = 0', "features: expected 1 to 1024, got 0"),
        ('kind = "dan"\n[model]\nkernel_size = 65', "kernel_size: expected 1 to 64, got 65"),
        (f"{DAN}[degradation]\nscale = 4", "degradation.scale: is the model's, leave"),
        ('kind = "dan"\n[data]\nfolders = ["f"]\napart = -5', "data.apart: expected at least 0"),
        (f"{DAN}seed = 36893488147419103232", "training.seed: expected from 0 to below"),
        ('kind = "gan"', "kind: expected one of dan, dml, abl, sr, got 'gan'"),
        ('kind = "dan"\n[model]\nfeaturs = 3', "model.featurs: unknown"),
        ('kind = "dan"\n[model]\nfeatures = "many"', "model.features: expected int, got 'many'"),
        ('kind = "dan"\n[model]\nscale = 7', "scale: expected 1, 2, 3 or 4"),
        ('kind = "dan"\nout = "o"\n[data]\n[training]\nsteps = 1', "data.folders: missing"),
        ('kind = "abl"\n[model]\nbases = 8', "model.bases: unknown"),
        ('kind = "dml"\nout = "o"\n[data]\nfolders = ["f"]', "training.steps: missing"),
        ('kind = "dan"\nmodel = 3', r"expected a section \[model\]"),
        (f"{DAN}save_every = 0", "training.save_every: expected at least 1, got 0"),
        (f"{DAN}betas = [0.9]", "training.betas: expected two from 0 to below 1, got 0.9"),
        (f"{DAN}betas = [0.9, 1.5]", "training.betas: expected two .*, got 0.9, 1.5"),
        (f"{DAN}learning_rate = -1.0", "learning_rate: expected above 0, and finite, got -1.0"),
        (f"{DAN}learning_rate = nan", "learning_rate: expected above 0, and finite, got nan"),
        ('kind = ["dan"]', r"kind: expected one of dan, dml, abl, sr, got \['dan'\]"),
        (
            'kind = "dan"\n[data]\nfolders = ["f"]\ndamping = -1.0',
            "data.damping: expected 0 or more",
        ),
        (
            'kind = "sr"\narchitecture = "vdsr"\n[model]\nfeatures = 0',
            "features: expected at least 1",
        ),
        (f"{DAN}warmup = -5", "training.warmup: expected at least 0, got -5"),
        (f"{DAN}cooldown = -3", "training.cooldown: expected at least 0, got -3"),
        (f"{DAN}halve_every = -1", "training.halve_every: expected at least 0, got -1"),
        (f"{DAN}ema = 1.0", "training.ema: expected from 0 to below 1, got 1.0"),
    ],
)
def test_bad_recipes(tmp_path, text, message):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_recipe(tmp_path / "r.toml")
    assert "r.toml" in str(caught.value)


def test_validation_scores_with_the_published_metric(data):
    task = DANTask(TINY, data, DEGRADATION, 0, torch.device("cpu"))
    figures = task.validate(Interpolation(TINY))
    hr = task.tiles.held_out[0][None, :, :192, :192].float() / 255
    from pysr.evaluate import cases

    expected = [
        psnr(BicubicUpsample(2)(case.lr), case.hr, 2)
        for case in list(cases("gaussian8", 2, hr))[::3]
    ]
    assert figures["psnr"] == pytest.approx(sum(expected) / len(expected))


COUNTS_THREADS = """
import atexit, os, sys
from pysr.cli import main
def count():
    with open(f"threads{os.environ['RANK']}", "a") as file:
        print(len(os.listdir("/proc/self/task")), file=file)
atexit.register(count)
assert main(sys.argv[1:]) == 0
count()
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="Linux counts threads there")
def test_processes_end_the_threads_of_their_group(folder, tmp_path):
    """One that outlives the interpreter aborts its process now and then, when all is learned."""
    (tmp_path / "r.toml").write_text(recipe_text(folder, steps=1))
    (tmp_path / "counts.py").write_text(COUNTS_THREADS)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("counts.py", "train", "r.toml", "--out", "o", "--device", "cpu"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        trained, ended = map(int, (tmp_path / f"threads{rank}").read_text().split())
        assert ended <= trained - 3  # Gloo has one for its sockets and two for its work


def test_several_processes_share_a_run(folder, tmp_path):
    (tmp_path / "r.toml").write_text(recipe_text(folder, steps=2, log_every=1))
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "pysr", "train", str(tmp_path / "r.toml")),
        *("--out", str(tmp_path / "o"), "--device", "cpu"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = [line for line in log(tmp_path / "o") if "picture" in line]
    assert [line["step"] for line in lines] == [1, 2]  # one process writes
    assert load_model(tmp_path / "o" / "model.safetensors").config == TINY
    # Both processes' patches were learned from: the result differs from that of one alone.
    alone = ["train", str(tmp_path / "r.toml"), "--out", str(tmp_path / "a"), "--device", "cpu"]
    assert main(alone) == 0
    name = "Restorer.head.weight"
    one, two = (load_model(tmp_path / d / "model.safetensors").state_dict()[name] for d in "ao")
    assert not torch.equal(one, two)
