from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage import data as photographs

from pysr.video.shots import find_shots, with_cuts

CLIPS = Path(__file__).parents[2] / "shared/data/video"
NAMES = ("astronaut", "coffee", "chelsea", "rocket")


def shot(name: str, count: int, *, pan=0.0, zoom=0.0, gain=0.0, noise=0.0) -> list[torch.Tensor]:
    """Frames (3, 72, 96) of a photograph; pan in frame widths, zoom and gain in shares, each a
    frame."""
    picture = torch.from_numpy(getattr(photographs, name)()).permute(2, 0, 1)[None] / 255
    generator = torch.Generator().manual_seed(0)
    frames = []
    for t in range(count):
        size = 0.5 * (1 - zoom) ** t
        # In the coordinates of affine_grid a frame is 2 * size wide.
        move = [[size, 0, 2 * size * pan * (t - count / 2)], [0, size, 0]]
        grid = F.affine_grid(torch.tensor([move]), (1, 3, 72, 96), align_corners=False)
        frame = F.grid_sample(picture, grid, padding_mode="reflection", align_corners=False)[0]
        grain = noise * torch.randn(frame.shape, generator=generator)
        frames.append((frame * (0.6 + gain * t) + grain).clamp(0, 1))
    return frames


@pytest.mark.parametrize(
    "motion",
    [{}, {"pan": 0.05}, {"zoom": 0.03}, {"gain": 0.02}, {"noise": 0.05}],
    ids=lambda motion: next(iter(motion), "still"),
)
def test_cuts_are_found_and_motion_is_none(motion):
    lengths = (9, 1, 2, 14)
    frames = [f for name, n in zip(NAMES, lengths, strict=True) for f in shot(name, n, **motion)]
    assert find_shots(frames) == [0, 9, 10, 12]


@pytest.mark.parametrize("name", NAMES)
def test_fast_motion_is_no_cut(name):
    assert find_shots(shot(name, 12, pan=0.1)) == [0]
    assert find_shots(shot(name, 12, zoom=0.08)) == [0]


@pytest.mark.parametrize("name", NAMES)
def test_fades_are_no_cuts(name):
    frames = shot(name, 20)
    assert find_shots([frame * (1 - t / 20) for t, frame in enumerate(frames)]) == [0]


@pytest.mark.parametrize("flash", [lambda f: f * 0 + 1, lambda f: 1 - f, torch.zeros_like])
def test_a_flash_of_one_frame_is_no_cut(flash):
    frames = shot("coffee", 8, pan=0.02) + shot("rocket", 8, pan=0.02)
    for index in (1, 4, 10, 13):
        frames[index] = flash(frames[index])
    assert find_shots(frames) == [0, 8]


def test_one_frame_is_looked_ahead_and_no_more():
    taken = []

    def source():
        for index, frame in enumerate(shot("coffee", 3) + shot("rocket", 3)):
            taken.append(index)
            yield frame

    for index, (_, begins) in enumerate(with_cuts(source())):
        assert len(taken) == min(index + 2, 6)
        assert begins == (index in (0, 3))


def test_clips_of_no_and_one_frame():
    assert find_shots([]) == []
    assert find_shots([torch.zeros(3, 1, 1)]) == [0]


@pytest.mark.skipif(not CLIPS.exists(), reason="no shared data")
@pytest.mark.parametrize(
    ("clip", "cuts"), [("carphone_pristine.mp4", [0]), ("nasa_13013.mp4", [0, 202])]
)
def test_real_clips(clip, cuts):
    av = pytest.importorskip("av")
    with av.open(CLIPS / clip) as container:
        frames = (frame.to_ndarray(format="rgb24") for frame in container.decode(video=0))
        tensors = (torch.from_numpy(f.astype(np.float32) / 255).permute(2, 0, 1) for f in frames)
        assert find_shots(tensors) == cuts
