"""The front door for networks that estimate nothing: VDSR, RRDB, EDSR and modules of one's own."""

import numpy as np
import pytest
import torch
from skimage import data as photographs
from torch import nn

import pysr
from pysr import blur, pictures
from pysr.cli import main
from pysr.degrade import classical, imresize
from pysr.nets import build, load_model, save_model
from pysr.upscaler import Upscaler

PICTURE = photographs.astronaut()[100:148, 200:260]
KERNEL = blur.isotropic(1.2, 15)


def network(name: str = "rrdb", scale: int = 2, **sizes):
    torch.manual_seed(0)
    usual = {"rrdb": {"features": 8, "growth": 4, "blocks": 1, "bicubic_skip": True}}
    model = build(name, scale=scale, **(sizes or usual.get(name, {"layers": 4, "features": 8})))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    return model.eval()


@pytest.fixture(scope="module")
def vdsr_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "vdsr.safetensors"
    save_model(network("vdsr"), path)
    return path


class Doubled(nn.Module):
    """A module of one's own: two networks in a row."""

    scale = 4

    def __init__(self):
        super().__init__()
        self.first, self.second = network("vdsr"), network("rrdb")

    def forward(self, lr):
        return self.second(self.first(lr))


@pytest.mark.parametrize("model", [network("rrdb"), network("vdsr", 3), Doubled()])
def test_it_gives_what_the_network_gives(model):
    upscaler = Upscaler(model, device="cpu")
    result = upscaler(PICTURE)
    lr = torch.from_numpy(PICTURE).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        expected = (model(lr).clamp(0, 1) * 255).round()[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(result.image, expected)
    assert result.kernel is None and np.isnan(result.confidence) and not result.recomputed
    again = classical(torch.from_numpy(expected).permute(2, 0, 1)[None] / 255, blur.dirac(1),
                      upscaler.scale, quantise=False)  # fmt: skip
    inner = (..., slice(3, -3), slice(3, -3))
    error = (again - lr)[inner].square().mean()
    assert result.consistency == pytest.approx(-10 * float(error.log10()), abs=1e-3)


def test_forms_of_pictures():
    upscaler = Upscaler(network(), device="cpu")
    batch = torch.rand(2, 3, 9, 8)
    assert upscaler(batch).image.shape == (2, 3, 18, 16)
    rgba = np.random.default_rng(0).integers(0, 65535, (7, 5, 4), np.uint16)
    assert upscaler(rgba).image.shape == (14, 10, 4)
    assert upscaler(PICTURE[..., 0]).image.shape == (96, 120)


def test_a_kernel_is_what_it_is_measured_by():
    upscaler = Upscaler(network(), device="cpu")
    lr = classical(torch.rand(1, 3, 96, 96), KERNEL, 2)
    blind, known = upscaler(lr), upscaler(lr, kernel=KERNEL)
    torch.testing.assert_close(known.kernel, KERNEL)
    assert torch.equal(known.image, blind.image) and known.confidence == 1
    assert known.consistency != pytest.approx(blind.consistency, abs=0.1)
    assumed = Upscaler(network(), kernel=KERNEL, device="cpu")
    assert assumed(lr).consistency == pytest.approx(known.consistency)
    torch.testing.assert_close(assumed.estimate(lr), KERNEL)
    other = blur.isotropic(0.5, 15)
    torch.testing.assert_close(assumed(lr, kernel=other).kernel, other)


def test_a_dan_restores_with_the_assumed_kernel():
    dan = load_model("dan-lite-x2")
    given = Upscaler(dan, device="cpu")(PICTURE, kernel=KERNEL)
    assumed = Upscaler(dan, kernel=KERNEL, device="cpu")
    result = assumed(PICTURE)
    np.testing.assert_array_equal(result.image, given.image)
    np.testing.assert_array_equal(result.kernel, given.kernel)
    np.testing.assert_array_equal(assumed.estimate(PICTURE), KERNEL.numpy())
    (frame,) = assumed.stream([PICTURE])
    np.testing.assert_array_equal(frame.image, given.image)
    with pytest.raises(ValueError, match="kernel: expected a square"):
        Upscaler(dan, kernel=np.ones((3, 4)), device="cpu")


@pytest.mark.parametrize("name", ["rrdb", "vdsr"])
def test_tiles_see_all_that_the_network_sees(name):
    upscaler = Upscaler(network(name), device="cpu")
    lr = torch.rand(1, 3, 70, 110)
    whole, tiled = (upscaler(lr, tile=tile).image for tile in (200, 32))
    torch.testing.assert_close(tiled, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_close(precision):
    model = network()
    expected = Upscaler(model, device="cpu")(PICTURE).image.astype(float)
    half = Upscaler(model, device="cpu", precision=precision)
    assert precision in half.engine.describe()
    assert 0 < np.abs(half(PICTURE).image - expected).mean() < 1


def test_what_overflows_is_made_again():
    model = network("rrdb")
    with torch.no_grad():
        model.conv_first.weight.mul_(1e6)
        model.HRconv.weight.mul_(1e-6)
    upscaler = Upscaler(model, device="cpu", precision="float16")
    with pytest.warns(UserWarning, match="made again in float32"):
        result = upscaler(PICTURE)
    assert result.recomputed
    np.testing.assert_array_equal(result.image, Upscaler(model, device="cpu")(PICTURE).image)


def test_what_it_cannot_do_is_said():
    upscaler = Upscaler(network(), device="cpu")
    with pytest.raises(ValueError, match="RRDB does not, so give the kernel"):
        upscaler.estimate(PICTURE)
    with pytest.raises(ValueError, match="this model does not estimate blur"):
        upscaler.stream([PICTURE])
    with pytest.raises(ValueError, match="engine native: for DANs alone"):
        Upscaler(network(), device="cpu", engine="native")
    with pytest.raises(ValueError, match="precision: expected float32 for Doubled"):
        Upscaler(Doubled(), device="cpu", precision="float16")
    with pytest.raises(ValueError, match="model: expected weights in float32, got float16"):
        Upscaler(network().half(), device="cpu")
    with pytest.raises(ValueError, match="model: expected a scale.*Conv2d has none"):
        Upscaler(nn.Conv2d(3, 3, 3), device="cpu")
    for scale in (1.5, 0, "2"):
        doubled = Doubled()
        doubled.scale = scale
        with pytest.raises(ValueError, match="model: expected a whole scale of at least 1"):
            Upscaler(doubled, device="cpu")
    doubled = Doubled()
    doubled.scale = 3  # which it does not keep
    with pytest.raises(ValueError, match=r"model: expected \(1, 3, .* of it, got \(1, 3, "):
        Upscaler(doubled, device="cpu")(PICTURE)


def run(*arguments) -> int:
    return main([str(a) for a in arguments])


@pytest.mark.parametrize("scale", [3, 5])
def test_upscale_by_any_scale(vdsr_file, scale, tmp_path):
    pictures.write(tmp_path / "in.png", pictures.Picture(PICTURE))
    out = tmp_path / "out.png"
    options = ("--model", vdsr_file, "--scale", scale, "--device", "cpu")
    assert run("upscale", tmp_path / "in.png", out, *options) == 0
    expected = pysr.load(vdsr_file, scale=scale, device="cpu")(PICTURE).image
    np.testing.assert_array_equal(pictures.read(out).pixels, expected)
    assert expected.shape == (48 * scale, 60 * scale, 3)


def test_evaluate_a_plain_network(vdsr_file, tmp_path, capsys):
    pictures.write(tmp_path / "hr.png", pictures.Picture(PICTURE))
    options = ("--protocol", "gaussian8", "--scale", 2, "--data", tmp_path, "--device", "cpu")
    assert run("evaluate", *options, "--model", vdsr_file) == 0
    assert "vdsr.safetensors" in "".join(capsys.readouterr().out.split())  # a long path is wrapped


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "{model}", "{tmp}/out"), "expected a DAN, got VDSR"),
        (("bench", "engines", "--model", "{model}"), "expected a DAN"),
        (
            ("inspect", "{in}", "--model", "{model}"),
            "expected a DAN, which estimates blur, such as dan-x4; got VDSR",
        ),
        (("upscale", "{in}", "{tmp}/o.png", "--model", "{model}", "--engine", "native"), "DANs"),
    ],
)
def test_commands_that_need_a_dan_say_so(vdsr_file, tmp_path, capsys, arguments, message):
    pictures.write(tmp_path / "in.png", pictures.Picture(PICTURE))
    names = {"model": vdsr_file, "tmp": tmp_path, "in": tmp_path / "in.png"}
    assert run(*(a.format(**names) for a in arguments)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


def test_a_video_needs_a_dan(vdsr_file, short_clip, tmp_path, capsys):
    assert run("upscale", short_clip, tmp_path / "out.mkv", "--model", vdsr_file) == 2
    assert "model: expected a DAN, got VDSR" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_interpolation_is_where_an_untrained_vdsr_begins():
    sr = Upscaler(build("vdsr", scale=3), device="cpu")(PICTURE).image
    lr = torch.from_numpy(PICTURE).permute(2, 0, 1)[None] / 255
    expected = (imresize(lr, 3).clamp(0, 1) * 255)[0].permute(1, 2, 0).numpy()
    assert np.abs(sr - expected).max() <= 0.501
