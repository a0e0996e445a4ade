"""The finished file: every frame once at its true time, every other stream as it was."""

import errno
import hashlib
import itertools
from dataclasses import replace
from fractions import Fraction

import av
import pytest
import torch
from video_clips import HDR10, REAL, blank, draw_clip, number, tone, uneven, upscale

from pysr.video.clip import VideoError
from pysr.video.colour import to_rgb
from pysr.video.containers import check_target
from pysr.video.losses import tags_lost
from pysr.video.mux import assemble, rehearse
from pysr.video.reader import probe, read
from pysr.video.writer import Encoding, SegmentWriter


def _times(clip):
    return [pts * clip.time_base for pts in clip.pts]


def _packets(path, stream):
    """Times and contents of a stream, without the empty subtitles that fill MP4's gaps."""
    with av.open(path) as container:
        packets = [p for p in container.demux(stream) if p.size and bytes(p) != b"\0\0"]
        return [(p.pts * p.time_base, hashlib.sha256(bytes(p)).hexdigest()) for p in packets]


def _about(path, stream):
    with av.open(path) as container:
        found = container.streams[stream]
        name = found.codec_context.name if found.codec_context else found.name
        return found.type, name, found.language or "und", found.disposition


def _decoding_times(path, stream=0):
    with av.open(path) as container:
        return [p.dts for p in container.demux(stream) if p.dts is not None]


def _same_copies(source, target, streams):
    for stream in streams:
        assert _about(source, stream) == _about(target, stream)
        assert _packets(source, stream) == _packets(target, stream)


@pytest.mark.parametrize("suffix, data", [(".mp4", 1), (".mkv", 0), (".mov", 1)])
def test_the_whole_clip_comes_out(tmp_path, suffix, data):
    source = draw_clip(
        tmp_path / f"in{suffix}",
        40,
        pts=uneven(40),
        languages=("eng", "fra"),
        subtitles=("eng", "deu"),
        chapters=True,
        attachment=b"glyphs" if suffix == ".mkv" else None,
        rotation=90,
        sample_aspect=Fraction(4, 3),
        tags={"colorspace": 1, "color_primaries": 1, "color_trc": 1, "color_range": 1},
        metadata={"title": "Forty frames", "studio": "none"},
        muxer={} if suffix == ".mkv" else {"movflags": "use_metadata_tags"},
    )
    untouched = source.read_bytes()
    clip, target = probe(source), tmp_path / f"out{suffix}"
    assert upscale(clip, target) == ()
    result = probe(target)
    assert _times(result) == _times(clip)
    assert (result.width, result.height) == (128, 96)
    assert result.colour == clip.colour and result.sample_aspect == Fraction(4, 3)
    assert result.rotation == 90 and result.display_matrix == clip.display_matrix
    frames = [number(to_rgb(f.planes, result.colour, 8)) for f in read(result)]
    assert frames == list(range(40))
    order = _decoding_times(target)
    assert all(a < b for a, b in zip(order, order[1:], strict=False))
    _same_copies(source, target, range(1, 5))
    with av.open(source) as before, av.open(target) as after:
        assert len(after.streams) == len(before.streams) == 5 + data + (suffix == ".mkv")
        assert [s.data for s in after.streams.attachments] == [
            s.data for s in before.streams.attachments
        ]
        seconds = [
            [(c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"]) for c in found]
            for found in (before.chapters(), after.chapters())
        ]
        assert seconds[0] == seconds[1] and len(seconds[0]) == 2
        titles = {key.lower(): value for key, value in after.metadata.items()}
        assert titles["title"] == "Forty frames" and titles["studio"] == "none"
    assert source.read_bytes() == untouched


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize("start", [0, 12800 * 3 // 2])
def test_a_late_start_keeps_sound_in_sync(tmp_path, suffix, start):
    times = [start + time for time in uneven(24)]
    source = draw_clip(tmp_path / f"in{suffix}", pts=times, languages=("eng",))
    clip, target = probe(source), tmp_path / f"out{suffix}"
    upscale(clip, target)
    assert _times(probe(target)) == _times(clip)
    assert _packets(target, 1) == _packets(source, 1)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_frames_that_an_edit_list_hides_stay_hidden(tmp_path, suffix):
    """Times before zero: MP4 lists them as not to be shown, though others are built on them."""
    times = [512 * i - 1024 for i in range(24)]
    clip = probe(draw_clip(tmp_path / "in.mp4", pts=times, options={"g": "24"}))
    assert _times(clip) == [Fraction(i, 25) for i in range(22)]
    target = tmp_path / f"out{suffix}"
    assert upscale(clip, target) == ()
    result = probe(target)
    assert _times(result) == _times(clip)
    shown = [number(to_rgb(f.planes, result.colour, 8)) for f in read(result)]
    assert shown == list(range(2, 24))


def test_into_another_container_what_changes_is_said(tmp_path):
    source = draw_clip(
        tmp_path / "in.mp4", pts=uneven(24), languages=("eng",), metadata={"title": "x"}
    )
    clip, target = probe(source), tmp_path / "out.mkv"
    words = " ".join(upscale(clip, target))
    assert "times are rounded to 0.001 s" in words
    # The sound begins 1024 samples before zero, a time that Matroska does not have.
    assert "all times are +0.021 s" in words
    shifts = [b - a for a, b in zip(_times(clip), _times(probe(target)), strict=True)]
    sound = [b[0] - a[0] for a, b in zip(_packets(source, 1), _packets(target, 1), strict=True)]
    expected = Fraction(1024, 48000)
    assert all(abs(shift - expected) <= Fraction(1, 1000) for shift in shifts + sound)
    contents = [[content for _, content in _packets(path, 1)] for path in (source, target)]
    assert contents[0] == contents[1]


def test_hdr10_and_ten_bits_come_out(tmp_path):
    source = draw_clip(
        tmp_path / "in.mkv",
        6,
        codec="libx265",
        pixel_format="yuv420p10le",
        tags={"colorspace": 9, "color_primaries": 9, "color_trc": 16, "color_range": 1},
        options={
            "x265-params": HDR10,
            "chroma_sample_location": "topleft",
        },
    )
    clip, target = probe(source), tmp_path / "out.mp4"
    for codec in ("libx265", "libx264"):
        upscale(clip, target, codec=codec)
        result = probe(target)
        assert (result.depth, result.colour, result.hdr) == (10, clip.colour, clip.hdr)
    encoding = Encoding.choose(clip, target, codec="libvpx-vp9")
    losses = " ".join(check_target(target, clip, encoding))
    assert "HDR10" in losses and "10 bits a sample become 8" in losses


def _rehearsed(clip, target, **options):
    encoding = Encoding.choose(clip, target, **options)
    size = (2 * clip.height, 2 * clip.width)
    return tags_lost(rehearse(target, clip, encoding, size, target.parent), clip, target, encoding)


def test_tags_that_the_target_does_not_hold_are_told_before_the_work(tmp_path):
    tags = {"colorspace": 1, "color_primaries": 1, "color_trc": 1, "color_range": 1}
    clip = probe(draw_clip(tmp_path / "in.mp4", 4, sample_aspect=Fraction(4, 3), tags=tags))
    assert _rehearsed(clip, tmp_path / "out.mp4") == ()
    (aspect,) = _rehearsed(clip, tmp_path / "out.mkv", codec="libsvtav1")
    assert "sample aspect 4/3 is lost" in aspect
    primaries, transfer = _rehearsed(clip, tmp_path / "out.mov", codec="prores_ks")
    assert "primaries 1 is lost" in primaries and "transfer 1 is lost" in transfer


def test_hdr_is_kept_from_codec_to_codec_but_for_rounding(tmp_path):
    size = {"size": (96, 128), "pixel_format": "yuv420p10le"}
    options = {"x265-params": HDR10}
    # Of one or two frames x265 makes up the decoding times, which muxers may refuse.
    made = probe(draw_clip(tmp_path / "in.mkv", 4, codec="libx265", options=options, **size))
    assert made.hdr.luminance == (Fraction(1, 10000), 1000)
    assert _rehearsed(made, tmp_path / "out.webm") == ()  # AV1 has other units


def test_a_rotation_that_would_be_lost_is_refused(tmp_path):
    clip = probe(draw_clip(tmp_path / "in.mp4", 4, rotation=90))
    with pytest.raises(VideoError, match="rotation by 90 degrees would be lost"):
        _rehearsed(clip, tmp_path / "out.ts")


def test_a_mirrored_picture_stays_one_or_is_refused(tmp_path):
    source, target = tmp_path / "in.mp4", tmp_path / "out.mkv"
    upside_down = (1 << 16, 0, 0, 0, -1 << 16, 0, 0, 0, 1 << 30)

    def change(packet, streams):
        if packet is None:
            streams[0].set_display_matrix(upside_down)

    _remuxed(draw_clip(tmp_path / "a.mp4", 4), source, change)
    clip = probe(source)
    upscale(clip, target)
    assert probe(target).display_matrix == upside_down
    with pytest.raises(VideoError, match="mirrors the picture would be lost"):
        _rehearsed(clip, tmp_path / "out.ts")


@pytest.mark.parametrize("suffix", [".m3u8", ".mpd"])
def test_containers_of_many_files_are_refused(tmp_path, suffix):
    clip = probe(draw_clip(tmp_path / "in.mp4", 4))
    with pytest.raises(VideoError, match="cannot hold video"):
        check_target(tmp_path / f"out{suffix}", clip, Encoding.choose(clip, "out.mkv"))


def test_a_container_without_times_of_presentation_is_refused(tmp_path):
    clip = probe(draw_clip(tmp_path / "in.mp4", 12))
    with pytest.raises(VideoError, match=r"\.wmv cannot hold this clip \(frame 1 is missing"):
        _rehearsed(clip, tmp_path / "out.wmv")


def _remuxed(source, target, change=lambda packet, streams: None, cover=False):
    """A copy of a file whose streams and packets were changed on the way; a cover comes last."""
    with av.open(source) as clip, av.open(target, "w") as container:
        copies = [container.add_stream_from_template(s, opaque=True) for s in clip.streams]
        picture = []
        if cover:
            stream = container.add_stream("mjpeg", 1)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
            stream.disposition = av.stream.Disposition.attached_pic
            picture = stream.encode(av.VideoFrame(64, 48, "yuvj420p")) + stream.encode(None)
        change(None, copies)
        for packet in clip.demux():
            if packet.pts is not None:
                packet.stream = copies[packet.stream_index]
                change(packet, copies)
                container.mux(packet)
        container.mux(picture)
    return picture


def test_titles_of_tracks_and_long_last_frames_stay_in_mp4(tmp_path):
    def change(packet, streams):
        if packet is None:
            streams[1].metadata["title"] = "Commentary"
        elif packet.stream.index == 0 and packet.pts == 3 * 512:
            packet.duration = 30 * 12800

    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    plain = {"options": {"bf": "0"}, "languages": ("eng",)}
    _remuxed(draw_clip(tmp_path / "a.mp4", 4, **plain), source, change)
    assert upscale(probe(source), target) == ()
    with av.open(target) as container:
        assert container.streams[1].metadata["name"] == "Commentary"
        assert container.duration == pytest.approx(30.12e6, abs=1e3)


def test_a_timecode_comes_along(tmp_path):
    def change(packet, streams):
        if packet is None:
            streams[0].codec_context.framerate = 25  # to count frames by
            streams[0].metadata["timecode"] = "01:02:03:04"

    source, target = tmp_path / "in.mov", tmp_path / "out.mov"
    _remuxed(draw_clip(tmp_path / "a.mp4", 4), source, change)
    assert upscale(probe(source), target) == ()
    with av.open(target) as container:
        assert [s.metadata["timecode"] for s in container.streams] == ["01:02:03:04"] * 2


def test_data_beside_a_track_of_chapters_comes_along(tmp_path):
    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    with av.open(draw_clip(tmp_path / "a.mp4", 4)) as clip, av.open(source, "w") as container:
        video = container.add_stream_from_template(clip.streams.video[0], opaque=True)
        positions = container.add_data_stream("bin_data")
        positions.time_base = Fraction(1, 1000)
        half = {"time_base": Fraction(1, 1000), "metadata": {"title": "a"}}
        chapters = [{"id": i, "start": 80 * i, "end": 80 * i + 80, **half} for i in range(2)]
        container.set_chapters(chapters)
        for packet in clip.demux(video=0):
            if packet.pts is not None:
                packet.stream = video
                container.mux(packet)
        packet = av.Packet(b"52.5 N 13.4 E")
        packet.stream, packet.time_base = positions, Fraction(1, 1000)
        packet.pts, packet.dts, packet.duration = 0, 0, 100
        container.mux(packet)
    assert upscale(probe(source), target) == ()
    assert [c for _, c in _packets(target, 1)] == [c for _, c in _packets(source, 1)]
    with av.open(target) as container:
        assert len(container.chapters()) == 2 and len(container.streams) == 3


def test_an_aspect_that_only_some_containers_hold_is_told(tmp_path):
    clip = probe(draw_clip(tmp_path / "in.mp4", 2, sample_aspect=Fraction(4, 3)))
    words = [upscale(clip, tmp_path / f"out{s}", codec="libsvtav1") for s in (".mp4", ".mkv")]
    assert words[0] == () and "sample aspect 4/3 is lost" in " ".join(words[1])
    assert probe(tmp_path / "out.mp4").sample_aspect == Fraction(4, 3)


def test_a_cover_picture_comes_along(tmp_path):
    source = tmp_path / "in.mp4"
    picture = _remuxed(draw_clip(tmp_path / "bare.mp4", 4), source, cover=True)
    for suffix in (".mp4", ".mkv"):
        target = tmp_path / f"out{suffix}"
        upscale(probe(source), target)
        with av.open(target) as container:
            cover = next(s for s in container.streams if s.index == 1)
            assert cover.disposition & av.stream.Disposition.attached_pic
            assert bytes(next(container.demux(cover))) == bytes(picture[0])
    clip = probe(source)
    for suffix in (".mov", ".ts", ".webm"):
        losses = check_target(tmp_path / f"o{suffix}", clip, Encoding.choose(clip, f"o{suffix}"))
        assert f"cover picture: {suffix} does not hold it" in " ".join(losses)


@pytest.mark.parametrize(
    "suffix, target, words",
    [
        (".mp4", "out.webm", r"\.webm cannot hold stream 1: audio aac, eng"),
        (".mp4", "out.xyz", r"\.xyz cannot hold video"),
        (".mp4", "in.mp4", "overwrite its source"),
        (".mp4", "none/out.mp4", "is not a folder"),
    ],
)
def test_what_a_container_cannot_hold_is_refused_before_the_work(tmp_path, suffix, target, words):
    source = draw_clip(tmp_path / f"in{suffix}", 4, languages=("eng",), subtitles=("deu",))
    clip = probe(source)
    encoding = Encoding.choose(clip, target)
    with pytest.raises(VideoError, match=words) as caught:
        check_target(tmp_path / target, clip, encoding)
    assert "\n" not in str(caught.value)


def test_frames_closer_than_a_container_counts_are_refused_before_the_work(tmp_path):
    pts = [3600 * i for i in range(12)] + [3600 * 11 + 30] + [3600 * i for i in range(12, 20)]
    options = {"g": "8", "bf": "0"}
    near = draw_clip(
        tmp_path / "in.mp4", len(pts), pts=pts, time_base=Fraction(1, 90000), options=options
    )
    clip = probe(near)
    with pytest.raises(
        VideoError,
        match=r"^\S*o\.mkv: \.mkv cannot hold frames 11 and 12, which are 0\.000333 s apart: it "
        r"counts in 0\.001 s; a name ending in \.mp4 can$",
    ):
        check_target(tmp_path / "o.mkv", clip, Encoding.choose(clip, "o.mkv"))
    upscale(clip, tmp_path / "o.mp4")
    again = probe(tmp_path / "o.mp4")
    assert [t * again.time_base for t in again.pts] == [t * clip.time_base for t in clip.pts]


def test_an_encoder_of_other_forms_is_refused_by_its_name(tmp_path):
    clip = probe(draw_clip(tmp_path / "in.mp4", 2))
    for codec, takes in (("gif", "rgb8"), ("libx264rgb", "bgr0")):
        words = f"^codec {codec}: expected one of planar YUV or GBR, it takes {takes}"
        with pytest.raises(VideoError, match=words):
            Encoding.choose(clip, "o.mkv", codec=codec)


def test_text_subtitles_take_the_form_that_a_container_holds_and_come_back(tmp_path):
    source = draw_clip(tmp_path / "in.mkv", subtitles=("deu", "fra"))
    other, again = tmp_path / "other.mp4", tmp_path / "again.mkv"
    assert "subtitle srt, deu: fonts, colours and places" in " ".join(upscale(probe(source), other))
    upscale(probe(other), again)
    for stream in (1, 2):
        assert _about(other, stream)[:2] == ("subtitle", "mov_text")
        assert [words[2:12] for _, words in _lines(other, stream)] == [
            b"line %d.%d" % (stream - 1, i) + b"\0\0" for i in range(3)
        ]
        assert _about(again, stream)[:3] == _about(source, stream)[:3]  # MP4 has a default track
        assert _lines(again, stream) == _lines(source, stream)


def _lines(path, stream):
    with av.open(path) as container:
        packets = [p for p in container.demux(stream) if p.size and bytes(p) != b"\0\0"]
        return [((p.pts * p.time_base, p.duration * p.time_base), bytes(p)) for p in packets]


def test_lines_that_overlap_are_not_moved_apart_for_mp4(tmp_path):
    source = draw_clip(tmp_path / "in.mkv", 4, subtitles=("deu",), subtitle_seconds=0.5)
    clip = probe(source)
    with pytest.raises(
        VideoError, match="1: subtitle srt, deu, of which lines overlap; .* .mkv can"
    ):
        check_target(tmp_path / "out.mp4", clip, Encoding.choose(clip, "out.mp4"))


@pytest.mark.parametrize(
    "suffix, words",
    [
        (".avi", "Invalid data"),
        (".ts", "stream 1: subtitle srt, deu would be data there"),
    ],
)
def test_what_only_packets_show_is_found_out_before_the_work(tmp_path, suffix, words):
    clip = probe(draw_clip(tmp_path / "in.mkv", subtitles=("deu",)))
    target, folder = tmp_path / f"out{suffix}", tmp_path / "work"
    folder.mkdir()
    with pytest.raises(VideoError, match=rf"{suffix} cannot hold this clip \({words}.*\.mkv"):
        rehearse(target, clip, Encoding.choose(clip, target), (96, 128), folder)
    rehearse(tmp_path / "o.mp4", clip, Encoding.choose(clip, "o.mp4"), (96, 128), folder)
    assert list(folder.iterdir()) == []


def _with_sound(path, codec, packets_of):
    """Twelve frames, and the packets that `packets_of` makes with a stream of that codec."""
    with av.open(path, "w") as container:
        video = container.add_stream("libx264", 25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream(codec, 48000, layout="stereo")
        packets = [video.encode(av.VideoFrame(64, 48, "yuv420p")) for _ in range(12)]
        packets += [video.encode(None), packets_of(sound)]
        container.mux(sorted(itertools.chain(*packets), key=lambda p: p.dts * p.time_base))
    return path


def test_pcm_that_a_container_cuts_otherwise_is_whole(tmp_path):
    def pcm(stream):
        for part in range(12):
            frame = av.AudioFrame(format="s16", layout="stereo", samples=1920)
            frame.sample_rate, frame.pts = 48000, 1920 * part
            yield from stream.encode(frame)

    source = _with_sound(tmp_path / "in.mkv", "pcm_s16le", pcm)
    clip = probe(source)
    assert _rehearsed(clip, tmp_path / "out.mov") == ()
    upscale(clip, tmp_path / "out.mov")
    contents = [b"".join(map(bytes, _demuxed(path, 1))) for path in (source, tmp_path / "out.mov")]
    assert contents[0] == contents[1] and len(contents[0]) == 12 * 1920 * 4


def _demuxed(path, stream):
    with av.open(path) as container:
        yield from (p for p in container.demux(stream) if p.size)


def test_sound_that_an_edit_list_hides_stays_unheard(tmp_path):
    def early(stream):
        for packet in tone(stream, 0.9, 440):
            packet.pts, packet.dts = packet.pts - 20 * 1024, packet.dts - 20 * 1024
            yield packet

    source = _with_sound(tmp_path / "in.mp4", "aac", early)
    hidden = sum(packet.is_discard for packet in _demuxed(source, 1))
    assert hidden > 19
    told = upscale(probe(source), tmp_path / "out.mkv")
    assert told == ("all times are +0.021 s: .mkv begins elsewhere",)  # as of any AAC in MP4
    copied = [bytes(packet) for packet in _demuxed(tmp_path / "out.mkv", 1)]
    assert copied == [bytes(packet) for packet in _demuxed(source, 1)][hidden - 1 :]
    upscale(probe(source), tmp_path / "out.mp4")
    assert sum(packet.is_discard for packet in _demuxed(tmp_path / "out.mp4", 1)) == hidden


def test_chapters_that_mp4_moves_are_told(tmp_path):
    times = {"time_base": Fraction(1, 1000), "metadata": {"title": "part"}}
    gaps = [{"id": i, "start": 400 * i + 200, "end": 400 * i + 400, **times} for i in range(2)]
    bare = draw_clip(tmp_path / "bare.mkv")
    with av.open(bare) as clip, av.open(tmp_path / "in.mkv", "w") as container:
        stream = container.add_stream_from_template(clip.streams.video[0])
        container.set_chapters(gaps)
        for packet in _demuxed(bare, 0):
            packet.stream = stream
            container.mux(packet)
    clip = probe(tmp_path / "in.mkv")
    assert upscale(clip, tmp_path / "out.mkv") == ()
    assert "chapters begin elsewhere: .mp4 " in " ".join(upscale(clip, tmp_path / "out.mp4"))


def test_frames_that_would_move_are_found_out_before_the_work(tmp_path):
    clip = probe(draw_clip(tmp_path / "in.mkv", 6, options={"bf": "0"}, languages=("eng",)))
    with pytest.raises(VideoError, match=r"\.avi cannot hold this clip \(.*a frame is off by 0.02"):
        _rehearsed(clip, tmp_path / "out.avi", codec="ffv1")


def test_a_full_disk_is_no_fault_of_the_container(tmp_path, monkeypatch):
    def full(*_):
        raise av.FFmpegError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pysr.video.mux._tried", full)
    clip = probe(draw_clip(tmp_path / "in.mkv", 3))
    with pytest.raises(
        VideoError, match=r"out.mp4: cannot be written \(No space left on device\)$"
    ):
        _rehearsed(clip, tmp_path / "out.mp4")


@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".avi", ".webm"])
def test_attachments_are_for_matroska_alone(tmp_path, suffix):
    clip = probe(draw_clip(tmp_path / "in.mkv", 2, attachment=b"glyphs"))
    encoding = Encoding.choose(clip, f"out{suffix}")
    with pytest.raises(VideoError, match="hold stream 1: attachment font.ttf; .* .mkv can"):
        check_target(tmp_path / f"out{suffix}", clip, encoding)
    assert check_target(tmp_path / "out.mkv", clip, encoding) == ()


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_long_last_frame_stays_as_long(tmp_path, suffix):
    clip = probe(draw_clip(tmp_path / "in.mp4"))
    clip = replace(clip, durations=(*clip.durations[:-1], 12 * clip.durations[0]))
    upscale(clip, tmp_path / f"out{suffix}", blank)
    made = probe(tmp_path / f"out{suffix}")
    expected = clip.durations[-1] * clip.time_base
    assert float(made.durations[-1] * made.time_base) == pytest.approx(float(expected), abs=1e-3)


@pytest.mark.parametrize(
    "choose, words",
    [
        (lambda s: s[:-1], "expected 24 frames, the segments hold 16"),
        (lambda s: [s[0], s[2], s[1]], "expected the segment of frame 8"),
        (lambda s: [*s, s[2]], "the segments hold 32"),
    ],
)
def test_wrong_segments_make_no_file(tmp_path, choose, words):
    clip, target = probe(draw_clip(tmp_path / "in.mp4")), tmp_path / "out.mp4"
    encoding = Encoding.choose(clip, target)
    segments = [tmp_path / f"{first}.mkv" for first in (0, 8, 16)]
    for number_, path in enumerate(segments):
        with SegmentWriter(path, clip, (48, 64), encoding) as writer:
            for index in range(8 * number_, 8 * number_ + 8):
                frame = writer.samples(torch.zeros(3, 48, 64))
                writer.write(frame, clip.pts[index], clip.durations[index])
    with pytest.raises(VideoError, match=words):
        assemble(target, clip, choose(segments), encoding)
    assert not target.exists() and len(list(tmp_path.iterdir())) == 4


@pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/data/video")
def test_real_clip_with_two_of_everything(tmp_path):
    source, target = REAL / "nasa_13013.mp4", tmp_path / "out.mp4"
    clip = probe(source, 0)
    upscale(clip, target, blank)
    assert _times(probe(target, 0)) == _times(clip)
    _same_copies(source, target, (1, 2, 3, 4, 5))


@pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/data/video")
def test_real_clips_keep_their_bits_rate_and_sound(tmp_path):
    clip = probe(REAL / "h265_10bits.mp4")
    upscale(clip, tmp_path / "ten.mp4", blank)
    ten = probe(tmp_path / "ten.mp4")
    assert (ten.codec, ten.pixel_format, _times(ten)) == ("hevc", "yuv420p10le", _times(clip))
    source, target = REAL / "car-detection.mp4", tmp_path / "car.mp4"
    upscale(probe(source), target, blank)
    car = probe(target)
    assert car.rate == Fraction(25, 2) and len(car) == 377
    _same_copies(source, target, [1])
