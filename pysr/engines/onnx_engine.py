"""DAN through ONNX Runtime, from the graphs of `onnx_export`.

The graphs are exported once and kept in the cache folder. Two things stay with torch: pictures of
fewer than three rows or columns, which the graphs do not take, and the channel attention of tiled
pictures. Of ONNX Runtime's providers the one for the CPU or CUDA is used: its TensorRT provider
builds inside the first call, where the tensorrt engine builds while torch serves.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

from pysr.engines.cache import model_digest
from pysr.engines.onnx_export import checked_graph
from pysr.engines.onnx_graphs import GRAPHS
from pysr.engines.plan_files import cached_plan
from pysr.engines.torch_engine import TorchEngine
from pysr.nets import DAN

SMALLEST = 3
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# The CPU provider widens half precision for its convolutions; CUDA's convolves no bfloat16.
PRECISIONS = {"cpu": ("float32",), "cuda": ("float32", "float16")}


class OnnxEngine:
    """See `pysr.engines`. The weights are those that the model has when the engine is made.

    Raises ExportError where `export_onnx` does, OSError where the cache cannot be written.
    """

    @staticmethod
    def obstacle(device: torch.device, precision: str = "float32") -> str:
        missing = [name for name in ("onnxruntime", "onnxscript") if find_spec(name) is None]
        if missing:
            return f"needs {' and '.join(missing)}: pip install 'pysr[onnx]'"
        if precision not in PRECISIONS.get(device.type, ()):
            return f"gains nothing from {precision} on {device.type}"
        try:
            import onnxruntime
        except ImportError as error:  # a library that it links may be missing
            return f"onnxruntime does not import: {' '.join(str(error).split())}"
        offered = onnxruntime.get_available_providers()
        if PROVIDERS.get(device.type) in offered:
            return ""
        return f"this onnxruntime has no provider for {device.type}, only {', '.join(offered)}"

    def __init__(self, model: DAN, device: torch.device, precision: str = "float32"):
        import onnxruntime

        self.device = device
        self.precision = precision
        # Its own weights: the graphs' do not change with the model's.
        self._torch = TorchEngine(copy.deepcopy(model.to(device)), device, precision)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Its arena would keep the memory of the largest picture, and is no faster.
        options.enable_cpu_mem_arena = False
        # Threads that spin while they wait would take the cores from torch's own.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        settings = {"device_id": device.index or 0} if device.type == "cuda" else {}
        where = (PROVIDERS[device.type], settings)
        digest = model_digest(model)

        def graph(name: str) -> bytes:
            facts = {"graph": name, "model": digest, "precision": precision}
            return cached_plan(facts, lambda: checked_graph(model, name, precision), "onnx")

        self._sessions = {
            name: onnxruntime.InferenceSession(graph(name), options, providers=[where])
            for name in GRAPHS
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
        return f"ONNX Runtime {self._version}, {self.precision}, {self.device}"

    def _run(self, name: str, **given: Tensor) -> Tensor:
        arrays = {key: value.float().cpu().contiguous().numpy() for key, value in given.items()}
        return torch.from_numpy(self._sessions[name].run(None, arrays)[0]).to(self.device)
