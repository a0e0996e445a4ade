"""The part of pysr upscale that is about video: which files are, and what can be asked for them."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pysr import pictures
from pysr.cli import one_line
from pysr.cli.options import PICTURES, kernel, model_for_clips, outputs
from pysr.cli.progress import FORMS, Show, shown
from pysr.files import json_text
from pysr.video import images, upscale
from pysr.video.adapting import BUDGET
from pysr.video.job import Progress
from pysr.video.segments import LENGTH
from pysr.video.teaching import ShotTeacher

# What is taken from a folder for a clip, and the container of its result: its own where that holds
# what pysr writes, else Matroska, which holds nearly everything.
CLIPS = {
    **{suffix: suffix for suffix in (".mkv", ".mp4", ".mov")},
    **dict.fromkeys(
        (".avi", ".flv", ".m2ts", ".m4v", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv"), ".mkv"
    ),
}

# Options that mean nothing for a picture; None or False is "not given".
_OPTIONS = {
    "--stream": dict(type=int, metavar="INDEX", help="which video stream (default: FFmpeg's)"),
    "--codec": dict(
        help="an encoder of FFmpeg, hevc_nvenc for one (default: libx264, for 10 bits libx265)"
    ),
    "--crf": dict(type=float, help="constant quality of the encoder, lower is better"),
    "--preset": dict(help="the encoder's name of a speed"),
    "--pixel-format": dict(help="FFmpeg's name (default: 4:2:0 of the clip's depth)"),
    "--segment": dict(type=int, metavar="FRAMES", help="frames that are saved at a time"),
    "--jobs": dict(type=int, metavar="N", help="processes, or workers of a cluster (default: 1)"),
    "--cluster": dict(metavar="ADDRESS", help="a Ray cluster; local begins one here"),
    "--restart": dict(action="store_true", help="forget what an earlier run has done"),
    "--progress": dict(choices=FORMS, help="default: a bar on a terminal, else lines"),
    "--report": dict(metavar="FILE", help="write what was done as JSON"),
}


def add_video_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("video")
    for name, settings in _OPTIONS.items():
        group.add_argument(name, **settings)


def refuse_video_options(options: argparse.Namespace, allowed: Sequence[str] = ()) -> None:
    """Raises ValueError, naming the options that were given though there is no video; but for
    those `allowed`."""
    refused = [name for name in _OPTIONS if name not in allowed]
    given = [name for name in refused if _value(options, name) not in (None, False)]
    if given:
        raise ValueError(f"{', '.join(given)}: for video only, and {options.input} is none")


def _value(options: argparse.Namespace, name: str) -> object:
    return getattr(options, name[2:].replace("-", "_"))


def is_video(source: Path, target: Path) -> bool:
    """Whether a source is a clip: a pattern of pictures, a folder that is to become one file, or
    any file that is not named like a picture; but for one that is named like neither, where the
    target is a picture."""
    to_picture = target.suffix.lower() in pictures.READABLE and not images.is_sequence(target)
    if source.is_dir():
        return target.suffix != "" and not to_picture and not target.is_dir()
    ending = source.suffix.lower()
    if images.is_sequence(source) or ending in CLIPS:
        return True
    return ending not in pictures.READABLE and not to_picture


def inputs_and_outputs(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Input and output files of a command that takes a picture, a clip, or a folder of them."""
    if is_video(source, target) and source.is_dir():
        return [(source, target)]
    return outputs(source, target, {**PICTURES, **CLIPS})


def teacher(learning: dict | None) -> tuple[ShotTeacher | None, float]:
    """What teaches a clip's shots, and the seconds it has for each, of what `adaptation` gave.

    Raises ValueError for a degradation, which is not for clips, or a budget in steps.
    """
    if learning is None:
        return None, BUDGET
    if learning["degradation"] is not None:
        raise ValueError("degradation: for pictures, a clip's shots are learned under their blur")
    if learning["budget"].seconds is None:
        raise ValueError('budget: expected seconds for a clip\'s shots, like "10s"')
    method, pool, noise = (learning[name] for name in ("method", "hr_pool", "noise"))
    return ShotTeacher(method, pool, noise=noise), learning["budget"].seconds


def upscale_clip(
    options: argparse.Namespace, source: Path, target: Path, learning: dict | None = None
) -> dict:
    """Upscale one clip as the options say; prints a line, or JSON, about it, and returns what a
    report says of it."""
    adapt, seconds = teacher(learning)
    with _shown(target, options.progress or "auto") as progress:
        report = upscale(
            source,
            target,
            model=model_for_clips(options),
            device=options.device,
            engine=options.engine,
            precision=options.precision,
            tile=options.tile,
            kernel=kernel(options.kernel),
            adapt=adapt,
            adapt_budget=seconds,
            stream=options.stream,
            codec=options.codec,
            crf=options.crf,
            preset=options.preset,
            pixel_format=options.pixel_format,
            segment=LENGTH if options.segment is None else options.segment,
            jobs=1 if options.jobs is None else options.jobs,
            cluster=options.cluster,
            restart=options.restart,
            progress=progress,
        )
    for taught in [] if adapt is None else adapt.reports:
        print(one_line(f"{source}: {taught.line()}"), file=sys.stderr)
    if options.progress == "json":
        print(json_text({"stage": "done", **report.as_json()}), flush=True)
        return report.as_json()
    for loss in report.lost:
        print(one_line(f"pysr upscale: {target}: not kept: {loss}"), file=sys.stderr)
    made = f"{report.width}x{report.height}, {report.frames} frames, {report.seconds:.1f} s"
    print(one_line(f"{source} -> {target} ({made})"), flush=True)
    return report.as_json()


@contextlib.contextmanager
def _shown(target: Path, form: str) -> Iterator[Show]:
    """`shown`, and when the job is interrupted what is kept of it."""
    last = Progress("", 0, 0)
    try:
        with shown(form) as show:

            def follow(state: Progress) -> None:
                nonlocal last
                last = state
                show(state)

            yield follow
    except KeyboardInterrupt:
        if last.kept:
            kept = f"{last.kept} of {last.total} frames are kept: the same command goes on there"
            print(one_line(f"pysr upscale: {target}: {kept}"), file=sys.stderr)
        raise
