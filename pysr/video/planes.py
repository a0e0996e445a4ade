"""How a pixel format lies in memory, and planes in and out of FFmpeg's frames.

Everything is brought to planar samples in the machine's byte order: YUV as it is, RGB in any
packing to green, blue, red. swscale does that; it only moves samples here, none is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from pysr.video.clip import VideoError, pyav

_YUV = {(2, 2): "yuv420p", (2, 1): "yuv422p", (1, 1): "yuv444p", (1, 2): "yuv440p"}


@dataclass(frozen=True)
class Layout:
    """What a pixel format holds.

    Attributes:
        planar: FFmpeg's name of the planar format of the same samples.
        depth: bits a sample, 8 to 16.
        subsampling: of chroma, across and down.
        rgb, grey, alpha: whether it is RGB, has no colour, has transparency.
    """

    planar: str
    depth: int
    subsampling: tuple[int, int]
    rgb: bool
    grey: bool
    alpha: bool


@lru_cache
def layout(pixel_format: str) -> Layout:
    """Raises VideoError for a format that is not integer YUV, grey or RGB of 8 to 16 bits."""
    av = pyav()
    try:
        found = av.VideoFormat(pixel_format, 16, 16)
    except ValueError:
        raise VideoError(f"pixel format {pixel_format!r}: FFmpeg has no such format") from None
    bits = {component.bits for component in found.components}
    rgb = found.is_rgb or found.has_palette
    colours = 3 if found.has_palette else len(found.components)
    grey = colours <= 2
    subsampling = (1, 1)
    if not (rgb or grey):
        subsampling = (16 // found.chroma_width(16), 16 // found.chroma_height(16))
    stem = "gbrp" if rgb else "gray" if grey else _YUV.get(subsampling)
    depth = min(bits, default=0)
    planar = stem if depth == 8 else f"{stem}{depth}le"
    floating = any(part in pixel_format for part in ("f16", "f32"))
    other = pixel_format.startswith("xyz")  # FFmpeg counts it as RGB
    if stem is None or not 8 <= depth <= 16 or floating or other or not _exists(planar):
        raise VideoError(
            f"pixel format {pixel_format}: expected YUV 4:2:0, 4:2:2 or 4:4:4, grey or RGB of 8 to "
            "16 bits; convert the clip first"
        )
    return Layout(planar, depth, subsampling, rgb, grey, alpha=colours in (2, 4))


def _exists(name: str) -> bool:
    try:
        return bool(pyav().VideoFormat(name))
    except ValueError:
        return False


def from_frame(frame) -> tuple[Tensor, Tensor, Tensor]:
    """Copies of a frame's planes; the chroma of a grey frame is neutral."""
    found = layout(frame.format.name)
    # yuvj420p and its like are the planar formats under an older name.
    if frame.format.name.replace("yuvj", "yuv") != found.planar:
        frame = _moved(frame, found.planar)
    planes = [torch.from_numpy(_view(plane, found.depth).copy()) for plane in frame.planes]
    if found.grey:
        neutral = torch.full((1, 1), 1 << (found.depth - 1), dtype=torch.int32)
        planes += [neutral.to(planes[0].dtype).expand_as(planes[0])] * 2
    return tuple(planes)


def to_frame(planes: tuple[Tensor, Tensor, Tensor], pixel_format: str):
    """A frame that holds copies of the planes of its format's layout."""
    height, width = planes[0].shape
    wanted = layout(pixel_format)
    frame = pyav().VideoFrame(width, height, wanted.planar)
    for plane, values in zip(frame.planes, planes, strict=True):
        _view(plane, wanted.depth)[:] = values.cpu().numpy()
    return frame if wanted.planar == pixel_format else _moved(frame, pixel_format)


def _moved(frame, pixel_format: str):
    """The frame's samples in another layout.

    On one thread: swscale writes whole vectors past the end of a row, and with several threads into
    a row that another has finished (FFmpeg 8, p010le 1366 wide: 576 of 600 frames were wrong).
    """
    return frame.reformat(format=pixel_format, threads=1)


def _view(plane, depth: int) -> np.ndarray:
    """(h, w) of a plane, without what pads its rows."""
    samples = np.frombuffer(plane, np.uint8 if depth == 8 else np.uint16)
    stride = plane.line_size // samples.itemsize
    return samples[: stride * plane.height].reshape(plane.height, stride)[:, : plane.width]
