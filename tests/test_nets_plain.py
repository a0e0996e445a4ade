"""Networks without a kernel code: VDSR, RRDB and their like, public names and the registry."""

from pathlib import Path

import pytest
import torch

from pysr.colour import unit_luma
from pysr.evaluate import evaluate
from pysr.nets import ARCHITECTURES, ModelError, build, fingerprint, load_model, save_model
from pysr.resize import imresize

DATA = Path(__file__).parent.parent.parent / "shared" / "data"

# A small network of every architecture but DAN, which has tests of its own.
SMALL = {
    "vdsr": {"layers": 3, "features": 8},
    "rrdb": {"features": 8, "growth": 4, "blocks": 1},
}


def small(name: str, **changes):
    torch.manual_seed(0)
    model = build(name, **{**SMALL[name], **changes}).eval()
    for parameter in model.parameters():  # some begin at zero, which would hide what follows
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def conv(name: str, out: int, into: int, k: int = 3, bias: bool = True) -> dict[str, tuple]:
    return {f"{name}.weight": (out, into, k, k)} | ({f"{name}.bias": (out,)} if bias else {})


def published_vdsr() -> dict[str, tuple]:
    """As in the file: no biases."""
    names = conv("input", 64, 1, bias=False) | conv("output", 1, 64, bias=False)
    for i in range(18):
        names |= conv(f"residual_layer.{i}.conv", 64, 64, bias=False)
    return names


def published_rrdb(scale: int = 4, blocks: int = 23, basicsr: bool = False) -> dict[str, tuple]:
    """ESRGAN's own names, or those that BasicSR gave the same layers."""
    names = conv("conv_first", 64, 3) | conv("conv_last", 3, 64)
    trunk, dense = ("body", "rdb") if basicsr else ("RRDB_trunk", "RDB")
    for block in range(blocks):
        for i in (1, 2, 3):
            for j in range(5):
                name = f"{trunk}.{block}.{dense}{i}.conv{j + 1}"
                names |= conv(name, 32 if j < 4 else 64, 64 + 32 * j)
    ours = ("trunk_conv", "HRconv", "upconv1", "upconv2")
    theirs = ("conv_body", "conv_hr", "conv_up1", "conv_up2")
    for name in (theirs if basicsr else ours)[: 4 if scale == 4 else 3]:
        names |= conv(name, 64, 64)
    return names


PUBLISHED = {
    "vdsr": (published_vdsr, {"scale": 4, "layers": 20}),
    "rrdb": (published_rrdb, {"scale": 4, "blocks": 23, "features": 64, "growth": 32}),
    "rrdb of BasicSR": (lambda: published_rrdb(basicsr=True), {"scale": 4, "blocks": 23}),
    "rrdb x2": (lambda: published_rrdb(2, 6), {"scale": 2, "blocks": 6}),
}


@pytest.mark.parametrize("which", PUBLISHED)
@pytest.mark.parametrize("wrapper", [None, "params_ema"])
def test_public_checkpoints_load(which, wrapper, tmp_path):
    shapes, expected = PUBLISHED[which]
    shapes = shapes()
    state = {name: torch.rand(shape) for name, shape in shapes.items()}
    torch.save(state if wrapper is None else {wrapper: state}, tmp_path / "public.pth")
    model = load_model(tmp_path / "public.pth")
    assert {name: getattr(model.config, name) for name in expected} == expected
    # Every tensor has found a place, and the same one that its shape and order say.
    assert sum(p.numel() for p in model.parameters()) == sum(v.numel() for v in state.values())


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_any_size_at_every_scale(name, scale):
    model = small(name, scale=scale)
    for height, width in ((1, 1), (5, 7)):
        sr = model(torch.rand(2, 3, height, width))
        assert sr.shape == (2, 3, scale * height, scale * width)
        assert torch.isfinite(sr).all()


@pytest.mark.parametrize("name", SMALL)
def test_saved_models_load_again(name, tmp_path):
    model = small(name, scale=3)
    save_model(model, tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    assert type(again) is ARCHITECTURES[name].network and again.config == model.config
    lr = torch.rand(1, 3, 9, 8)
    with torch.no_grad():
        torch.testing.assert_close(again(lr), model(lr), atol=5e-3, rtol=0)
    save_model(again, tmp_path / "n.safetensors")
    assert fingerprint(load_model(tmp_path / "n.safetensors")) == fingerprint(again)
    assert fingerprint(small(name, scale=2)) != fingerprint(small(name, scale=3))


@pytest.mark.parametrize("name", SMALL)
def test_the_halo_is_what_an_output_pixel_sees(name):
    model = small(name, scale=2).double()
    for parameter in model.parameters():
        torch.nn.init.uniform_(parameter, 0.01, 0.1)
    side = 2 * model.halo + 21
    middle = side // 2
    lr = torch.rand(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    model(lr)[..., 2 * middle : 2 * middle + 2, 2 * middle : 2 * middle + 2].sum().backward()
    reach = int((lr.grad[0].abs().sum(0).nonzero() - middle).abs().max())
    assert reach <= model.halo <= reach + 2


def test_vdsr_moves_luma_alone():
    model, rgb = small("vdsr", scale=3), torch.rand(1, 3, 6, 7)
    with torch.no_grad():
        sr, y = model(rgb), model(unit_luma(rgb))
    up = imresize(rgb, 3)
    torch.testing.assert_close(unit_luma(sr), y)
    torch.testing.assert_close(*((x[:, 0] - x[:, 2]) for x in (sr, up)))
    assert not torch.allclose(sr, up, atol=1e-3)


def test_vdsr_serves_any_scale(tmp_path):
    model = small("vdsr", scale=2)
    save_model(model, tmp_path / "vdsr.safetensors")
    other = load_model(tmp_path / "vdsr.safetensors", scale=5)
    assert other.config.scale == 5 and model.config.scale == 2
    assert other(torch.rand(1, 3, 4, 4)).shape == (1, 3, 20, 20)


def test_a_skip_is_where_training_begins():
    model = build("rrdb", **SMALL["rrdb"], scale=2, bicubic_skip=True)
    lr = torch.rand(1, 3, 12, 12)
    inner = slice(4, -4)
    sr = model(lr)
    torch.testing.assert_close(sr[..., inner, inner], imresize(lr, 2)[..., inner, inner])


def test_what_is_interpolated_in_inference_serves_training():
    with torch.inference_mode():
        small("vdsr", scale=2)(torch.rand(1, 3, 13, 11))
    lr = torch.rand(1, 3, 13, 11, requires_grad=True)
    small("vdsr", scale=2)(lr).sum().backward()
    assert lr.grad is not None


def test_bad_asks_are_one_line(tmp_path):
    with pytest.raises(ModelError, match="expected one of dan, vdsr, rrdb.*'srcnn'"):
        build("srcnn")
    with pytest.raises(ModelError, match="rrdb: expected fields among scale.*got depth"):
        build("rrdb", depth=3)
    with pytest.raises(ValueError, match="scale: expected 2, 3 or 4, got 7"):
        build("rrdb", scale=7)
    save_model(small("rrdb", scale=2), tmp_path / "x2.safetensors")
    with pytest.raises(ModelError, match="x2.safetensors upscales x2, expected x3"):
        load_model(tmp_path / "x2.safetensors", scale=3)
    state = {name: torch.rand(shape) for name, shape in published_rrdb(blocks=1).items()}
    state["conv_first.weight"] = torch.rand(64, 12, 3, 3)  # Real-ESRGAN's x2
    torch.save(state, tmp_path / "folded.pth")
    with pytest.raises(ModelError, match="folded.pth: does not fit the network"):
        load_model(tmp_path / "folded.pth")


@pytest.mark.skipif(not DATA.is_dir(), reason="no test data here")
@pytest.mark.parametrize(("scale", "published"), [(2, 37.61), (3, 33.76), (4, 31.44)])
def test_public_vdsr_gives_its_figures(scale, published):
    weights = DATA / "weights" / "vdsr_pytorch.pt"
    report = evaluate("bicubic", scale, DATA / "test" / "Set5", [weights], device="cpu")
    assert report.rows[1].psnr == pytest.approx(published, abs=0.05)
