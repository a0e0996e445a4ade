"""Whether a file goes on to where its container says that it ends: what FFmpeg does not ask.

Of what ends between two packets that no header counts (MPEG-TS, IVF) nobody can tell.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO

from pysr.video.clip import pyav

_HEAD = 1 << 16  # bytes in which headers lie
# Sizes of the packets of MPEG-TS, and where in them the byte is that marks one.
_TS_PACKETS = ((188, 0), (192, 4), (204, 0))
_TS_MARK = 0x47
# Kinds of ASF's objects (ASF specification, section 10).
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
# How the key of MXF's partitions begins (SMPTE ST 377-1, section 7.1).
_MXF_PARTITION = bytes.fromhex("060e2b34020501010d0102010102")
_FLV_SIZE = b"\0\x08filesize\0"  # a name and the type of its value, a number
_GIF_EXTENSION, _GIF_IMAGE, _GIF_TRAILER = b"!", b",", b";"


def problem(path: Path, container, stream) -> str | None:
    """What a file lacks at its end, in words, or None.

    Args:
        container, stream: the file as PyAV opened it, and its video.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        kind = container.format.name
        if kind == "mpegts":
            whole = _ts_is_whole(file, size)
            return None if whole else "truncated: the last packet of MPEG-TS is not whole"
        if kind == "yuv4mpegpipe":
            whole = _y4m_is_whole(file, size, stream.codec_context)
            return None if whole else "truncated: the last frame is not whole"
        if kind == "gif":
            return None if _gif_is_whole(file) else "truncated: the end that GIF has is missing"
        stated = {"asf": _asf_size, "flv": _flv_size, "mxf": _mxf_size}.get(kind)
        least = stated(file) if stated else 0
    if least > size:
        return f"truncated: the header states {least} bytes, the file has {size}"
    return None


def _ts_is_whole(file: BinaryIO, size: int) -> bool:
    file.seek(max(0, size - 5 * 204))
    tail = file.read()
    return any(
        all(tail[begin + mark] == _TS_MARK for begin in range(len(tail) % unit, len(tail), unit))
        for unit, mark in _TS_PACKETS
    )


def _y4m_is_whole(file: BinaryIO, size: int, context) -> bool:
    """Frames have one size; those with parameters of their own are not looked at."""
    file.readline(_HEAD)
    begin, line = file.tell(), file.readline(_HEAD)
    planes = pyav().VideoFormat(context.pix_fmt, context.width, context.height).components
    frame = sum(plane.width * plane.height * math.ceil(plane.bits / 8) for plane in planes)
    return line != b"FRAME\n" or (size - begin) % (len(line) + frame) == 0


def _gif_is_whole(file: BinaryIO) -> bool:
    """Whether the blocks (GIF89a specification) go on to the trailer; more may come after it."""

    def skip_colours(flags: int) -> None:
        if flags & 0x80:
            file.seek(3 << (flags & 7) + 1, 1)

    skip_colours(file.read(13)[10])
    while (kind := file.read(1)) in (_GIF_EXTENSION, _GIF_IMAGE):
        head = file.read(1 if kind == _GIF_EXTENSION else 9)
        if kind == _GIF_IMAGE:
            skip_colours(head[-1] if head else 0)
            file.read(1)  # the size of its codes
        while length := file.read(1).strip(b"\0"):
            file.seek(length[0], 1)
    return kind == _GIF_TRAILER


def _asf_size(file: BinaryIO) -> int:
    """0 where the file does not say, as a recording that was not finished."""
    if file.read(16) != _ASF_HEADER:
        return 0
    (length,) = struct.unpack("<Q", file.read(8))
    header = file.read(min(length, _HEAD))[6:]
    while len(header) >= 24:
        kind, (length,) = header[:16], struct.unpack("<Q", header[16:24])
        if kind == _ASF_PROPERTIES and length >= 92:
            size, broadcast = struct.unpack("<16xQ40xL", header[24:92])
            return 0 if broadcast & 1 else size
        header = header[max(length, 24) :]
    return 0


def _flv_size(file: BinaryIO) -> int:
    """As FFmpeg, among others, writes it into the script data; 0 where it is not."""
    _, found, rest = file.read(_HEAD).partition(_FLV_SIZE)
    value = struct.unpack(">d", rest[:8])[0] if found and len(rest) >= 8 else 0.0
    return int(value) if math.isfinite(value) else 0


def _mxf_size(file: BinaryIO) -> int:
    """Up to and with the first byte of the footer, after which there is no film; 0 where the header
    does not say."""
    before, found, rest = file.read(_HEAD).partition(_MXF_PARTITION)
    long = rest[2] & 0x7F if len(rest) > 2 and rest[2] & 0x80 else 0  # of the length's form
    fields = rest[3 + long :]
    if not found or len(fields) < 32:
        return 0
    (footer,) = struct.unpack(">Q", fields[24:32])
    return len(before) + footer + 1 if footer else 0
