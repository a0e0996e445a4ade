"""Graphs in every precision; test_engines has what running them gives."""

import contextlib
import logging
import math

import pytest
import torch
from engine_testing import small_dan
from skimage import data as photographs

from pysr import blur
from pysr.degrade import classical
from pysr.engines import onnx_trace
from pysr.engines.onnx_export import checked_graph
from pysr.engines.onnx_graphs import GRAPHS
from pysr.engines.parity import disagreement
from pysr.nets import load_model

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

ELEMENT = {"float32": "FLOAT", "float16": "FLOAT16", "bfloat16": "BFLOAT16"}


@pytest.mark.parametrize("precision", ELEMENT)
def test_types_come_from_the_graph(precision):
    """As strongly typed networks need it: features in the precision asked for, its ends float32."""
    graph = onnx.load_from_string(checked_graph(small_dan(), "restorer", precision)).graph
    weights = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for i in range(4):
        for name in ("weight", "second.weight", "second.bias"):
            element = getattr(onnx.TensorProto, ELEMENT[precision])
            assert weights[f"blocks.{i}.{name}"] == element
        assert weights[f"blocks.{i}.attention.body.0.weight"] == onnx.TensorProto.FLOAT
    ends = [value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)]
    assert set(ends) == {onnx.TensorProto.FLOAT}


@pytest.mark.parametrize("precision", ["fp16", "float64"])
def test_another_precision_is_refused(precision):
    message = f"precision: expected one of float32, .*, got {precision!r}"
    with pytest.raises(ValueError, match=message):
        checked_graph(small_dan(), "restorer", precision)


def test_the_exporters_log_is_as_quiet_as_it_was():
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    onnx_trace._traced.cache_clear()
    checked_graph(small_dan(), "estimator", "float32")
    assert logger.level == before


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_has_the_models_own_weights(name):
    """Two models of one configuration are traced once: nothing of the first may remain."""
    for seed in (1, 2):
        model = small_dan(seed)
        session = onnxruntime.InferenceSession(checked_graph(model, name, "float32"))

        def run(session=session, **given):
            return torch.from_numpy(session.run(None, {k: v.numpy() for k, v in given.items()})[0])

        assert disagreement(model, name, (2, 9, 40), run) < 1e-4
        assert disagreement(small_dan(3), name, (2, 9, 40), run) > 1e-2


@contextlib.contextmanager
def default_type(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "defaults",
    [default_type(torch.float64), torch.autocast("cpu", torch.bfloat16), torch.device("meta")],
    ids=["type", "autocast", "device"],
)
def test_the_callers_defaults_change_no_graph(defaults):
    model = small_dan()
    expected = checked_graph(model, "estimator", "float32")
    onnx_trace._traced.cache_clear()
    with defaults:
        got = checked_graph(model, "estimator", "float32")
    weights = [onnx.load_from_string(graph).graph.initializer for graph in (got, expected)]
    assert list(map(str, weights[0])) == list(map(str, weights[1]))


def test_a_graph_that_gives_nothing_agrees_with_a_model_that_does():
    """As an untrained Estimator's."""
    model = small_dan()
    for parameter in model.Estimator.out.parameters():
        torch.nn.init.zeros_(parameter)
    checked_graph(model, "estimator", "float32")


@pytest.mark.parametrize("dtype, apart", [(torch.float16, 70), (torch.bfloat16, 55)])
def test_half_precision_loses_less_than_a_fiftieth_of_a_decibel(dtype, apart):
    model = load_model("dan-lite-x4")
    hr = torch.from_numpy(photographs.astronaut()[60:188, 160:288]).permute(2, 0, 1)[None] / 255
    kernel = blur.isotropic(2.0, 21)
    lr, code = classical(hr, kernel, 4), model.encode(kernel[None])
    with torch.inference_mode():
        exact = model.Restorer(lr, code)
        half = GRAPHS["restorer"](model, dtype)(lr, code)
        codes = model.Estimator(exact, lr), GRAPHS["estimator"](model, dtype)(lr, exact)
    assert decibels(half, exact) > apart
    assert decibels(exact, hr) - decibels(half, hr) < 0.02
    torch.testing.assert_close(*codes, atol=5e-3, rtol=0)


def decibels(a, b):
    return -10 * math.log10(float((a - b).square().mean()))
