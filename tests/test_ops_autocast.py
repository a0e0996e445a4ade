"""Operators under autocast: mixed types are taken in the widest, and nothing is rounded."""

import pytest
import torch

from pysr import _ext
from pysr.ops import basis_svconv, blur_decimate, mixture_blur, svconv

OPERATORS = {
    "blur_decimate": (blur_decimate, [(2, 3, 9, 8), (2, 5, 5)]),
    "mixture_blur": (mixture_blur, [(2, 3, 9, 8), (3, 4), (4, 5, 5)]),
    "svconv": (svconv, [(2, 3, 9, 8), (2, 3, 3, 9, 8)]),
    "basis_svconv": (basis_svconv, [(2, 3, 9, 8), (2, 4, 9, 8), (4, 3, 3)]),
}


@pytest.fixture(params=[True, False], ids=["kernels", "reference"])
def with_kernels(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(_ext, "DEVICES", frozenset())


@pytest.mark.parametrize("name", OPERATORS)
def test_the_widest_type_is_taken(name, device, with_kernels):
    operator, shapes = OPERATORS[name]
    x, *others = (torch.randn(shape, device=device) for shape in shapes)
    rounded = [other.bfloat16().requires_grad_() for other in others]
    expected = operator(x, *(other.detach().float() for other in rounded))
    with torch.autocast(device.type, torch.bfloat16):
        out = operator(x, *rounded)
        halves = operator(x.bfloat16(), *rounded)
    assert torch.equal(out, expected)
    assert halves.dtype == torch.bfloat16
    out.sum().backward()
    assert all(other.grad.dtype == torch.bfloat16 for other in rounded)
    with pytest.raises(TypeError, match="expected torch.float32"):
        operator(x, *rounded)


@pytest.mark.parametrize("name", OPERATORS)
def test_devices_without_autocast(name):
    operator, shapes = OPERATORS[name]
    assert operator(*(torch.empty(shape, device="meta") for shape in shapes)).shape == (2, 3, 9, 8)


@pytest.mark.parametrize("name", OPERATORS)
def test_compiled_under_autocast(name, device):
    operator, shapes = OPERATORS[name]
    x, *others = (torch.randn(shape, device=device) for shape in shapes)
    others = [other.bfloat16() for other in others]
    compiled = torch.compile(operator, fullgraph=True, backend="aot_eager")
    with torch.autocast(device.type, torch.bfloat16):
        assert torch.equal(compiled(x, *others), operator(x, *others))
