"""A DAN as ONNX graphs, for ONNX Runtime and TensorRT.

Restorer and Estimator are exported apart, since the loop between them ends at a different iteration
for every use. N, H and W are free, H and W from 3 on (below, a picture has fewer than the nine
border cases). Nothing is written that does not agree with torch.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pysr.engines.cache import cache_folder, model_digest
from pysr.files import folder_written_whole
from pysr.nets import DAN

# Pictures that every graph is compared with torch at: n, h, w.
SIZES = ((2, 24, 20), (1, 17, 31), (3, 3, 5))
# Worst difference of any output value from torch in float32, relative to the root mean square of
# what torch gives. Measured: 4e-6, 6e-3 and 0.05; in float16 that is some 76 dB between pictures.
TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 2e-1}
GRAPHS = ("restorer", "restorer_gated", "estimator")


class ExportError(RuntimeError):
    """An exported graph disagrees with torch, or what exporting needs is not installed."""


def export_onnx(model: DAN, folder: str | Path, precision: str = "float32") -> list[Path]:
    """Write a DAN into a folder, which is made if it is missing; returns the files.

    restorer.onnx: lr (N, 3, H, W), code (N, code_length) -> sr (N, 3, s*H, s*W).
    restorer_gated.onnx: the same with gates (blocks, features), the channel attention of a larger
        picture that lr is a tile of.
    estimator.onnx: lr, sr -> code.
    dan.json: the configuration, and the code that the loop starts from; encoder.npy: (k * k,
        code_length), the code of a kernel is flat(kernel) @ encoder.

    Inputs and outputs are float32 in every precision, "float32", "float16" or "bfloat16". The
    files appear together or not at all.

    Raises:
        ExportError: if onnx, onnxscript or onnxruntime is missing, or a graph disagrees with torch
            by more than TOLERANCES at any of SIZES.
        OSError: if the folder cannot be written.
    """
    with folder_written_whole(folder) as beside:
        for name in GRAPHS:
            (beside / f"{name}.onnx").write_bytes(checked_graph(model, name, precision))
        about = {**asdict(model.config), "first_code": model.init_ker_map[0].tolist()}
        (beside / "dan.json").write_text(json.dumps(about, indent=2) + "\n")
        np.save(beside / "encoder.npy", model.encoder[0].cpu().numpy())
    names = [*(f"{name}.onnx" for name in GRAPHS), "encoder.npy", "dan.json"]
    return [Path(folder) / name for name in names]


def exported(model: DAN, precision: str = "float32") -> Path:
    """The folder in the cache with a model's graphs, exported now if it is not there."""
    folder = cache_folder("onnx") / f"{model_digest(model)}-{precision}"
    if not folder.is_dir():
        export_onnx(model, folder, precision)
    return folder


def checked_graph(model: DAN, name: str, precision: str) -> bytes:
    """One of GRAPHS as a serialised ONNX model that agrees with torch.

    Raises ExportError as `export_onnx` does.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 (torch.onnx imports it late, with a longer message)
    except ImportError as error:
        raise ExportError(
            f"exporting needs onnx, onnxscript and onnxruntime: pip install 'pysr[onnx]' ({error})"
        ) from None
    from pysr.engines import onnx_graphs, onnx_trace

    kind = {
        "restorer": onnx_graphs.RestorerGraph,
        "restorer_gated": onnx_graphs.GatedRestorerGraph,
        "estimator": onnx_graphs.EstimatorGraph,
    }[name]
    dtype = getattr(torch, precision)
    proto = onnx_trace.onnx_graph(kind, model, dtype)
    content = proto.SerializeToString()
    # ONNX Runtime has no convolutions in bfloat16: what it runs is the same graph in float32. It
    # also leaves roundings to half precision out; the module that was traced shows those.
    runnable = content
    if dtype == torch.bfloat16:
        runnable = onnx_trace.widened(proto, onnx.TensorProto.BFLOAT16).SerializeToString()
    session = onnxruntime.InferenceSession(runnable, providers=["CPUExecutionProvider"])
    module, plain = kind(model, dtype), kind(model, torch.float32)
    for size in SIZES:
        given = onnx_trace.example_inputs(kind.inputs, model.config, size)
        with torch.no_grad():
            expected = _plain(model, name, given)
            outputs = [module(**given)]
        outputs += map(
            torch.from_numpy, session.run(None, {key: x.numpy() for key, x in given.items()})
        )
        difference = max(_difference(output, expected) for output in outputs)
        if not difference <= TOLERANCES[precision]:
            raise ExportError(
                f"{name}.onnx in {precision} differs from torch by {difference:.2g} at {size}, "
                f"more than {TOLERANCES[precision]}; nothing was written"
            )
    return content
