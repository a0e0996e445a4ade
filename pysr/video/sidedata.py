"""What FFmpeg hands out as raw bytes or words beside the picture: HDR10, display matrix, chroma.

PyAV gives side data of decoded frames as bytes of FFmpeg's public structs. The chroma location it
does not expose at all; FFmpeg's own description of the file names it.
"""

from __future__ import annotations

import re
import struct
import threading
from fractions import Fraction

from pysr.video.clip import Hdr, pyav

# Kinds that pysr carries itself, or that mean nothing after re-encoding.
_CARRIED = {"DISPLAYMATRIX", "MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"}
_MEANINGLESS = {"SEI_UNREGISTERED", "MOTION_VECTORS", "VIDEO_ENC_PARAMS", "QP_TABLE_DATA"}
_LOST = {
    "A53_CC": "closed captions inside the video frames",
    "DYNAMIC_HDR_PLUS": "HDR10+ dynamic metadata",
    "DOVI_RPU_BUFFER": "Dolby Vision metadata",
    "DOVI_METADATA": "Dolby Vision metadata",
    "DYNAMIC_HDR_VIVID": "HDR Vivid dynamic metadata",
    "FILM_GRAIN_PARAMS": "film grain parameters (the grain itself is in the frames)",
    "ICC_PROFILE": "the ICC profile",
    "STEREO3D": "stereo 3D packing",
    "SPHERICAL": "the spherical (360 degree) projection",
    "S12M_TIMECODE": "timecodes inside the video frames",
    "GOP_TIMECODE": "timecodes inside the video frames",
}
_CHROMA_LOCATIONS = ("left", "center", "topleft", "top", "bottomleft", "bottom")
_log_levels = threading.Lock()


def _bytes(frame, kind: str) -> bytes | None:
    return next((bytes(data) for data in frame.side_data if data.type.name == kind), None)


def display_matrix(frame) -> tuple[int, ...] | None:
    """Nine integers of a frame's display matrix; None when there is none or it turns nothing."""
    data = _bytes(frame, "DISPLAYMATRIX")
    if data is None:
        return None
    matrix = struct.unpack("=9i", data)
    upright = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    return None if matrix == upright else matrix


def hdr(frame) -> Hdr | None:
    """HDR10 metadata of a frame (AVMasteringDisplayMetadata, AVContentLightMetadata)."""
    primaries = luminance = light = None
    mastering, content = (
        _bytes(frame, kind) for kind in ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL")
    )
    if mastering is not None:
        *numbers, has_primaries, has_luminance = struct.unpack("=22i", mastering)
        values = [Fraction(n, d) if d else None for n, d in zip(*[iter(numbers)] * 2, strict=True)]
        if has_primaries and None not in values[:8]:
            primaries = tuple(values[:8])
        if has_luminance and None not in values[8:]:
            luminance = (values[8], values[9])
    if content is not None:
        light = struct.unpack("=2I", content[:8])
    found = Hdr(primaries, luminance, light)
    return None if found == Hdr() else found


def lost(frame) -> tuple[str, ...]:
    """What travels with the frames and cannot be carried into a result, in words."""
    kinds = {data.type.name for data in frame.side_data} - _CARRIED - _MEANINGLESS
    words = {_LOST.get(kind, f"side data of the kind {kind.lower()}") for kind in kinds}
    return tuple(sorted(words))


def description(container) -> str:
    """A file in FFmpeg's own words, which name what PyAV does not expose."""
    log = pyav().logging
    with _log_levels:
        # Only verbose descriptions name it. Both levels are FFmpeg's defaults afterwards.
        level = log.get_level()
        log.set_libav_level(log.VERBOSE)
        log.set_level(log.VERBOSE)
        try:
            return container.dumps_format()
        finally:
            log.set_level(level)
            log.set_libav_level(log.INFO)


def chroma_location(description: str, stream: int) -> int:
    """FFmpeg's number of a stream's chroma location, 0 when unspecified."""
    described = re.search(rf"Stream #0:{stream}\b.*?Video: (.*)", description)
    inside = re.search(r"\w\(([^()]*)\)(?:, \d+x\d+|\s*$)", described[1]) if described else None
    names = re.split(r"[,/ ]+", inside[1]) if inside else []
    return next((i + 1 for i, name in enumerate(_CHROMA_LOCATIONS) if name in names), 0)


def crop_lost(description: str, stream: int) -> tuple[str, ...]:
    """The crop that a container states for a stream, which no decoder applies, in words."""
    described = re.search(rf"Stream #0:{stream}\b(?:(?!Stream #).)*", description, re.DOTALL)
    crop = re.search(r"Frame Cropping: (\S+)", described[0]) if described else None
    return (f"the crop {crop[1]} that the container states",) if crop else ()
