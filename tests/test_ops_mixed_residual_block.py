"""mixed_residual_block: kernels and gradients beside the reference, and in DAN's training."""

import pytest
import torch
from operator_testing import gradients, with_threads
from torch import nn
from torch._subclasses import FakeTensorMode

from pysr import _ext
from pysr.nets.dan import DAN, ConditionalResidualBlock, DANConfig, initialise
from pysr.ops import mixed_residual_block
from pysr.ops.mixed_residual_block import (
    border_cases,
    mixed_residual_block_reference,
    on_matrix_tiles,
)

# N, C, D, H, W, R. Sizes around the tiles (16 channels, 32 positions) and the groups of pictures.
CASES = [
    (1, 1, 1, 3, 3, 1),
    (2, 16, 4, 12, 13, 1),
    (1, 20, 13, 3, 9, 2),
    (3, 48, 16, 17, 15, 3),
    (11, 33, 2, 5, 31, 2),
    (1, 64, 16, 40, 24, 4),
    (2, 5, 3, 2, 7, 1),
    (1, 5, 3, 1, 1, 2),
]

needs_matrix_tiles = pytest.mark.skipif(
    not on_matrix_tiles(torch.device("cpu")), reason="the processor has no matrix tiles (AMX)"
)


@pytest.fixture(autouse=True)
def kernels_present():
    assert "cpu" in _ext.DEVICES, _ext.report()


def make(n, c, d, h, w, r, seed=0):
    """f, cond and the eight weights, of sizes that keep the numbers between the layers near 1."""
    generator = torch.Generator().manual_seed(seed)
    hidden = c + d
    shapes = [(n, c, h, w), (n, d), (hidden, hidden, 3, 3), (hidden,), (c, hidden, 3, 3), (c,)]
    shapes += [(r, c, 1, 1), (r,), (c, r, 1, 1), (c,)]
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    for weight in tensors[2::2]:
        weight /= weight[0].numel() ** 0.5
    return [tensors[0].bfloat16(), *tensors[1:]]


def test_a_second_gradient_of_the_kernels_is_refused():
    """Shapes are all that this needs: on any processor."""
    with FakeTensorMode() as mode:
        given = [mode.from_tensor(t).requires_grad_() for t in make(2, 16, 4, 12, 13, 1)]
        f, _, conv1_weight, conv1_bias, *others = given
        cases, kept = conv1_bias.expand(2, 3, 3, -1), [torch.empty(1) for _ in range(5)]
        gradient = torch.ops.pysr.mixed_residual_block_grad
        by_f, *_ = gradient(torch.ones_like(f), f, cases, conv1_weight, *others, *kept)
        with pytest.raises(RuntimeError, match="^mixed_residual_block: its kernels have first"):
            by_f.sum().backward()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_reference(case, layout):
    tensors = make(*case)
    tensors[0] = tensors[0].contiguous(memory_format=layout)
    # One that differs from channel to channel and from pixel to pixel.
    slope = torch.randn(tensors[0].shape, generator=torch.Generator().manual_seed(1))
    ours = gradients(mixed_residual_block, tensors, slope)
    wanted = gradients(mixed_residual_block_reference, tensors, slope)
    residual = (wanted[0] - tensors[0]).float().norm()
    assert (ours[0] - wanted[0]).float().norm() <= 0.02 * residual
    for got, expected in zip(ours[1:], wanted[1:], strict=True):
        assert got.dtype == expected.dtype
        # Hidden features near zero, which LeakyReLU bends at, fall on its other side when rounded.
        assert (got - expected).float().norm() <= 0.06 * expected.float().norm()


def test_a_numerical_derivative():
    """Of the whole, along its own gradient, by differences wider than roundings are."""
    tensors = make(2, 16, 4, 9, 8, 2)
    weights = tensors[2:]
    slope = torch.randn(tensors[0].shape, generator=torch.Generator().manual_seed(1))
    gradient = gradients(mixed_residual_block, tensors, slope)[3:]

    def value(step):
        moved = [w + step * g for w, g in zip(weights, gradient, strict=True)]
        return (mixed_residual_block(*tensors[:2], *moved).double() * slope).sum()

    size = sum(g.double().square().sum() for g in gradient)
    step = 0.05 / size.sqrt()
    torch.testing.assert_close((value(step) - value(-step)) / (2 * step), size, rtol=0.05, atol=0)


@needs_matrix_tiles
def test_same_bits_for_any_number_of_threads():
    tensors = make(11, 17, 6, 14, 9, 2)
    slope = torch.ones(tensors[0].shape)
    first, *others = with_threads(
        (1, 2, 5), lambda: gradients(mixed_residual_block, tensors, slope)
    )
    by_conv1, by_bias = 3, 4  # torch sums the condition's share of these in an order of its own
    for other in others:
        for i, (a, b) in enumerate(zip(first, other, strict=True)):
            if i == by_conv1:
                a, b = a[:, :17], b[:, :17]
            assert i == by_bias or torch.equal(a, b)


@needs_matrix_tiles
def test_opcheck():
    f, cond, conv1, bias1, *others = make(2, 5, 3, 9, 8, 2)
    cases = torch.randn(2, 3, 3, 8)
    given = [f, *(tensor.requires_grad_() for tensor in (cases, conv1, *others))]
    # What is kept for the gradient lies in an order of its own, part of which is never written.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.pysr.mixed_residual_block, given, test_utils=checks)


@needs_matrix_tiles
def test_compile():
    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(f, *others):
        return mixed_residual_block(f * 2, *others) + 1

    tensors = make(2, 5, 3, 9, 8, 2)
    slope = torch.ones(tensors[0].shape)
    expected = gradients(lambda f, *o: mixed_residual_block(f * 2, *o) + 1, tensors, slope)
    for ours, theirs in zip(gradients(compiled, tensors, slope), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_dan_learns_through_it(monkeypatch):
    """The same gradients as plain torch's, and it is what a training in bf16 runs on."""
    torch.manual_seed(0)
    config = DANConfig(features=16, blocks=3, code_length=4, estimator_features=16)
    model = DAN(config, torch.randn(441, 4) * 0.1).train()
    initialise(model, 0.7)
    lr, code = torch.rand(2, 3, 24, 20), torch.randn(2, 4)

    def learned():
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            model(lr, code=code).sr.square().mean().backward()
        return torch.cat([p.grad.flatten() for p in model.Restorer.parameters()])

    called = []
    kernel = _ext.require().mixed_residual_block_cpu
    monkeypatch.setattr(
        _ext._C, "mixed_residual_block_cpu", lambda **given: called.append(1) or kernel(**given)
    )
    by_kernels = learned()
    assert len(called) == (config.blocks if on_matrix_tiles(lr.device) else 0)
    monkeypatch.setattr(_ext, "ISA", "avx512")
    by_torch = learned()
    assert nn.functional.cosine_similarity(by_kernels, by_torch, 0) > 0.995


def test_without_kernels_the_reference_runs(monkeypatch):
    tensors = make(2, 5, 3, 9, 8, 2)
    expected = mixed_residual_block_reference(*tensors)
    monkeypatch.setattr(_ext, "_C", None)
    monkeypatch.setattr(_ext, "ISA", None)
    assert torch.equal(mixed_residual_block(*tensors), expected)


@pytest.mark.parametrize(
    "position, value, error, message",
    [
        (0, torch.zeros(2, 5, 9, 8), TypeError, "f: expected bfloat16, got torch.float32"),
        (0, torch.zeros(2, 513, 3, 3).bfloat16(), ValueError, "f: expected C from 1 to 512"),
        (1, torch.zeros(1, 3), ValueError, r"cond: expected (N, D) with N = 2, got (1, 3)"),
        (1, torch.zeros(2, 3).half(), TypeError, "cond: expected float32, got torch.float16"),
        (1, torch.zeros(2, 3, device="meta"), ValueError, "cond: expected device cpu, that of f"),
        (2, torch.zeros(8, 5, 3, 3), ValueError, "conv1_weight: expected (8, 8, 3, 3)"),
        (3, torch.zeros(8).half(), TypeError, "conv1_bias: expected torch.float32, the dtype of"),
        (6, torch.zeros(2, 5), ValueError, "reduce_weight: expected (R, C, 1, 1), got (2, 5)"),
    ],
)
def test_refuses(position, value, error, message):
    tensors = make(2, 5, 3, 9, 8, 2)
    tensors[position] = value
    with pytest.raises(error) as raised:
        mixed_residual_block(*tensors)
    assert message in str(raised.value)


@needs_matrix_tiles
def test_the_operator_itself_reads_no_further_than_its_weights():
    f, cond, conv1, bias, *others = make(2, 16, 4, 9, 8, 2)
    cases = border_cases(cond, conv1[:, 16:], bias, f.shape[2:]).permute(0, 2, 3, 1)
    torch.ops.pysr.mixed_residual_block(f, cases, conv1, *others)
    with pytest.raises(ValueError, match=r"cases: expected float32 \(2, 3, 3, 20\)"):
        torch.ops.pysr.mixed_residual_block(f, cases[:1], conv1, *others)
    with pytest.raises(ValueError, match=r"conv1_weight: expected float32 \(20, 20, 3, 3\)"):
        torch.ops.pysr.mixed_residual_block(f, cases, conv1[:, :2], *others)


def test_blocks_keep_their_own_way_elsewhere():
    """Without autocast, with a picture as condition or a gate of its own, a block is as it was."""
    torch.manual_seed(0)
    block = ConditionalResidualBlock(16, 4).train()
    f, cond = torch.randn(1, 16, 9, 9), torch.randn(1, 4)
    plain = block(f, cond)
    assert plain.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        picture = block(f, cond[:, :, None, None].expand(-1, -1, 9, 9))
        gated = block(f, cond, torch.zeros(1, 16, 1, 1))
    torch.testing.assert_close(picture.float(), plain, atol=0.1, rtol=0.1)
    assert torch.equal(gated.float(), f)
