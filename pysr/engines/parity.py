"""Whether a graph gives what torch gives: every engine asks this before it writes or serves one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pysr.engines.onnx_graphs import GRAPHS
from pysr.nets import DAN, DANConfig

# Worst difference of any output value, relative to the root mean square of what torch gives in
# float32. Measured on the published sizes: 4e-6 in float32, 0.06 in bfloat16. On photographs, where
# a picture is mostly interpolation, float16 is 76 dB from float32 and bfloat16 64.
TOLERANCES = {"float32": 1e-4, "float16": 3e-2, "bfloat16": 2e-1}


def example_inputs(
    names: tuple[str, ...], config: DANConfig, size: tuple[int, int, int]
) -> dict[str, Tensor]:
    """Random inputs of the given names for LR pictures of size (n, h, w)."""
    generator = torch.Generator().manual_seed(0)
    n, h, w = size
    shapes = {
        "lr": (n, 3, h, w),
        "sr": (n, 3, config.scale * h, config.scale * w),
        "code": (n, config.code_length),
        "gates": (config.blocks, config.features),
    }
    return {
        name: torch.rand(shapes[name], generator=generator, dtype=torch.float32) for name in names
    }


@torch.inference_mode()
def disagreement(
    model: DAN, graph: str, size: tuple[int, int, int], run: Callable[..., Tensor]
) -> float:
    """How far run(**inputs) is from one of GRAPHS in torch and float32, as in TOLERANCES.

    The model must be on the CPU: GPUs round products in float32 to ten bits.
    """
    given = example_inputs(GRAPHS[graph].inputs, model.config, size)
    if graph == "estimator":
        expected = model.Estimator(given["sr"], given["lr"])
    else:
        gates = given.get("gates")
        if gates is not None:
            gates = [gate[None, :, None, None] for gate in gates]
        expected = model.Restorer(given["lr"], given["code"], gates)
    got = run(**given).cpu()
    if got.shape != expected.shape:
        return float("inf")
    worst = (got - expected).abs().max()
    # An untrained Estimator gives zeros.
    return float(worst / expected.square().mean().sqrt()) if worst else 0.0
