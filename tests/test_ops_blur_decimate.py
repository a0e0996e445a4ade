"""blur_decimate: kernels against the reference, the reference against numbers worked by hand."""

import itertools
import multiprocessing
import threading
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
from pysr.ops import blur_decimate
from pysr.ops.blur_decimate import blur_decimate_reference

# N, C, H, W, k, stride.
CASES = [
    (1, 1, 1, 1, 1, 1),
    (1, 1, 1, 1, 21, 4),
    (2, 3, 1, 7, 5, 1),
    (1, 2, 5, 3, 21, 1),
    (2, 3, 17, 19, 4, 1),
    (3, 1, 33, 47, 21, 1),
    (1, 3, 24, 70, 6, 2),
    (2, 2, 25, 31, 11, 3),
    (2, 3, 41, 37, 21, 4),
    (1, 1, 30, 9, 3, 8),
    (1, 1, 70, 66, 64, 5),
]


@pytest.fixture(autouse=True)
def kernels_present(request):
    """A test of the kernels must not pass by comparing the reference with itself."""
    if "device" in request.fixturenames:
        assert request.getfixturevalue("device").type in _ext.DEVICES, _ext.report()


def make(n, c, h, w, k, stride, *, dtype=torch.float32, device="cpu", seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, c, h, w, generator=generator, dtype=torch.float64)
    kernels = torch.randn(n, k, k, generator=generator, dtype=torch.float64) / k
    return x.to(device, dtype), kernels.to(device, dtype)


def test_by_hand(device):
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], device=device)[None, None]
    kernels = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 10.0]], device=device)
    # Left neighbour plus ten times the lower right one; column -1 is column 1, row 2 is row 0.
    expected = torch.tensor([[52.0, 61.0, 52.0], [25.0, 34.0, 25.0]], device=device)
    torch.testing.assert_close(blur_decimate(x, kernels[None])[0, 0], expected)
    torch.testing.assert_close(blur_decimate_reference(x, kernels[None])[0, 0], expected)
    torch.testing.assert_close(blur_decimate(x, kernels[None], 2)[0, 0], expected[::2, ::2])


def test_even_kernel_by_hand(device):
    x = torch.tensor([1.0, 2.0, 4.0], device=device)[None, None, None]
    kernels = torch.tensor([[0.0, 0.0], [100.0, 1.0]], device=device)
    # Tap k // 2 = 1 lies over the pixel itself, tap 0 over its left neighbour.
    expected = torch.tensor([201.0, 102.0, 204.0], device=device)
    torch.testing.assert_close(blur_decimate(x, kernels[None])[0, 0, 0], expected)
    torch.testing.assert_close(blur_decimate_reference(x, kernels[None])[0, 0, 0], expected)


def test_reference_pads_as_torch_does():
    x, kernels = make(2, 3, 17, 19, 6, 1)
    padded = torch.nn.functional.pad(x, (3, 2, 3, 2), mode="reflect")
    for n in range(2):
        weight = kernels[n].expand(3, 1, 6, 6)
        expected = torch.nn.functional.conv2d(padded[n], weight, groups=3)
        torch.testing.assert_close(blur_decimate_reference(x, kernels)[n], expected)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_reference(case, dtype, device):
    stride = case[-1]
    x, kernels = make(*case, dtype=dtype, device=device)
    slope = torch.randn_like(blur_decimate(x, kernels, stride))
    got = gradients(partial(blur_decimate, stride=stride), (x, kernels), slope)
    exact = gradients(
        partial(blur_decimate_reference, stride=stride),
        (x.double().cpu(), kernels.double().cpu()),
        slope.cpu(),
    )
    for mine, theirs in zip(got, exact, strict=True):
        assert_matches(mine.cpu(), theirs, dtype)
        assert mine.is_contiguous()


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("k", range(1, 9))
def test_sizes_and_strides(k, stride, device):
    for h, w in ((1, 1), (2, 5), (k, k + 1), (13, 29)):
        x, kernels = make(1, 2, h, w, k, stride, dtype=torch.float64, device=device)
        slope = torch.randn_like(blur_decimate(x, kernels, stride))
        got = gradients(partial(blur_decimate, stride=stride), (x, kernels), slope)
        exact = gradients(partial(blur_decimate_reference, stride=stride), (x, kernels), slope)
        for mine, theirs in zip(got, exact, strict=True):
            assert_matches(mine, theirs, torch.float64)


@pytest.mark.parametrize("stride", [1, 3])
def test_strided_inputs(stride, device):
    operator = partial(blur_decimate, stride=stride)
    large, kernels = make(4, 6, 40, 50, 7, stride, device=device)
    views = {
        "slice": (large[::2, 1:4, 3:30, 5:47:2], kernels[::2]),
        "channels_last": (large.to(memory_format=torch.channels_last), kernels),
        "transposed": (large.transpose(2, 3), kernels.transpose(1, 2)),
        "expanded": (large[:1].expand(4, -1, -1, -1), kernels[:1].expand(4, -1, -1)),
    }
    for name, (x, k) in views.items():
        assert not (x.is_contiguous() and k.is_contiguous()), name
        slope = torch.randn_like(blur_decimate(x, k, stride))
        for layout in (torch.contiguous_format, torch.channels_last):
            got = gradients(operator, (x, k), slope.contiguous(memory_format=layout))
            plain = gradients(operator, (x.contiguous(), k.contiguous()), slope)
            for mine, theirs in zip(got, plain, strict=True):
                assert torch.equal(mine, theirs), name
    x = views["slice"][0]
    assert_matches(
        blur_decimate(x, kernels[::2], stride),
        blur_decimate_reference(x, kernels[::2], stride),
        torch.float32,
    )


@pytest.mark.parametrize("wanted", list(itertools.product([False, True], repeat=2)), ids=str)
def test_any_subset_of_gradients(wanted, device):
    tensors = make(2, 2, 9, 8, 5, 2, dtype=torch.float64, device=device)
    pair = partial(blur_decimate, stride=2), partial(blur_decimate_reference, stride=2)
    assert_gradients_where_wanted(*pair, tensors, wanted)


@pytest.mark.parametrize("k, stride", [(3, 1), (4, 2), (2, 3)])
def test_gradcheck(k, stride, device):
    x, kernels = make(2, 1, 4, 5, k, stride, dtype=torch.float64, device=device)
    inputs = (x.requires_grad_(), kernels.requires_grad_(), stride)
    assert torch.autograd.gradcheck(blur_decimate, inputs, nondet_tol=0.0)
    assert torch.autograd.gradgradcheck(blur_decimate, inputs, nondet_tol=0.0)


@pytest.mark.parametrize("grad", [False, True])
def test_opcheck(grad, device):
    x, kernels = make(2, 3, 9, 8, 5, 2, device=device)
    slope = torch.randn_like(blur_decimate(x, kernels, 2)).requires_grad_(grad)
    x.requires_grad_(grad)
    kernels.requires_grad_(grad)
    torch.library.opcheck(torch.ops.pysr.blur_decimate, (x, kernels, 2))
    torch.library.opcheck(torch.ops.pysr.blur_decimate_grad_x, (slope, kernels, 9, 8, 2))
    torch.library.opcheck(torch.ops.pysr.blur_decimate_grad_kernels, (slope, x, 5, 2))


@pytest.mark.parametrize(
    "dynamic, backend", [(False, "aot_eager"), (True, "aot_eager"), (False, "inductor")]
)
def test_compile(dynamic, backend, device):
    @torch.compile(fullgraph=True, dynamic=dynamic, backend=backend)
    def compiled(x, kernels):
        return blur_decimate(x * 2, kernels, 2) + 1

    def plain(x, kernels):
        return blur_decimate(x * 2, kernels, 2) + 1

    for h, w in ((9, 8), (12, 7)):
        x, kernels = make(2, 3, h, w, 5, 2, device=device)
        slope = torch.randn_like(plain(x, kernels))
        got = gradients(compiled, (x, kernels), slope)
        for mine, theirs in zip(got, gradients(plain, (x, kernels), slope), strict=True):
            torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("stride", [1, 2])
def test_same_bits_for_any_number_of_threads(stride):
    tensors = make(2, 3, 150, 131, 15, 1)
    slope = torch.ones(2, 3, -(-150 // stride), -(-131 // stride)).cumsum(-1)
    operator = partial(blur_decimate, stride=stride)
    first, *others = with_threads((1, 2, 5), lambda: gradients(operator, tensors, slope))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_same_bits_on_every_run(device):
    x, kernels = make(2, 3, 150, 131, 15, 1, device=device)
    slope = torch.randn_like(x)
    first = gradients(blur_decimate, (x, kernels), slope)
    for _ in range(3):
        again = gradients(blur_decimate, (x, kernels), slope)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_several_python_threads_at_once():
    x, kernels = make(2, 3, 120, 110, 15, 1)
    expected, got = blur_decimate(x, kernels), [None] * 4

    def work(slot):
        for _ in range(5):
            got[slot] = blur_decimate(x, kernels)

    workers = [threading.Thread(target=work, args=(slot,)) for slot in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(torch.equal(out, expected) for out in got)


def _in_child(x, kernels, expected, queue):
    # Both counts: on the child's own thread, and on workers that the child has to make anew.
    equal = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        # numpy compares, because torch's own OpenMP threads do not survive a fork.
        equal.append(bool((blur_decimate(x, kernels).numpy() == expected.numpy()).all()))
    queue.put(equal)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_works_after_fork():
    x, kernels = make(2, 3, 120, 110, 15, 1)
    expected = blur_decimate(x, kernels)  # starts this process's workers
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(x, kernels, expected, queue))
    child.start()
    assert queue.get(timeout=60) == [True, True]
    child.join(timeout=60)
    assert child.exitcode == 0


def test_every_half_survives(device):
    """The identity kernel returns each of the 65536 values of a half type, bit by bit."""
    for dtype in (torch.float16, torch.bfloat16):
        every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
        x = every.view(dtype).view(1, 1, 256, 256).to(device)
        out = blur_decimate(x, torch.ones(1, 1, 1, dtype=dtype, device=device))
        assert torch.equal(out.isnan(), x.isnan())
        kept = ~x.isnan()
        assert torch.equal(out[kept], x[kept])


def test_halves_round_as_torch_does():
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.randn(1, 1, 256, 256, generator=generator).to(dtype)
        for factor in (0.3, 3e-6, 7e4):
            kernels = torch.full((1, 1, 1), factor).to(dtype)
            expected = (x.float() * kernels.float()).to(dtype)
            assert torch.equal(blur_decimate(x, kernels), expected)


def test_a_bad_pixel_stays_within_the_kernels_reach(device):
    x, kernels = make(1, 1, 40, 90, 5, 1, device=device)
    x[0, 0, 20, 45] = torch.nan
    bad = blur_decimate(x, kernels)[0, 0].isnan()
    assert bad[18:23, 43:48].all() and bad.sum() == 25


def test_falls_back_without_kernels(monkeypatch):
    x, kernels = make(2, 3, 9, 8, 5, 2)
    monkeypatch.setattr(_ext, "DEVICES", frozenset())
    monkeypatch.setattr(_ext, "_C", None)
    monkeypatch.setattr(_ext, "_REASON", "No module named 'pysr._C'")
    expected = blur_decimate_reference(x, kernels, 2)
    assert torch.equal(blur_decimate(x, kernels, 2), expected)
    with pytest.raises(RuntimeError, match="No module named.*Likely causes.*pip install"):
        torch.ops.pysr.blur_decimate(x, kernels, 2)
    assert not _ext.report().built


def test_missing_cuda_kernels_are_explained(monkeypatch):
    monkeypatch.setattr(_ext, "DEVICES", frozenset({"cpu"}))
    with pytest.raises(RuntimeError, match="no kernels for cuda"):
        _ext.require("cuda")


X, K = torch.zeros(2, 3, 9, 8), torch.zeros(2, 5, 5)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((None, K), TypeError, "x: expected a tensor, got NoneType"),
        ((X, [1.0]), TypeError, "kernels: expected a tensor, got list"),
        ((X[0], K), ValueError, "x: expected (N, C, H, W) without empty sizes, got (3, 9, 8)"),
        (
            (X[:, :0], K),
            ValueError,
            "x: expected (N, C, H, W) without empty sizes, got (2, 0, 9, 8)",
        ),
        (
            (X.int(), K),
            TypeError,
            "x: expected float32, float64, bfloat16 or float16, got torch.int32",
        ),
        ((X, K[:, None]), ValueError, "kernels: expected (N, k, k) with N = 2, got (2, 1, 5, 5)"),
        (
            (X, K.new_zeros(3, 5, 5)),
            ValueError,
            "kernels: expected (N, k, k) with N = 2, got (3, 5, 5)",
        ),
        ((X, K[:, 1:]), ValueError, "kernels: expected (N, k, k) with N = 2, got (2, 4, 5)"),
        ((X, K[:, :0, :0]), ValueError, "kernels: expected k from 1 to 64, got (2, 0, 0)"),
        (
            (X, K.new_zeros(2, 65, 65)),
            ValueError,
            "kernels: expected k from 1 to 64, got (2, 65, 65)",
        ),
        (
            (X, K.double()),
            TypeError,
            "kernels: expected torch.float32, the dtype of x, got torch.float64",
        ),
        ((X, K.to("meta")), ValueError, "kernels: expected device cpu, that of x, got meta"),
        ((X, K, 0), ValueError, "stride: expected 1 to 8, got 0"),
        ((X, K, 9), ValueError, "stride: expected 1 to 8, got 9"),
        ((X, K, 2.0), TypeError, "stride: expected an integer, got float"),
    ],
)
def test_errors(arguments, error, message):
    with pytest.raises(error) as raised:
        blur_decimate(*arguments)
    assert str(raised.value) == message


def test_operators_called_directly_check_too():
    with pytest.raises(ValueError, match="N = 2"):
        torch.ops.pysr.blur_decimate(X, K[:1], 1)
    with pytest.raises(ValueError, match="grad: expected"):
        torch.ops.pysr.blur_decimate_grad_x(X, K, 9, 8, 2)
    with pytest.raises(ValueError, match="grad: expected"):
        torch.ops.pysr.blur_decimate_grad_kernels(X, X, 5, 2)
