"""Packets that show no frame by design, which looks like damage to whoever counts what comes out.

VP8 has pictures that only others are built on, each in a packet of its own; MPEG-4 has empty ones
that stand for the picture before (RFC 6386, section 9.1; ISO/IEC 14496-2, sections 6.2.3, 6.2.5).
"""

from __future__ import annotations

import re
from pathlib import Path

from pysr.video.clip import VideoError

_LAYER = re.compile(b"\0\0\1[ -/]")  # a video object layer's start code
_PICTURE = b"\0\0\1\xb6"  # a video object plane's
_VP8_SHOWN = 0x10
_EXTENDED_ASPECT = 15
_BUFFER_BITS = 79  # of a layer's rates, buffer sizes and markers


class HiddenFrames:
    """Of the packets of one stream, in their order."""

    def __init__(self, path: Path, stream):
        self._path = path
        self._codec = stream.codec_context.name
        self._clock_bits: int | None = None
        self._read_layer(stream.codec_context.extradata or b"")

    def is_hidden(self, packet) -> bool:
        """Whether no frame comes of it.

        Raises VideoError for MPEG-4 with two pictures in a packet, which have one time.
        """
        if self._codec not in ("vp8", "mpeg4") or not packet.size:
            return False
        data = bytes(packet)
        if self._codec == "vp8":
            return not data[0] & _VP8_SHOWN
        self._read_layer(data)
        _, *pictures = data.split(_PICTURE)
        if len(pictures) > 1:
            raise VideoError(
                f"{self._path}: B-frames are packed with others, as DivX and Xvid wrote them; "
                "unpack them first: ffmpeg -i IN -map 0 -c copy -bsf:v mpeg4_unpack_bframes OUT.avi"
            )
        return len(pictures) == 1 and self._is_empty(_Bits(pictures[0]))

    def _read_layer(self, data: bytes) -> None:
        """Remember how many bits the times have in what comes after a layer's header."""
        found = _LAYER.search(data) if self._codec == "mpeg4" else None
        if found is None:
            return
        bits = _Bits(data[found.end() :])
        bits.take(1 + 8)  # random access, type
        if bits.take(1):
            bits.take(4 + 3)  # version, priority
        if bits.take(4) == _EXTENDED_ASPECT:
            bits.take(8 + 8)
        if bits.take(1):
            bits.take(2 + 1)  # chroma format, low delay
            if bits.take(1):
                bits.take(_BUFFER_BITS)
        bits.take(2 + 1)  # shape, a marker
        self._clock_bits = max((bits.take(16) - 1).bit_length(), 1)

    def _is_empty(self, bits: _Bits) -> bool:
        if self._clock_bits is None:
            return False
        bits.take(2)  # the picture's type
        while bits.take(1):  # seconds
            pass
        bits.take(1 + self._clock_bits + 1)  # between two markers
        return not bits.take(1)


class _Bits:
    """Bits of some bytes, the highest first, and zeros behind them."""

    def __init__(self, data: bytes):
        self._data = data
        self._at = 0

    def take(self, count: int) -> int:
        first, self._at = self._at, self._at + count
        end = -(-self._at // 8)
        taken = self._data[first // 8 : end].ljust(end - first // 8, b"\0")
        return int.from_bytes(taken, "big") >> (8 * end - self._at) & ((1 << count) - 1)
