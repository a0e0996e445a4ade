"""make demo: upscale a picture whose blur nobody wrote down, and leave something to look at.

Without an argument a photograph that scikit-image carries is degraded by a random kernel, so that
the estimate can be held against the truth. With one, the user's own picture is restored as it is.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch

import pysr
from pysr import arrays, blur, page, pictures
from pysr.degrade import classical, imresize
from pysr.evaluate import psnr
from pysr.inspection import inspect
from pysr.nets import default_model

OUT = Path(__file__).parent / "out"
MODEL = default_model()
SEED = 7
NOISE = 1 / 255


def main(source: str | None) -> int:
    upscaler = pysr.load(MODEL)
    truth = kernel = None
    if source:
        lr = pictures.read(source).pixels
        name = Path(source).name
    else:
        from skimage import data

        truth = data.astronaut()
        name = f"astronaut, seed {SEED}"
        kernel = blur.random_irregular(1, axes=(1.0, 3.5), generator=SEED)[0]
        lr = degraded(truth, kernel, upscaler.scale)
    interpolated = as_pixels(imresize(arrays.unpack(lr).rgb, upscaler.scale))
    started = time.perf_counter()
    result = upscaler(lr)
    seconds = time.perf_counter() - started

    figures = {
        "input": f"{lr.shape[1]}x{lr.shape[0]}",
        "output": f"{result.image.shape[1]}x{result.image.shape[0]} in {seconds:.2f} s ({MODEL})",
        "consistency": f"{result.consistency:.1f} dB",
        "inspect": inspect(upscaler, lr).words,
    }
    kernels = {"estimated blur": result.kernel}
    if truth is not None:
        kernels["true blur"] = kernel.numpy()
        figures["PSNR, bicubic interpolation"] = (
            f"{score(interpolated, truth, upscaler.scale):.2f} dB"
        )
        figures["PSNR, pysr"] = f"{score(result.image, truth, upscaler.scale):.2f} dB"
        figures["kernel error"] = f"{np.abs(result.kernel - kernel.numpy()).sum():.3f} (0 to 2)"

    OUT.mkdir(exist_ok=True)
    write("input.png", lr)
    write("result.png", result.image)
    write("kernel.png", page.kernel_picture(result.kernel))
    after = as_pixels(arrays.unpack(result.image).rgb)
    write("before_after.png", page.side_by_side([interpolated, after]))
    comparison = page.comparison_page(f"pysr: {name}", interpolated, after, kernels, figures)
    (OUT / "index.html").write_text(comparison)
    if truth is not None:
        write("true_kernel.png", page.kernel_picture(kernel.numpy()))
        print(kernels_side_by_side(result.kernel, kernel.numpy()))
    for label, value in figures.items():
        print(f"{label:<28} {value}")
    print(f"{'to look at':<28} {OUT / 'index.html'}")
    return 0


def degraded(hr: np.ndarray, kernel: torch.Tensor, scale: int) -> np.ndarray:
    lr = classical(arrays.unpack(hr).rgb, kernel, scale, noise=NOISE, generator=SEED)
    return as_pixels(lr)


def as_pixels(rgb: torch.Tensor) -> np.ndarray:
    return (rgb[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()


def score(pixels: np.ndarray, truth: np.ndarray, scale: int) -> float:
    return psnr(arrays.unpack(pixels).rgb, arrays.unpack(truth).rgb, scale)


def write(name: str, pixels: np.ndarray) -> None:
    pictures.write(OUT / name, pictures.Picture(pixels))


def kernels_side_by_side(estimated: np.ndarray, true: np.ndarray) -> str:
    """Both kernels' middle as text, darkest where the blur is."""
    shades = " .:-=+*#%@"
    lines = [f"{'estimated kernel':<30}true kernel"]
    for row_a, row_b in zip(estimated[3:-3], true[3:-3], strict=True):
        texts = []
        for row, top in ((row_a, estimated.max()), (row_b, true.max())):
            texts.append("".join(shades[round(9 * max(v, 0) / top)] * 2 for v in row[3:-3]))
        lines.append(f"{texts[0]:<30}{texts[1]}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else None))
