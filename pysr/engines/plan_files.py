"""Engine files: a plan, as TensorRT serialised it, or an ONNX graph, and beside it a json that says
what it is.

A plan is machine code for one library version and GPU, and neither TensorRT nor ONNX Runtime
notices every damage, or other weights. So a file is only used if the json beside it has the facts
that are asked for and the checksum of what was read; anything else, missing, cut off, damaged or
foreign, is built again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from pysr.engines.cache import cache_folder
from pysr.files import write_json, written_whole

LARGEST = 2 * 2**30  # bytes of the plans of a kind


def write_plan(path: Path, plan: bytes, facts: dict) -> None:
    """Write a plan and its json. Each appears whole; a reader in between finds no match."""
    with written_whole(path) as beside:
        beside.write_bytes(plan)
    about = {**facts, "bytes": len(plan), "sha256": hashlib.sha256(plan).hexdigest()}
    write_json(path.with_suffix(".json"), about)


def read_plan(path: Path, facts: dict) -> bytes | None:
    """The plan, None unless it is there, undamaged and of these facts."""
    try:
        about = json.loads(path.with_suffix(".json").read_text())
        plan = path.read_bytes()
    except (OSError, ValueError):
        return None
    expected = {**facts, "bytes": len(plan), "sha256": hashlib.sha256(plan).hexdigest()}
    return plan if about == expected else None


def plan_path(facts: dict, kind: str = "tensorrt") -> Path:
    """Where the cache keeps the plan of these facts, in its folder of a kind."""
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    return cache_folder(kind) / f"{key}.plan"


def cached_plan(facts: dict, build: Callable[[], bytes], kind: str = "tensorrt") -> bytes:
    """The plan of these facts from the cache, built if it is not there.

    Of several processes that want the same one, one builds and the others wait. A cache that can
    only be read serves what it has; raises OSError for what it has not. Of a cache that grows
    beyond LARGEST what was used longest ago is deleted, as adapted models come and go.
    """
    path = plan_path(facts, kind)
    plan = read_plan(path, facts)
    if plan is not None:
        with contextlib.suppress(OSError):
            os.utime(path)
        return plan
    with FileLock(path.with_suffix(".lock")):
        plan = read_plan(path, facts)
        if plan is None:
            plan = build()
            write_plan(path, plan, facts)
            _delete_oldest(path)
    return plan


def _delete_oldest(newest: Path) -> None:
    """All but the newest, as far as LARGEST asks for; another process may do the same."""
    found = []
    for path in newest.parent.glob("*.plan"):
        with contextlib.suppress(OSError):
            stat = path.stat()
            found.append((stat.st_mtime, stat.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= LARGEST:
            return
        if path != newest:
            for suffix in (".json", ".compiled", ".plan"):
                path.with_suffix(suffix).unlink(missing_ok=True)
            total -= size
