"""Keeps what `side_by_side` measures: `--results` writes it to bench/results, a file per benchmark.

That it lies here also puts this folder on the path, where every benchmark finds `side_by_side` and
`records`.
"""

import json
import platform
import sys
from pathlib import Path

import side_by_side
import torch
from records import RESULTS, made_by

# float32 is float32 on a GPU too: what is measured beside our kernels computes as they do.
torch.backends.cudnn.allow_tf32 = False


def pytest_addoption(parser):
    parser.addoption("--results", action="store_true", help="write bench/results/NAME.json")


def pytest_sessionfinish(session, exitstatus):
    if not session.config.getoption("--results") or exitstatus != 0:
        return
    about = made_by("pytest", *session.config.invocation_params.args)
    for name in {record["file"] for record in side_by_side.RECORDS}:
        records = [record for record in side_by_side.RECORDS if record["file"] == name]
        for device in {record["device"] for record in records}:
            measured = [
                {key: value for key, value in record.items() if key not in ("file", "device")}
                for record in records
                if record["device"] == device
            ]
            suffix = "" if device == "cpu" else f"_{device}"
            content = {**about, "device": _name(device), "measured": measured}
            target = RESULTS / f"{name}{suffix}.json"
            target.write_text(json.dumps(content, indent=2) + "\n")
            print(f"\n{target}", file=sys.stderr)


def _name(device: str) -> str:
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), cpu)
    return f"{cpu}, {torch.get_num_threads()} threads"
