"""What a Matroska file says of itself: its size, and checksums of its clusters.

FFmpeg's muxer writes both and its demuxer reads past them: what lost its end, or changed since it
was written, plays as far as it does. This is a walk over the elements (RFC 8794 and RFC 9559); of
clusters that state a checksum the contents are read.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_CHECKSUM = b"\xbf\x84"  # kind and size of the element, which comes first
_TIMESTAMP = 0xE7


def problem(path: Path, unit: Fraction) -> str | None:
    """What is wrong with a file, in words, or None; a recording that was not finished states
    nothing.

    Args:
        unit: of the file's times, in seconds.
    """
    time = Fraction(0)
    with path.open("rb") as file:
        size = file.seek(0, 2)
        try:
            top = _elements(file, 0, size)
            begin, end = next(((b, e) for kind, b, e in top if kind == _SEGMENT), (0, None))
            if end is not None and end > size:
                return f"truncated: the header states {end} bytes, the file has {size}"
            for kind, start, stop in _elements(file, begin, end or begin):
                if stop is None:
                    return None
                if stop > end:
                    raise ValueError
                if kind == _CLUSTER:
                    content, agrees = _cluster(file, start, stop)
                    time = _time(content, unit, time)
                    if not agrees:
                        return f"damaged at {float(time):.3f} s"
        except ValueError:
            return f"damaged after {float(time):.3f} s"
    return None


def _elements(file: BinaryIO, begin: int, end: int) -> Iterator[tuple[int, int, int | None]]:
    """Kind, begin and end of the contents of the elements from `begin` to `end`; the last one's end
    is None where its size is not stated. Raises ValueError where none begins."""
    position = begin
    while position < end:
        file.seek(position)
        kind, length = _number(file, keep_length=True), _number(file)
        start = file.tell()
        position = end if length is None else start + length
        yield kind, start, None if length is None else position


def _number(file: BinaryIO, keep_length: bool = False) -> int | None:
    """A number of variable length; None for the one that means unknown."""
    first = file.read(1)
    if first in (b"", b"\0"):
        raise ValueError
    length = 9 - first[0].bit_length()
    value = int.from_bytes(first + file.read(length - 1), "big")
    if keep_length:
        return value
    unknown = (1 << 7 * length) - 1
    return None if value & unknown == unknown else value & unknown


def _cluster(file: BinaryIO, start: int, stop: int) -> tuple[bytes, bool]:
    """The beginning of a cluster's contents or all of them, and whether they are as stated."""
    file.seek(start)
    stated = file.read(6)
    if not stated.startswith(_CHECKSUM):
        return stated + file.read(10), True
    content = file.read(stop - start - 6)
    return content, zlib.crc32(content) == int.from_bytes(stated[2:], "little")


def _time(content: bytes, unit: Fraction, before: Fraction) -> Fraction:
    """When a cluster begins; as the one before where it does not say."""
    if len(content) < 2 or content[0] != _TIMESTAMP:
        return before
    return int.from_bytes(content[2 : 2 + (content[1] & 0x7F)], "big") * unit
