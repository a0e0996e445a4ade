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
