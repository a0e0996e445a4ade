"""What a target's container can hold, found by asking it.

No table of containers and codecs is kept here: each stream is offered to FFmpeg's muxer, which
writes a header to memory or says no.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path

from pysr.video import images, subtitles
from pysr.video.clip import Clip, VideoError, opened, pyav
from pysr.video.encoding import Encoding
from pysr.video.planes import layout
from pysr.video.probing import in_words, is_attached_picture

_CANDIDATES = (".mkv", ".mp4", ".mov", ".nut")
_MATROSKA = "matroska"
_COVERS = (_MATROSKA, "mp4", "ipod")  # others take them, and do not write them


@contextlib.contextmanager
def source(clip: Clip) -> Iterator:
    """The clip's file, opened; None for pictures."""
    if clip.files:
        yield None
        return
    with opened(clip.path) as container:
        yield container


def check_target(target: str | Path, clip: Clip, encoding: Encoding) -> tuple[str, ...]:
    """Refuse, before the work, a target that cannot hold the clip; what it will lose, in words.

    Raises VideoError, one line naming the stream and a container that can.
    """
    target = Path(target)
    if encoding.images:
        images.check_target(target, clip)
        words = (f"{other}: an image sequence holds pictures only" for other in clip.others)
        return (*clip.lost, *words)
    folder = target.resolve().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise VideoError(f"{target}: {folder} is not a folder that can be written to")
    if target.is_dir():
        raise VideoError(f"{target}: expected a file, this is a folder")
    if target.exists() and clip.path.exists() and target.samefile(clip.path):
        raise VideoError(f"{target}: the result would overwrite its source")
    with source(clip) as file:
        refused, left_out = _refused(target.suffix, file, clip, encoding)
        if refused:
            fitting = (s for s in _CANDIDATES if not _refused(s, file, clip, encoding)[0])
            better = next(fitting, None)
            remedy = f"a name ending in {better} can" if better else "remove that stream first"
            raise VideoError(f"{target}: {target.suffix} cannot hold {refused[0]}; {remedy}")
    return (*_losses(target.suffix, clip, encoding), *left_out)


def _refused(suffix: str, file, clip: Clip, encoding: Encoding) -> tuple[list, list]:
    """Streams that the container does not take, in words; and those that it may go without."""
    refused, left_out = [], []
    time_base = _time_base(suffix, clip, encoding)
    if time_base is None:
        refused.append(f"video {encoding.codec} {encoding.pixel_format}")
    elif (at := _same_time(clip, time_base)) is not None:
        apart = float((clip.pts[at + 1] - clip.pts[at]) * clip.time_base)
        refused.append(
            f"frames {at} and {at + 1}, which are {apart:.3g} s apart: it counts in "
            f"{float(time_base):g} s"
        )
    for stream in _others(file, clip):
        way = _way(suffix, stream)
        if way is None and (stream.type == "data" or is_attached_picture(stream)):
            left_out.append(f"{in_words(stream)}: {suffix} does not hold it")
        elif way is None:
            refused.append(in_words(stream))
        elif way is subtitles.add:
            form = subtitles.other_form(stream)
            if form == "mov_text" and subtitles.overlap(clip, stream):
                refused.append(f"{in_words(stream)}, of which lines overlap")
            left_out.append(f"{in_words(stream)}: fonts, colours and places: it becomes {form}")
    return refused, left_out


def _same_time(clip: Clip, time_base: Fraction) -> int | None:
    """The first frame that has the time of the next one where times are counted in `time_base`."""
    times = [math.floor(pts * clip.time_base / time_base + Fraction(1, 2)) for pts in clip.pts]
    pairs = zip(times, times[1:], strict=False)
    return next((i for i, (before, after) in enumerate(pairs) if before == after), None)


def _others(file, clip: Clip) -> list:
    """Streams to copy: all but the one worked on, and tracks that muxers make by themselves."""
    if file is None:
        return []
    data = [stream for stream in file.streams if stream.type == "data"]
    timecodes = [stream.index for stream in data if "timecode" in stream.metadata]
    # MP4 repeats the chapters, one by one, in a track that comes last.
    named = [s.index for s in data if s.name == "bin_data" and s.frames == len(file.chapters()) > 0]
    made_anew = {clip.stream, *timecodes, *named[-1:]}
    return [stream for stream in file.streams if stream.index not in made_anew]


def carried(suffix: str, file, clip: Clip) -> dict[int, Callable]:
    """The streams that a container takes, by number, and what adds each to it: `copy_stream`, or
    `subtitles.add` for those that come in another form."""
    ways = {stream.index: _way(suffix, stream) for stream in _others(file, clip)}
    return {index: way for index, way in ways.items() if way is not None}


def copy_stream(container, stream):
    """Add a stream like another one to a container; its packets are to be muxed unchanged.

    Returns None where the header holds all of it: Matroska keeps cover pictures as attachments.
    Raises ValueError or FFmpegError when the container does not take it.
    """
    matroska = container.format.name == _MATROSKA
    if stream.type == "attachment":
        if not matroska:  # MPEG-TS would take it, and not write it
            raise ValueError("only Matroska has attachments")
        return container.add_attachment(
            stream.name or "attachment", stream.mimetype or "application/octet-stream", stream.data
        )
    if is_attached_picture(stream):
        if container.format.name not in _COVERS:
            raise ValueError(f"no cover pictures in {container.format.name}")
        if matroska:
            return None
    copy = container.add_stream_from_template(stream, opaque=True)
    copy.disposition = stream.disposition
    copy.time_base = stream.time_base
    return copy


def _way(suffix: str, stream) -> Callable | None:
    ways = [copy_stream, *([subtitles.add] if subtitles.other_form(stream) else [])]
    for way in ways:
        if _written_header(suffix, partial(way, stream=stream)) is not None:
            return way
    return None


def _time_base(suffix: str, clip: Clip, encoding: Encoding) -> Fraction | None:
    """The unit of time of the video in a container, or None when it does not take the codec."""

    def add(container):
        stream = container.add_stream(encoding.codec)
        encoding.configure(stream.codec_context, clip, (256, 256))
        stream.time_base = clip.time_base
        return stream

    return _written_header(suffix, add)


def _written_header(suffix: str, add: Callable) -> Fraction | None:
    memory = io.BytesIO()
    memory.name = f"trial{suffix}"  # FFmpeg chooses the container by it
    try:
        with pyav().open(memory, "w") as container:
            if container.format.no_file:  # a playlist, and files beside it
                return None
            stream = add(container)
            if stream is None:
                return Fraction(1)
            container.start_encoding()
            return stream.time_base
    except (pyav().FFmpegError, ValueError):
        return None


def _losses(suffix: str, clip: Clip, encoding: Encoding) -> tuple[str, ...]:
    losses = list(clip.lost)
    time_base = _time_base(suffix, clip, encoding)
    if any((pts * clip.time_base / time_base).denominator > 1 for pts in clip.pts):
        losses.append(f"times are rounded to {float(time_base):g} s, the unit of {suffix}")
    depth = layout(encoding.pixel_format).depth
    if depth < clip.depth:
        losses.append(f"{clip.depth} bits a sample become {depth}")
    if clip.hdr is not None and not encoding.carries_hdr():
        losses.append(f"HDR10 metadata: {encoding.codec} does not write it")
    if clip.hdr is not None and bool(clip.hdr.primaries) != bool(clip.hdr.luminance):
        losses.append("HDR10 mastering display: only half of it is stated")
    return tuple(losses)
