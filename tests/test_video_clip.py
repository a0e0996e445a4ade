"""Probing: what a file holds, and what is refused before any work."""

import itertools
import os
import sys
from fractions import Fraction as F

import av
import numpy as np
import pytest
from video_clips import HDR10, REAL, draw_clip, picture, tone, uneven

from pysr.video.clip import ColourTags, VideoError
from pysr.video.colour import to_rgb
from pysr.video.reader import probe, read


@pytest.mark.parametrize("name, unit", [("a.mp4", F(1, 12800)), ("a.mkv", F(1, 1000))])
def test_a_probe_finds_every_frame_and_what_travels_with_it(tmp_path, name, unit):
    times = uneven(20)
    path = draw_clip(
        tmp_path / name,
        pts=times,
        frames=20,
        languages=("eng", "fra"),
        subtitles=("deu",),
        chapters=True,
        rotation=90,
        tags={"colorspace": 1, "color_primaries": 1, "color_trc": 1, "color_range": 1},
        sample_aspect=F(4, 3),
    )
    clip = probe(path)
    exact = [time * F(1, 12800) for time in times]
    assert clip.time_base == unit
    assert all(abs(pts * unit - t) <= unit / 2 for pts, t in zip(clip.pts, exact, strict=True))
    assert clip.pts == tuple(sorted(clip.pts)) and clip.keys == (0, 8, 16)
    assert [a + d for a, d in zip(clip.pts, clip.durations, strict=True)][:-1] == [*clip.pts[1:]]
    assert (clip.width, clip.height, clip.depth, clip.pixel_format) == (64, 48, 8, "yuv420p")
    assert clip.sample_aspect == F(4, 3) and clip.rotation == 90
    assert clip.colour == ColourTags(1, 1, 1, 1, 1)
    words = " ".join(clip.others)
    assert all(part in words for part in ("audio aac, eng", "audio aac, fra", "deu", "2 chapters"))


def test_ten_bits_hdr10_and_chroma_location_are_found(tmp_path):
    path = draw_clip(
        tmp_path / "hdr.mp4",
        frames=4,
        codec="libx265",
        pixel_format="yuv420p10le",
        tags={"colorspace": 9, "color_primaries": 9, "color_trc": 16, "color_range": 1},
        options={"x265-params": HDR10, "chroma_sample_location": "topleft"},
    )
    clip = probe(path)
    assert clip.depth == 10 and clip.colour == ColourTags(9, 1, 9, 16, 3)
    assert clip.hdr.light == (1000, 400) and clip.hdr.luminance == (F(1, 10000), 1000)
    assert clip.hdr.primaries[:2] == (F(34000, 50000), F(16000, 50000))


def test_unspecified_tags_follow_the_height_of_the_clip(tmp_path):
    assert probe(draw_clip(tmp_path / "a.mp4", 2)).colour == ColourTags(6, 1, 2, 2, 1)


def test_a_recording_cut_at_an_open_key_frame_begins_with_what_can_be_decoded(tmp_path):
    params = "log-level=none:open-gop=1:keyint=10:min-keyint=10:bframes=3:scenecut=0:b-adapt=0"
    whole = draw_clip(
        tmp_path / "whole.mkv",
        40,
        codec="libx265",
        time_base=F(1, 1000),
        options={"x265-params": params},
    )
    with av.open(whole) as full, av.open(tmp_path / "cut.mkv", "w") as cut:
        stream = cut.add_stream_from_template(full.streams.video[0], opaque=True)
        keys = 0
        for packet in full.demux(video=0):
            keys += packet.is_keyframe
            if keys >= 2 and packet.pts is not None:
                packet.stream = stream
                cut.mux(packet)
    clip = probe(tmp_path / "cut.mkv")
    with av.open(clip.path) as container:
        assert len(list(container.decode(video=0))) == len(clip) == len(list(read(clip))) == 30
    assert clip.lost == ("frames at the beginning that need some before it: 1",)


def test_a_recording_whose_clock_comes_round_is_whole(tmp_path):
    path = draw_clip(
        tmp_path / "in.ts",
        40,
        pts=[(1 << 33) - 45000 + 3600 * i for i in range(40)],
        time_base=F(1, 90000),
    )
    assert len(probe(path)) == 40


def test_grey_that_does_not_say_so_is_of_full_range(tmp_path):
    path = tmp_path / "in.mkv"
    levels = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
    with av.open(path, "w") as container:
        stream = container.add_stream("ffv1", 25)
        stream.width, stream.height, stream.pix_fmt = 256, 16, "gray"
        frame = av.VideoFrame.from_ndarray(levels, "gray")
        container.mux(stream.encode(frame) + stream.encode(None))
    clip = probe(path)
    (frame,) = read(clip)
    rgb = to_rgb(frame.planes, clip.colour, clip.depth)
    assert np.array_equal((rgb[0] * 255).round().numpy(), levels)


def test_yuv_that_says_it_is_rgb_is_read_as_yuv(tmp_path):
    tags = {"colorspace": 0, "color_primaries": 1, "color_trc": 1, "color_range": 1}
    clip = probe(draw_clip(tmp_path / "in.mp4", 1, tags=tags))
    (frame,) = read(clip)
    rgb = to_rgb(frame.planes, clip.colour, clip.depth).permute(1, 2, 0).numpy() * 255
    assert np.abs(rgb - picture(0)).mean() < 8


def test_transparency_that_ffmpeg_does_not_show_is_told(tmp_path):
    path = draw_clip(tmp_path / "in.webm", 3, codec="libvpx-vp9", pixel_format="yuva420p")
    assert probe(path).lost == ("transparency",)


def test_a_name_that_looks_like_an_address_or_a_pattern(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("12:30:05.mp4", "100%done.mp4"):
        draw_clip(tmp_path / "a.mp4", 3).rename(tmp_path / name)
        assert len(probe(name)) == len(list(read(probe(name)))) == 3


def _nothing(path):
    path.write_bytes(b"")


def _words(path):
    path.write_text("not a film " * 100)


def _sound(path):
    with av.open(path, "w") as container:
        stream = container.add_stream("aac", 48000, layout="stereo")
        container.mux(tone(stream, 0.2, 440))


def _no_frames(path):
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", 25)
        stream.width, stream.height = 64, 48
        container.start_encoding()


def _interlaced(path):
    draw_clip(path, options={"flags": "+ilme+ildct", "x264-params": "tff=1"})


def _cut_with_index(path):
    whole = draw_clip(path, muxer={"movflags": "faststart"}).read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])


def _cut_without_index(path):
    whole = draw_clip(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def _cut_matroska(path):
    whole = draw_clip(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def _two_parts(
    path,
    widths=(64, 64),
    formats=("yuv420p", "yuv420p"),
    codec="libx264",
    matrices=(2, 2),
    aspects=(F(1), F(1)),
):
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, 25)
        for part, (width, format_) in enumerate(zip(widths, formats, strict=True)):
            encoder = av.CodecContext.create(codec, "w")
            encoder.width, encoder.height, encoder.pix_fmt = width, 48, format_
            encoder.time_base, encoder.colorspace = F(1, 25), matrices[part]
            encoder.sample_aspect_ratio = aspects[part]
            if part == 0:
                stream.width, stream.height, stream.pix_fmt = width, 48, format_
            packets = []
            for index in range(8):
                frame = av.VideoFrame(width, 48, format_)
                frame.pts, frame.time_base = 8 * part + index, F(1, 25)
                packets += encoder.encode(frame)
            for packet in packets + encoder.encode(None):
                packet.stream = stream
                container.mux(packet)


def _two_sizes(path):
    _two_parts(path, widths=(64, 80))


def _two_depths(path):
    _two_parts(path, formats=("yuv420p", "yuv420p10le"))


def _two_matrices(path):
    _two_parts(path, matrices=(1, 6))


def _two_aspects(path):
    _two_parts(path, aspects=(F(12, 11), F(16, 11)))


def _b_frames(path):
    draw_clip(path, options={"bf": "2"})


def _with_packets(path, source, change):
    """A copy of which each packet is those that `change` makes of its bytes; one a tick."""
    with av.open(source) as clip, av.open(path, "w") as container:
        stream = container.add_stream_from_template(clip.streams.video[0])
        stream.time_base = F(1, 50)
        tick = itertools.count()
        for packet in clip.demux(video=0):
            for data in change(bytes(packet)) if packet.size else ():
                copy = av.Packet(data)
                copy.pts = copy.dts = next(tick)
                copy.duration, copy.time_base, copy.stream = 1, F(1, 50), stream
                copy.is_keyframe = packet.is_keyframe and data == bytes(packet)
                container.mux(copy)


def _packed(path):
    """A frame and the B-frame after it in one packet, as DivX had them."""
    source = draw_clip(
        path.with_name("source.mkv"), 12, codec="mpeg4", options={"bf": "1", "b_strategy": "0"}
    )
    kinds, held = [], []

    def change(data):
        kinds.append(data[data.rfind(b"\0\0\1\xb6") + 4] >> 6)
        held.append(data)
        if kinds[-1] == 2:  # a B-frame, decoded after the frame that is shown after it
            return [held[-2] + data]
        return [data] if len(kinds) == 1 else []

    _with_packets(path, source, change)


def _references(path):
    """VP8 whose every fourth picture is there a second time, not to be shown."""
    source = draw_clip(path.with_name("source.webm"), 12, codec="libvpx")
    count = itertools.count()

    def change(data):
        fourth = next(count) % 4 == 3
        return [bytes([data[0] & ~0x10]) + data[1:], data] if fourth else [data]

    _with_packets(path, source, change)


def _not_coded(path):
    """MPEG-4 with pictures of nothing but a time, in 1/25 s, and that they are like the last."""
    source = draw_clip(
        path.with_name("source.mkv"), 12, codec="mpeg4", options={"bf": "0"}, time_base=F(1, 25)
    )
    count = itertools.count()

    def change(data):
        index = next(count)
        bits = f"0101{index:05b}100"
        empty = b"\0\0\1\xb6" + int(bits.ljust(16, "1"), 2).to_bytes(2, "big")
        return [data, empty] if index % 4 == 3 else [data]

    _with_packets(path, source, change)


@pytest.mark.parametrize(
    "name, make",
    [("a.webm", _references), ("a.avi", _not_coded), ("a.mkv", _not_coded), ("a.mp4", _not_coded)],
)
def test_packets_that_show_no_frame_are_no_damage(tmp_path, name, make):
    make(tmp_path / name)
    clip = probe(tmp_path / name)
    with av.open(clip.path) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        assert len(packets) == 15
    assert len(clip) == len(list(read(clip))) == 12


def _voided(path, element):
    """Make a short element of a Matroska file, named by its first bytes, one that says nothing."""
    data = path.read_bytes()
    at = data.index(element)
    size = len(element) + (data[at + len(element) - 1] & 0x7F)
    path.write_bytes(
        data[:at] + bytes([0xEC, 0x80 | size - 2]) + bytes(size - 2) + data[at + size :]
    )


def test_a_rate_that_is_not_stated_is_that_of_the_frames(tmp_path):
    times = {"rate": F(1000), "time_base": F(1, 1000), "pts": range(0, 990, 33)}
    path = draw_clip(tmp_path / "a.webm", codec="libvpx", **times)
    assert probe(path).rate == F(1000, 33)
    _voided(path, b"\x23\xe3\x83\x83")
    assert probe(path).rate == F(1000, 33)


def test_a_crop_that_only_the_container_states_is_told(tmp_path):
    path = draw_clip(tmp_path / "a.mkv", 3)
    data = path.read_bytes()
    unit, bottom = b"\x54\xb2\x81\x04", b"\x54\xaa\x81\x08"  # of the shown size; cut off
    assert data.count(unit) == 1
    path.write_bytes(data.replace(unit, bottom))
    assert probe(path).lost == ("the crop 0/0/0/8 that the container states",)


@pytest.mark.parametrize(
    "name, make, words",
    [
        ("a.mp4", lambda path: None, "no such file"),
        ("a.mp4", os.mkfifo, "expected a file, .* got a pipe"),
        ("a.mp4", _nothing, "not readable as video"),
        ("a.mp4", _words, "not readable as video"),
        ("a.mp4", _sound, "expected a video stream, the file has only audio"),
        ("a.mp4", _no_frames, "expected a video stream, the file has none"),
        ("a.mkv", _no_frames, "not readable as video: End of file"),
        ("a.mp4", _interlaced, "interlaced; deinterlace it first"),
        ("a.avi", _b_frames, "AVI keeps no display times of B-frames; re-encode it"),
        ("a.mp4", _cut_with_index, "truncated"),
        ("a.mp4", _cut_without_index, "truncated"),
        ("a.mkv", _cut_matroska, "truncated: the header states"),
        ("a.ts", _two_sizes, "resolution changes at .* from 64x48 to 80x48"),
        ("a.ts", _two_matrices, r"colour .* changes at .* from \(1, 1\) to \(6, 1\)"),
        ("a.ts", _two_aspects, "sample aspect changes at .* from 12/11 to 16/11"),
        ("a.avi", _packed, "B-frames are packed .*; unpack them first: .* mpeg4_unpack_bframes"),
        ("a.ts", _two_depths, "pixel format changes at .* from yuv420p to yuv420p10le"),
    ],
)
def test_what_cannot_be_whole_is_refused_in_one_line(tmp_path, name, make, words):
    make(tmp_path / name)
    with pytest.raises(VideoError, match=words) as caught:
        probe(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_pixel_format_that_changes_without_notice_is_refused_at_its_frame(tmp_path):
    path = tmp_path / "a.mkv"
    _two_parts(path, formats=("yuvj420p", "yuvj422p"), codec="mjpeg")
    with pytest.raises(VideoError, match="at frame 8 from yuvj420p to yuvj422p; cut the file"):
        list(read(probe(path)))


def test_a_matrix_that_is_stated_late_or_in_other_words_is_no_change(tmp_path):
    path = tmp_path / "a.ts"
    for matrices in ((2, 6), (5, 6), (6, 2)):
        _two_parts(path, matrices=matrices)
        assert len(list(read(probe(path)))) == 16


def test_without_pyav_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    path = draw_clip(tmp_path / "a.mp4", 2)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(VideoError, match=r"pip install 'pysr\[video\]'"):
        probe(path)


def test_a_cover_picture_is_not_the_video_and_other_streams_are_refused(tmp_path):
    path = draw_clip(tmp_path / "a.mp4", languages=("eng",))
    with pytest.raises(VideoError, match="stream 1 is no video stream; choose one of 0"):
        probe(path, stream=1)
    with av.open(tmp_path / "cover.mp4", "w") as container:
        cover = container.add_stream("mjpeg", 1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame(64, 48, "yuvj420p")) + cover.encode(None))
    with pytest.raises(VideoError, match="expected a video stream"):
        probe(tmp_path / "cover.mp4")


@pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/data/video")
@pytest.mark.parametrize(
    "name, stream, frames, rate, depth",
    [
        ("nasa_13013.mp4", 0, 325, F(25), 8),
        ("nasa_13013.mp4", 3, 390, F(30000, 1001), 8),
        ("car-detection.mp4", None, 377, F(25, 2), 8),
        ("h265_10bits.mp4", None, 30, F(30), 10),
        ("smpte-2997.mp4", None, 251, F(25), 8),
        ("carphone_pristine.mp4", None, 120, F(30000, 1001), 8),
    ],
)
def test_real_clips(name, stream, frames, rate, depth):
    clip = probe(REAL / name, stream)
    assert (len(clip), clip.rate, clip.depth) == (frames, rate, depth)
