"""What is looked at before the work, while there is nothing to lose, and after it, before the
result takes its name."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pysr.video import sync
from pysr.video.clip import Clip, VideoError
from pysr.video.mux import result_stream
from pysr.video.pipeline import DEPTH, Times
from pysr.video.reader import probe
from pysr.video.segments import Segment
from pysr.video.worker import Worker

MEASURED = 4  # frames
LOOKAHEAD = 60  # frames that x264 and x265 hold back, about


class CheckError(RuntimeError):
    """A finished file that is not what it should be; the message says in what."""


@dataclass(frozen=True)
class Estimate:
    """What the work will take on this machine, by one worker.

    Attributes:
        width, height: of the result.
        seconds: of restoring the whole clip.
        memory: bytes of the process at its peak.
        device_memory: bytes of the GPU's, 0 on a CPU.
        disk: bytes that the job still needs beside the target: segments to be made and result.
        free: bytes free there.
    """

    width: int
    height: int
    seconds: float
    memory: int
    device_memory: int
    disk: int
    free: int


def estimate(
    worker: Worker, segments: Sequence[Segment], todo: Sequence[Segment], folder: Path
) -> Estimate:
    """Restore a few frames from the middle of the clip and extrapolate to all its segments, of
    which those `todo` are not in `folder` yet.

    Raises:
        VideoError: if the result will not fit on the disk.
    """
    clip = worker.work.clip
    frames = len(clip)
    count = min(MEASURED, frames)
    first = (frames - count) // 2
    sizes: list[int] = []
    times: list[Times] = []
    for stop in (first + 1, first + count):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            piece, own = Segment(0, first, stop), Path(scratch)
            took = worker.make([piece], own, lambda _, path, __: sizes.append(_bytes(path)))
            times.append(took)
    short, long = times
    more = max(count - 1, 1)
    # The model has warmed up on the first frame; seeking, and filling an encoder, are in both.
    per_frame = max(
        long.model / count,
        (long.decode - short.decode) / more,
        (long.encode - short.encode) / more,
    )
    key, rest = sizes[0], max(sizes[1] - sizes[0], 0) / more
    copied = 0 if clip.files else _bytes(clip.path) - clip.size
    disk = copied + sum(int(key + len(s) * rest) for s in (*todo, *segments))
    free = shutil.disk_usage(folder).free
    if disk > free:
        raise VideoError(
            f"{folder.parents[1]}: needs about {_words(disk)} there, {_words(free)} are free"
        )
    held = (DEPTH + LOOKAHEAD) * worker.frame_bytes
    return Estimate(
        worker.size[1],
        worker.size[0],
        per_frame * frames,
        _peak() + held,
        _device_peak(worker.device),
        disk,
        free,
    )


def _words(size: int) -> str:
    """A number of bytes in the largest unit of which it is one or more."""
    units = ("bytes", "KiB", "MiB", "GiB", "TiB")
    power = min(max(size.bit_length() - 1, 0) // 10, len(units) - 1)
    return f"{size / 1024**power:.{min(power, 1)}f} {units[power]}"


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def _peak() -> int:
    """Bytes that this process has held at most; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _device_peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def check(path: Path, clip: Clip, size: tuple[int, int], rehearsed: Clip) -> None:
    """Compare a finished file, of (height, width), with the clip that it was made from, packet by
    packet.

    Args:
        rehearsed: what `pysr.video.mux.rehearse` gave: the tags that the target can hold.
    Raises:
        CheckError: if frames, times, size, tags or the sound's place are not the clip's.
    """
    made = probe(path, result_stream(path, clip))
    wrong = [
        f"{name} ({there}, expected {expected})"
        for name, there, expected in _compared(made, clip, size, rehearsed)
        if there != expected
    ]
    wrong += sync.problems(path, made, clip)
    if wrong:
        raise CheckError(f"{path.name}: the finished file is wrong in {', '.join(wrong)}")


def _compared(
    made: Clip, clip: Clip, size: tuple[int, int], rehearsed: Clip
) -> Iterator[tuple[str, object, object]]:
    yield "frames", len(made), len(clip)
    yield "size", (made.width, made.height), size[::-1]
    if made.files:  # pictures carry nothing else
        return
    yield "sample aspect", made.sample_aspect, rehearsed.sample_aspect
    yield "rotation", made.rotation, rehearsed.rotation
    yield "HDR metadata", made.hdr, rehearsed.hdr
    yield "primaries", made.colour.primaries, rehearsed.colour.primaries
    yield "transfer", made.colour.transfer, rehearsed.colour.transfer
