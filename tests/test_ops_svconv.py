"""svconv: kernels against the reference, the reference against numbers worked by hand."""

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

from pysr import _ext
from pysr.ops import blur_decimate, svconv
from pysr.ops._windows import PADDINGS, outputs
from pysr.ops.svconv import svconv_reference

# N, C, H, W, k, stride, padding.
CASES = [
    (1, 1, 1, 1, 1, 1, "reflect"),
    (1, 1, 1, 1, 15, 4, "reflect"),
    (2, 3, 1, 7, 5, 1, "reflect"),
    (1, 2, 5, 3, 13, 1, "reflect"),
    (2, 3, 17, 19, 4, 1, "replicate"),
    (1, 5, 33, 47, 9, 1, "zeros"),
    (1, 3, 24, 70, 6, 2, "reflect"),
    (2, 2, 25, 31, 11, 3, "none"),
    (1, 4, 41, 37, 15, 4, "reflect"),
    (1, 1, 30, 9, 3, 4, "replicate"),
    (1, 1, 34, 35, 31, 2, "reflect"),
]


@pytest.fixture(autouse=True)
def kernels_present(request):
    """A test of the kernels must not pass by comparing the reference with itself."""
    if "device" in request.fixturenames:
        assert request.getfixturevalue("device").type in _ext.DEVICES, _ext.report()


def make(n, c, h, w, k, stride, padding="reflect", *, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    size = (n, k, k, outputs(h, k, stride, padding), outputs(w, k, stride, padding))
    x = torch.randn(n, c, h, w, generator=generator, dtype=torch.float64)
    kernels = torch.randn(size, generator=generator, dtype=torch.float64) / k
    return x.to(device, dtype), kernels.to(device, dtype)


def assert_agrees(case, dtype, device):
    stride, padding = case[5:]
    x, kernels = make(*case, dtype=dtype, device=device)
    slope = torch.randn_like(svconv(x, kernels, stride, padding))
    got = gradients(partial(svconv, stride=stride, padding=padding), (x, kernels), slope)
    exact = gradients(
        partial(svconv_reference, stride=stride, padding=padding),
        (x.double().cpu(), kernels.double().cpu()),
        slope.cpu(),
    )
    for mine, theirs in zip(got, exact, strict=True):
        assert_matches(mine.cpu(), theirs, dtype)
        assert mine.is_contiguous()


@pytest.mark.parametrize("operator", [svconv, svconv_reference])
def test_by_hand(operator, device):
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], device=device)[None, None]
    kernels = torch.zeros(1, 3, 3, 2, 3, device=device)
    kernels[0, 1, 0] = 1  # every pixel takes its left neighbour; column -1 shows column 1
    kernels[0, 2, 2, 0, 1] = 10  # pixel (0, 1) adds ten times its lower right neighbour
    expected = torch.tensor([[2.0, 61.0, 2.0], [5.0, 4.0, 5.0]], device=device)
    torch.testing.assert_close(operator(x, kernels)[0, 0], expected)
    every_other = kernels[..., ::2, ::2]
    torch.testing.assert_close(operator(x, every_other, 2)[0, 0], expected[::2, ::2])
    # Column -1 shows column 0, or nothing; without padding one output is left.
    taken = operator(x, kernels, 1, "replicate")[0, 0, :, 0].tolist()
    assert taken == [1, 4]
    assert operator(x, kernels, 1, "zeros")[0, 0, :, 0].tolist() == [0, 0]
    whole = torch.ones(1, 2, 2, 1, 2, device=device)
    assert operator(x, whole, 1, "none").tolist() == [[[[12, 16]]]]


@pytest.mark.parametrize("operator", [svconv, svconv_reference])
def test_even_kernels_by_hand(operator, device):
    x = torch.tensor([1.0, 2.0, 4.0], device=device)[None, None, None]
    kernels = torch.tensor([[0.0, 0.0], [100.0, 1.0]], device=device)[None, :, :, None, None]
    # Tap k // 2 = 1 lies over the pixel itself, tap 0 over its left neighbour.
    expected = torch.tensor([201.0, 102.0, 204.0], device=device)
    kernels = kernels.expand(1, 2, 2, 1, 3)
    torch.testing.assert_close(operator(x, kernels)[0, 0, 0], expected)


@pytest.mark.parametrize("stride", [1, 3])
def test_one_kernel_for_all_pixels_is_a_blur(stride, device):
    x, kernels = make(2, 3, 17, 20, 7, stride, dtype=torch.float64, device=device)
    first = kernels[..., :1, :1]
    got = svconv(x, first.expand_as(kernels), stride)
    torch.testing.assert_close(got, blur_decimate(x, first[..., 0, 0], stride))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_reference(case, dtype, device):
    assert_agrees(case, dtype, device)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("k", range(1, 8))
def test_sizes_strides_and_paddings(k, stride, padding, device):
    for h, w in ((1, 1), (2, 5), (k, k + 1), (13, 29)):
        if padding != "none" or min(h, w) >= k:
            assert_agrees((1, 2, h, w, k, stride, padding), torch.float64, device)


@pytest.mark.parametrize("stride", [1, 3])
def test_strided_inputs(stride, device):
    operator = partial(svconv, stride=stride)
    large, kernels = make(4, 6, 40, 50, 5, 1, device=device)
    square, _ = make(4, 3, 27, 27, 5, 1, device=device)
    ho, wo = -(-27 // stride), -(-21 // stride)
    views = {
        "slice": (large[::2, 1:4, 3:30, 5:47:2], kernels[::2, ..., 2 : 2 + ho, 3 : 3 + wo]),
        "columns apart": (large[:, :, :27, :21], kernels[..., 1 : 1 + ho, : 2 * wo : 2]),
        "channels_last": (
            large[:, :, :27, :21].to(memory_format=torch.channels_last),
            kernels.transpose(1, 2)[..., :ho, :wo],
        ),
        "transposed": (square.transpose(2, 3), kernels.mT[..., :ho, :ho]),
        "expanded": (
            large[:1, :, :27, :21].expand(4, -1, -1, -1),
            kernels[:1, ..., :1, :1].expand(4, -1, -1, ho, wo),
        ),
    }
    for name, (x, k) in views.items():
        assert not (x.is_contiguous() or k.is_contiguous()), name
        slope = torch.randn_like(operator(x, k))
        for layout in (torch.contiguous_format, torch.channels_last):
            got = gradients(operator, (x, k), slope.contiguous(memory_format=layout))
            plain = gradients(operator, (x.contiguous(), k.contiguous()), slope)
            for mine, theirs in zip(got, plain, strict=True):
                assert torch.equal(mine, theirs), name


@pytest.mark.parametrize("wanted", list(itertools.product([False, True], repeat=2)), ids=str)
def test_any_subset_of_gradients(wanted, device):
    tensors = make(2, 2, 9, 8, 5, 2, dtype=torch.float64, device=device)
    pair = partial(svconv, stride=2), partial(svconv_reference, stride=2)
    assert_gradients_where_wanted(*pair, tensors, wanted)


@pytest.mark.parametrize("k, stride, padding", [(3, 1, "reflect"), (2, 2, "zeros"), (2, 1, "none")])
def test_gradcheck(k, stride, padding, device):
    x, kernels = make(1, 2, 3, 3, k, stride, padding, dtype=torch.float64, device=device)
    inputs = (x.requires_grad_(), kernels.requires_grad_(), stride, padding)
    assert torch.autograd.gradcheck(svconv, inputs, nondet_tol=0.0)
    assert torch.autograd.gradgradcheck(svconv, inputs, nondet_tol=0.0)


@pytest.mark.parametrize("grad", [False, True])
def test_opcheck(grad, device):
    x, kernels = make(2, 3, 9, 8, 5, 2, device=device)
    slope = torch.randn_like(svconv(x, kernels, 2)).requires_grad_(grad)
    x.requires_grad_(grad)
    kernels.requires_grad_(grad)
    ops = torch.ops.pysr
    torch.library.opcheck(ops.svconv, (x, kernels, 2, "reflect"))
    torch.library.opcheck(ops.svconv_grad_x, (slope, kernels, 9, 8, 2, "reflect"))
    torch.library.opcheck(ops.svconv_grad_kernels, (slope, x, 5, 2, "reflect"))


@pytest.mark.parametrize(
    "dynamic, backend", [(False, "aot_eager"), (True, "aot_eager"), (False, "inductor")]
)
def test_compile(dynamic, backend, device):
    def plain(x, kernels):
        return svconv(x * 2, kernels, 2, "replicate") + 1

    compiled = torch.compile(plain, fullgraph=True, dynamic=dynamic, backend=backend)
    for h, w in ((9, 8), (12, 7)):
        x, kernels = make(2, 3, h, w, 5, 2, device=device)
        slope = torch.randn_like(plain(x, kernels))
        got = gradients(compiled, (x, kernels), slope)
        for mine, theirs in zip(got, gradients(plain, (x, kernels), slope), strict=True):
            torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("stride", [1, 2])
def test_same_bits_for_any_number_of_threads_and_on_every_run(stride, device):
    x, kernels = make(2, 5, 70, 61, 9, stride, device=device)
    slope = torch.randn_like(svconv(x, kernels, stride))
    operator = partial(svconv, stride=stride)
    work = partial(gradients, operator, (x, kernels), slope)
    first, *others = with_threads((1, 2, 2, 5), work)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_denormals_are_flushed_on_all_threads_or_on_none():
    x, kernels = make(2, 3, 70, 61, 3, 1, device="cpu")
    x = x.abs() * 1e-39
    expected = {False: True, True: False}
    for flushed, anything in expected.items():
        if not torch.set_flush_denormal(flushed):
            pytest.skip("this processor cannot flush denormals")
        try:
            results = with_threads((1, 2), lambda: svconv(x, kernels))
        finally:
            torch.set_flush_denormal(False)
        assert all(bool(result.any()) == anything for result in results)


def test_a_bad_value_stays_within_reach(device):
    x, kernels = make(1, 1, 40, 90, 5, 1, device=device)
    slope = torch.randn_like(x)
    bad = x.clone()
    bad[0, 0, 20, 45] = torch.nan
    reached = svconv(bad, kernels)[0, 0].isnan()
    assert reached[18:23, 43:48].all() and reached.sum() == 25
    # Beside a row's end, the next row begins in memory.
    for column in (0, 89):
        bad = kernels.clone()
        bad[0, 1, 2, 20, column] = torch.inf
        out, grad_x, _ = gradients(svconv, (x, bad), slope)
        assert out.isfinite().logical_not().nonzero().tolist() == [[0, 0, 20, column]]
        assert grad_x.isfinite().logical_not().nonzero().tolist() == [[0, 0, 19, column]]


def test_falls_back_without_kernels(monkeypatch):
    x, kernels = make(2, 3, 9, 8, 5, 2)
    monkeypatch.setattr(_ext, "DEVICES", frozenset())
    assert torch.equal(svconv(x, kernels, 2), svconv_reference(x, kernels, 2))


X, K = torch.zeros(2, 3, 9, 8), torch.zeros(2, 5, 5, 9, 8)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((None, K), TypeError, "x: expected a tensor, got NoneType"),
        ((X, [1.0]), TypeError, "kernels: expected a tensor, got list"),
        ((X[0], K), ValueError, "x: expected (N, C, H, W) without empty sizes, got (3, 9, 8)"),
        (
            (X[..., :0], K),
            ValueError,
            "x: expected (N, C, H, W) without empty sizes, got (2, 3, 9, 0)",
        ),
        (
            (X.int(), K),
            TypeError,
            "x: expected float32, float64, bfloat16 or float16, got torch.int32",
        ),
        (
            (X, K[..., 0]),
            ValueError,
            "kernels: expected (N, k, k, Ho, Wo) with N = 2, got (2, 5, 5, 9)",
        ),
        (
            (X, K[:1]),
            ValueError,
            "kernels: expected (N, k, k, Ho, Wo) with N = 2, got (1, 5, 5, 9, 8)",
        ),
        (
            (X, K[:, 1:]),
            ValueError,
            "kernels: expected (N, k, k, Ho, Wo) with N = 2, got (2, 4, 5, 9, 8)",
        ),
        (
            (X, K[:, :0, :0]),
            ValueError,
            "kernels: expected k from 1 to 31, got (2, 0, 0, 9, 8)",
        ),
        (
            (X, K[:, :1, :1].expand(2, 32, 32, 9, 8)),
            ValueError,
            "kernels: expected k from 1 to 31, got (2, 32, 32, 9, 8)",
        ),
        ((X, K, 2), ValueError, "kernels: expected (2, 5, 5, 5, 4), got (2, 5, 5, 9, 8)"),
        (
            (X, K, 1, "none"),
            ValueError,
            "kernels: expected (2, 5, 5, 5, 4), got (2, 5, 5, 9, 8)",
        ),
        (
            (X, K.double()),
            TypeError,
            "kernels: expected torch.float32, the dtype of x, got torch.float64",
        ),
        ((X, K.to("meta")), ValueError, "kernels: expected device cpu, that of x, got meta"),
        ((X, K, 0), ValueError, "stride: expected 1 to 4, got 0"),
        ((X, K, 5), ValueError, "stride: expected 1 to 4, got 5"),
        ((X, K, 2.0), TypeError, "stride: expected an integer, got float"),
        (
            (X, K, 1, "wrap"),
            ValueError,
            "padding: expected one of reflect, replicate, zeros, none, got 'wrap'",
        ),
        (
            (X[..., :4], K, 1, "none"),
            ValueError,
            "x: expected at least 5x5 pixels, the kernel's size, without padding, got 9x4",
        ),
    ],
)
def test_errors(arguments, error, message):
    with pytest.raises(error) as raised:
        svconv(*arguments)
    assert str(raised.value) == message


def test_operators_called_directly_check_too():
    ops = torch.ops.pysr
    with pytest.raises(ValueError, match="N = 2"):
        ops.svconv(X, K[:1], 1, "reflect")
    with pytest.raises(ValueError, match="grad: expected"):
        ops.svconv_grad_x(X[..., 1:], K, 9, 8, 1, "reflect")
    with pytest.raises(ValueError, match="grad: expected"):
        ops.svconv_grad_kernels(X[..., 1:], X, 5, 1, "reflect")
    with pytest.raises(ValueError, match="k from 1 to 31"):
        ops.svconv_grad_kernels(X, X, 32, 1, "reflect")
