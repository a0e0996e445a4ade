"""What a video file holds, found without decoding it.

A probe demuxes every packet once: the packets are the only honest table of frames and times
(headers lie about counts and rates), and they show a file that ends early before hours are spent on
it. One frame is decoded, for what FFmpeg hands out with frames alone: HDR10 and the display matrix.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

from pysr.video import integrity, sidedata
from pysr.video.clip import Clip, ColourTags, VideoError, opened, pyav
from pysr.video.colour import check_tags, convert_alike, resolved
from pysr.video.ffv1 import SliceChecks
from pysr.video.hidden import HiddenFrames
from pysr.video.planes import layout

_PROGRESSIVE = (0, 1)  # AVFieldOrder: unknown or progressive
_RGB, _UNSPECIFIED, _FULL = 0, 2, 2  # matrices and a range (ITU-T H.273)
# What AVI cannot tell the display times of, where frames are kept in another order.
_REORDERED_IN_AVI = ("h264", "hevc")
_RATES_ALIKE = Fraction(1, 20)
_LISTS = {"concat", "dash", "hls", "imf", "webm_dash_manifest"}  # formats that name other files
_VP9_ALPHA = "alpha_mode"  # the tag of transparency, which FFmpeg's own decoder does not show


@dataclass
class _Packets:
    """The packets of the video stream, in the order they are decoded in."""

    pts: list[int] = field(default_factory=list)
    keys: list[bool] = field(default_factory=list)
    size: int = 0  # bytes
    undecodable: int = 0  # at the beginning, where others that they need are missing
    last_duration: int = 0
    end: Fraction = Fraction(0)  # of all streams, in seconds


def probe(path: Path, index: int | None) -> Clip:
    """See `pysr.video.reader.probe`."""
    if not path.exists():
        raise VideoError(f"{path}: no such file")
    if not path.is_file():
        raise VideoError(f"{path}: expected a file, which is read more than once, got a pipe")
    try:
        with opened(path) as container:
            _check_own(path, container)
            stream = _choose(path, container, index)
            clip, first = _describe(path, container, stream)
        with opened(path) as container:
            listed = integrity.listed(container.streams[clip.stream])
            packets = _packets(path, container, clip, first)
            integrity.check(clip, container, packets.pts, packets.end, listed)
    except pyav().FFmpegError as error:
        raise VideoError(
            f"{path}: not readable as video: {error.strerror} (damaged, truncated or no video?)"
        ) from None
    return _with_times(clip, packets)


def _check_own(path: Path, container) -> None:
    """Refuse a list of other files, which may change while this one stays."""
    if _LISTS & set(container.format.name.split(",")):
        raise VideoError(
            f"{path}: expected a clip, got a list of other files ({container.format.name}); join "
            "them first: ffmpeg -i IN -map 0 -c copy OUT.mkv"
        )


def _choose(path: Path, container, index: int | None):
    """The video stream to work on; cover pictures do not count."""
    videos = [s for s in container.streams.video if not is_attached_picture(s)]
    if not videos:
        kinds = sorted({s.type for s in container.streams} - {"video"})
        has = f"only {', '.join(kinds)}" if kinds else "none"
        raise VideoError(f"{path}: expected a video stream, the file has {has}")
    if index is None:
        best = container.streams.best("video")
        return best if best in videos else videos[0]
    chosen = next((s for s in videos if s.index == index), None)
    if chosen is None:
        numbers = ", ".join(str(s.index) for s in videos)
        raise VideoError(f"{path}: stream {index} is no video stream; choose one of {numbers}")
    return chosen


def is_attached_picture(stream) -> bool:
    return bool(stream.disposition & type(stream.disposition).attached_pic)


def _describe(path: Path, container, stream) -> tuple[Clip, int | None]:
    """What the header and the first frame say, since the header alone may not know the format; and
    the time of that frame."""
    if stream.codec_context is None:
        raise VideoError(f"{path}: FFmpeg cannot decode the codec of stream {stream.index}")
    frame = None
    with contextlib.suppress(EOFError):
        frames = container.decode(stream)
        frame = next((f for f in frames if not f.is_corrupt), None)
    if frame is None:
        raise VideoError(f"{path}: stream {stream.index} holds no frame that can be decoded")
    if stream.codec_context.field_order not in _PROGRESSIVE or frame.interlaced_frame:
        raise _interlaced(path)
    codec = stream.codec_context
    if container.format.name == "avi" and codec.name in _REORDERED_IN_AVI and codec.has_b_frames:
        raise VideoError(
            f"{path}: AVI keeps no display times of B-frames; re-encode it without loss first: "
            "ffmpeg -i IN -map 0 -c:v ffv1 -c:a copy OUT.mkv"
        )
    pixel_format = frame.format.name
    format_ = layout(pixel_format)
    description = sidedata.description(container)
    # As FFmpeg reads grey that does not say so.
    full = pixel_format.startswith("yuvj") or (format_.grey and frame.color_range == 0)
    transparent = format_.alpha or stream.metadata.get(_VP9_ALPHA) == "1"
    colour = ColourTags(
        matrix=_RGB if format_.rgb else _matrix(frame),
        range=_FULL if full else frame.color_range,
        primaries=frame.color_primaries,
        transfer=frame.color_trc,
        chroma_location=sidedata.chroma_location(description, stream.index),
    )
    check_tags(colour)
    clip = Clip(
        path=path,
        stream=stream.index,
        codec=stream.codec_context.name,
        width=frame.width,
        height=frame.height,
        depth=format_.depth,
        pixel_format=pixel_format,
        time_base=stream.time_base,
        rate=stream.average_rate or Fraction(0),
        pts=(),
        durations=(),
        keys=(),
        sample_aspect=stream.sample_aspect_ratio or Fraction(1),
        display_matrix=sidedata.display_matrix(frame),
        rotation=frame.rotation % 360,
        colour=resolved(colour, frame.height),
        hdr=sidedata.hdr(frame),
        others=_others(container, stream),
        lost=(
            *(("transparency",) if transparent else ()),
            *sidedata.lost(frame),
            *sidedata.crop_lost(description, stream.index),
        ),
    )
    return clip, frame.pts


def _interlaced(path: Path) -> VideoError:
    return VideoError(
        f"{path}: the video is interlaced; deinterlace it first, "
        "for example: ffmpeg -i IN -vf bwdif -c:a copy OUT"
    )


def _others(container, stream) -> tuple[str, ...]:
    words = [in_words(s) for s in container.streams if s.index != stream.index]
    chapters = len(container.chapters())
    return (*words, f"{chapters} chapters") if chapters else tuple(words)


def in_words(stream) -> str:
    """A stream as a user would name it: stream 2: audio aac, fra."""
    codec = stream.codec_context.name if stream.codec_context else getattr(stream, "name", None)
    parts = [f"{stream.type} {codec or ''}".strip()]
    if stream.language not in (None, "und"):
        parts.append(stream.language)
    if is_attached_picture(stream):
        parts.append("cover picture")
    return f"stream {stream.index}: {', '.join(parts)}"


def _packets(path: Path, container, clip: Clip, first: int | None) -> _Packets:
    """The packets of a clip whose first decoded frame has the time `first`."""
    found, begin = _Packets(), None
    changes = _Changes(container.streams[clip.stream], clip)
    slices = SliceChecks()
    hidden = HiddenFrames(path, container.streams[clip.stream])
    # Matroska states how long a frame is shown, others how long until the next packet is decoded.
    of_frames, latest = container.format.name.startswith("matroska"), -math.inf
    for packet in container.demux():
        if packet.pts is None:
            if packet.stream_index == clip.stream and packet.size:
                raise VideoError(
                    f"{path}: packets without times; remux it first: "
                    "ffmpeg -fflags +genpts -i IN -map 0 -c copy OUT.mkv"
                )
            continue  # what flushes decoders, and attachments
        duration = packet.duration or 0
        found.end = max(found.end, (packet.pts + duration) * packet.time_base)
        if packet.stream_index != clip.stream:
            continue
        if begin is None and packet.is_keyframe:
            begin = packet.pts
        found.size += packet.size
        # What an edit list hides is decoded, since other frames are built on it.
        if packet.is_discard or hidden.is_hidden(packet):
            continue
        if packet.is_corrupt:
            raise _damaged(path, packet.pts * packet.time_base)
        if clip.codec == "ffv1":
            slices.add(packet)
        # A cut recording may begin with frames that refer to some before the cut; these may come
        # after its first key frame, and be shown before it.
        if begin is None or (first is not None and packet.pts < min(first, begin)):
            found.undecodable += 1
            continue
        changes.check(packet)
        found.pts.append(packet.pts)
        found.keys.append(packet.is_keyframe)
        if not of_frames or packet.pts > latest:
            latest, found.last_duration = packet.pts, duration
    if slices.damaged:
        raise _damaged(path, min(slices.damaged) * clip.time_base)
    return found


def _damaged(path: Path, time: Fraction) -> VideoError:
    return VideoError(
        f"{path}: damaged or truncated at {float(time):.3f} s; copy the file again, or cut it "
        "before that time"
    )


class _Changes:
    """Notices a resolution, sample aspect, pixel format or colour that changes on the way, where
    new codec headers announce it.

    Only such key frames are decoded; `pysr.video.reader` looks at every frame.
    """

    def __init__(self, stream, clip: Clip):
        self._clip = clip
        self._stream = stream
        self._headers = None
        self._first = None  # the packet that came with the first headers
        self._extract = None
        # avcC and hvcC (which begin with 1): the headers are in the container, not in the packets.
        if not (stream.codec_context.extradata or b"").startswith(b"\x01"):
            with contextlib.suppress(pyav().FFmpegError):  # a codec without such headers
                self._extract = pyav().bitstream.BitStreamFilterContext("extract_extradata", stream)

    def check(self, packet) -> None:
        if not packet.is_keyframe:
            return
        headers = self._headers_of(packet)
        if headers is None or headers == self._headers:
            return
        if self._headers is None:
            self._first = packet
        else:
            self._compare(packet)
        self._headers = headers

    def _headers_of(self, packet) -> bytes | None:
        if packet.has_sidedata("new_extradata"):
            return bytes(packet.get_sidedata("new_extradata"))
        if self._extract is None:
            return None
        copy = pyav().Packet(bytes(packet))
        copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
        for filtered in self._extract.filter(copy):
            if filtered.has_sidedata("new_extradata"):
                return bytes(filtered.get_sidedata("new_extradata"))
        return None

    def _compare(self, packet) -> None:
        where = f"at {float(packet.pts * packet.time_base):.3f} s"
        frames, aspect = self._decoded(packet)
        for frame in frames:
            changed = change(self._clip, frame, where)
            if changed is not None:
                raise VideoError(changed)
        begun, before = self._decoded(self._first)
        if begun and frames and aspect != before:
            raise VideoError(_changed(self._clip, "sample aspect", where, before, aspect))

    def _decoded(self, packet) -> tuple[list, Fraction]:
        """The frames of a key frame's packet by itself, and their sample aspect."""
        decoder = pyav().CodecContext.create(self._stream.codec_context.codec.name, "r")
        decoder.extradata = self._stream.codec_context.extradata
        frames = decoder.decode(packet) + decoder.decode(None)
        return frames, decoder.sample_aspect_ratio or Fraction(1)


def change(clip: Clip, frame, where: str) -> str | None:
    """What a frame has differently from the first, in words; None where nothing that matters."""
    if (frame.width, frame.height) != (clip.width, clip.height):
        what, before = "resolution", f"{clip.width}x{clip.height}"
        after = f"{frame.width}x{frame.height}"
    elif frame.format.name != clip.pixel_format:
        what, before, after = "pixel format", clip.pixel_format, frame.format.name
    elif clip.colour.matrix != _RGB and not convert_alike(
        ColourTags(matrix=_matrix(frame), range=frame.color_range), clip.colour
    ):
        what = "colour (matrix, range)"
        before = f"({clip.colour.matrix}, {clip.colour.range})"
        after = f"({frame.colorspace}, {frame.color_range})"
    else:
        return None
    return _changed(clip, what, where, before, after)


def _changed(clip: Clip, what: str, where: str, before: object, after: object) -> str:
    return (
        f"{clip.path}: the {what} changes {where} from {before} to {after}; cut the file there and "
        "upscale the parts"
    )


def _matrix(frame) -> int:
    """Of a frame that is not in RGB; some files say RGB of what is none."""
    return frame.colorspace or _UNSPECIFIED


def _with_times(clip: Clip, packets: _Packets) -> Clip:
    if not packets.pts:
        raise VideoError(f"{clip.path}: stream {clip.stream} holds no frames")
    order = sorted(range(len(packets.pts)), key=packets.pts.__getitem__)
    pts = tuple(packets.pts[i] for i in order)
    # Packets' own durations follow the decoding order in some containers; times do not.
    durations = [after - before for before, after in zip(pts, pts[1:], strict=False)]
    if 0 in durations:
        at = float(pts[durations.index(0)] * clip.time_base)
        raise VideoError(
            f"{clip.path}: two frames share the time {at:.3f} s; re-encode the clip first"
        )
    rate = clip.rate or Fraction(25)
    if durations:
        # Stated ones are exact where times are rounded, and sometimes made up.
        counted = len(durations) / ((pts[-1] - pts[0]) * clip.time_base)
        rate = rate if abs(rate / counted - 1) < _RATES_ALIKE else counted
    durations.append(packets.last_duration or round(1 / rate / clip.time_base))
    undecodable = f"frames at the beginning that need some before it: {packets.undecodable}"
    return replace(
        clip,
        pts=pts,
        durations=tuple(durations),
        size=packets.size,
        # The first frame may follow a key frame that an edit list hides.
        keys=tuple(n for n, i in enumerate(order) if packets.keys[i] or n == 0),
        rate=rate,
        lost=clip.lost + ((undecodable,) if packets.undecodable else ()),
    )
