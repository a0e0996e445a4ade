"""What lost its end, or changed since it was written, is not passed off as whole."""

from fractions import Fraction as F

import av
import pytest
from video_clips import draw_clip

from pysr.video.clip import VideoError
from pysr.video.reader import probe, read

FRAMES = 40
AVI = {"time_base": F(1, 25)}
FFV1 = {"codec": "ffv1", "options": {"g": "1", "level": "3", "slicecrc": "1"}}
MJPEG = {"codec": "mjpeg", "pixel_format": "yuvj420p"}
Y4M = {"codec": "rawvideo", "size": (47, 63), **AVI}
Y4M_10_BIT = {**Y4M, "pixel_format": "yuv420p10le", "muxer": {"strict": "-1"}}
GIF = {"codec": "gif", "pixel_format": "rgb8", **AVI}


def packets(path):
    """Where those of the video lie in a file, in this order, and how long they are."""
    with av.open(path) as container:
        return sorted((p.pos, p.size) for p in container.demux(video=0) if p.size)


@pytest.mark.parametrize(
    "name, settings, lost, message",
    [
        ("a.mkv", {}, 3, "truncated: the header states .* bytes"),
        ("a.mkv", {"languages": ("eng",)}, 1, "truncated: the header states .* bytes"),
        ("a.webm", {"codec": "libvpx-vp9"}, 3, "truncated: the header states .* bytes"),
        ("a.flv", {"options": {"bf": "0"}}, 2, "truncated"),
        ("a.wmv", {"codec": "wmv2", **AVI}, 1, "truncated: the header states .* bytes"),
        ("a.mxf", {"codec": "mpeg2video", **AVI}, 10, "truncated"),
        ("a.y4m", Y4M, 1, "truncated: the last frame is not whole"),
        ("a.y4m", Y4M_10_BIT, 3, "truncated: the last frame"),
        ("a.gif", GIF, 1, "truncated: the end that GIF has is missing"),
        ("a.gif", GIF, 20, "truncated: the end that GIF has is missing"),
        ("a.ts", {}, 1, "truncated: the last packet of MPEG-TS"),
        ("a.ts", {"languages": ("eng",)}, 1, "truncated: the last packet of MPEG-TS"),
        ("a.m2ts", {}, 1, "truncated: the last packet of MPEG-TS"),
    ],
)
def test_a_clip_without_its_last_frames_is_refused(tmp_path, name, settings, lost, message):
    path = draw_clip(tmp_path / name, FRAMES, **settings)
    assert len(probe(path)) == FRAMES
    position, _ = packets(path)[-lost]
    path.write_bytes(path.read_bytes()[: position + 5])
    with pytest.raises(VideoError, match=message) as caught:
        probe(path)
    assert "\n" not in str(caught.value)


def test_a_clip_that_ends_before_the_time_in_its_header_is_refused(tmp_path):
    path = draw_clip(tmp_path / "a.flv", FRAMES, options={"bf": "0"})
    position, _ = packets(path)[-20]
    path.write_bytes(path.read_bytes()[:position].replace(b"filesize", b"unstated"))
    with pytest.raises(VideoError, match="truncated: the header states 1.60 s"):
        probe(path)


def test_what_headers_do_not_state_is_not_missing(tmp_path):
    gif = draw_clip(tmp_path / "a.gif", FRAMES, **GIF)
    gif.write_bytes(gif.read_bytes() + b"more")  # after its end
    wmv = draw_clip(tmp_path / "a.wmv", FRAMES, codec="wmv2", **AVI)
    content = bytearray(wmv.read_bytes())
    properties = content.index(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    content[properties + 40 : properties + 48] = bytes([0xFF] * 4 + [0] * 4)  # its size
    content[properties + 88] |= 1  # which a broadcast does not know
    wmv.write_bytes(content)
    for path in (gif, wmv):
        assert len(probe(path)) == FRAMES


def damage(path, frame, at=0.5):
    """Change a few bytes in the midst of a packet of the video."""
    position, size = packets(path)[frame]
    content = bytearray(path.read_bytes())
    for index in range(round(position + size * at), round(position + size * at) + 4):
        content[index] ^= 0x55
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name, settings",
    [
        ("a.avi", {**FFV1, **AVI}),
        ("a.avi", {**FFV1, **AVI, "pixel_format": "yuv422p10le"}),
        ("a.mkv", FFV1),
        ("a.mkv", {"options": {"g": "1"}}),
        ("a.mkv", {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=1"}}),
    ],
)
def test_what_a_checksum_disagrees_with_is_damaged(tmp_path, name, settings):
    path = draw_clip(tmp_path / name, FRAMES, size=(96, 128), **settings)
    assert len(list(read(probe(path)))) == FRAMES
    damage(path, 0 if name == "a.mkv" else 20)
    time = "0.000" if name == "a.mkv" else "0.800"
    with pytest.raises(VideoError, match=rf"damaged .*at {time} s; copy the file again"):
        probe(path)


@pytest.mark.parametrize("name, settings", [("a.avi", AVI), ("a.mov", {})])
def test_damage_that_the_decoder_of_mjpeg_conceals_is_named_by_its_frame(tmp_path, name, settings):
    path = draw_clip(tmp_path / name, FRAMES, **MJPEG, **settings)
    position, size = packets(path)[20]
    content = bytearray(path.read_bytes())
    content[position + size * 3 // 4 : position + size - 2] = bytes(size - 2 - size * 3 // 4)
    path.write_bytes(content)
    with pytest.raises(VideoError, match="frame 20 cannot be decoded"):
        list(read(probe(path)))


@pytest.mark.parametrize("options", [{"g": "1", "level": "1"}, {"g": "1", "slicecrc": "0"}])
def test_ffv1_without_checksums_is_read(tmp_path, options):
    path = draw_clip(tmp_path / "a.avi", 6, codec="ffv1", options=options, **AVI)
    assert len(list(read(probe(path)))) == 6


def test_a_recording_that_was_not_finished_is_read_as_far_as_it_goes(tmp_path):
    """Matroska as a live stream has it: neither its own size nor that of its clusters is stated."""
    path = draw_clip(tmp_path / "a.mkv", FRAMES, muxer={"live": "1"})
    assert len(probe(path)) == FRAMES


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".flv", ".webm"])
def test_a_slide_show_is_whole(tmp_path, suffix):
    """Headers may count how long the last frame is shown, packets may not."""
    codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
    settings = {"codec": codec, "options": {"g": "8", "bf": "0"}}
    path = tmp_path / f"a{suffix}"
    draw_clip(path, 8, pts=[2000 * i for i in range(8)], time_base=F(1, 1000), **settings)
    assert len(probe(path)) == 8
