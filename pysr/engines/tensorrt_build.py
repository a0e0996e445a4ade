"""TensorRT engines from a model's graphs, by `tensorrt` (10 and 11) or `tensorrt_rtx`.

The two packages share the API that is used here, and networks are strongly typed in both: types are
the graph's, there is no precision flag. They differ in where an engine runs. TensorRT times kernels
on the GPU that is there and builds for it alone. TensorRT for RTX builds ahead of time, without a
GPU too, for one or several compute capabilities, and finishes on the device that loads the engine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch

from pysr.engines.cache import cache_folder, model_digest
from pysr.engines.onnx_export import checked_graph, write_about
from pysr.engines.onnx_graphs import GRAPHS
from pysr.engines.plan_files import write_plan
from pysr.files import folder_written_whole, written_whole
from pysr.nets import DAN, DANConfig

PACKAGES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}

# Shapes (n, h, w) of LR pictures that an engine takes: smallest, the one it is tuned for, largest.
# The crops that kernels are estimated on; small pictures; video, and the tiles of large pictures.
PROFILES = (
    ((1, 3, 3), (2, 160, 160), (4, 256, 256)),
    ((1, 3, 3), (1, 320, 480), (1, 512, 512)),
    ((1, 3, 3), (1, 540, 960), (1, 1080, 1920)),
)


class TensorRTError(RuntimeError):
    """TensorRT cannot do what was asked; the message is one line with its own reason."""


@dataclass(frozen=True)
class Target:
    """What an engine is built by and for.

    Attributes:
        package: of PACKAGES.
        devices: compute capabilities ("sm89") for tensorrt-rtx; for tensorrt the GPU's name.
    """

    package: str
    devices: tuple[str, ...]


def profile_for(n: int, h: int, w: int) -> int | None:
    """The first profile that holds a shape, None if there is none."""
    for i, (smallest, _, largest) in enumerate(PROFILES):
        shape = zip(smallest, (n, h, w), largest, strict=True)
        if all(low <= size <= high for low, size, high in shape):
            return i
    return None


def installed_package() -> str:
    """TensorRT, which serves every GPU and tunes for the one at hand, else TensorRT for RTX.

    Raises TensorRTError, naming both, where neither is.
    """
    for package, module in PACKAGES.items():
        if find_spec(module) is not None:
            return package
    raise TensorRTError("needs TensorRT: pip install 'pysr[tensorrt]' or 'pysr[tensorrt-rtx]'")


def local_target(package: str, device: torch.device) -> Target:
    """What a package builds for on this machine. Raises TensorRTError where it cannot run."""
    if device.type != "cuda":
        raise TensorRTError("needs an NVIDIA GPU that torch can use")
    load_package(package)  # a library that it links may be missing
    if package == "tensorrt":
        return Target(package, (torch.cuda.get_device_name(device),))
    return rtx_target("sm{}{}".format(*torch.cuda.get_device_capability(device)))


def rtx_target(*devices: str) -> Target:
    """TensorRT for RTX for some compute capabilities ("sm89"), of GPUs that need not be here.

    Raises TensorRTError for those that it does not know.
    """
    known = compute_capabilities()
    for device in devices:
        if device not in known:
            raise TensorRTError(f"TensorRT for RTX builds for {', '.join(known)}, not {device!r}")
    return Target("tensorrt-rtx", devices)


def compute_capabilities() -> list[str]:
    """The targets that the installed TensorRT for RTX builds for."""
    names = load_package("tensorrt-rtx").ComputeCapability.__members__
    return [name.lower() for name in names if re.fullmatch(r"SM\d+", name)]


def load_package(package: str):
    """The module of a package; TensorRTError says what to install."""
    try:
        return import_module(PACKAGES[package])
    except ImportError as error:
        raise TensorRTError(
            f"needs {PACKAGES[package]}: pip install 'pysr[{package}]' ({error})"
        ) from None


def plan_facts(
    model: DAN, graph: str, precision: str, target: Target, refittable: bool = False
) -> dict:
    """Everything that an engine depends on: equal facts, equal engine."""
    return {
        "graph": graph,
        "model": model_digest(model),
        "precision": precision,
        "profiles": [[list(shape) for shape in profile] for profile in PROFILES],
        "package": target.package,
        "version": load_package(target.package).__version__,
        "devices": list(target.devices),
        "refittable": refittable,
    }


def build_plan(graph: bytes, config: DANConfig, target: Target, refittable: bool = False) -> bytes:
    """The serialised engine of an ONNX graph of a model with this configuration.

    Raises TensorRTError when TensorRT refuses.
    """
    trt = load_package(target.package)
    log = Log(trt)
    try:
        builder = trt.Builder(log.logger)
    except TypeError:  # what the binding makes of a factory that returned nothing
        raise TensorRTError(f"no builder: {log.reason()}") from None
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse(graph):
        reasons = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise TensorRTError(f"the graph is not understood: {'; '.join(reasons)}")
    settings = builder.create_builder_config()
    settings.clear_flag(trt.BuilderFlag.TF32)  # ten bits are no float32
    if refittable:
        settings.set_flag(trt.BuilderFlag.REFIT)
    _add_profiles(builder, settings, network, config)
    if target.package == "tensorrt-rtx":
        settings.num_compute_capabilities = len(target.devices)
        for i, device in enumerate(target.devices):
            settings.set_compute_capability(getattr(trt.ComputeCapability, device.upper()), i)
        plan = builder.build_serialized_network(network, settings)
    else:
        timings = _TimingCache(trt, settings, target)
        plan = builder.build_serialized_network(network, settings)
        timings.save()
    if plan is None:
        raise TensorRTError(f"nothing was built: {log.reason()}")
    return bytes(plan)


def export_tensorrt(
    model: DAN, folder: str | Path, target: Target, precision: str = "float16"
) -> list[Path]:
    """Write a DAN's engines into a folder, which is made if it is missing; returns the files.

    NAME.plan and NAME.json, for the graphs, inputs and outputs of `export_onnx`; beside them its
    dan.json and encoder.npy. The json says what the engine was built by and for, and its checksum.
    The files appear together or not at all.

    Raises:
        ExportError: as `export_onnx`.
        TensorRTError: if the package is missing, or refuses.
        OSError: if the folder cannot be written.
    """
    load_package(target.package)
    with folder_written_whole(folder) as beside:
        for name in GRAPHS:
            graph = checked_graph(model, name, precision)
            plan = build_plan(graph, model.config, target)
            write_plan(beside / f"{name}.plan", plan, plan_facts(model, name, precision, target))
        write_about(model, beside)
        names = sorted(path.name for path in beside.iterdir())
    return [Path(folder) / name for name in names]


class Log:
    """TensorRT's log: kept, for the reason of a failure, instead of printed."""

    def __init__(self, trt):
        log = self
        self._errors: list[str] = []

        class Logger(trt.ILogger):
            def __init__(self):
                trt.ILogger.__init__(self)

            def log(self, severity, message):
                if severity <= trt.ILogger.ERROR:
                    log._errors.append(" ".join(message.split()))

        self.logger = Logger()

    def reason(self) -> str:
        return self._errors[-1] if self._errors else "TensorRT gives no reason"


class _TimingCache:
    """What TensorRT measured of kernels on a GPU, from one build to the next.

    TensorRT for RTX times nothing; it keeps what it compiles in a runtime cache.
    """

    def __init__(self, trt, settings, target: Target):
        name = re.sub(r"\W+", "-", f"{trt.__version__}-{target.devices[0]}")
        self._path = cache_folder("tensorrt") / f"timings-{name}"
        self._settings = settings
        content = self._path.read_bytes() if self._path.is_file() else b""
        # One that is damaged or foreign is refused, and an empty one takes its place.
        for known in (content, b""):
            cache = settings.create_timing_cache(known)
            if cache is not None and settings.set_timing_cache(cache, ignore_mismatch=False):
                break

    def save(self) -> None:
        with written_whole(self._path) as beside:
            beside.write_bytes(bytes(self._settings.get_timing_cache().serialize()))


def _add_profiles(builder, settings, network, config: DANConfig) -> None:
    for shapes in PROFILES:
        profile = builder.create_optimization_profile()
        for name in (network.get_input(i).name for i in range(network.num_inputs)):
            if name == "gates":  # the same for every picture
                continue
            profile.set_shape(name, *(_input_shape(name, config, *shape) for shape in shapes))
        settings.add_optimization_profile(profile)


def _input_shape(name: str, config: DANConfig, n: int, h: int, w: int) -> tuple[int, ...]:
    return {
        "lr": (n, 3, h, w),
        "sr": (n, 3, config.scale * h, config.scale * w),
        "code": (n, config.code_length),
    }[name]
