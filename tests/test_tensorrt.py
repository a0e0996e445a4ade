"""TensorRT as far as a machine without a GPU shows it, and the rest on one that has it.

Engines are really built, by TensorRT for RTX. Loading one needs a GPU; what is read back here is
the file, and the header that the runtime itself reads. The hand-over from torch is run with engines
that are ONNX graphs, on ONNX Runtime.
"""

import json
import os
import re
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import onnxruntime
import pytest
import torch
from engine_testing import small_dan

from pysr.cli import main
from pysr.engines import TensorRTEngine, tensorrt_engine
from pysr.engines.onnx_export import checked_graph
from pysr.engines.plan_files import cached_plan, plan_path, read_plan, write_plan
from pysr.engines.takeover import Takeover
from pysr.engines.tensorrt_build import (
    PROFILES,
    TensorRTError,
    build_plan,
    installed_package,
    load_package,
    plan_facts,
    profile_for,
    rtx_target,
)
from pysr.nets import DAN, load_model
from pysr.nets.dan import initialise

trt = pytest.importorskip("tensorrt_rtx")

ALL = ("sm86", "sm89", "sm120")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PYSR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tensorrt"


def malformed(plan):
    """Whether the runtime refuses the header; all else that it asks, it asks of a GPU's driver."""
    runtime = trt.Runtime(trt.Logger(trt.Logger.INTERNAL_ERROR))
    _, reasons = runtime.get_engine_validity(plan[: runtime.engine_header_size])
    return bool(reasons & int(trt.EngineInvalidityDiagnostics.MALFORMED_ENGINE))


def test_the_command_builds_engines_for_gpus_that_are_not_here(tmp_path, capsys):
    out = tmp_path / "engines"
    targets = ",".join(ALL)
    command = ["export", "dan-lite-x4", out, "--format", "tensorrt-rtx", "--target", targets]
    assert main([str(argument) for argument in command]) == 0
    listed = capsys.readouterr().out.split()
    assert sorted(listed) == sorted(str(path) for path in out.iterdir()) and len(listed) == 8
    model = load_model("dan-lite-x4")
    for name in ("restorer", "restorer_gated", "estimator"):
        facts = plan_facts(model, name, "float16", rtx_target(*ALL))
        plan = read_plan(out / f"{name}.plan", facts)
        assert plan is not None and not malformed(plan)
        assert read_plan(out / f"{name}.plan", {**facts, "version": "1.0"}) is None
    assert malformed(b"no engine" * 100)
    assert json.loads((out / "dan.json").read_text())["scale"] == 4


def test_the_published_network_builds():
    torch.manual_seed(0)
    model = DAN(basis=torch.rand(441, 10))
    initialise(model, 0.5)
    graph = checked_graph(model, "restorer", "float16")
    plan = build_plan(graph, model.config, rtx_target("sm89"))
    assert not malformed(plan)
    weights = sum(value.numel() for value in model.Restorer.parameters())
    assert len(plan) > 2 * weights  # all of them are in there, two bytes each


@pytest.mark.parametrize("precision, device", [("float32", "sm86"), ("bfloat16", "sm120")])
def test_every_precision_builds(precision, device):
    graph = checked_graph(small_dan(), "restorer", precision)
    assert not malformed(build_plan(graph, small_dan().config, rtx_target(device)))


def test_what_is_not_a_graph_is_refused_with_tensorrts_reason():
    with pytest.raises(TensorRTError, match="the graph is not understood: .+"):
        build_plan(b"no graph", small_dan().config, rtx_target("sm89"))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--format", "tensorrt-rtx", "--target", "sm90"], "builds for sm75, .*, not 'sm90'"),
        (["--format", "tensorrt-rtx", "--target", "sm89,"], "not ''"),
        (["--target", "sm89"], "--target is for tensorrt-rtx, not for onnx"),
        pytest.param(
            ["--format", "tensorrt"],
            "no GPU here .* --target sm89",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here"),
        ),
    ],
)
def test_the_command_says_what_cannot_be_built(arguments, message, tmp_path, capsys):
    assert main(["export", "dan-lite-x2", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert not (tmp_path / "out").exists()


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(TensorRTError, match=r"pip install 'pysr\[tensorrt\]'"):
        load_package("tensorrt")
    assert "GPU" in TensorRTEngine.obstacle(CPU)


def test_profiles():
    assert profile_for(2, 160, 160) == 0
    assert profile_for(1, 3, 3) == 0
    assert profile_for(1, 257, 40) == 1
    assert profile_for(1, 1080, 1920) == 2
    for outside in ((5, 64, 64), (2, 300, 300), (1, 1081, 1920), (1, 2, 64)):
        assert profile_for(*outside) is None
    for i, (_, usual, _) in enumerate(PROFILES):
        assert profile_for(*usual) == i


def test_whatever_an_engine_depends_on_changes_its_facts():
    target = rtx_target("sm89")
    variants = [
        plan_facts(small_dan(), "restorer", "float16", target),
        plan_facts(small_dan(1), "restorer", "float16", target),
        plan_facts(small_dan(), "estimator", "float16", target),
        plan_facts(small_dan(), "restorer", "bfloat16", target),
        plan_facts(small_dan(), "restorer", "float16", rtx_target("sm86")),
        plan_facts(small_dan(), "restorer", "float16", target, refittable=True),
    ]
    assert len({plan_path(facts) for facts in variants}) == len(variants)
    assert variants[0] == plan_facts(small_dan(), "restorer", "float16", target)


FACTS = {"graph": "restorer", "version": "1"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda plan, about: plan.write_bytes(b"x" + plan.read_bytes()[1:]),
        lambda plan, about: plan.write_bytes(plan.read_bytes()[:-1]),
        lambda plan, about: plan.unlink(),
        lambda plan, about: about.unlink(),
        lambda plan, about: about.write_text("{"),
        lambda plan, about: about.write_bytes(b"\xff\x00"),
        lambda plan, about: write_plan(plan, b"a plan", {**FACTS, "version": "2"}),
    ],
)
def test_a_file_that_is_not_as_it_was_written_is_built_again(damage):
    builds = []

    def build():
        builds.append(1)
        return b"a plan"

    for _ in range(2):
        assert cached_plan(FACTS, build) == b"a plan"
    assert len(builds) == 1
    damage(plan_path(FACTS), plan_path(FACTS).with_suffix(".json"))
    for _ in range(2):
        assert cached_plan(FACTS, build) == b"a plan"
    assert len(builds) == 2


def test_a_failed_build_leaves_nothing(cache):
    def build():
        raise TensorRTError("no")

    with pytest.raises(TensorRTError):
        cached_plan(FACTS, build)
    assert {path.suffix for path in cache.iterdir()} <= {".lock"}


def test_what_was_used_longest_ago_makes_room(monkeypatch):
    monkeypatch.setattr("pysr.engines.plan_files.LARGEST", 250)
    facts = [{"graph": name} for name in "abc"]
    paths = [plan_path(each) for each in facts]
    for i, each in enumerate(facts[:2]):
        cached_plan(each, lambda: bytes(100))
        os.utime(paths[i], (i, i))
    cached_plan(facts[0], lambda: pytest.fail("it is there"))
    cached_plan(facts[2], lambda: bytes(100))
    assert [path.exists() for path in paths] == [True, False, True]
    assert not paths[1].with_suffix(".json").exists()
    cached_plan(FACTS, lambda: bytes(300))  # more than all room there is
    assert [path.exists() for path in (*paths, plan_path(FACTS))] == [False] * 3 + [True]


def test_a_package_that_does_not_import_is_no_engine(tmp_path, monkeypatch):
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    reason = tensorrt_engine.TensorRTEngine.obstacle(torch.device("cuda"), "float16")
    assert "libnvinfer.so.10" in reason and "pysr[tensorrt]" in reason


def test_of_many_that_want_a_plan_one_builds():
    builds, together = [], threading.Barrier(4)

    def build():
        builds.append(1)
        return bytes(1000)

    def want(_):
        together.wait()
        return cached_plan(FACTS, build)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(want, range(4))) == {bytes(1000)}
    assert len(builds) == 1


class Made:
    closed = False

    def close(self):
        self.closed = True


def test_takeover():
    go, made = threading.Event(), {}

    def make(name):
        go.wait()
        if name == "bad":
            raise RuntimeError("no\nmemory")
        return made.setdefault(name, Made())

    takeover = Takeover(make)
    assert takeover.get("good") is None and takeover.get("bad") is None
    go.set()
    assert takeover.get("good", wait=True) is made["good"] is takeover.get("good")
    with pytest.warns(UserWarning, match="bad: torch serves, since no memory"):
        assert takeover.get("bad", wait=True) is None
    with warnings.catch_warnings(action="error"):
        assert takeover.get("bad") is None
    for _ in range(2):
        takeover.close()
    assert made["good"].closed


class GraphRunner:
    """An ONNX graph in place of an engine."""

    error = 0.0
    runs = 0

    def __init__(self, package, plan, device, compiled):
        self.session = onnxruntime.InferenceSession(plan)

    def __call__(self, **given):
        GraphRunner.runs += 1
        (got,) = self.session.run(None, {key: value.numpy() for key, value in given.items()})
        return torch.from_numpy(got) + self.error

    def refit(self, weights):
        raise TensorRTError("not built for that")

    def close(self):
        pass


@pytest.fixture
def hand_over(monkeypatch):
    """A model, a TensorRTEngine whose engines are graphs, and the event that they wait for."""
    ready = threading.Event()

    def build(graph, config, target, refittable):
        ready.wait()
        return graph

    monkeypatch.setattr(tensorrt_engine, "installed_package", lambda: "tensorrt-rtx")
    monkeypatch.setattr(tensorrt_engine, "local_target", lambda *_: rtx_target("sm89"))
    monkeypatch.setattr(tensorrt_engine, "build_plan", build)
    monkeypatch.setattr(tensorrt_engine, "Runner", GraphRunner)
    model = small_dan()
    engine = TensorRTEngine(model, CPU)
    yield model, engine, ready
    ready.set()
    engine.close()


class LoadedRunner(tensorrt_engine.Runner):
    """As after loading an engine, which takes a GPU."""

    def __init__(self, compiled):
        self._cache = SimpleNamespace(serialize=lambda: b"compiled")
        self._compiled = compiled
        self._stream = SimpleNamespace(synchronize=lambda: None)
        self._contexts, self._engine = {0: "memory of a GPU"}, "an engine"
        self._lock = threading.Lock()


def test_what_was_compiled_is_kept_where_it_can_be(tmp_path):
    LoadedRunner(tmp_path / "kept").close()
    assert (tmp_path / "kept").read_bytes() == b"compiled"
    runner = LoadedRunner(tmp_path / "gone" / "kept")
    takeover = Takeover(lambda name: runner)
    assert takeover.get("restorer", wait=True) is runner
    with pytest.warns(UserWarning, match="kept: cannot be written .*compiled again"):
        takeover.close()
    assert not runner._contexts and runner._engine is None


def inputs(h=20, w=24):
    return torch.rand(1, 3, h, w), torch.rand(1, 5)


def restored(model, lr, code):
    with torch.inference_mode():
        return model.Restorer(lr, code)


def assert_restores(engine, model, by_graphs):
    """Whether the engine gives what the model does, and whether graphs or torch gave it."""
    lr, code = inputs()
    runs = GraphRunner.runs
    got = engine.restore(lr, code)
    torch.testing.assert_close(got, restored(model, lr, code), atol=1e-4, rtol=0)
    assert GraphRunner.runs == runs + by_graphs


def test_torch_serves_until_the_engine_takes_over(hand_over):
    model, engine, ready = hand_over
    assert_restores(engine, model, by_graphs=False)
    ready.set()
    engine.warm_up(1, 20, 24)
    assert_restores(engine, model, by_graphs=True)
    # Shapes that no engine takes, small or large, are torch's.
    runs = GraphRunner.runs
    lr, code = inputs()
    with pytest.warns(UserWarning, match="outside of every TensorRT profile"):
        assert engine.restore(lr.expand(5, -1, -1, -1), code).shape == (5, 3, 40, 48)
    assert engine.restore(lr[..., :2], code).shape == (1, 3, 40, 4)
    assert GraphRunner.runs == runs


def test_an_engine_that_disagrees_never_serves(hand_over, monkeypatch):
    model, engine, ready = hand_over
    monkeypatch.setattr(GraphRunner, "error", 0.01)
    ready.set()
    with pytest.warns(UserWarning, match="torch serves, since its .* differs from torch by"):
        engine.warm_up(1, 20, 24)
    assert_restores(engine, model, by_graphs=False)


def test_changed_weights_are_taken_over(hand_over):
    model, engine, ready = hand_over
    ready.set()
    engine.warm_up(1, 20, 24)
    lr, code = inputs(2)
    model.load_state_dict(small_dan(1).state_dict())
    # Not before they are asked for, wherever torch serves.
    expected = restored(small_dan(), lr, code)
    torch.testing.assert_close(engine.restore(lr, code), expected, atol=1e-4, rtol=0)
    ready.clear()
    engine.reload()
    assert_restores(engine, small_dan(1), by_graphs=False)
    ready.set()
    engine.warm_up(1, 20, 24)
    assert_restores(engine, small_dan(1), by_graphs=True)


@pytest.fixture(scope="module")
def gpu():
    device = torch.device("cuda")
    obstacle = TensorRTEngine.obstacle(device) if torch.cuda.is_available() else "no GPU"
    unserved = "TensorRT for RTX builds for" in obstacle  # other GPUs than this one
    if obstacle and not unserved and os.environ.get("PYSR_REQUIRE_CUDA") == "1":
        pytest.fail(f"PYSR_REQUIRE_CUDA=1, but: {obstacle}")
    if obstacle:
        pytest.skip(obstacle)
    return device


@pytest.mark.parametrize("precision, apart", [("float32", 1e-4), ("float16", 0.01)])
def test_an_engine_on_a_gpu(gpu, precision, apart):
    model = load_model("dan-lite-x2")
    exact = load_model("dan-lite-x2")
    engine = TensorRTEngine(model, gpu, precision)
    for step in range(2):
        with warnings.catch_warnings(action="error"):  # of torch that goes on serving
            engine.warm_up(2, 40, 60)
        for size in ((2, 40, 60), (1, 3, 3), (1, 300, 310)):
            lr, code = torch.rand(size[0], 3, *size[1:]), torch.rand(size[0], 16)
            got = engine.restore(lr.to(gpu), code.to(gpu)).cpu()
            torch.testing.assert_close(got, restored(exact, lr, code), atol=apart, rtol=0)
        if step == 0:
            for changed in (model, exact):
                changed.Restorer.fusion.bias.data += 0.1
            engine.reload()
    engine.close()


def test_an_engine_file_that_is_foreign_does_not_load(gpu):
    with pytest.raises(TensorRTError, match="does not load"):
        tensorrt_engine.Runner(installed_package(), b"no engine" * 100, gpu, None)
