import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pysr import _ext, blur
from pysr.nets import (
    DAN,
    DANConfig,
    ModelError,
    default_model,
    load_model,
    parts,
    save_model,
)
from pysr.nets.dan import BicubicUpsample, ConditionalResidualBlock, grown, initialise
from pysr.nets.registry import infer_config
from pysr.ops import conv_shuffle

SMALL = DANConfig(features=16, blocks=2, code_length=4, estimator_features=16, estimator_blocks=1)


def small(**changes) -> DAN:
    torch.manual_seed(0)
    config = dataclasses.replace(SMALL, **changes)
    kernels = blur.random_isotropic(200, (0.3, 3.0), config.kernel_size, 0)
    return DAN(config, blur.pca_basis(kernels, config.code_length)).eval()


def published_block(block: ConditionalResidualBlock, f, code):
    """Equation 5 as it is written: the code stretched over the image and concatenated."""
    stretched = code[:, :, None, None].expand(len(f), -1, *f.shape[-2:])
    first, _, second, attention = block.body
    r = second(F.leaky_relu(first(torch.cat((f, stretched), 1)), 0.2))
    return f + r * attention.body(r.mean((2, 3), keepdim=True))


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("codes", [1, 2])
@pytest.mark.parametrize("height", [1, 2, 3, 9])
@pytest.mark.parametrize("width", [1, 2, 8])
def test_folded_condition_equals_the_stretched_one(gradients, codes, height, width):
    torch.manual_seed(1)
    block = ConditionalResidualBlock(16, 5).double()
    f = torch.randn(2, 16, height, width, dtype=torch.float64)
    code = torch.randn(codes, 5, dtype=torch.float64)
    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(block(f, code), published_block(block, f, code))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("codes", [1, 2])
@pytest.mark.parametrize("size", [(4, 5), (2, 7), (3, 1)])
def test_gradients_of_the_folded_condition(training, codes, size):
    torch.manual_seed(1)
    block = ConditionalResidualBlock(16, 3).double().train(training)
    f = torch.randn(2, 16, *size, dtype=torch.float64, requires_grad=True)
    code = torch.randn(codes, 3, dtype=torch.float64, requires_grad=True)
    inputs = (f, code, *block.parameters())
    got = torch.autograd.grad(block(f, code).square().sum(), inputs)
    wanted = torch.autograd.grad(published_block(block, f, code).square().sum(), inputs)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_second_derivatives_of_the_folded_condition():
    torch.manual_seed(1)
    block = ConditionalResidualBlock(2, 1).double()
    f = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    code = torch.randn(2, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(block, (f, code))


def test_a_cpu_learns_by_our_convolution_with_the_gradients_of_torchs(monkeypatch):
    torch.manual_seed(1)
    block = ConditionalResidualBlock(32, 3)
    f, code = torch.randn(4, 32, 24, 27, requires_grad=True), torch.randn(4, 3)
    calls = []
    monkeypatch.setattr(parts, "conv_shuffle", lambda *a: calls.append(1) or conv_shuffle(*a))
    inputs = (f, *block.parameters())
    got = torch.autograd.grad(block(f, code).square().sum(), inputs)
    assert len(calls) == 2
    exact = block.double()
    inputs = (f.detach().double().requires_grad_(), *exact.parameters())
    out = published_block(exact, inputs[0], code.double())
    for a, b in zip(got, torch.autograd.grad(out.square().sum(), inputs), strict=True):
        assert (a - b).abs().max() < 2e-5 * b.abs().max()
    with torch.inference_mode():
        block.float().eval()(f, code)
    assert len(calls) == 2  # an engine's reference is torch's own


def test_iterations_that_record_nothing_are_the_same_in_training():
    torch.manual_seed(1)
    block = ConditionalResidualBlock(32, 3)
    f = torch.randn(4, 32, 24, 27)
    for cond in (torch.randn(4, 3), torch.randn(4, 3, 24, 27)):
        with torch.no_grad():
            training, evaluating = block.train()(f, cond), block.eval()(f, cond)
        torch.testing.assert_close(training, evaluating, atol=1e-5, rtol=1e-5)


def test_narrow_networks_and_one_condition_for_a_batch():
    model = DAN(DANConfig(scale=2, features=8, blocks=1, code_length=4, estimator_features=8))
    assert model(torch.rand(1, 3, 8, 8)).sr.shape == (1, 3, 16, 16)
    block = ConditionalResidualBlock(8, 4)
    f, cond = torch.rand(2, 8, 6, 5), torch.rand(1, 4)
    with torch.no_grad():
        torch.testing.assert_close(block.train()(f, cond), block.eval()(f, cond))


@pytest.mark.parametrize("tail", [False, True])
def test_a_grown_network_begins_as_the_one_it_grew_from_and_learns(tail):
    model = small(compact_tail=tail)
    initialise(model)
    for parameter in model.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    sizes = {"blocks": 4, "estimator_blocks": 2, "features": 32}
    larger = grown(model, dataclasses.replace(model.config, **sizes))
    lr = torch.rand(2, 3, 12, 13)
    with torch.no_grad():
        for ours, theirs in zip(larger(lr), model(lr), strict=True):
            torch.testing.assert_close(ours, theirs)
    sr, code = larger(lr)
    (sr.square().mean() + code.square().mean()).backward()
    for body in (larger.Restorer.body, larger.Estimator.body):
        assert body[-1].body[2].weight.grad.abs().max() > 0
    for block in larger.Restorer.body[:2]:  # what is new in an old block is listened to from now on
        assert block.body[0].weight.grad[:16, 16:32].abs().max() > 0
        assert block.body[2].weight.grad[:16, 20:].abs().max() > 0


def test_a_network_of_another_scale_begins_with_the_same_picture_sampled_elsewhere():
    def added(model):
        sr = model(lr, code=model.init_ker_map).sr
        return sr - BicubicUpsample(model.config.scale)(lr)

    lr = torch.rand(1, 3, 12, 13)
    model = load_model("dan-lite-x4")
    with torch.no_grad():
        wanted = added(model)
        for scale in (2, 3):
            ours = added(grown(model, dataclasses.replace(model.config, scale=scale, blocks=8)))
            theirs = F.interpolate(wanted, (12 * scale, 13 * scale), mode="bilinear")
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "changes", [{"features": 8}, {"blocks": 1}, {"scale": 3}, {"code_length": 8}]
)
def test_a_network_grows_by_blocks_and_features_alone(changes):
    with pytest.raises(ValueError, match="or another blocks, estimator_blocks, features|at least"):
        grown(small(), dataclasses.replace(SMALL, **changes))


def test_where_none_is_named_slow_devices_make_many_passes_with_a_smaller_network(monkeypatch):
    def parameters(scale, many_on):
        monkeypatch.setattr(_ext, "ISA", "amx" if many_on == "tiles" else "avx512")
        device = many_on and torch.device("cuda" if many_on == "cuda" else "cpu")
        model = load_model(default_model(scale, device))
        assert model.config.scale == scale
        return sum(parameter.numel() for parameter in model.parameters())

    for scale in (2, 3, 4):
        largest = parameters(scale, None)
        assert largest == parameters(scale, "cuda") == parameters(scale, "tiles")
        assert largest > 3 * parameters(scale, "cpu")
    assert default_model() == default_model(4)
    with pytest.raises(ModelError, match="no model for x5"):
        default_model(5)


def published_names(config: DANConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the public x4 checkpoint, written out from papers' code and notes."""
    nf, code = config.features, config.code_length
    shapes = {"encoder": (1, 441, code), "init_kernel": (1, 21, 21), "init_ker_map": (1, code)}

    def conv(name, out, into, k):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, into, k, k), (out,)

    def block(name, f, c):
        conv(f"{name}.body.0", f + c, f + c, 3)
        conv(f"{name}.body.2", f, f + c, 3)
        conv(f"{name}.body.3.body.0", f // 16, f, 1)
        conv(f"{name}.body.3.body.2", f, f // 16, 1)

    conv("Restorer.head", nf, 3, 3)
    for i in range(config.blocks):
        block(f"Restorer.body.{i}", nf, code)
    conv("Restorer.fusion", nf, nf, 3)
    conv("Restorer.upscale.0", 4 * nf, nf, 3)
    conv("Restorer.upscale.2", 4 * nf, nf, 3)
    conv("Restorer.upscale.4", 3, nf, 3)
    conv("Estimator.head_LR", 32, 3, 1)
    conv("Estimator.head_HR", 32, 3, 9)
    for i in range(5):
        block(f"Estimator.body.{i}", 32, 32)
    conv("Estimator.out", code, 32, 3)
    return shapes


def test_the_default_is_the_published_network(tmp_path):
    expected = published_names(DANConfig())
    model = DAN()
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == expected
    parameters = sum(p.numel() for p in model.parameters())
    assert 3.9e6 < parameters < 4.4e6


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_a_public_checkpoint_loads_unchanged(tmp_path, suffix):
    config = DANConfig(blocks=3)
    torch.manual_seed(0)
    state = {k: torch.randn(s) for k, s in published_names(config).items()}
    torch.save(state, tmp_path / f"public{suffix}")
    model = load_model(tmp_path / f"public{suffix}")
    assert model.config == config
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("compact", [True, False])
def test_configuration_is_read_off_a_state_dict(scale, compact):
    config = dataclasses.replace(SMALL, scale=scale, compact_tail=compact)
    assert infer_config(DAN(config).state_dict()) == config


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("skip", [True, False])
def test_shapes_at_every_scale(scale, skip):
    model = small(scale=scale, bicubic_skip=skip, compact_tail=skip, whitened_estimator=skip)
    for height, width in ((1, 1), (7, 5), (16, 20)):
        sr, code = model(torch.rand(2, 3, height, width))
        assert sr.shape == (2, 3, scale * height, scale * width)
        assert code.shape == (2, 4)
        assert torch.isfinite(sr).all() and torch.isfinite(code).all()


def test_the_loop_is_figure_one():
    model, lr = small(), torch.rand(2, 3, 9, 8)
    with torch.no_grad():
        code = model.init_ker_map.expand(2, -1)
        for iterations in range(1, 4):
            sr = model.Restorer(lr, code)
            code = model.Estimator(sr, lr)
            result = model(lr, iterations=iterations)
            torch.testing.assert_close(result.sr, sr)
            torch.testing.assert_close(result.code, code)


def test_only_the_last_iteration_learns():
    model, lr = small(), torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        code = model(lr, iterations=2).code
    model(lr, iterations=3).sr.sum().backward()
    looped = model.Restorer.head.weight.grad.clone()
    model.zero_grad()
    model.Restorer(lr, code).sum().backward()
    torch.testing.assert_close(looped, model.Restorer.head.weight.grad)


def test_the_picture_does_not_teach_the_estimator():
    model = small()
    model(torch.rand(1, 3, 8, 8)).sr.sum().backward()
    assert all(p.grad is None for p in model.Estimator.parameters())


def test_a_known_kernel_replaces_the_loop():
    model, lr = small(), torch.rand(2, 3, 8, 8)
    kernel = blur.isotropic(1.5, 21)
    with torch.no_grad():
        result = model(lr, kernel=kernel)
        torch.testing.assert_close(result.sr, model.Restorer(lr, model.encode(kernel[None])))
        smaller = model(lr, kernel=blur.isotropic(1.5, 13))
    torch.testing.assert_close(result.sr, smaller.sr, atol=1e-4, rtol=0)
    assert not torch.allclose(result.sr, model(lr, kernel=blur.isotropic(0.5, 21)).sr)


def test_the_skip_is_bicubic_interpolation():
    from pysr.degrade import imresize

    x = torch.rand(1, 3, 12, 9, dtype=torch.float64)
    for scale in (2, 3, 4):
        got = BicubicUpsample(scale)(x)
        edge = 2 * scale  # outside, MATLAB mirrors where the skip repeats
        wanted = imresize(x, scale)[..., edge:-edge, edge:-edge]
        torch.testing.assert_close(got[..., edge:-edge, edge:-edge], wanted, atol=1e-6, rtol=0)


def test_training_starts_at_interpolation():
    model = small(bicubic_skip=True, compact_tail=True)
    initialise(model)
    lr = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        difference = model(lr).sr - BicubicUpsample(4)(lr)
    assert difference.abs().max() < 0.05


def test_the_halo_is_what_an_output_pixel_sees():
    for compact in (True, False):
        restorer = small(compact_tail=compact, bicubic_skip=True).Restorer.double()
        for parameter in restorer.parameters():
            nn.init.uniform_(parameter, 0.01, 0.1)
        lr = torch.rand(1, 3, 41, 41, dtype=torch.float64, requires_grad=True)
        gates = [torch.ones(1, 16, 1, 1, dtype=torch.float64)] * 2
        code = torch.rand(1, 4, dtype=torch.float64)
        sr = restorer(lr, code, gates)
        sr[0, :, 80:84, 80:84].sum().backward()  # the output of LR pixel 20
        seen = lr.grad[0].abs().sum(0).nonzero()
        reach = int((seen - 20).abs().max())
        assert reach <= restorer.halo <= reach + 1


def test_loading_takes_no_number_from_the_user(tmp_path):
    save_model(small(), tmp_path / "other.safetensors")
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    for name in ("dan-lite-x2", tmp_path / "other.safetensors"):
        load_model(name)
    assert torch.equal(torch.rand(1), expected)


def test_saved_models_load_again(tmp_path):
    model = small(bicubic_skip=True, compact_tail=True, whitened_estimator=True)
    save_model(model, tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    assert again.config == model.config
    lr = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(again(lr).sr, model(lr).sr, atol=5e-3, rtol=0)
    assert torch.equal(again.encoder, model.encoder)


def test_unreadable_models_are_named(tmp_path):
    with pytest.raises(ModelError, match="expected one of dan-x4, .*dan-mid-x4.*'dan-huge'"):
        load_model("dan-huge")
    with pytest.raises(ModelError, match="no file"):
        load_model(tmp_path / "missing.safetensors")
    for name in ("broken.safetensors", "broken.pth"):
        (tmp_path / name).write_bytes(b"not weights at all")
        with pytest.raises(ModelError, match=name):
            load_model(tmp_path / name)
    torch.save({"other.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match="published names of dan"):
        load_model(tmp_path / "other.pth")


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def test_a_checkpoint_cannot_run_code(tmp_path):
    torch.save({"Restorer.head.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ModelError, match="weights_only"):
        load_model(tmp_path / "evil.pth")
