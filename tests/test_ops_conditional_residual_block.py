"""conditional_residual_block: kernels against the reference and DAN's own block."""

import pytest
import torch
from operator_testing import assert_matches, with_threads

from pysr import _ext
from pysr.nets.dan import ConditionalResidualBlock
from pysr.ops import conditional_residual_block, pack_conditional_residual_block
from pysr.ops.conditional_residual_block import conditional_residual_block_reference
from pysr.ops.mixed_residual_block import on_matrix_tiles

# N, C, D, H, W, R. Sizes around the tiles (4 x 4, 24 at once; 16 x 16 on CUDA) and the vectors (4,
# 8, 16 channels).
CASES = [
    (1, 1, 1, 1, 1, 1),
    (2, 3, 2, 1, 7, 5),
    (1, 16, 1, 2, 2, 1),
    (2, 5, 3, 3, 1, 2),
    (1, 32, 17, 4, 5, 2),
    (3, 17, 4, 13, 9, 1),
    (1, 64, 10, 23, 21, 4),
    (2, 48, 16, 8, 16, 3),
    (1, 7, 70, 33, 18, 2),
]


@pytest.fixture(autouse=True)
def kernels_present(request):
    """A test of the kernels must not pass by comparing the reference with itself."""
    if "device" in request.fixturenames:
        assert request.getfixturevalue("device").type in _ext.DEVICES, _ext.report()


def make(n, c, d, h, w, r, *, dtype=torch.float32, device="cpu", seed=0, picture=False):
    """f, cond and the eight weights, of sizes that keep the numbers between the layers near 1."""
    generator = torch.Generator().manual_seed(seed)
    hidden = c + d
    cond = (n, d, h, w) if picture else (n, d)
    shapes = [(n, c, h, w), cond, (hidden, hidden, 3, 3), (hidden,), (c, hidden, 3, 3), (c,)]
    shapes += [(r, c, 1, 1), (r,), (c, r, 1, 1), (c,)]
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    for weight in tensors[2::2]:
        weight /= weight[0].numel() ** 0.5
    return [tensor.to(device, dtype) for tensor in tensors]


def exact(*tensors):
    wide = [tensor.double().cpu() for tensor in tensors]
    return conditional_residual_block_reference(*wide)


def narrows(device, dtype):
    """Tensor cores and matrix tiles take the hidden features in dtype."""
    tiles = on_matrix_tiles(device) and dtype == torch.bfloat16
    return tiles or (device.type == "cuda" and dtype != torch.float32)


def test_by_hand(device):
    f = torch.tensor([[1.0, 2.0], [3.0, 4.0]], device=device)[None, None]
    cond = torch.tensor([[10.0]], device=device)
    conv1 = torch.zeros(2, 2, 3, 3, device=device)
    # Hidden channel 0 is f plus the condition of the left neighbour, [[1, 12], [3, 14]]; channel 1
    # is -f, which LeakyReLU divides by 5.
    conv1[0, 0, 1, 1] = conv1[0, 1, 1, 0] = 1.0
    conv1[1, 0, 1, 1] = -1.0
    # r is channel 0 plus 5 times the lower neighbour of channel 1, plus 0.5.
    conv2 = torch.zeros(1, 2, 3, 3, device=device)
    conv2[0, 0, 1, 1] = 1.0
    conv2[0, 1, 2, 1] = 5.0
    one = torch.ones(1, 1, 1, 1, device=device)
    zero = torch.zeros(1, device=device)
    weights = (conv1, torch.zeros(2, device=device), conv2, zero + 0.5, one, zero, one, zero)
    r = torch.tensor([[-1.5, 8.5], [3.5, 14.5]], device=device)
    mean, gate = torch.tensor(6.25, device=device), torch.tensor([[2.0]], device=device)
    for function in (conditional_residual_block, conditional_residual_block_reference):
        out = function(f, cond, *weights)
        torch.testing.assert_close(out[0, 0], f[0, 0] + r * mean.sigmoid())
        out = function(f, cond, *weights, gate)
        torch.testing.assert_close(out[0, 0], f[0, 0] + 2 * r)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("picture", [False, True], ids=["constant", "picture"])
def test_matches_reference(case, picture, dtype, device):
    tensors = make(*case, dtype=dtype, device=device, picture=picture)
    gate = torch.linspace(-1, 2, case[0] * case[1]).view(case[:2]).to(device, dtype)
    for given in (tensors, [*tensors, gate]):
        out = conditional_residual_block(*given)
        assert_matches(out.cpu(), exact(*given), dtype, rounded_between=narrows(device, dtype))
        assert out.is_contiguous()


def test_pixels_that_share_memory_are_not_overwritten(device):
    f, cond, *weights = make(2, 16, 32, 9, 13, 2, device=device)
    meshed = f.as_strided(f.shape, (f.stride(0), f.stride(1), 4, 1))
    for shared in (f[:1].expand(2, -1, -1, -1), meshed):
        with pytest.raises(ValueError, match="f: expected pixels of its own to overwrite"):
            conditional_residual_block(shared, cond, *weights, inplace=True)


def test_autograd_notices_what_was_overwritten(device):
    f, cond, *weights = make(2, 16, 32, 9, 13, 2, device=device)
    x = f.clone().requires_grad_()
    doubled = 2 * x
    squared = doubled * doubled
    with torch.no_grad():
        conditional_residual_block(doubled, cond, *weights, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squared.sum().backward()


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("picture", [False, True], ids=["constant", "picture"])
def test_packed_and_in_place(picture, bfloat16, device):
    """Neither changes a bit, in any layout."""
    for case in ((2, 16, 32, 9, 13, 2), (1, 5, 3, 6, 5, 1)):
        f, cond, *weights = make(*case, device=device, picture=picture)
        options = {"bfloat16": bfloat16}
        expected = conditional_residual_block(f, cond, *weights, **options)
        packed = pack_conditional_residual_block(
            weights[0], weights[2], constant=not picture, **options
        )
        for layout in (torch.contiguous_format, torch.channels_last):
            given = f.clone(memory_format=layout)
            if picture:
                cond = cond.contiguous(memory_format=layout)
            options |= {"packed": packed, "inplace": True}
            out = conditional_residual_block(given, cond, *weights, **options)
            assert out is given
            assert torch.equal(out, expected)


def test_a_picture_that_is_constant(device):
    f, cond, *weights = make(2, 16, 4, 7, 9, 2, device=device)
    stretched = cond[:, :, None, None].expand(-1, -1, 7, 9)
    expected = conditional_residual_block(f, cond, *weights)
    torch.testing.assert_close(conditional_residual_block(f, stretched, *weights), expected)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("picture", [False, True], ids=["constant", "picture"])
def test_multiplied_in_bfloat16(case, picture, device):
    """Weights and features between the convolutions are rounded, what they are added to is not."""
    tensors = make(*case, device=device, picture=picture)
    gate = torch.linspace(-1, 2, case[0] * case[1]).view(case[:2]).to(device)
    for given in (tensors, [*tensors, gate]):
        out = conditional_residual_block(*given, bfloat16=True)
        if not on_matrix_tiles(device):
            assert torch.equal(out, conditional_residual_block(*given))
            continue
        f, expected = tensors[0].double(), exact(*given)
        assert 0 < (out - expected).norm() < 2**-7 * (expected - f).norm()


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_strided_inputs(dtype, bfloat16, device):
    large, cond, *weights = make(4, 33, 6, 20, 30, 2, dtype=dtype, device=device)
    weights = make(1, 16, 6, 1, 1, 2, dtype=dtype, device=device)[2:]
    weights[0] = weights[0].transpose(2, 3)
    weights[4] = weights[4].expand(-1, 16, -1, -1)
    plain_weights = [weight.contiguous() for weight in weights]
    part = large[:, 1:17]
    views = {
        "slice": (large[::2, 3:19, 3:14, 5:27:2], cond[::2]),
        "channels_last": (part.contiguous(memory_format=torch.channels_last), cond),
        "slice, channels_last": (
            large.contiguous(memory_format=torch.channels_last)[1:, 1:17, 2:, :-3],
            cond[1:],
        ),
        "transposed": (part.transpose(2, 3), cond),
        "expanded": (part[:1].expand(4, -1, -1, -1), cond[:1].expand(4, -1)),
    }
    for name, (f, condition) in views.items():
        assert not f.is_contiguous(), name
        out = conditional_residual_block(f, condition, *weights, bfloat16=bfloat16)
        assert out.stride() == torch.empty_like(f).stride(), name
        plain = (f.contiguous(), condition.contiguous(), *plain_weights)
        assert torch.equal(out, conditional_residual_block(*plain, bfloat16=bfloat16)), name
        if not bfloat16:
            assert_matches(out.cpu(), exact(*plain), dtype, rounded_between=narrows(device, dtype))


def test_accuracy(device):
    """Winograd's transforms may cost digits, but no more than these, at DAN's own sizes."""
    tensors = make(1, 64, 10, 48, 48, 4, device=device)
    expected = exact(*tensors)
    error = (conditional_residual_block(*tensors).cpu() - expected).abs().max()
    assert error < 2e-6 * expected.abs().max()


def test_equals_the_networks_block(device):
    torch.manual_seed(0)
    block = ConditionalResidualBlock(32, 5).to(device)
    f, cond = torch.randn(2, 32, 19, 10, device=device), torch.randn(2, 5, device=device)
    with torch.inference_mode():
        out = conditional_residual_block(f, cond, *block.parameters())
        assert_matches(out.cpu(), block(f, cond).double().cpu(), torch.float32)
        gate = torch.rand(2, 32, device=device)
        out = conditional_residual_block(f, cond, *block.parameters(), gate)
        expected = block(f, cond, gate[:, :, None, None])
        assert_matches(out.cpu(), expected.double().cpu(), torch.float32)


def test_gradients_are_refused(device):
    tensors = make(1, 4, 2, 5, 6, 1, device=device)
    tensors[2].requires_grad_()
    with pytest.raises(RuntimeError, match="inference.*train pysr.nets.dan"):
        conditional_residual_block(*tensors)
    out = torch.ops.pysr.conditional_residual_block(*tensors, None, None, False)
    with pytest.raises(RuntimeError, match="inference.*train pysr.nets.dan"):
        out.sum().backward()
    with torch.no_grad():
        assert not conditional_residual_block(*tensors).requires_grad


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_opcheck(layout, device):
    tensors = make(2, 5, 3, 9, 8, 2, device=device)
    tensors[0] = tensors[0].contiguous(memory_format=layout)
    for gate in (None, torch.rand(2, 5, device=device)):
        given = (*tensors, gate, None, False)
        torch.library.opcheck(torch.ops.pysr.conditional_residual_block, given)
        torch.library.opcheck(torch.ops.pysr.conditional_residual_block_, given)


@pytest.mark.parametrize(
    "dynamic, backend", [(False, "aot_eager"), (True, "aot_eager"), (False, "inductor")]
)
def test_compile(dynamic, backend, device):
    @torch.compile(fullgraph=True, dynamic=dynamic, backend=backend)
    def compiled(f, *others):
        return conditional_residual_block(f * 2, *others) + 1

    for h, w in ((9, 8), (12, 7)) if dynamic else ((9, 8),):
        f, *others = make(2, 5, 3, h, w, 2, device=device)
        expected = conditional_residual_block(f * 2, *others) + 1
        torch.testing.assert_close(compiled(f, *others), expected)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_same_bits_for_any_number_of_threads(bfloat16):
    tensors = make(2, 32, 6, 65, 50, 2)
    first, *others = with_threads(
        (1, 2, 5), lambda: conditional_residual_block(*tensors, bfloat16=bfloat16)
    )
    assert all(torch.equal(first, other) for other in others)


def test_same_bits_on_every_run(device):
    tensors = make(2, 32, 6, 65, 50, 2, device=device)
    first = conditional_residual_block(*tensors)
    assert all(torch.equal(first, conditional_residual_block(*tensors)) for _ in range(3))


def test_falls_back_without_kernels(monkeypatch):
    tensors = make(2, 5, 3, 9, 8, 2)
    monkeypatch.setattr(_ext, "DEVICES", frozenset())
    monkeypatch.setattr(_ext, "_C", None)
    expected = conditional_residual_block_reference(*tensors)
    assert torch.equal(conditional_residual_block(*tensors), expected)


@pytest.mark.parametrize(
    "position, value, error, message",
    [
        (0, None, TypeError, "f: expected a tensor, got NoneType"),
        (
            0,
            torch.zeros(2, 5, 0, 8),
            ValueError,
            "f: expected (N, C, H, W) without empty sizes, got (2, 5, 0, 8)",
        ),
        (
            0,
            torch.zeros(2, 5, 9, 8).double(),
            TypeError,
            "f: expected float32, bfloat16 or float16, got torch.float64",
        ),
        (0, torch.zeros(2, 513, 1, 1), ValueError, "f: expected C from 1 to 512, got 513"),
        (1, torch.zeros(1, 3), ValueError, "with N = 2, H = 9, W = 8, got (1, 3)"),
        (1, torch.zeros(2, 3, 9, 7), ValueError, "with N = 2, H = 9, W = 8, got (2, 3, 9, 7)"),
        (1, torch.zeros(2, 0), ValueError, "cond: expected D from 1 to 512, got 0"),
        (
            1,
            torch.zeros(2, 3).half(),
            TypeError,
            "cond: expected torch.float32, the dtype of f, got torch.float16",
        ),
        (
            2,
            torch.zeros(8, 5, 3, 3),
            ValueError,
            "conv1_weight: expected (8, 8, 3, 3), got (8, 5, 3, 3)",
        ),
        (3, torch.zeros(5), ValueError, "conv1_bias: expected (8,), got (5,)"),
        (4, [0.0], TypeError, "conv2_weight: expected a tensor, got list"),
        (
            5,
            torch.zeros(5, device="meta"),
            ValueError,
            "conv2_bias: expected device cpu, that of f, got meta",
        ),
        (
            6,
            torch.zeros(2, 5),
            ValueError,
            "reduce_weight: expected (R, C, 1, 1), got (2, 5)",
        ),
        (
            6,
            torch.zeros(0, 5, 1, 1),
            ValueError,
            "reduce_weight: expected R from 1 to 512, got 0",
        ),
        (
            8,
            torch.zeros(5, 1, 1, 1),
            ValueError,
            "expand_weight: expected (5, 2, 1, 1), got (5, 1, 1, 1)",
        ),
        (10, torch.zeros(1, 5), ValueError, "gate: expected (2, 5), got (1, 5)"),
        (11, torch.zeros(9), ValueError, "from pack_conditional_residual_block, got 9 of"),
    ],
)
def test_errors(position, value, error, message):
    arguments = [*make(2, 5, 3, 9, 8, 2), None, None]
    arguments[position] = value
    for function in (conditional_residual_block, torch.ops.pysr.conditional_residual_block):
        if function is not conditional_residual_block and not isinstance(value, torch.Tensor):
            continue
        options = () if function is conditional_residual_block else (False,)
        with pytest.raises(error) as raised:
            function(*arguments, *options)
        assert message in str(raised.value)
