"""pysr doctor"""

from __future__ import annotations

import argparse
import platform

import torch

import pysr
from pysr import _ext, engines, ops
from pysr.nets import SHIPPED, ModelError, load_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(options: argparse.Namespace) -> int:
    """Prints what works; exits with 2 when something that ships with pysr does not."""
    lines = [
        ("pysr", pysr.__version__),
        ("python", f"{platform.python_version()} on {platform.machine()}"),
        ("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        ("gpu", _gpu()),
    ]
    kernels = _ext.report()
    if kernels.built:
        lines.append(("kernels", f"CPU: {kernels.isa}; CUDA: {_cuda(kernels)}"))
    else:
        lines.append(("kernels", f"missing, plain torch is used instead ({kernels.reason})"))
    usable = {"cpu": kernels.isas, "cuda": kernels.cuda_architectures}
    for name in ops.__all__:
        devices = [
            f"{device} ({', '.join(usable[device])})"
            for device in sorted(_ext.DEVICES)
            if _ext.serves(torch.device(device))
        ]
        lines.append((f"operator {name}", ", ".join(devices) or "plain torch"))
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        taken, _ = engines.candidates("auto", torch.device(device))[0]
        reason = {"cpu": "the fastest measured", "cuda": "the others being unmeasured"}[device]
        for name in engines.ENGINES:
            state = _engine(name, torch.device(device))
            if name == taken:
                state += f"; what auto takes, {reason}"
            lines.append((f"engine {name} on {device}", state))
    broken = not kernels.built
    for name in SHIPPED:
        try:
            model = load_model(name)
            lines.append((f"model {name}", f"x{model.config.scale}, weights load"))
        except (ModelError, OSError) as error:
            lines.append((f"model {name}", f"BROKEN: {error}"))
            broken = True
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:<{width}}  {value}")
    return 2 if broken else 0


def _engine(name: str, device: torch.device) -> str:
    """The precisions that an engine offers, auto's first, or why it offers none."""
    obstacle = engines.ENGINES[name].obstacle
    usable = [p for p in engines.PRECISIONS if not obstacle(device, p)]
    if not usable:
        return obstacle(device, "float32")
    auto = engines.candidates(name, device)[0][1]
    return ", ".join(sorted(usable, key=lambda p: p != auto))


def _cuda(kernels: _ext.Report) -> str:
    if kernels.cuda is None:
        return "none compiled in"
    compiled = f"{kernels.cuda} for {', '.join(kernels.cuda_architectures)}"
    obstacle = _ext.cuda_obstacle()
    return f"{compiled}, not used: {obstacle}" if obstacle else compiled


def _gpu() -> str:
    if not torch.cuda.is_available():
        return "none that torch can use"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(names)
