"""Run models through a protocol, and say what came out as a table and as JSON."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from pysr import arrays, blur, pictures
from pysr.adapt import taught
from pysr.degrade import LearnedDegradation, imresize, to_8bit
from pysr.evaluate.metrics import psnr, ssim
from pysr.evaluate.protocols import Case, cases, learned_cases
from pysr.upscaler import Upscaler, load

INTERPOLATION = "bicubic interpolation"


@dataclass(frozen=True)
class Row:
    """One method's line of a table, means over all cases.

    Attributes:
        psnr, ssim: on Y, 8 bits, a border of `scale` pixels left out (see `pysr.evaluate.metrics`).
        kernel_error: sum of absolute differences between estimated and true kernel, 0 to 2; None
            for a method that estimates none.
        seconds: per picture, the method alone.
    """

    method: str
    psnr: float
    ssim: float
    kernel_error: float | None
    seconds: float


@dataclass(frozen=True)
class Report:
    """A table and what it was made from."""

    protocol: str
    scale: int
    data: str
    pictures: int
    cases: int
    seed: int
    rows: tuple[Row, ...]

    def as_json(self) -> dict:
        machine = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        }
        return {**asdict(self), "machine": machine}

    def table(self) -> Table:
        counts = f"{self.pictures} pictures, {self.cases} cases"
        title = f"{self.protocol} x{self.scale}: {counts}, {self.data}"
        table = Table(title=escape(title), title_justify="left")
        table.add_column("method", overflow="fold")
        for name in ("PSNR dB", "SSIM", "kernel error", "s/picture"):
            table.add_column(name, justify="right")
        for row in self.rows:
            error = "-" if row.kernel_error is None else f"{row.kernel_error:.3f}"
            figures = f"{row.psnr:.2f}", f"{row.ssim:.4f}", error, f"{row.seconds:.3f}"
            table.add_row(escape(row.method), *figures)
        return table


def evaluate(
    protocol: str | LearnedDegradation,
    scale: int,
    data: str | Path,
    models: Sequence[str | Path] = (),
    *,
    seed: int = 0,
    limit: int | None = None,
    device: str = "auto",
    learning: dict | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Measure bicubic interpolation and some models on a folder of HR pictures.

    Args:
        protocol, scale, seed: see `pysr.evaluate.protocols.cases`; or a learned degradation of
            this scale in the place of a protocol, see `learned_cases`.
        data: a folder of HR pictures; grey ones are taken as RGB.
        models: names or files as for `pysr.load`; each must have this scale.
        limit: only the first so many pictures.
        learning: arguments of `pysr.adapt.taught`, by which each model is also measured after it
            was taught every case by itself.
        progress: called with pictures done and in all.
    Raises:
        ValueError: for a model of another scale, an empty folder, and as `cases` and `pysr.load`.
    """
    learned = isinstance(protocol, LearnedDegradation)
    if learned and protocol.scale != scale:
        raise ValueError(f"protocol: this degradation is x{protocol.scale}, expected x{scale}")
    if isinstance(models, str | Path):
        raise TypeError(f"models: expected several names or files, got {models!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit: expected at least 1, got {limit}")
    upscalers = {str(name): load(name, scale=scale, device=device) for name in models}
    methods = {INTERPOLATION: lambda case: (imresize(case.lr, scale), None)}
    for name, upscaler in upscalers.items():
        methods[name] = _blind(upscaler)
        if learning is not None:
            methods[f"{name}, {learning['method']}"] = _adapted(upscaler, learning)
    paths = pictures.listing(data)[:limit]
    scores = {name: [] for name in methods}
    for index, path in enumerate(paths):
        hr = arrays.unpack(pictures.read(path).pixels).rgb.contiguous()
        made = (
            learned_cases(protocol, hr, blur.named_seed(seed, path.name))
            if learned
            else cases(protocol, scale, hr, index, seed)
        )
        try:
            for case in made:
                for name, method in methods.items():
                    scores[name].append(_score(method, case, scale))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        progress(index + 1, len(paths))
    rows = tuple(_mean_row(name, values) for name, values in scores.items())
    count = len(scores[INTERPOLATION])
    protocol = f"learned from {protocol.card.camera}" if learned else protocol
    return Report(protocol, scale, str(data), len(paths), count, seed, rows)


def _blind(upscaler: Upscaler) -> Callable[[Case], tuple[Tensor, Tensor | None]]:
    def method(case: Case) -> tuple[Tensor, Tensor | None]:
        result = upscaler(case.lr)
        return result.image, result.kernel

    return method


def _adapted(upscaler: Upscaler, learning: dict) -> Callable[[Case], tuple[Tensor, Tensor | None]]:
    def method(case: Case) -> tuple[Tensor, Tensor | None]:
        device = str(upscaler.device)
        adapted = taught(model=upscaler.model, image=case.lr, device=device, **learning)
        return adapted.upscaler(case.lr).image, adapted.report.kernel

    return method


def _score(method, case: Case, scale: int) -> tuple[float, float, float | None, float]:
    started = time.perf_counter()
    sr, kernel = method(case)
    seconds = time.perf_counter() - started
    sr = to_8bit(sr)
    error = None
    if kernel is not None and case.kernel is not None:
        size = max(kernel.shape[-1], case.kernel.shape[-1])
        difference = blur.resized(kernel, size) - blur.resized(case.kernel, size)
        error = float(difference.abs().sum())
    return psnr(sr, case.hr, scale), ssim(sr, case.hr, scale), error, seconds


def _mean_row(name: str, scores: list) -> Row:
    columns = [list(column) for column in zip(*scores, strict=True)]
    means = [None if None in column else sum(column) / len(column) for column in columns]
    return Row(name, *means)
