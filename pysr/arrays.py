"""Pictures as users hold them, and back: numpy, torch, or anything that speaks DLPack.

Inside the library a picture is a (N, 3, H, W) float32 tensor in [0, 1], RGB. `unpack` takes a
user's array apart into that and what the network does not see (transparency, type, device, shape);
the `Unpacked` it returns puts a result together again in the user's own form.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_LEVELS = {torch.uint8: 255, torch.uint16: 65535}
_DLPACK_CPU = 1
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Unpacked:
    """A user's picture, taken apart.

    Attributes:
        rgb: (N, 3, H, W) float32 in [0, 1].
        alpha: (N, 1, H, W) float32 in [0, 1], or None.
        dtype: the user's, as a torch dtype.
        channels: of the user's array: 1, 3 or 4; batched: it was a torch (N, 3, H, W).
        wrap: turns a torch tensor into the user's array type.
    """

    rgb: Tensor
    alpha: Tensor | None
    dtype: torch.dtype
    channels: int
    batched: bool
    wrap: Callable[[Tensor], object]

    def empty(self, height: int, width: int) -> Tensor:
        """Room for a result of another size: (N, channels, height, width), the user's dtype.

        In memory it lies as the user will have it, so that `pack` copies nothing.
        """
        return torch.empty(
            (len(self.rgb), self.channels, height, width),
            dtype=self.dtype,
            device=self.rgb.device,
            memory_format=torch.contiguous_format if self.batched else torch.channels_last,
        )

    def quantised(self, x: Tensor) -> Tensor:
        """Values in [0, 1] to the user's dtype: clipped, rounded where that is an integer type."""
        x = x.clamp(0, 1)
        if self.dtype in _LEVELS:
            x = (x * _LEVELS[self.dtype]).round_()
            # Floats are not converted to uint16 on every device; int32 is.
            x = x.to(torch.int32)
        return x.to(self.dtype)

    def place(self, out: Tensor, window: tuple[slice, slice], rgb: Tensor) -> None:
        """Write (N, 3, h, w) of a result, of a grey one (N, 1 or 3, h, w), into `out`, which
        `empty` made."""
        if self.channels == 1:
            rgb = rgb.clamp(0, 1).mean(1, keepdim=True)
        out[:, : min(self.channels, 3), window[0], window[1]] = self.quantised(rgb)

    def like(self, x: Tensor):
        """A finding beside the picture: a tensor on its device for a torch picture, else numpy."""
        return x.to(self.rgb.device) if self.batched else x.numpy()

    def pack(self, out: Tensor) -> object:
        """`out`, filled, as the user's own type and layout."""
        if self.batched:
            return self.wrap(out)
        picture = out[0, 0] if self.channels == 1 else out[0].permute(1, 2, 0).contiguous()
        return self.wrap(picture)


def unpack(image) -> Unpacked:
    """Take a user's picture apart.

    Args:
        image: numpy (H, W), (H, W, 3) or (H, W, 4), uint8, uint16, or floating point in [0, 1],
            RGB; or torch (N, 3, H, W), floating point in [0, 1]; or an array with __dlpack__ of one
            of the numpy shapes. Floating point a little outside [0, 1] is clipped. What has no
            __array_namespace__ to come back by comes back as a torch tensor of that shape.
    Raises:
        TypeError: for another type or dtype, a masked array, a torch tensor that is sparse or meta.
        ValueError: for another shape, no pixels, NaN or infinity, values below -1 or above 2.
    """
    if isinstance(image, torch.Tensor):
        tensor, batched, wrap = image.detach(), True, lambda t: t
        if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point():
            raise ValueError(
                "image: expected a torch tensor (N, 3, H, W), floating point in [0, 1], "
                f"got {image.dtype} {tuple(image.shape)}"
            )
        if image.layout != torch.strided or image.is_meta:
            got = "one on the device meta" if image.is_meta else image.layout
            raise TypeError(f"image: expected a dense torch tensor with values, got {got}")
    else:
        tensor, wrap = _foreign(image)
        batched = False
        if tensor.ndim not in (2, 3) or (tensor.ndim == 3 and tensor.shape[2] not in (1, 3, 4)):
            raise ValueError(
                f"image: expected (H, W), (H, W, 3) or (H, W, 4), got {tuple(tensor.shape)}"
            )
        if tensor.ndim == 3 and tensor.shape[2] == 1:
            raise ValueError(
                f"image: a grey picture has the shape (H, W), got {tuple(tensor.shape)}"
            )
        tensor = tensor[..., None] if tensor.ndim == 2 else tensor
        tensor = tensor.permute(2, 0, 1)[None]
    if tensor.numel() == 0:
        raise ValueError(f"image: expected at least one pixel, got shape {tuple(tensor.shape)}")
    if tensor.dtype in _LEVELS:
        values = as_float(tensor)
    elif tensor.dtype in _FLOATS:
        values = tensor.to(torch.float32)
        least, most = torch.stack(torch.aminmax(values)).tolist()
        if not (math.isfinite(least) and math.isfinite(most)):
            raise ValueError("image: expected finite values, got NaN or infinity")
        if least < -1 or most > 2:  # beyond what sharpening a picture in [0, 1] leaves
            raise ValueError(f"image: expected values in [0, 1], got {least:.4g} to {most:.4g}")
    else:
        raise TypeError(f"image: expected uint8, uint16 or floating point, got {tensor.dtype}")
    channels = tensor.shape[1]
    rgb = values[:, :1].expand(-1, 3, -1, -1) if channels == 1 else values[:, :3]
    alpha = values[:, 3:].clamp(0, 1) if channels == 4 else None
    return Unpacked(rgb.clamp(0, 1), alpha, tensor.dtype, channels, batched, wrap)


def as_float(tensor: Tensor) -> Tensor:
    """A copy of pixels of any dtype that pictures have, float32 in [0, 1]."""
    return tensor.to(torch.float32) / _LEVELS.get(tensor.dtype, 1)


def _foreign(image) -> tuple[Tensor, Callable[[Tensor], object]]:
    """A torch tensor sharing memory with a numpy or DLPack array, and the way back."""
    if isinstance(image, np.ma.MaskedArray):
        raise TypeError("image: expected an array without a mask, got a numpy masked array")
    if isinstance(image, np.ndarray):
        flags, strides = image.flags, image.strides
        # torch takes none of the first three (the third are views of structured arrays), and warns
        # of the fourth: Pillow's pictures are so.
        apart = any(stride % max(image.itemsize, 1) for stride in strides)
        backward = min(strides, default=0) < 0
        if not image.dtype.isnative or backward or apart or not flags.writeable:
            image = np.array(image, dtype=image.dtype.newbyteorder("="), order="C")
        try:
            return torch.from_numpy(image), lambda t: t.cpu().numpy()
        except TypeError:
            raise TypeError(
                f"image: expected uint8, uint16 or floating point, got {image.dtype}"
            ) from None
    if not hasattr(image, "__dlpack__") or not hasattr(image, "__dlpack_device__"):
        raise TypeError(
            f"image: expected numpy, torch or an array with __dlpack__, got {type(image).__name__}"
        )
    namespace = image.__array_namespace__() if hasattr(image, "__array_namespace__") else None
    back = (lambda t: t) if namespace is None else namespace.from_dlpack
    if image.__dlpack_device__()[0] == _DLPACK_CPU:
        with contextlib.suppress(BufferError, RuntimeError):  # of a type that numpy has not
            image = np.from_dlpack(image)  # it tells strides that nobody else does
        if isinstance(image, np.ndarray):
            return _foreign(image)[0], back
    if min(getattr(image, "strides", None) or (0,)) < 0:  # which torch aborts at
        if namespace is None:
            raise ValueError(f"image: expected strides of at least 0, got {tuple(image.strides)}")
        image = namespace.asarray(image, copy=True)
    return torch.from_dlpack(image), back
