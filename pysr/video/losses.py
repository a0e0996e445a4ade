"""What a finished file holds differently from the clip it was made from, in words."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from pysr.video import tags
from pysr.video.clip import Clip, Hdr, opened
from pysr.video.containers import carried
from pysr.video.encoding import Encoding
from pysr.video.probing import in_words, is_attached_picture

_CHAPTERS_ALIKE = Fraction(1, 20)  # seconds; FFmpeg rounds their times


def tags_lost(rehearsed: Clip, clip: Clip, target: Path, encoding: Encoding) -> tuple[str, ...]:
    """What of a clip's tags a rehearsal did not show, in words."""
    lost = []
    if rehearsed.sample_aspect != clip.sample_aspect:
        lost.append(_aspect_lost(clip, target.suffix))
    if encoding.carries_hdr() and not _close(rehearsed.hdr, clip.hdr):
        lost.append(f"HDR10 metadata: {target.suffix} with {encoding.codec} does not hold it")
    for name in ("primaries", "transfer"):
        there, expected = getattr(rehearsed.colour, name), getattr(clip.colour, name)
        if there != expected:
            lost.append(
                f"the colour tag {name} {expected} is lost (ITU-T H.273): {target.suffix} with "
                f"{encoding.codec} says {there}"
            )
    return tuple(lost)


def _aspect_lost(clip: Clip, suffix: str) -> str:
    return f"the sample aspect {clip.sample_aspect} is lost: {suffix} needs H.264 or HEVC for it"


def _close(a: Hdr | None, b: Hdr | None) -> bool:
    """But for rounding: codecs write HDR10 metadata in units of their own."""
    if a is None or b is None:
        return a is b
    both = ((a.primaries, b.primaries), (a.luminance, b.luminance), (a.light, b.light))
    return all(
        x == y
        or (x is not None and y is not None)
        and all(abs(u - v) <= Fraction(1, 10_000) + v / 1000 for u, v in zip(x, y, strict=True))
        for x, y in both
    )


def changes(path: Path, suffix: str, file, clip: Clip) -> list[str]:
    """What the finished file holds differently from the source, found by reading it."""
    if file is None:
        return []
    with opened(path) as written:
        found = []
        for before, after in matching_tracks(written, suffix, file, clip):
            if before.index == clip.stream:
                found += _video_changes(suffix, clip, written, after)
            found += [f"{in_words(before)}: {lost} is lost" for lost in _marks(before, after)]
        before, after = (_beginnings(container) for container in (file, written))
        if len(before) != len(after):
            found.append("chapters are lost")
        elif any(abs(a - b) > _CHAPTERS_ALIKE for a, b in zip(before, after, strict=True)):
            found.append(f"chapters begin elsewhere: {suffix} holds no gaps between them")
        names = {name.lower() for name in written.metadata}
        gone = [name for name in tags.kept(file.metadata) if name.lower() not in names]
        return found + [f"the tag {name} is lost" for name in gone]


def _beginnings(container) -> list[Fraction]:
    return [chapter["start"] * chapter["time_base"] for chapter in container.chapters()]


def matching_tracks(written, suffix: str, file, clip: Clip) -> list[tuple]:
    """The tracks of a source that a finished file has too, and there."""
    kept = {clip.stream, *carried(suffix, file, clip)}
    sources = _tracks(s for s in file.streams if s.index in kept)
    return list(zip(sources, _tracks(written.streams), strict=False))


def _tracks(streams) -> list:
    """Without pictures and attachments, which some containers list after everything else."""
    return [s for s in streams if s.type != "attachment" and not is_attached_picture(s)]


def _video_changes(suffix: str, clip: Clip, written, stream) -> Iterator[str]:
    first = next(iter(written.demux(stream)))
    shift = first.pts * first.time_base - clip.pts[0] * clip.time_base
    if abs(shift) > stream.time_base:
        yield f"all times are {float(shift):+.3f} s: {suffix} begins elsewhere"
    if (stream.sample_aspect_ratio or 1) != clip.sample_aspect:
        yield _aspect_lost(clip, suffix)


def _marks(before, after) -> Iterator[str]:
    if before.type != after.type:
        yield f"what it is ({after.type} now)"
    missing = before.disposition & ~after.disposition
    if missing:
        yield f"the mark {missing.name}"
    if (before.language or "und") != (after.language or "und"):
        yield "its language"
    if tags.title(before.metadata) != tags.title(after.metadata):
        yield "its title"
