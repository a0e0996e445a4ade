"""Whether a file is all there, and as it was written: what its container says, and what is there.

FFmpeg plays what it finds, up to wherever that goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from pysr.video import endings, matroska
from pysr.video.clip import Clip, VideoError

# How far the packets may end before the time that the header states: headers are rounded.
_SLACK_SECONDS = 0.25
_REMEDY = (
    "copy the file again, or remux it to work on what is there: ffmpeg -i IN -map 0 -c copy OUT"
)


def listed(stream) -> int:
    """How many packets of a stream the file's index has; to be asked for before they are read."""
    return sum(entry.size > 0 for entry in stream.index_entries)


def check(clip: Clip, container, pts: Sequence[int], end: Fraction, listed: int) -> None:
    """Raises VideoError for a file that ends before what its index or its header promises, or of
    which a part is not what its checksum says.

    Args:
        pts: of all packets of the video.
        end: of the last packet of all streams, in seconds.
        listed: what the function of that name gave for the video.
    """
    problem = _of_size(clip, container)
    if problem is None and listed < len(pts) and container.duration is not None:
        problem = _of_duration(clip, container, pts, end)
    if problem is not None:
        raise VideoError(f"{clip.path}: {problem}; {_REMEDY}")


def _of_size(clip: Clip, container) -> str | None:
    size, kind = container.size, container.format.name
    ends = [e.pos + e.size for s in container.streams for e in s.index_entries if e.size]
    if ends and max(ends) > size:
        return f"truncated: the index promises {max(ends)} bytes, the file has {size}"
    if kind.startswith("matroska"):
        return matroska.problem(clip.path, clip.time_base)
    return endings.problem(clip.path, container, container.streams[clip.stream])


def _of_duration(clip: Clip, container, pts: Sequence[int], end: Fraction) -> str | None:
    stated = Fraction(container.duration, 1_000_000)
    # Before zero begins a recording whose clock came round on the way.
    lasting = end - min(0, Fraction(container.start_time or 0, 1_000_000))
    # Some containers do not keep how long the last frame is shown.
    longest = max((b - a for a, b in pairwise(sorted(pts))), default=0) * clip.time_base
    if lasting + longest + Fraction(_SLACK_SECONDS) >= stated:
        return None
    return (
        f"truncated: the header states {float(stated):.2f} s, the packets end at "
        f"{float(lasting):.2f} s"
    )
