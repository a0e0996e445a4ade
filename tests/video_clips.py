"""Short clips for the video tests, drawn and encoded here; and where the real ones lie."""

from __future__ import annotations

import itertools
import random
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from pysr.video.clip import Clip
from pysr.video.colour import to_rgb
from pysr.video.mux import assemble
from pysr.video.reader import read
from pysr.video.writer import Encoding, SegmentWriter

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "video"
HDR10 = (  # for x265
    "log-level=none:max-cll=1000,400:"
    "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"
)
SUBTITLES = {".mp4": "mov_text", ".mov": "mov_text"}


def picture(index: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Smooth colours that move, with the frame's number as bars: (H, W, 3) uint8, RGB."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin((x * a + y * b) / 9 + index / 5) for a, b in ((1, 0.3), (0.2, 1), (0.7, -0.6))]
    rgb = np.stack([128 + 90 * wave for wave in waves], axis=-1).astype(np.uint8)
    for bit in range(6):
        rgb[2:8, 4 + 8 * bit : 10 + 8 * bit] = 235 if index >> bit & 1 else 20
    return rgb


def number(rgb: torch.Tensor) -> int:
    """The number that `picture` drew, read back from (3, H, W) in [0, 1] of any scale."""
    scale = rgb.shape[-1] // 64
    middles = [rgb[:, 5 * scale, (7 + 8 * bit) * scale].mean() for bit in range(6)]
    return sum(1 << bit for bit, value in enumerate(middles) if value > 0.5)


def uneven(frames: int, seed: int = 0) -> list[int]:
    """Times of a variable frame rate, in units of 1/12800 s."""
    steps = random.Random(seed).choices((400, 512, 901, 1500), k=frames)
    return [sum(steps[:i]) for i in range(frames)]


def _doubled(clip: Clip, first: int, stop: int) -> Iterator[torch.Tensor]:
    for frame in read(clip, first, stop):
        rgb = to_rgb(frame.planes, clip.colour, clip.depth)
        yield rgb.repeat_interleave(2, 1).repeat_interleave(2, 2)


def blank(clip: Clip, first: int, stop: int) -> Iterator[torch.Tensor]:
    """Small black frames in place of the clip's, where only times and other streams matter."""
    yield from (torch.zeros(3, 48, 64) for _ in range(first, stop))


def upscale(clip: Clip, target: Path, frames=_doubled, **options) -> tuple[str, ...]:
    """The job without a network: frames of the clip, doubled, in segments, into the target."""
    encoding = Encoding.choose(clip, target, **options)
    parts = min(3, len(clip))
    bounds = [len(clip) * i // parts for i in range(parts + 1)]
    with tempfile.TemporaryDirectory() as folder:
        segments = [Path(folder, f"{first}{encoding.suffix}") for first in bounds[:-1]]
        for path, first, stop in zip(segments, bounds[:-1], bounds[1:], strict=True):
            made = frames(clip, first, stop)
            head = next(made)
            with SegmentWriter(path, clip, tuple(head.shape[1:]), encoding) as writer:
                for index, rgb in enumerate(itertools.chain([head], made), first):
                    writer.write(writer.samples(rgb), clip.pts[index], clip.durations[index])
        return assemble(target, clip, segments, encoding)


def draw_clip(
    path: Path,
    frames: int = 24,
    *,
    size: tuple[int, int] = (48, 64),
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    pts: list[int] | None = None,
    time_base: Fraction = Fraction(1, 12800),
    rate: Fraction = Fraction(25),
    languages: tuple[str, ...] = (),
    subtitles: tuple[str, ...] = (),
    subtitle_seconds: float = 0.2,
    chapters: bool = False,
    attachment: bytes | None = None,
    rotation: float | None = None,
    tags: dict[str, int] | None = None,
    sample_aspect: Fraction | None = None,
    metadata: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
) -> Path:
    """A clip with as many sound and subtitle tracks as languages are given.

    Args:
        pts: times in units of time_base; evenly spaced by `rate` when None.
        subtitle_seconds: how long lines are shown that come every 0.3 s.
        tags: color_range, colorspace, color_primaries, color_trc as FFmpeg's numbers.
    """
    pts = pts or [round(i / rate / time_base) for i in range(frames)]
    with av.open(path, "w", container_options=muxer or {}) as container:
        container.metadata.update(metadata or {})
        video = container.add_stream(codec, rate, options=options or {"g": "8"})
        video.height, video.width = size
        video.pix_fmt, video.time_base = pixel_format, time_base
        video.codec_context.time_base = time_base
        for name, value in (tags or {}).items():
            setattr(video.codec_context, name, value)
        if sample_aspect is not None:
            video.codec_context.sample_aspect_ratio = sample_aspect
        if rotation is not None:
            video.set_display_rotation(rotation)
        sounds = [_sound(container, language) for language in languages]
        texts = [_subtitles(container, path, language) for language in subtitles]
        if attachment is not None:
            container.add_attachment("font.ttf", "font/ttf", attachment)
        seconds = (pts[-1] - min(pts[0], 0)) * time_base + 1 / rate
        if chapters:
            container.set_chapters(_chapters(seconds))
        packets = []
        for index, time in enumerate(pts):
            drawn = av.VideoFrame.from_ndarray(picture(index, *size), "rgb24")
            drawn = drawn.reformat(format=pixel_format)
            drawn.pts, drawn.time_base = time, time_base
            packets += video.encode(drawn)
        packets += video.encode(None)
        for number, sound in enumerate(sounds):
            packets += tone(sound, float(seconds), 440 * (number + 1))
        for number, text in enumerate(texts):
            packets += [
                _line(text, 300 * i, f"line {number}.{i}", subtitle_seconds) for i in range(3)
            ]
        container.mux(sorted(packets, key=lambda p: (p.dts or 0) * p.time_base))
    return path


def _sound(container, language: str):
    stream = container.add_stream("aac", 48000, layout="stereo")
    stream.metadata["language"] = language
    return stream


def tone(stream, seconds: float, frequency: float) -> list:
    """Packets of a sine, encoded by a sound stream of 48 kHz."""
    samples = np.arange(int(seconds * 48000))
    wave = (0.3 * np.sin(2 * np.pi * frequency * samples / 48000)).astype(np.float32)
    packets = []
    for start in range(0, len(wave), 1024):
        part = np.ascontiguousarray(np.stack([wave[start : start + 1024]] * 2))
        frame = av.AudioFrame.from_ndarray(part, "fltp", "stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _subtitles(container, path: Path, language: str):
    stream = container.add_stream(SUBTITLES.get(path.suffix, "subrip"))
    stream.codec_context.subtitle_header = (
        b"[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\n"
        b"Format: Name, Fontname, Fontsize\nStyle: Default,Arial,16\n\n"
        b"[Events]\nFormat: Layer, Start, End, Style, Text\n"
    )
    stream.time_base = Fraction(1, 1000)
    stream.codec_context.time_base = Fraction(1, 1000)
    stream.metadata["language"] = language
    return stream


def _line(stream, start: int, words: str, seconds: float):
    text = f"<i>{words}</i>".encode() if stream.codec_context.name == "subrip" else None
    if text is None:
        text = len(words).to_bytes(2, "big") + words.encode()
    packet = av.Packet(text)
    packet.stream, packet.time_base = stream, Fraction(1, 1000)
    packet.pts = packet.dts = start
    packet.duration = round(1000 * seconds)
    return packet


def _chapters(seconds: Fraction) -> list[dict]:
    half = int(seconds * 500)
    times = [(0, half), (half, 2 * half)]
    return [
        {
            "id": i + 1,
            "start": start,
            "end": end,
            "time_base": Fraction(1, 1000),
            "metadata": {"title": f"part {i + 1}"},
        }
        for i, (start, end) in enumerate(times)
    ]
