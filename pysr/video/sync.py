"""Whether the frames and the sound of a file that was written are where they were in its clip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path

from pysr.video.clip import Clip, opened


def problems(path: Path, made: Clip, clip: Clip) -> list[str]:
    """What is elsewhere, or not all there, in words.

    Args:
        path: what was written, and `made` what `pysr.video.reader.probe` says of it.
        clip: what it was made from, or its first frames.
    """
    if made.files:
        return []
    found = []
    off = _worst(made, clip)
    # A container may round every time to its own unit.
    if off > max(made.time_base, clip.time_base):
        found.append(f"times (a frame is off by {float(off):.4f} s)")
    if not clip.files:
        pairs = zip_longest(_sounds(path, made), _sounds(clip.path, clip))
        found += [
            f"sound {i} ({a}, expected {b})" for i, (a, b) in enumerate(pairs) if _differ(a, b)
        ]
    return found


def heard(packets: Iterable) -> Iterator:
    """Packets without those of sound that an MP4's edit list hides, which other containers would
    play; but for the last one before sound that is heard, of which decoders need the end."""
    hidden = {}
    for packet in packets:
        if packet.pts is not None and packet.stream.type == "audio":
            if packet.is_discard:
                hidden[packet.stream_index] = packet
                continue
            if packet.stream_index in hidden:
                yield hidden.pop(packet.stream_index)
        yield packet


def _worst(made: Clip, clip: Clip) -> Fraction:
    """The largest distance in seconds of a frame from its time in the clip, after the first."""
    return max(
        abs((a - made.pts[0]) * made.time_base - (b - clip.pts[0]) * clip.time_base)
        for a, b in zip(made.pts, clip.pts, strict=False)
    )


@dataclass(frozen=True)
class _Sound:
    """An audio stream: how much it has, in packets, or of PCM, which containers cut as they like,
    in bytes; when it begins after the video; and what a packet lasts."""

    amount: int
    unit: str
    begins: Fraction
    packet: Fraction

    def __str__(self) -> str:
        return f"{self.amount} {self.unit} from {float(self.begins):.3f} s"


def _differ(a: _Sound | None, b: _Sound | None) -> bool:
    """By as much as a packet, or in how much they have."""
    if a is None or b is None or (a.amount, a.unit) != (b.amount, b.unit):
        return True
    return abs(a.begins - b.begins) > max(a.packet, b.packet)


def _sounds(path: Path, clip: Clip) -> list[_Sound]:
    starts: dict[int, Fraction] = {}
    lengths: dict[int, Fraction] = {}
    packets: Counter[int] = Counter()
    sizes: Counter[int] = Counter()
    with opened(path) as container:
        streams = container.streams.audio
        for packet in heard(container.demux(streams)):
            if packet.pts is None:  # the demuxer's last word on a stream
                continue
            index, base = packet.stream.index, packet.time_base
            starts.setdefault(index, packet.pts * base)
            lengths.setdefault(index, (packet.duration or 0) * base)
            packets[index] += 1
            sizes[index] += packet.size
        begin = clip.pts[0] * clip.time_base
        found = []
        for stream in streams:
            i, codec = stream.index, stream.codec_context
            plain = codec is not None and codec.name.startswith("pcm_")
            amount, unit = (sizes[i], "bytes") if plain else (packets[i], "packets")
            found.append(_Sound(amount, unit, starts.get(i, begin) - begin, lengths.get(i, 0)))
        return found
