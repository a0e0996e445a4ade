"""Copies between host and device; what FrameRestorer does is in tests/test_video_job.py."""

from types import SimpleNamespace

import pytest
import torch

from pysr.upscaler import Estimate
from pysr.video.restore import Copier, FrameError, FrameRestorer


def test_a_host_without_memory_gets_smaller_tiles():
    """The allocation really fails: its words are torch's own."""
    tiles, estimate = [], Estimate(torch.ones(1, 1), torch.zeros(4), 1.0)

    def restored(image, estimate, tile):
        tiles.append(tile)
        torch.empty(1 << 46)

    restorer = FrameRestorer(SimpleNamespace(width=320, height=320), 256)
    with pytest.raises(FrameError, match="frame 3 failed twice: .*allocate"):
        restorer(SimpleNamespace(restored=restored), 3, torch.zeros(1, 3, 8, 8), estimate)
    assert tiles == [256, 128, 64, 64]


def test_what_goes_to_the_device_and_back_is_what_was_sent(device):
    up, down = Copier(device), Copier(device)
    planes = tuple(torch.randint(0, 255, size, dtype=torch.uint8) for size in ((90, 160), (45, 80)))
    arrived = up.arrived(up.upload(planes))
    assert all(plane.device.type == device.type for plane in arrived)
    made = down.made(tuple(plane * 2 for plane in arrived))
    back = down.download(made, lambda *planes: tuple(plane + 1 for plane in planes))
    for sent, returned in zip(planes, back, strict=True):
        assert returned.device.type == "cpu"
        torch.testing.assert_close(returned, sent * 2 + 1, rtol=0, atol=0)
