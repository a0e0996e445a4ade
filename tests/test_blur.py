import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.integrate import dblquad
from scipy.io import savemat
from scipy.signal import convolve2d

from pysr import blur

FAMILIES = {
    "isotropic": lambda size, seed: blur.random_isotropic(5, (0.4, 3.0), size, seed),
    "irregular": lambda size, seed: blur.random_irregular(5, size, generator=seed),
    "motion": lambda size, seed: blur.random_motion(5, size, generator=seed),
}


@pytest.mark.parametrize("size", [1, 7, 16, 21])
@pytest.mark.parametrize("family", FAMILIES)
def test_families_give_proper_kernels(family, size):
    kernels = FAMILIES[family](size, 0)
    assert kernels.shape == (5, size, size)
    assert (kernels >= 0).all()
    torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(5))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_decides_everything(family):
    draw = FAMILIES[family]
    assert torch.equal(draw(15, 3), draw(15, 3))
    assert torch.equal(draw(15, 3), draw(15, torch.Generator().manual_seed(3)))
    assert not torch.equal(draw(15, 3), draw(15, 4))


def centre(kernel):
    axis = torch.arange(kernel.shape[-1], dtype=kernel.dtype)
    return float((kernel.sum(1) * axis).sum()), float((kernel.sum(0) * axis).sum())


@pytest.mark.parametrize("size", [15, 16, 21, 32])
def test_kernels_are_centred_on_tap_half_the_size(size):
    assert blur.dirac(size)[size // 2, size // 2] == 1
    assert centre(blur.isotropic(1.2, size)) == pytest.approx((size // 2,) * 2, abs=1e-3)
    for kernel in blur.random_motion(4, size, (3.0, 8.0), generator=0):
        assert centre(kernel) == pytest.approx((size // 2,) * 2, abs=0.05)


def test_gaussian_against_the_formula():
    kernel = blur.isotropic(1.7, 9).double()
    expected = torch.tensor(
        [[math.exp(-(x * x + y * y) / (2 * 1.7**2)) for x in range(-4, 5)] for y in range(-4, 5)],
        dtype=torch.float64,
    )
    torch.testing.assert_close(kernel, expected / expected.sum(), atol=1e-7, rtol=1e-5)


def test_rotation_turns_the_long_axis_anticlockwise():
    # Anticlockwise from the right, with rows counted downwards: up and to the right.
    kernel = blur.anisotropic(4.0, 0.7, math.pi / 4, 21)
    assert kernel[10 - 4, 10 + 4] > 100 * kernel[10 + 4, 10 + 4]


def test_irregular_noise_stays_within_a_quarter():
    generator = torch.Generator().manual_seed(5)
    rough = blur.random_irregular(200, 11, noise=0.25, generator=generator)
    generator.manual_seed(5)
    smooth = blur.random_irregular(200, 11, noise=0.0, generator=generator)
    ratio = rough / smooth
    spread = ratio.amax((1, 2)) / ratio.amin((1, 2))
    assert spread.max() <= 1.25 * (1 + 1e-4)
    assert spread.max() > 1.2


def covariances(factor):
    """Of the four Gaussians of abl.txt, equation 6; x runs right, y down."""
    for degrees in (0, 45, -45, 90):
        theta = math.radians(degrees)
        axes = np.array([[math.cos(theta), math.sin(theta)], [-math.sin(theta), math.cos(theta)]])
        yield factor * axes @ np.diag([1.0, 0.3]) @ axes.T


@pytest.mark.parametrize("k, factor", [(16, 1.0), (16, 0.25), (7, 3.0), (3, 0.25)])
def test_mixture_gaussians_integrate_the_density(k, factor):
    kernels = blur.mixture_gaussians(k, torch.tensor(factor, dtype=torch.float64))
    edges = np.linspace(-4, 4, k + 1)
    cells = {(k // 2, k // 2), (k // 2 - 1, k // 2), (k // 2, min(k // 2 + 2, k - 1)), (0, k - 1)}
    for kernel, covariance in zip(kernels, covariances(factor), strict=True):
        inverse = np.linalg.inv(covariance)
        scale = 1 / (2 * math.pi * math.sqrt(np.linalg.det(covariance)))

        def density(y, x, inverse=inverse, scale=scale):
            (xx, xy), (_, yy) = inverse
            return scale * math.exp(-0.5 * (xx * x * x + 2 * xy * x * y + yy * y * y))

        for row, column in cells:
            bounds = (*edges[column : column + 2], *edges[row : row + 2])
            expected, _ = dblquad(density, *bounds, epsabs=1e-11, epsrel=1e-9)
            assert float(kernel[row, column]) == pytest.approx(expected, abs=1e-9)


def test_mixture_gaussians_are_what_the_paper_describes():
    kernels = blur.mixture_gaussians()
    assert kernels.shape == (4, 16, 16) and kernels.dtype == torch.float32
    flat, rising, falling, upright = kernels
    torch.testing.assert_close(kernels, kernels.flip((1, 2)))
    torch.testing.assert_close(flat, upright.T)
    torch.testing.assert_close(rising, falling.flip(1))
    assert rising[4, 11] > 100 * rising[11, 11]  # up and to the right
    torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(4), atol=1e-4, rtol=0)
    # A cell is half a unit wide; variance 1 along, 0.3 across, and 1 / 12 of a cell's square.
    marginal = torch.stack((flat.sum(0), flat.sum(1))).double()
    axis = (torch.arange(16) - 7.5) / 2
    expected = torch.tensor([1.0, 0.3], dtype=torch.float64) + 0.25 / 12
    torch.testing.assert_close((marginal * axis**2).sum(1), expected, atol=2e-3, rtol=0)
    # The second group of the paper: the same four again, at 1.2 times the factor.
    both = blur.mixture_gaussians(15, [0.5, 0.6])
    torch.testing.assert_close(both[:4], blur.mixture_gaussians(15, 0.5))
    torch.testing.assert_close(both[4:], blur.mixture_gaussians(15, 0.6))


def test_the_factor_of_mixture_gaussians_can_be_learned():
    factor = torch.tensor([0.5, 1.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: blur.mixture_gaussians(5, f), factor)
    assert blur.mixture_gaussians(4, factor.detach().half()).dtype == torch.float16


def test_gaussian8_has_the_published_widths():
    for scale, (low, high) in {2: (0.8, 1.6), 3: (1.35, 2.4), 4: (1.8, 3.2)}.items():
        kernels = blur.gaussian8(scale)
        widths = torch.linspace(low, high, 8)
        assert kernels.shape == (8, 21, 21)
        torch.testing.assert_close(kernels, torch.stack([blur.isotropic(float(s)) for s in widths]))
    with pytest.raises(ValueError, match="2, 3 and 4"):
        blur.gaussian8(5)


def test_a_code_knows_which_way_a_kernel_lies():
    kernels = blur.random_irregular(400, 9, generator=0)
    basis = blur.pca_basis(kernels, 40)
    for angle in (0.5, 2.0):
        kernel = blur.anisotropic(2.5, 0.7, angle, 9)[None]
        found = blur.decode(blur.encode(kernel, basis), basis)
        turned, right = ((found - k).abs().sum() for k in (kernel.mT, kernel))
        assert right < 0.2 * turned


def test_code_of_kernels_and_back():
    kernels = blur.random_isotropic(400, (0.3, 4.0), 21, 0)
    basis = blur.pca_basis(kernels, 10)
    torch.testing.assert_close(basis.T @ basis, torch.eye(10), atol=1e-4, rtol=0)
    fresh = blur.random_isotropic(50, (0.5, 3.5), 21, 1)
    error = (blur.decode(blur.encode(fresh, basis), basis) - fresh).abs().sum((1, 2))
    assert error.max() < 0.02  # a random pair of these kernels is about 1 apart


def test_damped_code_has_entries_of_one_order_and_the_same_inverse():
    kernels = blur.random_isotropic(400, (0.3, 4.0), 21, 0)
    plain, damped = blur.pca_basis(kernels, 6), blur.pca_basis(kernels, 6, damping=1e-3)
    power, reached = (blur.encode(kernels, b).pow(2).mean(0) for b in (plain, damped))
    torch.testing.assert_close(reached, power / (power + 1e-3 * power[0]), rtol=1e-3, atol=0)
    assert reached.max() / reached.min() < power.max() / power.min() / 25
    torch.testing.assert_close(
        blur.decode(blur.encode(kernels, plain), plain),
        blur.decode(blur.encode(kernels, damped), damped),
        atol=1e-5,
        rtol=0,
    )


def test_code_is_linear_in_the_kernel():
    kernels = blur.random_irregular(50, 21, generator=0)
    basis = blur.pca_basis(kernels, 8)
    mixed = 0.3 * kernels[:1] + 0.7 * kernels[1:2]
    expected = 0.3 * blur.encode(kernels[:1], basis) + 0.7 * blur.encode(kernels[1:2], basis)
    torch.testing.assert_close(blur.encode(mixed, basis), expected)


def test_a_hopeless_code_still_gives_a_kernel():
    basis = blur.pca_basis(blur.random_isotropic(50, (0.5, 3.0), 9, 0), 4)
    code = -blur.encode(blur.isotropic(1.0, 9)[None], basis)
    kernel = blur.decode(code, basis)
    assert torch.isfinite(kernel).all()
    torch.testing.assert_close(kernel.sum(), torch.tensor(1.0))


def test_resizing_keeps_the_centre():
    for old, new in ((11, 21), (16, 21), (21, 16), (25, 21), (10, 4)):
        resized = blur.resized(blur.dirac(old), new)
        assert torch.equal(resized, blur.dirac(new)), (old, new)


def test_shifting_moves_the_centre_of_mass():
    kernel = blur.resized(blur.isotropic(1.5, 13), 21)
    assert centre(blur.shifted(kernel, 1.5)) == pytest.approx((11.5, 11.5), abs=1e-4)
    assert centre(blur.shifted(kernel, -2.0)) == pytest.approx((8, 8), abs=1e-4)
    assert torch.allclose(blur.shifted(kernel, 0.0), kernel)


def test_shifting_by_half_a_pixel_keeps_the_width():
    for sigma, tolerance in ((0.8, 0.04), (1.0, 0.02), (3.0, 0.001)):
        kernel = blur.isotropic(sigma, 31)
        moved = blur.shifted(kernel, 0.5)
        assert centre(moved) == pytest.approx((15.5, 15.5), abs=1e-3)
        assert float(blur.spread(moved)) == pytest.approx(float(blur.spread(kernel)), rel=tolerance)
        assert float(moved.min()) >= 0


def test_width_of_a_gaussian_is_its_sigma():
    assert float(blur.spread(blur.isotropic(1.5, 21))) == pytest.approx(1.5, rel=1e-3)
    assert float(blur.spread(blur.dirac(21))) == 0


def test_mat_files_of_the_published_form(tmp_path):
    kernels = blur.random_irregular(3, 25, generator=0).numpy()
    cells = np.empty((1, 3), dtype=object)
    for i, kernel in enumerate(kernels):
        cells[0, i] = kernel * 2  # stored without being normalised
    savemat(tmp_path / "kernels.mat", {"kernels": cells})
    loaded = blur.load_mat(tmp_path / "kernels.mat")
    picture = np.random.default_rng(0).random((40, 40)).astype("float32")
    for cell, kernel in zip(kernels, loaded, strict=True):
        convolved = convolve2d(picture, cell, "valid")
        applied = F.conv2d(torch.from_numpy(picture)[None, None], kernel[None, None])[0, 0]
        np.testing.assert_allclose(applied, convolved, atol=1e-5)
    savemat(tmp_path / "other.mat", {"filters": kernels})
    with pytest.raises(ValueError, match=r"other.mat: expected an array named 'kernels'.*filters"):
        blur.load_mat(tmp_path / "other.mat")


def test_a_matrix_in_a_mat_file_is_one_kernel(tmp_path):
    kernel = blur.random_irregular(1, 25, generator=0)[0].numpy()
    savemat(tmp_path / "one.mat", {"kernels": kernel})
    np.testing.assert_allclose(
        blur.load_mat(tmp_path / "one.mat"), kernel[None, ::-1, ::-1], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("kernels", "message"),
    [
        (
            np.ones((25, 25, 12)),
            r"square kernels .*, found float64 of shape \(25, 25, 12\)",
        ),
        ([np.ones((5, 7))], r"square kernels of numbers, found float64 of shape \(5, 7\)"),
        ([np.array([["a"]])], "square kernels of numbers, found <U1"),
        ([np.ones((3, 3)), np.zeros((3, 3))], "finite kernels of a sum above 0, found 0"),
        (np.full((3, 3), np.nan), "finite kernels of a sum above 0, found nan"),
        ([np.ones((3, 3)), np.ones((5, 5))], r"kernels of one size, found \[\(3, 3\), \(5, 5\)\]"),
        (None, "not a readable MATLAB file"),
    ],
)
def test_what_is_no_kernel_in_a_mat_file_is_told(tmp_path, kernels, message):
    path = tmp_path / "k.mat"
    if kernels is None:
        path.write_bytes(b"hello")
    else:
        cells = kernels
        if isinstance(kernels, list):
            cells = np.empty((1, len(kernels)), dtype=object)
            for i, kernel in enumerate(kernels):
                cells[0, i] = kernel
        savemat(path, {"kernels": cells})
    with pytest.raises(ValueError, match=message) as caught:
        blur.load_mat(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (np.ones((3, 4)) / 12, r"square.*\(3, 4\)"),
        (np.ones(9) / 9, r"square.*\(9,\)"),
        (np.full((3, 3), np.nan), "finite"),
        (np.full((3, 3), 0.5), "sum of 1.*4.5"),
        (np.full((65, 65), 1 / 65**2), "at most 64x64 taps, got 65"),
    ],
)
def test_a_users_kernel_is_checked(kernel, message):
    with pytest.raises(ValueError, match=message):
        blur.check_kernel(kernel)


def test_a_users_kernel_is_made_exact():
    once = blur.check_kernel(np.full((5, 5), 1.03 / 25))
    assert float(once.sum()) == pytest.approx(1)
    assert torch.equal(blur.check_kernel(once), once)


def test_a_users_kernel_is_copied_from_any_memory():
    kernel = np.random.rand(5, 5)
    kernel /= kernel.sum()
    turned = blur.check_kernel(kernel[::-1, ::-1].astype(">f4"))
    np.testing.assert_allclose(turned.numpy(), kernel[::-1, ::-1], rtol=1e-5)
    for given in (kernel.astype(np.float32), torch.from_numpy(kernel).float().requires_grad_()):
        checked = blur.check_kernel(given)
        before = checked.clone()
        with torch.no_grad():
            given *= 0
        assert torch.equal(checked, before) and not checked.requires_grad


def test_seeds_are_integers_of_any_kind():
    assert torch.equal(*(blur.random_motion(1, generator=seed) for seed in (3, np.int64(3))))
    for seed in (1.5, True, "3"):
        with pytest.raises(TypeError, match="seed: expected an integer, got"):
            blur.random_motion(1, generator=seed)


def test_factors_may_be_whole_numbers():
    assert torch.equal(*(blur.mixture_gaussians(5, factor) for factor in (1.0, torch.tensor(1))))


def test_bad_arguments_name_what_was_expected():
    with pytest.raises(ValueError, match="sigma: expected widths above 0, got 0"):
        blur.isotropic(0.0)
    with pytest.raises(ValueError, match="factor: expected numbers above 0, got -1"):
        blur.mixture_gaussians(3, [1.0, -1.0])
    with pytest.raises(ValueError, match="k: expected a kernel size of at least 1, got 0"):
        blur.mixture_gaussians(0)
    with pytest.raises(ValueError, match="size"):
        blur.isotropic(1.0, 0)
    with pytest.raises(ValueError, match="components: expected 1 to 4"):
        blur.pca_basis(blur.random_isotropic(4, (1, 2), 5, 0), 9)
    with pytest.raises(ValueError, match="21x21"):
        blur.encode(torch.zeros(1, 5, 5), torch.zeros(441, 10))
