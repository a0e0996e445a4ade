"""The finished file: the segments' packets at their true times, and all that came with the clip.

Segments count frames; here each packet gets the time its frame has in the clip. Decoding times are
computed anew for the whole stream, the presentation times in order, shifted by the deepest
reordering in any segment: so they rise across the joints whatever encoders thought of them.
"""

from __future__ import annotations

import errno
import heapq
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pysr.files import written_whole
from pysr.video import images, subtitles, sync, tags
from pysr.video.clip import Clip, VideoError, opened, pyav
from pysr.video.containers import carried, check_target, source
from pysr.video.encoding import Encoding
from pysr.video.losses import changes, matching_tracks
from pysr.video.probing import in_words, is_attached_picture
from pysr.video.reader import probe, read
from pysr.video.writer import FIRST_PTS, FRAME, SegmentWriter

# Tags that MP4 and QuickTime have places of their own for; with any other, all go to free ones.
_MP4_TAGS = set(
    "title artist album album_artist composer comment copyright date description genre grouping "
    "lyrics show synopsis track creation_time".split()
)
_REHEARSED = 8  # frames: with some between others, as encoders have them
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
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
        with written_whole(target) as beside, source(clip) as file:
            _write(beside, target.suffix, file, clip, measured)
            return (*losses, *changes(beside, target.suffix, file, clip))
    except pyav().FFmpegError as error:
        raise VideoError(f"{target}: cannot be written ({error.strerror})") from None


def rehearse(
    target: Path, clip: Clip, encoding: Encoding, size: tuple[int, int], folder: Path
) -> Clip:
    """Write the file that will be, with a few black frames, into `folder`, and read it back.

    Some muxers take a stream's header and find out only from its packets that they cannot hold it,
    or write what nobody can read; better now than after hours.

    Args:
        size: (height, width) of the result.
    Returns:
        What was read back, with the tags that the target holds; the clip itself for pictures.
    Raises:
        VideoError: if that is so, or if the encoder refuses the size.
    """
    if encoding.images:
        return clip
    count = min(len(clip), _REHEARSED)
    few = replace(clip, pts=clip.pts[:count], durations=clip.durations[:count], keys=(0,))
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        black, whole = Path(scratch, "black.mkv"), Path(scratch, f"whole{target.suffix}")
        try:
            with SegmentWriter(black, few, size, encoding) as writer:
                samples = writer.samples(torch.zeros(3, *size))
                for pts, duration in zip(few.pts, few.durations, strict=True):
                    writer.write(samples, pts, duration)
            return _tried(whole, few, _measured(target, few, [black]))
        except (pyav().FFmpegError, VideoError) as error:
            problem = getattr(error, "strerror", None) or str(error)
            problem = problem.removeprefix(f"{whole}: ").removeprefix(f"{black}: ")
            if getattr(error, "errno", None) in _OF_THE_DISK:
                raise VideoError(f"{target}: cannot be written ({problem})") from None
            other = target.suffix.lower() != ".mkv"
            remedy = "; a name ending in .mkv holds nearly everything" if other else ""
            raise VideoError(
                f"{target}: {target.suffix} cannot hold this clip ({problem}){remedy}"
            ) from None


def _tried(whole: Path, clip: Clip, segments: list[_Segment]) -> Clip:
    """Writes a file and reads it back. Raises VideoError or FFmpegError, if something is wrong."""
    with source(clip) as file:
        _write(whole, whole.suffix, file, clip, segments)
        made = probe(whole, result_stream(whole, clip))
        for _ in read(made):  # some write times that packets and decoder do not agree on
            pass
        elsewhere = sync.problems(whole, made, clip)
        if elsewhere:
            raise VideoError(f"it would be wrong in {', '.join(elsewhere)}")
        if made.rotation != clip.rotation:
            raise VideoError(f"the rotation by {clip.rotation} degrees would be lost")
        if _mirrors(made) != _mirrors(clip):
            raise VideoError("that a player mirrors the picture would be lost")
        if file is not None:
            with opened(whole) as written:
                for before, after in matching_tracks(written, whole.suffix, file, clip):
                    if before.type in ("audio", "subtitle") and after.type != before.type:
                        raise VideoError(f"{in_words(before)} would be {after.type} there")
    return made


def _mirrors(clip: Clip) -> bool:
    """Whether a player mirrors the picture, beside turning it: flips are a rotation with that."""
    if clip.display_matrix is None:
        return False
    a, b, _, c, d, *_ = clip.display_matrix
    return a * d < b * c


def result_stream(path: Path, clip: Clip) -> int | None:
    """The result's number among the streams of a file that was made from a clip: of its videos the
    same as before. None where that does not matter, or cannot be told."""
    if path.is_dir() or clip.files or not path.exists():
        return None
    numbers = []
    for file in (clip.path, path):
        with opened(file) as container:
            videos = [s.index for s in container.streams.video if not is_attached_picture(s)]
            numbers.append(videos)
    before, after = numbers
    return after[before.index(clip.stream)] if len(before) == len(after) else None


def _measured(target: Path, clip: Clip, segments: Sequence[str | Path]) -> list[_Segment]:
    measured, first = [], 0
    for path in map(Path, segments):
        with opened(path) as container:
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


def _write(path: Path, suffix: str, file, clip: Clip, segments: list[_Segment]) -> None:
    options = _muxer_options(suffix, file)
    with (
        opened(path, "w", container_options=options) as container,
        opened(segments[0].path) as template,
    ):
        ways = carried(suffix, file, clip)
        copies = _streams(container, suffix, file, clip, template.streams.video[0], ways)
        video = copies.pop(clip.stream)
        headers = template.streams.video[0].codec_context.extradata
        packets = [_video_packets(clip, segments, video, headers, suffix)]
        if file is not None:
            container.metadata.update(tags.kept(file.metadata))
            container.set_chapters(file.chapters())
            packets.append(_copied_packets(file, copies, ways, suffix))
        for packet in heapq.merge(*packets, key=_seconds):
            container.mux(packet)


def _muxer_options(suffix: str, file) -> dict[str, str]:
    if suffix.lower() == ".mkv":
        return {"default_mode": "passthrough"}  # else the first tracks become the default ones
    if suffix.lower() not in _MP4_SUFFIXES:
        return {}
    # Tracks that start late do so in this unit; milliseconds would move sound by samples.
    options = {"movie_timescale": "90000"}
    if file is not None and set(tags.kept(file.metadata)) - _MP4_TAGS:
        options["movflags"] = "use_metadata_tags"
    return options


def _streams(container, suffix: str, file, clip: Clip, template, ways: dict) -> dict:
    """The target's streams by their number in the source, in the source's order."""
    copies = {}
    for index in sorted({clip.stream, *ways}):
        if index == clip.stream:
            copies[index] = _video_stream(container, suffix, file, clip, template)
            continue
        origin = file.streams[index]
        copy = ways[index](container, origin)
        if copy is None:
            _attach_picture(container, clip, origin)
        else:
            copy.metadata.update(tags.named(tags.kept(origin.metadata)))
            copies[index] = copy
    return copies


def _video_stream(container, suffix: str, file, clip: Clip, template):
    video = container.add_stream_from_template(template, opaque=True)
    video.time_base = clip.time_base
    video.codec_context.framerate = clip.rate
    video.codec_context.sample_aspect_ratio = clip.sample_aspect
    if suffix.lower() in _MP4_SUFFIXES and template.codec_context.name == "hevc":
        video.codec_context.codec_tag = "hvc1"  # Apple's players know no other
    if clip.display_matrix is not None:
        video.set_display_matrix(_scaled(clip.display_matrix, template.width / clip.width))
    if file is not None:
        origin = file.streams[clip.stream]
        video.disposition = origin.disposition
        video.metadata.update(tags.named(tags.kept(origin.metadata)))
    return video


def _scaled(matrix: tuple[int, ...], scale: float) -> tuple[int, ...]:
    """A display matrix for a larger picture: what it shifts, it shifts by more."""
    return (*matrix[:6], round(matrix[6] * scale), round(matrix[7] * scale), matrix[8])


def _attach_picture(container, clip: Clip, stream) -> None:
    with opened(clip.path) as again:
        picture = next(bytes(p) for p in again.demux(stream.index) if p.size)
    kind = {"mjpeg": "jpeg"}.get(stream.codec_context.name, stream.codec_context.name)
    name = stream.metadata.get("filename", f"cover.{kind.replace('jpeg', 'jpg')}")
    container.add_attachment(name, stream.metadata.get("mimetype", f"image/{kind}"), picture)


def _video_packets(clip: Clip, segments: list[_Segment], stream, headers, suffix: str) -> Iterator:
    depth = max(segment.reordering for segment in segments)

    def decoded_at(turn: int) -> int:
        early = depth - turn
        return clip.pts[0] - early * clip.durations[0] if early > 0 else clip.pts[turn - depth]

    for segment in segments:
        with opened(segment.path) as container:
            if container.streams.video[0].codec_context.extradata != headers:
                raise VideoError(f"{segment.path}: encoded in another way than the segments before")
            kept = (p for p in container.demux(video=0) if p.pts is not None)
            for turn, packet in enumerate(kept, segment.first):
                number = segment.first + _number(packet)
                packet.stream = stream
                packet.time_base = clip.time_base
                packet.pts, packet.duration = clip.pts[number], clip.durations[number]
                packet.dts = decoded_at(turn)
                if suffix.lower() in _MP4_SUFFIXES and turn == len(clip) - 1:
                    # It states how long packets take in the order of decoding: all in all the clip.
                    rest = clip.pts[-1] + clip.durations[-1] - clip.pts[0]
                    rest -= decoded_at(turn) - decoded_at(0)
                    packet.duration = max(packet.duration, rest)
                yield packet


def _copied_packets(file, copies: dict, ways: dict, suffix: str) -> Iterator:
    keep = pyav().stream.Discard
    for stream in file.streams:
        stream.discard = keep.default if stream.index in copies else keep.all
    every = file.demux()
    for packet in every if suffix.lower() in _MP4_SUFFIXES else sync.heard(every):
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
