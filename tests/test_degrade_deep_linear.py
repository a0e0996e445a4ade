"""The degradation that ONSR learns: one strided kernel for convolutions and an interpolation."""

import pytest
import torch
import torch.nn.functional as F

from pysr import blur
from pysr.degrade import classical
from pysr.degrade.deep_linear import SIZES, DeepLinear, GivenBlur
from pysr.resize import imresize


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_it_equals_its_layers_one_after_the_other(scale):
    gen = torch.Generator().manual_seed(scale)
    network = DeepLinear(scale)
    for layer in network.layers:
        layer.data += 0.01 * torch.randn(layer.shape, generator=gen)
    hr = torch.rand(2, 3, 40 * scale, 36 * scale, generator=gen)
    x, total = hr.flatten(0, 1)[:, None], 1.0
    for layer in network.layers:
        x, total = F.conv2d(x, layer[None, None], padding="same"), total * layer.sum()
    want = imresize(x.view(hr.shape), 1 / scale) / total
    inside = (..., slice(15, -15), slice(15, -15))
    torch.testing.assert_close(network(hr)[inside], want[inside], rtol=1e-4, atol=1e-5)
    kernel = network.kernel().detach()
    assert len(kernel) == sum(SIZES[scale]) - 2
    again = classical(hr, kernel, scale, quantise=False)
    torch.testing.assert_close(network(hr)[inside], again[inside], rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_plain_torch():
    network, hr = DeepLinear(2).double(), torch.rand(1, 1, 26, 24, dtype=torch.float64)
    bicubic = network.bicubic

    def plain(*layers):
        kernel = layers[0][None, None]
        for layer in (*layers[1:], bicubic):
            size = layer.shape[-1] - 1
            kernel = F.conv2d(F.pad(kernel, (size,) * 4), layer.flip(0, 1)[None, None])
        total = torch.stack([layer.sum() for layer in layers]).prod()
        x = F.pad(hr, (kernel.shape[-1] // 2,) * 4, mode="reflect")
        return F.conv2d(x, kernel / total, stride=2).square().sum()

    layers = list(network.parameters())
    ours = torch.autograd.grad(network(hr).square().sum(), layers)
    for mine, theirs in zip(ours, torch.autograd.grad(plain(*layers), layers), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_it_begins_as_the_papers_gaussians_or_as_a_given_blur():
    kernel = DeepLinear(4).kernel().detach()
    assert float(blur.spread(kernel)) == pytest.approx(3**0.5, rel=1e-3)
    estimate = blur.random_irregular(1, 21, generator=0)[0]
    begun = DeepLinear(4, estimate).kernel().detach()
    torch.testing.assert_close(blur.resized(begun, 21), estimate)


def test_a_known_blur_is_learned_from_pairs():
    gen = torch.Generator().manual_seed(0)
    true = GivenBlur(2, blur.anisotropic(2.4, 1.0, 0.6, 13))
    network = DeepLinear(2)
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)

    def error():
        return float((blur.resized(network.kernel().detach(), 13) - true.known).abs().sum())

    before = error()
    for _ in range(150):
        hr = torch.rand(2, 3, 48, 48, generator=gen)
        loss = F.mse_loss(network(hr), true(hr))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert error() < 0.3 * before


def test_a_blur_too_large_to_fold_is_one_line():
    with pytest.raises(ValueError, match="at most 45x45 taps at x4, got 51"):
        GivenBlur(4, torch.ones(51, 51) / 51**2)


def test_nothing_is_rounded_under_autocast(device):
    network, hr = DeepLinear(2).to(device), torch.rand(1, 3, 26, 24, device=device)
    expected = network(hr)
    with torch.autocast(device.type, torch.bfloat16):
        assert torch.equal(network(hr), expected)
