"""ONSR on small pictures: what it learns, what it never does, and what it refuses."""

import copy
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage import data

import pysr
import pysr.adapt
from pysr import blur
from pysr.adapt import DSRConfig, ONSRConfig, dsr, onsr
from pysr.adapt.anytime import Judge
from pysr.adapt.camera import Camera
from pysr.adapt.onsr import ONSR, VARIANTS, pool_for
from pysr.adapt.pool import LEAVES
from pysr.cli import main
from pysr.degrade import LearnedDegradation, classical
from pysr.degrade.deep_linear import DeepLinear, GivenBlur, before_bicubic
from pysr.evaluate import psnr
from pysr.files import read_safetensors
from pysr.nets import (
    DAN,
    RRDB,
    VDSR,
    DANConfig,
    ModelError,
    RRDBConfig,
    VDSRConfig,
    build,
    load_model,
    save_model,
)
from pysr.nets.abl import ABL, ABLConfig
from pysr.nets.dml import DMLConfig, build_dml
from pysr.tiling import inside

KERNEL = blur.isotropic(1.6, 13)
QUICK = ONSRConfig(patch=16, batch=2, learning_rate=2e-3)


def untrained_camera(scale):
    return LearnedDegradation(build_dml(DMLConfig(scale=scale, features=1, levels=0)))


def camera_with(kernel):
    """A DML with one basis kernel, at about its full weight."""
    config = DMLConfig(scale=2, bases=1, kernel_size=len(kernel), features=2, levels=1)
    dml = build_dml(config)
    dml.free_bases.data[0] = kernel
    torch.nn.init.zeros_(dml.backbone.out.weight)
    torch.nn.init.constant_(dml.backbone.out.bias, 12.0)
    return LearnedDegradation(dml)


@pytest.fixture(scope="module")
def photograph():
    pixels = data.astronaut()[20:164, 150:294].astype("float32") / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


@pytest.fixture(scope="module")
def blurred(photograph):
    return classical(photograph, KERNEL, 2)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return RRDB(RRDBConfig(scale=2, features=8, growth=4, blocks=1, bicubic_skip=True)).eval()


def test_with_the_blur_given_the_picture_gets_sharper(network, photograph, blurred):
    adapted = onsr(network, blurred, budget=80, kernel=KERNEL, config=QUICK)
    report = adapted.report
    assert not report.rolled_back and report.consistency_after > report.consistency_before + 3
    assert torch.equal(report.kernel, KERNEL)
    with torch.no_grad():
        before = psnr(network(blurred), photograph, 2)
    assert psnr(adapted.upscaler(blurred).image, photograph, 2) > before + 0.3


@pytest.fixture(scope="module")
def soft_camera():
    return camera_with(blur.isotropic(1.6, 15))


def test_under_a_learned_degradation_the_picture_gets_sharper(network, photograph, soft_camera):
    seen, _ = soft_camera(photograph)
    adapted = onsr(network, seen, budget=80, degradation=soft_camera, config=QUICK)
    report = adapted.report
    assert not report.rolled_back and report.consistency_after > report.consistency_before + 3
    wanted = before_bicubic(blur.isotropic(1.6, 15), 2)
    torch.testing.assert_close(report.kernel, wanted, atol=1e-3, rtol=0)
    with torch.no_grad():
        before = psnr(network(seen), photograph, 2)
    assert psnr(adapted.upscaler(seen).image, photograph, 2) > before + 0.3


@pytest.mark.parametrize("model", ["vdsr", "dan-lite-x2"])
def test_a_degradation_without_kernels_judges_too(model, blurred, tmp_path):
    torch.manual_seed(0)
    camera = LearnedDegradation(ABL(ABLConfig(scale=2, features=4, blocks=1)), noise=0.02)
    camera.save(tmp_path / "camera.safetensors")
    base = load_model(model) if "dan" in model else VDSR(VDSRConfig(scale=2, layers=3, features=4))
    config = ONSRConfig(patch=16, batch=1)
    adapted = onsr(
        base, blurred, budget=2, degradation=tmp_path / "camera.safetensors", config=config
    )
    report = adapted.report
    assert (report.kernel is None) is (model == "vdsr")  # a DAN is told its own estimate
    assert report.steps == 2 and np.isfinite(report.consistency_before)
    adapted.save(tmp_path / "delta.safetensors")
    again = pysr.adapt.load(tmp_path / "delta.safetensors", base)
    assert again.report.line() == report.line()
    assert again.upscaler(blurred).image.shape == (1, 3, 144, 144)


def test_the_blur_is_approached(network, photograph):
    true = blur.isotropic(2.6, 17)
    lr = classical(photograph, true, 2)
    # The critic alone: a network that only interpolates tells the internal branch nothing.
    config = ONSRConfig(batch=2, blur_rate=0.06, critic_rate=5e-4, adversarial=100.0)
    learner = ONSR(
        copy.deepcopy(network), lr, pool_for(lr, 2, LEAVES, config, 0), DeepLinear(2), config
    )
    before = blur.spread(learner.degradation().kernel())
    for index in range(20):
        learner.step(index)
    assert before + 0.1 < blur.spread(learner.degradation().kernel().clamp(min=0)) < 3.5


def test_the_picture_is_learned_from_as_it_lies(network):
    """Turned, it would have been blurred in another direction."""
    picture = torch.linspace(0, 1, 40).expand(1, 3, 30, 40)
    config = ONSRConfig(patch=16)
    pool = pool_for(picture, 2, LEAVES, config, 0)
    learner = ONSR(copy.deepcopy(network), picture, pool, DeepLinear(2), config)
    patches = learner.own.draw(20, 16, torch.Generator())
    assert (patches.diff(dim=3) > 0).all() and (patches.diff(dim=2) == 0).all()


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_teaches_what_it_says(network, blurred, variant, joint):
    config = ONSRConfig(variant=variant, joint=joint, batch=1)
    degradation = DeepLinear(2)
    pool = pool_for(blurred, 2, LEAVES, config, 0)
    learner = ONSR(copy.deepcopy(network), blurred, pool, degradation, config)
    start = degradation.kernel().detach()
    # The last layer begins at zero: only the first step's change of it reaches the others.
    losses = [learner.step(index) for index in range(2)]
    assert all(torch.isfinite(loss) for loss in losses)
    learns_blur = joint or "internal" in VARIANTS[variant]
    assert torch.equal(degradation.kernel().detach(), start) is not learns_blur
    assert not torch.equal(learner.model.conv_last.weight, network.conv_last.weight)


@pytest.mark.parametrize("true, found, kept", [(1.6, 1.6, True), (0.6, 2.8, False)])
def test_a_blur_that_was_misread_sharpens_nothing(photograph, monkeypatch, true, found, kept):
    """It meets its own criterion; what the DAN makes of the picture tells."""
    module = sys.modules["pysr.adapt.onsr"]  # the package has the function of that name
    monkeypatch.setattr(module, "estimated_kernel", lambda *_: blur.isotropic(found))
    lr = classical(photograph, blur.isotropic(true), 2)
    model = load_model("rrdb-lite-x2")
    adapted = onsr(model, lr, budget="60 steps", device="cpu", config=QUICK)
    before = psnr(pysr.Upscaler(model, device="cpu")(lr).image, photograph, 2)
    after = psnr(adapted.upscaler(lr).image, photograph, 2)
    assert adapted.report.rolled_back != kept
    assert after > before + 1 if kept else after == before
    assert ("blur is doubted, the model is as it was" in adapted.report.reason) != kept


def test_never_worse_by_its_own_criterion(network, blurred):
    wild = ONSRConfig(patch=16, batch=1, learning_rate=1e3)
    adapted = onsr(network, blurred, budget=60, kernel=KERNEL, config=wild)
    assert adapted.report.rolled_back and adapted.report.reason.startswith("diverged")
    state = adapted.upscaler.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())


def test_a_dan_that_learned_nothing_good_restores_as_it_did_before(blurred):
    """With the blur that it found itself, not with the one that learning came to."""
    config = ONSRConfig(patch=16, batch=1, learning_rate=0.03, blur_rate=0.5)
    blurred = blurred[..., :48]
    adapted = onsr("dan-lite-x2", blurred, budget=20, config=config, device="cpu")
    assert adapted.report.rolled_back and adapted.report.steps == 20
    before = pysr.load("dan-lite-x2", device="cpu")
    known = before(blurred, kernel=adapted.report.kernel)
    assert torch.equal(adapted.upscaler(blurred).image, known.image)
    estimated = before(blurred, kernel=before.estimate(blurred))
    torch.testing.assert_close(known.image, estimated.image, atol=1e-3, rtol=0)


def test_a_dan_is_measured_against_itself_told_the_blur_that_was_found(blurred):
    config = ONSRConfig(patch=16, batch=1, learning_rate=1e-4, blur_rate=0.01)
    blurred, base = blurred[..., :48], load_model("dan-lite-x2")
    report = onsr(base, blurred, budget=20, config=config, device="cpu").report
    assert not report.rolled_back
    known = pysr.Upscaler(base, kernel=report.kernel, device="cpu")(blurred)
    before = Judge([blurred]).score([known.image], GivenBlur(2, report.kernel))
    assert report.consistency_before == pytest.approx(before, abs=0.01)


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**64 - 1])
def test_every_seed_of_64_bits_draws_leaves(network, blurred, seed):
    assert onsr(network, blurred, budget=1, config=QUICK, seed=seed).report.steps == 1


@pytest.mark.parametrize(
    "degradation",
    [GivenBlur(2, blur.isotropic(5.0, 41)), Camera(camera_with(blur.isotropic(5.0, 31)), None)],
    ids=["blur", "camera"],
)
def test_pairs_hold_nothing_of_mirrored_borders(network, degradation):
    """They are the middle of a larger pair, however wide the blur."""
    hr, lr = torch.rand(1, 3, 200, 200), torch.rand(1, 3, 20, 20)
    config, seen = ONSRConfig(patch=8, batch=1), []
    pool = pool_for(lr, 2, LEAVES, config, 0, degradation)
    learner = ONSR(copy.deepcopy(network), lr, pool, degradation, config)
    pool.draw = lambda n, size, generator: inside(hr, (200 - size) // 2)
    learner.restore = lambda made: seen.append(made) or torch.zeros(1, 3, 16, 16)
    learner._losses()
    with torch.no_grad():
        torch.testing.assert_close(seen[0], inside(degradation(hr), 46))


def test_a_folder_has_room_for_the_margin_of_a_wide_blur(tmp_path):
    Image.fromarray(data.astronaut()[:80, :80]).save(tmp_path / "small.png")
    lr, config = torch.rand(1, 3, 40, 40), ONSRConfig()
    assert pool_for(lr, 2, tmp_path, config, 0).side == 80
    with pytest.raises(ValueError, match="at least 116x116 pixels, found none"):
        pool_for(lr, 2, tmp_path, config, 0, GivenBlur(2, blur.isotropic(5.0, 41)))


def test_what_a_dan_with_a_wide_kernel_finds_is_learned_from():
    sizes = {"features": 8, "blocks": 1, "estimator_features": 8, "estimator_blocks": 1}
    config = DANConfig(scale=4, code_length=4, kernel_size=25, **sizes)
    torch.manual_seed(0)
    dan, picture = DAN(config, basis=torch.rand(625, 4)), torch.rand(1, 3, 16, 16)
    adapted = onsr(dan, picture, budget=2, config=ONSRConfig(batch=1), device="cpu")
    assert adapted.report.steps == 2 and len(adapted.report.kernel) == 45
    assert adapted.upscaler(picture).image.shape == (1, 3, 64, 64)


def test_patches_may_be_larger_than_leaves_mostly_are(blurred):
    network = VDSR(VDSRConfig(scale=4, layers=2, features=2))
    config = ONSRConfig(patch=64, batch=1)
    report = onsr(network, blurred, budget=1, kernel=KERNEL, config=config, device="cpu").report
    assert report.steps == 1


def test_noise_is_taken_off_and_not_sharpened(network, photograph):
    noisy = classical(photograph, KERNEL, 2, noise=0.06, generator=0)
    scores = {}
    for told in (None, 0.0):
        settings = {"budget": 160, "kernel": KERNEL, "noise": told, "config": QUICK}
        adapted = onsr(network, noisy, **settings, device="cpu")
        assert adapted.report.noise == pytest.approx(0.06 if told is None else 0.0, rel=0.1)
        scores[told] = psnr(adapted.upscaler(noisy).image, photograph, 2)
    as_it_is = psnr(pysr.Upscaler(network, device="cpu")(noisy).image, photograph, 2)
    assert scores[None] > as_it_is > scores[0.0] + 1


def test_noise_is_a_pictures_or_a_cameras(blurred):
    model, camera = build("vdsr", scale=2, layers=2, features=2), untrained_camera(2)
    with pytest.raises(ValueError, match="noise: given together with a degradation"):
        onsr(model, blurred, budget=1, degradation=camera, noise=0.1, device="cpu")


@pytest.mark.parametrize("method", ["onsr", "dsr", "zssr"])
def test_inference_mode_is_no_hindrance(method):
    with torch.inference_mode():
        picture, kernel = torch.rand(1, 3, 32, 32), blur.isotropic(1.2, 9)
        model = build("vdsr", scale=2, layers=2, features=2)
        adapted = pysr.adapt.taught(method, model, picture, budget=2, kernel=kernel, device="cpu")
        assert adapted.report.steps == 2
        assert adapted.upscaler(picture).image.shape == (1, 3, 64, 64)


def test_another_default_dtype_is_one_line(blurred):
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(TypeError, match="^expected [^\n]*float32[^\n]*, got torch.float64"):
            pysr.adapt.zssr(blurred, 2, budget=1, kernel=KERNEL, device="cpu")
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("method", "config"),
    [
        (onsr, ONSRConfig(patch=16, batch=1, learning_rate=2e-3, begin="gaussians")),
        (dsr, DSRConfig(layers=2, features=2, finer_share=0.2)),
    ],
)
def test_a_frozen_model_learns_as_any_other(network, blurred, method, config):
    def losses(model):
        kernel = KERNEL if method is dsr else None
        adapted = method(model, blurred, budget=20, kernel=kernel, config=config, device="cpu")
        return [check.loss for check in adapted.report.history]

    frozen = copy.deepcopy(network).requires_grad_(False)
    assert losses(frozen) == losses(network)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


@pytest.mark.parametrize("name", ["learning_rate", "blur_rate", "critic_rate", "adversarial"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_rate_that_none_can_be_is_one_line(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected a number of at least 0, got [^\n]*$"):
        ONSRConfig(**{name: value})


@pytest.mark.parametrize(
    "model",
    [
        VDSR(VDSRConfig(scale=2, layers=3, features=4)),
        load_model("dan-lite-x2"),
    ],
    ids=lambda model: type(model).__name__,
)
def test_any_network_learns_and_stays_as_it_was(model, blurred):
    before = copy.deepcopy(model.state_dict())
    adapted = onsr(model, blurred, budget=2, config=ONSRConfig(batch=1, learning_rate=1e-3))
    assert adapted.upscaler(blurred).image.shape == (1, 3, 144, 144)
    assert adapted.report.steps == 2 and adapted.report.kernel.shape == (29, 29)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "picture",
    [
        np.full((40, 40, 3), 128, np.uint8),
        data.astronaut()[:9, :7],
        data.astronaut()[:1, :1],
        data.camera()[:33, :20],
    ],
    ids=["constant", "smaller than the patch", "one pixel", "grey"],
)
@pytest.mark.parametrize("kernel", [None, blur.isotropic(4.0, 41)])
def test_pictures_that_say_little(network, picture, kernel):
    adapted = onsr(network, picture, budget=2, kernel=kernel, config=ONSRConfig(batch=1))
    assert torch.isfinite(adapted.report.kernel).all()
    result = adapted.upscaler(picture).image
    assert result.shape[:2] == tuple(2 * n for n in picture.shape[:2])


def test_without_a_pool_it_learns_from_the_picture_alone(network, blurred):
    assert onsr(network, blurred, None, budget=3, config=QUICK).report.steps == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.full((8, 8, 3), np.nan, np.float32)}, "image: expected finite"),
        ({"image": torch.zeros(2, 3, 8, 8)}, "image: expected one picture, got a batch of 2"),
        ({"budget": 0}, "budget: expected more than zero"),
        ({"kernel": torch.ones(3, 4)}, "kernel: expected a square"),
        ({"kernel": torch.ones(61, 61) / 61**2}, "kernel: expected at most 55x55 taps at x2"),
        ({"hr_pool": "/none"}, "/none: no such folder"),
        ({"degradation": "/none"}, "degradation: no file /none"),
        ({"degradation": untrained_camera(1)}, "degradation: expected the model's scale 2, got 1"),
        (
            {"degradation": untrained_camera(2), "hr_pool": None},
            "degradation: a learned one teaches by",
        ),
        (
            {"degradation": untrained_camera(2), "kernel": KERNEL},
            "kernel: given together with a degr",
        ),
        ({"device": "abacus"}, "device: 'abacus'"),
        ({"seed": 2**64}, "seed: expected an integer of at most 64 bits"),
    ],
)
def test_bad_input_is_one_line(network, change, message):
    arguments = {"image": np.zeros((8, 8, 3), np.uint8), "hr_pool": LEAVES, "budget": 1}
    with pytest.raises(ValueError, match=f"^{message}[^\n]*$"):
        onsr(network, **arguments | change)


def test_what_was_learned_is_a_small_file_tied_to_its_model(network, blurred, tmp_path):
    adapted = onsr(network, blurred, budget=40, kernel=KERNEL, config=QUICK)
    adapted.save(tmp_path / "delta.safetensors")
    again = pysr.adapt.load(tmp_path / "delta.safetensors", network)
    assert again.report.line() == adapted.report.line()
    images = [upscaler(blurred).image for upscaler in (again.upscaler, adapted.upscaler)]
    torch.testing.assert_close(*images, rtol=0, atol=2e-3)
    assert not torch.allclose(images[1], network(blurred), atol=5e-3)
    save_model(network, tmp_path / "base.safetensors")
    size = [(tmp_path / name).stat().st_size for name in ("delta.safetensors", "base.safetensors")]
    assert size[0] < 1.5 * size[1]
    other = copy.deepcopy(network)
    other.conv_first.bias.data += 1
    with pytest.raises(ModelError, match="taught from another model"):
        pysr.adapt.load(tmp_path / "delta.safetensors", other)
    with pytest.raises(ModelError, match="expected what an adapted model"):
        pysr.adapt.load(tmp_path / "base.safetensors", network)
    with pytest.raises(ModelError, match="no such file"):
        pysr.adapt.load(tmp_path / "none.safetensors", network)
    metadata, differences = read_safetensors(tmp_path / "delta.safetensors")
    for damage in ({"report": "{}"}, {"report": "{"}, {"report": "3"}, {"settings": "["}):
        save_file(differences, tmp_path / "damaged.safetensors", metadata | damage)
        with pytest.raises(ModelError, match="damaged.safetensors: not a readable file"):
            pysr.adapt.load(tmp_path / "damaged.safetensors", network)


def test_a_model_of_any_scale_is_found_again_by_its_name(blurred, tmp_path):
    config = ONSRConfig(patch=16, batch=1)
    base = load_model("vdsr-lite", 2)
    adapted = onsr(base, blurred, budget=2, kernel=KERNEL, config=config, device="cpu")
    adapted.save(tmp_path / "delta.safetensors")
    again = pysr.adapt.load(tmp_path / "delta.safetensors", "vdsr-lite", device="cpu")
    assert again.upscaler.scale == 2
    with pytest.raises(ModelError, match="expected the model that onsr taught, got none$"):
        pysr.adapt.load(tmp_path / "delta.safetensors")


def test_command_line(network, blurred, tmp_path, capsys):
    save_model(network, tmp_path / "model.safetensors")
    pixels = (blurred[0].permute(1, 2, 0).numpy() * 255).round().astype("uint8")
    Image.fromarray(pixels[:40, :40]).save(tmp_path / "in.png")
    out, model = tmp_path / "out.png", ("--model", str(tmp_path / "model.safetensors"))
    command = ["upscale", str(tmp_path / "in.png"), str(out), *model, "--adapt"]
    report = tmp_path / "report.json"
    assert main([*command, "onsr", "--budget", "2 steps", "--report", str(report)]) == 0
    assert "onsr: 2 steps" in capsys.readouterr().out and Image.open(out).size == (80, 80)
    (about,) = json.loads(report.read_text())
    assert about["adapt"]["steps"] == 2 and about["output"] == str(out)
    for arguments, message in [
        (("magic",), "adapt: expected one of onsr"),
        (("onsr", "--budget", "0s"), "budget: expected more than zero"),
        (("onsr", "--hr-pool", "/none"), "/none: no such folder"),
        (("onsr", "--degradation", "/none"), "degradation: no file /none"),
        (("zssr", "--degradation", "/none"), "degradation: zssr takes a kernel"),
    ]:
        assert main([*command, *arguments]) == 2
        assert message in capsys.readouterr().err
    assert main([*command[:-1], "--budget", "3s"]) == 2
    assert "--budget: means nothing without --adapt" in capsys.readouterr().err


def test_evaluate_measures_a_model_before_and_after(network, tmp_path, capsys):
    save_model(network, tmp_path / "model.safetensors")
    (tmp_path / "data").mkdir()
    Image.fromarray(data.astronaut()[:64, :64]).save(tmp_path / "data" / "a.png")
    command = ["evaluate", "--protocol", "div2krk", "--scale", "2", "--data"]
    command += [str(tmp_path / "data"), "--model", str(tmp_path / "model.safetensors")]
    assert main([*command, "--adapt", "onsr", "--budget", "1 steps"]) == 0
    assert ", onsr" in "".join(capsys.readouterr().out.split("\n")).replace("│", "")
