"""pysr degrade IN OUT: by blur and downsampling as asked for, or as a camera was seen to do it.

A clip is degraded frame by frame with the same blur; noise is drawn anew for each frame and each
picture, from the seed and the file's name.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pysr import arrays, blur, degrade, pictures
from pysr.cli import one_line
from pysr.cli.many import Many
from pysr.cli.options import fitting, kernel
from pysr.cli.video import inputs_and_outputs, is_video
from pysr.degrade import classical
from pysr.degrade.classical import DOWNSAMPLERS, NOISES
from pysr.degrade.dataset import MANIFEST, write_pairs
from pysr.degrade.learned import PAIR_NOISE
from pysr.upscaler import usable_device
from pysr.video.transform import transform

# A picture (N, C, H, W) in [0, 1], and a seed for its noise.
Degrade = Callable[[Tensor, int], Tensor]

# What says how a classical degradation is made, and means nothing to a learned one.
CLASSICAL = ("scale", "kernel", "sigma", "irregular", "motion", "downsample", "noise_kind")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", help="a picture, a clip, a folder of them, or %%05d.png")
    parser.add_argument("output", help="the same")
    parser.add_argument("--scale", type=int, help="1 to 4 (default: 4)")
    blurs = parser.add_mutually_exclusive_group()
    blurs.add_argument("--kernel", help="the blur: .npy, .json or a grey picture")
    blurs.add_argument("--sigma", type=float, help="width of a Gaussian blur in pixels")
    blurs.add_argument("--irregular", action="store_true", help="a random irregular blur")
    blurs.add_argument("--motion", action="store_true", help="a random camera shake")
    parser.add_argument("--downsample", choices=DOWNSAMPLERS, help="default: bicubic")
    parser.add_argument(
        "--noise", type=float, help="deviation, of 255 (default: 0; with --pairs 5)"
    )
    parser.add_argument("--noise-kind", choices=NOISES, help="default: gaussian")
    parser.add_argument("--seed", type=int, default=0, help="of blur and noise (default: 0)")
    learned = parser.add_argument_group("a learned degradation")
    learned.add_argument("--model", metavar="FILE", help="made by pysr train")
    learned.add_argument("--factor", type=float, help="of an ABL's Gaussians, for another camera")
    learned.add_argument(
        "--pairs", action="store_true", help="write a training set: OUT/hr, OUT/lr and a manifest"
    )
    learned.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    clips = parser.add_argument_group("video")
    clips.add_argument("--pixel-format", help="FFmpeg's name (default: 4:2:0 of the clip's depth)")


def run(options: argparse.Namespace) -> int:
    blur.check_seed(options.seed)
    if options.noise is not None and not 0 <= options.noise < math.inf:
        raise ValueError(f"noise: expected a finite deviation of 0 or more, got {options.noise}")
    if options.model is None:
        for name in ("factor", "pairs"):
            if _given(options, name):
                raise ValueError(f"{name}: expected --model with it, a learned degradation")
    if options.pairs:
        if options.pixel_format:
            raise ValueError("pixel-format: for video only, pairs are pictures")
        return _write_pairs(options)
    device = usable_device(options.device)
    if options.model is None:
        scale = 4 if options.scale is None else options.scale
        degradation = _classical(options, scale)
    else:
        learned = _learned(options, 0)
        degradation, scale = learned.degrade, learned.scale
    pairs = inputs_and_outputs(Path(options.input), Path(options.output))
    if options.pixel_format and not any(is_video(*pair) for pair in pairs):
        raise ValueError(f"pixel-format: for video only, and {options.input} is none")
    taken = {path.resolve() for pair in pairs for path in pair}
    many = Many("degrade", "degraded", len(pairs))
    for source, target in pairs:
        with many.file(source):
            if is_video(source, target):
                made = _degrade_clip(source, target, degradation, scale, device, options)
            else:
                picture = pictures.read(source)
                if Path(options.input).is_dir():
                    target = fitting(target, picture, 1, taken)
                seed = blur.named_seed(options.seed, source.name)
                height, width = _degrade_picture(picture, target, degradation, device, seed)
                made = f"{width}x{height}"
            print(one_line(f"{source} -> {target} ({made})"), flush=True)
    many.check()
    return 0


def _degrade_picture(
    picture: pictures.Picture, target: Path, degradation: Degrade, device: torch.device, seed: int
) -> tuple[int, int]:
    """Returns the result's height and width."""
    pictures.check_writable(target, picture)
    unpacked = arrays.unpack(picture.pixels)
    # A grey picture has one noise, not the mean of three.
    colours = unpacked.rgb[:, :1] if unpacked.channels == 1 else unpacked.rgb
    planes = [colours] if unpacked.alpha is None else [colours, unpacked.alpha]
    lr = degradation(torch.cat(planes, 1).to(device), seed).cpu()
    out = unpacked.empty(*lr.shape[-2:])
    unpacked.place(out, (slice(None), slice(None)), lr[:, :3])
    if unpacked.alpha is not None:
        out[:, 3:] = unpacked.quantised(lr[:, 3:])
    pictures.write(target, picture.with_pixels(unpacked.pack(out)))
    return tuple(lr.shape[-2:])


def _degrade_clip(
    source: Path,
    target: Path,
    degradation: Degrade,
    scale: int,
    device: torch.device,
    options: argparse.Namespace,
) -> str:
    """Returns what was made, in words."""

    def degraded(frame: Tensor, index: int) -> Tensor:
        seed = blur.named_seed(options.seed, f"{source.name} {index}")
        return degradation(frame, seed).clamp_(0, 1)

    made = transform(
        source,
        target,
        degraded,
        lambda height, width: (-(-height // scale), -(-width // scale)),
        device=device,
        pixel_format=options.pixel_format,
    )
    for loss in made.lost:
        print(one_line(f"pysr degrade: {target}: not kept: {loss}"), file=sys.stderr)
    return f"{made.width}x{made.height}, {made.frames} frames"


def _given(options: argparse.Namespace, name: str) -> bool:
    value = getattr(options, name)
    return value is not None and value is not False


def _write_pairs(options: argparse.Namespace) -> int:
    degradation = _learned(options, PAIR_NOISE * 255)
    for done, total in write_pairs(options.input, options.output, degradation, options.seed):
        print(f"\r{done} of {total} pairs", end="", flush=True)
    print(f"\nwrote {options.output}/{MANIFEST}")
    return 0


def _learned(options: argparse.Namespace, noise: float) -> degrade.LearnedDegradation:
    for name in CLASSICAL:
        if _given(options, name):
            raise ValueError(f"{name.replace('_', '-')}: not with --model, which says it itself")
    noise = noise if options.noise is None else options.noise
    degradation = degrade.load(options.model).with_noise(noise / 255)
    if options.factor is not None:
        degradation = degradation.with_factor(options.factor)
    return degradation.to(usable_device(options.device))


def _classical(options: argparse.Namespace, scale: int) -> Degrade:
    if options.noise_kind and not options.noise:
        raise ValueError("noise-kind: expected --noise with it")
    blurring = _kernel(options)
    settings = {"downsample": options.downsample or "bicubic", "quantise": False}

    def degradation(hr: Tensor, seed: int) -> Tensor:
        lr = classical(
            hr[:, :3],
            blurring,
            scale,
            noise=(options.noise or 0) / 255,
            noise_kind=options.noise_kind or "gaussian",
            generator=seed,
            **settings,
        )
        alpha = hr[:, 3:]
        if alpha.shape[1] == 0:
            return lr
        return torch.cat((lr, classical(alpha, blurring, scale, **settings)), 1)

    return degradation


def _size(sigma: float) -> int:
    """Taps a side that a Gaussian needs; 21, as in the papers, where they are enough."""
    most = (blur.MOST_TAPS - 1) // 2 / 3
    if not sigma <= most:
        raise ValueError(f"sigma: expected a width of at most {most:.1f} pixels, got {sigma}")
    return max(21, 2 * math.ceil(3 * sigma) + 1)


def _kernel(options: argparse.Namespace) -> torch.Tensor:
    if options.kernel:
        return torch.from_numpy(kernel(options.kernel))
    if options.sigma is not None:
        return blur.isotropic(options.sigma, _size(options.sigma))
    if options.irregular:
        size = blur.SETTING2_SIZE.get(options.scale, 21)
        return blur.random_irregular(1, size, generator=options.seed)[0]
    if options.motion:
        return blur.random_motion(1, generator=options.seed)[0]
    return blur.dirac(1)
