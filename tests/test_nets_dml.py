import dataclasses

import pytest
import torch

from pysr import blur
from pysr.degrade import classical
from pysr.nets.dml import DMLConfig, build_dml
from pysr.ops import svconv

TINY = DMLConfig(bases=4, kernel_size=5, features=4, levels=2)
RIVALS = ("coefficients", "kernels", "pixels")


def of(predicts, **settings):
    torch.manual_seed(0)
    return build_dml(dataclasses.replace(TINY, predicts=predicts, **settings))


@pytest.mark.parametrize("predicts", RIVALS)
@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("size", [(21, 34), (1, 1), (4, 3)])
def test_sizes_of_every_network(predicts, scale, size):
    lr = of(predicts, scale=scale)(torch.rand(2, 1, *size))
    assert lr.shape == (2, 1, *(-(-n // scale) for n in size))


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("predicts", ["coefficients", "kernels"])
def test_pixels_are_inner_products_with_the_kernels_that_can_be_looked_at(predicts, scale):
    network, y, picture = (
        of(predicts, scale=scale),
        torch.rand(2, 1, 13, 18),
        torch.rand(2, 3, 13, 18),
    )
    kernels = network.kernels(y)
    torch.testing.assert_close(network(y, picture), svconv(picture, kernels, scale))
    torch.testing.assert_close(network.mean_kernels(y), kernels.mean((3, 4)))


def test_bases_sum_to_one_whatever_is_learned():
    network = of("coefficients")
    optimiser = torch.optim.Adam(network.parameters(), lr=0.1)
    y = torch.rand(1, 1, 16, 16)
    for _ in range(5):
        optimiser.zero_grad()
        (network(y) - 3).square().mean().backward()
        optimiser.step()
    torch.testing.assert_close(network.bases.sum((1, 2)), torch.ones(4), atol=1e-5, rtol=0)
    assert network.bases.std() > 0.05


def test_training_starts_near_the_pictures_own_brightness():
    y = torch.full((1, 1, 24, 24), 0.6)
    for predicts in RIVALS:
        assert float(of(predicts)(y).detach().mean()) == pytest.approx(0.6, abs=0.1), predicts


@pytest.mark.parametrize("predicts", ["coefficients", "kernels"])
def test_a_known_blur_is_found(predicts):
    network = of(predicts)
    truth = blur.anisotropic(1.2, 0.6, 0.5, 5)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    for step in range(150):
        optimiser.param_groups[0]["lr"] = 0.04 * (1 - step / 150)
        y = torch.rand(2, 1, 24, 24, generator=generator)
        lr = classical(y, truth, 1, quantise=False)
        optimiser.zero_grad()
        (network(y) - lr).square().mean().backward()
        optimiser.step()
    found = network.mean_kernels(y)[0].detach()
    assert (found - truth).abs().sum() < 0.15 < (blur.isotropic(0.8, 5) - truth).abs().sum()


def test_the_defaults_are_the_published_sizes():
    config = DMLConfig()
    assert (config.bases, config.kernel_size, config.predicts) == (8, 15, "coefficients")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"predicts": "noise"}, "predicts: expected one of coefficients, kernels, pixels"),
        ({"scale": 5}, "scale: expected 1 to 4, got 5"),
        ({"bases": 0}, "bases: expected 1 to 32"),
        ({"kernel_size": 33}, "kernel_size: expected 1 to 31"),
    ],
)
def test_bad_configurations(settings, message):
    with pytest.raises(ValueError, match=message):
        DMLConfig(**settings)
