"""basis_svconv: kernels against the reference, the reference against numbers worked by hand."""

import itertools
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from operator_testing import (
    TOLERANCE,
    assert_gradients_where_wanted,
    assert_matches,
    gradients,
    with_threads,
)

import pysr
from pysr import _ext
from pysr.ops import basis_svconv
from pysr.ops._windows import PADDINGS, outputs
from pysr.ops.basis_svconv import basis_svconv_reference

# N, C, H, W, M, k, stride, padding.
CASES = [
    (1, 1, 1, 1, 1, 1, 1, "reflect"),
    (1, 1, 1, 1, 2, 31, 4, "reflect"),
    (2, 3, 1, 7, 3, 5, 1, "replicate"),
    (1, 2, 5, 3, 8, 21, 1, "reflect"),
    (2, 3, 17, 19, 5, 4, 1, "zeros"),
    (1, 1, 33, 47, 32, 15, 1, "none"),
    (1, 3, 24, 70, 8, 6, 2, "reflect"),
    (2, 2, 25, 31, 9, 11, 3, "replicate"),
    (1, 5, 41, 37, 4, 15, 4, "zeros"),
    (1, 2, 40, 66, 2, 31, 3, "none"),
    (1, 2, 30, 9, 3, 2, 4, "reflect"),
    (1, 3, 20, 700, 8, 7, 1, "reflect"),
]


@pytest.fixture(autouse=True)
def kernels_present(request):
    """A test of the kernels must not pass by comparing the reference with itself."""
    if "device" in request.fixturenames:
        assert request.getfixturevalue("device").type in _ext.DEVICES, _ext.report()


def make(n, c, h, w, m, k, stride, padding, *, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    ho, wo = outputs(h, k, stride, padding), outputs(w, k, stride, padding)
    shapes = (n, c, h, w), (n, m, ho, wo), (m, k, k), (n, c, ho, wo)
    x, coefficients, bases, slope = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    tensors = (x, coefficients, bases / (k * m**0.5), slope)
    *inputs, slope = (tensor.to(device, dtype) for tensor in tensors)
    return inputs, slope


def test_by_hand(device):
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], device=device)[None, None]
    # The left neighbour, and the lower right one.
    bases = torch.zeros(2, 3, 3, device=device)
    bases[0, 1, 0] = bases[1, 2, 2] = 1
    coefficients = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], device=device)
    coefficients = torch.stack([coefficients, torch.full_like(coefficients, 10)])[None]
    for padding, expected in {
        # Column -1 is column 1, row 2 is row 0, column 3 is column 1.
        "reflect": [[1 * 2 + 50, 2 * 1 + 60, 3 * 2 + 50], [4 * 5 + 20, 5 * 4 + 30, 6 * 5 + 20]],
        "replicate": [[1 * 1 + 50, 2 * 1 + 60, 3 * 2 + 60], [4 * 4 + 50, 5 * 4 + 60, 6 * 5 + 60]],
        "zeros": [[0 + 50, 2 * 1 + 60, 3 * 2], [0, 5 * 4, 6 * 5]],
    }.items():
        expected = torch.tensor(expected, dtype=torch.float32, device=device)
        for operator in (basis_svconv, basis_svconv_reference):
            got = operator(x, coefficients, bases, padding=padding)[0, 0]
            torch.testing.assert_close(got, expected)
            got = operator(x, coefficients[..., ::2, ::2], bases, 2, padding)[0, 0]
            torch.testing.assert_close(got, expected[::2, ::2])


def test_even_kernel_by_hand(device):
    x = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]], device=device)[None, None]
    bases = torch.tensor([[0.0, 0.0], [100.0, 1.0]], device=device)[None]
    # Tap k // 2 = 1 lies over the pixel itself, tap 0 over its left neighbour.
    cases = {"reflect": [[201.0, 102.0, 204.0], [1608.0, 816.0, 1632.0]], "none": [[816.0, 1632.0]]}
    for padding, expected in cases.items():
        expected = torch.tensor(expected, device=device)
        coefficients = torch.full_like(expected, 2)[None, None]
        for operator in (basis_svconv, basis_svconv_reference):
            got = operator(x, coefficients, bases, padding=padding)[0, 0]
            torch.testing.assert_close(got, 2 * expected)


def test_reference_is_the_definition():
    (x, coefficients, bases), _ = make(2, 3, 9, 11, 4, 5, 2, "reflect", dtype=torch.float64)
    kernels = torch.einsum("nmij,muv->nijuv", coefficients, bases)
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2), mode="reflect")
    windows = padded.unfold(2, 5, 2).unfold(3, 5, 2)
    expected = torch.einsum("nijuv,ncijuv->ncij", kernels, windows)
    torch.testing.assert_close(basis_svconv_reference(x, coefficients, bases, 2), expected)


def check_against_reference(case, dtype, device):
    *_, stride, padding = case
    tensors, slope = make(*case, dtype=dtype, device=device)
    got = gradients(partial(basis_svconv, stride=stride, padding=padding), tensors, slope)
    exact = gradients(
        partial(basis_svconv_reference, stride=stride, padding=padding),
        [tensor.double().cpu() for tensor in tensors],
        slope.cpu(),
    )
    for mine, theirs in zip(got, exact, strict=True):
        assert_matches(mine.cpu(), theirs, dtype)
        assert mine.is_contiguous()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_reference(case, dtype, device):
    check_against_reference(case, dtype, device)


@pytest.mark.parametrize("stride, padding", list(itertools.product([1, 2, 3, 4], PADDINGS)))
def test_sizes_strides_and_paddings(stride, padding, device):
    for k in (*range(1, 10), 16, 31):
        for h, w in ((1, 1), (2, 5), (k, k + 1), (13, 29)):
            if padding != "none" or min(h, w) >= k:
                check_against_reference((1, 2, h, w, 3, k, stride, padding), torch.float64, device)


def test_many_bases_and_channels(device):
    for m, c in ((1, 1), (2, 4), (7, 9), (31, 2), (32, 17)):
        check_against_reference((1, c, 9, 40, m, 3, 1, "reflect"), torch.float64, device)


@pytest.mark.parametrize("stride", [1, 3])
def test_strided_inputs(stride, device):
    operator = partial(basis_svconv, stride=stride)
    (large, _, bases), _ = make(4, 6, 40, 50, 4, 7, stride, "reflect", device=device)
    views = {
        "slice": large[::2, 1:4, 3:30, 5:47:2],
        "channels_last": large.to(memory_format=torch.channels_last),
        "transposed": large.transpose(2, 3),
        "expanded": large[:1].expand(4, -1, -1, -1),
    }
    for name, x in views.items():
        assert not x.is_contiguous(), name
        n, c, h, w = x.shape
        (_, coefficients, _), slope = make(n, c, h, w, 4, 7, stride, "reflect", device=device)
        coefficients = coefficients.to(memory_format=torch.channels_last)
        inputs = x, coefficients, bases.transpose(1, 2)
        for layout in (torch.contiguous_format, torch.channels_last):
            got = gradients(operator, inputs, slope.contiguous(memory_format=layout))
            plain = gradients(operator, [tensor.contiguous() for tensor in inputs], slope)
            for mine, theirs in zip(got, plain, strict=True):
                assert torch.equal(mine, theirs), name


@pytest.mark.parametrize("wanted", list(itertools.product([False, True], repeat=3)), ids=str)
def test_any_subset_of_gradients(wanted, device):
    tensors, _ = make(2, 2, 9, 8, 3, 5, 2, "reflect", dtype=torch.float64, device=device)
    pair = partial(basis_svconv, stride=2), partial(basis_svconv_reference, stride=2)
    assert_gradients_where_wanted(*pair, tensors, wanted)


@pytest.mark.parametrize(
    "k, stride, padding", [(3, 1, "reflect"), (4, 2, "replicate"), (2, 3, "zeros"), (2, 1, "none")]
)
def test_gradcheck(k, stride, padding, device):
    case = (2, 1, 4, 5, 2, k, stride, padding)
    tensors, _ = make(*case, dtype=torch.float64, device=device)
    inputs = [tensor.requires_grad_() for tensor in tensors]
    operator = partial(basis_svconv, stride=stride, padding=padding)
    assert torch.autograd.gradcheck(operator, inputs, nondet_tol=0.0)
    assert torch.autograd.gradgradcheck(operator, inputs, nondet_tol=0.0)


@pytest.mark.parametrize("grad", [False, True])
def test_opcheck(grad, device):
    tensors, slope = make(2, 3, 9, 8, 4, 5, 2, "reflect", device=device)
    x, coefficients, bases, slope = (tensor.requires_grad_(grad) for tensor in (*tensors, slope))
    ops, check = torch.ops.pysr, torch.library.opcheck
    check(ops.basis_svconv, (x, coefficients, bases, 2, "reflect"))
    check(ops.basis_svconv_grad_x, (slope, coefficients, bases, 9, 8, 2, "reflect"))
    check(ops.basis_svconv_grad_coefficients, (slope, x, bases, 2, "reflect"))
    check(ops.basis_svconv_grad_bases, (slope, x, coefficients, 5, 2, "reflect"))


@pytest.mark.parametrize(
    "dynamic, backend", [(False, "aot_eager"), (True, "aot_eager"), (False, "inductor")]
)
def test_compile(dynamic, backend, device):
    def plain(x, coefficients, bases):
        return basis_svconv(x * 2, coefficients, bases, 2) + 1

    compiled = torch.compile(plain, fullgraph=True, dynamic=dynamic, backend=backend)
    for h, w in ((9, 8), (12, 7)):
        tensors, slope = make(2, 3, h, w, 4, 5, 2, "reflect", device=device)
        got = gradients(compiled, tensors, slope)
        for mine, theirs in zip(got, gradients(plain, tensors, slope), strict=True):
            torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("stride", [1, 2])
def test_same_bits_for_any_number_of_threads(stride):
    tensors, slope = make(2, 3, 150, 131, 8, 9, stride, "reflect")
    operator = partial(basis_svconv, stride=stride)
    first, *others = with_threads((1, 2, 5), lambda: gradients(operator, tensors, slope))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_same_bits_on_every_run(device):
    tensors, slope = make(2, 3, 100, 91, 8, 9, 1, "reflect", device=device)
    first = gradients(basis_svconv, tensors, slope)
    for _ in range(3):
        again = gradients(basis_svconv, tensors, slope)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_bad_pixel_stays_within_the_kernels_reach(device):
    (x, coefficients, bases), _ = make(1, 1, 40, 90, 3, 5, 1, "reflect", device=device)
    x[0, 0, 20, 45] = torch.nan
    bad = basis_svconv(x, coefficients, bases)[0, 0].isnan()
    assert bad[18:23, 43:48].all() and bad.sum() == 25


# Forward and backward in a process of their own, which prints by how many bytes its peak grew.
MEMORY = """
import resource, torch
from pysr.ops import basis_svconv

torch.set_num_threads(2)
def passes(side):
    shapes = (1, 3, side, side), (1, 2, side, side), (2, 31, 31)
    tensors = [torch.rand(shape, requires_grad=True) for shape in shapes]
    out = basis_svconv(*tensors)
    torch.autograd.grad(out, tensors, torch.ones_like(out))

passes(32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
passes(256)
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts KiB on Linux")
def test_memory_does_not_grow_with_the_kernels():
    """One k * k tensor of float32 would take 250 MB here; inputs, outputs and gradients, 4 MB."""
    environment = {**os.environ, "PYTHONPATH": str(Path(pysr.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, env=environment
    )
    assert int(done.stdout) < 60e6


def test_falls_back_without_kernels(monkeypatch):
    tensors, _ = make(2, 3, 9, 8, 4, 5, 2, "zeros")
    monkeypatch.setattr(_ext, "DEVICES", frozenset())
    expected = basis_svconv_reference(*tensors, 2, "zeros")
    assert torch.equal(basis_svconv(*tensors, 2, "zeros"), expected)


X, C, B = torch.zeros(2, 3, 9, 8), torch.zeros(2, 4, 9, 8), torch.zeros(4, 5, 5)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((None, C, B), TypeError, "x: expected a tensor, got NoneType"),
        ((X, [1.0], B), TypeError, "coefficients: expected a tensor, got list"),
        ((X, C, None), TypeError, "bases: expected a tensor, got NoneType"),
        (
            (X[:, :0], C, B),
            ValueError,
            "x: expected (N, C, H, W) without empty sizes, got (2, 0, 9, 8)",
        ),
        (
            (X, C, B.int()),
            TypeError,
            "bases: expected float32, float64, bfloat16 or float16, got torch.int32",
        ),
        ((X, C, B[0]), ValueError, "bases: expected (M, k, k), got (5, 5)"),
        ((X, C, B[:, 1:]), ValueError, "bases: expected (M, k, k), got (4, 4, 5)"),
        (
            (X, C, B[:0]),
            ValueError,
            "bases: expected M from 1 to 32 and k from 1 to 31, got (0, 5, 5)",
        ),
        (
            (X, C, B.new_zeros(4, 32, 32)),
            ValueError,
            "bases: expected M from 1 to 32 and k from 1 to 31, got (4, 32, 32)",
        ),
        ((X, C[:1], B), ValueError, "coefficients: expected (2, 4, 9, 8), got (1, 4, 9, 8)"),
        ((X, C, B[1:]), ValueError, "coefficients: expected (2, 3, 9, 8), got (2, 4, 9, 8)"),
        ((X, C, B, 2), ValueError, "coefficients: expected (2, 4, 5, 4), got (2, 4, 9, 8)"),
        (
            (X, C, B, 1, "none"),
            ValueError,
            "coefficients: expected (2, 4, 5, 4), got (2, 4, 9, 8)",
        ),
        (
            (X, C.double(), B),
            TypeError,
            "coefficients: expected torch.float32, the dtype of x, got torch.float64",
        ),
        ((X, C, B.to("meta")), ValueError, "bases: expected device cpu, that of x, got meta"),
        ((X, C, B, 5), ValueError, "stride: expected 1 to 4, got 5"),
        ((X, C, B, 1.0), TypeError, "stride: expected an integer, got float"),
        (
            (X, C, B, 1, "same"),
            ValueError,
            "padding: expected one of reflect, replicate, zeros, none, got 'same'",
        ),
        (
            (X[..., :4], C, B, 1, "none"),
            ValueError,
            "x: expected at least 5x5 pixels, the kernel's size, without padding, got 9x4",
        ),
    ],
)
def test_errors(arguments, error, message):
    with pytest.raises(error) as raised:
        basis_svconv(*arguments)
    assert str(raised.value) == message


def test_operators_called_directly_check_too():
    ops = torch.ops.pysr
    with pytest.raises(ValueError, match="coefficients: expected"):
        ops.basis_svconv(X, C[:1], B, 1, "reflect")
    with pytest.raises(ValueError, match="coefficients: expected"):
        ops.basis_svconv_grad_x(X, C, B, 4, 8, 1, "reflect")
    with pytest.raises(ValueError, match="coefficients: expected"):
        ops.basis_svconv_grad_coefficients(X, X, B, 2, "reflect")
    with pytest.raises(ValueError, match="grad: expected"):
        ops.basis_svconv_grad_bases(X[:, :2], X, C, 5, 1, "reflect")
