"""Checksums of FFV1's slices: FFmpeg's decoder compares them, and where one disagrees it shows what
was in that place before, without a word.

Whether a stream has them is coded deep in its header; here it shows in slices of which the checksum
is right.
"""

from __future__ import annotations

import zlib

_FOOTER = 8  # bytes that end a slice: three of its size, one of its state, four of the checksum
# The checksum takes the highest bit of a byte first, zlib's the lowest.
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_NONE = 0xFFFFFFFF  # zlib's for "nothing so far" without its own inversion, and for what is right


class SliceChecks:
    """Of the packets of one stream, in any order.

    Attributes:
        damaged: times of packets that are not as they were written; empty for a stream that has no
            checksums.
    """

    def __init__(self):
        self._right = False
        self._wrong: list[int] = []

    @property
    def damaged(self) -> list[int]:
        return self._wrong if self._right else []

    def add(self, packet) -> None:
        slices = _slices(bytes(packet))
        right = [zlib.crc32(part.translate(_REVERSED), _NONE) == _NONE for part in slices]
        self._right |= any(right)
        if not all(right):
            self._wrong.append(packet.pts)


def _slices(data: bytes) -> list[bytes]:
    """From the last, whose footer says where it begins, to the first."""
    slices, stop = [], len(data)
    while stop > 0:
        size = int.from_bytes(data[max(0, stop - _FOOTER) : stop - 5], "big") + _FOOTER
        slices.append(data[max(0, stop - size) : stop])
        stop -= size
    return slices
