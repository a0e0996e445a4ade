"""DAN through ONNX Runtime, from the graphs of `onnx_export`.

The graphs are exported once and kept in the cache folder, under a name that changes with the
weights, the configuration and the versions that wrote them. Two things stay with torch: pictures of
fewer than three rows or columns, which the graphs do not take, and the channel attention of tiled
pictures.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

import pysr
from pysr.engines.onnx_export import OPSET, export_onnx
from pysr.engines.torch_engine import TorchEngine
from pysr.nets import DAN, fingerprint

SMALLEST = 3
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxEngine:
    """See `pysr.engines`. The weights are those that the model has when the engine is made.

    Raises ExportError where `export_onnx` does.
    """

    @staticmethod
    def obstacle(device: torch.device, precision: str = "float32") -> str:
        missing = [name for name in ("onnxruntime", "onnxscript") if find_spec(name) is None]
        if missing:
            return f"needs {' and '.join(missing)}: pip install 'pysr[onnx]'"
        if precision != "float32":
            return f"its graphs are float32, not {precision}"
        import onnxruntime

        offered = onnxruntime.get_available_providers()
        if PROVIDERS.get(device.type) in offered:
            return ""
        return f"this onnxruntime has no provider for {device.type}, only {', '.join(offered)}"

    def __init__(self, model: DAN, device: torch.device, precision: str = "float32"):
        import onnxruntime

        self.device = device
        self._torch = TorchEngine(model, device)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads that spin while they wait would take the cores from torch's own.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        settings = {"device_id": device.index or 0} if device.type == "cuda" else {}
        where = (PROVIDERS[device.type], settings)
        folder = exported(model)
        self._sessions = {
            name: onnxruntime.InferenceSession(folder / f"{name}.onnx", options, providers=[where])
            for name in ("restorer", "restorer_gated", "estimator")
        }
        self._version = onnxruntime.__version__

    def restore(self, lr: Tensor, code: Tensor, gates: Sequence[Tensor] | None = None) -> Tensor:
        if min(lr.shape[-2:]) < SMALLEST:
            return self._torch.restore(lr, code, gates)
        code = code.expand(len(lr), -1)
        if gates is None:
            return self._run("restorer", lr=lr, code=code)
        gates = torch.stack([gate[0, :, 0, 0] for gate in gates])
        return self._run("restorer_gated", lr=lr, code=code, gates=gates)

    def estimate(self, lr: Tensor, sr: Tensor) -> Tensor:
        if min(lr.shape[-2:]) < SMALLEST:
            return self._torch.estimate(lr, sr)
        return self._run("estimator", lr=lr, sr=sr)

    def gates(self, crops: Tensor, code: Tensor, margin: tuple[int, int]) -> list[Tensor]:
        return self._torch.gates(crops, code, margin)

    def warm_up(self, n: int, h: int, w: int) -> None:
        self.restore(torch.zeros(n, 3, h, w), self._torch.model.init_ker_map)

    def close(self) -> None:
        self._sessions = {}
        self._torch.close()

    def describe(self) -> str:
        return f"ONNX Runtime {self._version}, float32, {self.device}"

    def _run(self, name: str, **given: Tensor) -> Tensor:
        arrays = {key: value.float().cpu().contiguous().numpy() for key, value in given.items()}
        return torch.from_numpy(self._sessions[name].run(None, arrays)[0]).to(self.device)


def exported(model: DAN) -> Path:
    """The folder with a model's graphs, exported now if the cache does not hold it.

    The cache is $PYSR_CACHE, else pysr in $XDG_CACHE_HOME or ~/.cache.
    """
    digest = hashlib.sha256(
        json.dumps([fingerprint(model), pysr.__version__, torch.__version__, OPSET]).encode()
    )
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pysr"
    cache = Path(os.environ.get("PYSR_CACHE") or user) / "onnx"
    folder = cache / digest.hexdigest()[:32]
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=cache))
        try:
            export_onnx(model, beside)
            beside.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first
                raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return folder
