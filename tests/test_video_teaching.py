"""The methods of learning at test time as the hook of clips."""

import copy
import shutil
from functools import partial
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from skimage import data

import pysr
from pysr import blur, pictures, video
from pysr.adapt import Adapted, Budget, ONSRConfig, Report, ZSSRConfig
from pysr.adapt.anytime import CLEAR
from pysr.adapt.chain import UPRIGHT, SelfEnsemble
from pysr.degrade import classical
from pysr.nets import load_model
from pysr.upscaler import Upscaler
from pysr.video.adapting import name
from pysr.video.teaching import ShotTeacher


def few_steps(monkeypatch, count):
    """A budget in steps: seconds may be over before the first."""
    monkeypatch.setattr("pysr.video.teaching.Budget", lambda seconds: Budget(steps=count))


def sequence(folder, picture):
    """Three frames of it, and room for what is made of them."""
    for i in range(3):
        pictures.write(folder / f"{i:05d}.png", pictures.Picture(picture))
    (folder / "out").mkdir()


def frames_of(frames):
    """What a shot gives of them."""
    return lambda stop=None, step=1: islice(frames, 0, stop, step)


@pytest.fixture
def shot():
    """What `pysr.video` gives for a shot: ten frames of a blurred picture, and the model."""
    picture = torch.from_numpy(data.astronaut()[:160, 100:260].copy()).permute(2, 0, 1) / 255
    kernel = blur.isotropic(1.4, 21)
    frame = classical(picture[None], kernel, 2)[0]
    return SimpleNamespace(
        model=load_model("dan-lite-x2"),
        kernel=kernel,
        before=None,
        budget=1.0,
        device=torch.device("cpu"),
        frames=frames_of([frame] * 10),
    )


def test_shots_are_taught_in_turn_within_their_budget(shot):
    teacher, base = ShotTeacher(config=ONSRConfig(patch=16, batch=1)), copy.deepcopy(shot.model)
    taught = [teacher(shot) for _ in range(2)]
    assert teacher.reports == [adapted.report for adapted in taught]
    for report in teacher.reports:
        assert report.consistency_after >= report.consistency_before
    assert same(shot.model, base)
    # Nothing but the Restorer learns: the blur is followed by the Estimator as it was.
    for adapted in taught:
        assert same(adapted.upscaler.model.Estimator, base.Estimator)


@pytest.mark.parametrize("method", ["dsr", "zssr"])
def test_a_shot_is_learned_from_the_frame_that_shows_most(shot, method, monkeypatch):
    """It may begin in black, of which nothing can be learned and everything agrees."""
    few_steps(monkeypatch, 1)
    frame = next(shot.frames())
    shot.frames = frames_of([torch.zeros_like(frame)] * 30 + [frame] * 10)
    report = ShotTeacher(method)(shot).report
    assert report.method == method and report.consistency_before < CLEAR - 1


@pytest.mark.parametrize("method", ["dsr", "zssr"])
def test_frames_are_restored_by_what_the_shot_was_taught(tiny_model, tmp_path, method, monkeypatch):
    """In one orientation each, or a clip would take eight times as long."""
    few_steps(monkeypatch, 40)
    picture = data.astronaut()[60:124, 180:244]
    sequence(tmp_path, picture)
    kernel = blur.isotropic(1.2, 7)
    given = []

    def adapt(shot):
        given.append(ShotTeacher(method)(shot))
        return given[0]

    out = tmp_path / "out" / "%05d.png"
    video.upscale(tmp_path / "%05d.png", out, model=tiny_model, kernel=kernel.numpy(), adapt=adapt)
    assert not given[0].report.rolled_back, given[0].report.reason
    upscaler = given[0].upscaler
    parts = upscaler.model.modules()
    (ensemble,) = (module for module in parts if isinstance(module, SelfEnsemble))
    assert ensemble.orientations == UPRIGHT
    wanted = upscaler(picture).image
    for path in pictures.listing(tmp_path / "out"):  # what was learned is kept in half precision
        assert abs(pictures.read(path).pixels.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("method", ["onsr", "dsr", "zssr"])
def test_a_shot_that_takes_its_budget_to_read_is_not_learned(shot, method):
    shot.budget = 1e-6
    report = ShotTeacher(method)(shot).report
    assert report.steps == 0 and "no time was left to learn" in report.reason


@pytest.mark.parametrize("method", ["onsr", "zssr"])
def test_the_noise_of_a_shot_is_found_or_told(shot, method, monkeypatch):
    few_steps(monkeypatch, 1)
    frame = next(shot.frames())
    grain = torch.randn(frame.shape, generator=torch.Generator().manual_seed(0))
    shot.frames = frames_of([(frame + 0.05 * grain).clamp(0, 1)])
    for told, wanted in ((None, 0.05), (0.0, 0.0), (0.02, 0.02)):
        report = ShotTeacher(method, noise=told)(shot).report
        assert report.noise == pytest.approx(wanted, rel=0.1)


def test_a_kernel_that_is_told_is_learned_by_as_it_is(tiny_model, tmp_path, monkeypatch):
    """Not by what the model's code holds of it."""
    few_steps(monkeypatch, 1)
    sequence(tmp_path, data.astronaut()[60:124, 180:244])
    kernel, teacher = blur.random_motion(1, 15, generator=0)[0], ShotTeacher("zssr")
    out = tmp_path / "out" / "%05d.png"
    frames, told = tmp_path / "%05d.png", kernel.numpy()
    video.upscale(frames, out, model=tiny_model, kernel=told, adapt=teacher)
    torch.testing.assert_close(teacher.reports[0].kernel, kernel)


def test_what_the_frames_cannot_be_restored_by_is_refused_and_not_kept(
    tiny_model, tmp_path, monkeypatch
):
    few_steps(monkeypatch, 1)
    sequence(tmp_path, data.astronaut()[60:124, 180:244])
    settings = {"model": tiny_model, "device": "cpu", "kernel": blur.isotropic(1.2, 7).numpy()}

    def from_another(shot):
        frame = next(shot.frames())[None]
        return pysr.adapt.onsr("rrdb-lite-x2", frame, budget=1, kernel=shot.kernel, device="cpu")

    def larger(shot):
        return pysr.adapt.zssr(next(shot.frames())[None], 3, budget=1, device="cpu")

    for hook, engine, message in (
        (from_another, "auto", "adapt: expected what was taught from the shot's model"),
        (larger, "auto", "adapt: expected what upscales by 2, as the model does, got 3"),
        (ShotTeacher("zssr"), "native", "engine native: for DANs alone"),
    ):
        for _ in range(2):  # the second time it is not read from the journal
            with pytest.raises(ValueError, match=message):
                video.upscale(
                    tmp_path / "%05d.png",
                    tmp_path / "out" / "%05d.png",
                    **settings,
                    adapt=hook,
                    engine=engine,
                )
        shutil.rmtree(next(tmp_path.glob(".*.pysr"), None) or next(tmp_path.glob("*/.*.pysr")))


def test_what_no_shot_can_be_taught_by_is_refused_before_the_job():
    with pytest.raises(TypeError, match="config: expected DSRConfig for dsr, got ZSSRConfig"):
        ShotTeacher("dsr", config=ZSSRConfig())
    with pytest.raises(ValueError, match="noise: expected a deviation from 0 to below 1, got 15"):
        ShotTeacher("onsr", noise=15)


@pytest.mark.parametrize(
    "mode", [torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_shots_are_taught_in_any_mode_of_torch(tmp_path, mode, monkeypatch):
    few_steps(monkeypatch, 2)
    sequence(tmp_path, data.astronaut()[:48, 100:160])
    teacher = ShotTeacher(config=ONSRConfig(patch=16, batch=1))
    with mode():
        video.upscale(
            tmp_path / "%05d.png",
            tmp_path / "out" / "%05d.png",
            model="dan-lite-x2",
            device="cpu",
            adapt=teacher,
        )
    assert [report.steps for report in teacher.reports] == [2]
    assert len(pictures.listing(tmp_path / "out")) == 3


def test_a_shot_begins_where_the_one_before_ended_and_a_clip_anew(shot, tmp_path, monkeypatch):
    # No learning at all: what a shot has in the end is what it was given, and that is better.
    few_steps(monkeypatch, 1)
    teacher = ShotTeacher(config=ONSRConfig(patch=16, batch=1, learning_rate=0.0))
    better = copy.deepcopy(shot.model)
    shot.model.Restorer.head.bias.data += 0.1
    report = Report("onsr", 1, 0.0, shot.kernel, 0.0, 0.0, False, "")
    Adapted(Upscaler(better, device="cpu"), report, shot.model).save(tmp_path / "before")
    for before, begun in ((tmp_path / "before", better), (None, shot.model)):
        shot.before = before
        kept = teacher(shot).upscaler.model.Restorer.head.bias
        # What was learned is kept in half precision.
        assert torch.allclose(kept, begun.Restorer.head.bias, atol=1e-3, rtol=0)


def same(network, other):
    pairs = zip(network.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


def test_a_journal_knows_a_method_that_has_no_name():
    """By what it is made of, and not by where that lies in memory: a job goes on elsewhere."""

    def method(shot, strength):
        pass

    names = [name(partial(method, strength=strength)) for strength in (1, 2)]
    assert "method" in names[0] and "0x" not in names[0] and names[0] != names[1]


def test_a_journal_tells_settings_apart():
    names = {
        name(teacher)
        for teacher in (
            ShotTeacher(),
            ShotTeacher(seed=1),
            ShotTeacher(config=ONSRConfig(batch=1)),
            ShotTeacher("dsr"),
            ShotTeacher("zssr"),
        )
    }
    assert len(names) == 5 and name(ShotTeacher()) in names
