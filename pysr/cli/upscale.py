"""pysr upscale IN OUT"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from pysr import pictures
from pysr.adapt import taught
from pysr.cli import one_line
from pysr.cli.finished import Finished
from pysr.cli.many import Many
from pysr.cli.options import (
    adaptation,
    add_adapt_arguments,
    add_model_arguments,
    check_writable,
    fitting,
    kernel,
    upscaler,
)
from pysr.cli.video import (
    add_video_arguments,
    inputs_and_outputs,
    is_video,
    refuse_video_options,
    upscale_clip,
)
from pysr.files import write_json
from pysr.upscaler import TILE, Upscaled, Upscaler


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", help="a picture, a clip, a folder of them, or %%05d.png")
    parser.add_argument("output", help="the same")
    add_model_arguments(parser)
    parser.add_argument("--kernel", help="the blur, if known: .npy, .json or a grey picture")
    parser.add_argument(
        "--tile", type=int, default=TILE, help=f"side of tiles in input pixels (default: {TILE})"
    )
    parser.add_argument(
        "--exact",
        action="store_true",
        help="the published loop: every iteration on the whole picture, in one piece",
    )
    add_adapt_arguments(parser)
    parser.add_argument(
        "--degradation",
        metavar="FILE",
        help="onsr learns under it: what pysr train learned from a camera's pairs",
    )
    add_video_arguments(parser)


def run(options: argparse.Namespace) -> int:
    source, target = Path(options.input), Path(options.output)
    pairs = inputs_and_outputs(source, target)
    videos = {source for source, target in pairs if is_video(source, target)}
    known, learning = kernel(options.kernel), adaptation(options, options.degradation)
    if not videos:
        refuse_video_options(options, allowed=() if learning is None else ("--report",))
    if videos and options.exact:
        raise ValueError("--exact: for pictures only, a clip's blur is followed through its shots")
    used = (options.kernel, options.model, options.degradation, options.hr_pool)
    check_writable(*used, *(path for pair in pairs for path in pair), report=options.report)
    restorer = upscaler(options) if len(videos) < len(pairs) else None
    taken = {path.resolve() for pair in pairs for path in pair}
    finished = Finished(target, options) if videos and source not in videos else None
    many, reports = Many("upscale", "upscaled", len(pairs)), []
    for source, target in pairs:
        with many.file(source):
            if source in videos:
                about = _upscale_clip(options, source, target, learning, finished)
            else:
                about = _upscale_picture(restorer, source, target, known, learning, options, taken)
            reports.append(about)
    if finished and not many.failed:
        finished.forget()
    if options.report:
        content = reports[0] if videos and len(pairs) == 1 else reports
        write_json(options.report, content)
    many.check()
    return 0


def _upscale_clip(
    options: argparse.Namespace,
    source: Path,
    target: Path,
    learning: dict | None,
    finished: Finished | None,
) -> dict:
    """Upscale one clip, unless an earlier run of the folder has; returns what a report says."""
    if finished is None:
        return upscale_clip(options, source, target, learning)
    about = finished.report(source, target)
    if about is None:
        about = upscale_clip(options, source, target, learning)
        finished.note(source, target, about)
    elif options.progress != "json":
        print(one_line(f"{source} -> {target} (finished by an earlier run)"), flush=True)
    return about


def _upscale_picture(
    restorer: Upscaler,
    source: Path,
    target: Path,
    known,
    learning: dict | None,
    options: argparse.Namespace,
    taken: set[Path],
) -> dict:
    """Upscale one picture and print lines about it; returns what a report says of it."""
    started = time.perf_counter()
    picture = pictures.read(source)
    if Path(options.input).is_dir():
        target = fitting(target, picture, restorer.scale, taken)
    about = {"input": str(source), "output": str(target)}
    pictures.check_writable(target, picture, restorer.scale)  # before the work
    if learning is not None:
        device = str(restorer.device)
        adapted = taught(
            model=restorer.model, image=picture.pixels, kernel=known, device=device, **learning
        )
        print(one_line(f"{source}: {adapted.report.line()}"), flush=True)
        # It restores with the blur that was found, or given.
        restorer, known, about["adapt"] = adapted.upscaler, None, adapted.report.as_json()
        if (options.engine, options.precision) != ("auto", "auto"):
            restorer = Upscaler(
                restorer.model,
                kernel=adapted.report.kernel,
                device=device,
                engine=options.engine,
                precision=options.precision,
            )
    result = restorer(picture.pixels, kernel=known, tile=options.tile, exact=options.exact)
    pictures.write(target, picture.with_pixels(result.image))
    print(_line(source, target, result, time.perf_counter() - started), flush=True)
    return about


def _line(source, target, result: Upscaled, seconds: float) -> str:
    height, width = result.image.shape[:2]
    return one_line(
        f"{source} -> {target} ({width}x{height}, {seconds:.1f} s, "
        f"consistency {result.consistency:.1f} dB)"
    )
