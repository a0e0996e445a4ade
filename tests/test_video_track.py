import json
from dataclasses import replace

import pytest
import torch
from skimage import data as photographs

import pysr
from pysr import blur
from pysr.degrade import classical
from pysr.video.track import CONTENT, Anchor, LiveTrack, Shot, distance, smoothed, track

NOISE = 0.01  # deviation of a code's entries from frame to frame, as measured on photographs


@pytest.fixture(scope="module")
def upscaler():
    return pysr.load("dan-lite-x2", device="cpu")


@pytest.fixture(scope="module")
def model(upscaler):
    return upscaler.model


def anchors(model, widths, noise=NOISE, every=8) -> list[Anchor]:
    codes = model.encode(blur.isotropic(torch.tensor(widths)))
    codes = codes + noise * torch.randn(codes.shape, generator=torch.Generator().manual_seed(1))
    return [Anchor(every * i, tuple(code), 1.0) for i, code in enumerate(codes.tolist())]


@pytest.mark.parametrize("count", [1, 2, 3, 12])
@pytest.mark.parametrize("noise", [0.0, NOISE, 5 * NOISE])
def test_a_steady_blur_gives_a_steady_kernel(model, count, noise):
    codes, still = smoothed(model, anchors(model, [1.2] * count, noise))
    assert still and (codes == codes[0]).all()
    truth = model.encode(blur.isotropic(torch.tensor([1.2])))
    assert float((codes[0] - truth).square().mean().sqrt()) <= 1.6 * noise / count**0.5 + 1e-6


@pytest.mark.parametrize("count", [4, 12])
def test_a_drift_is_followed(model, count):
    widths = torch.linspace(0.9, 1.5, count).tolist()
    seen = anchors(model, widths)
    codes, still = smoothed(model, seen)
    truth = model.encode(blur.isotropic(torch.tensor(widths)))
    assert not still
    assert float(distance(model, codes, truth).max()) < 0.05
    mean = codes.mean(0, keepdim=True).expand_as(codes)
    assert float(distance(model, mean, truth).max()) > 0.15  # what holding it would have cost


def test_a_walk_within_the_error_of_content_is_not_followed(model):
    widths = torch.linspace(1.18, 1.22, 12).tolist()
    codes, still = smoothed(model, anchors(model, widths, noise=1e-4))
    assert still
    far = model.encode(blur.isotropic(torch.tensor([1.18])))
    assert float(distance(model, codes[:1], far)) < CONTENT


def test_a_frame_without_detail_says_little(model):
    seen = anchors(model, [1.2] * 5)
    before, _ = smoothed(model, seen)
    seen[2] = Anchor(16, tuple(entry + 1 for entry in seen[2].code), 1e-6)
    after, still = smoothed(model, seen)
    assert still and float(distance(model, before, after).max()) < 0.01


def test_the_live_track_holds_a_steady_kernel_and_follows_a_drift(model):
    def path(seen):
        live, codes = LiveTrack(model, 0), []
        for before, anchor in zip([None, *seen], seen, strict=False):
            live.add(anchor)
            if before is not None:
                shot = live.shot(anchor.index + 1)
                codes += [shot.code(i)[0] for i in range(before.index, anchor.index)]
        return torch.stack(codes)

    steady = path(anchors(model, [1.2] * 20))
    assert (steady == steady[0]).all()
    widths = [0.9] * 6 + torch.linspace(0.9, 1.5, 12).tolist() + [1.5] * 12
    followed = path(anchors(model, widths))
    ends = model.encode(blur.isotropic(torch.tensor([0.9, 1.5])))
    assert float(distance(model, followed[[0, -1]], ends).max()) < CONTENT
    steps = distance(model, followed[1:], followed[:-1])
    assert float(steps.max()) < 0.02  # no jump anywhere


def test_anchors_grow_rare_while_the_blur_stands_still_and_return_when_it_moves(model):
    widths = [1.0] * 97 + torch.linspace(1.0, 1.6, 30).tolist()
    live, due = LiveTrack(model, 0), []
    for seen in anchors(model, widths, every=1):
        if seen.index == live.due:
            due.append(seen.index)
            live.add(seen)
    assert due[:9] == [0, 2, 4, 8, 16, 32, 48, 64, 80]
    assert set(torch.tensor(due).diff()[-5:].tolist()) == {2}


def test_between_anchors_the_code_is_linear():
    shot = Shot(10, 31, (10, 14, 30), torch.tensor([[0.0], [1.0], [5.0]]), 0.1)
    assert [float(shot.code(i)) for i in (10, 11, 14, 18, 30)] == [0, 0.25, 1, 2, 5]
    assert Shot.from_json(json.loads(json.dumps(shot.to_json()))).to_json() == shot.to_json()


@pytest.fixture(scope="module")
def clip():
    """Two shots of 12 and 5 frames, softer first and sharper then."""
    frames = []
    for name, count, width in (("astronaut", 12, 1.5), ("coffee", 5, 0.7)):
        picture = torch.from_numpy(getattr(photographs, name)()).permute(2, 0, 1)[None] / 255
        for t in range(count):
            hr = picture[..., 60:172, 130 + t : 258 + t]
            frames.append(classical(hr, blur.isotropic(width), 2)[0])
    return frames


def test_a_clip_is_tracked_shot_by_shot(upscaler, clip):
    shots = list(track(upscaler, clip))
    assert [(s.first, s.stop, s.indices) for s in shots] == [
        (0, 12, (0, 2, 4, 8, 11)),
        (12, 17, (12, 14, 16)),
    ]
    for shot, width in zip(shots, (1.5, 0.7), strict=True):
        assert (shot.codes == shot.codes[0]).all() and 0 <= shot.spread < 0.1
        kernel = shot.kernel(upscaler.model)
        assert float(blur.spread(kernel)) == pytest.approx(width, rel=0.25)
        estimate = shot.estimate(upscaler.model, shot.stop - 1)
        torch.testing.assert_close(estimate.kernel, kernel)
    again = list(track(upscaler, iter(clip[:12])))
    assert again[0].codes.equal(shots[0].codes)
    assert replace(again[0], codes=None) == replace(shots[0], codes=None)


def test_no_frames_have_no_shots(upscaler):
    assert list(track(upscaler, [])) == []
