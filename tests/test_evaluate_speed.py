import json

import pytest
import torch

from pysr import engines
from pysr.cli import main
from pysr.evaluate.speed import measure_engines, operations
from pysr.nets import load_model
from pysr.ops.mixed_residual_block import on_matrix_tiles


def test_operations_are_those_of_the_direct_convolutions():
    model = load_model("dan-lite-x4")
    c, d, blocks = 48, 16, 7
    pairs = 3 * c + blocks * 2 * c * (c + d) + c * c + c * 48  # of input and output channels
    expected = 2 * 9 * pairs * 200 * 300
    # Border cases and interpolation come on top.
    assert expected < operations(model, (200, 300)) < 1.02 * expected


def test_bench_engines(monkeypatch, tmp_path, capsys):
    class Broken(engines.TorchEngine):
        def __init__(self, *arguments):
            raise RuntimeError("no\nluck")

    monkeypatch.setattr(engines, "ENGINES", {"native": engines.NativeEngine, "torch": Broken})
    target = tmp_path / "speed.json"
    arguments = ["bench", "engines", "--model", "dan-lite-x2", "--size", "24x16"]
    assert main([*arguments, "--device", "cpu", "--json", str(target)]) == 0
    rows = {row["precision"]: row for row in json.loads(target.read_text())["speeds"]}
    tiles = on_matrix_tiles(torch.device("cpu"))
    assert set(rows) == ({"float32", "bfloat16"} if tiles else {"float32"})
    for precision, row in rows.items():
        assert (row["engine"], row["size"]) == ("native", [24, 16])
        assert row["milliseconds"] > 0 and row["share"] > 0 and row["gigabytes"] >= 0
        assert row["fps"] == pytest.approx(1000 / row["milliseconds"])
        assert row["psnr"] > (100 if precision == "float32" else 60)
    out = capsys.readouterr().out
    assert "not native float16: computes in float32" in out
    assert "not torch bfloat16: RuntimeError: no luck" in out and "PSNR" in out


def test_where_nothing_can_be_measured_the_job_is_not_done(monkeypatch, capsys):
    class Broken(engines.TorchEngine):
        def __init__(self, *arguments):
            raise MemoryError("no\nroom")

    monkeypatch.setattr(engines, "ENGINES", {"torch": Broken})
    arguments = ["bench", "engines", "--model", "dan-lite-x2", "--size", "24x16"]
    assert main([*arguments, "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "torch float32: MemoryError: no room" in error


@pytest.mark.parametrize("size", ["480", "0x3", "axb"])
def test_sizes_that_are_none(size, capsys):
    assert main(["bench", "engines", "--size", size, "--device", "cpu"]) == 2
    assert "size: expected" in capsys.readouterr().err


def test_unknown_models_are_refused_before_the_work():
    with pytest.raises(ValueError, match="model: expected one of"):
        measure_engines("dan-huge", (8, 8), torch.device("cpu"))
