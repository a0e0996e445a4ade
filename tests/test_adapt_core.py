"""What all methods of learning at test time share: budget, loop, files of differences, pool."""

import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data

import pysr
from pysr.adapt import ZSSR, Budget, ONSRConfig, Report
from pysr.adapt.anytime import Anytime, Judge
from pysr.adapt.dsr import LRFiner
from pysr.adapt.onsr import ONSR, pool_for
from pysr.adapt.pool import LEAVES, Patches, dead_leaves, open_pool
from pysr.blur import isotropic
from pysr.degrade.deep_linear import DeepLinear, GivenBlur
from pysr.nets import build
from pysr.nets.parts import BicubicUpsample

CPU = torch.device("cpu")
# Half as bright again, it is not yet clipped.
PICTURE = 0.6 * torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("value", "budget"),
    [
        (5, Budget(steps=5)),
        ("500 steps", Budget(steps=500)),
        (np.int64(3), Budget(steps=3)),
        (2.5, Budget(seconds=2.5)),
        ("10s", Budget(seconds=10.0)),
    ],
)
def test_budgets_as_they_are_written(value, budget):
    assert Budget.of(value) == budget


@pytest.mark.parametrize("value", [0, -1, 0.0, float("nan"), "0s", "soon", "1.5 steps", True, None])
def test_no_budget_is_one_line(value):
    with pytest.raises(ValueError, match="^budget: expected [^\n]*$"):
        Budget.of(value)


@pytest.mark.parametrize("given", [{}, {"steps": 0}, {"steps": 1, "seconds": 2.0}])
def test_a_budget_is_steps_or_seconds(given):
    with pytest.raises(ValueError, match="^budget: expected "):
        Budget(**given)


class Brightness:
    """A picture 1.5 times too bright, and darker by `rate` with every step, past what is right."""

    finished, settled, follows_blur = False, True, False

    def __init__(self, rate: float, interrupt: int | None = None):
        self.model = torch.nn.Conv2d(1, 1, 1, bias=False)
        self.model.weight.data.fill_(1.5)
        self.rate, self.interrupt = rate, interrupt

    def restore(self, lr):
        return lr * self.model.weight.view(())

    def degradation(self):
        return GivenBlur(1, torch.ones(1, 1))

    def step(self, index):
        if index == self.interrupt:
            raise KeyboardInterrupt
        self.model.weight.data -= self.rate
        return (self.model.weight.detach() - 1).abs().sum()


def test_noise_that_is_known_is_not_to_be_restored():
    blur, noise = GivenBlur(2, isotropic(1.0, 9)), 0.1
    hr = torch.from_numpy(data.astronaut()[:160, 100:260].copy()).permute(2, 0, 1)[None] / 255
    clean = blur(hr)
    noisy = clean + noise * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    interpolated = BicubicUpsample(2)

    def smooth(lr):
        return interpolated(F.avg_pool2d(F.pad(lr, (1, 1, 1, 1), "replicate"), 3, 1))

    def true_score(restore):
        return Judge([clean]).score(Judge([noisy]).restored(restore), blur)

    judge, blind = Judge([noisy], noise), Judge([noisy])
    scores = {
        restore: judge.score(judge.restored(restore), blur) for restore in (smooth, interpolated)
    }
    for restore, score in scores.items():
        assert score == pytest.approx(true_score(restore), abs=0.5)
    # Who does not know of it takes what has all the noise for the better picture.
    assert scores[smooth] > scores[interpolated] + 1
    seen = [blind.score(blind.restored(restore), blur) for restore in (smooth, interpolated)]
    assert seen[0] < seen[1] - 1


def test_seconds_count_from_the_call(monkeypatch):
    now = [5.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    class Slow(Brightness):
        def step(self, index):
            now[0] += 1.0
            return super().step(index)

    assert learned(Slow(0.001), 3.0)[0].steps == 3


def learned(learner, budget=100, picture=PICTURE, opinion=()):
    loop = Anytime(
        learner, [picture], Budget.of(budget), time.perf_counter(), opinion=list(opinion)
    )
    return loop.run("test"), learner.model.weight.item()


def critic():
    picture, config = PICTURE.tile(3, 3), ONSRConfig()
    pool = pool_for(picture, 2, LEAVES, config, 0)
    network = build("vdsr", scale=2, layers=2, features=2)
    return ONSR(network, picture, pool, DeepLinear(2), config).critics["lr critic"].network


def meddled(draw):
    """The same, where another thread draws a number just before."""

    def drawn(*given, **named):
        torch.rand(1)
        return draw(*given, **named)

    return drawn


@pytest.mark.parametrize("begun", [ZSSR, lambda: LRFiner(2, layers=3, features=8), critic])
def test_other_threads_that_draw_change_no_first_weights(begun, monkeypatch):
    wanted = begun().state_dict()
    for name in ("kaiming_uniform_", "kaiming_normal_"):
        monkeypatch.setattr(torch.nn.init, name, meddled(getattr(torch.nn.init, name)))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    torch.testing.assert_close(begun().state_dict(), wanted, rtol=0, atol=0)
    assert not torch.equal(torch.get_rng_state(), before)  # what another one drew is not repeated


def test_the_best_weights_are_kept():
    # Right after 42 steps; of those that are looked at, 40 is nearest.
    report, weight = learned(Brightness(0.012), budget=60)
    assert weight == pytest.approx(1.5 - 40 * 0.012, abs=1e-3)
    assert report.steps == 60 and not report.rolled_back and "kept step 40" in report.reason
    assert report.consistency_after > report.consistency_before + 10


@pytest.mark.parametrize("rate", [-1.0, -1e30, float("nan")])
def test_a_diverging_run_is_rolled_back_and_said(rate):
    report, weight = learned(Brightness(rate))
    assert weight == 1.5 and report.rolled_back and report.steps < 100
    assert report.reason.startswith("diverged: ")
    assert report.consistency_after == report.consistency_before


def test_what_only_gets_worse_is_rolled_back():
    report, weight = learned(Brightness(-1e-4))
    assert weight == 1.5 and report.rolled_back and "as it was" in report.reason


@pytest.mark.parametrize(
    "opinion, kept", [(1.5, False), (1.4, False), (1.0, True), (0.7, True), (1.02, True)]
)
def test_what_goes_away_from_a_second_opinion_is_rolled_back(opinion, kept):
    report, weight = learned(Brightness(0.0125), 40, opinion=[opinion * PICTURE])
    assert report.rolled_back != kept and (weight == 1.5) != kept
    assert ("blur is doubted, the model is as it was" in report.reason) != kept


def test_interrupted_it_returns_the_best_so_far():
    report, weight = learned(Brightness(0.01, interrupt=33))
    assert weight == pytest.approx(1.5 - 20 * 0.01) and report.reason.startswith("interrupted")


class DriftingBlur(Brightness):
    """The same, whose blur moves with every step, from one tap to the one next to it."""

    def __init__(self, rate: float):
        super().__init__(rate)
        self.steps = 0

    def step(self, index):
        self.steps += 1
        return super().step(index)

    def degradation(self):
        return GivenBlur(1, self.blur_after(self.steps))

    def blur_after(self, steps):
        kernel = torch.zeros(3, 3)
        kernel[1, 1], kernel[1, 2] = 1 - steps / 100, steps / 100
        return kernel


def score(learner, steps, brightness):
    """Of a restoration of that brightness, under the blur after so many steps."""
    blur = GivenBlur(1, learner.blur_after(steps))
    return pytest.approx(Judge([PICTURE]).score([PICTURE * brightness], blur))


@pytest.mark.parametrize("budget", [20, 60])
def test_weights_come_with_the_blur_of_their_own_step(budget):
    # Right after 21 steps: of those that are looked at, 20 is nearest, the last one or not.
    learner = DriftingBlur(0.024)
    report, weight = learned(learner, budget)
    assert "kept step 20" in report.reason and weight == pytest.approx(1.5 - 20 * 0.024)
    torch.testing.assert_close(report.kernel, learner.blur_after(20))
    assert report.consistency_before == score(learner, 20, 1.5)
    assert report.consistency_after == score(learner, 20, weight)


@pytest.mark.parametrize("rate", [-1e-4, -1.0])
def test_rolled_back_it_has_the_blur_that_it_began_with(rate):
    learner = DriftingBlur(rate)
    report, weight = learned(learner)
    assert report.rolled_back and report.steps >= 20 and weight == 1.5
    torch.testing.assert_close(report.kernel, learner.blur_after(0))
    assert report.consistency_before == report.consistency_after == score(learner, 0, 1.5)


class ToldBlur(DriftingBlur):
    """The same, which is told the blur: the further that has moved, the darker the picture."""

    follows_blur = True

    def restore(self, lr):
        return self.restore_under(lr, self.degradation())

    def restore_under(self, lr, degradation):
        return lr * (self.model.weight.view(()) - degradation.kernel()[1, 2])


@pytest.mark.parametrize("budget", [20, 60])
def test_what_is_told_the_blur_is_measured_against_itself_told_the_same(budget):
    learner = ToldBlur(0.015)  # right after 20 steps, of which the blur is 0.2
    report, weight = learned(learner, budget)
    assert weight == pytest.approx(1.2) and not report.rolled_back
    torch.testing.assert_close(report.kernel, learner.blur_after(20))
    assert report.consistency_before == score(learner, 20, 1.5 - 0.2)
    assert report.consistency_after == score(learner, 20, weight - 0.2)


def test_what_only_the_blur_made_better_is_rolled_back():
    learner = ToldBlur(-0.005)
    report, weight = learned(learner, 20)
    (look,) = report.history
    assert look.consistency > look.unadapted  # of a start that was told another blur
    assert report.rolled_back and weight == 1.5
    torch.testing.assert_close(report.kernel, learner.blur_after(0))


def test_pictures_are_judged_as_they_are_given_clipped():
    """Too bright a picture of black and white is right once it is clipped."""
    report, weight = learned(Brightness(0.01), 20, picture=PICTURE.gt(0.3).float())
    assert report.rolled_back and weight == 1.5 and report.consistency_before > 58


def test_clipping_hides_no_infinity():
    class Unseen(Brightness):
        def step(self, index):
            super().step(index)
            return torch.zeros(())

    report, weight = learned(Unseen(-float("inf")), picture=torch.ones(1, 3, 12, 12))
    assert report.reason.startswith("diverged: consistency") and weight == 1.5


def test_a_budget_in_seconds_stops_early_with_the_best_so_far():
    report, weight = learned(Brightness(1e-7), budget=0.3)
    assert report.steps > 0 and weight < 1.5 and "budget spent" in report.reason


def test_a_report_survives_json():
    report, _ = learned(Brightness(0.012))
    again = Report.from_json(report.as_json())
    assert torch.equal(again.kernel, report.kernel)
    assert (again.line(), again.history) == (report.line(), report.history)


def test_patches_are_parts_of_their_pictures_in_all_orientations():
    image = torch.arange(3 * 4 * 5, dtype=torch.float32).view(3, 4, 5)
    parts = {
        tuple(turned.flatten().tolist())
        for y in range(2)
        for x in range(3)
        for quarter in range(4)
        for turned in (image[:, y : y + 3, x : x + 3].rot90(quarter, (1, 2)),)
        for turned in (turned, turned.flip(2))
    }
    drawn = Patches([image], CPU).draw(600, 3, torch.Generator().manual_seed(0))
    assert {tuple(patch.flatten().tolist()) for patch in drawn} == parts


def test_of_a_blurred_picture_no_patch_is_turned():
    image = torch.arange(3 * 4 * 4, dtype=torch.float32).view(3, 4, 4)
    drawn = Patches([image], CPU, turned=False).draw(99, 2, torch.Generator().manual_seed(0))
    parts = {
        tuple(image[:, y : y + 2, x : x + 2].flatten().tolist()) for y in range(3) for x in range(3)
    }
    assert {tuple(patch.flatten().tolist()) for patch in drawn} == parts


def test_all_pictures_give_patches_of_their_own_planes():
    images = [torch.full((3, n, 20 - n), 10 * n, dtype=torch.uint8) for n in (8, 9, 10)]
    images = [image + torch.arange(3, dtype=torch.uint8)[:, None, None] for image in images]
    drawn = Patches(images, CPU).draw(64, 5, torch.Generator().manual_seed(0)) * 255
    assert {tuple(p.mean((1, 2)).round().tolist()) for p in drawn} == {
        (10.0 * n, 10.0 * n + 1, 10.0 * n + 2) for n in (8, 9, 10)
    }


def test_dead_leaves_are_the_same_for_a_seed_and_have_the_spectrum_of_pictures():
    leaves = dead_leaves(3)
    dead_leaves.cache_clear()
    assert all(torch.equal(a, b) for a, b in zip(leaves, dead_leaves(3), strict=True))
    grey = torch.stack(leaves).float().mean(1)
    power = torch.fft.fft2(grey - grey.mean((1, 2), keepdim=True)).abs().square().mean(0)
    frequency = torch.fft.fftfreq(len(power))
    radius = (frequency[:, None] ** 2 + frequency**2).sqrt()
    coarse, fine = (power[(radius > r) & (radius < 1.25 * r)].mean() for r in (0.02, 0.2))
    # Natural pictures fall with the second power of frequency, give or take a half.
    assert 1.4 < float(torch.log10(coarse / fine)) < 2.8


def test_a_folder_of_which_not_all_can_be_used(tmp_path):
    rng = np.random.default_rng(0)
    for name, side in (("good", 40), ("tiny", 8)):
        pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match=r"skipped 2 files .*broken\.png, tiny\.png"):
        pool = open_pool(tmp_path, 32, 0, CPU)
    assert pool.draw(2, 32, torch.Generator()).shape == (2, 3, 32, 32)
    with pytest.raises(ValueError, match="at least 64x64 pixels, found none"):
        open_pool(tmp_path, 64, 0, CPU)
    with pytest.raises(ValueError, match="no such folder"):
        open_pool(tmp_path / "none", 32, 0, CPU)


@pytest.fixture
def greys(tmp_path):
    """A folder of 8 pictures of one grey each, 40x40 pixels."""
    for i in range(8):
        Image.new("RGB", (40, 40), (16 * i,) * 3).save(tmp_path / f"{i}.png")
    return tmp_path


def shown(pool):
    """The levels of grey that a pool's patches have."""
    return set((pool.draw(200, 32, torch.Generator()) * 255).round().flatten().tolist())


def test_of_a_large_folder_some_pictures_are_read_which_a_seed_draws(greys, monkeypatch):
    monkeypatch.setattr("pysr.adapt.pool.MOST_READ", 3 * 40 * 40)
    drawn = [shown(open_pool(greys, 32, seed, CPU)) for seed in range(6)]
    assert {len(levels) for levels in drawn} == {3}
    assert set.union(*drawn) == {16.0 * i for i in range(8)}
    assert shown(open_pool(greys, 32, 0, CPU)) == drawn[0]


def test_reading_a_folder_ends_with_its_seconds_and_goes_on_the_next_time(greys):
    levels = [len(shown(open_pool(greys, 32, 1, CPU, seconds=0))) for _ in range(3)]
    assert levels[0] == 1 and len(shown(open_pool(greys, 32, 1, CPU))) == 8
    Image.new("RGB", (40, 40), (250,) * 3).save(greys / "new.png")
    assert len(shown(open_pool(greys, 32, 1, CPU))) == 9


def test_a_folder_may_have_any_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("leaves", "none"):
        with pytest.raises(ValueError, match=f"{name}: no such folder"):
            open_pool(name, 32, 0, CPU)
    (tmp_path / "leaves").mkdir()
    Image.new("RGB", (40, 40), (255, 0, 0)).save(tmp_path / "leaves" / "red.png")
    patches = open_pool("leaves", 32, 0, CPU).draw(2, 32, torch.Generator())
    assert patches[:, 0].eq(1).all() and patches[:, 1:].eq(0).all()


def test_the_drawn_pool_needs_no_files():
    assert open_pool(LEAVES, 32, 0, CPU).draw(3, 64, torch.Generator()).shape == (3, 3, 64, 64)


def test_leaves_are_drawn_as_large_as_they_are_needed():
    drawn = open_pool(LEAVES, 296, 0, CPU).draw(2, 296, torch.Generator())
    assert drawn.shape == (2, 3, 296, 296)
    assert all(patch[:, -40:, -40:].std() > 0.01 for patch in drawn)  # no corner is left empty


@pytest.mark.parametrize("method", ["onsr", "dsr", "zssr"])
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (7, "a network of pysr.nets, a file or a shipped name, got int"),
        (torch.nn.Conv2d(3, 3, 3), "a network of pysr.nets, a file or a shipped name, got Conv2d"),
        (build("vdsr", scale=2, layers=2, features=2).double(), "torch.float32, got torch.float64"),
    ],
)
def test_what_cannot_be_taught_is_one_line(method, model, message):
    with pytest.raises(TypeError, match=f"^model: expected [^\n]*{message}$"):
        pysr.adapt.taught(method, model, PICTURE, budget=1, kernel=isotropic(1.0, 9), device="cpu")
