"""A DAN as ONNX graphs, for ONNX Runtime and TensorRT.

Restorer and Estimator are exported apart, since the loop between them ends at a different iteration
for every use. N, H and W are free, H and W from 3 on (below, a picture has fewer than the nine
border cases). Nothing is written that does not agree with torch.
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pysr.engines.defaults import own_defaults
from pysr.engines.onnx_graphs import GRAPHS
from pysr.engines.parity import TOLERANCES, disagreement
from pysr.files import folder_written_whole
from pysr.nets import DAN

# Pictures that every graph is compared with torch at: n, h, w.
SIZES = ((2, 12, 10), (1, 9, 16), (3, 3, 5))


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
            by more than `parity.TOLERANCES` at any of SIZES.
        ValueError: for another precision.
        OSError: if the folder cannot be written.
    """
    with folder_written_whole(folder) as beside:
        for name in GRAPHS:
            (beside / f"{name}.onnx").write_bytes(checked_graph(model, name, precision))
        write_about(model, beside)
        names = sorted(path.name for path in beside.iterdir())
    return [Path(folder) / name for name in names]


def write_about(model: DAN, folder: Path) -> None:
    """dan.json and encoder.npy: what a program needs beside the graphs, see `export_onnx`."""
    about = {**asdict(model.config), "first_code": model.init_ker_map[0].tolist()}
    (folder / "dan.json").write_text(json.dumps(about, indent=2) + "\n")
    np.save(folder / "encoder.npy", model.encoder[0].cpu().numpy())


@own_defaults()  # a trace would take the caller's in
def checked_graph(model: DAN, name: str, precision: str) -> bytes:
    """One of GRAPHS as a serialised ONNX model that agrees with torch.

    Raises ExportError as `export_onnx` does, and ValueError for an unknown precision.
    """
    if precision not in TOLERANCES:
        expected = ", ".join(TOLERANCES)
        raise ValueError(f"precision: expected one of {expected}, got {precision!r}")
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401 (torch.onnx imports it late, with a longer message)
    except ImportError as error:
        raise ExportError(
            f"exporting needs onnx, onnxscript and onnxruntime: pip install 'pysr[onnx]' ({error})"
        ) from None
    from pysr.engines import onnx_trace

    model = copy.deepcopy(model).eval().cpu()
    dtype = getattr(torch, precision)
    proto = onnx_trace.onnx_graph(GRAPHS[name], model, dtype)
    # ONNX Runtime's CPU kernels know no bfloat16, and take most roundings to float16 out: they show
    # that the graph is right. What rounding costs is shown by the module that it was traced from.
    runnable = onnx_trace.widened(proto) if dtype == torch.bfloat16 else proto
    session = onnxruntime.InferenceSession(
        runnable.SerializeToString(), providers=["CPUExecutionProvider"]
    )

    def run(**given: Tensor) -> Tensor:
        (got,) = session.run(None, {key: value.numpy() for key, value in given.items()})
        return torch.from_numpy(got)

    checks = [(run, size) for size in SIZES]
    if precision != "float32":
        checks.append((GRAPHS[name](model, dtype), SIZES[-1]))
    for check, size in checks:
        difference = disagreement(model, name, size, check)
        if not difference <= TOLERANCES[precision]:
            raise ExportError(
                f"{name}.onnx in {precision} differs from torch by {difference:.2g} at {size}, "
                f"more than {TOLERANCES[precision]}; nothing was written"
            )
    return proto.SerializeToString()
