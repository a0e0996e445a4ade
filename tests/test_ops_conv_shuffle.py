"""conv_shuffle: kernels against the reference and torch's own layers."""

import pytest
import torch
from operator_testing import assert_matches, with_threads
from torch import nn

from pysr import _ext
from pysr.ops import conv_shuffle, pack_conv_shuffle
from pysr.ops.conv_shuffle import conv_shuffle_reference

# N, C, O, H, W, side, shuffle. Sizes around the tiles (4 x 4 and 2 x 2, 24 at once), the vectors
# (4, 8, 16 channels), with and without whole vectors after the shuffle.
CASES = [
    (1, 1, 1, 1, 1, 3, 1),
    (2, 3, 64, 5, 7, 3, 1),
    (1, 64, 3, 23, 21, 3, 1),
    (1, 16, 64, 9, 13, 3, 2),
    (1, 16, 42, 9, 13, 3, 1),
    (2, 48, 48, 8, 16, 3, 4),
    (1, 5, 18, 2, 3, 5, 3),
    (2, 64, 48, 17, 10, 5, 4),
    (1, 33, 32, 1, 6, 5, 1),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def kernels_present(request):
    """A test of the kernels must not pass by comparing the reference with itself."""
    if "device" in request.fixturenames:
        assert request.getfixturevalue("device").type in _ext.DEVICES, _ext.report()


def make(n, c, o, h, w, side, *, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    shapes = [(n, c, h, w), (o, c, side, side), (o,)]
    x, weight, bias = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    weight /= weight[0].numel() ** 0.5
    return [tensor.to(device, dtype) for tensor in (x, weight, bias)]


def exact(x, weight, bias, shuffle=1):
    return conv_shuffle_reference(*(t.double().cpu() for t in (x, weight, bias)), shuffle)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_reference(case, dtype, device):
    *sizes, shuffle = case
    x, weight, bias = make(*sizes, dtype=dtype, device=device)
    out = conv_shuffle(x, weight, bias, shuffle)
    assert_matches(out.cpu(), exact(x, weight, bias, shuffle), dtype)
    assert out.is_contiguous()
    packed = pack_conv_shuffle(weight, shuffle)
    assert torch.equal(conv_shuffle(x, weight, bias, shuffle, packed), out)
    last = x.contiguous(memory_format=torch.channels_last)
    again = conv_shuffle(last, weight, bias, shuffle, packed)
    assert torch.equal(again, out)
    if 1 not in x.shape[1:]:
        assert again.is_contiguous(memory_format=torch.channels_last)


def test_strided_inputs(device):
    large, weight, bias = make(3, 33, 8, 20, 30, 3, device=device)
    weight = weight[:, 4:20].transpose(2, 3)
    views = [
        large[::2, 3:19, 3:14, 5:27:2],
        large.contiguous(memory_format=torch.channels_last)[1:, 1:17, 2:, :-3],
        large[:1, :16].transpose(2, 3).expand(4, -1, -1, -1),
    ]
    for x in views:
        assert not x.is_contiguous()
        out = conv_shuffle(x, weight, bias, 2)
        assert torch.equal(out, conv_shuffle(x.contiguous(), weight.contiguous(), bias, 2))
        assert_matches(out.cpu(), exact(x, weight, bias, 2), torch.float32)


@pytest.mark.parametrize("side, shuffle", [(3, 1), (3, 2), (5, 2)])
def test_equals_torchs_layers(side, shuffle, device):
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 64, side, padding=side // 2).to(device)
    x = torch.randn(2, 32, 19, 10, device=device)
    with torch.inference_mode():
        expected = nn.PixelShuffle(shuffle)(conv(x))
        out = conv_shuffle(x, conv.weight, conv.bias, shuffle)
    assert_matches(out.cpu(), expected.double().cpu(), torch.float32)


@pytest.mark.parametrize("side", [3, 5])
def test_accuracy(side, device):
    """Winograd's transforms may cost digits, but no more than these, at DAN's own sizes."""
    tensors = make(1, 64, 48, 48, 48, side, device=device)
    expected = exact(*tensors)
    error = (conv_shuffle(*tensors).cpu() - expected).abs().max()
    assert error < 2e-6 * expected.abs().max()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_match_torchs(case, dtype, device):
    *sizes, shuffle = case
    tensors = make(*sizes, dtype=dtype, device=device)
    leaves = [t.detach().double().cpu().requires_grad_() for t in tensors]
    out = conv_shuffle_reference(*leaves, shuffle)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected = torch.autograd.grad(out, leaves, grad.double())
    for layout in (torch.contiguous_format, torch.channels_last):
        x, *others = tensors
        leaves = [x.contiguous(memory_format=layout).requires_grad_()]
        leaves += [t.detach().requires_grad_() for t in others]
        out = conv_shuffle(*leaves, shuffle)
        grads = torch.autograd.grad(out, leaves, grad.to(device))
        assert grads[0].is_contiguous(memory_format=layout)
        for ours, theirs in zip(grads, expected, strict=True):
            assert_matches(ours.cpu(), theirs, dtype)


def test_only_the_gradients_that_are_wanted():
    x, weight, bias = make(1, 4, 4, 5, 6, 3)
    conv_shuffle(x, weight, bias.requires_grad_()).sum().backward()
    assert x.grad is None and weight.grad is None
    assert bias.grad.tolist() == pytest.approx([30] * 4)
    with torch.no_grad():
        assert not conv_shuffle(x, weight, bias).requires_grad


def test_second_derivatives(device):
    """Of a loss on the gradients, as a penalty or an unrolled step has it."""

    def penalty(function, tensors):
        x, weight, bias = (t.detach().requires_grad_() for t in tensors)
        out = function(x, weight, bias, 2)
        grads = torch.autograd.grad(out.square().sum(), (x, weight, bias), create_graph=True)
        total = sum(g.square().sum() for g in grads)
        return torch.autograd.grad(total, (x, weight, bias))

    tensors = make(2, 5, 8, 9, 7, 3, device=device)
    exact = penalty(conv_shuffle_reference, [t.double().cpu() for t in tensors])
    for ours, theirs in zip(penalty(conv_shuffle, tensors), exact, strict=True):
        assert (ours.cpu() - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_opcheck(layout, device):
    x, weight, bias = make(2, 5, 8, 9, 7, 3, device=device)
    x = x.contiguous(memory_format=layout)
    for packed in (None, pack_conv_shuffle(weight, 2)):
        torch.library.opcheck(torch.ops.pysr.conv_shuffle, (x, weight, bias, 2, packed))
    x.requires_grad_(), weight.requires_grad_()
    torch.library.opcheck(torch.ops.pysr.conv_shuffle, (x, weight, bias, 2, None))
    grad = torch.randn(2, 8, 9, 7, device=device, requires_grad=True)
    torch.library.opcheck(torch.ops.pysr.conv_shuffle_grad_weight, (x, grad, 3))


@pytest.mark.parametrize(
    "dynamic, backend", [(False, "aot_eager"), (True, "aot_eager"), (False, "inductor")]
)
def test_compile(dynamic, backend, device):
    @torch.compile(fullgraph=True, dynamic=dynamic, backend=backend)
    def compiled(x, weight, bias):
        return conv_shuffle(x * 2, weight, bias, 2) + 1

    for h, w in ((9, 8), (12, 7)) if dynamic else ((9, 8),):
        x, weight, bias = make(2, 5, 8, h, w, 3, device=device)
        expected = conv_shuffle(x * 2, weight, bias, 2) + 1
        torch.testing.assert_close(compiled(x, weight, bias), expected)


def test_same_bits_for_any_number_of_threads():
    tensors = [t.requires_grad_() for t in make(2, 32, 12, 65, 50, 5)]

    def result_and_gradients():
        out = conv_shuffle(*tensors, 2)
        return torch.cat([t.flatten() for t in (out, *torch.autograd.grad(out.sum(), tensors))])

    first, *others = with_threads((1, 2, 5), result_and_gradients)
    assert all(torch.equal(first, other) for other in others)


def test_falls_back_without_kernels(monkeypatch):
    tensors = make(2, 5, 8, 9, 8, 3)
    monkeypatch.setattr(_ext, "DEVICES", frozenset())
    monkeypatch.setattr(_ext, "_C", None)
    assert torch.equal(conv_shuffle(*tensors, 2), conv_shuffle_reference(*tensors, 2))


@pytest.mark.parametrize(
    "position, value, error, message",
    [
        (0, torch.zeros(5, 9, 8), ValueError, "x: expected (N, C, H, W) without empty sizes"),
        (0, torch.zeros(2, 5, 9, 8).double(), TypeError, "x: expected float32, bfloat16 or"),
        (
            1,
            torch.zeros(8, 5, 7, 7),
            ValueError,
            "weight: expected (O, C, 3, 3) or (O, C, 5, 5), got (8, 5, 7, 7)",
        ),
        (1, torch.zeros(8, 4, 3, 3), ValueError, "weight: expected (8, 5, 3, 3), got (8, 4, 3, 3)"),
        (1, torch.zeros(0, 5, 3, 3), ValueError, "weight: expected O from 1 to 4096, got 0"),
        (1, torch.zeros(8, 5, 3, 3).half(), TypeError, "weight: expected torch.float32, the dtype"),
        (2, torch.zeros(5), ValueError, "bias: expected (8,), got (5,)"),
        (2, torch.zeros(8, device="meta"), ValueError, "bias: expected device cpu, that of x"),
        (3, 0, ValueError, "shuffle: expected 1 to 16, got 0"),
        (3, 3, ValueError, "weight: expected O to be a multiple of shuffle^2 = 9, got 8"),
        (4, torch.zeros(7, dtype=torch.uint8), ValueError, "from pack_conv_shuffle, got 7 of"),
    ],
)
def test_errors(position, value, error, message):
    arguments = [*make(2, 5, 8, 9, 8, 3), 2, None]
    arguments[position] = value
    for function in (conv_shuffle, torch.ops.pysr.conv_shuffle):
        with pytest.raises(error) as raised:
            function(*arguments)
        assert message in str(raised.value)


@pytest.mark.parametrize(
    "position, value, error, message",
    [
        (0, torch.zeros(2, 5, 9, 8).double(), TypeError, "x: expected float32, bfloat16 or"),
        (1, torch.zeros(2, 8, 9, 7), ValueError, "grad: expected (2, 8, 9, 8), got (2, 8, 9, 7)"),
        (1, torch.zeros(8, 9, 8), ValueError, "grad: expected (N, C, H, W) without empty sizes"),
        (1, torch.zeros(2, 8, 9, 8).half(), TypeError, "grad: expected torch.float32, the dtype"),
        (2, 7, ValueError, "side: expected 3 or 5, got 7"),
    ],
)
def test_errors_of_the_weights_gradient(position, value, error, message):
    arguments = [torch.zeros(2, 5, 9, 8), torch.zeros(2, 8, 9, 8), 3]
    arguments[position] = value
    with pytest.raises(error) as raised:
        torch.ops.pysr.conv_shuffle_grad_weight(*arguments)
    assert message in str(raised.value)
