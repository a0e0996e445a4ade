"""The finished file: the segments' packets at their true times, and all that came with the clip.

Segments count frames; here each packet gets the time its frame has in the clip. Decoding times are
computed anew for the whole stream, the presentation times in order, shifted by the deepest
reordering in any segment: so they rise across the joints whatever encoders thought of them.
"""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pysr.files import written_whole
from pysr.video import images, subtitles
from pysr.video.clip import Clip, VideoError, pyav
from pysr.video.containers import carried, check_target, source
from pysr.video.encoding import Encoding
from pysr.video.probing import in_words, is_attached_picture
from pysr.video.reader import probe
from pysr.video.writer import FIRST_PTS, FRAME, SegmentWriter

__all__ = ["assemble", "check_target", "rehearse"]

# What describes the old file and not the film; the muxer writes its own.
_TECHNICAL = {"major_brand", "minor_version", "compatible_brands", "encoder", "vendor_id"}
_STATISTICS = ("duration", "bps", "number_of_frames", "number_of_bytes", "_statistics_")
# Tags that MP4 and QuickTime have places of their own for; with any other, all go to free ones.
_MP4_TAGS = set(
    "title artist album album_artist composer comment copyright date description genre grouping "
    "lyrics show synopsis track creation_time".split()
)
_REHEARSED = 8  # frames: with some between others, as encoders have them
_MP4_SUFFIXES = (".mp4", ".m4v", ".mov")


@dataclass(frozen=True)
class _Segment:
    path: Path
    first: int  # number of its first frame in the clip
    frames: int
    reordering: int  # how many packets a frame comes after its turn, at most


def assemble(
    target: str | Path, clip: Clip, segments: Sequence[str | Path], encoding: Encoding
) -> tuple[str, ...]:
    """Write the target, whole or not at all; returns what it could not keep, in words.

    Args:
        target: a video file; for PNG a folder or a pattern.
        clip: the source.
        segments: files of SegmentWriter that hold the clip's frames, all of them, in order.
        encoding: theirs.
    Raises:
        VideoError: as `check_target`, and for frames that are missing or too many.
    """
    target = Path(target)
    losses = check_target(target, clip, encoding)
    if encoding.images:
        images.assemble(target, clip, [Path(segment) for segment in segments])
        return losses
    measured = _measured(target, clip, segments)
    try:
        with written_whole(target) as beside, source(clip) as opened:
            _write(beside, target.suffix, opened, clip, measured)
            return (*losses, *_changes(beside, target.suffix, opened, clip))
    except pyav().FFmpegError as error:
        raise VideoError(f"{target}: cannot be written ({error.strerror})") from None


def rehearse(
    target: Path, clip: Clip, encoding: Encoding, size: tuple[int, int], folder: Path
) -> None:
    """Write the file that will be, with a few black frames, into `folder`, and read it back.

    Some muxers take a stream's header and find out only from its packets that they cannot hold it,
    or write what nobody can read; better now than after hours.

    Args:
        size: (height, width) of the result.
    Raises:
        VideoError: if that is so, or if the encoder refuses the size.
    """
    if encoding.images:
        return
    count = min(len(clip), _REHEARSED)
    few = replace(clip, pts=clip.pts[:count], durations=clip.durations[:count], keys=(0,))
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        black, whole = Path(scratch, "black.mkv"), Path(scratch, f"whole{target.suffix}")
        with SegmentWriter(black, few, size, encoding) as writer:
            samples = writer.samples(torch.zeros(3, *size))
            for pts, duration in zip(few.pts, few.durations, strict=True):
                writer.write(samples, pts, duration)
        problem = _tried(whole, few, _measured(target, few, [black]))
    if problem:
        raise VideoError(
            f"{target}: {target.suffix} cannot hold this clip ({problem}); a name ending in .mkv "
            "holds nearly everything"
        )


def _tried(whole: Path, clip: Clip, segments: list[_Segment]) -> str:
    """What goes wrong in writing and reading a file, in words; empty if nothing does."""
    try:
        with source(clip) as opened:
            _write(whole, whole.suffix, opened, clip, segments)
            probe(whole)
            if opened is None:
                return ""
            with pyav().open(whole, metadata_errors="replace") as written:
                for before, after in _pairs(written, whole.suffix, opened, clip):
                    if before.type in ("audio", "subtitle") and after.type != before.type:
                        return f"{in_words(before)} would be {after.type} there"
        return ""
    except pyav().FFmpegError as error:
        return error.strerror
    except VideoError as error:
        return str(error).removeprefix(f"{whole}: ")


def _measured(target: Path, clip: Clip, segments: Sequence[str | Path]) -> list[_Segment]:
    measured, first = [], 0
    for path in map(Path, segments):
        with pyav().open(path) as container:
            numbers = [_number(p) for p in container.demux(video=0) if p.pts is not None]
            stated = container.metadata.get(FIRST_PTS)
        if sorted(numbers) != list(range(len(numbers))):
            raise VideoError(f"{path}: a segment with missing frames; delete it to make it again")
        if first < len(clip) and stated != str(clip.pts[first]):
            raise VideoError(f"{path}: expected the segment of frame {first}, this is another one")
        reordering = max((i - number for i, number in enumerate(numbers)), default=0)
        measured.append(_Segment(path, first, len(numbers), reordering))
        first += len(numbers)
    if first != len(clip):
        raise VideoError(f"{target}: expected {len(clip)} frames, the segments hold {first}")
    return measured


def _number(packet) -> int:
    return round(packet.pts * packet.time_base / FRAME)


def _write(path: Path, suffix: str, opened, clip: Clip, segments: list[_Segment]) -> None:
    av = pyav()
    options = _muxer_options(suffix, opened)
    with (
        av.open(path, "w", container_options=options) as container,
        av.open(segments[0].path) as template,
    ):
        ways = carried(suffix, opened, clip)
        copies = _streams(container, suffix, opened, clip, template.streams.video[0], ways)
        video = copies.pop(clip.stream)
        headers = template.streams.video[0].codec_context.extradata
        packets = [_video_packets(clip, segments, video, headers)]
        if opened is not None:
            container.metadata.update(_kept(opened.metadata))
            container.set_chapters(opened.chapters())
            packets.append(_copied_packets(opened, copies, ways))
        for packet in heapq.merge(*packets, key=_seconds):
            container.mux(packet)


def _muxer_options(suffix: str, opened) -> dict[str, str]:
    if suffix.lower() == ".mkv":
        return {"default_mode": "passthrough"}  # else the first tracks become the default ones
    if suffix.lower() not in _MP4_SUFFIXES:
        return {}
    # Tracks that start late do so in this unit; milliseconds would move sound by samples.
    options = {"movie_timescale": "90000"}
    if opened is not None and set(_kept(opened.metadata)) - _MP4_TAGS:
        options["movflags"] = "use_metadata_tags"
    return options


def _kept(metadata: dict[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in metadata.items()
        if name.lower() not in _TECHNICAL and not name.lower().startswith(_STATISTICS)
    }


def _streams(container, suffix: str, opened, clip: Clip, template, ways: dict) -> dict:
    """The target's streams by their number in the source, in the source's order."""
    copies = {}
    for index in sorted({clip.stream, *ways}):
        if index == clip.stream:
            copies[index] = _video_stream(container, suffix, opened, clip, template)
            continue
        origin = opened.streams[index]
        copy = ways[index](container, origin)
        if copy is None:
            _attach_picture(container, clip, origin)
        else:
            copy.metadata.update(_kept(origin.metadata))
            copies[index] = copy
    return copies


def _video_stream(container, suffix: str, opened, clip: Clip, template):
    video = container.add_stream_from_template(template, opaque=True)
    video.time_base = clip.time_base
    video.codec_context.framerate = clip.rate
    video.codec_context.sample_aspect_ratio = clip.sample_aspect
    if suffix.lower() in _MP4_SUFFIXES and template.codec_context.name == "hevc":
        video.codec_context.codec_tag = "hvc1"  # Apple's players know no other
    if clip.display_matrix is not None:
        video.set_display_matrix(_scaled(clip.display_matrix, template.width / clip.width))
    if opened is not None:
        origin = opened.streams[clip.stream]
        video.disposition = origin.disposition
        video.metadata.update(_kept(origin.metadata))
    return video


def _scaled(matrix: tuple[int, ...], scale: float) -> tuple[int, ...]:
    """A display matrix for a larger picture: what it shifts, it shifts by more."""
    return (*matrix[:6], round(matrix[6] * scale), round(matrix[7] * scale), matrix[8])


def _attach_picture(container, clip: Clip, stream) -> None:
    with pyav().open(clip.path, metadata_errors="replace") as again:
        picture = next(bytes(p) for p in again.demux(stream.index) if p.size)
    kind = {"mjpeg": "jpeg"}.get(stream.codec_context.name, stream.codec_context.name)
    name = stream.metadata.get("filename", f"cover.{kind.replace('jpeg', 'jpg')}")
    container.add_attachment(name, stream.metadata.get("mimetype", f"image/{kind}"), picture)


def _video_packets(clip: Clip, segments: list[_Segment], stream, headers) -> Iterator:
    depth = max(segment.reordering for segment in segments)
    for segment in segments:
        with pyav().open(segment.path) as container:
            if container.streams.video[0].codec_context.extradata != headers:
                raise VideoError(f"{segment.path}: encoded in another way than the segments before")
            kept = (p for p in container.demux(video=0) if p.pts is not None)
            for turn, packet in enumerate(kept, segment.first):
                number = segment.first + _number(packet)
                packet.stream = stream
                packet.time_base = clip.time_base
                packet.pts, packet.duration = clip.pts[number], clip.durations[number]
                early = depth - turn
                packet.dts = (
                    clip.pts[0] - early * clip.durations[0] if early > 0 else clip.pts[turn - depth]
                )
                yield packet


def _copied_packets(opened, copies: dict, ways: dict) -> Iterator:
    keep = pyav().stream.Discard
    for stream in opened.streams:
        stream.discard = keep.default if stream.index in copies else keep.all
    for packet in opened.demux():
        if packet.size == 0 and packet.pts is None:
            continue  # what flushes decoders
        if packet.stream_index not in copies or _is_gap(packet):
            continue
        copy = copies[packet.stream_index]
        if ways[packet.stream_index] is subtitles.add:
            packet = subtitles.converted(packet, copy)
        else:
            packet.stream = copy
        if packet is not None:
            yield packet


def _is_gap(packet) -> bool:
    """Between subtitles MP4 has empty ones, which its muxer writes by itself."""
    context = packet.stream.codec_context
    return context is not None and context.name == "mov_text" and bytes(packet) == b"\0\0"


def _seconds(packet) -> float:
    time = packet.pts if packet.dts is None else packet.dts
    return float("-inf") if time is None else float(time * packet.time_base)


def _changes(path: Path, suffix: str, opened, clip: Clip) -> list[str]:
    """What the finished file holds differently from the source, found by reading it."""
    if opened is None:
        return []
    with pyav().open(path, metadata_errors="replace") as written:
        changes = []
        for before, after in _pairs(written, suffix, opened, clip):
            if before.index == clip.stream:
                changes += _video_changes(suffix, clip, written, after)
            changes += [f"{in_words(before)}: {lost} is lost" for lost in _marks(before, after)]
        if len(opened.chapters()) != len(written.chapters()):
            changes.append("chapters are lost")
        names = {name.lower() for name in written.metadata}
        gone = [name for name in _kept(opened.metadata) if name.lower() not in names]
        return changes + [f"the tag {name} is lost" for name in gone]


def _pairs(written, suffix: str, opened, clip: Clip) -> list[tuple]:
    """The tracks of a source that a finished file has too, and there."""
    kept = {clip.stream, *carried(suffix, opened, clip)}
    sources = _tracks(s for s in opened.streams if s.index in kept)
    return list(zip(sources, _tracks(written.streams), strict=False))


def _tracks(streams) -> list:
    """Without pictures and attachments, which some containers list after everything else."""
    return [s for s in streams if s.type != "attachment" and not is_attached_picture(s)]


def _video_changes(suffix: str, clip: Clip, written, stream) -> Iterator[str]:
    first = next(iter(written.demux(stream)))
    shift = first.pts * first.time_base - clip.pts[0] * clip.time_base
    if abs(shift) > stream.time_base:
        yield f"all times are {float(shift):+.3f} s: {suffix} starts at zero"
    if (stream.sample_aspect_ratio or 1) != clip.sample_aspect:
        yield f"the sample aspect {clip.sample_aspect} is lost: {suffix} needs H.264 or HEVC for it"


def _marks(before, after) -> Iterator[str]:
    if before.type != after.type:
        yield f"what it is ({after.type} now)"
    missing = before.disposition & ~after.disposition
    if missing:
        yield f"the mark {missing.name}"
    if (before.language or "und") != (after.language or "und"):
        yield "its language"
    if before.metadata.get("title") != after.metadata.get("title"):
        yield "its title"
