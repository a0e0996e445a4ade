"""How fast the engines are on this machine, what they take, and what they give.

Every engine runs in a process of its own: its memory is then what that process grows by, and no
other's threads spin on its cores.
"""

from __future__ import annotations

import copy
import math
import multiprocessing
import platform
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pysr import engines
from pysr.degrade import imresize
from pysr.evaluate import limits
from pysr.nets import DAN, load_dan

ROUNDS = 5  # at least
SECONDS = 2.0  # of timing, where rounds are short


@dataclass(frozen=True)
class Speed:
    """One pass of a model's Restorer by one engine in one precision.

    Attributes:
        size: width and height of the input.
        milliseconds: the median of several calls, picture and result on the device.
        gigabytes: what the engine added to the process's peak memory, on a GPU to the memory in
            use; None where the system does not tell.
        share: multiplications and additions of direct convolutions over those of the same time in
            torch's matrix product: on a GPU in the engine's precision, on a CPU in float32, where
            half precision may take seconds. Winograd's method needs fewer, and may exceed 1.
        psnr: in dB, against torch in float32; None where every value is the same.
    """

    engine: str
    precision: str
    device: str
    size: tuple[int, int]
    milliseconds: float
    fps: float
    gigabytes: float | None
    share: float
    psnr: float | None


@dataclass(frozen=True)
class SpeedReport:
    """What was measured, and by engine and precision why the rest was not."""

    model: str
    device: str
    speeds: tuple[Speed, ...]
    obstacles: dict[str, str]

    def as_json(self) -> dict:
        about = {"python": platform.python_version(), "torch": torch.__version__}
        about["threads"] = torch.get_num_threads()
        return {**asdict(self), "machine": about}

    def table(self) -> Table:
        title = f"{self.model}, one Restorer pass, {self.device}"
        table = Table(title=escape(title), title_justify="left")
        table.add_column("engine")
        table.add_column("precision")
        for name in ("size", "ms", "fps", "GB", "of limit", "PSNR dB"):
            table.add_column(name, justify="right")
        for row in self.speeds:
            table.add_row(
                row.engine,
                row.precision,
                "x".join(map(str, row.size)),
                f"{row.milliseconds:.1f}",
                f"{row.fps:.1f}",
                "-" if row.gigabytes is None else f"{row.gigabytes:.2f}",
                f"{row.share:.0%}",
                "same" if row.psnr is None else f"{row.psnr:.1f}",
            )
        return table


def measure_engines(model: str | Path, size: tuple[int, int], device: torch.device) -> SpeedReport:
    """Measure every engine in every precision that works here, one after the other.

    Args:
        model: a name or file as for `pysr.load`. size: width and height of the input.
    Raises:
        pysr.nets.ModelError: for a model that cannot be loaded.
        ValueError: for a size without pixels.
    """
    if min(size) < 1:
        raise ValueError(f"size: expected at least 1x1, got {size[0]}x{size[1]}")
    loaded = load_dan(model)
    speeds, obstacles = [], {}
    for engine, precision in _all():
        obstacle = engines.ENGINES[engine].obstacle(device, precision)
        if not obstacle:
            try:
                _prepare(engine, loaded, size, device, precision)
                speeds.append(_apart(str(model), size, device, engine, precision))
            except Exception as error:  # foreign runtimes raise anything; the others still count
                obstacle = " ".join(f"{type(error).__name__}: {error}".split())
        if obstacle:
            obstacles[f"{engine} {precision}"] = obstacle
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return SpeedReport(str(model), f"{device} ({name})", tuple(speeds), obstacles)


def operations(model: DAN, size: tuple[int, int]) -> int:
    """Floating point operations of one Restorer pass by direct convolutions, on width and height.

    Counted on torch's meta device, where nothing is computed.
    """
    restorer = copy.deepcopy(model.Restorer).to("meta")
    lr = torch.empty(1, 3, size[1], size[0], device="meta")
    code = torch.empty(1, model.config.code_length, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        restorer(lr, code)
    return counter.get_total_flops()


def _all() -> Iterator[tuple[str, str]]:
    return ((engine, precision) for engine in engines.ENGINES for precision in engines.PRECISIONS)


def _prepare(engine: str, model: DAN, size: tuple[int, int], device: torch.device, precision: str):
    """Let it export or build now, into the cache: the memory of that is not what it runs in."""
    running = engines.create(engine, model, device, precision)
    running.warm_up(1, *reversed(size))
    running.close()


def _apart(*arguments) -> Speed:
    context = multiprocessing.get_context("spawn")  # a fork would share torch's threads
    with ProcessPoolExecutor(1, context) as pool:
        try:
            return pool.submit(_measure, *arguments).result()
        except BrokenProcessPool:
            raise RuntimeError("its process ended without an answer") from None


def _measure(
    name: str, size: tuple[int, int], device: torch.device, engine: str, precision: str
) -> Speed:
    model = load_dan(name)
    lr, code = _picture(size).to(device), model.init_ker_map.to(device)
    before = _memory(device)
    running = engines.create(engine, model, device, precision)
    running.warm_up(1, *reversed(size))
    seconds = _seconds(lambda: running.restore(lr, code), device)
    after = _memory(device)
    sr = running.restore(lr, code)
    at = engines.PRECISIONS[precision] if device.type == "cuda" else torch.float32
    reference = engines.TorchEngine(load_dan(name), device).restore(lr, code)
    return Speed(
        engine=engine,
        precision=precision,
        device=str(device),
        size=size,
        milliseconds=seconds * 1e3,
        fps=1 / seconds,
        gigabytes=None if before is None else (after - before) / 1e9,
        share=operations(model, size) / seconds / limits.flops(device, at),
        psnr=_psnr(sr, reference),
    )


def _picture(size: tuple[int, int]) -> Tensor:
    """(1, 3, H, W) in [0, 1], the same every time, smooth as pictures are."""
    w, h = size
    small = torch.rand(1, 3, -(-h // 8), -(-w // 8), generator=torch.Generator().manual_seed(0))
    return imresize(small, 8)[..., :h, :w].clamp(0, 1)


def _seconds(work, device: torch.device) -> float:
    """The median of at least ROUNDS calls, and of as many as SECONDS hold."""
    taken = []
    while len(taken) < ROUNDS or sum(taken) < SECONDS:
        limits.synchronise(device)
        started = time.perf_counter()
        work()
        limits.synchronise(device)
        taken.append(time.perf_counter() - started)
    return median(taken)


def _memory(device: torch.device) -> int | None:
    """Bytes in use on a GPU, by whomever; on a CPU the most that this process has had, on Linux."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total - free
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    peak = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024


def _psnr(sr: Tensor, reference: Tensor) -> float | None:
    """In dB before rounding to 8 bits, which would hide all that is to be seen here."""
    error = float((sr - reference).square().mean())
    return -10 * math.log10(error) if error else None
