import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage import data as photographs

import pysr
from pysr import adapt, blur
from pysr.adapt.dsr import DSRConfig, LRFiner, assembled, dsr_phases
from pysr.adapt.pairs import matrix_pairs
from pysr.adapt.phases import Phase, Phases, Rates
from pysr.adapt.zssr import Learning
from pysr.degrade import classical, imresize
from pysr.degrade.deep_linear import GivenBlur
from pysr.evaluate import psnr
from pysr.nets import build, default_model, load_model

BLUR = blur.anisotropic(2.2, 1.2, 0.5, 15)
SMALL = DSRConfig(layers=4, features=16, matrix=48, resolver=Learning(patch=32))


@pytest.fixture(scope="module")
def hr():
    pixels = photographs.astronaut()[60:156, 180:276]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255


@pytest.fixture(scope="module")
def lr(hr):
    return classical(hr, BLUR, 2)


@pytest.fixture(scope="module")
def network():
    """Begins at interpolation."""
    torch.manual_seed(0)
    return build("vdsr", scale=2, layers=3, features=8).eval()


def test_lr_finer_finds_what_bicubic_downsampling_would_have_left(hr, lr, network):
    clean = imresize(hr, 1 / 2)
    config = DSRConfig(layers=4, features=16, matrix=64, finer_share=0.95)
    learned = adapt.dsr(network, lr, budget=160, kernel=BLUR, config=config, device="cpu")
    finer = learned.upscaler.model.network.stages[0]
    with torch.no_grad():
        assert psnr(finer(lr), clean, 2) > psnr(lr, clean, 2) + 1


@pytest.mark.parametrize("downsample", ["bicubic", "decimate"])
def test_matrices_are_degraded_as_the_picture_was(downsample):
    seen, matrix = next(matrix_pairs(GivenBlur(2, BLUR, downsample), 64, noise=0.0, seed=0))
    assert matrix.shape == (1, 1, 64, 64) and seen.shape == (1, 1, 32, 32)
    assert 0 <= float(matrix.min()) < 0.01 and 0.99 < float(matrix.max()) <= 1
    wanted = classical(matrix, BLUR, 2, downsample=downsample)
    inner = (..., slice(6, -6), slice(6, -6))
    torch.testing.assert_close(seen[inner], wanted[inner], atol=1 / 255 + 1e-6, rtol=0)


def test_lr_finer_treats_every_channel_alike(lr):
    finer = LRFiner(2, layers=3, features=8)
    torch.nn.init.normal_(finer.body[-1].weight, std=0.1)
    with torch.no_grad():
        mixed = finer(lr[:, [2, 0, 1]])
        torch.testing.assert_close(mixed, finer(lr)[:, [2, 0, 1]])
        assert finer(lr[..., :17, :23]).shape == (1, 3, 17, 23)


def test_dsr_undoes_the_blur_and_leaves_the_model_alone(hr, lr, network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    learned = adapt.dsr(network, lr, budget=120, kernel=BLUR, config=SMALL, device="cpu")
    assert not learned.report.rolled_back
    result = learned.upscaler(lr)
    assert psnr(result.image, hr, 2) > psnr(pysr.Upscaler(network)(lr).image, hr, 2) + 1
    torch.testing.assert_close(result.kernel, BLUR)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("known", [True, False])
def test_a_dan_goes_on_from_the_clean_picture(lr, known):
    kernel = BLUR if known else None
    learned = adapt.dsr("dan-lite-x2", lr, budget=2, kernel=kernel, config=SMALL, device="cpu")
    if not known:
        kernel = pysr.load("dan-lite-x2", device="cpu").estimate(lr)
    torch.testing.assert_close(learned.report.kernel, kernel)
    assert learned.upscaler(lr).image.shape == (1, 3, 96, 96)


def test_a_plain_network_has_the_shipped_dan_estimate(lr, network):
    learned = adapt.dsr(network, lr, budget=1, config=SMALL, device="cpu")
    finder = default_model(2, many_on=torch.device("cpu"))
    estimate = pysr.load(finder, device="cpu").estimate(lr)
    torch.testing.assert_close(learned.report.kernel, estimate)
    with pytest.raises(ValueError, match="kernel: expected one, as no shipped model .* at x5"):
        adapt.dsr(network.with_scale(5), lr, budget=1, config=SMALL, device="cpu")


@pytest.mark.parametrize("scale", [2, 4])
def test_zssr_goes_on_from_the_clean_picture(lr, scale):
    base = adapt.ZSSR(adapt.ZSSRSizes(scale, layers=3, features=8))
    learned = adapt.dsr(base, lr, budget=6, kernel=BLUR, config=SMALL, device="cpu")
    assert learned.upscaler(lr).image.shape[-1] == scale * lr.shape[-1]


def test_turns_share_the_budget_one_after_the_other():
    """Three networks of one weight each: who moved, at which step."""
    names, log = "abc", []
    nets = torch.nn.ModuleDict({name: torch.nn.Linear(1, 1, bias=False) for name in names})

    def begin(name):
        log.append(name)
        while True:
            yield torch.ones(1, 1), torch.full((1, 1), 5.0)

    phases = [
        Phase(nets[n], lambda n=n: begin(n), F.mse_loss, Rates(0.1, 10, 1e-6), share)
        for n, share in zip(names, (6.0, 2.0, 2.0), strict=True)
    ]
    budget = adapt.Budget.of(10)
    learner = Phases(nets, phases, None, None, GivenBlur(2, BLUR), budget, started=0.0)
    moved = []
    for step in range(10):
        before = [nets[n].weight.item() for n in names]
        learner.step(step)
        after = [nets[n].weight.item() for n in names]
        moved.append("".join(n for n, a, b in zip(names, before, after, strict=True) if a != b))
    assert "".join(moved) == "aaaaaabbcc"
    assert log == list(names)  # what a turn learns from is made when it comes


@pytest.mark.parametrize(("scale", "count"), [(2, 2), (4, 3)])
def test_lr_finer_has_its_share_of_the_budget(lr, scale, count):
    model = assembled(
        adapt.ZSSR(adapt.ZSSRSizes(scale)),
        BLUR,
        **{"downsample": "bicubic", "layers": 3, "features": 8, "noise": 0.0, "seed": 0},
    )
    phases = dsr_phases(model, lr, DSRConfig(finer_share=0.7), noise=0.0, seed=0)
    assert len(phases) == count
    assert phases[0].share / sum(phase.share for phase in phases) == pytest.approx(0.7)


def test_what_was_learned_loads_again_on_its_model_alone(lr, network, tmp_path):
    learned = adapt.dsr(network, lr, budget=60, kernel=BLUR, config=SMALL, device="cpu")
    assert not learned.report.rolled_back
    learned.save(tmp_path / "delta.safetensors")
    again = adapt.load(tmp_path / "delta.safetensors", network, device="cpu")
    images = [each.upscaler(lr).image for each in (learned, again)]
    torch.testing.assert_close(*images, atol=1 / 255, rtol=0)
    with pytest.raises(ValueError, match="taught from another model"):
        adapt.load(tmp_path / "delta.safetensors", load_model("dan-lite-x2"), device="cpu")


def test_where_nothing_was_better_the_model_is_as_it_was(lr, network):
    wild = DSRConfig(layers=3, features=8, matrix=32, finer_rates=Rates(10.0, 2.0, 1e-5))
    learned = adapt.dsr(network, lr, budget=40, kernel=BLUR, config=wild, device="cpu")
    assert learned.report.rolled_back
    torch.testing.assert_close(
        learned.upscaler(lr).image, pysr.Upscaler(network, device="cpu")(lr).image
    )


@pytest.mark.parametrize("picture", [np.full((40, 40), 99, np.uint8), np.eye(24, 30)])
def test_there_is_always_a_picture(picture, network):
    """A constant one, and one smaller than the kernel; both grey."""
    kernel = blur.isotropic(3.0, 31)
    learned = adapt.dsr(network, picture, budget=4, kernel=kernel, config=SMALL, device="cpu")
    result = learned.upscaler(picture).image
    assert result.shape == tuple(2 * n for n in picture.shape) and result.dtype == picture.dtype
    if picture.dtype == np.uint8:
        assert abs(result.astype(int) - 99).max() <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": torch.rand(1, 3, 12, 40)}, "at least 16x16 pixels to learn x2 from, got 40x12"),
        ({"image": torch.full((1, 3, 40, 40), torch.nan)}, "image: expected finite values"),
        ({"budget": "soon"}, "budget: expected steps or seconds"),
        ({"kernel": torch.ones(3, 4)}, "kernel: expected a square"),
        ({"downsample": "box"}, "downsample: expected one of bicubic, decimate"),
        ({"noise": -0.1}, "noise: expected a deviation from 0 to below 1, got -0.1"),
        ({"seed": -(2**63) - 1}, "seed: expected an integer of at most 64 bits"),
    ],
)
def test_what_cannot_be_used_is_one_clear_line(changes, message, network):
    given = {"image": torch.rand(1, 3, 40, 40), "budget": 2, "kernel": BLUR}
    with pytest.raises(ValueError, match=message) as caught:
        adapt.dsr(network, **(given | changes), config=SMALL, device="cpu")
    assert "\n" not in str(caught.value)
