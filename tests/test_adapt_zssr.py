import numpy as np
import pytest
import torch
from skimage import data as photographs

from pysr import adapt, blur
from pysr.adapt.chain import BackProjected, SelfEnsemble, symmetries, turned
from pysr.adapt.line_fit import LineFit, stalled
from pysr.adapt.pairs import own_pairs
from pysr.adapt.phases import Rates
from pysr.adapt.zssr import ZSSRConfig, shrunk
from pysr.degrade import classical, imresize
from pysr.degrade.deep_linear import GivenBlur
from pysr.evaluate import psnr
from pysr.nets import build
from pysr.nets.parts import BicubicUpsample
from pysr.upscaler import Upscaler

BLUR = blur.anisotropic(1.6, 0.8, 0.6, 13)
SMALL = ZSSRConfig(layers=4, features=16, patch=32, rates=Rates(2e-3, 10.0, 1e-6))


@pytest.fixture(scope="module")
def brickwork():
    """(1, 3, 128, 128) in [0, 1]: one brick over and over, so that the picture teaches itself."""
    y, x = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    row = y // 18
    mortar = (y % 18 < 5) | ((x + 17 * (row % 2)) % 34 < 5)
    brick = torch.tensor([0.65, 0.3, 0.2])[:, None, None] * (0.8 + 0.2 * (row % 3 == 0))
    return torch.where(mortar, torch.tensor(0.8), brick)[None].float()


@pytest.fixture(scope="module")
def photograph():
    pixels = photographs.astronaut()[60:156, 180:276]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255


def test_a_picture_that_repeats_itself_teaches_more_than_its_blur(brickwork):
    lr = classical(brickwork, BLUR, 2)
    learned = adapt.zssr(lr, 2, budget=250, kernel=BLUR, config=SMALL, device="cpu")
    assert not learned.report.rolled_back
    restored = psnr(learned.upscaler(lr).image, brickwork, 2)
    assert restored > psnr(imresize(lr, 2), brickwork, 2) + 2.5
    # Of that, back-projection alone explains a part.
    corrected = BackProjected(BicubicUpsample(2), GivenBlur(2, BLUR))
    assert restored > psnr(corrected(lr), brickwork, 2) + 0.7


def test_the_same_seed_learns_the_same(brickwork):
    lr = classical(brickwork, BLUR, 2)

    def losses(seed):
        learned = adapt.zssr(lr, 2, budget=3, kernel=BLUR, config=SMALL, device="cpu", seed=seed)
        return [check.loss for check in learned.report.history]

    assert losses(0) == losses(0) != losses(1)


def test_every_seed_of_64_bits_does_for_all_steps_to_a_factor(photograph):
    learned = adapt.zssr(photograph, 4, budget=4, config=SMALL, device="cpu", seed=2**64 - 1)
    assert learned.report.steps == 4


@torch.random.fork_rng([])
def begun_by_torch(seed):
    """Weights and biases as torch's own generator gives them, as they always were."""
    torch.manual_seed(seed)
    wanted = []
    for into, out in ((3, 8), (8, 8), (8, 3)) * 2:  # two steps to a factor of 4
        conv = torch.nn.Conv2d(into, out, 3)
        torch.nn.init.kaiming_normal_(conv.weight)
        wanted += [conv.weight.detach() * (out > 3), torch.zeros(out)]
    return wanted


@pytest.mark.parametrize("seed", [0, -1])
def test_a_seed_begins_with_the_weights_that_files_saved_before_are_differences_to(seed):
    network = adapt.ZSSR(adapt.ZSSRSizes(4, layers=3, features=8), seed)
    torch.testing.assert_close(list(network.parameters()), begun_by_torch(seed), rtol=0, atol=0)


def test_x4_is_reached_in_two_steps_that_both_learn(brickwork):
    lr = classical(brickwork, blur.isotropic(1.8, 13), 4)
    learned = adapt.zssr(
        lr, 4, budget=24, kernel=blur.isotropic(1.8, 13), config=SMALL, device="cpu"
    )
    assert learned.upscaler(lr).image.shape == brickwork.shape
    if not learned.report.rolled_back:
        steps = learned.upscaler.model.network.network.stages
        assert [step.scale for step in steps] == [2, 2]
        assert all(bool(step.body[-1].weight.any()) for step in steps)


@pytest.mark.parametrize("downsample", ["bicubic", "decimate"])
def test_a_shrunk_blur_is_that_of_the_reduced_picture(photograph, downsample):
    kernel = blur.anisotropic(3.0, 1.8, 0.5, 21)
    offset = 0.0
    if downsample == "decimate":
        kernel, offset = blur.shifted(blur.resized(kernel, 25), 1.5), 0.5
    wanted = classical(photograph, kernel, 4, downsample=downsample, quantise=False)
    half = imresize(photograph, 1 / 2)
    got = classical(half, shrunk(kernel, 2, offset), 2, downsample=downsample, quantise=False)
    inner = (..., slice(4, -4), slice(4, -4))
    assert psnr(got[inner], wanted[inner]) > 40
    without = classical(half, blur.dirac(1), 2, downsample=downsample, quantise=False)
    assert psnr(without[inner], wanted[inner]) < 35


@pytest.mark.parametrize("scale", [2, 3])
def test_no_patch_is_smaller_than_what_one_pixel_stands_for(photograph, scale):
    learned = adapt.zssr(photograph, scale, budget=2, config=ZSSRConfig(patch=1), device="cpu")
    assert learned.report.steps == 2


@pytest.mark.parametrize("downsample", ["bicubic", "decimate"])
def test_a_pair_is_a_patch_and_its_degradation(photograph, downsample):
    degradation = GivenBlur(2, BLUR, downsample)
    pairs = own_pairs(photograph, degradation, patch=40, batch=2, noise=0.0, seed=0)
    for _ in range(4):
        son, father = next(pairs)
        assert son.shape == (2, 3, 20, 20) and father.shape == (2, 3, 40, 40)
        wanted = classical(father, BLUR, 2, downsample=downsample)
        inner = (..., slice(6, -6), slice(6, -6))
        torch.testing.assert_close(son[inner], wanted[inner], atol=1 / 255 + 1e-6, rtol=0)


def test_noise_is_put_on_what_is_learned_from():
    grey = torch.full((1, 3, 64, 64), 0.5)
    sons = own_pairs(grey, GivenBlur(2, BLUR), patch=48, batch=4, noise=0.05, seed=0)
    assert float(next(sons)[0].std()) == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("told", [0.1, None])
def test_what_noise_teaches_is_kept(photograph, told):
    """Of noise that it is told of, or finds."""
    lr = classical(photograph, blur.isotropic(1.0, 9), 2, noise=0.1, generator=0)
    config = ZSSRConfig(layers=4, features=16, patch=32, rates=SMALL.rates)
    known = {"kernel": blur.isotropic(1.0, 9), "noise": told}
    adapted = adapt.zssr(lr, 2, budget=60, **known, config=config, device="cpu")
    assert not adapted.report.rolled_back
    assert adapted.report.noise == pytest.approx(0.1, rel=0.15)
    assert "noise 2" in adapted.report.line()  # of 255
    restored = psnr(adapted.upscaler(lr).image, photograph, 2)
    assert restored > psnr(imresize(lr, 2), photograph, 2) + 0.5


def test_numbers_of_numpy_are_saved(photograph, tmp_path):
    config = ZSSRConfig(layers=2, features=np.int64(2))
    scale, noise = np.int64(2), np.float32(0.01)
    adapted = adapt.zssr(photograph, scale, budget=1, noise=noise, config=config, device="cpu")
    adapted.save(tmp_path / "delta.safetensors")
    again = adapt.load(tmp_path / "delta.safetensors", device="cpu")
    assert again.upscaler(photograph).image.shape[-1] == 2 * photograph.shape[-1]


def test_what_was_better_than_all_that_was_learned_is_named(photograph):
    config = ZSSRConfig(layers=2, features=2, rates=Rates(1e-9, 10.0, 1e-12))
    report = adapt.zssr(photograph, 2, budget=1, config=config, device="cpu").report
    assert report.rolled_back and report.reason.endswith("interpolation is kept")


def test_only_a_falling_line_keeps_the_rate():
    step = np.arange(256)
    scatter = 0.1 * (-1.0) ** step
    assert not stalled(1 - 0.002 * step + scatter)
    assert stalled(1 + 0 * step + scatter)
    assert stalled(1 + 0.002 * step + scatter)


def test_the_rate_falls_after_a_window_of_errors_that_do_not():
    rates = LineFit(1e-3, 10.0, 1e-5, torch.device("cpu"))
    generator, seen = torch.Generator().manual_seed(0), []
    for _ in range(1000):
        rates.see(1 + 0.1 * torch.randn((), generator=generator))
        seen.append(rates.rate)
        if rates.finished:
            break
    assert seen[:299] == [1e-3] * 299  # 256 errors, looked at every 60
    assert sorted(set(seen), reverse=True) == pytest.approx([1e-3, 1e-4, 1e-5])
    assert rates.finished


def test_the_rate_stays_while_errors_fall():
    rates = LineFit(1e-3, 10.0, 1e-5, torch.device("cpu"))
    for step in range(700):
        rates.see(torch.tensor(1 / (1 + step / 100)))
    assert rates.rate == 1e-3


def test_learning_that_has_come_to_rest_ends_before_the_budget(brickwork):
    resting = ZSSRConfig(layers=3, features=4, patch=16, rates=Rates(1e-3, 10.0, 1e-3))
    report = adapt.zssr(brickwork, 2, budget=50, config=resting, device="cpu").report
    assert report.steps == 1 and "learned all it could" in report.reason


@pytest.mark.parametrize(
    ("kernel", "downsample", "count"),
    [
        (blur.dirac(1), "bicubic", 8),
        (blur.isotropic(1.5, 13), "bicubic", 8),
        (blur.anisotropic(2.5, 0.8, 0.0, 13), "bicubic", 4),
        (blur.anisotropic(2.5, 0.8, np.pi / 4, 13), "bicubic", 4),
        (blur.anisotropic(2.5, 0.8, 0.4, 13), "bicubic", 2),
        (blur.shifted(blur.isotropic(1.5, 13), 0.5), "decimate", 8),
        (blur.isotropic(1.0, 13), "decimate", 2),
    ],
)
def test_a_picture_is_turned_only_where_its_blur_stays_the_same(kernel, downsample, count):
    assert len(symmetries(GivenBlur(2, torch.as_tensor(kernel), downsample))) == count


def test_an_ensemble_turns_as_its_picture_does(photograph):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 12, 3, padding=1), torch.nn.PixelShuffle(2))
    network.scale, network.halo = 2, 1
    ensemble, lr = SelfEnsemble(network), photograph[..., :20, :31]
    with torch.no_grad():
        for turns, flip in ensemble.orientations:
            torch.testing.assert_close(
                ensemble(turned(lr, turns, flip)), turned(ensemble(lr), turns, flip)
            )
        assert not torch.allclose(ensemble(lr), network(lr), atol=1e-3)


def test_tiles_meet_without_a_seam(photograph):
    config = ZSSRConfig(layers=4, features=8, patch=32)
    upscaler = adapt.zssr(
        photograph, 2, budget=4, kernel=BLUR, config=config, device="cpu"
    ).upscaler
    whole, tiled = (upscaler(photograph, tile=tile).image for tile in (768, 48))
    assert float((whole - tiled).abs().max()) < 1 / 255


@pytest.mark.parametrize("picture", [torch.full((1, 3, 32, 32), 0.4), torch.rand(1, 3, 16, 40)])
def test_there_is_always_a_picture(picture):
    """A constant one teaches nothing; one smaller than patch and kernel is learned from whole."""
    learned = adapt.zssr(
        picture, 2, budget=4, kernel=blur.isotropic(3.0, 31), config=SMALL, device="cpu"
    )
    result = learned.upscaler(picture)
    assert bool(torch.isfinite(result.image).all())
    assert learned.report.consistency_after >= learned.report.consistency_before
    if float(picture.std()) == 0:
        torch.testing.assert_close(result.image, torch.full((1, 3, 64, 64), 0.4))


@pytest.mark.parametrize("scale", [2, 3])
def test_by_name_it_begins_from_the_blur_that_dan_finds(scale):
    model = build("vdsr", scale=scale, layers=2, features=4)
    photograph = (
        torch.from_numpy(photographs.astronaut()[:96, 150:246].copy()).permute(2, 0, 1)[None] / 255
    )
    blurred = classical(photograph, blur.isotropic(2.0, 21), 2)
    kernel = adapt.taught("zssr", model, blurred, budget=1, device="cpu").report.kernel
    assert blur.spread(kernel) > 1


def test_by_name_a_scale_that_it_is_not_made_for_is_named():
    with pytest.raises(ValueError, match="scale: expected 2, 3 or 4, got 5"):
        adapt.taught("zssr", build("vdsr", scale=5), torch.rand(1, 3, 48, 48), budget=1)


def test_a_run_that_diverges_is_undone(photograph):
    wild = ZSSRConfig(layers=4, features=16, patch=32, rates=Rates(10.0, 10.0, 1e-6))
    learned = adapt.zssr(photograph, 2, budget=150, kernel=BLUR, config=wild, device="cpu")
    assert learned.report.rolled_back and "diverged" in learned.report.reason
    corrected = BackProjected(BicubicUpsample(2), GivenBlur(2, BLUR))
    torch.testing.assert_close(
        learned.upscaler(photograph).image, corrected(photograph).clamp(0, 1)
    )


def test_what_was_learned_loads_again(photograph, tmp_path):
    learned = adapt.zssr(photograph, 2, budget=20, kernel=BLUR, config=SMALL, device="cpu")
    learned.save(tmp_path / "delta.safetensors")
    again = adapt.load(tmp_path / "delta.safetensors", learned.base, device="cpu")
    assert isinstance(again.upscaler, Upscaler) and again.report.steps == 20
    images = [each.upscaler(photograph).image for each in (learned, again)]
    torch.testing.assert_close(*images, atol=1 / 255, rtol=0)


def test_its_file_needs_no_model(photograph, tmp_path):
    model, photograph = build("vdsr", scale=2, layers=2, features=2), photograph[..., :32, :32]
    learned = adapt.taught("zssr", model, photograph, budget=3, kernel=BLUR, device="cpu", seed=5)
    path = tmp_path / "delta.safetensors"
    learned.save(path)
    for base in (None, model, "vdsr-lite"):
        again = adapt.load(path, base, device="cpu")
        images = [each.upscaler(photograph).image for each in (learned, again)]
        torch.testing.assert_close(*images, atol=1 / 255, rtol=0)
    again.save(tmp_path / "again.safetensors")
    third = adapt.load(tmp_path / "again.safetensors", device="cpu").upscaler(photograph)
    torch.testing.assert_close(third.image, images[1])
    with pytest.raises(ValueError, match="taught from another model"):
        adapt.load(path, adapt.ZSSR(adapt.ZSSRSizes(2), seed=6), device="cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": torch.rand(1, 3, 15, 40)}, "at least 16x16 pixels to learn x2 from, got 40x15"),
        ({"image": torch.full((1, 3, 40, 40), torch.nan)}, "image: expected finite values"),
        ({"image": torch.rand(2, 3, 40, 40)}, "expected one picture, got a batch of 2"),
        ({"scale": 5}, "scale: expected 2, 3 or 4, got 5"),
        ({"budget": 0}, "budget: expected more than zero"),
        ({"kernel": torch.full((3, 3), torch.nan)}, "kernel: expected finite values"),
        ({"kernel": blur.isotropic(3.0, 63)}, "kernel"),
        ({"downsample": "bilinear"}, "downsample: expected one of bicubic, decimate"),
        ({"noise": 1.5}, "noise: expected a deviation from 0 to below 1, got 1.5"),
        ({"seed": 2**64}, "seed: expected an integer of at most 64 bits"),
    ],
)
def test_what_cannot_be_used_is_one_clear_line(changes, message):
    given = {"image": torch.rand(1, 3, 40, 40), "scale": 2, "budget": 2, "kernel": None}
    with pytest.raises(ValueError, match=message) as caught:
        adapt.zssr(**(given | changes), config=SMALL, device="cpu")
    assert "\n" not in str(caught.value)


def test_it_learns_on_its_own_device_whatever_the_default(photograph):
    torch.set_default_device("meta")
    try:
        learned = adapt.zssr(photograph, 2, budget=1, config=SMALL, device="cpu")
    finally:
        torch.set_default_device(None)
    assert learned.report.steps == 1
