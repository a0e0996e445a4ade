"""Blur kernels: the families that blind super-resolution is trained and tested on, and their PCA
code.

A kernel is a (k, k) float tensor, non-negative, summing to 1; a batch is (N, k, k). It is applied
as an inner product (correlation, not flipped), with tap ``k // 2`` over the output pixel, for odd
and for even k alike. Every family below is centred on that tap, so that no kernel moves the
picture; for even k the support therefore reaches one pixel further to the left and top.

Every random family takes ``generator``: a ``torch.Generator`` (its device is the kernels' device),
an integer seed, or None for torch's global generator. Widths are standard deviations in HR pixels.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pysr._ext import MOST_TAPS
from pysr.resize import cubic

# dan.txt section 4.1.1: eight widths evenly spaced over these ranges.
GAUSSIAN8_RANGE = {2: (0.80, 1.60), 3: (1.35, 2.40), 4: (1.80, 3.20)}
# dan.txt section 4.1.1: widths drawn in training, by scale; a scale of 1 (deblurring) takes x2's.
SETTING1_RANGE = {1: (0.2, 2.0), 2: (0.2, 2.0), 3: (0.2, 3.0), 4: (0.2, 4.0)}
# abl.txt, equation 6 and algorithm 1: variances along the rotated axes at a factor of 1, angles in
# degrees, and half the side of the region that the kernel covers.
MIXTURE_VARIANCES = (1.0, 0.3)
MIXTURE_ANGLES = (0.0, 45.0, -45.0, 90.0)
MIXTURE_EXTENT = 4.0
# papers/dan: Setting 2's kernel size in training, by scale.
SETTING2_SIZE = {1: 11, 2: 11, 3: 15, 4: 21}

Seed = torch.Generator | int | None


def as_generator(seed: Seed, device: torch.device | str = "cpu") -> torch.Generator | None:
    """A generator on `device` from a seed; a generator (or None) passes through unchanged.

    Raises as `check_seed`.
    """
    if seed is None or isinstance(seed, torch.Generator):
        return seed
    return torch.Generator(device).manual_seed(check_seed(seed))


def check_seed(seed: int) -> int:
    """A seed that torch's generators take. Raises TypeError for what is no integer, ValueError for
    one of more than 64 bits."""
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise TypeError(f"seed: expected an integer, got {seed!r}")
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed: expected an integer of at most 64 bits, got {seed}")
    return int(seed)


def named_seed(seed: int, name: str) -> int:
    """A seed, from 0 to below 2**56, for each of many things that share one, drawn from it and the
    thing's name: what else is there, and in what order, does not matter."""
    drawn = hashlib.sha256(os.fsencode(f"{seed} {name}")).digest()
    return int.from_bytes(drawn[:7], "big")


def isotropic(sigma: float | Sequence[float] | Tensor, size: int = 21) -> Tensor:
    """Isotropic Gaussian kernels (dan.txt, Setting 1).

    Args:
        sigma: width > 0; a float gives one kernel (k, k), a sequence or tensor (N,) a batch (N, k,
        k).
        size: k >= 1.
    Raises:
        ValueError: if a width is not positive or the size is below 1.
    """
    sigma = _as_widths(sigma)
    return anisotropic(sigma, sigma, torch.zeros_like(sigma), size)


def anisotropic(
    sigma_x: float | Tensor, sigma_y: float | Tensor, theta: float | Tensor, size: int = 21
) -> Tensor:
    """Anisotropic Gaussian kernels: widths along two axes, rotated by theta (radians,
    anticlockwise).

    Floats give one kernel (k, k), tensors (N,) a batch (N, k, k). Raises ValueError as `isotropic`.
    """
    sigma_x, sigma_y = _as_widths(sigma_x), _as_widths(sigma_y)
    theta = torch.as_tensor(theta, dtype=sigma_x.dtype, device=sigma_x.device)
    if size < 1:
        raise ValueError(f"size: expected a kernel size of at least 1, got {size}")
    axis = torch.arange(size, dtype=sigma_x.dtype, device=sigma_x.device) - size // 2
    y, x = axis[:, None], axis[None, :]
    cos, sin = (f(theta)[..., None, None] for f in (torch.cos, torch.sin))
    along, across = x * cos - y * sin, x * sin + y * cos
    exponent = (along / sigma_x[..., None, None]) ** 2 + (across / sigma_y[..., None, None]) ** 2
    return normalise(torch.exp(-0.5 * exponent))


def random_isotropic(
    n: int, sigma_range: tuple[float, float], size: int = 21, generator: Seed = None
) -> Tensor:
    """n isotropic Gaussians, widths uniform in sigma_range: (N, k, k)."""
    return isotropic(_uniform(n, *sigma_range, as_generator(generator)), size)


def random_irregular(
    n: int,
    size: int = 21,
    axes: tuple[float, float] = (0.6, 5.0),
    noise: float = 0.25,
    generator: Seed = None,
) -> Tensor:
    """n irregular kernels of Setting 2 (dan.txt section 4.1.1): (N, k, k).

    Anisotropic Gaussians, both widths uniform in `axes`, rotation uniform in (-pi, pi); every tap
    is multiplied by 1 + U(0, noise), then the kernel is normalised.
    """
    generator = as_generator(generator)
    sigma_x, sigma_y = _uniform(n, *axes, generator), _uniform(n, *axes, generator)
    theta = _uniform(n, -math.pi, math.pi, generator)
    kernels = anisotropic(sigma_x, sigma_y, theta, size)
    return normalise(kernels * (1 + noise * _rand((n, size, size), generator)))


def random_motion(
    n: int, size: int = 25, extent: tuple[float, float] = (4.0, 16.0), generator: Seed = None
) -> Tensor:
    """n camera-shake kernels: a smooth random path, splatted bilinearly: (N, k, k).

    The path turns by a random walk of its heading; its longer side is uniform in `extent` pixels
    (clipped to the kernel) and its centre of mass lies on tap k // 2.
    """
    generator = as_generator(generator)
    points = 256
    turn = 0.15 * _randn((n, points), generator)
    heading = _uniform(n, -math.pi, math.pi, generator)[:, None] + turn.cumsum(1)
    path = torch.stack((heading.sin(), heading.cos()), -1).cumsum(1)  # (N, P, 2): y, x
    longer_side = (path.amax(1) - path.amin(1)).amax(-1)
    wanted = _uniform(n, *extent, generator).clamp(max=max(size // 2 - 1, 0))
    path = (path - path.mean(1, keepdim=True)) * (wanted / longer_side)[:, None, None] + size // 2
    path = path.clamp(0, size - 1)
    corner = path.floor().clamp(max=max(size - 2, 0))
    fraction = path - corner
    kernels = torch.zeros(n, size * size, device=path.device)
    for dy in (0, 1):
        for dx in (0, 1):
            weight_y = fraction[..., 0] if dy else 1 - fraction[..., 0]
            weight_x = fraction[..., 1] if dx else 1 - fraction[..., 1]
            row, column = ((corner[..., i] + d).clamp(max=size - 1) for i, d in ((0, dy), (1, dx)))
            kernels.scatter_add_(1, (row * size + column).long(), weight_y * weight_x)
    return normalise(kernels.view(n, size, size))


def gaussian8(scale: int, size: int = 21) -> Tensor:
    """The eight test kernels of Setting 1 (dan.txt section 4.1.1): (8, k, k) for scale 2, 3 or
    4."""
    if scale not in GAUSSIAN8_RANGE:
        raise ValueError(f"scale: Gaussian8 is defined for 2, 3 and 4, got {scale}")
    return isotropic(torch.linspace(*GAUSSIAN8_RANGE[scale], 8), size)


def mixture_gaussians(k: int = 16, factor: float | Sequence[float] | Tensor = 1.0) -> Tensor:
    """The Gaussians that `pysr.ops.mixture_blur` mixes (abl.txt, equation 6 and algorithm 1).

    The kernel covers the region -4 to 4 with k x k cells, and a tap is the integral of the density
    over its cell. The variances are factor and 0.3 * factor along axes turned by 0, 45, -45 and 90
    degrees (anticlockwise). As in the paper nothing is normalised: a kernel sums to the part of the
    density that lies in the region, 0.9999 at factor 1 and 0.98 at factor 3. For even k the centre
    lies between taps, half a pixel above and left of tap k // 2, unlike that of the other families.

    Along x an integral is closed, by the error function; along y it is a Gauss-Legendre sum of 32
    points per cell, in float64, within 1e-12 as long as a cell is no wider than 15 standard
    deviations of the narrow axis (factors from 0.1 at k = 3, from 0.004 at k = 16). Differentiable
    by factor, so that it can be learned.

    Args:
        k: kernel size, at least 1.
        factor: above 0; one number, or several, as the 1 and 1.2 of the paper's second group.
    Returns:
        (4, k, k), or four after four (4 * F, k, k) for F factors; of factor's floating
        type and device if it is a tensor, else float32.
    Raises:
        ValueError: if a factor is not positive or k is below 1.
    """
    if k < 1:
        raise ValueError(f"k: expected a kernel size of at least 1, got {k}")
    if not torch.is_tensor(factor) or not factor.is_floating_point():
        factor = torch.as_tensor(factor, dtype=torch.float32)
    if not bool((factor > 0).all()):
        raise ValueError(f"factor: expected numbers above 0, got {factor.min().item():.4g}")
    theta = torch.tensor(MIXTURE_ANGLES, dtype=torch.float64, device=factor.device).deg2rad()
    scale = factor.double().reshape(-1, 1)
    along, across = MIXTURE_VARIANCES
    variance_x, variance_y, covariance = (
        (scale * shape).reshape(-1, 1, 1, 1)  # (G, row, column, point)
        for shape in (
            along * theta.cos() ** 2 + across * theta.sin() ** 2,
            along * theta.sin() ** 2 + across * theta.cos() ** 2,
            (across - along) * theta.sin() * theta.cos(),  # rows are counted downwards
        )
    )
    cell = 2 * MIXTURE_EXTENT / k
    edges = torch.arange(k + 1, dtype=torch.float64, device=factor.device) * cell - MIXTURE_EXTENT
    points, shares = (
        torch.from_numpy(values).to(factor.device) for values in np.polynomial.legendre.leggauss(32)
    )
    y = (edges[:-1, None] + cell * (points + 1) / 2)[:, None, :]
    density = torch.exp(-0.5 * y**2 / variance_y) / (2 * math.pi * variance_y).sqrt()
    # Given y, x is distributed about covariance / variance_y * y.
    spread_x = (variance_x - covariance**2 / variance_y).sqrt()
    below = torch.special.ndtr((edges[:, None] - covariance / variance_y * y) / spread_x)
    inside = below[:, :, 1:] - below[:, :, :-1]
    kernels = cell / 2 * (density * inside * shares).sum(-1)
    return kernels.to(factor.dtype)


def load_mat(path: str | Path) -> Tensor:
    """Kernels from a MATLAB file of the published form: a 1 x N cell array named `kernels`; or a
    matrix of that name, which is one kernel.

    The 12 kernels of onsr.txt's non-blind table (4 isotropic, 4 anisotropic, 4 motion, 25x25) come
    so, and other kernel sets too. They are for convolution, and are turned by 180 degrees here,
    where kernels are applied unflipped. Returns (N, k, k) float32, each normalised.
    Raises ValueError, naming the file, when it is none of MATLAB's (before version 7.3, which is
    HDF5), has no such array, or its kernels are not square, finite, of one size and a sum above 0.
    """
    from scipy.io import loadmat

    try:
        content = loadmat(path)
    except OSError:
        raise
    except Exception as error:  # scipy meets damage in many ways
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: not a readable MATLAB file ({reason})") from None
    if "kernels" not in content:
        names = sorted(k for k in content if not k.startswith("__"))
        raise ValueError(f"{path}: expected an array named 'kernels', found {names}")
    cells = np.asarray(content["kernels"])
    kernels = [np.asarray(cell) for cell in cells.ravel()] if cells.dtype == object else [cells]
    for kernel in kernels:
        shape = kernel.shape
        if len(shape) != 2 or shape[0] != shape[1] or kernel.dtype.kind not in "fiu":
            raise ValueError(
                f"{path}: expected square kernels of numbers, found {kernel.dtype} of shape {shape}"
            )
        total = kernel.astype(float).sum()
        if not 0 < total < math.inf:
            raise ValueError(f"{path}: expected finite kernels of a sum above 0, found {total:.4g}")
    sizes = {kernel.shape for kernel in kernels}
    if len(sizes) != 1:
        raise ValueError(f"{path}: expected kernels of one size, found {sorted(sizes)}")
    turned = [torch.from_numpy(kernel[::-1, ::-1].astype(float)) for kernel in kernels]
    return normalise(torch.stack(turned)).float()


def dirac(size: int = 21) -> Tensor:
    """The kernel that changes nothing: 1 on tap k // 2. (k, k)."""
    kernel = torch.zeros(size, size)
    kernel[size // 2, size // 2] = 1
    return kernel


def shifted(kernels: Tensor, offset: float) -> Tensor:
    """Move kernels by `offset` pixels down and right, then normalise. (N, k, k) or (k, k).

    By cubic convolution (Keys 1981), which moves and leaves the spread as it was, where bilinear
    weights would widen a blur by up to a quarter pixel of variance along each axis; taps that it
    makes negative, beside those of the narrowest blurs, are set to zero.

    Decimation keeps the top left pixel of each s x s patch; a kernel moved by (s - 1) / 2 makes the
    kept sample stand for the patch's middle, so that LR and HR stay aligned, as DIV2KRK's kernels
    do.
    """
    whole = math.floor(offset)
    size = kernels.shape[-1]
    moves = torch.arange(whole - 1, whole + 3)
    out = torch.zeros_like(kernels)
    weights = cubic(moves - offset).tolist()
    for dy, wy in zip(moves.tolist(), weights, strict=True):
        for dx, wx in zip(moves.tolist(), weights, strict=True):
            if wy * wx and abs(dy) < size and abs(dx) < size:
                to_y, from_y = _overlap(size, dy)
                to_x, from_x = _overlap(size, dx)
                out[..., to_y, to_x] += wy * wx * kernels[..., from_y, from_x]
    return normalise(out.clamp(min=0))


def aligned(kernels: Tensor, scale: int) -> Tensor:
    """Kernels (..., k, k) as DIV2KRK's decimation by `scale` takes them: (..., k + 6, k + 6).

    Moved by (s - 1) / 2 pixels, see `shifted`; three taps of margin keep the move from cutting any
    off.
    """
    return shifted(resized(kernels, kernels.shape[-1] + 6), (scale - 1) / 2)


def resized(kernels: Tensor, size: int) -> Tensor:
    """Crop or zero-pad kernels about tap k // 2 to `size`, then normalise. (..., k, k)."""
    old = kernels.shape[-1]
    out = kernels.new_zeros(*kernels.shape[:-2], size, size)
    first = size // 2 - old // 2
    to = slice(max(first, 0), min(first + old, size))
    source = slice(to.start - first, to.stop - first)
    out[..., to, to] = kernels[..., source, source]
    return normalise(out)


def normalise(kernels: Tensor) -> Tensor:
    """Scale kernels (..., k, k) so that each sums to 1."""
    return kernels / kernels.sum((-2, -1), keepdim=True)


def check_kernel(kernel: Tensor, name: str = "kernel", tolerance: float = 0.05) -> Tensor:
    """A copy of a user's kernel as (k, k) float32 summing to 1.

    Raises ValueError unless it is square, two-dimensional, of at most 64x64 taps, finite, and sums
    to 1 within `tolerance`; TypeError for what is no array of numbers.
    """
    if not torch.is_tensor(kernel):
        try:
            kernel = torch.from_numpy(np.array(kernel, np.float32))
        except (TypeError, ValueError):
            kind = type(kernel).__name__
            raise TypeError(f"{name}: expected a (k, k) tensor or array, got {kind}") from None
    kernel = kernel.detach().to(torch.float32, copy=True)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or kernel.numel() == 0:
        raise ValueError(f"{name}: expected a square (k, k) array, got shape {tuple(kernel.shape)}")
    if len(kernel) > MOST_TAPS:
        raise ValueError(
            f"{name}: expected at most {MOST_TAPS}x{MOST_TAPS} taps, got {len(kernel)}"
        )
    if not torch.isfinite(kernel).all():
        raise ValueError(f"{name}: expected finite values, got NaN or infinity")
    total = float(kernel.sum())
    if abs(total - 1) > tolerance:
        raise ValueError(f"{name}: expected a sum of 1 (within {tolerance}), got {total:.4g}")
    return kernel if abs(total - 1) < 1e-6 else normalise(kernel)


def pca_basis(kernels: Tensor, components: int, damping: float | None = None) -> Tensor:
    """A basis (k*k, components) for the code of kernels (N, k, k): code = flat(kernel) @ basis.

    The kernels are not centred, neither here nor at use, so that the code of a sum is the sum of
    codes. With damping None the columns are orthonormal (dan.txt section 3.1). With a number,
    column m is divided by sqrt(l_m + damping * l_0), l the mean squared coefficients: the entries
    of a code come to the same order of magnitude, which makes small differences between kernels as
    easy to learn from as large ones.
    """
    flat = kernels.flatten(1).double()
    if not 1 <= components <= min(flat.shape):
        raise ValueError(f"components: expected 1 to {min(flat.shape)}, got {components}")
    _, singular, basis = torch.linalg.svd(flat, full_matrices=False)
    basis = basis[:components].T
    basis = basis * torch.sign(basis.sum(0) + 1e-12)  # the SVD leaves signs open
    if damping is not None:
        power = singular[:components] ** 2 / len(flat)
        basis = basis / torch.sqrt(power + damping * power[0])
    return basis.float()


def encode(kernels: Tensor, basis: Tensor) -> Tensor:
    """PCA code of kernels: (N, k, k) -> (N, components)."""
    if kernels[0].numel() != basis.shape[0]:
        size = math.isqrt(basis.shape[0])
        got = tuple(kernels.shape[-2:])
        raise ValueError(f"kernels: expected {size}x{size} taps for this code, got {got}")
    with torch.autocast(kernels.device.type, enabled=False):  # what is taught is exact
        return kernels.flatten(1) @ basis


def decode(code: Tensor, basis: Tensor) -> Tensor:
    """The kernels (N, k, k) that a code (N, components) stands for: the least-squares inverse of
    `encode`, negative taps cut off, normalised to sum 1."""
    size = math.isqrt(basis.shape[0])
    flat = code.float() @ torch.linalg.pinv(basis.float())
    kernels = flat.clamp(min=0).view(-1, size, size)
    # A code far from every kernel may leave nothing positive; a Dirac then stands for "unknown".
    empty = kernels.sum((-2, -1)) <= 1e-8
    kernels[empty] = dirac(size).to(kernels)
    return normalise(kernels)


def spread(kernels: Tensor) -> Tensor:
    """Root mean square width of kernels (..., k, k) in pixels, the mean of both axes: (...)."""
    axis = torch.arange(kernels.shape[-1], dtype=kernels.dtype, device=kernels.device)
    variances = []
    for marginal in (kernels.sum(-1), kernels.sum(-2)):
        mean = (marginal * axis).sum(-1, keepdim=True)
        variances.append((marginal * (axis - mean) ** 2).sum(-1))
    return torch.sqrt(sum(variances) / 2)


def _as_widths(sigma) -> Tensor:
    sigma = torch.as_tensor(sigma, dtype=torch.float32) if not torch.is_tensor(sigma) else sigma
    if not bool((sigma > 0).all()):
        raise ValueError(f"sigma: expected widths above 0, got {sigma.min().item():.4g}")
    return sigma


def _overlap(size: int, shift: int) -> tuple[slice, slice]:
    """Slices (to, from) of a line moved by `shift`."""
    return (
        slice(max(shift, 0), size + min(shift, 0)),
        slice(max(-shift, 0), size - max(shift, 0)),
    )


def _rand(shape, generator: torch.Generator | None) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device if generator else None)


def _randn(shape, generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device if generator else None)


def _uniform(n: int, low: float, high: float, generator: torch.Generator | None) -> Tensor:
    return low + (high - low) * _rand((n,), generator)
