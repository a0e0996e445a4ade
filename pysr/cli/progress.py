"""A video job's progress: a bar on a terminal, lines elsewhere, JSON for programs."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from pysr.video.job import Progress as State

FORMS = ("auto", "bar", "lines", "json")
_EVERY = {"lines": 10.0, "json": 1.0}  # seconds between reports of the same stage

Show = Callable[[State], None]


@contextlib.contextmanager
def shown(form: str) -> Iterator[Show]:
    """What to give a job as its `progress`. A bar and lines go to stderr, JSON to stdout."""
    if form == "auto":
        form = "bar" if Console(stderr=True).is_terminal else "lines"
    if form == "bar":
        with _bar() as show:
            yield show
    else:
        yield _seldom(_EVERY[form], _json if form == "json" else _line)


def _words(state: State) -> str:
    fps = f"{state.fps:.1f} fps" if state.fps else ""
    return fps if state.eta is None else f"{fps} {_clock(state.eta)} left".lstrip()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def _expected(state: State) -> str:
    """What a job will take, in words."""
    found = state.estimate
    gpu = f" and {found.device_memory >> 20} of the GPU's" if found.device_memory else ""
    return (
        f"{state.total} frames to {found.width}x{found.height}: about {_clock(found.seconds)}, "
        f"{found.memory >> 20} MiB of memory{gpu}, {(found.disk >> 20) + 1} MiB on disk "
        f"({found.free >> 20} free)"
    )


@contextlib.contextmanager
def _bar() -> Iterator[Show]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} {task.fields[words]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, words="")

        def show(state: State) -> None:
            if state.estimate:
                bar.console.print(_expected(state))
            bar.update(
                task,
                description=state.stage,
                completed=state.done,
                total=state.total or None,
                words=_words(state),
            )

        yield show


def _line(state: State) -> None:
    if state.estimate:
        print(_expected(state), file=sys.stderr)
    frames = f" {state.done} of {state.total} frames {_words(state)}" if state.total else ""
    print(f"{state.stage}{frames}".rstrip(), file=sys.stderr, flush=True)


def _json(state: State) -> None:
    print(json.dumps(asdict(state)), flush=True)


def _seldom(every: float, show: Show) -> Show:
    """Each new stage, its last frame, and in between not more than once in `every` seconds."""
    last = {"stage": "", "time": 0.0}

    def shown_seldom(state: State) -> None:
        now = time.monotonic()
        whole = state.total and state.done == state.total
        if state.stage != last["stage"] or whole or now - last["time"] >= every:
            last.update(stage=state.stage, time=now)
            show(state)

    return shown_seldom
