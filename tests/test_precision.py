"""Half precision: what it costs, what happens where it overflows, and what takes its place."""

import math
import re

import numpy as np
import pytest
import torch
from skimage import data as photographs

import pysr
from pysr import blur, engines, tiling
from pysr.cli import main
from pysr.degrade import classical
from pysr.engines.cuda_graphs import KEPT
from pysr.engines.guard import Guard
from pysr.evaluate import psnr
from pysr.nets import load_model, save_model
from pysr.upscaler import Upscaler

CPU = torch.device("cpu")
HALVES = [
    (engine, precision)
    for engine in engines.ENGINES
    for precision in ("bfloat16", "float16")
    if not engines.ENGINES[engine].obstacle(CPU, precision)
]


@pytest.fixture(scope="module")
def case():
    """A photograph, as it is and blurred and reduced."""
    hr = torch.from_numpy(photographs.astronaut()[40:112, 190:258]).permute(2, 0, 1)[None] / 255
    return hr, classical(hr, blur.isotropic(1.3), 2)


def loaded(engine, precision, model=None):
    return Upscaler(model or load_model("dan-lite-x2"), device="cpu", engine=engine,
                    precision=precision)  # fmt: skip


@pytest.mark.parametrize(("engine", "precision"), HALVES)
def test_half_precision_restores_as_well(case, engine, precision):
    hr, lr = case
    full, half = (loaded(e, p)(lr) for e, p in (("torch", "float32"), (engine, precision)))
    assert not half.recomputed and half.image.dtype == torch.float32
    assert not torch.equal(half.image, full.image)
    assert psnr(half.image, hr, 2) > psnr(full.image, hr, 2) - 0.02
    assert (half.kernel - full.kernel).abs().sum() < 0.05


def overflowing(scale: float):
    """dan-lite-x2 with the hidden features of a block times `scale`, which its second convolution
    takes back: LeakyReLU lets factors pass, so the network computes the same."""
    model = load_model("dan-lite-x2")
    first, _, second, _ = model.Restorer.body[3].body
    with torch.no_grad():
        first.weight *= scale
        first.bias *= scale
        second.weight /= scale
    return model


def test_what_overflows_is_made_again_in_float32(case):
    _, lr = case
    expected = loaded("torch", "float32")(lr)
    model = overflowing(2e5)
    assert torch.isfinite(model.Restorer.body[3].body[0].weight.half()).all()
    with pytest.warns(UserWarning, match="not finite from engine torch .* float16.* in float32"):
        got = loaded("torch", "float16", model)(lr)
    assert got.recomputed and not expected.recomputed
    torch.testing.assert_close(got.image, expected.image, atol=1e-4, rtol=0)
    torch.testing.assert_close(got.kernel, expected.kernel, atol=1e-4, rtol=0)


def test_a_tile_that_overflows_is_noticed(case):
    _, lr = case
    kernel = blur.isotropic(1.3)
    expected = loaded("torch", "float32")(lr, kernel, tile=32).image
    with pytest.warns(UserWarning, match="picture: not finite"):
        got = loaded("torch", "float16", overflowing(2e5))(lr, kernel, tile=32)
    torch.testing.assert_close(got.image, expected, atol=1e-4, rtol=0)


def test_a_picture_that_is_not_finite_is_never_written(tmp_path, capsys):
    model = load_model("dan-lite-x2")
    with torch.no_grad():
        model.Restorer.fusion.bias[0] = torch.nan
    save_model(model, tmp_path / "nan.safetensors")
    pysr.pictures.write(tmp_path / "in.png", pysr.pictures.Picture(np.zeros((9, 9, 3), np.uint8)))
    out = tmp_path / "out.png"
    arguments = ["upscale", tmp_path / "in.png", out, "--model", tmp_path / "nan.safetensors"]
    assert main([str(a) for a in arguments]) == 2
    warning, error = capsys.readouterr().err.splitlines()
    assert re.match("pysr upscale: warning: kernel: not finite from engine native", warning)
    assert "NaN or infinity, in float32 too" in error and not out.exists()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_guard_lets_nothing_through_that_is_not_finite(bad):
    class Engine:
        def __init__(self, value):
            self.value = value

        def describe(self):
            return "half"

        def close(self):
            pass

    def work(engine):
        return engine.value, torch.tensor(engine.value)

    with pytest.warns(UserWarning, match="kernel: not finite from engine half; made again"):
        assert Guard(Engine(bad), lambda: Engine(1.0)).run("kernel", work) == (1.0, True)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="NaN or infinity, in float32"):
        Guard(Engine(1e9 * bad), lambda: Engine(bad)).run("kernel", work)


def test_auto_falls_back_with_a_warning_that_names_both(monkeypatch, case):
    class Broken(engines.NativeEngine):
        def __init__(self, *arguments):
            raise RuntimeError("out of\norder")

    monkeypatch.setitem(engines.ENGINES, "native", Broken)
    with pytest.warns(UserWarning, match=r"engine native .* \(out of order\); torch takes"):
        upscaler = pysr.load("dan-lite-x2", device="cpu")
    assert upscaler.engine.describe().startswith("torch")
    with pytest.raises(RuntimeError, match="out of"):
        pysr.load("dan-lite-x2", device="cpu", engine="native")


def test_what_an_engine_cannot_do_is_an_error():
    with pytest.raises(ValueError, match="engine native: .*float16"):
        pysr.load(device="cpu", engine="native", precision="float16")
    with pytest.raises(ValueError, match="precision: expected auto or one of .*, got 'half'"):
        pysr.load(device="cpu", precision="half")


def test_auto_takes_an_engine_that_has_the_precision():
    engine = pysr.load("dan-lite-x2", device="cpu", precision="bfloat16").engine
    assert engine.precision == "bfloat16"


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_engines_warm_up_and_close(engine, case, cache):
    if engines.ENGINES[engine].obstacle(CPU):
        pytest.skip(engines.ENGINES[engine].obstacle(CPU))
    _, lr = case
    with loaded(engine, "auto") as upscaler:
        expected = upscaler(lr).image
        upscaler.warm_up(*lr.shape[-2:])
        torch.testing.assert_close(upscaler(lr).image, expected)
    upscaler.close()  # a second time does no harm
    with pytest.raises(ValueError, match="closed"):
        upscaler(lr)


def test_the_exact_loop_is_the_published_one(case, monkeypatch):
    """On a picture that is else estimated on crops and restored in tiles."""
    monkeypatch.setattr(tiling, "ESTIMATE_CROP", 16)
    _, lr = case
    upscaler = loaded("torch", "float32")
    result = upscaler(lr, tile=32, exact=True)
    with torch.no_grad():
        expected = upscaler.model(lr).sr.clamp(0, 1)
    torch.testing.assert_close(result.image, expected, atol=1e-4, rtol=0)
    assert (upscaler(lr, tile=32).kernel - result.kernel).abs().sum() > 0.01


def test_captured_shapes_give_what_the_others_do(cuda):
    engine = engines.create("torch", load_model("dan-lite-x2"), cuda, "float32")
    code = engine.model.init_ker_map
    lrs = [torch.rand(1, 3, 20 + i, 24, device=cuda) for i in range(KEPT + 2)]
    expected = [engine.restore(lr, code) for lr in lrs]
    for lr in lrs:
        engine.warm_up(*(lr.shape[i] for i in (0, 2, 3)))
    for _ in range(2):
        for lr, sr in zip(lrs, expected, strict=True):
            torch.testing.assert_close(engine.restore(lr, code), sr, atol=1e-4, rtol=0)
