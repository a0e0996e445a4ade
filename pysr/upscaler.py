"""The front door: load a model, give it a picture, get the picture back larger and sharper.

How a picture is restored, and what is exact about it:

- The blur kernel is estimated by DAN's loop (dan.txt, Figure 1) on the whole picture when that is
  small, else on the crops with the most detail, whose codes are averaged; then the Restorer makes
  the loop's last pass with that kernel. On a small picture that is the published loop exactly; on a
  large one the paper's finding that a given kernel restores as well (Table 3) is relied on, and
  the loop may be that of a smaller DAN, the scout, which finds the blur as well in a fraction of
  the time.
- Up to TILE x TILE pixels the Restorer sees the whole picture at once. Larger ones are restored
  tile by tile with a halo of the network's receptive field. Convolutions are then exact. Channel
  attention pools over the whole picture, which no tile sees: its gates are computed beforehand from
  crops spread evenly over the picture and are the same for every tile, so tiles meet without a
  seam, and the result differs from the untiled one only by the error of those means.
- exact=True is the published loop on any picture: neither crops nor tiles.
- A plain network (VDSR, RRDB, EDSR, ...) estimates nothing. Its tiles have the halo that it asks
  for: all it sees up to 64 pixels, which is exact; deeper ones (the published RRDB, EDSR, RCAN and
  RDN) see further, and RCAN's attention pools over each tile by itself: there, tiles differ from
  the whole, and where that matters `tile` can be as large as memory allows.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path

import torch
from torch import Tensor, nn

from pysr import arrays, engines
from pysr.blur import check_kernel
from pysr.consistency import consistency
from pysr.engines.defaults import own_defaults
from pysr.estimation import Estimate, check_scout, estimation_of
from pysr.nets import DAN, default_model, load_model, load_scout
from pysr.nets.parts import halo_of, scale_of
from pysr.resize import imresize
from pysr.tiling import Crop, informative_crops, scaled, spans, tiles, whole

TILE = 768
# What errors say that are of no type of their own: torch's allocator of the CPU, CUDA and its
# libraries, ONNX Runtime.
_OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "out of memory",
    "_STATUS_ALLOC_FAILED",
    "Failed to allocate memory",
)


@dataclass(frozen=True)
class Upscaled:
    """A restored picture and what was found out on the way.

    Attributes:
        image: the result, of the type, dtype and device of what went in, s times as large.
        kernel: (k, k) float32, sums to 1: the blur it was restored with; of a torch batch of
            more than one (N, k, k), each picture's own. Of a plain network the one that was given,
            or None.
        consistency: PSNR in dB between the input and the result degraded again with that kernel
            (without one by bicubic downsampling alone), on the crops that a kernel is estimated
            from. Low values (below about 30) say that model and picture do not fit: other blur,
            heavy noise or compression. Identical gives infinity.
        confidence: 0 to 1, how far the crops agree on the kernel (1 minus the mean total variation
            distance from their average), of a batch the lowest there is; 1.0 when the kernel was
            given, NaN when there is one crop or no kernel.
        recomputed: the engine gave NaN or infinity for some of it, which was made again in float32.
    """

    image: object
    kernel: object
    consistency: float
    confidence: float
    recomputed: bool = False


def load(
    model: str | Path | None = None,
    *,
    scale: int | None = None,
    device: str = "auto",
    engine: str = "auto",
    precision: str = "auto",
) -> Upscaler:
    """Load a model for upscaling.

    Args:
        model: a shipped model (`pysr models` lists them), which brings its scout if it has one,
            or a path to a weights file, see `pysr.nets.load_model`; left out, the shipped DAN of
            the scale, which is then 4 unless given.
        scale: what the model must upscale by; a VDSR does so by any factor.
        device: "auto" (CUDA where there is a GPU, else the CPU), "cpu", "cuda", "cuda:1", ...
        engine: "auto" (the fastest that comes up), or one of `pysr.engines.ENGINES`; a plain
            network has "torch" alone.
        precision: what the engine computes in: "float32", "bfloat16", "float16", or "auto": on a
            CPU float32, or where it has matrix tiles bfloat16, on a GPU float16, where the engine
            can. Results are float32 in any case.
    Raises:
        pysr.nets.ModelError: for a model that is unknown, missing, damaged or of another scale.
        ValueError: for a device that is not there, an unknown engine or precision, or an engine
            that cannot serve them.
    """
    if model is None:
        model = default_model(scale)
    with own_defaults():
        network, scout = load_model(model, scale), load_scout(model)
    return Upscaler(network, scout=scout, device=device, engine=engine, precision=precision)


def _by_own_defaults(method: Callable) -> Callable:
    """A method that computes in the types and on the device of its engine, whatever
    `torch.autocast` and default device it is called under."""

    @functools.wraps(method)
    def called(self, *args, **settings):
        with own_defaults(self.device.type):
            return method(self, *args, **settings)

    return called


class Upscaler:
    """Upscales pictures with one model: `pysr.load` makes one.

    A context manager: `close` frees at once what the engine holds (sessions, graphs, weights).
    Pickled, it travels as the arguments below, and is made of them again where it arrives. Other
    processes that use one are to be started with spawn: a fork's threads are not there.

    Args:
        model: a network of `pysr.nets`; or any module that turns (N, 3, H, W) in [0, 1] into (N, 3,
            s*H, s*W), with `scale` (or `config.scale`) and, if it is to be tiled well, `halo`: LR
            pixels of context that a tile needs (64 without it). It is moved to the device.
        kernel: (k, k), the blur assumed whenever a call gives none: a DAN then restores with it
            and estimates nothing.
        scout: for a DAN, another one of its scale and kernel code, and smaller: its loop finds the
            blur of pictures of more than one crop.
        device, engine, precision: as for `load`; any module computes in float32.

    Attributes:
        scale: output over input size; 1 deblurs.

    Raises:
        ValueError: for a scout of another scale or code, or beside a plain network.
        RuntimeError: in a fork of a process that had one, unless torch has one thread there.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        kernel=None,
        scout: DAN | None = None,
        device: str = "auto",
        engine: str = "auto",
        precision: str = "auto",
    ):
        _check_process()
        if scout is not None:
            check_scout(model, scout)
        self._arguments = {
            "model": model,
            "kernel": None if kernel is None else check_kernel(kernel),
            "scout": scout,
            "device": device,
            "engine": engine,
            "precision": precision,
        }
        self.device = usable_device(device)
        self.scale = scale_of(model)
        with own_defaults(self.device.type):
            self.engine = engines.create(engine, model, self.device, precision)
        self.model = model
        self._halo = halo_of(model)
        self._guard = engines.Guard(
            self.engine, lambda: engines.create("torch", model, self.device, "float32")
        )
        self._estimation = estimation_of(model, self._guard, self.device)
        self._scout = None
        try:
            self._assumed = self._estimation.unknown if kernel is None else self.given(kernel)
            if scout is not None:
                self._scout = Upscaler(scout, device=device, engine=engine, precision=precision)
        except BaseException:
            self.close()
            raise

    def __getstate__(self) -> dict:
        return self._arguments

    def __setstate__(self, arguments: dict) -> None:
        self.__init__(**arguments)

    def close(self) -> None:
        """Free what the engine holds; no picture can be upscaled after that."""
        self._guard.close()
        if self._scout is not None:
            self._scout.close()

    def __enter__(self) -> Upscaler:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    @_by_own_defaults
    def warm_up(self, height: int, width: int, tile: int = TILE) -> None:
        """Let the engine build, compile or capture now what the first picture of a size (in input
        pixels) would wait for; worth it before many of that size. Raises ValueError for no pixels,
        a tile below 32, and after `close`."""
        check_tile(tile)
        if not all(isinstance(n, Integral) and n > 0 for n in (height, width)):
            raise ValueError(f"warm_up: expected at least 1x1 whole pixels, got {width}x{height}")
        _check_process()
        parts = tiles(height, width, tile, self._halo)
        needed = {(self, 1, *(s.stop - s.start for s in part.seen)) for part in parts}
        if self._assumed is None:
            # With detail everywhere: of a flat picture fewer crops are taken.
            noise = torch.rand(1, 3, height, width, generator=torch.Generator())
            crops = informative_crops(noise)
            needed.add((self._scouting(crops), len(crops), *crops[0][2].shape[-2:]))
        with contextlib.ExitStack() as stack:
            for upscaler in {upscaler for upscaler, *_ in needed}:
                stack.enter_context(upscaler._guard.in_use())
            for upscaler, *shape in sorted(needed, key=lambda each: each[1:]):
                upscaler.engine.warm_up(*shape)

    @_by_own_defaults
    def __call__(self, image, kernel=None, *, tile: int = TILE, exact: bool = False) -> Upscaled:
        """Restore a picture.

        Args:
            image: numpy (H, W), (H, W, 3) or (H, W, 4), uint8, uint16 or float in [0, 1], RGB;
                torch (N, 3, H, W), float in [0, 1]; anything with __dlpack__, which comes back as a
                torch tensor if it has no __array_namespace__. Any size from 1x1. Alpha is upscaled
                by bicubic interpolation, a grey picture comes back grey.
            kernel: (k, k), the blur if it is known; when None the one assumed, else estimated. A
                plain network's picture does not depend on it.
            tile: pictures with more than tile * tile pixels are restored in tiles of that side. A
                network with 64 channels at full size needs 5 GB for tiles of 768 at x4.
            exact: run the published loop: every iteration on the whole picture, in one piece
                whatever `tile` says. Some times slower, and memory grows with the picture.
        Raises:
            ValueError, TypeError: for a picture of another form (see `pysr.arrays.unpack`), a
                kernel that is not square, finite and near sum 1, a tile below 32, or a model that
                gives NaN or infinity.
            MemoryError: when there is too little, naming what takes less.
        """
        check_tile(tile)
        picture = self._unpacked(image)
        known = self.known(kernel)
        try:
            return self._upscaled(picture, known, tile, exact)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            height, width = picture.rgb.shape[-2:]
            held = min(tile, math.isqrt(width * height))
            less = "without exact" if exact else f"with a tile smaller than {held}"
            words = f"too little memory for {width}x{height} pixels on {self.device}: try again"
            raise MemoryError(f"picture: {words} {less}") from error

    def _upscaled(
        self, picture: arrays.Unpacked, known: Estimate | None, tile: int, exact: bool
    ) -> Upscaled:
        tile = max(*picture.rgb.shape[-2:], tile) if exact else tile
        out = self._room(picture)
        found, consistencies, recomputed = [], [], False
        for i, rgb in enumerate(picture.rgb):
            lr = rgb[None]
            crops = [whole(lr)] if exact else informative_crops(lr)
            estimate = known or self.estimate_on(crops)
            recomputed |= self._restore(lr, estimate, tile, picture, out[i : i + 1])
            found.append(estimate)
            sr = out[i : i + 1]
            consistencies.append(consistency(sr, crops, estimate.kernel, self.scale))
        self._interpolate_alpha(picture, out)
        return Upscaled(
            image=picture.pack(out),
            kernel=_kernels(picture, found),
            consistency=min(consistencies),
            confidence=min(
                (e.confidence for e in found if not math.isnan(e.confidence)), default=math.nan
            ),
            recomputed=recomputed or any(e.recomputed for e in found),
        )

    @_by_own_defaults
    def estimate(self, image):
        """The blur kernel of a picture: (k, k) float32, sums to 1; an estimate is non-negative.

        Takes what `__call__` takes (a torch batch of several pictures gives (N, k, k)) and returns
        numpy for numpy, torch for torch. Taps are HR pixels, tap k // 2 is the centre (see
        `pysr.blur`); the downsampling it comes with is bicubic. Where a kernel is assumed it is
        that one. Raises ValueError for a plain network without one.
        """
        picture = self._unpacked(image)
        return _kernels(picture, self._estimates(picture))

    @_by_own_defaults
    def estimates(self, image) -> list[Estimate]:
        """The same with code and confidence, one for each picture of a batch."""
        return self._estimates(self._unpacked(image))

    def _unpacked(self, image) -> arrays.Unpacked:
        _check_process()
        return arrays.unpack(image)

    def _estimates(self, picture: arrays.Unpacked) -> list[Estimate]:
        known = self._assumed
        if known is not None and known.kernel is not None:
            code = None if known.code is None else known.code.clone()
            return [replace(known, kernel=known.kernel.clone(), code=code) for _ in picture.rgb]
        return [self.estimate_on(informative_crops(rgb[None])) for rgb in picture.rgb]

    def known(self, kernel=None) -> Estimate | None:
        """What a picture is restored with if nothing is estimated: a given kernel or the assumed
        one, for a plain network neither. None if it is to be estimated."""
        return self._assumed if kernel is None else self.given(kernel)

    @_by_own_defaults
    def given(self, kernel) -> Estimate:
        """A known kernel (k, k) as an estimate. Raises ValueError as `__call__` does."""
        return self._estimation.given(kernel)

    @_by_own_defaults
    def estimate_on(self, crops: list[Crop]) -> Estimate:
        """The blur of one picture, from what `informative_crops` took of it, whatever is assumed.

        Raises ValueError for a plain network."""
        return self._scouting(crops)._estimation.on(crops)

    def _scouting(self, crops: list[Crop]) -> Upscaler:
        """The one whose loop runs on these crops."""
        return self if self._scout is None or len(crops) == 1 else self._scout

    @_by_own_defaults
    def restored(
        self, picture: arrays.Unpacked, estimate: Estimate, tile: int = TILE
    ) -> tuple[Tensor, bool]:
        """A picture restored with a blur known beforehand: one Restorer pass and nothing else.

        Returns (1, channels, s*H, s*W) of the user's dtype, for `picture.pack`, and `recomputed` as
        in `Upscaled`. Raises ValueError for more than one picture.
        """
        if len(picture.rgb) != 1:
            raise ValueError(f"image: expected one picture, got a batch of {len(picture.rgb)}")
        out = self._room(picture)
        recomputed = self._restore(picture.rgb, estimate, tile, picture, out)
        self._interpolate_alpha(picture, out)
        return out, recomputed

    @_by_own_defaults
    def consistency(self, lr: Tensor, out: Tensor, kernel: Tensor | None) -> float:
        """As in `Upscaled`, of lr (1, 3, H, W) and what `restored` made of it."""
        return consistency(out, informative_crops(lr), kernel, self.scale)

    def stream(
        self, frames: Iterable, kernel=None, *, tile: int = TILE, on_shot: Callable | None = None
    ) -> Iterator[Upscaled]:
        """Restore the frames of a video as they come: see `pysr.video.stream.stream`."""
        from pysr.video.stream import stream  # which is built on this file

        _check_process()
        return stream(self, frames, kernel, tile=tile, on_shot=on_shot)

    def _room(self, picture: arrays.Unpacked) -> Tensor:
        return picture.empty(*(self.scale * n for n in picture.rgb.shape[-2:]))

    def _interpolate_alpha(self, picture: arrays.Unpacked, out: Tensor) -> None:
        if picture.alpha is None:
            return
        for rows in spans(out.shape[-2], 1024):  # by bands: interpolation works in float32
            out[:, 3:, rows] = picture.quantised(
                _interpolated_rows(picture.alpha, self.scale, rows)
            )

    def _restore(self, lr: Tensor, estimate: Estimate, tile: int, picture, out: Tensor) -> bool:
        """Fill `out` (1, c, s*H, s*W) from lr (1, 3, H, W); whether it took two attempts."""
        s, code = self.scale, estimate.code
        parts = tiles(*lr.shape[-2:], tile, self._halo)

        def fill(engine) -> tuple[None, Tensor]:
            gates, total = None, 0
            if len(parts) > 1:
                gates = self._estimation.gates(engine, lr, estimate, self._halo)
            for part in parts:
                sr = engine.restore(lr[(..., *part.seen)], code, gates)
                total = total + sr.sum()
                window = tuple(scaled(kept, s) for kept in part.kept)
                inner = tuple(
                    scaled(kept, s, -seen.start)
                    for kept, seen in zip(part.kept, part.seen, strict=True)
                )
                picture.place(out, window, sr[(..., *inner)].to(out.device))
            return None, total

        return self._guard.run("picture", fill)[1]


def _kernels(picture: arrays.Unpacked, found: list[Estimate]):
    """The kernels found, as `Upscaled.kernel`."""
    if found[0].kernel is None:
        return None
    kernels = torch.stack([each.kernel for each in found])
    return picture.like(kernels[0] if len(kernels) == 1 else kernels)


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: most libraries raise an error like any other, which says so."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(words in str(error) for words in _OUT_OF_MEMORY)


def check_tile(tile: int) -> None:
    """Raises ValueError for a side that no tile can have, TypeError for what is no integer."""
    if not isinstance(tile, Integral):
        raise TypeError(f"tile: expected an integer, got {tile!r}")
    if tile < 32:
        raise ValueError(f"tile: expected at least 32 pixels, got {tile}")


# Where OpenMP's threads were started. They do not survive a fork: the child would wait for ever.
_threads_of: int | None = None


def _check_process() -> None:
    global _threads_of
    if torch.get_num_threads() == 1:
        return
    _threads_of = _threads_of or os.getpid()
    if _threads_of != os.getpid():
        raise RuntimeError(
            "upscaler: expected a process started by spawn, got a fork of one that had an Upscaler "
            "(only one thread works in it: torch.set_num_threads(1))"
        )


def _interpolated_rows(x: Tensor, scale: int, rows: slice) -> Tensor:
    """Rows of the bicubic upscaling of (N, C, H, W), without making the rest."""
    margin = 3
    first = max(rows.start // scale - margin, 0)
    last = min(math.ceil(rows.stop / scale) + margin, x.shape[-2])
    band = imresize(x[..., first:last, :], scale)
    return band[..., rows.start - first * scale : rows.stop - first * scale, :]


def usable_device(name: str) -> torch.device:
    """The device of that name, "auto" being a GPU where there is one; ValueError without it.

    A GPU has its index, because threads may have different current ones.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        torch.zeros(1, device=device).item()  # the device meta has no values
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        raise ValueError(
            f"device: {name!r} is not usable here ({str(error).splitlines()[0]})"
        ) from None
    return device
