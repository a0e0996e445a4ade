"""Networks without a kernel code: VDSR, RRDB and their like, public names and the registry."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pysr.colour import unit_luma
from pysr.evaluate import evaluate
from pysr.nets import ARCHITECTURES, ModelError, build, fingerprint, load_model, rcan, save_model
from pysr.nets.discriminators import PatchDiscriminator, VGGDiscriminator
from pysr.resize import imresize

DATA = Path(__file__).parent.parent.parent / "shared" / "data"

# A small network of every architecture but DAN, which has tests of its own.
SMALL = {
    "vdsr": {"layers": 3, "features": 8},
    "rrdb": {"features": 8, "growth": 4, "blocks": 1},
    "edsr": {"features": 8, "blocks": 2, "residual": 0.5},
    "rcan": {"features": 8, "groups": 2, "blocks": 2, "reduction": 4},
    "rdn": {"features": 8, "growth": 4, "blocks": 2, "layers": 3},
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


def published_frame(features: int, blocks: int, tail: dict[int, int]) -> dict[str, tuple]:
    """What EDSR and RCAN share; `tail`: the layers of the upsampling and their outputs."""
    names = {}
    for shift in ("sub_mean", "add_mean"):
        names |= conv(shift, 3, 3, 1)
    names |= conv("head.0", features, 3) | conv(f"body.{blocks}", features, features)
    for i, out in tail.items():
        names |= conv(f"tail.0.{i}", out, features)
    return names | conv("tail.1", 3, features)


def published_edsr(features: int, blocks: int, tail: dict[int, int]) -> dict[str, tuple]:
    names = published_frame(features, blocks, tail)
    for block in range(blocks):
        for i in (0, 2):
            names |= conv(f"body.{block}.body.{i}", features, features)
    return names


def published_rcan() -> dict[str, tuple]:
    names = published_frame(64, 10, {0: 256, 2: 256})
    for group in range(10):
        names |= conv(f"body.{group}.body.20", 64, 64)
        for block in range(20):
            name = f"body.{group}.body.{block}.body"
            names |= conv(f"{name}.0", 64, 64) | conv(f"{name}.2", 64, 64)
            names |= conv(f"{name}.3.conv_du.0", 4, 64, 1) | conv(f"{name}.3.conv_du.2", 64, 4, 1)
    return names


def published_rdn() -> dict[str, tuple]:
    names = conv("SFENet1", 64, 3) | conv("SFENet2", 64, 64)
    for block in range(16):
        for layer in range(8):
            names |= conv(f"RDBs.{block}.convs.{layer}.conv.0", 64, 64 + 64 * layer)
        names |= conv(f"RDBs.{block}.LFF", 64, 64 + 64 * 8, 1)
    names |= conv("GFF.0", 64, 64 * 16, 1) | conv("GFF.1", 64, 64)
    return names | conv("UPNet.0", 256, 64) | conv("UPNet.2", 256, 64) | conv("UPNet.4", 3, 64)


# Names and shapes, and what must be read off them.
PUBLISHED = {
    "vdsr": (published_vdsr(), {"scale": 4, "layers": 20}),
    "rrdb": (published_rrdb(), {"scale": 4, "blocks": 23, "features": 64, "growth": 32}),
    "rrdb of BasicSR": (published_rrdb(basicsr=True), {"scale": 4, "blocks": 23}),
    "rrdb x2": (published_rrdb(2, 6), {"scale": 2, "blocks": 6}),
    "edsr baseline x2": (
        published_edsr(64, 16, {0: 256}),
        {"scale": 2, "blocks": 16, "residual": 1.0, "levels": 255.0},
    ),
    "edsr x3": (published_edsr(64, 16, {0: 576}), {"scale": 3, "features": 64}),
    "edsr large": (
        published_edsr(256, 32, {0: 1024, 2: 1024}),
        {"scale": 4, "blocks": 32, "features": 256, "residual": 0.1},
    ),
    "rcan": (published_rcan(), {"scale": 4, "groups": 10, "blocks": 20, "reduction": 16}),
    "rdn": (published_rdn(), {"scale": 4, "blocks": 16, "layers": 8, "growth": 64, "features": 64}),
}


@pytest.mark.parametrize("which", PUBLISHED)
def test_public_names_are_all_placed(which):
    """By shape alone, on the meta device, where the published sizes cost nothing."""
    shapes, expected = PUBLISHED[which]
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    state |= {name: torch.full((3,), 0.4488 * 255) for name in ("add_mean.bias",) if name in state}
    (architecture, names), *more = [
        (architecture, names)
        for architecture in ARCHITECTURES.values()
        for names in architecture.public
        if names.marker in state
    ]
    assert not more
    config, renamed = names.read(state, None)
    assert {name: getattr(config, name) for name in expected} == expected
    with torch.device("meta"):
        network = architecture.network(config)
    own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert {name: tuple(value.shape) for name, value in renamed.items()} == own


def test_public_names_are_placed_in_order():
    """The 20 layers of VDSR differ in nothing but their names."""
    shapes, _ = PUBLISHED["vdsr"]
    state = {name: torch.full(shape, i) for i, (name, shape) in enumerate(shapes.items())}
    _, renamed = ARCHITECTURES["vdsr"].public[0].read(state, None)
    for i in range(18):
        expected = state[f"residual_layer.{i}.conv.weight"]
        assert torch.equal(renamed[f"layers.{i + 1}.weight"], expected)


@pytest.mark.parametrize("wrapper", [None, "params_ema"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_public_files_load(wrapper, suffix, tmp_path):
    shapes = published_rrdb(2, 1, basicsr=True)
    state = {name: torch.rand(shape) for name, shape in shapes.items()}
    path = tmp_path / f"public{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state if wrapper is None else {wrapper: state}, path)
    model = load_model(path)
    assert torch.equal(model.HRconv.weight, state["conv_hr.weight"])
    assert torch.equal(model.RRDB_trunk[0].RDB2.conv4.bias, state["body.0.rdb2.conv4.bias"])
    assert model.config.scale == 2 and load_model(path, scale=3).config.scale == 3


def test_published_range_and_mean():
    """As the public EDSR computes: 255ths, less the mean colour, which is added again."""
    model, lr = small("edsr", scale=2), torch.rand(1, 3, 6, 5)
    mean = 255 * torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)
    with torch.no_grad():
        x = model.head(lr * 255 - mean)
        expected = (model.tail(x + model.body(x)) + mean) / 255
        torch.testing.assert_close(model(lr), expected)
    unit = small("edsr", scale=2, levels=1.0)
    assert not torch.allclose(unit(lr), model(lr), atol=1e-2)


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
    for attention in (m for m in model.modules() if isinstance(m, rcan.ChannelAttention)):
        torch.nn.init.zeros_(attention.conv_du[2].weight)  # it pools over all there is
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
    with pytest.raises(ModelError, match="expected one of dan, vdsr, rrdb, edsr.*'srcnn'"):
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


def seen_by(network, size: int) -> torch.Tensor:
    """How far apart, on each axis, the pixels are that one value of the output depends on."""
    for parameter in network.parameters():
        torch.nn.init.uniform_(parameter, 0.01, 0.1)
    x = torch.rand(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    out = network.double()(x)
    out.flatten(2)[0, 0, out[0, 0].numel() // 2 + out.shape[-1] // 2].backward()
    seen = x.grad[0].abs().sum(0).nonzero()
    return seen.amax(0) - seen.amin(0) + 1


@pytest.mark.parametrize(("layers", "expected"), [(1, 16), (2, 34), (3, 70)])
def test_a_patch_discriminator_judges_patches(layers, expected):
    network = PatchDiscriminator(features=4, layers=layers)
    assert seen_by(network, 160).tolist() == [expected, expected]
    with pytest.raises(ValueError, match="expected at least"):
        network(torch.rand(1, 3, 5, 80, dtype=torch.float64))


def test_the_vgg_discriminator_judges_the_whole_patch():
    network = VGGDiscriminator(features=4)
    x = torch.rand(2, 3, 32, 32, requires_grad=True)
    verdict = network(x)
    assert verdict.shape == (2, 1)
    verdict[0].sum().backward()
    assert (x.grad[0] != 0).any(0).all() and (x.grad[1] == 0).all()
    with pytest.raises(ValueError, match="expected patches of 32x32"):
        network(torch.rand(1, 3, 31, 32))


@pytest.mark.skipif(not DATA.is_dir(), reason="no test data here")
@pytest.mark.parametrize(("scale", "published"), [(2, 37.61), (3, 33.76), (4, 31.44)])
def test_public_vdsr_gives_its_figures(scale, published):
    weights = DATA / "weights" / "vdsr_pytorch.pt"
    report = evaluate("bicubic", scale, DATA / "test" / "Set5", [weights], device="cpu")
    assert report.rows[1].psnr == pytest.approx(published, abs=0.05)
