"""Every engine gives what torch gives."""

import json
import sys

import numpy as np
import pytest
import torch
from engine_testing import small_dan
from skimage import data as photographs

import pysr
from pysr import _ext
from pysr.engines import (
    ENGINES,
    ExportError,
    candidates,
    create,
    export_onnx,
    onnx_engine,
    onnx_export,
    plan_files,
)
from pysr.nets import DAN, DANConfig, load_model
from pysr.ops.mixed_residual_block import on_matrix_tiles

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module", params=[name for name in ENGINES if name != "torch"])
def pair(request, cache):
    """The same model under torch and under another engine."""
    obstacle = ENGINES[request.param].obstacle(torch.device("cpu"))
    if obstacle:
        pytest.skip(obstacle)
    return [
        pysr.load("dan-lite-x2", device="cpu", engine=name, precision="float32")
        for name in ("torch", request.param)
    ]


def picture(h, w):
    return photographs.astronaut()[100 : 100 + h, 200 : 200 + w]


@pytest.mark.parametrize("size", [(1, 1), (2, 30), (3, 3), (37, 52)])
def test_pictures_agree(pair, size):
    expected, got = (upscaler(picture(*size)) for upscaler in pair)
    assert np.abs(got.image.astype(int) - expected.image).max() <= 1
    np.testing.assert_allclose(got.kernel, expected.kernel, atol=1e-4)


def test_batches_agree(pair):
    lr = torch.rand(3, 3, 20, 24)
    expected, got = (upscaler(lr).image for upscaler in pair)
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=0)


def test_tiles_agree(pair):
    kernel = pysr.blur.isotropic(1.0, 21).numpy()
    expected, got = (upscaler(picture(90, 130), kernel, tile=64).image for upscaler in pair)
    assert np.abs(got.astype(int) - expected).max() <= 1


NATIVE_CASES = {
    "published x4": dict(scale=4, features=64),
    "published x3": dict(scale=3, features=32, bicubic_skip=True),
    "published x2, whitened": dict(scale=2, features=16, whitened_estimator=True),
    "published x1": dict(scale=1, features=16),
    "compact, x4": dict(
        scale=4, features=48, compact_tail=True, bicubic_skip=True, whitened_estimator=True
    ),
}


@pytest.mark.parametrize("case", NATIVE_CASES)
def test_the_native_engine_is_exact(case):
    """Borders too: the published tail runs as one convolution there."""
    torch.manual_seed(0)
    config = DANConfig(blocks=2, estimator_blocks=1, **NATIVE_CASES[case])
    model, device = DAN(config, torch.rand(441, 10)), torch.device("cpu")
    reference, native = (ENGINES[name](model, device) for name in ("torch", "native"))
    for h, w in ((1, 1), (2, 3), (3, 3), (5, 7), (37, 53)):
        lr, code = torch.rand(2, 3, h, w), torch.rand(2, 10)
        gates = [torch.rand(1, config.features, 1, 1) for _ in range(config.blocks)]
        for given in (None, gates):
            expected, got = (engine.restore(lr, code, given) for engine in (reference, native))
            assert (got - expected).abs().max() <= 1e-5 * expected.abs().max(), (h, w)
        expected, got = (engine.estimate(lr, expected) for engine in (reference, native))
        assert (got - expected).abs().max() <= 1e-5 * expected.abs().max(), (h, w)


CPU = torch.device("cpu")


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache folder of a test's own."""
    monkeypatch.setenv("PYSR_CACHE", str(tmp_path))
    return tmp_path


def test_a_model_is_exported_once(own_cache, monkeypatch):
    create("onnx", small_dan(), CPU)
    monkeypatch.setattr(onnx_engine, "checked_graph", None)
    create("onnx", small_dan(), CPU)

    def refuse(path):
        raise PermissionError("a cache that can only be read")

    monkeypatch.setattr(plan_files, "FileLock", refuse)
    create("onnx", small_dan(), CPU)


def test_a_graph_that_was_altered_in_the_cache_is_exported_again(own_cache):
    """ONNX Runtime opens one with other weights without a word."""
    lr, code = torch.rand(1, 3, 9, 9), torch.rand(1, 5)
    expected = create("onnx", small_dan(), CPU).restore(lr, code)
    altered = own_cache / "altered"
    export_onnx(small_dan(1), altered)
    for content in ((altered / "restorer.onnx").read_bytes(), b""):
        for path in own_cache.glob("onnx/**/*"):
            if path.is_file() and path.suffix not in (".json", ".lock"):
                path.write_bytes(content)
        assert torch.equal(create("onnx", small_dan(), CPU).restore(lr, code), expected)


@pytest.mark.parametrize("name", ["native", "onnx"])
def test_engines_keep_the_weights_that_they_were_made_with(name, cache):
    """All of them: half old and half new is no network."""
    model, lr = small_dan(), torch.rand(1, 3, 9, 9)
    engine, code = create(name, model, CPU, "float32"), torch.rand(1, 5)

    def everything():
        sr, narrow = engine.restore(lr, code), engine.restore(lr[..., :2], code)
        codes = engine.estimate(lr, sr), engine.estimate(lr[..., :2], narrow)
        return [sr, narrow, *codes, *engine.gates(lr, code, (0, 0))]

    before = everything()
    model.load_state_dict(small_dan(1).state_dict())
    assert all(map(torch.equal, everything(), before))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_weights_of_another_type_are_refused(dtype):
    message = f"^model: expected weights in float32, got {dtype}$".replace("torch.", "")
    with pytest.raises(ValueError, match=message):
        create("auto", small_dan().to(dtype), CPU)


def test_a_runtime_that_does_not_import_is_said(tmp_path, monkeypatch):
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('DLL load failed')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime")
    message = "onnxruntime does not import: DLL load failed"
    assert ENGINES["onnx"].obstacle(CPU) == message
    with pytest.raises(ExportError, match="exporting needs .*DLL load failed"):
        onnx_export.checked_graph(small_dan(), "restorer", "float32")


def test_a_cache_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PYSR_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match="^PYSR_CACHE: expected a folder .*file/onnx cannot be made"):
        pysr.load("dan-lite-x2", device="cpu", engine="onnx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "new"
    torch.manual_seed(0)
    config = DANConfig(scale=3, features=32, blocks=2, estimator_features=16, estimator_blocks=1)
    export_onnx(DAN(config, torch.rand(441, 10)), folder)
    return folder


def test_the_published_network_exports(folder):
    """With its upscaling at full width and without the shipped models' skip connection."""
    about = json.loads((folder / "dan.json").read_text())
    assert (about["scale"], len(about["first_code"])) == (3, 10)
    assert np.load(folder / "encoder.npy").shape == (441, 10)
    session = onnxruntime.InferenceSession(folder / "restorer.onnx")
    lr, code = np.random.rand(2, 3, 11, 7).astype("f"), np.zeros((2, 10), "f")
    assert session.run(None, {"lr": lr, "code": code})[0].shape == (2, 3, 33, 21)


def test_a_graph_that_disagrees_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setitem(onnx_export.TOLERANCES, "float32", -1.0)
    with pytest.raises(ExportError, match="restorer.onnx in float32 differs from torch by"):
        export_onnx(load_model("dan-lite-x2"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_engines_say_what_they_lack(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["SomeProvider"])
    with pytest.raises(ValueError, match="engine onnx: .* no provider for cpu, only SomeProvider"):
        pysr.load("dan-lite-x2", device="cpu", engine="onnx")
    monkeypatch.setattr(_ext, "DEVICES", frozenset())
    with pytest.raises(ValueError, match="engine native: no compiled kernels for cpu"):
        pysr.load("dan-lite-x2", device="cpu", engine="native")
    assert candidates("auto", torch.device("cpu"))[0] == ("torch", "float32")


def test_a_gpu_or_driver_that_the_kernels_are_too_new_for_is_left_to_torch(monkeypatch):
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(_ext, "DEVICES", frozenset({"cpu", "cuda"}))
    monkeypatch.setattr(_ext, "cuda_obstacle", lambda index: f"no kernel image for GPU {index}")
    assert _ext.serves(torch.device("cpu")) and not _ext.serves(gpu)
    assert candidates("auto", gpu)[0][0] == "torch"
    with pytest.raises(ValueError, match="native: .* not run on cuda:0: no kernel image for GPU 0"):
        candidates("native", gpu)


def test_compiled_kernels_tell_whether_they_run_on_the_gpu_here():
    if "cuda" not in _ext.DEVICES:
        pytest.skip("no CUDA kernels")
    assert (_ext._C.cuda_obstacle() == "") == torch.cuda.is_available()
    assert _ext.serves(torch.device("cuda")) == torch.cuda.is_available()


def test_auto_takes_the_native_kernels_on_a_cpu_in_its_fastest_precision(monkeypatch):
    cpu = torch.device("cpu")
    fastest = "bfloat16" if on_matrix_tiles(cpu) else "float32"
    described = pysr.load("dan-lite-x2", device="cpu").engine.describe()
    assert "native" in described and fastest in described
    monkeypatch.setattr(_ext, "ISA", "avx512")
    assert candidates("auto", cpu)[0] == ("native", "float32")
    with pytest.raises(ValueError, match="engine native: has no matrix tiles"):
        candidates("native", cpu, "bfloat16")
