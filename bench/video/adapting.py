"""What it brings to learn each shot of a clip: PSNR and time a frame of whole jobs.

    python bench/video/adapting.py --data FOLDER_OF_HR_FRAMES --scale 2 --seconds 30 [--json FILE]

The frames are blurred by one anisotropic Gaussian, reduced, with and without noise, and upscaled by
`pysr.video.upscale`, which estimates the blur: by the model as it is, and taught by every method
for so many seconds a shot. `seconds` is the time that a frame then waited for the model.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from track import hr_frames, write

from pysr import arrays, blur, pictures, video
from pysr.adapt import METHODS
from pysr.degrade import classical
from pysr.evaluate import psnr
from pysr.video.teaching import ShotTeacher

NOISES = (0.0, 10 / 255)
SEED = 0


@dataclass(frozen=True)
class Row:
    """A method on a clip; `report` is what the method says of itself."""

    noise: float
    method: str
    psnr: float
    seconds: float
    report: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--scale", type=int, choices=(2, 4), required=True)
    parser.add_argument("--seconds", type=float, required=True, help="to learn a shot in")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--json")
    options = parser.parse_args()
    scale = options.scale
    hr = hr_frames(options.data, scale, options.frames)
    kernel = blur.anisotropic(0.9 * scale, 0.45 * scale, 0.5)
    rows = []
    for noise in NOISES:
        lr = [classical(x, kernel, scale, noise=noise, generator=i) for i, x in enumerate(hr)]
        for method in ("none", *METHODS):
            rows.append(measured(method, noise, lr, hr, scale, options.seconds))
            print(rows[-1], flush=True)
    if options.json:
        write(options.json, scale, len(hr), rows)


def measured(
    method: str,
    noise: float,
    lr: list[torch.Tensor],
    hr: list[torch.Tensor],
    scale: int,
    seconds: float,
) -> Row:
    teacher = None if method == "none" else ShotTeacher(method, seed=SEED)
    with tempfile.TemporaryDirectory() as folder:
        source, target = (Path(folder) / name for name in ("in", "out"))
        for place in (source, target):
            place.mkdir()
        for i, frame in enumerate(lr):
            pixels = (frame[0].permute(1, 2, 0) * 255).round().byte().numpy()
            pictures.write(source / f"{i:03d}.png", pictures.Picture(pixels))
        report = video.upscale(
            source / "%03d.png",
            target / "%03d.png",
            model=f"dan-mid-x{scale}",
            device="cpu",
            adapt=teacher,
            adapt_budget=seconds,
        )
        sr = [arrays.unpack(pictures.read(path).pixels).rgb for path in pictures.listing(target)]
    return Row(
        noise=noise,
        method=method,
        psnr=sum(psnr(x, y, scale) for x, y in zip(sr, hr, strict=True)) / len(hr),
        seconds=report.times.model / len(hr),
        report="" if teacher is None else teacher.reports[0].line(),
    )


if __name__ == "__main__":
    main()
