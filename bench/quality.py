"""What estimating on crops and restoring once costs in PSNR against the published full-size loop.

    python bench/quality.py --data DIR [--model dan-lite-x2] [--limit N] [--json FILE]

Every picture of DIR is degraded by three of gaussian8's blurs and restored by both, from the same
weights. Only pictures of more than about 51000 LR pixels are estimated on crops; smaller ones are
restored by the published loop anyway and are left out.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from published import loop

import pysr
from pysr import nets, pictures
from pysr.arrays import unpack
from pysr.degrade import to_8bit
from pysr.evaluate import cases, psnr
from pysr.tiling import ESTIMATE_CROP, ESTIMATE_CROPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="dan-lite-x2")
    parser.add_argument("--data", required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--json")
    options = parser.parse_args()
    upscaler = pysr.load(options.model, device="cpu")
    model = nets.load_model(options.model)
    rows = []
    for path in pictures.listing(options.data)[: options.limit]:
        hr = unpack(pictures.read(path).pixels).rgb
        if hr.shape[-2] * hr.shape[-1] < upscaler.scale**2 * ESTIMATE_CROPS * ESTIMATE_CROP**2:
            continue
        for case in list(cases("gaussian8", upscaler.scale, hr))[::3]:
            with torch.inference_mode():
                published = psnr(to_8bit(loop(model, case.lr)), case.hr, upscaler.scale)
                ours = psnr(upscaler(case.lr).image, case.hr, upscaler.scale)
            rows.append((published, ours))
            print(f"{path.name}: published loop {published:.3f} dB, pysr {ours:.3f} dB", flush=True)
    means = [sum(column) / len(column) for column in zip(*rows, strict=True)]
    print(f"mean of {len(rows)}: published loop {means[0]:.3f} dB, pysr {means[1]:.3f} dB")
    if options.json:
        result = {
            "command": " ".join(["python", *sys.argv]),
            "cases": len(rows),
            "largest_loss_of_a_case": max(a - b for a, b in rows),
            "published_psnr": means[0],
            "pysr_psnr": means[1],
        }
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
