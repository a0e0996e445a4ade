"""How close learned kernels come to known ones: pairs blurred by a defocus of our own.

    python bench/degrade/known_field.py --data DIR --out RUNS [--steps N]

DIR holds clean HR pictures. A network sees the picture and not where in the field it is, so the
true defocus must show in the picture: its width follows the brightness of the surroundings.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from common import save, trained
from same_size import KERNEL, METHODS, single_kernel
from torch import Tensor

from pysr import arrays, blur, pictures
from pysr.colour import unit_luma
from pysr.degrade import to_8bit
from pysr.ops import blur_decimate, svconv

PICTURES, TEST, SIDE = 40, 8, 240
NARROW, WIDE = 0.5, 2.6  # standard deviations in pixels, over black and over white
SURROUNDINGS = 8.0
COLUMNS = ("kernel_error", "kernel_error_in_detail", "width_error", "psnr")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path, help="for the pairs and the networks")
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    options = parser.parse_args()
    train = options.out / "pairs"
    paths = pictures.listing(options.data)[: PICTURES + TEST]
    write_pairs(paths[:PICTURES], train)
    test = [crop(path) for path in paths[PICTURES:]]
    kernel = single_kernel(train)
    rows = {"single kernel": errors(test, lambda y: kernel.expand(1, -1, -1)[..., None, None])}
    for name in ("dml8", "direct-kpn"):
        model = METHODS[name]
        degradation = trained("dml-lite", options.out / name, train, options.steps, **model)
        rows[name] = errors(test, degradation.network.kernels)
    save("learned_known_field", {"pairs": PICTURES, "tested on": len(test)}, rows)


def crop(path: Path) -> Tensor:
    return arrays.unpack(pictures.read(path).pixels[:SIDE, :SIDE]).rgb


def true_kernels(y: Tensor) -> Tensor:
    """The kernels (1, k, k, H, W) that a picture of luma y (1, 1, H, W) is blurred by."""
    size = 6 * int(SURROUNDINGS) + 1
    surroundings = blur_decimate(y, blur.isotropic([SURROUNDINGS], size))
    widths = (NARROW + (WIDE - NARROW) * surroundings.clamp(0, 1)).flatten()
    kernels = blur.isotropic(widths, KERNEL)  # (H * W, k, k)
    return kernels.movedim(0, -1).view(1, KERNEL, KERNEL, *y.shape[-2:]).contiguous()


def detailed(y: Tensor) -> Tensor:
    """(H, W) bool, the quarter of pixels around which (1, 1, H, W) changes most."""
    energy = (y - blur_decimate(y, blur.isotropic([1.5], KERNEL))).square()
    energy = blur_decimate(energy, blur.isotropic([2.0], KERNEL))[0, 0]
    return energy > energy.quantile(0.75)


def write_pairs(paths: list[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        hr = crop(path)
        lr = svconv(hr, true_kernels(unit_luma(hr)))
        for side, rgb in (("hr", hr), ("lr", lr)):
            pixels = (to_8bit(rgb)[0].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)
            pictures.write(folder / f"{path.stem}_{side}.png", pictures.Picture(pixels))


@torch.no_grad()
def errors(test: list[Tensor], kernels_of) -> dict[str, float]:
    """Means over pixels: sum of absolute differences to the true kernel (0 to 2 for kernels that
    sum to 1), the same where there is detail, error of the width in pixels, and PSNR in dB of the
    generated Y. Where a picture is flat every kernel gives the same, and none can be learned."""
    rows = []
    for hr in test:
        y = unit_luma(hr)
        truth, found = true_kernels(y), kernels_of(y).expand(-1, -1, -1, *y.shape[-2:])
        both = [k[0].flatten(2).movedim(2, 0) for k in (truth, found)]
        widths = [blur.spread(blur.normalise(k.clamp(min=0))) for k in both]
        made = [svconv(y, k.contiguous()) for k in (truth, found)]
        distance = (truth - found).abs().sum((1, 2))
        rows.append(
            (
                float(distance.mean()),
                float(distance[:, detailed(y)].mean()),
                float((widths[0] - widths[1]).abs().mean()),
                float(-10 * torch.log10((made[0] - made[1]).square().mean())),
            )
        )
    means = [sum(column) / len(column) for column in zip(*rows, strict=True)]
    return dict(zip(COLUMNS, means, strict=True))


if __name__ == "__main__":
    main()
