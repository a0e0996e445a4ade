"""The engines on a GPU: pysr's own kernels in every precision, and graphs, eager and captured."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from pysr import engines
from pysr.engines.cuda_graphs import KEPT
from pysr.nets import DAN, DANConfig, load_model

# Largest difference from torch in float32, as a part of the largest output.
TOLERANCE = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 4e-2}


def lite() -> DAN:
    return load_model("dan-lite-x2")


def published() -> DAN:
    """A few blocks at the published widths, whose 64 + 10 channels need padding."""
    torch.manual_seed(0)
    return DAN(DANConfig(blocks=3), torch.rand(441, 10))


@pytest.mark.parametrize("precision", engines.PRECISIONS)
@pytest.mark.parametrize("make", [lite, published])
def test_pictures_and_tiles_agree_with_torch(make, precision, cuda):
    model = make()
    reference = engines.create("torch", model, cuda, "float32")
    native = engines.create("native", model, cuda, precision)
    code = torch.rand(2, model.config.code_length, device=cuda)
    for h, w in ((1, 1), (33, 50), (2, 130)):
        lr = torch.rand(2, 3, h, w, device=cuda)
        expected, got = (engine.restore(lr, code) for engine in (reference, native))
        assert got.dtype == torch.float32
        limit = TOLERANCE[precision] * expected.abs().max()
        assert (got - expected).abs().max() < limit
        expected, got = (
            engine.restore(lr, code, engine.gates(lr, code[:1], (0, 0)))
            for engine in (reference, native)
        )
        assert (got - expected).abs().max() < limit
        estimates = (engine.estimate(lr, expected) for engine in (reference, native))
        torch.testing.assert_close(*estimates, atol=1e-3, rtol=0)


def test_captured_shapes_give_the_same_bits(cuda):
    native = engines.create("native", lite(), cuda, "float16")
    code = native.model.init_ker_map
    lrs = [torch.rand(1, 3, 20 + i, 24, device=cuda) for i in range(KEPT + 2)]
    expected = [native.restore(lr, code) for lr in lrs]
    for lr in lrs:
        native.warm_up(*(lr.shape[i] for i in (0, 2, 3)))
    for _ in range(2):
        for lr, sr in zip(lrs, expected, strict=True):
            assert torch.equal(native.restore(lr, code), sr)


@pytest.mark.parametrize("engine", ["torch", "native"])
def test_threads_capture_at_once_and_each_gets_its_own(engine, cuda):
    made = [engines.create(engine, lite(), cuda, "float32") for _ in range(4)]
    code = lite().init_ker_map.to(cuda)
    lrs = [torch.rand(1, 3, 20, 24 + i, device=cuda) for i in range(len(made))]
    expected = [one.restore(lr, code) for one, lr in zip(made, lrs, strict=True)]

    def captured(i: int) -> torch.Tensor:
        made[i].warm_up(1, 20, 24 + i)
        return made[i].restore(lrs[i], code)

    with ThreadPoolExecutor(len(made)) as pool:
        for got, sr in zip(pool.map(captured, range(len(made))), expected, strict=True):
            torch.testing.assert_close(got, sr, atol=1e-5, rtol=0)


@pytest.mark.parametrize("engine", ["torch", "native"])
def test_a_second_gpu_captures_for_itself(engine, cuda):
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    code = lite().init_ker_map
    for index in (0, 1):
        device = torch.device("cuda", index)
        made = engines.create(engine, lite(), device, "float32")
        lr = torch.rand(1, 3, 20, 24, device=device)
        expected = made.restore(lr, code.to(device))
        made.warm_up(1, 20, 24)
        got = made.restore(lr, code.to(device))
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_a_captured_shape_outlives_the_models_move(cuda):
    model = lite()
    engine = engines.create("torch", model, cuda, "float32")
    code = model.init_ker_map.clone()
    lr = torch.rand(1, 3, 20, 24, device=cuda)
    expected = engine.restore(lr, code)
    engine.warm_up(1, 20, 24)
    model.cpu()
    torch.cuda.empty_cache()
    torch.testing.assert_close(engine.restore(lr, code), expected, atol=1e-5, rtol=0)
