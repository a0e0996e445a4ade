"""What `pysr.noise.estimate_noise` reads where the noise is known.

    python bench/noise.py --data ../shared/data/test/BSD100 --data ../shared/data/test/Set14 \
        [--json FILE]

Photographs are blurred, made small, given noise, rounded to 8 bits, and, some of them, compressed
as JPEG, or as a clip by x264 (`pip install av`), whose frames have each their own noise. Widths are
of the blur before it is made small, in pixels of the small picture; noise in levels of 255. A row
has quantiles of what is read, and how many photographs are taken for noisy.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import torch
from records import made_by
from torch import Tensor

from pysr import blur, pictures
from pysr.arrays import unpack
from pysr.degrade import classical, jpeg
from pysr.noise import CLEAN_NOISE, estimate_noise

LEVELS = 255
WIDTHS = (0.0, 0.3, 0.6)
NOISES = (0.0, 2.0, 3.0, 5.0, 10.0, 20.0)
COMPRESSED = ("jpeg 90", "jpeg 75", "h264 18", "h264 23")
LOUD = 10.0  # what is compressed has
FRAMES = 5  # of a clip; the last one is looked at


@dataclass(frozen=True)
class Row:
    """Of all photographs under one degradation: what is read, in levels of 255."""

    scale: int
    width: float
    noise: float
    compression: str
    median: float
    lowest_tenth: float
    highest_tenth: float
    taken_for_noisy: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--limit", type=int, help="only the first so many pictures of a folder")
    parser.add_argument("--json")
    options = parser.parse_args()
    paths = [path for data in options.data for path in pictures.listing(data)[: options.limit]]
    photographs = [unpack(pictures.read(path).pixels).rgb for path in paths]
    rows = []
    for case in cases():
        rows.append(measured(photographs, *case))
        print(rows[-1], flush=True)
    if options.json:
        content = {**made_by(), "pictures": len(paths), "rows": [asdict(row) for row in rows]}
        Path(options.json).write_text(json.dumps(content, indent=1) + "\n")


def cases() -> Iterator[tuple[int, float, float, str]]:
    """Scale, width, noise and compression."""
    for scale in (2, 4):
        for width in WIDTHS:
            for noise in NOISES:
                yield scale, width, noise, ""
    for compression in COMPRESSED:
        yield 2, 0.0, LOUD, compression


def measured(photographs: list[Tensor], scale: int, width: float, noise: float, how: str) -> Row:
    kernel = blur.isotropic(width * scale) if width else blur.dirac()
    read = []
    for seed, hr in enumerate(photographs):
        h, w = (n // (2 * scale) * 2 * scale for n in hr.shape[-2:])  # x264 wants even sizes
        clip = hr[..., :h, :w].expand(FRAMES if how.startswith("h264") else 1, -1, -1, -1)
        lr = classical(clip, kernel, scale, noise=noise / LEVELS, generator=seed)
        read.append(estimate_noise(compressed(lr, how)[-1:]) * LEVELS)
    levels = torch.tensor(read)
    low, median, high = levels.quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
    noisy = float((levels >= CLEAN_NOISE * LEVELS).float().mean())
    figures = (round(figure, 3) for figure in (median, low, high, noisy))
    return Row(scale, width, noise, how, *figures)


def compressed(lr: Tensor, how: str) -> Tensor:
    if not how:
        return lr
    codec, quality = how.split()
    return jpeg(lr, int(quality)) if codec == "jpeg" else h264(lr, quality)


def h264(clip: Tensor, crf: str) -> Tensor:
    """Frames (N, 3, H, W) as x264 leaves them at its default preset."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": crf})
        stream.height, stream.width = clip.shape[-2:]
        stream.pix_fmt = "yuv420p"
        for frame in (clip * LEVELS).round().byte().permute(0, 2, 3, 1).numpy():
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())
    file.seek(0)
    with av.open(file) as written:
        frames = [torch.from_numpy(f.to_ndarray(format="rgb24")) for f in written.decode(video=0)]
    return torch.stack(frames).permute(0, 3, 1, 2) / LEVELS


if __name__ == "__main__":
    main()
