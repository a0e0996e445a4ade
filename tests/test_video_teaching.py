"""ONSR as the hook of clips: each shot is learned from where the one before ended."""

import copy
from types import SimpleNamespace

import pytest
import torch
from skimage import data

from pysr import blur
from pysr.adapt import ONSRConfig
from pysr.degrade import classical
from pysr.nets import load_model
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


def test_a_shot_begins_where_the_one_before_ended(shot, monkeypatch):
    # No learning at all: what the second shot has is what it was given.
    teacher = ShotTeacher(config=ONSRConfig(patch=16, batch=1, learning_rate=0.0))
    teacher(shot)
    better = copy.deepcopy(shot.model.state_dict())
    better["Restorer.head.bias"] += 1e-4
    teacher._before = better
    base = load_model("dan-lite-x2").state_dict()
    shot.model.load_state_dict(base)
    teacher(shot)
    kept = shot.model.state_dict()["Restorer.head.bias"]
    wanted = base if teacher.reports[-1].rolled_back else better
    assert torch.equal(kept, wanted["Restorer.head.bias"])


def test_a_journal_tells_settings_apart():
    names = {
        name(teacher)
        for teacher in (ShotTeacher(), ShotTeacher(seed=1), ShotTeacher(config=ONSRConfig(batch=1)))
    }
    assert len(names) == 3 and name(ShotTeacher()) in names
