"""A clip by its path, and its frames, exactly those asked for.

Decoding starts at the key frame before the first one asked for, and every frame that the packets
promise has to come out, in order, at its own time. Decoders conceal damage and skip what they
cannot decode; neither is passed off as whole. What no decoder notices (bits that changed into other
valid bits) is not noticed here either.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pysr.video import images, planes, probing, sidedata
from pysr.video.clip import Clip, VideoError, opened, pyav

# Decoders that mark no frame in which they concealed damage; asked to, they refuse it.
_SILENT = ("mjpeg",)


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Attributes:
        index: its number in the clip, from 0.
        pts, duration: in the clip's time base.
        planes: luma and two chroma planes, (H, W) and (h, w), uint8 of 8 bits, else uint16; of RGB
            green, blue and red.
        lost: what came with it that pysr cannot carry into a result, in words.
    """

    index: int
    pts: int
    duration: int
    planes: tuple[Tensor, Tensor, Tensor]
    lost: tuple[str, ...] = ()


def probe(path: str | Path, stream: int | None = None) -> Clip:
    """Read what a video file, or an image sequence, holds.

    Args:
        path: a video file, a folder of pictures, or a pattern such as frames/%05d.png.
        stream: index of the video stream among all streams; FFmpeg's choice when None.
    Raises:
        VideoError: not readable, no video stream, no frames, interlaced, truncated, a resolution,
            pixel format or colour that changes on the way; one line that says what to do.
    """
    path = Path(path)
    if images.is_sequence(path):
        return images.probe(path)
    return probing.probe(path, stream)


def read(clip: Clip, first: int = 0, stop: int | None = None) -> Iterator[Frame]:
    """Frames first to stop - 1 of a clip.

    Raises:
        VideoError: a frame that is missing, damaged, interlaced or of another size, pixel format or
            colour, by its number.
    """
    stop = len(clip) if stop is None else stop
    if not 0 <= first <= stop <= len(clip):
        raise VideoError(
            f"{clip.path}: frames {first} to {stop}: the clip has frames 0 to {len(clip)}"
        )
    source = images.decoded if clip.files else _decoded
    for index, taken, lost in source(clip, first, stop):
        yield Frame(index, clip.pts[index], clip.durations[index], taken, lost)


def _decoded(clip: Clip, first: int, stop: int) -> Iterator[tuple[int, tuple, tuple[str, ...]]]:
    """Numbers, planes and what is lost, from the nearest key frame that leads to `first` undamaged.

    A key frame may be only a point that decoding recovers at (open and rolling refresh), or none,
    whatever its packet says; a straight decode is then exact where one from there is not, so that
    earlier ones are tried, in growing steps: some decoders mark no frame as one to begin at.
    """
    expected = first
    usable = bisect_right(clip.keys, first)
    back = 1
    while expected < stop:
        key = clip.keys[usable - 1] if usable > 0 else 0
        try:
            with contextlib.closing(_from_key(clip, key, expected, stop)) as frames:
                for found in frames:
                    yield found
                    expected = found[0] + 1
        except _Damaged as problem:
            if expected > first or key == 0:
                raise VideoError(f"{clip.path}: frame {problem}") from None
            usable -= back
            back *= 2


class _Damaged(Exception):
    """What is wrong with a frame, beginning with its number."""


def _from_key(clip: Clip, key: int, first: int, stop: int) -> Iterator[tuple]:
    av = pyav()
    expected = first
    with opened(clip.path) as container:
        stream = container.streams[clip.stream]
        stream.thread_type = "AUTO"
        if clip.codec in _SILENT:
            stream.codec_context.options = {"err_detect": "explode"}
        for other in container.streams:
            if other.index != clip.stream:
                other.discard = av.stream.Discard.all
        begun = key == 0
        try:
            if key > 0:
                container.seek(clip.pts[key], stream=stream)
            for frame in container.decode(stream):
                if expected == stop:
                    return
                if frame.pts is None:
                    continue
                # A seek may land behind it; many decoders then give grey pictures without a word.
                begun = begun or (frame.pts == clip.pts[key] and frame.key_frame)
                if frame.pts < clip.pts[expected]:
                    continue
                if not begun:
                    raise _Damaged(f"{expected} cannot be reached from frame {key}")
                _check(clip, frame, expected)
                yield expected, planes.from_frame(frame), sidedata.lost(frame)
                expected += 1
        except av.FFmpegError as error:
            raise _Damaged(f"{expected} cannot be decoded ({error.strerror})") from None
    if expected < stop:
        raise _Damaged(f"{expected} is missing: the file is damaged or truncated")


def _check(clip: Clip, frame, expected: int) -> None:
    changed = probing.change(clip, frame, f"at frame {expected}")
    if changed is not None:
        raise VideoError(changed)
    if frame.interlaced_frame:
        raise VideoError(
            f"{clip.path}: frame {expected} is interlaced; deinterlace the clip first, "
            "for example: ffmpeg -i IN -vf bwdif -c:a copy OUT"
        )
    if frame.pts != clip.pts[expected]:
        raise _Damaged(f"{expected} is missing: the file is damaged there")
    if frame.is_corrupt:
        raise _Damaged(f"{expected} is damaged")
