"""Text subtitles in the form that another kind of container holds.

Matroska holds SubRip and MP4 holds mov_text: the same words and times, written differently. FFmpeg
turns one into the other by way of ASS and keeps italics, bold and underlined words. ASS itself is
not turned into anything: what it says beyond the words is what it is for.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

from pysr.video.clip import Clip, opened

# FFmpeg's names of what is read, and of what writes the other form.
_OTHER_FORM = {"mov_text": "subrip", "srt": "mov_text", "subrip": "mov_text"}


def other_form(stream) -> str | None:
    """FFmpeg's name of the form that a subtitle stream can be turned into, if there is one."""
    context = stream.codec_context
    return None if context is None else _OTHER_FORM.get(context.name)


def add(container, stream):
    """Add a stream of the other form to a container, for what `converted` makes."""
    decoder = stream.codec_context
    decoder.open(strict=False)  # which writes the header that the encoder needs
    copy = container.add_stream(other_form(stream))
    copy.codec_context.time_base = Fraction(1, 1000)
    copy.codec_context.subtitle_header = decoder.subtitle_header
    copy.disposition = stream.disposition
    copy.time_base = stream.time_base
    return copy


def converted(packet, copy):
    """A packet of a stream as one of `copy`, which `add` made; None where it holds no words."""
    words = packet.stream.codec_context.decode2(packet)
    if words is None or not words.rects:
        return None
    made = copy.codec_context.encode_subtitle(words)
    made.stream, made.time_base = copy, packet.time_base
    made.pts, made.dts, made.duration = packet.pts, packet.pts, packet.duration
    return made


def overlap(clip: Clip, stream) -> bool:
    """Whether lines are shown at the same time, which MP4 cannot do: it would move them."""
    with opened(clip.path) as container:
        packets = [p for p in container.demux(stream.index) if p.pts is not None]
    spans = sorted((p.pts, p.pts + (p.duration or 0)) for p in packets)
    return any(before[1] > after[0] for before, after in pairwise(spans))
