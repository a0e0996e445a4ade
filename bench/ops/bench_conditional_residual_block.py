"""conditional_residual_block beside the block as published and beside DAN's own folded block.

    pytest bench/ops/bench_conditional_residual_block.py

Published: the condition stretched over the picture and concatenated, channels last, eager. Prints
the ratio for every case and everybody's largest error against float64, as a part of the largest
output.
"""

import pytest
import torch
from published import block as published
from side_by_side import side_by_side

from pysr.nets.dan import ConditionalResidualBlock
from pysr.ops import conditional_residual_block

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
# Name: C, D, H, W.
CASES = {
    "published DAN, 64+10 channels, 128x128": (64, 10, 128, 128),
    "dan-lite-x4, 48+16 channels, 160x160": (48, 16, 160, 160),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("device", DEVICES)
def test_conditional_residual_block(benchmark, device, case):
    c, d, h, w = CASES[case]
    device = torch.device(device)
    torch.manual_seed(0)
    block = ConditionalResidualBlock(c, d).to(device, memory_format=torch.channels_last)
    weights = list(block.parameters())
    f = torch.randn(1, c, h, w, device=device).contiguous(memory_format=torch.channels_last)
    cond = torch.randn(1, d, device=device)
    stretched = cond[:, :, None, None].expand(-1, -1, h, w)
    with torch.inference_mode():
        ours = lambda: conditional_residual_block(f, cond, *weights)  # noqa: E731
        peers = {
            "the block as published": lambda: published(block, f, stretched),
            "DAN's own folded block": lambda: block(f, cond),
        }
        results = {"pysr": ours(), **{name: peer() for name, peer in peers.items()}}
        exact = published(block.double(), f.double(), stretched.double())
        block.float()
        side_by_side(
            benchmark,
            f"conditional_residual_block, {case}",
            ours,
            peers,
            device,
            # As a direct convolution of f alone; Winograd's method needs a quarter of it.
            operations=2 * 9 * h * w * (c + d) * 2 * c,
        )
    errors = {
        name: ((result - exact).abs().max() / exact.abs().max()).item()
        for name, result in results.items()
    }
    print("    error against float64: " + ", ".join(f"{n} {e:.1e}" for n, e in errors.items()))
    benchmark.extra_info["errors"] = errors
