"""Segments: the same bits for the same frames, and options that are checked before any work."""

import ctypes
from fractions import Fraction

import av
import pytest
import torch
from video_clips import draw_clip, picture

from pysr.video.clip import ColourTags, VideoError
from pysr.video.colour import to_rgb
from pysr.video.reader import probe, read
from pysr.video.writer import Encoding, SegmentWriter


def _write(path, clip, encoding, rgbs):
    with SegmentWriter(path, clip, tuple(rgbs[0].shape[1:]), encoding) as writer:
        for index, rgb in enumerate(rgbs):
            writer.write(writer.samples(rgb), clip.pts[index], clip.durations[index])
    return path


def _bits(path):
    with av.open(path) as container:
        headers = container.streams.video[0].codec_context.extradata
        return headers, [(p.pts, bytes(p)) for p in container.demux(video=0)]


def _scenes(frames, height, width):
    generator = torch.Generator().manual_seed(3)
    start = 0.2 + 0.6 * torch.rand(1, 3, height // 8 + 8, width // 8 + 8, generator=generator)
    large = torch.nn.functional.interpolate(start, scale_factor=8, mode="bicubic")[0]
    return [large[:, i : i + height, 2 * i : 2 * i + width].clamp(0, 1) for i in range(frames)]


@pytest.fixture
def dirty_memory():
    """Fills fresh memory with a byte of one's choice: what is read before it is written shows."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        pytest.skip("the C library has no mallopt")
    perturb = -6
    yield lambda byte: mallopt(perturb, byte)
    mallopt(perturb, 0)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1"])
def test_the_same_frames_make_the_same_bits(tmp_path, codec, dirty_memory):
    clip = probe(draw_clip(tmp_path / "a.mp4"))
    encoding = Encoding.choose(clip, "out.mkv", codec=codec)
    frames = [torch.from_numpy(picture(i, 96, 320)).permute(2, 0, 1) / 255 for i in range(12)]
    dirty_memory(0x55)
    before = _bits(_write(tmp_path / "1.mkv", clip, encoding, frames))
    _write(tmp_path / "2.mkv", clip, encoding, frames[::-1])
    dirty_memory(0xAA)
    assert _bits(_write(tmp_path / "3.mkv", clip, encoding, frames)) == before


@pytest.mark.parametrize(
    "source, options, codec, pixel_format",
    [
        ({}, {}, "h264", "yuv420p"),
        ({"pixel_format": "yuv422p"}, {}, "h264", "yuv422p"),
        ({"pixel_format": "yuv420p10le"}, {}, "hevc", "yuv420p10le"),
        ({}, {"codec": "libx265", "crf": 4}, "hevc", "yuv420p"),
        ({}, {"codec": "libsvtav1", "crf": 4}, "libdav1d", "yuv420p"),
        ({}, {"codec": "ffv1", "pixel_format": "gbrp10le"}, "ffv1", "gbrp10le"),
    ],
)
def test_what_is_written_is_what_was_given(tmp_path, source, options, codec, pixel_format):
    tags = {"colorspace": 1, "color_primaries": 1, "color_trc": 1, "color_range": 1}
    path = draw_clip(tmp_path / "a.mkv", tags=tags, sample_aspect=Fraction(4, 3), **source)
    clip = probe(path)
    encoding = Encoding.choose(clip, "out.mkv", **options)
    given = _scenes(6, 96, 128)
    segment = probe(_write(tmp_path / "s.mkv", clip, encoding, given))
    assert (segment.codec, segment.pixel_format) == (codec, pixel_format)
    assert segment.keys[0] == 0
    if codec in ("h264", "hevc"):  # of others, the aspect is the container's: see test_video_mux
        assert segment.sample_aspect == Fraction(4, 3)
    expected = clip.colour if pixel_format != "gbrp10le" else ColourTags(0, 2, 1, 1, 1)
    assert segment.colour == expected
    for frame, rgb in zip(read(segment), given, strict=True):
        error = to_rgb(frame.planes, segment.colour, segment.depth) - rgb
        assert error.square().mean() < 10**-3.4  # 34 dB


def test_a_picture_encoded_from_rgb_gets_tags_that_say_how(tmp_path):
    clip = probe(
        draw_clip(tmp_path / "a.mkv", 2, codec="ffv1", pixel_format="bgr0", options={"g": "1"})
    )
    assert clip.colour.matrix == 0
    encoding = Encoding.choose(clip, "out.mkv")
    segment = probe(_write(tmp_path / "s.mkv", clip, encoding, _scenes(2, 96, 128)))
    assert (segment.colour.matrix, segment.colour.range) == (6, 1)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"codec": "nonesuch"}, "no such video encoder"),
        ({"codec": "aac"}, "no such video encoder"),
        ({"crf": 99}, "crf: libx264 takes 0 .* to 51, got 99"),
        ({"codec": "hevc_nvenc", "crf": 0}, "crf: hevc_nvenc takes 1 .* to 51, got 0"),
        ({"codec": "ffv1", "crf": 3}, "crf: ffv1 has no such option"),
        ({"preset": "warp"}, "preset: libx264 takes ultrafast, .*, got 'warp'"),
        ({"pixel_format": "yuv410p"}, "pixel format yuv410p: libx264 takes"),
        ({"pixel_format": "nv12"}, "expected a planar"),
        ({"pixel_format": "gray"}, "expected a planar"),
    ],
)
def test_options_that_do_not_exist_are_refused_in_one_line(tmp_path, options, words):
    clip = probe(draw_clip(tmp_path / "a.mp4", 2))
    with pytest.raises(VideoError, match=words) as caught:
        Encoding.choose(clip, "out.mkv", **options)
    assert "\n" not in str(caught.value)


def test_other_names_of_an_encoder_have_its_defaults(tmp_path):
    clip = probe(draw_clip(tmp_path / "a.mp4", 2))
    assert Encoding.choose(clip, "o.mkv", codec="h264") == Encoding.choose(clip, "o.mkv")
    assert Encoding.choose(clip, "o.mkv", codec="mpeg4").pixel_format == "yuv420p"
    assert Encoding.choose(clip, "o.mkv", codec="rawvideo").pixel_format == "yuv420p"


@pytest.mark.parametrize(
    "codec, depth", [("h264_nvenc", 8), ("hevc_nvenc", 8), ("hevc_nvenc", 10), ("av1_nvenc", 10)]
)
def test_a_gpu_encodes_or_its_lack_is_said_in_one_line(tmp_path, codec, depth):
    pixel_format = "yuv420p" if depth == 8 else "yuv420p10le"
    clip = probe(draw_clip(tmp_path / "a.mkv", pixel_format=pixel_format))
    try:
        encoding = Encoding.choose(clip, "out.mkv", codec=codec)
    except VideoError as error:
        assert "it needs an NVIDIA GPU that encodes" in str(error) and "\n" not in str(error)
        return
    given = _scenes(6, 256, 256)
    segment = probe(_write(tmp_path / "s.mkv", clip, encoding, given))
    assert (segment.depth, segment.keys[0]) == (depth, 0)
    for frame, rgb in zip(read(segment), given, strict=True):
        error = to_rgb(frame.planes, segment.colour, segment.depth) - rgb
        assert error.square().mean() < 10**-3.4


@pytest.mark.parametrize(
    "size, shape, frames, words",
    [
        ((47, 63), (47, 63), (0, 1), "needs even sizes"),
        ((48, 64), (96, 64), (0, 1), "expected a frame of shape"),
        ((48, 64), (48, 64), (), "at least one frame"),
        ((48, 64), (48, 64), (1, 1), "expected frame 2 of the clip, got one at time 512"),
        ((48, 64), (48, 64), (0, 2), "expected frame 1 of the clip, got one at time 1024"),
    ],
)
def test_a_segment_that_fails_leaves_no_file(tmp_path, size, shape, frames, words):
    clip = probe(draw_clip(tmp_path / "a.mp4", 4))
    encoding = Encoding.choose(clip, "out.mkv")
    with (
        pytest.raises(VideoError, match=words),
        SegmentWriter(tmp_path / "s.mkv", clip, size, encoding) as writer,
    ):
        for index in frames:
            frame = writer.samples(torch.rand(3, *shape))
            writer.write(frame, clip.pts[index], clip.durations[index])
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
