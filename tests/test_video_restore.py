"""Copies between host and device; what FrameRestorer does is in tests/test_video_job.py."""

import torch

from pysr.video.restore import Copier


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
