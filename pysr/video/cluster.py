"""Where segments are made: in this process, in several, or on the machines of a Ray cluster.

All three are one interface. The process that holds the journal takes every segment in itself, in
whatever order they come, so that no worker, however late it dies, touches what is journalled.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType

import torch

from pysr.upscaler import Upscaler
from pysr.video.clip import VideoError
from pysr.video.pipeline import Times
from pysr.video.segments import Segment
from pysr.video.worker import Facts, Finished, Work, Worker, check_input

RETRIES = 3  # of a segment whose worker died, and of a worker

Advanced = Callable[[int], None]


def make(
    work: Work,
    folder: Path,
    segments: Sequence[Segment],
    finished: Finished,
    advanced: Advanced,
    *,
    upscaler: Upscaler,
    jobs: int = 1,
    cluster: str | None = None,
) -> Times:
    """Make segments, each a file in `folder` when `finished` is called with it.

    Args:
        upscaler: for this process, where that does the work.
        jobs: processes; on a cluster its workers, where 1 is as many as it has GPUs, or else nodes.
        cluster: address of a Ray cluster, "auto" for the one this machine belongs to, or "local" to
            begin one here.
    Raises:
        VideoError: what a worker raised, or if Ray is missing or the cluster cannot be reached.
    """
    if not segments:
        return Times()
    if cluster is not None:
        return _on_ray(work, folder, segments, finished, advanced, cluster, jobs)
    if jobs > 1:
        return _in_processes(work, folder, segments, finished, advanced, jobs)
    return Worker(work, upscaler).make(segments, folder, finished, advanced)


def _in_processes(
    work: Work,
    folder: Path,
    segments: Sequence[Segment],
    finished: Finished,
    advanced: Advanced,
    jobs: int,
) -> Times:
    jobs = min(jobs, len(segments))
    context = multiprocessing.get_context("spawn")  # CUDA and OpenMP do not survive a fork
    threads = max(1, torch.get_num_threads() // jobs)
    ended, end = context.Pipe(duplex=False)
    settings = (work, folder, context.Value("i", 0), threads, ended)
    times = Times()
    with end, ProcessPoolExecutor(jobs, context, _begin_process, settings) as pool:
        try:
            with _interrupts_held():  # each of the first tasks starts a process
                tasks = [pool.submit(_make_in_process, segment) for segment in segments]
            for task in as_completed(tasks):
                segment, path, facts, taken = task.result()
                finished(segment, path, facts)
                advanced(len(segment))
                times += taken
        except BrokenProcessPool:
            guard = "" if times.model else '; a script needs if __name__ == "__main__": around it'
            raise RuntimeError(
                "a worker process died, most likely of too little memory; the same command goes on "
                f"where it was, with fewer --jobs too{guard}"
            ) from None
        except BaseException:
            end.close()  # the segments in work would take minutes yet, and nobody takes them in
            raise
    return times


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """A process that is started here inherits that SIGINT does not reach it, for as long as it
    imports what it needs; one that comes meanwhile reaches this process afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_work: Work
_folder: Path
_worker: Worker | None = None


def _begin_process(work: Work, folder: Path, counter, threads: int, ended: Connection) -> None:
    """The processes take the GPUs by turns. An interrupt is the parent's, which then ends them."""
    global _work, _folder
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_job, args=[ended], daemon=True).start()
    torch.set_num_threads(threads)
    with counter.get_lock():
        number, counter.value = counter.value, counter.value + 1
    gpus = torch.cuda.device_count()
    if gpus and work.device in ("auto", "cuda"):
        work = replace(work, device=f"cuda:{number % gpus}")
    _work, _folder = work, folder


def _end_with_job(ended: Connection) -> None:
    """A job that failed or was killed leaves no process behind that still computes for it."""
    wait([multiprocessing.parent_process().sentinel, ended])
    os._exit(1)


def _make_in_process(segment: Segment) -> tuple[Segment, Path, Facts, Times]:
    """The model is loaded with the first segment, so that an error in that is the segment's."""
    global _worker
    if _worker is None:
        _worker = Worker(_work, _work.upscaler())
    return _make_one(_worker, segment, _folder)


def _make_one(worker: Worker, segment: Segment, folder: Path) -> tuple[Segment, Path, Facts, Times]:
    made = []
    times = worker.make([segment], folder, lambda *result: made.append(result))
    return *made[0], times


def _on_ray(
    work: Work,
    folder: Path,
    segments: Sequence[Segment],
    finished: Finished,
    advanced: Advanced,
    address: str,
    workers: int,
) -> Times:
    """An actor for each worker, restarted by Ray when its process or its machine dies; Ray then
    gives the segment that was lost to another."""
    with _connected(address) as ray:
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        if workers == 1:
            workers = gpus or len([node for node in ray.nodes() if node["Alive"]])
        workers = min(workers, len(segments))
        actor = ray.remote(
            num_gpus=min(1, gpus / workers),
            num_cpus=max(1, int(resources.get("CPU", 1)) // workers),
            max_restarts=RETRIES,
            max_task_retries=RETRIES,
        )(_RayWorker)
        work = ray.put(work)
        pool = ray.util.ActorPool([actor.remote() for _ in range(workers)])
        times = Times()
        try:
            results = pool.map_unordered(lambda a, segment: a.make.remote(work, segment), segments)
            for segment, files, facts, taken in results:
                path = folder / f"{segment.index:06d}"
                _unpack(files, path)
                finished(segment, path, facts)
                advanced(len(segment))
                times += taken
        except ray.exceptions.RayTaskError as error:
            # Ray's own message is the worker's whole traceback.
            raise error.cause from None
        except ray.exceptions.RayActorError as error:
            raise RuntimeError(
                f"a worker died {RETRIES + 1} times ({str(error).splitlines()[0]}); the same "
                "command goes on where it was"
            ) from None
    return times


class _RayWorker:
    """What comes with a task is kept by Ray until it is done, and there for a second attempt; what
    comes with the constructor is not. So the model is loaded with the first task."""

    _worker: Worker | None = None

    def make(self, work: Work, segment: Segment) -> tuple[Segment, dict[str, bytes], Facts, Times]:
        """A segment's files come back as bytes: machines share no folder for results."""
        if self._worker is None:
            check_input(work)
            self._worker = Worker(work, work.upscaler())
        with tempfile.TemporaryDirectory() as folder:
            segment, path, facts, times = _make_one(self._worker, segment, Path(folder))
            return segment, _pack(path), facts, times


def load_ray() -> ModuleType:
    """Raises VideoError where Ray is not installed."""
    try:
        import ray
    except ImportError:
        raise VideoError("--cluster needs Ray: pip install 'pysr[ray]'") from None
    return ray


@contextlib.contextmanager
def _connected(address: str) -> Iterator[ModuleType]:
    ray = load_ray()
    _check_address(address)
    try:
        ray.init(
            address,
            include_dashboard=None if address != "local" else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise VideoError(f"cluster: {address!r} cannot be reached ({reason})") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Ray itself would try for two minutes and then end the process."""
    if address in ("local", "auto"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise VideoError(f"cluster: {address!r} cannot be reached ({error})") from None


def _pack(path: Path) -> dict[str, bytes]:
    """The files of a segment by their names in its folder; "." where it is one file."""
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def _unpack(files: dict[str, bytes], path: Path) -> None:
    for name, content in files.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
