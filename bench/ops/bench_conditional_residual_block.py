"""conditional_residual_block beside the block as published and beside DAN's own folded block.

    pytest bench/ops/bench_conditional_residual_block.py
    compute-sanitizer --tool racecheck python -m pytest tests/test_ops_conditional_residual_block.py
        (likewise memcheck, initcheck and synccheck; after a change to csrc/cuda, where a GPU is)
    ncu --set full -k regex:convolve_kernel python -m pytest bench/ops -k "float16 and 480x270"

Published: the condition stretched over the picture and concatenated, channels last, eager. Ours has
its weights packed before, as in the native engine, and on a CPU with matrix tiles multiplies in
bfloat16 too, beside torch in bfloat16. Prints the ratio for every case and everybody's largest
error against float64, as a part of the largest output.
"""

import copy

import pytest
import torch
from published import block as published
from side_by_side import side_by_side

from pysr.nets.dan import ConditionalResidualBlock
from pysr.ops import conditional_residual_block, pack_conditional_residual_block
from pysr.ops.mixed_residual_block import on_matrix_tiles

# Device, dtype of the pictures, and whether to multiply in bfloat16.
RUNS = [("cpu", torch.float32, False)]
if on_matrix_tiles(torch.device("cpu")):
    RUNS += [("cpu", torch.float32, True)]
if torch.cuda.is_available():
    RUNS += [("cuda", dtype, False) for dtype in (torch.float32, torch.float16, torch.bfloat16)]
# Name: C, D, H, W.
CASES = {
    "published DAN, 64+10 channels, 128x128": (64, 10, 128, 128),
    "published DAN, 64+10 channels, 480x270": (64, 10, 270, 480),
    "dan-lite-x4, 48+16 channels, 160x160": (48, 16, 160, 160),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("device", "dtype", "bfloat16"), RUNS, ids=str)
def test_conditional_residual_block(benchmark, device, dtype, bfloat16, case):
    c, d, h, w = CASES[case]
    device = torch.device(device)
    torch.manual_seed(0)
    block = ConditionalResidualBlock(c, d).to(device, dtype, memory_format=torch.channels_last)
    weights = [weight.contiguous() for weight in block.parameters()]
    packed = pack_conditional_residual_block(weights[0], weights[2], bfloat16=bfloat16)
    options = {"packed": packed, "bfloat16": bfloat16}
    f = torch.randn(1, c, h, w, device=device, dtype=dtype)
    f = f.contiguous(memory_format=torch.channels_last)
    cond = torch.randn(1, d, device=device, dtype=dtype)
    stretched = cond[:, :, None, None].expand(-1, -1, h, w)
    with torch.inference_mode():
        ours = lambda: conditional_residual_block(f, cond, *weights, **options)  # noqa: E731
        peers = {
            "the block as published": lambda: published(block, f, stretched),
            "DAN's own folded block": lambda: block(f, cond),
        }
        if bfloat16:
            half = copy.deepcopy(block).bfloat16()
            half_f, half_cond = f.bfloat16(), cond.bfloat16()
            peers["DAN's own folded block in bfloat16"] = lambda: half(half_f, half_cond)
        results = {"pysr": ours(), **{name: peer() for name, peer in peers.items()}}
        exact = published(block.double(), f.double(), stretched.double())
        block.to(dtype)
        side_by_side(
            benchmark,
            f"conditional_residual_block, {case}, {str(dtype).removeprefix('torch.')}"
            + ", multiplied in bfloat16" * bfloat16,
            ours,
            peers,
            device,
            # As a direct convolution of f alone; Winograd's method needs a quarter of it.
            operations=2 * 9 * h * w * (c + d) * 2 * c,
            dtype=torch.bfloat16 if bfloat16 else dtype,
        )
    errors = {
        name: ((result - exact).abs().max() / exact.abs().max()).item()
        for name, result in results.items()
    }
    print("    error against float64: " + ", ".join(f"{n} {e:.1e}" for n, e in errors.items()))
    benchmark.extra_info["errors"] = errors
