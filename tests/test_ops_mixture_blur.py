"""mixture_blur: kernels against the reference, the reference against numbers worked by hand.

What it shares with blur_decimate (threads, forks, half types) is tested there.
"""

import itertools
from functools import partial

import pytest
import torch
from operator_testing import (
    TOLERANCE,
    assert_gradients_where_wanted,
    assert_matches,
    gradients,
    with_threads,
)

from pysr import _ext, blur
from pysr.ops import blur_decimate, mixture_blur
from pysr.ops._windows import PADDINGS
from pysr.ops.mixture_blur import mixture_blur_reference

# N, C, H, W, k, G.
CASES = [
    (1, 1, 1, 1, 1, 1),
    (2, 3, 17, 70, 3, 4),
    (2, 2, 33, 35, 16, 4),
    (3, 2, 40, 37, 21, 2),
    (1, 2, 33, 66, 32, 8),
]


@pytest.fixture(autouse=True)
def kernels_present(request):
    """A test of the kernels must not pass by comparing the reference with itself."""
    if "device" in request.fixturenames:
        assert request.getfixturevalue("device").type in _ext.DEVICES, _ext.report()


def make(n, c, h, w, k, g, *, dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    shapes = ((n, c, h, w), (c, g), (g, k, k))
    x, weights, gaussians = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    return tuple(t.to(device, dtype) for t in (x, weights, gaussians / k))


def assert_agrees(tensors, padding, dtype):
    """Output and gradients, with the reference in float64."""
    slope = torch.randn_like(mixture_blur(*tensors, padding))
    got = gradients(partial(mixture_blur, padding=padding), tensors, slope)
    doubles = [tensor.double().cpu() for tensor in tensors]
    exact = gradients(partial(mixture_blur_reference, padding=padding), doubles, slope.cpu())
    for mine, theirs in zip(got, exact, strict=True):
        assert_matches(mine.cpu(), theirs, dtype)


def test_by_hand(device):
    x = torch.tensor([[1.0, 2.0, 4.0], [10.0, 20.0, 40.0]], device=device)[None, :, None]
    gaussians = torch.zeros(2, 2, 2, device=device)
    gaussians[0, 1, 1], gaussians[1, 1, 0] = 1, 1  # the pixel itself, its left neighbour
    weights = torch.tensor([[3.0, 0.0], [1.0, 0.5]], device=device)
    left = {"reflect": 20.0, "replicate": 10.0, "zeros": 0.0}
    for function, padding in itertools.product((mixture_blur, mixture_blur_reference), left):
        out = function(x, weights, gaussians, padding)[0, :, 0]
        second = [10 + left[padding] / 2, 25.0, 50.0]
        expected = torch.tensor([[3.0, 6.0, 12.0], second], device=device)
        torch.testing.assert_close(out, expected)


def test_no_padding_by_hand(device):
    x = torch.arange(12.0, device=device).view(1, 1, 3, 4)
    gaussians = torch.ones(1, 3, 3, device=device)
    for function in (mixture_blur, mixture_blur_reference):
        out = function(x, torch.full((1, 1), 2.0, device=device), gaussians, "none")
        assert out.tolist() == [[[[90.0, 108.0]]]]


def test_is_the_weighted_sum_of_blurred_pictures():
    """The paper's own order: blur by every Gaussian, then add up."""
    x, weights, _ = make(2, 3, 20, 19, 16, 4)
    gaussians = blur.mixture_gaussians(16, torch.tensor(1.0, dtype=torch.float64))
    blurred = [blur_decimate(x, gaussian.expand(2, 16, 16)) for gaussian in gaussians]
    expected = sum(w[:, None, None] * b for w, b in zip(weights.T, blurred, strict=True))
    torch.testing.assert_close(mixture_blur(x, weights, gaussians), expected)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_reference(case, dtype, device):
    assert_agrees(make(*case, dtype=dtype, device=device), "reflect", dtype)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("k", [*range(1, 9), 16])
def test_sizes_and_paddings(k, padding, device):
    for h, w in ((k, k), (k, k + 4), (13 + k, 28 + k), (1, 2), (5, 1)):
        if padding != "none" or min(h, w) >= k:
            assert_agrees(make(2, 2, h, w, k, 2, device=device), padding, torch.float64)


@pytest.mark.parametrize("padding", PADDINGS)
def test_strided_inputs(padding, device):
    large, weights, gaussians = make(4, 6, 40, 50, 7, 5, dtype=torch.float32, device=device)
    operator = partial(mixture_blur, padding=padding)
    views = {
        "slice": (large[::2, 1:4, 3:30, 5:47:2], weights[::2, 1:3], gaussians[2:4]),
        "channels_last": (large.to(memory_format=torch.channels_last), weights, gaussians),
        "transposed": (large.transpose(2, 3), weights, gaussians.transpose(1, 2)),
        "expanded": (large[:1].expand(4, -1, -1, -1), weights, gaussians[:1].expand(5, -1, -1)),
    }
    for name, tensors in views.items():
        assert not all(tensor.is_contiguous() for tensor in tensors), name
        slope = torch.randn_like(operator(*tensors))
        plain = gradients(operator, [tensor.contiguous() for tensor in tensors], slope)
        for layout in (torch.contiguous_format, torch.channels_last):
            got = gradients(operator, tensors, slope.contiguous(memory_format=layout))
            for mine, theirs in zip(got, plain, strict=True):
                assert_matches(mine, theirs, torch.float32)


@pytest.mark.parametrize("wanted", list(itertools.product([False, True], repeat=3)), ids=str)
def test_any_subset_of_gradients(wanted, device):
    tensors = make(2, 3, 9, 8, 5, 2, device=device)
    assert_gradients_where_wanted(mixture_blur, mixture_blur_reference, tensors, wanted)


@pytest.mark.parametrize(
    "k, padding", [(2, "reflect"), (3, "replicate"), (4, "zeros"), (3, "none")]
)
def test_gradcheck(k, padding, device):
    tensors = [tensor.requires_grad_() for tensor in make(2, 2, 4, 3, k, 2, device=device)]
    assert torch.autograd.gradcheck(mixture_blur, (*tensors, padding), nondet_tol=0.0)
    assert torch.autograd.gradgradcheck(mixture_blur, (*tensors, padding), nondet_tol=0.0)


def test_a_factor_can_be_learned(device):
    x, weights, _ = make(1, 2, 24, 24, 16, 4, dtype=torch.float32, device=device)
    target = mixture_blur(x, weights, blur.mixture_gaussians(16, 1.5).to(device))
    factor = torch.tensor(1.0, device=device, requires_grad=True)
    optimiser = torch.optim.Adam([factor], lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        out = mixture_blur(x, weights, blur.mixture_gaussians(16, factor))
        (out - target).square().mean().backward()
        optimiser.step()
    assert float(factor.detach()) == pytest.approx(1.5, abs=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype, device):
    x, _, _ = make(2, 3, 9, 8, 4, 2, dtype=dtype, device=device)
    kernels = torch.rand(3, 4, 4, device=device, requires_grad=True)  # float32 beside half types
    slope = torch.randn(2, 3, 6, 5, device=device, dtype=dtype, requires_grad=True)
    x.requires_grad_()
    ops = torch.ops.pysr
    torch.library.opcheck(ops.mixture_blur, (x, kernels, "none"))
    torch.library.opcheck(ops.mixture_blur_grad_x, (slope, kernels, 9, 8, "none"))
    torch.library.opcheck(ops.mixture_blur_grad_kernels, (slope, x, 4, "none"))


@pytest.mark.parametrize(
    "dynamic, backend", [(False, "aot_eager"), (True, "aot_eager"), (False, "inductor")]
)
def test_compile(dynamic, backend, device):
    def plain(x, weights, gaussians):
        return mixture_blur(x * 2, weights.softmax(1), gaussians, "replicate") + 1

    compiled = torch.compile(plain, fullgraph=True, dynamic=dynamic, backend=backend)
    for h, w in ((9, 8), (12, 7)):
        tensors = make(2, 3, h, w, 4, 2, dtype=torch.float32, device=device)
        slope = torch.randn_like(plain(*tensors))
        got = gradients(compiled, tensors, slope)
        for mine, theirs in zip(got, gradients(plain, tensors, slope), strict=True):
            torch.testing.assert_close(mine, theirs)


def test_same_bits_for_any_number_of_threads():
    tensors = make(3, 5, 90, 81, 16, 4, dtype=torch.float32)
    slope = torch.ones(3, 5, 90, 81).cumsum(-1)
    first, *others = with_threads((1, 2, 5), lambda: gradients(mixture_blur, tensors, slope))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_falls_back_without_kernels(monkeypatch):
    tensors = make(2, 3, 9, 8, 5, 2)
    monkeypatch.setattr(_ext, "DEVICES", frozenset())
    expected = mixture_blur_reference(*tensors, "zeros")
    assert torch.equal(mixture_blur(*tensors, "zeros"), expected)


X, W, G = torch.zeros(2, 3, 9, 8), torch.zeros(3, 4), torch.zeros(4, 5, 5)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((X[0], W, G), ValueError, "x: expected (N, C, H, W) without empty sizes, got (3, 9, 8)"),
        ((X, 1.0, G), TypeError, "weights: expected a tensor, got float"),
        ((X, W, None), TypeError, "gaussians: expected a tensor, got NoneType"),
        (
            (X, W, G[:0]),
            ValueError,
            "gaussians: expected (G, k, k) with G of at least 1, got (0, 5, 5)",
        ),
        (
            (X, W, G[:, 1:]),
            ValueError,
            "gaussians: expected (G, k, k) with G of at least 1, got (4, 4, 5)",
        ),
        (
            (X, W, G.new_zeros(4, 65, 65)),
            ValueError,
            "gaussians: expected k from 1 to 64, got (4, 65, 65)",
        ),
        ((X, W[1:], G), ValueError, "weights: expected (3, 4), got (2, 4)"),
        (
            (X, W.half(), G),
            TypeError,
            "weights: expected torch.float32, the dtype of x, got torch.float16",
        ),
        ((X, W, G.to("meta")), ValueError, "gaussians: expected device cpu, that of x, got meta"),
        (
            (X, W, G, "wrap"),
            ValueError,
            "padding: expected one of reflect, replicate, zeros, none, got 'wrap'",
        ),
        (
            (X[:, :, :4], W, G, "none"),
            ValueError,
            "x: expected at least 5x5 pixels, the kernel's size, without padding, got 4x8",
        ),
    ],
)
def test_errors(arguments, error, message):
    with pytest.raises(error) as raised:
        mixture_blur(*arguments)
    assert str(raised.value) == message


def test_operators_called_directly_check_too():
    ops, kernels = torch.ops.pysr, torch.zeros(3, 5, 5)
    with pytest.raises(ValueError, match="C = 3"):
        ops.mixture_blur(X, kernels[:2], "zeros")
    with pytest.raises(TypeError, match="expected torch.float32 beside x of torch.float16"):
        ops.mixture_blur(X.half(), kernels.half(), "zeros")
    with pytest.raises(ValueError, match="grad: expected"):
        ops.mixture_blur_grad_x(X, kernels, 9, 9, "zeros")
    with pytest.raises(ValueError, match="grad: expected"):
        ops.mixture_blur_grad_kernels(X[:1], X, 5, "zeros")
