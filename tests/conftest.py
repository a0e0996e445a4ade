"""Tests that run on every device take the fixture `device`, those of a GPU alone `cuda`.

Without a GPU the cuda ones skip; PYSR_REQUIRE_CUDA=1 makes them fail instead, so that a GPU run
cannot pass by skipping.
"""

import os

import pytest
import torch


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """An empty cache folder, which what is exported or built once serves the whole run from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """The file of an x2 model that makes a hundred small frames a second."""
    from pysr.nets import DAN, DANConfig, save_model

    torch.manual_seed(0)
    sizes = {"features": 16, "blocks": 2, "estimator_features": 16, "estimator_blocks": 2}
    config = DANConfig(scale=2, code_length=4, kernel_size=7, compact_tail=True, **sizes)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(DAN(config, basis=torch.rand(49, 4)), path)
    return path


@pytest.fixture(scope="session")
def short_clip(tmp_path_factory):
    """A drawn clip with two sound tracks."""
    from video_clips import draw_clip
    from video_jobs import FRAMES

    path = tmp_path_factory.mktemp("clip") / "in.mkv"
    return draw_clip(path, FRAMES, languages=("eng", "fra"))


@pytest.fixture(scope="session")
def upscaled(short_clip, tiny_model, tmp_path_factory):
    """What one uninterrupted job makes of the clip."""
    from video_jobs import SEGMENT

    from pysr import video

    target = tmp_path_factory.mktemp("upscaled") / "out.mkv"
    video.upscale(short_clip, target, model=tiny_model, segment=SEGMENT)
    return target


@pytest.fixture
def cuda(monkeypatch) -> torch.device:
    """The GPU; torch, which we compare with, convolves float32 as such and not as TF32."""
    if not torch.cuda.is_available():
        if os.environ.get("PYSR_REQUIRE_CUDA") == "1":
            pytest.fail("PYSR_REQUIRE_CUDA=1, but torch sees no GPU")
        pytest.skip("no GPU")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return torch.device("cuda")


@pytest.fixture(params=["cpu", "cuda"])
def device(request) -> torch.device:
    return request.getfixturevalue("cuda") if request.param == "cuda" else torch.device("cpu")
