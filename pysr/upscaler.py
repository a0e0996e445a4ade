"""The front door: load a model, give it a picture, get the picture back larger and sharper.

How a picture is restored, and what is exact about it:

- The blur kernel is estimated by DAN's loop (dan.txt, Figure 1) on the whole picture when that is
  small, else on the crops with the most detail, whose codes are averaged; then the Restorer makes
  the loop's last pass with that kernel. On a small picture that is the published loop exactly; on a
  large one the paper's finding that a given kernel restores as well (Table 3) is relied on.
- Up to TILE x TILE pixels the Restorer sees the whole picture at once. Larger ones are restored
  tile by tile with a halo of the network's receptive field. Convolutions are then exact. Channel
  attention pools over the whole picture, which no tile sees: its gates are computed beforehand from
  crops spread evenly over the picture and are the same for every tile, so tiles meet without a
  seam, and the result differs from the untiled one only by the error of those means.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pysr import arrays, blur, engines
from pysr.degrade import classical, imresize
from pysr.nets import load_model

DEFAULT_MODEL = "dan-lite-x4"

ESTIMATE_CROP = 160  # side of the crops that a kernel is estimated on: few large beat many small
ESTIMATE_CROPS = 2
TILE = 768
GATE_CROP = 96  # side of the crops that stand for a tiled picture in channel attention
GATE_CROPS = 8  # along each axis


@dataclass(frozen=True)
class Upscaled:
    """A restored picture and what was found out on the way.

    Attributes:
        image: the result, of the type, dtype and device of what went in, s times as large.
        kernel: (k, k) float32, sums to 1: the blur it was restored with (the first one of a batch
            has its own: (N, k, k) for a torch batch of more than one).
        consistency: PSNR in dB between the input and the result degraded again with that kernel, on
            the crops the kernel was estimated from. Low values (below about 30) say that model and
            picture do not fit: other blur, heavy noise or compression. Identical gives infinity.
        confidence: 0 to 1, how far the crops agree on the kernel (1 minus the mean total variation
            distance from their average); 1.0 when the kernel was given, NaN when there is one crop.
    """

    image: object
    kernel: object
    consistency: float
    confidence: float


@dataclass(frozen=True)
class Estimate:
    """The blur of one picture: kernel (k, k), code (1, m), confidence as in `Upscaled`."""

    kernel: Tensor
    code: Tensor
    confidence: float


def load(
    model: str | Path = DEFAULT_MODEL, *, device: str = "auto", engine: str = "auto"
) -> Upscaler:
    """Load a model for upscaling.

    Args:
        model: a shipped model (`pysr models` lists them) or a path to a weights file, see
            `pysr.nets.load_model`.
        device: "auto" (CUDA where there is a GPU, else the CPU), "cpu", "cuda", "cuda:1", ...
        engine: "auto", "native", "torch" or "onnx", see `pysr.engines`.
    Raises:
        pysr.nets.ModelError: for a model that is unknown, missing or damaged.
        ValueError: for a device that is not there or an unknown engine.
    """
    return Upscaler(load_model(model), device=device, engine=engine)


class Upscaler:
    """Upscales pictures with one model: `pysr.load` makes one.

    Attributes:
        scale: output over input size, 1 to 4 (1 deblurs).
    """

    def __init__(self, model, *, device: str = "auto", engine: str = "auto"):
        self.device = _device(device)
        self.engine = engines.create(engine, model, self.device)
        self.model = model
        self.scale = model.config.scale

    def __call__(self, image, kernel=None, *, tile: int = TILE) -> Upscaled:
        """Restore a picture.

        Args:
            image: numpy (H, W), (H, W, 3) or (H, W, 4), uint8, uint16 or float in [0, 1], RGB;
                torch (N, 3, H, W), float in [0, 1]; anything with __dlpack__. Any size from 1x1.
                Alpha is upscaled by bicubic interpolation, a grey picture comes back grey.
            kernel: (k, k), the blur if it is known; estimated when None.
            tile: pictures with more than tile * tile pixels are restored in tiles of that side.
        Raises:
            ValueError, TypeError: for a picture of another form (see `pysr.arrays.unpack`), a
                kernel that is not square, finite and near sum 1, or a tile below 32.
        """
        if tile < 32:
            raise ValueError(f"tile: expected at least 32 pixels, got {tile}")
        picture = arrays.unpack(image)
        given = None if kernel is None else self._given(kernel)
        height, width = (self.scale * n for n in picture.rgb.shape[-2:])
        out = picture.empty(height, width)
        found, consistencies = [], []
        for i, rgb in enumerate(picture.rgb):
            lr = rgb[None]
            crops = informative_crops(lr)
            estimate = given or self._estimate(crops)
            self._restore(lr, estimate.code, tile, picture, out[i : i + 1])
            found.append(estimate)
            consistencies.append(self._consistency(lr, out[i : i + 1], crops, estimate.kernel))
        if picture.alpha is not None:
            for rows in _spans(height, 1024):  # by bands: interpolation works in float32
                out[:, 3:, rows] = picture.quantised(
                    _interpolated_rows(picture.alpha, self.scale, rows)
                )
        kernels = torch.stack([e.kernel for e in found])
        return Upscaled(
            image=picture.pack(out),
            kernel=self._like(image, kernels[0] if len(kernels) == 1 else kernels),
            consistency=min(consistencies),
            confidence=min(e.confidence for e in found),
        )

    def estimate(self, image):
        """The blur kernel of a picture: (k, k) float32, non-negative, sums to 1.

        Takes what `__call__` takes (a torch batch of several pictures gives (N, k, k)) and returns
        numpy for numpy, torch for torch. Taps are HR pixels, tap k // 2 is the centre (see
        `pysr.blur`); the downsampling it comes with is bicubic.
        """
        kernels = torch.stack([e.kernel for e in self.estimates(image)])
        return self._like(image, kernels[0] if len(kernels) == 1 else kernels)

    def estimates(self, image) -> list[Estimate]:
        """The same with code and confidence, one for each picture of a batch."""
        rgb = arrays.unpack(image).rgb
        return [self._estimate(informative_crops(picture[None])) for picture in rgb]

    def restore(self, lr: Tensor, code: Tensor, *, tile: int = TILE) -> Tensor:
        """Restore with a kernel code that is known: the Restorer's one pass and nothing else.

        Args:
            lr: (1, 3, H, W) float32 in [0, 1]; the result is on its device.
            code: (1, m).
            tile: as for `__call__`.
        """
        picture = arrays.unpack(lr)
        out = picture.empty(*(self.scale * n for n in lr.shape[-2:]))
        self._restore(picture.rgb, code, tile, picture, out)
        return out

    def _given(self, kernel) -> Estimate:
        kernel = blur.check_kernel(np.asarray(kernel) if not torch.is_tensor(kernel) else kernel)
        code = self.model.encode(kernel[None].to(self.device))
        return Estimate(kernel, code, 1.0)

    def _estimate(self, crops: list[tuple[slice, slice, Tensor]]) -> Estimate:
        # The loop's last picture is made with the kernel of the iteration before (Figure 1).
        iterations = max(self.model.config.iterations - 1, 1)
        lr = torch.cat([crop for _, _, crop in crops])
        codes = self.model.init_ker_map.expand(len(lr), -1)
        for _ in range(iterations):
            codes = self.engine.estimate(lr, self.engine.restore(lr, codes))
        code = codes.mean(0, keepdim=True)
        kernel = self.model.decode(code)[0].cpu()
        confidence = math.nan
        if len(codes) > 1:
            apart = (self.model.decode(codes).cpu() - kernel).abs().sum((1, 2)) / 2
            confidence = 1 - float(apart.mean())
        return Estimate(kernel, code, confidence)

    def _restore(self, lr: Tensor, code: Tensor, tile: int, picture, out: Tensor) -> None:
        """Fill `out` (1, c, s*H, s*W) from lr (1, 3, H, W)."""
        h, w = lr.shape[-2:]
        s, halo = self.scale, self.model.Restorer.halo
        gates = None
        if h * w > tile * tile:
            side = GATE_CROP + 2 * halo
            crops = torch.cat(list(_spread_crops(lr, side, GATE_CROPS)))
            # A crop as long as the picture ends where the picture does: nothing to leave out.
            gates = self.engine.gates(crops, code, tuple(halo * (n > side) for n in (h, w)))
        else:
            tile = max(h, w)
        for rows in _spans(h, tile):
            for columns in _spans(w, tile):
                top, left = max(rows.start - halo, 0), max(columns.start - halo, 0)
                part = lr[..., top : rows.stop + halo, left : columns.stop + halo]
                sr = self.engine.restore(part, code, gates)
                y, x = s * (rows.start - top), s * (columns.start - left)
                size = s * (rows.stop - rows.start), s * (columns.stop - columns.start)
                window = (
                    slice(s * rows.start, s * rows.stop),
                    slice(s * columns.start, s * columns.stop),
                )
                inner = sr[..., y : y + size[0], x : x + size[1]]
                picture.place(out, window, inner.to(out.device))

    def _consistency(self, lr: Tensor, out: Tensor, crops, kernel: Tensor) -> float:
        """PSNR between lr and `out` degraded again, on crops."""
        s, error, count = self.scale, 0.0, 0
        grey = out.shape[1] == 1
        for rows, columns, crop in crops:
            sr = out[:, :3, s * rows.start : s * rows.stop, s * columns.start : s * columns.stop]
            levels = {torch.uint8: 255, torch.uint16: 65535}.get(out.dtype, 1)
            sr = sr.to(torch.float32) / levels
            again = classical(sr, kernel, s, quantise=False)
            # The crop's border is blurred with what lies outside it, which a crop does not have.
            margin = min(math.ceil(kernel.shape[-1] / 2 / s) + 2, (min(crop.shape[-2:]) - 1) // 2)
            inner = slice(margin, -margin or None)
            difference = again - (crop[:, :1] if grey else crop)
            difference = difference[..., inner, inner]
            error += float((difference**2).sum())
            count += difference.numel()
        return math.inf if error == 0 else -10 * math.log10(error / count)

    @staticmethod
    def _like(image, kernel: Tensor):
        """A kernel as numpy for a numpy picture, else as a tensor on the picture's device."""
        if isinstance(image, torch.Tensor):
            return kernel.to(image.device)
        return kernel.numpy()


def informative_crops(lr: Tensor) -> list[tuple[slice, slice, Tensor]]:
    """The crops of (1, 3, H, W) that say most about its blur: rows, columns and (1, 3, h, w) each.

    A picture with no more pixels than all crops together is taken whole. Else every crop is a
    square where the gradient energy that the ones before it leave uncovered is largest: blur shows
    where there is detail.
    """
    h, w = lr.shape[-2:]
    side = ESTIMATE_CROP
    if h * w <= ESTIMATE_CROPS * side**2 or min(h, w) < side:
        return [_crop(lr, *(_middle(n, max(ESTIMATE_CROPS * side, 1)) for n in (h, w)))]
    grey = lr.mean(1)
    energy = torch.zeros_like(grey)
    energy[:, 1:] += (grey[:, 1:] - grey[:, :-1]) ** 2
    energy[:, :, 1:] += (grey[:, :, 1:] - grey[:, :, :-1]) ** 2
    cell = side // 4  # the squares are placed on a grid this fine
    cells = torch.nn.functional.avg_pool2d(energy[None], cell)
    crops = []
    for _ in range(ESTIMATE_CROPS):
        squares = torch.nn.functional.avg_pool2d(cells, 4, stride=1)[0, 0]
        y, x = divmod(int(squares.argmax()), squares.shape[1])
        cells[..., y : y + 4, x : x + 4] = 0
        crops.append(_crop(lr, *(slice(cell * i, cell * i + side) for i in (y, x))))
    return crops


def _crop(lr: Tensor, rows: slice, columns: slice) -> tuple[slice, slice, Tensor]:
    return rows, columns, lr[..., rows, columns]


def _middle(length: int, most: int) -> slice:
    start = max(length - most, 0) // 2
    return slice(start, start + min(length, most))


def _spread_crops(lr: Tensor, side: int, along: int) -> Iterator[Tensor]:
    """Crops of one size, evenly spread over (1, 3, H, W), at most `along` on each axis."""
    h, w = lr.shape[-2:]
    side_y, side_x = min(side, h), min(side, w)
    for y in _starts(h, side_y, along):
        for x in _starts(w, side_x, along):
            yield lr[..., y : y + side_y, x : x + side_x]


def _starts(length: int, side: int, along: int) -> list[int]:
    count = min(along, math.ceil(length / side))
    return [round(i * (length - side) / max(count - 1, 1)) for i in range(count)]


def _spans(length: int, step: int) -> list[slice]:
    """Consecutive slices of about equal length, none longer than `step`, that cover `length`."""
    count = math.ceil(length / step)
    edges = [round(i * length / count) for i in range(count + 1)]
    return [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]


def _interpolated_rows(x: Tensor, scale: int, rows: slice) -> Tensor:
    """Rows of the bicubic upscaling of (N, C, H, W), without making the rest."""
    margin = 3
    first = max(rows.start // scale - margin, 0)
    last = min(math.ceil(rows.stop / scale) + margin, x.shape[-2])
    band = imresize(x[..., first:last, :], scale)
    return band[..., rows.start - first * scale : rows.stop - first * scale, :]


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device: {name!r} is not usable here ({str(error).splitlines()[0]})"
        ) from None
    return device
