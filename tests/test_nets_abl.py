import math

import pytest
import torch

from pysr import blur
from pysr.nets.abl import ABL, ABLConfig


def network(**settings):
    torch.manual_seed(0)
    return ABL(ABLConfig(**{"features": 6, "blocks": 1, "kernel_size": 8} | settings))


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("size", [(33, 18), (4, 5)])
def test_the_decoder_strides_down(scale, size):
    lr = network(scale=scale)(torch.rand(2, 1, *size))
    assert lr.shape == (2, 1, *(-(-n // scale) for n in size))


def test_everything_learns_and_weights_sum_to_one():
    model = network(group=2)
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.rand(1, 1, 16, 16)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())
    before = model.weights.detach().clone()
    optimiser.step()
    assert not torch.equal(model.weights, before) and model.weights.min() > 0
    torch.testing.assert_close(model.weights.sum(1), torch.ones(6))


def test_groups_are_the_papers():
    one, two = network(kernel_size=16, factor=0.5), network(kernel_size=16, factor=0.5, group=2)
    torch.testing.assert_close(one.gaussians, blur.mixture_gaussians(16, 0.5))
    torch.testing.assert_close(
        two.gaussians, torch.cat([blur.mixture_gaussians(16, f) for f in (0.5, 0.6)])
    )


def test_a_factor_set_later_changes_the_blur_and_nothing_else():
    model, other = network(factor=0.5), network(factor=2.0)
    y = torch.rand(1, 1, 32, 32)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = model(y)
    model.set_factor(2.0)
    assert model.factor == 2.0 and not torch.allclose(model(y), before)
    torch.testing.assert_close(model(y), other(y))  # of the same seed
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    for factor, message in ((0, "above 0, got 0"), (1e9, "1e[+]09 leaves"), (math.inf, "leaves")):
        with pytest.raises(ValueError, match=message):
            model.set_factor(factor)
    assert model.factor == 2.0


def test_published_sizes_and_bad_configurations():
    config = ABLConfig()
    assert (config.features, config.scale, config.kernel_size, config.group) == (128, 4, 16, 1)
    for settings, message in (
        ({"scale": 3}, "scale: expected one of 1, 2, 4, got 3"),
        ({"group": 3}, "group: expected one of 1, 2, got 3"),
        ({"features": 0}, "features: expected 1 to 1024"),
        ({"factor": -1.0}, "factor"),
    ):
        with pytest.raises(ValueError, match=message):
            ABL(ABLConfig(**settings))
