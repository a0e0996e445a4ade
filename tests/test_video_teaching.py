"""ONSR as the hook of clips: each shot is learned from where the one before ended."""

import copy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from skimage import data

from pysr import blur, pictures, video
from pysr.adapt import Budget, ONSRConfig
from pysr.degrade import classical
from pysr.nets import load_model, save_model
from pysr.video.adapting import name
from pysr.video.teaching import ShotTeacher


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
        frames=lambda: iter([frame] * 10),
    )


def test_shots_are_taught_in_turn_within_their_budget(shot):
    teacher, base = ShotTeacher(config=ONSRConfig(patch=16, batch=1)), copy.deepcopy(shot.model)
    teacher(shot)
    first = copy.deepcopy(shot.model.state_dict())
    shot.model.load_state_dict(base.state_dict())
    teacher(shot)
    assert len(teacher.reports) == 2
    for report in teacher.reports:
        assert report.consistency_after >= report.consistency_before
    # Nothing but the Restorer learns: the blur is followed by the Estimator as it was.
    for key, value in base.Estimator.state_dict().items():
        assert torch.equal(shot.model.Estimator.state_dict()[key], value)
    assert first.keys() == base.state_dict().keys()


@pytest.mark.parametrize(
    "mode", [torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_shots_are_taught_in_any_mode_of_torch(tmp_path, mode):
    for i in range(3):
        pictures.write(tmp_path / f"{i:05d}.png", pictures.Picture(data.astronaut()[:48, 100:160]))
    teacher = ShotTeacher(config=ONSRConfig(patch=16, batch=1))
    (tmp_path / "out").mkdir()
    with mode():
        video.upscale(
            tmp_path / "%05d.png",
            tmp_path / "out" / "%05d.png",
            model="dan-lite-x2",
            device="cpu",
            adapt=teacher,
            adapt_budget=1.0,
        )
    assert len(teacher.reports) == 1 and teacher.reports[0].steps > 0
    assert len(pictures.listing(tmp_path / "out")) == 3


def test_a_shot_begins_where_the_one_before_ended_and_a_clip_anew(shot, tmp_path, monkeypatch):
    # No learning at all: what a shot has in the end is what it was given, and that is better. In
    # steps: seconds may be over before the first.
    monkeypatch.setattr("pysr.video.teaching.Budget", lambda seconds: Budget(steps=1))
    teacher = ShotTeacher(config=ONSRConfig(patch=16, batch=1, learning_rate=0.0))
    shot.before = tmp_path / "before.safetensors"
    save_model(shot.model, shot.before)
    better = copy.deepcopy(shot.model.state_dict())
    shot.model.Restorer.head.bias.data += 0.1
    base = copy.deepcopy(shot.model.state_dict())
    for before, begun in ((shot.before, better), (None, base)):
        shot.before = before
        shot.model.load_state_dict(base)
        teacher(shot)
        kept = shot.model.state_dict()["Restorer.head.bias"]
        assert torch.equal(kept, begun["Restorer.head.bias"])


def test_a_journal_knows_a_method_that_has_no_name():
    """By what it is made of, and not by where that lies in memory: a job goes on elsewhere."""

    def method(shot, strength):
        pass

    names = [name(partial(method, strength=strength)) for strength in (1, 2)]
    assert "method" in names[0] and "0x" not in names[0] and names[0] != names[1]


def test_a_journal_tells_settings_apart():
    names = {
        name(teacher)
        for teacher in (ShotTeacher(), ShotTeacher(seed=1), ShotTeacher(config=ONSRConfig(batch=1)))
    }
    assert len(names) == 3 and name(ShotTeacher()) in names
