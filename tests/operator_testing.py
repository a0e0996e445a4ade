"""What the tests of the operators share: one tolerance table, gradients, and how to compare."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Per dtype: relative and absolute tolerance against the reference computed in float64.
TOLERANCE = {
    torch.float32: (1e-5, 1e-5),
    torch.float64: (1e-12, 1e-12),
    torch.bfloat16: (2**-8, 1e-5),
    torch.float16: (2**-11, 1e-5),
}


def gradients(function: Callable, tensors: Sequence[Tensor], slope: Tensor) -> tuple[Tensor, ...]:
    """The output of function(*tensors), and its gradient by each tensor."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    out = function(*leaves)
    return out, *torch.autograd.grad(out, leaves, slope.to(out.dtype))


def assert_matches(
    got: Tensor, exact: Tensor, dtype: torch.dtype, *, rounded_between: bool = False
) -> None:
    """rounded_between: the operator also stored features in dtype on the way to its result, whose
    errors add up as independent ones do: to a few units of rounding of the largest values."""
    relative, absolute = TOLERANCE[dtype]
    if rounded_between:
        absolute = max(absolute, 2 * relative)
    assert got.dtype == dtype
    scale = exact.abs().max().item()
    torch.testing.assert_close(
        got.double(), exact.double(), rtol=relative, atol=absolute * max(scale, 1)
    )


def assert_gradients_where_wanted(
    operator: Callable, reference: Callable, tensors: Sequence[Tensor], wanted: Sequence[bool]
) -> None:
    """That exactly the wanted tensors get a gradient from operator(*tensors), the reference's."""
    for tensor, needed in zip(tensors, wanted, strict=True):
        tensor.requires_grad_(needed)
    out = operator(*tensors)
    assert out.requires_grad == any(wanted)
    leaves = [tensor for tensor in tensors if tensor.requires_grad]
    if leaves:
        out.sum().backward()
        expected = torch.autograd.grad(reference(*tensors).sum(), leaves)
        for leaf, gradient in zip(leaves, expected, strict=True):
            torch.testing.assert_close(leaf.grad, gradient)
    assert [tensor.grad is not None for tensor in tensors] == list(wanted)


def with_threads(counts: Sequence[int], work: Callable) -> list:
    """What work() returns with each number of threads."""
    before, results = torch.get_num_threads(), []
    try:
        for count in counts:
            torch.set_num_threads(count)
            results.append(work())
    finally:
        torch.set_num_threads(before)
    return results
