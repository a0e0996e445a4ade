"""The kernel track beside a blur estimated frame by frame, and beside the true one.

    python bench/video/track.py --data FOLDER_OF_HR_FRAMES [--json FILE]

The frames are blurred by a kernel that stays, or by one that widens from frame to frame, reduced
and rounded to 8 bits, with and without noise. Flicker is taken over all pairs of frames, with
`restless`, which needs the truth but no static regions: the frame-to-frame change of the error, in
8-bit levels, root mean square. Noise and motion cause most of it; a method is to be compared with
the true kernel's row. `step` is what the kernel does: the mean total variation distance, 0 to 1,
between neighbouring frames' kernels. `live` is the track that a stream has, with its bounded
look-ahead.
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

NOISE = 2 / 255
LEVELS = 255
Restored = tuple[Sequence[Tensor], Sequence[Tensor]]  # pictures and their kernels


@dataclass(frozen=True)
class Row:
    """A method on a clip: PSNR on Y in dB, flicker and restlessness in 8-bit levels, the kernel's
    step, the share of pixels that were static, seconds a frame."""

    scale: int
    blur: str
    noise: float
    method: str
    psnr: float
    flicker: float
    restless: float
    step: float
    static: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--json")
    options = parser.parse_args()
    rows = []
    for scale in (4, 2):
        upscaler = pysr.load(f"dan-lite-x{scale}", device="cpu")
        hr = [
            cropped(arrays.unpack(pictures.read(p).pixels).rgb, scale)
            for p in pictures.listing(options.data)
        ]
        for name, kernels in blurs(scale, len(hr)).items():
            for noise in (0.0, NOISE):
                lr = [
                    classical(frame, kernel, scale, noise=noise, generator=i)
                    for i, (frame, kernel) in enumerate(zip(hr, kernels, strict=True))
                ]
                for method, restored in methods(upscaler, lr, kernels).items():
                    rows.append(measured(scale, name, noise, method, lr, hr, restored))
                    print(rows[-1], flush=True)
    if options.json:
        result = {
            "command": " ".join(["python", *sys.argv]),
            "frames": len(hr),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "measured": [asdict(row) for row in rows],
        }
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n")


def cropped(rgb: Tensor, scale: int) -> Tensor:
    height, width = (n - n % scale for n in rgb.shape[-2:])
    return rgb[..., :height, :width]


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
            (upscaler.restored(arrays.unpack(frame), estimate)[0], estimate.kernel)
            for frame, estimate in zip(lr, estimates, strict=True)
        ]
        return tuple(zip(*pairs, strict=True))

    def tracked() -> Restored:
        shots = list(track(upscaler, (frame[0] for frame in lr)))
        return by(s.estimate(upscaler.model, i) for s in shots for i in range(s.first, s.stop))

    return {
        "frame by frame": lambda: by(upscaler.estimate_on(informative_crops(x)) for x in lr),
        "track": tracked,
        "live": lambda: tuple(
            zip(*((result.image, result.kernel) for result in upscaler.stream(lr)), strict=True)
        ),
        "true kernel": lambda: by(upscaler.given(kernel) for kernel in kernels),
    }


def measured(
    scale: int,
    name: str,
    noise: float,
    method: str,
    lr: list[Tensor],
    hr: list[Tensor],
    restored: Callable[[], Restored],
) -> Row:
    started = time.perf_counter()
    sr, kernels = restored()
    seconds = (time.perf_counter() - started) / len(lr)
    sr = [to_8bit(x) for x in sr]
    flicker = Flicker()
    for i in range(1, len(lr)):
        flicker.add(torch.cat(lr[i - 1 : i + 1]), torch.cat(sr[i - 1 : i + 1]))
    errors = [x - y for x, y in zip(sr, hr, strict=True)]
    changes = [float((b - a).square().mean()) for a, b in zip(errors, errors[1:], strict=False)]
    return Row(
        scale=scale,
        blur=name,
        noise=noise,
        method=method,
        psnr=sum(psnr(x, y, scale) for x, y in zip(sr, hr, strict=True)) / len(hr),
        flicker=flicker.value,
        step=float(torch.stack(kernels).diff(dim=0).abs().sum((1, 2)).mean() / 2),
        restless=LEVELS * math.sqrt(sum(changes) / len(changes)),
        static=flicker.share,
        seconds=seconds,
    )


if __name__ == "__main__":
    main()
