"""OpenVINO, the strongest ready-made way to run a network on a CPU, as a peer of pysr's engines.

It takes the graphs of `onnx_export`, for pictures of one size, which it is fastest with;
float32, bfloat16 where the CPU computes in it, and INT8 as NNCF's post-training quantisation makes
it (https://docs.openvino.ai, "Basic Quantization Flow").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import nncf
import openvino
import torch
from skimage import data as photographs
from torch import Tensor

from pysr import blur
from pysr.degrade import classical
from pysr.engines.onnx_export import checked_graph
from pysr.nets import DAN

PHOTOGRAPHS = (photographs.astronaut, photographs.coffee, photographs.chelsea, photographs.rocket)
SIDE = 256  # of the crops that calibrate, in HR pixels


def restorer(model: DAN, precision: str, size: tuple[int, int] | None = None) -> Callable:
    """restore(lr, code) -> sr, for pictures of one size (H, W), or of any when None.

    precision is "f32", "bf16" or "int8".
    """
    core = openvino.Core()
    graph = core.read_model(checked_graph(model, "restorer", "float32"))
    if precision == "int8":
        graph = quantised(graph, model)
    if size is not None:
        graph.reshape({"lr": [1, 3, *size], "code": [1, model.config.code_length]})
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request = core.compile_model(graph, "CPU", settings).create_infer_request()

    def restore(lr: Tensor, code: Tensor) -> Tensor:
        given = {"lr": lr.contiguous().numpy(), "code": code.numpy()}
        return torch.from_numpy(request.infer(given)["sr"])

    return restore


def precisions() -> list[str]:
    """What this CPU computes in by itself; it would only imitate the rest."""
    capable = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [name for name in ("f32", "bf16", "int8") if name == "f32" or name.upper() in capable]


def quantised(graph: openvino.Model, model: DAN) -> openvino.Model:
    """The body's convolutions in 8 bits, weights and activations, where nearly all the time goes.

    What is left alone: head and tail, which the picture itself passes through; the residual sums,
    whose rounding would add up over the blocks; the border cases and the channel attention.
    """
    features = model.config.features
    wide = (features, features + model.config.code_length)

    def in_body(convolution) -> bool:
        outputs, inputs, side, _ = convolution.input_value(1).get_shape()
        return side == 3 and inputs in wide and outputs in wide

    convolutions = [op for op in graph.get_ordered_ops() if op.get_type_name() == "Convolution"]
    body = [op.get_friendly_name() for op in convolutions if in_body(op)]
    body.pop()  # the tail's
    others = {op.get_friendly_name() for op in convolutions} - set(body)
    return nncf.quantize(
        graph,
        nncf.Dataset(list(calibration(model))),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(
            names=sorted(others), types=["Add", "Multiply", "ReduceMean"]
        ),
    )


def calibration(model: DAN) -> Iterator[dict]:
    """Photographs with blurs of every width, none of them from a test set."""
    scale = model.config.scale
    for photograph in PHOTOGRAPHS:
        hr = torch.from_numpy(photograph()).permute(2, 0, 1)[None, :, :SIDE, :SIDE] / 255
        for kernel in blur.gaussian8(scale)[::2]:
            with torch.no_grad():
                code = model.encode(kernel[None])
            yield {"lr": classical(hr, kernel, scale).numpy(), "code": code.numpy()}
