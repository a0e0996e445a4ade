"""The degradation that ONSR learns: convolutions in a row, then bicubic (onsr.txt, section 3.5).

Linear layers in a row can do no more than one, but they learn faster. They are applied as that one:
the small kernels are convolved with each other, and with bicubic downsampling, which at a whole
factor is a strided kernel too. One `blur_decimate` then stands for three full-size convolutions and
an interpolation, and nothing but the small kernels is differentiated through.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pysr import blur
from pysr.degrade.classical import DOWNSAMPLERS, check_choice
from pysr.ops import blur_decimate
from pysr.resize import imresize

# Sides of the layers, by scale. The paper has x2 and x4; x3 lies between, and deblurring is as x2.
SIZES = {1: (3, 7, 9), 2: (3, 7, 9), 3: (5, 11, 13), 4: (9, 15, 17)}
WIDTH = 1.0  # standard deviation of the Gaussians that each layer begins as, in HR pixels
MOST_FOLDED = 63  # of the kernel that everything is folded into


class DeepLinear(nn.Module):
    """Blur by a learned kernel, then bicubic downsampling.

    forward(hr): (N, C, H, W) -> (N, C, ceil(H / s), ceil(W / s)). Borders are mirrored once, for
    all that was folded; they differ a little from those of blur and bicubic one after the other.

    Args:
        scale: s, 1 to 4.
        begin: (k, k), the blur that learning begins from, as the first of the layers, where the
            others begin as changing nothing; None for the paper's Gaussians.
    Raises:
        ValueError: for a kernel that would be too large.
    """

    def __init__(self, scale: int, begin: Tensor | None = None):
        super().__init__()
        self.scale = scale
        sizes = layer_sizes(scale)
        if begin is None:
            layers = [blur.isotropic(WIDTH, size) for size in sizes]
        else:
            layers = [begin.clone(), *(blur.dirac(size).to(begin) for size in sizes[:2])]
        self.layers = nn.ParameterList(layers)
        self.register_buffer("bicubic", bicubic_taps(scale), persistent=False)
        check_size(sum(len(layer) - 1 for layer in layers) + 1, scale)

    def kernel(self) -> Tensor:
        """(k, k): the one blur that all layers are together, in HR pixels, summing to 1."""
        kernel = self.layers[0]
        for layer in self.layers[1:]:
            kernel = convolved(kernel, layer)
        return blur.normalise(kernel)

    def frozen(self) -> GivenBlur:
        """What it is now, and stays."""
        kernel = self.kernel().detach()
        return GivenBlur(self.scale, kernel).to(kernel.device)

    def forward(self, hr: Tensor) -> Tensor:
        return degraded(hr, self.kernel(), self.bicubic, self.scale)


class GivenBlur(nn.Module):
    """The same for a blur that is known: nothing in it learns. Arguments as of `DeepLinear`, and:

    downsample: "bicubic" or "decimate", as in `pysr.degrade.classical`.
    """

    def __init__(self, scale: int, kernel: Tensor, downsample: str = "bicubic"):
        super().__init__()
        check_size(len(kernel), scale)
        check_choice("downsample", downsample, DOWNSAMPLERS)
        self.scale = scale
        taps = bicubic_taps(scale) if downsample == "bicubic" else blur.dirac(1)
        self.register_buffer("known", kernel)
        self.register_buffer("bicubic", taps, persistent=False)

    def kernel(self) -> Tensor:
        return self.known

    def frozen(self) -> GivenBlur:
        return self

    @property
    def reach(self) -> int:
        """LR pixels at a border that what lies outside it has a part in."""
        return math.ceil((len(self.known) + len(self.bicubic)) / 2 / self.scale)

    def forward(self, hr: Tensor) -> Tensor:
        return degraded(hr, self.known, self.bicubic, self.scale)


def layer_sizes(scale: int) -> tuple[int, ...]:
    """SIZES of a scale. Raises ValueError for one that has none."""
    check_choice("scale", scale, SIZES)
    return SIZES[scale]


def degraded(hr: Tensor, kernel: Tensor, bicubic: Tensor, scale: int) -> Tensor:
    """Blur with `kernel` and downsample with what `bicubic_taps` gave, in one pass."""
    folded = convolved(kernel, bicubic)
    return blur_decimate(hr, folded.expand(len(hr), -1, -1), scale)


def convolved(a: Tensor, b: Tensor) -> Tensor:
    """The kernel (k + l - 1, k + l - 1) that does what (k, k) and (l, l) do one after the other."""
    with torch.autocast(a.device.type, enabled=False):  # rounded, its taps would not sum to 1
        return F.conv_transpose2d(a[None, None], b[None, None])[0, 0]


def before_bicubic(kernels: Tensor, scale: int) -> Tensor:
    """The blurs that, followed by bicubic downsampling, do what kernels do by decimation alone.

    A kernel that was learned at a stride, such as a DML's, holds the downsampling's own taps and
    its move to the middle of each square; what a DAN is told does not. Least squares among kernels
    without negative taps, by accelerated projected gradients (FISTA). They end early, which keeps
    noise in the taps from being sharpened.

    Args:
        kernels: (..., k, k), floating point, applied at stride `scale` with tap k // 2 over the top
            left pixel of each square. Negative taps are taken as they are.
    Returns:
        (..., k, k), each summing to 1; at a scale of 1, where there is nothing to undo, `kernels`
        scaled so.
    """
    if scale == 1:
        return blur.normalise(kernels)
    line = bicubic_taps(scale).sum(1).to(kernels)
    size, length = kernels.shape[-1], len(line)
    # Column j: what tap j of a line gives, downsampling included.
    system = kernels.new_zeros(size + length - 1, size)
    for j in range(size):
        system[j : j + length, j] = line
    gram = system.T @ system
    step = 1 / torch.linalg.matrix_norm(gram, 2) ** 2
    wanted = system.T @ F.pad(kernels, [length // 2] * 4) @ system
    found = ahead = kernels.clamp(min=0)
    momentum = 1.0
    for _ in range(100):
        before, found = found, (ahead - step * (gram @ ahead @ gram - wanted)).clamp(min=0)
        momentum, last = (1 + math.sqrt(1 + 4 * momentum**2)) / 2, momentum
        ahead = found + (last - 1) / momentum * (found - before)
    return blur.normalise(found)


def bicubic_taps(scale: int) -> Tensor:
    """Antialiased bicubic downsampling as a kernel for `blur_decimate` at that stride.

    MATLAB's imresize looks about the middle of each s x s square; the taps of an odd kernel lie
    about its top left pixel, so that the outer ones on one side are zero.
    """
    if scale == 1:
        return blur.dirac(1)
    reach = 2 * scale + scale // 2 - 1
    middle = 4 * scale  # far from all borders
    length = 8 * scale + 1
    # What each pixel of a line gives to the output pixel whose square begins at `middle`.
    units = torch.eye(length, dtype=torch.float64)[:, None, None, :]
    line = imresize(units.expand(-1, -1, scale, -1), 1 / scale)[:, 0, 0, middle // scale]
    taps = line[middle - reach : middle + reach + 1]
    return torch.outer(taps, taps).float()


def most_taps(scale: int) -> int:
    """Side of the largest blur that can be folded with the downsampling of a scale."""
    return MOST_FOLDED + 1 - bicubic_taps(scale).shape[-1]


def most_to_begin(scale: int) -> int:
    """Side of the largest blur that a `DeepLinear` can begin from."""
    return most_taps(scale) - sum(size - 1 for size in layer_sizes(scale)[:2])


def check_size(taps: int, scale: int) -> None:
    """Raises ValueError for a blur of more taps than `most_taps`."""
    most = most_taps(scale)
    if taps > most:
        raise ValueError(f"kernel: expected at most {most}x{most} taps at x{scale}, got {taps}")
