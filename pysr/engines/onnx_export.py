"""A DAN as ONNX graphs, for ONNX Runtime and TensorRT.

Restorer and Estimator are exported apart, since the loop between them ends at a different iteration
for every use. N, H and W are free, H and W from 3 on (below, a picture has fewer than the nine
border cases). Nothing is written that does not agree with torch.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pysr.files import written_whole
from pysr.nets import DAN

# Sizes that every graph is compared with torch at; the first is the one that it is traced with.
SIZES = ((2, 24, 20), (1, 17, 31), (3, 3, 5))
# Worst difference of any output value; pictures are in [0, 1], codes of the order of 1.
TOLERANCE = 1e-4
OPSET = 20


class ExportError(RuntimeError):
    """An exported graph disagrees with torch, or what exporting needs is not installed."""


class _Restorer(nn.Module):
    def __init__(self, model: DAN):
        super().__init__()
        self.restorer = model.Restorer

    def forward(self, lr: Tensor, code: Tensor) -> Tensor:
        return self.restorer(lr, code)


class _GatedRestorer(_Restorer):
    def forward(self, lr: Tensor, code: Tensor, gates: Tensor) -> Tensor:
        return self.restorer(lr, code, [gate[None, :, None, None] for gate in gates])


class _Estimator(nn.Module):
    def __init__(self, model: DAN):
        super().__init__()
        self.estimator = model.Estimator

    def forward(self, lr: Tensor, sr: Tensor) -> Tensor:
        return self.estimator(sr, lr)


def export_onnx(model: DAN, folder: str | Path) -> list[Path]:
    """Write a DAN into a folder, which is made if it is missing; returns the files.

    restorer.onnx: lr (N, 3, H, W), code (N, code_length) -> sr (N, 3, s*H, s*W).
    restorer_gated.onnx: the same with gates (blocks, features), the channel attention of a larger
        picture that lr is a tile of.
    estimator.onnx: lr, sr -> code.
    dan.json: the configuration, and the code that the loop starts from; encoder.npy: (k * k,
        code_length), the code of a kernel is flat(kernel) @ encoder.

    All float32. Every file appears whole or not at all.

    Raises:
        ExportError: if onnx, onnxscript or onnxruntime is missing, or a graph disagrees with torch
            by more than TOLERANCE at any of SIZES.
        OSError: if the folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model = model.eval()
    files = [
        _export(_Restorer(model), model, ("lr", "code"), "sr", folder / "restorer.onnx"),
        _export(
            _GatedRestorer(model),
            model,
            ("lr", "code", "gates"),
            "sr",
            folder / "restorer_gated.onnx",
        ),
        _export(_Estimator(model), model, ("lr", "sr"), "code", folder / "estimator.onnx"),
    ]
    about = {**asdict(model.config), "first_code": model.init_ker_map[0].tolist()}
    with written_whole(folder / "dan.json") as beside:
        beside.write_text(json.dumps(about, indent=2) + "\n")
    with written_whole(folder / "encoder.npy") as beside:
        np.save(beside, model.encoder[0].cpu().numpy())
    return [*files, folder / "encoder.npy", folder / "dan.json"]


def _inputs(model: DAN, names: Sequence[str], size: tuple[int, int, int]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    config, (n, h, w) = model.config, size
    shapes = {
        "lr": (n, 3, h, w),
        "sr": (n, 3, config.scale * h, config.scale * w),
        "code": (n, config.code_length),
        "gates": (config.blocks, config.features),
    }
    return {name: torch.rand(shapes[name], generator=generator) for name in names}


def _export(module: nn.Module, model: DAN, names: Sequence[str], output: str, path: Path) -> Path:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch.onnx imports it late, with a longer message)
    except ImportError as error:
        raise ExportError(
            f"exporting needs onnx, onnxscript and onnxruntime: pip install 'pysr[onnx]' ({error})"
        ) from None
    module = module.eval().cpu()
    n = torch.export.Dim("n")
    h, w = (torch.export.Dim(side, min=3, max=2**14) for side in "hw")
    s = model.config.scale
    dynamic = {
        "lr": {0: n, 2: h, 3: w},
        "sr": {0: n, 2: s * h, 3: s * w},
        "code": {0: n},
        "gates": {},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own code
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        # With gradients on, the network takes its branch without slices of fixed sizes.
        with torch.enable_grad():
            program = torch.onnx.export(
                module,
                kwargs=_inputs(model, names, SIZES[0]),
                dynamo=True,
                dynamic_shapes={name: dynamic[name] for name in names},
                input_names=list(names),
                output_names=[output],
                opset_version=OPSET,
                verbose=False,
            )
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for size in SIZES:
        given = _inputs(model, names, size)
        with torch.no_grad():
            expected = module(**given).numpy()
        (got,) = session.run(None, {name: value.numpy() for name, value in given.items()})
        difference = float(np.abs(got - expected).max()) if got.shape == expected.shape else np.inf
        if not difference <= TOLERANCE:
            raise ExportError(
                f"{path.name} differs from torch by {difference:.2g} at {size}, more than "
                f"{TOLERANCE}; nothing was written"
            )
    with written_whole(path) as beside:
        beside.write_bytes(content)
    return path
