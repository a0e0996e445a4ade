"""From a graph module to ONNX, in the time that two blocks take.

Torch's exporter needs a second and more for a block, the published Restorer has forty, and graphs
are wanted in several precisions. So a network of two blocks is traced, once for a configuration;
its second block is repeated as often as the real one has more, and the weights are filled in by
name.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace

import onnx
import torch
from torch import Tensor

from pysr.engines.parity import example_inputs
from pysr.nets import DAN, DANConfig

OPSET = 20
_SCOPES = "pkg.torch.onnx.name_scopes"  # where the exporter says which module made a node


def onnx_graph(kind: type, model: DAN, dtype: torch.dtype) -> onnx.ModelProto:
    """The ONNX form of a class of `onnx_graphs` for a model; N, H and W are free."""
    module = kind(model, dtype)
    two = replace(
        model.config,
        blocks=min(model.config.blocks, 2),
        estimator_blocks=min(model.config.estimator_blocks, 2),
    )
    proto = onnx.ModelProto()
    proto.CopyFrom(_traced(kind, two, dtype))
    _repeat_last_block(proto.graph, len(module.blocks))
    state = module.state_dict()
    for tensor in proto.graph.initializer:
        if tensor.name in state:
            tensor.CopyFrom(_tensor(tensor.name, tensor.data_type, state[tensor.name]))
    return proto


def widened(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A graph with everything that is bfloat16 made float32."""
    wide = onnx.ModelProto()
    wide.CopyFrom(proto)
    of, to = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT
    for tensor in wide.graph.initializer:
        if tensor.data_type == of:
            value = torch.frombuffer(bytearray(tensor.raw_data), dtype=torch.bfloat16)
            value = value.reshape(tuple(tensor.dims)).float()
            tensor.CopyFrom(_tensor(tensor.name, to, value))
    for node in wide.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == of:
                attribute.i = to
    return wide


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Errors are all that the exporter logs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@functools.lru_cache(maxsize=16)
def _traced(kind: type, config: DANConfig, dtype: torch.dtype) -> onnx.ModelProto:
    with torch.random.fork_rng(devices=[]):
        # No two tensors may be equal: the exporter would keep one for both.
        torch.default_generator.manual_seed(0)
        module = kind(DAN(config).float(), dtype).eval()
    n = torch.export.Dim("n")
    h, w = (torch.export.Dim(side, min=3, max=2**14) for side in "hw")
    s = config.scale
    dynamic = {
        "lr": {0: n, 2: h, 3: w},
        "sr": {0: n, 2: s * h, 3: s * w},
        "code": {0: n},
        "gates": {},
    }
    with warnings.catch_warnings(), _quiet(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter's own code
        return torch.onnx.export(
            module,
            kwargs=example_inputs(kind.inputs, config, (2, 24, 20)),
            dynamo=True,
            dynamic_shapes={name: dynamic[name] for name in kind.inputs},
            input_names=list(kind.inputs),
            output_names=[kind.output],
            opset_version=OPSET,
            verbose=False,
        ).model_proto


def _repeat_last_block(graph: onnx.GraphProto, count: int) -> None:
    """Make `count` blocks of two; the further ones stand between the second and what follows."""
    if count <= 2:
        return
    first, body = ([node for node in graph.node if _block(node) == str(i)] for i in (0, 1))
    own = {name for node in body for name in node.output}
    previous, last = first[-1].output[0], body[-1].output[0]
    weights = [tensor for tensor in graph.initializer if tensor.name.startswith("blocks.1.")]
    splits = [node for node in graph.node if node.op_type == "Split"]
    copies, stream = [], last
    for i in range(2, count):
        names = {name: f"{name}.{i}" for name in own} | {previous: stream}
        for tensor in weights:
            names[tensor.name] = tensor.name.replace("blocks.1.", f"blocks.{i}.", 1)
            graph.initializer.add(name=names[tensor.name], data_type=tensor.data_type)
        for split in splits:
            split.output.append(f"{split.output[1]}.{i}")
            names[split.output[1]] = split.output[-1]
        copies += [_renamed(node, names, f".{i}") for node in body]
        stream = names[last]
    for split in splits:
        (parts,) = (a for a in split.attribute if a.name == "num_outputs")
        parts.i = count
    end = list(graph.node).index(body[-1]) + 1
    tail = [_renamed(node, {last: stream}) for node in graph.node[end:]]
    del graph.node[end:]
    graph.node.extend(copies + tail)
    for given in graph.input:
        if given.name == "gates":
            given.type.tensor_type.shape.dim[0].dim_value = count
    del graph.value_info[:]  # shapes of two blocks


def _block(node: onnx.NodeProto) -> str:
    """The number of the block that a node was traced in, "" outside of blocks."""
    scopes = next((p.value for p in node.metadata_props if p.key == _SCOPES), "")
    inside = re.search(r"'blocks\.(\d+)'", scopes)
    return inside[1] if inside else ""


def _renamed(node: onnx.NodeProto, names: Mapping[str, str], suffix: str = "") -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name += suffix
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [names.get(name, name) for name in node.output]
    return copy


def _tensor(name: str, data_type: int, value: Tensor) -> onnx.TensorProto:
    data = value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return onnx.TensorProto(name=name, data_type=data_type, dims=value.shape, raw_data=data)
