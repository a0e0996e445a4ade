"""The kernel track beside a blur estimated frame by frame, and beside the true one.

    python bench/video/track.py --data FOLDER_OF_HR_FRAMES --scale 4 [--json FILE]

The frames are blurred by a kernel that stays, or by one that widens from frame to frame, reduced
and rounded to 8 bits, with and without noise. Three figures say how steady a method
is:

- kernel_flicker: what its kernel alone changes from frame to frame, in 8-bit levels, root mean
  square: every frame restored with its own kernel, less the same with the kernel of the frame
  before. This is the flicker of a clip that stands still. A kernel that really widens has some: the
  true kernel's row.
- step: the mean total variation distance, 0 to 1, between neighbouring frames' kernels.
- flicker: `pysr.video.flicker` over all pairs of frames, and `static`, the share of pixels it is
  from. It counts noise that restoration amplifies, which a sharper kernel does more.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

import pysr
from pysr import arrays, blur, pictures
from pysr.degrade import classical, to_8bit
from pysr.evaluate import psnr
from pysr.tiling import informative_crops
from pysr.upscaler import Estimate, Upscaler
from pysr.video.flicker import Flicker
from pysr.video.track import track

sys.path.append(str(Path(__file__).parent.parent))
from records import made_by  # noqa: E402

NOISE = 2 / 255
LEVELS = 255
Restored = tuple[Sequence[Tensor], Sequence[Estimate]]  # pictures and their blurs


@dataclass(frozen=True)
class Row:
    """A method on a clip: PSNR on Y in dB, the figures above, seconds a frame."""

    blur: str
    noise: float
    method: str
    psnr: float
    kernel_flicker: float
    step: float
    flicker: float
    static: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--scale", type=int, choices=(2, 4), required=True)
    parser.add_argument("--json")
    options = parser.parse_args()
    scale = options.scale
    upscaler = pysr.load(f"dan-lite-x{scale}", device="cpu")
    hr = hr_frames(options.data, scale)
    rows = []
    for name, kernels in blurs(scale, len(hr)).items():
        for noise in (0.0, NOISE):
            lr = [
                classical(frame, kernel, scale, noise=noise, generator=i)
                for i, (frame, kernel) in enumerate(zip(hr, kernels, strict=True))
            ]
            for method, restored in methods(upscaler, lr, kernels).items():
                rows.append(measured(upscaler, name, noise, method, lr, hr, restored))
                print(rows[-1], flush=True)
    if options.json:
        write(options.json, scale, len(hr), rows)


def hr_frames(folder: str, scale: int, count: int | None = None) -> list[Tensor]:
    """The pictures of a folder, of them the first, cropped to what the scale divides."""
    frames = []
    for path in pictures.listing(folder)[:count]:
        rgb = arrays.unpack(pictures.read(path).pixels).rgb
        height, width = (n - n % scale for n in rgb.shape[-2:])
        frames.append(rgb[..., :height, :width])
    return frames


def write(path: str, scale: int, frames: int, rows: Sequence) -> None:
    """What was measured on so many frames, as JSON."""
    result = {
        **made_by(),
        "scale": scale,
        "frames": frames,
        "threads": torch.get_num_threads(),
        "measured": [asdict(row) for row in rows],
    }
    Path(path).write_text(json.dumps(result, indent=2) + "\n")


def blurs(scale: int, count: int) -> dict[str, Tensor]:
    """Kernels (count, k, k) along a clip, within the widths of gaussian8."""
    low, high = blur.GAUSSIAN8_RANGE[scale]
    share = torch.linspace(0.2, 0.8, count)
    return {
        "fixed": blur.isotropic(torch.full((count,), (low + high) / 2)),
        "widening": blur.isotropic(low + (high - low) * share),
    }


def methods(
    upscaler: Upscaler, lr: list[Tensor], kernels: Tensor
) -> dict[str, Callable[[], Restored]]:
    def by(estimates: Iterable[Estimate]) -> Restored:
        pairs = [
            (upscaler.restored(arrays.unpack(frame), estimate)[0], estimate)
            for frame, estimate in zip(lr, estimates, strict=True)
        ]
        return tuple(zip(*pairs, strict=True))

    def tracked() -> Restored:
        shots = list(track(upscaler, (frame[0] for frame in lr)))
        return by(s.estimate(upscaler.model, i) for s in shots for i in range(s.first, s.stop))

    return {
        "frame by frame": lambda: by(upscaler.estimate_on(informative_crops(x)) for x in lr),
        "track": tracked,
        "true kernel": lambda: by(upscaler.given(kernel) for kernel in kernels),
    }


def measured(
    upscaler: Upscaler,
    name: str,
    noise: float,
    method: str,
    lr: list[Tensor],
    hr: list[Tensor],
    restored: Callable[[], Restored],
) -> Row:
    started = time.perf_counter()
    sr, estimates = restored()
    seconds = (time.perf_counter() - started) / len(lr)
    sr = [to_8bit(x) for x in sr]
    flicker = Flicker()
    for i in range(1, len(lr)):
        flicker.add(torch.cat(lr[i - 1 : i + 1]), torch.cat(sr[i - 1 : i + 1]))
    squares = [
        0.0 if own.code.equal(last.code) else change(upscaler, frame, own, last)
        for frame, own, last in zip(lr[1:], estimates[1:], estimates, strict=False)
    ]
    kernels = torch.stack([estimate.kernel for estimate in estimates])
    return Row(
        blur=name,
        noise=noise,
        method=method,
        psnr=sum(psnr(x, y, upscaler.scale) for x, y in zip(sr, hr, strict=True)) / len(hr),
        kernel_flicker=LEVELS * math.sqrt(sum(squares) / len(squares)),
        step=float(kernels.diff(dim=0).abs().sum((1, 2)).mean() / 2),
        flicker=flicker.value,
        static=flicker.share,
        seconds=seconds,
    )


def change(upscaler: Upscaler, frame: Tensor, one: Estimate, other: Estimate) -> float:
    """Mean squared difference of a frame restored with two blurs."""
    a, b = (upscaler.restored(arrays.unpack(frame), estimate)[0] for estimate in (one, other))
    return float((a - b).square().mean())


if __name__ == "__main__":
    main()
