"""The training loop: optimiser, schedule, averaged weights, log, and a resume that loses nothing.

What is learned is a task's business (see `pysr.train.dan`); how it is run is the same for all.
Every step draws its data from a generator seeded by (seed, rank, step), so a resumed run continues
in exactly the data order of an uninterrupted one without storing any generator's state.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.distributed.nn  # imported while there is a group, it keeps it, as a default argument
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pysr.files import written_whole


@dataclass(frozen=True)
class TrainingOptions:
    """How to run a training.

    Attributes:
        steps: optimiser steps in all.
        learning_rate, betas: of Adam (dan.txt section 4.1.1: betas 0.9 and 0.99).
        warmup: steps over which the learning rate rises linearly from 0.
        halve_every: the published schedule, the rate halves every so many steps; 0 leaves it
        constant.
        cooldown: the last steps, over which the rate falls linearly to 0.
        ema: decay of the averaged weights, which are the ones that are validated and shipped.
        precision: "fp32", or "bf16" through autocast. On CPUs the latter is for those with matrix
            tiles (AMX), where DAN's blocks then learn by `pysr.ops.mixed_residual_block`.
        compile: run the step through torch.compile.
        seed: of weights and data.
        log_every, validate_every, save_every: in steps.
    """

    steps: int
    learning_rate: float = 4e-4
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: int = 0
    halve_every: int = 0
    cooldown: int = 0
    ema: float = 0.999
    precision: str = "fp32"
    compile: bool = False
    seed: int = 0
    log_every: int = 50
    validate_every: int = 1000
    save_every: int = 500

    def __post_init__(self):
        check_least("training", self, 1, "steps", "log_every", "validate_every", "save_every")
        check_least("training", self, 0, "warmup", "halve_every", "cooldown")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(
                f"training.learning_rate: expected above 0, and finite, got {self.learning_rate}"
            )
        if not 0 <= self.ema < 1:
            raise ValueError(f"training.ema: expected from 0 to below 1, got {self.ema}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"training.seed: expected from 0 to below 2**63, got {self.seed}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            got = ", ".join(map(str, self.betas))
            raise ValueError(f"training.betas: expected two from 0 to below 1, got {got}")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"training.precision: expected fp32 or bf16, got {self.precision!r}")

    def rate(self, step: int) -> float:
        """Learning rate of step 0, 1, ..."""
        rate = self.learning_rate
        if self.halve_every:
            rate *= 0.5 ** (step // self.halve_every)
        if step < self.warmup:
            rate *= (step + 1) / self.warmup
        if self.cooldown:
            rate *= min(1.0, (self.steps - step) / self.cooldown)
        return rate


def check_least(section: str, options: object, least: int, *names: str) -> None:
    """Raises ValueError, as of a recipe's section, where one of these options is below `least`."""
    for name in names:
        if getattr(options, name) < least:
            raise ValueError(
                f"{section}.{name}: expected at least {least}, got {getattr(options, name)}"
            )


class Task(Protocol):
    """What is trained: `module` computes losses of a batch, `model` inside it is what is kept."""

    model: nn.Module
    module: nn.Module

    def batch(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Keyword arguments of one call of `module`."""

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Figures of a model on held-out data."""


def data_generator(seed: int, rank: int, step: int) -> torch.Generator:
    """The CPU generator that draws the data of one step of one process."""
    state = np.random.SeedSequence((seed, rank, step)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)


def run(
    task: Task, options: TrainingOptions, out: Path, description: dict, device: torch.device
) -> tuple[nn.Module, int]:
    """Train `task`, or go on where an earlier run in `out` stopped; returns the averaged model and
    the steps that it was trained for.

    Writes out/log.jsonl (a line per log_every steps and per validation) and out/last.pt (model,
    averaged model, optimiser, step, description), always beside and then renamed. Under torchrun
    every process takes its own part of each batch's draw; only the first writes.

    out/last.pt is also written before each validation, which may fail, and when the keyboard
    interrupts.

    Raises:
        OSError: when a file cannot be written; the last checkpoint stays.
        ValueError: when out/last.pt is damaged, or was made from another `description`; what is not
            in it, such as all of `options` but the seed, may change on the way.
        RuntimeError: when a loss or a weight is not finite, naming the step; the last checkpoint
            stays.
    """
    rank, world = _join_processes(device)
    module = task.module
    if world > 1:
        module = DistributedDataParallel(module)
    if options.compile:
        module = torch.compile(module)
    optimiser = torch.optim.Adam(
        task.model.parameters(), lr=options.learning_rate, betas=options.betas
    )
    average = AveragedModel(task.model, multi_avg_fn=get_ema_multi_avg_fn(options.ema))
    checkpoint = out / "last.pt"
    first = _resume(checkpoint, task.model, average, optimiser, description, device)
    if rank == 0:
        out.mkdir(parents=True, exist_ok=True)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16")
    if first >= options.steps:
        warnings.warn(f"{checkpoint} is of step {first}: nothing is left to train", stacklevel=2)
    sums, counted, started = {}, 0, time.perf_counter()
    reporter = _Reporter(out, options.steps, first, rank == 0)
    with reporter as report, _after_the_step(alone=world == 1) as interrupted:
        for step in range(first, options.steps):
            batch = task.batch(step, data_generator(options.seed, rank, step))
            for group in optimiser.param_groups:
                group["lr"], group["betas"] = options.rate(step), options.betas
            with autocast:
                losses = module(**batch)
            total = sum(losses.values())
            optimiser.zero_grad(set_to_none=True)
            total.backward()
            optimiser.step()
            average.update_parameters(task.model)
            # Summed on the device: reading a loss every step would stall the queue.
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.detach()
            counted += 1
            done = step + 1
            if done % options.log_every == 0 or done == options.steps:
                means = {name: float(value) / counted for name, value in sums.items()}
                if not all(np.isfinite(value) for value in means.values()):
                    raise RuntimeError(f"training: loss is not finite near step {done}: {means}")
                seconds = (time.perf_counter() - started) / counted
                report.line(step=done, rate=options.rate(step), seconds_per_step=seconds, **means)
                sums, counted, started = {}, 0, time.perf_counter()
            validates = done % options.validate_every == 0 or done == options.steps
            if rank == 0 and (validates or done % options.save_every == 0 or interrupted()):
                if not all(bool(p.isfinite().all()) for p in task.model.parameters()):
                    raise RuntimeError(f"training: weights are not finite near step {done}")
                _save(checkpoint, task.model, average, optimiser, done, description)
            if rank == 0 and validates:
                report.line(step=done, **_validate(task, average.module))
                started = time.perf_counter()
            report.advance()
            if interrupted():
                raise KeyboardInterrupt
    return average.module, max(first, options.steps)


@contextlib.contextmanager
def _after_the_step(alone: bool) -> Iterator[Callable[[], bool]]:
    """Whether the keyboard has interrupted, which waits for the step at hand. A second time it
    does not; nor where several processes, which wait for each other, learn together."""
    asked = threading.Event()

    def ask(*_) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    if not alone or threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _validate(task: Task, model: nn.Module) -> dict[str, float]:
    model.eval()
    with torch.no_grad():
        figures = task.validate(model)
    model.train()
    return figures


def _join_processes(device: torch.device) -> tuple[int, int]:
    """Rank and number of processes; torchrun says them in the environment."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(_leave_processes)
    return (torch.distributed.get_rank(), world) if world > 1 else (0, 1)


def _leave_processes() -> None:
    """End the group's threads: one that outlives the interpreter may abort the process."""
    if torch.distributed.is_initialized():  # whoever called may have left it already
        torch.distributed.destroy_process_group()
    gc.collect()  # the last to hold the group are modules in cycles


def _save(path: Path, model, average, optimiser, step: int, description: dict) -> None:
    state = {
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": step,
        "description": description,
    }
    # Into a file that Python opened: torch's own has no words for a full disk.
    with written_whole(path) as beside, open(beside, "wb") as file:
        torch.save(state, file)


def _resume(path: Path, model, average, optimiser, description: dict, device) -> int:
    """Load a checkpoint into everything that is trained; returns the next step."""
    if not path.exists():
        return 0
    state = _read(path, device)
    if state["description"] != description:
        changed = sorted(
            key
            for key in state["description"].keys() | description.keys()
            if state["description"].get(key) != description.get(key)
        )
        raise ValueError(
            f"{path}: was made by another recipe ({', '.join(changed)} differ); "
            "use another output folder, or the same recipe"
        )
    try:
        for part, name in ((model, "model"), (average, "average"), (optimiser, "optimiser")):
            part.load_state_dict(state[name])
        return int(state["step"])
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _unreadable(path, error) from None


def _read(path: Path, device: torch.device) -> dict:
    """What `_save` wrote. Raises ValueError, naming the file, for anything else."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        missing = {"model", "average", "optimiser", "step", "description"} - state.keys()
        if missing:
            raise ValueError(f"without {', '.join(sorted(missing))}")
        if not isinstance(state["description"], dict):
            raise ValueError("without a description")
    except OSError:
        raise
    except Exception as error:  # torch meets damage in many ways
        raise _unreadable(path, error) from None
    return state


def _unreadable(path: Path, error: Exception) -> ValueError:
    reason = str(error).partition("\n")[0] or type(error).__name__
    return ValueError(f"{path}: not a readable checkpoint ({reason}); remove it to begin anew")


class _Reporter:
    """The log file, and a bar on a terminal or plain lines elsewhere."""

    def __init__(self, out: Path, steps: int, first: int, writes: bool):
        self.out, self.writes = out, writes
        console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=console,
            speed_estimate_period=300,
            disable=not (writes and console.is_terminal),
        )
        self.task = self.bar.add_task("", total=steps, completed=first)

    def __enter__(self):
        self.bar.start()
        self.file = open(self.out / "log.jsonl", "a") if self.writes else None
        return self

    def __exit__(self, *exception):
        self.bar.stop()
        if self.file:
            self.file.close()

    def line(self, **figures) -> None:
        if not self.file:
            return
        self.file.write(json.dumps(figures) + "\n")
        self.file.flush()
        text = "  ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in figures.items()
        )
        self.bar.update(self.task, description=text)
        if self.bar.disable:
            print(text, flush=True)

    def advance(self) -> None:
        self.bar.advance(self.task)
