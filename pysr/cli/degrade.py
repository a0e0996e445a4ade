"""pysr degrade IN OUT"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from pysr import arrays, blur, pictures
from pysr.cli.options import kernel, outputs
from pysr.degrade import classical
from pysr.degrade.classical import DOWNSAMPLERS, NOISES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", help="a picture, or a folder of pictures")
    parser.add_argument("output", help="a picture, or a folder")
    parser.add_argument("--scale", type=int, default=4, help="1 to 4 (default: 4)")
    blurs = parser.add_mutually_exclusive_group()
    blurs.add_argument("--kernel", help="the blur: .npy, .json or a grey picture")
    blurs.add_argument("--sigma", type=float, help="width of a Gaussian blur in pixels")
    blurs.add_argument("--irregular", action="store_true", help="a random irregular blur")
    blurs.add_argument("--motion", action="store_true", help="a random camera shake")
    parser.add_argument("--downsample", choices=DOWNSAMPLERS, default="bicubic")
    parser.add_argument("--noise", type=float, default=0, help="deviation, of 255 (default: 0)")
    parser.add_argument("--noise-kind", choices=NOISES, default="gaussian")
    parser.add_argument("--seed", type=int, default=0, help="of blur and noise (default: 0)")


def run(options: argparse.Namespace) -> int:
    blurring = _kernel(options)
    for source, target in outputs(Path(options.input), Path(options.output)):
        picture = pictures.read(source)
        pictures.check_writable(target, picture)
        unpacked = arrays.unpack(picture.pixels)
        colours = classical(
            unpacked.rgb,
            blurring,
            options.scale,
            downsample=options.downsample,
            noise=options.noise / 255,
            noise_kind=options.noise_kind,
            quantise=False,
            generator=options.seed,
        )
        out = unpacked.empty(*colours.shape[-2:])
        everywhere = (slice(None), slice(None))
        unpacked.place(out, everywhere, colours)
        if unpacked.alpha is not None:
            alpha = classical(
                unpacked.alpha,
                blurring,
                options.scale,
                downsample=options.downsample,
                quantise=False,
            )
            out[:, 3:] = unpacked.quantised(alpha)
        pictures.write(target, picture.with_pixels(unpacked.pack(out)))
        print(f"{source} -> {target} ({colours.shape[-1]}x{colours.shape[-2]})", flush=True)
    return 0


def _kernel(options: argparse.Namespace) -> torch.Tensor:
    if options.kernel:
        return torch.from_numpy(kernel(options.kernel))
    if options.sigma is not None:
        return blur.isotropic(options.sigma)
    if options.irregular:
        size = blur.SETTING2_SIZE.get(options.scale, 21)
        return blur.random_irregular(1, size, generator=options.seed)[0]
    if options.motion:
        return blur.random_motion(1, generator=options.seed)[0]
    return blur.dirac(1)
