"""Frames: exactly those asked for, whole, from wherever decoding can start."""

from fractions import Fraction as F

import av
import pytest
import torch
from video_clips import REAL, draw_clip, number, uneven

from pysr.video.clip import VideoError
from pysr.video.colour import to_rgb
from pysr.video.planes import layout
from pysr.video.reader import probe, read

# Ways of encoding that make starting in the middle hard.
CODINGS = {
    "b-frames": {"options": {"g": "8", "bf": "3"}, "pts": uneven(40), "frames": 40},
    "open groups": {
        "codec": "libx265",
        "options": {"x265-params": "log-level=none:keyint=8:min-keyint=4:bframes=3:scenecut=0"},
        "frames": 40,
    },
    "rolling refresh": {"options": {"x264-params": "intra-refresh=1:keyint=8"}, "frames": 40},
}


def _all_alike(clip, spans):
    straight = list(read(clip))
    assert [frame.index for frame in straight] == list(range(len(clip)))
    for first, stop in spans:
        part = list(read(clip, first, stop))
        assert [frame.pts for frame in part] == list(clip.pts[first:stop])
        for frame, whole in zip(part, straight[first:stop], strict=True):
            assert frame.duration == whole.duration
            assert all(map(torch.equal, frame.planes, whole.planes))
    return straight


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_any_part_equals_a_straight_decode(tmp_path, coding, suffix):
    clip = probe(draw_clip(tmp_path / f"a{suffix}", **CODINGS[coding]))
    frames = _all_alike(clip, [(0, 1), (7, 9), (8, 8), (13, 25), (16, 17), (39, 40)])
    drawn = [number(to_rgb(f.planes, clip.colour, clip.depth)) for f in frames]
    assert drawn == list(range(40))


@pytest.mark.parametrize(
    "coding",
    [{"codec": "mpeg4", "options": {"bf": "2", "g": "8"}}, {"options": {"bf": "0", "g": "8"}}],
    ids=["mpeg4 with B-frames", "h264 without"],
)
def test_any_part_of_an_avi_equals_a_straight_decode(tmp_path, coding):
    clip = probe(draw_clip(tmp_path / "a.avi", 40, time_base=F(1, 25), **coding))
    frames = _all_alike(clip, [(0, 1), (7, 9), (13, 25), (39, 40)])
    drawn = [number(to_rgb(f.planes, clip.colour, clip.depth)) for f in frames]
    assert drawn == list(range(40))


def _all_keys(path):
    """Of a codec whose decoder says nothing of a picture that others before it are missing for."""
    source = draw_clip(path.with_name("source.avi"), 40, codec="msmpeg4", options={"g": "40"})
    with av.open(source) as clip, av.open(path, "w") as container:
        stream = container.add_stream_from_template(clip.streams.video[0])
        for packet in clip.demux(video=0):
            if packet.size:
                packet.stream, packet.is_keyframe = stream, True
                container.mux(packet)


def _late_seeks(path):
    """Whose demuxer finds no frame by its time but only what comes after it."""
    draw_clip(path, 40, codec="mpeg1video", options={"g": "20", "bf": "0"}, time_base=F(1, 25))


@pytest.mark.parametrize("name, make", [("a.avi", _all_keys), ("a.mpg", _late_seeks)])
def test_a_part_does_not_begin_at_what_is_no_key_frame(tmp_path, name, make):
    make(tmp_path / name)
    _all_alike(probe(tmp_path / name), [(9, 12), (21, 23), (30, 32), (39, 40)])


@pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/data/video")
@pytest.mark.parametrize(
    "name, stream, first",
    [
        ("nasa_13013.mp4", 0, 255),
        ("nasa_13013.mp4", 3, 230),
        ("car-detection.mp4", None, 110),
        ("h265_10bits.mp4", None, 11),
        ("carphone_pristine.mp4", None, 77),
    ],
)
def test_any_part_of_a_real_clip_equals_a_straight_decode(name, stream, first):
    clip = probe(REAL / name, stream)
    _all_alike(clip, [(first, first + 12), (len(clip) - 2, len(clip))])


@pytest.mark.parametrize("pixel_format", ["nv12", "yuv422p", "yuv444p10le", "bgr0", "gray"])
def test_packed_and_other_formats_hold_the_same_samples(tmp_path, pixel_format):
    codec = {"nv12": "libx264", "gray": "ffv1", "bgr0": "ffv1"}.get(pixel_format, "libx264")
    options = {"g": "1"} if codec == "ffv1" else {"qp": "0"}
    path = draw_clip(tmp_path / "a.mkv", 9, codec=codec, pixel_format=pixel_format, options=options)
    clip = probe(path)
    for frame in read(clip):
        assert frame.planes[0].shape == (48, 64)
        assert frame.planes[0].dtype == (torch.uint8 if clip.depth == 8 else torch.uint16)
        assert number(to_rgb(frame.planes, clip.colour, clip.depth)) == frame.index


def test_damage_is_named_by_its_frame(tmp_path):
    path = draw_clip(tmp_path / "a.mp4", 40, options={"g": "40", "bf": "0"}, size=(96, 128))
    clip = probe(path)
    data = bytearray(path.read_bytes())
    at = len(data) // 2
    data[at : at + 400] = bytes(400)
    path.write_bytes(data)
    whole = []
    with pytest.raises(VideoError, match=r"a\.mp4: frame \d+ (is|cannot)") as caught:
        for frame in read(clip):
            whole.append(frame.index)
    assert f"frame {len(whole)} " in str(caught.value) and 0 < len(whole) < 40


def test_frames_cut_off_after_the_probe_are_missed(tmp_path):
    path = draw_clip(tmp_path / "a.mkv")
    clip = probe(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError, match=r"frame \d+ (is missing|is damaged|cannot)"):
        list(read(clip))


@pytest.mark.parametrize("name", ["list.m3u8", "list.ffconcat"])
def test_lists_of_files_are_refused(tmp_path, name):
    """They stay the same when the files change, which resuming would not notice."""
    draw_clip(tmp_path / "a.ts", 8)
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.32,\na.ts\n#EXT-X-ENDLIST\n"
    concat = "ffconcat version 1.0\nfile a.ts\n"
    (tmp_path / name).write_text(hls if name.endswith("m3u8") else concat)
    with pytest.raises(VideoError, match=f"{name}: expected a clip, got a list of other files"):
        probe(tmp_path / name)


def test_spans_outside_the_clip_are_refused(tmp_path):
    clip = probe(draw_clip(tmp_path / "a.mp4", 4))
    for span in ((0, 5), (-1, 2), (3, 2)):
        with pytest.raises(VideoError, match="the clip has frames 0 to 4"):
            next(read(clip, *span))


@pytest.mark.parametrize("pixel_format", ["xyz12le", "gray32le", "grayf32le", "bayer_rggb8"])
def test_samples_that_mean_something_else_are_refused(pixel_format):
    with pytest.raises(VideoError, match=f"pixel format {pixel_format}: expected YUV"):
        layout(pixel_format)
