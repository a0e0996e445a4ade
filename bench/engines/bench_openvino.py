"""pysr's native engine beside OpenVINO on a CPU, one pass of the Restorer.

    pytest bench/engines/bench_openvino.py -o python_files='bench_*.py' -s

Needs `pip install 'pysr[peers]'`. What INT8 costs in PSNR is measured by bench/int8.py.
"""

import pytest
import torch
from published import model_of
from side_by_side import side_by_side

from pysr import engines
from pysr.evaluate.speed import operations

openvino_peer = pytest.importorskip("openvino_peer")
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "name, size", [("published sizes", (128, 128)), ("dan-lite-x4", (320, 480))]
)
def test_restorer(benchmark, name, size):
    model = model_of(name)
    lr, code = torch.rand(1, 3, *size), torch.rand(1, model.config.code_length)
    peers = {
        f"OpenVINO {precision}": openvino_peer.restorer(model, precision, size)
        for precision in openvino_peer.precisions()
    }
    ours = engines.create("native", model, CPU)
    side_by_side(
        benchmark,
        f"engine native, Restorer of {name}, {size[1]}x{size[0]}",
        lambda: ours.restore(lr, code),
        {title: lambda run=run: run(lr, code) for title, run in peers.items()},
        CPU,
        operations=operations(model, size[::-1]),
        rounds=5,
    )
