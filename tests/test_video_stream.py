import numpy as np
import pytest
import torch
from skimage import data as photographs

from pysr import blur
from pysr.nets import DAN, DANConfig
from pysr.upscaler import Upscaler
from pysr.video.track import FURTHEST


@pytest.fixture(scope="module")
def upscaler():
    """Nothing here depends on what was learned."""
    torch.manual_seed(0)
    config = DANConfig(
        scale=2, features=16, blocks=1, iterations=2, estimator_features=16, estimator_blocks=1
    )
    basis = blur.pca_basis(blur.random_isotropic(50, (0.3, 3), 21, 0), 10)
    return Upscaler(DAN(config, basis), device="cpu")


def frames(count: int, first: int = 0) -> list[np.ndarray]:
    picture = photographs.astronaut()
    return [picture[100:124, 150 + i : 182 + i] for i in range(first, first + count)]


CUT = frames(20) + [photographs.coffee()[100 + i : 124 + i, 50:82] for i in range(9)]


def test_as_many_frames_in_the_same_order(upscaler):
    reports = []
    results = list(upscaler.stream(iter(CUT), on_shot=reports.append))
    assert [(r.first, r.stop) for r in reports] == [(0, 20), (20, 29)]
    assert len(results) == len(CUT)
    for report in reports:
        for index in range(report.first, report.stop):
            result = results[index]
            again = upscaler(CUT[index], kernel=result.kernel)
            # The kernel stands for the code only as far as the code stands for a kernel.
            assert np.abs(result.image.astype(int) - again.image).max() <= 2
        mean = np.mean([r.kernel for r in results[report.first : report.stop]], 0)
        np.testing.assert_allclose(report.kernel, mean, atol=1e-6)
        assert 0 <= report.spread <= 1 and np.isfinite(report.consistency)


@pytest.mark.parametrize(
    "convert",
    [
        lambda f: f,
        lambda f: f[..., 0],
        lambda f: np.concatenate((f, f[..., :1]), 2),
        lambda f: f.astype(np.uint16) * 257,
        lambda f: (f / 255).astype(np.float16),
        lambda f: torch.from_numpy(f).permute(2, 0, 1)[None] / 255,
    ],
    ids=["uint8", "grey", "alpha", "uint16", "float16", "torch"],
)
def test_every_form_comes_back_as_it_came(upscaler, convert):
    given = [convert(frame) for frame in frames(3)]
    kernel = blur.isotropic(1.0)
    for frame, result in zip(given, upscaler.stream(given, kernel=kernel), strict=True):
        alone = upscaler(frame, kernel=kernel)
        assert type(result.image) is type(alone.image) is type(frame)
        assert result.image.dtype == frame.dtype
        np.testing.assert_array_equal(result.image, alone.image)
        np.testing.assert_array_equal(result.kernel, alone.kernel)


@pytest.mark.parametrize(("kernel", "most"), [(None, FURTHEST + 2), (blur.dirac(21), 2)])
def test_no_more_frames_wait_than_promised(upscaler, kernel, most):
    taken = 0

    def source():
        nonlocal taken
        for frame in frames(60):
            taken += 1
            yield frame

    for done, _ in enumerate(upscaler.stream(source(), kernel)):
        assert taken - done <= most


def test_the_caller_may_fill_the_same_array_again(upscaler):
    given = [np.concatenate((f, f[..., :1]), 2).astype(np.float32) / 255 for f in CUT[:9]]
    buffer = np.empty_like(given[0])

    def source():
        for frame in given:
            buffer[:] = frame
            yield buffer

    for result, expected in zip(upscaler.stream(source()), upscaler.stream(given), strict=True):
        np.testing.assert_array_equal(result.image, expected.image)


class Broken(Exception):
    pass


def test_a_result_may_be_written_over(upscaler):
    known = Upscaler(upscaler.model, kernel=blur.isotropic(1.0), device="cpu")
    first, second = known.stream(frames(2)), []
    for result in first:
        second.append(result.kernel.sum())
        result.kernel[:] = 0
    assert all(abs(total - 1) < 1e-5 for total in second)


def test_an_error_of_the_source_comes_after_the_frames_before_it(upscaler):
    def source():
        yield from CUT[:7]
        raise Broken("the camera is gone")

    results = upscaler.stream(source())
    whole = list(upscaler.stream(CUT[:7]))
    for frame in whole:
        np.testing.assert_array_equal(next(results).image, frame.image)
    with pytest.raises(Broken, match="the camera is gone"):
        next(results)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (CUT[0][:20], "frame 2: expected 32x24 pixels as the frames before, got 32x20"),
        (CUT[0].astype(int), "frame 2: image: expected uint8, uint16 or floating point"),
        (torch.zeros(2, 3, 24, 32), "frame 2: expected one picture, got a batch of 2"),
    ],
)
def test_a_frame_that_does_not_belong_is_named(upscaler, frame, message):
    results = upscaler.stream([*CUT[:2], frame])
    assert [next(results).image.shape for _ in range(2)] == [(48, 64, 3)] * 2
    with pytest.raises((ValueError, TypeError), match=message):
        next(results)


def test_what_cannot_be_used_is_refused_at_once(upscaler):
    with pytest.raises(ValueError, match="kernel"):
        upscaler.stream([], kernel=np.ones((3, 4)))
    with pytest.raises(ValueError, match="tile: expected at least 32"):
        upscaler.stream([], tile=8)
    assert list(upscaler.stream([])) == []
