"""What INT8 costs in PSNR: the Restorer with known kernels, beside float32, over gaussian8's blurs.

    python bench/int8.py --data DIR [--model dan-lite-x4] [--json FILE]

How fast it is beside pysr's engines is measured by bench/engines/bench_openvino.py.
"""

from __future__ import annotations

import argparse

import openvino_peer
import torch
from quality import add_arguments, write_summary

from pysr import nets, pictures
from pysr.arrays import unpack
from pysr.evaluate import cases, psnr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, "dan-lite-x4")
    options = parser.parse_args()
    model = nets.load_model(options.model)
    scale = model.config.scale
    methods = {
        "torch float32": model.Restorer,
        "OpenVINO INT8": openvino_peer.restorer(model, "int8"),
    }
    rows = []
    for path in pictures.listing(options.data)[: options.limit]:
        hr = unpack(pictures.read(path).pixels).rgb
        for case in cases("gaussian8", scale, hr):
            with torch.inference_mode():
                code = model.encode(case.kernel[None])
                srs = [method(case.lr, code) for method in methods.values()]
            rows.append([psnr(sr, case.hr, scale) for sr in srs])
    write_summary(options, list(methods), rows)


if __name__ == "__main__":
    main()
