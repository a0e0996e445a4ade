"""mixed_residual_block, forward and backward, beside what torch's autocast makes of DAN's block.

    pytest bench/ops/bench_mixed_residual_block.py

On processors with matrix tiles alone; torch's convolutions run on them as well.
"""

import pytest
import torch
from side_by_side import side_by_side

from pysr.nets.dan import ConditionalResidualBlock
from pysr.ops import mixed_residual_block
from pysr.ops.mixed_residual_block import on_matrix_tiles

CPU = torch.device("cpu")
# Name: N, C, D, side.
CASES = {
    "DAN of published width, 64+16 channels, 10 of 40x40": (10, 64, 16, 40),
    "dan-mid, 48+16 channels, 12 of 32x32": (12, 48, 16, 32),
}


@pytest.mark.skipif(not on_matrix_tiles(CPU), reason="the processor has no matrix tiles (AMX)")
@pytest.mark.parametrize("case", CASES)
def test_mixed_residual_block(benchmark, case):
    n, c, d, side = CASES[case]
    torch.manual_seed(0)
    # In evaluation mode the module does not take our kernels, and learns by torch's.
    block = ConditionalResidualBlock(c, d).eval()
    weights = list(block.parameters())
    f = torch.randn(n, c, side, side).contiguous(memory_format=torch.channels_last)
    f, half = f.requires_grad_(), f.detach().bfloat16().requires_grad_()
    cond, slope = torch.randn(n, d), torch.randn(f.shape).bfloat16()
    slope = slope.contiguous(memory_format=torch.channels_last)

    def learn(work, picture, dtype):
        torch.autograd.grad(work(), [picture, *weights], slope.to(dtype))

    def autocast():
        with torch.autocast("cpu", torch.bfloat16):
            return block(half, cond)

    side_by_side(
        benchmark,
        f"mixed_residual_block, {case}, forward+backward",
        lambda: learn(lambda: mixed_residual_block(half, cond, *weights), half, torch.bfloat16),
        {
            "DAN's own block by torch's autocast": lambda: learn(autocast, half, torch.bfloat16),
            "DAN's own block in float32": lambda: learn(lambda: block(f, cond), f, torch.float32),
        },
        CPU,
        operations=3 * 2 * 9 * n * side**2 * (c + d) * 2 * c,
        dtype=torch.bfloat16,
    )
