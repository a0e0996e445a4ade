"""Pictures of what a degradation has learned (dml.txt, Figures 2 to 4; abl.txt, Figure 5)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pysr import pictures
from pysr.colour import unit_luma
from pysr.degrade.learned import LearnedDegradation

KERNELS_ACROSS = 12


def write_views(
    degradation: LearnedDegradation, folder: str | Path, picture: Tensor | None = None
) -> list[Path]:
    """Write all there is to see into a folder, which is made, and return the files.

    bases.png and mixtures.png belong to the network; weights.png and kernels.png to a picture
    (1, 3, H, W) in [0, 1], and are left out without one.
    Raises ValueError where there is nothing to see: for a network that predicts pixels.
    """
    views = dict(_views(degradation.network, picture))
    if not views:
        raise ValueError(
            f"degradation: a {type(degradation.network).__name__} has nothing to look at"
            + ("" if picture is not None or not degradation.has_kernels else " without a picture")
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, pixels in views.items():
        pictures.write(folder / name, pictures.Picture(pixels))
    return [folder / name for name in views]


@torch.no_grad()
def _views(network: torch.nn.Module, picture: Tensor | None) -> Iterator[tuple[str, np.ndarray]]:
    if hasattr(network, "bases"):
        yield "bases.png", kernel_sheet(network.bases, len(network.bases))
    if hasattr(network, "weights"):
        mixed = torch.einsum("cg,guv->cuv", network.weights, network.gaussians)
        yield "mixtures.png", kernel_sheet(mixed, 16)
    if picture is None:
        return
    y = unit_luma(picture)
    if hasattr(network, "coefficients"):
        yield "weights.png", weight_maps(network.coefficients(y)[0])
    if hasattr(network, "kernels"):
        step = max(max(y.shape[-2:]) // (network.config.scale * KERNELS_ACROSS), 1)
        kernels = network.kernels(y, step)[0]  # (k, k, rows, columns)
        yield "kernels.png", kernel_sheet(kernels.flatten(2).movedim(2, 0), kernels.shape[-1])


def kernel_sheet(kernels: Tensor, across: int, cell: int = 6) -> np.ndarray:
    """Kernels (M, k, k) in rows of `across`: uint8, zero mid-grey, each by its largest tap."""
    peak = kernels.abs().amax((1, 2), keepdim=True).clamp(min=1e-12)
    grey = (kernels / peak * 127.5 + 127.5).round().to(torch.uint8).cpu().numpy()
    return _sheet([np.kron(kernel, np.ones((cell, cell), np.uint8)) for kernel in grey], across)


def weight_maps(coefficients: Tensor) -> np.ndarray:
    """Coefficients (M, H, W) in rows of four, brighter for more, each over its own range."""
    low, high = (f(coefficients, (1, 2), keepdim=True) for f in (torch.amin, torch.amax))
    grey = (coefficients - low) / (high - low).clamp(min=1e-12) * 255
    return _sheet(list(grey.round().to(torch.uint8).cpu().numpy()), 4)


def _sheet(tiles: list[np.ndarray], across: int, gap: int = 4) -> np.ndarray:
    height, width = tiles[0].shape
    rows = -(-len(tiles) // across)
    across = min(across, len(tiles))
    sheet = np.full((rows * (height + gap) - gap, across * (width + gap) - gap), 255, np.uint8)
    for index, tile in enumerate(tiles):
        top, left = (index // across) * (height + gap), (index % across) * (width + gap)
        sheet[top : top + height, left : left + width] = tile
    return sheet
