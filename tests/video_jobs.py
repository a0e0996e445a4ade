"""What a finished video holds, to compare jobs by."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from pathlib import Path

import av

FRAMES, SEGMENT = 48, 6  # of the fixtures' clip, and of the jobs on it


def decoded(path: Path) -> list[tuple[float, str]]:
    """Time and digest of every frame."""
    with av.open(path) as container:
        return [
            (frame.time, hashlib.sha256(frame.to_ndarray().tobytes()).hexdigest())
            for frame in container.decode(video=0)
        ]


def others(path: Path) -> list[tuple[int, Fraction, bytes]]:
    """Stream, time and content of every packet that is not video."""
    with av.open(path) as container:
        streams = [s for s in container.streams if s.type != "video"]
        packets = container.demux(streams)
        return sorted(
            (p.stream.index, p.pts * p.time_base, bytes(p)) for p in packets if p.pts is not None
        )
