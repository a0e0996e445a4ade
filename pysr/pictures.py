"""Picture files: read with everything worth keeping, written whole or not at all.

Pillow reads and writes all but one kind: it cuts 16-bit colour down to 8 bits without a word, so
those pixels pass through OpenCV.
"""

from __future__ import annotations

import io
import math
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    EXTRASAMPLES,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
)

from pysr.files import is_writable, written_whole

# About 10000 x 10000; a file that claims more is an accident or an attack (a decompression bomb).
MAX_PIXELS = 100_000_000
READABLE = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_HOLDS_ALPHA = (".png", ".webp", ".tif", ".tiff")
_ORIENTATION = 0x0112
# Tags of a TIFF file's pixels, which Pillow gives with those of its EXIF block: what lies where, in
# which form. They are the old file's.
_STRUCTURE = frozenset(
    (*range(0xFE, 0x108), 0x10A, 0x111, *range(0x115, 0x11A), 0x11C, 0x11D, 0x120, 0x121)
    + (0x122, 0x123, 0x124, 0x125, 0x12D, 0x13D, *range(0x140, 0x14F), *range(0x150, 0x15C))
    + (*range(0x200, 0x216), 0x8773)
)
_CAMERA = 0x8769
_SIZE = (0xA002, 0xA003)  # in that folder, of this picture
_EXIF_FOLDERS = (_CAMERA, 0x8825)  # of the camera and of the place
# Sides that a format can have at most.
_LARGEST = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383}
_SAVE_OPTIONS = {
    ".jpg": {"quality": 95, "subsampling": 0},
    ".jpeg": {"quality": 95, "subsampling": 0},
    ".webp": {"lossless": True, "exact": True},  # colours under full transparency too
    ".tif": {"compression": "tiff_deflate"},
    ".tiff": {"compression": "tiff_deflate"},
}


class PictureError(ValueError):
    """A picture file that cannot be read or written; the message is one line naming the file."""


@dataclass(frozen=True)
class Picture:
    """Pixels and what travels with them.

    Attributes:
        pixels: (H, W), (H, W, 3) or (H, W, 4), uint8 or uint16, RGB, upright.
        icc: colour profile, or None.
        exif: EXIF block without its orientation (the pixels are upright already), or None.

    Raises PictureError for other pixels, and for none.
    """

    pixels: np.ndarray
    icc: bytes | None = field(default=None, repr=False)
    exif: bytes | None = field(default=None, repr=False)

    def __post_init__(self):
        shape, dtype = self.pixels.shape, self.pixels.dtype
        channels = shape[2:] in ((), (3,), (4,)) and len(shape) > 1
        if dtype not in (np.uint8, np.uint16) or not channels or 0 in shape:
            raise PictureError(
                "pixels: expected (H, W), (H, W, 3) or (H, W, 4) of uint8 or uint16, none of them "
                f"empty, got {shape} of {dtype}"
            )

    def with_pixels(self, pixels: np.ndarray) -> Picture:
        return replace(self, pixels=pixels)


def read(path: str | Path) -> Picture:
    """Read a picture file: grey, grey with alpha, RGB, RGBA or palette, 8 or 16 bits a channel;
    also 12 bits of grey, which become 16.

    Raises:
        PictureError: missing, empty, truncated, not a picture, animated, of another colour model,
            16-bit colour in planes, or of more than MAX_PIXELS pixels.
    """
    path = Path(path)
    if path.is_dir():
        raise PictureError(f"{path}: expected a file, this is a folder")
    if not path.is_file():
        raise PictureError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise PictureError(f"{path}: the file is empty")
    try:
        # By its name Pillow 13 maps a file into memory, and scrambles a TIFF that is to be turned.
        with _no_pillow_limit, path.open("rb") as file, Image.open(file) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise PictureError(
                    f"{path}: expected at most {MAX_PIXELS} pixels, "
                    f"the file claims {width}x{height}"
                )
            # Cameras put a preview behind a picture.
            if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
                raise PictureError(f"{path}: expected one picture, the file has {image.n_frames}")
            return _decode(path, image)
    except PictureError:
        raise
    except Exception as error:  # Pillow meets damage in many ways
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise PictureError(f"{path}: not a readable picture ({reason})") from None


def eight_bit(pixels: np.ndarray) -> np.ndarray:
    """The nearest uint8 levels of `Picture.pixels`."""
    if pixels.dtype != np.uint16:
        return pixels
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def eight_bit_rgb(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 of `Picture.pixels`, without their transparency."""
    pixels = eight_bit(pixels)
    return np.stack([pixels] * 3, -1) if pixels.ndim == 2 else pixels[..., :3]


def _decode(path: Path, image: Image.Image) -> Picture:
    depth, tags = _depth(path, image), image.tag_v2 if image.format == "TIFF" else {}
    deep_colour = depth == 16 and image.mode in ("RGB", "RGBA")
    if deep_colour and tags.get(PLANAR_CONFIGURATION) == 2:  # OpenCV would leave its memory unset
        raise PictureError(
            f"{path}: 16-bit colour is not read from planes stored apart; save it interleaved"
        )
    # Raises on truncated data, which OpenCV would pad without a word; turns a TIFF upright.
    image.load()
    icc, transparent = image.info.get("icc_profile"), image.info.get("transparency")
    exif, orientation = _exif(path, image)
    if image.mode.startswith("I;16"):
        pixels = np.array(image).astype(np.uint16)
        if depth == 12:  # Pillow leaves them in the lower bits
            pixels = np.round(pixels * (65535 / 4095)).astype(np.uint16)
        if tags.get(PHOTOMETRIC_INTERPRETATION) == 0:  # 0 is white
            pixels = 65535 - pixels
        if transparent is not None:
            pixels = _with_alpha(np.stack([pixels] * 3, -1), [transparent] * 3)
    elif deep_colour:
        pixels = _sixteen_bit(path)[..., : len(image.mode)]  # a fourth sample may be no alpha
        if tags.get(EXTRASAMPLES) == (1,):
            pixels = _unmultiplied(pixels)
        if transparent is not None:
            pixels = _with_alpha(pixels, transparent)
    elif image.mode in ("LA", "PA", "La", "RGBa") or transparent is not None:
        if image.mode == "L" and depth < 8:  # Pillow widens the levels, but not this one of them
            image.info["transparency"] = transparent * 255 // (2**depth - 1)
        pixels = np.array(image.convert("RGBA"))
    elif image.mode in ("1", "P"):
        pixels = np.array(image.convert("L" if image.mode == "1" else "RGB"))
    elif image.mode in ("L", "RGB", "RGBA"):
        pixels = np.array(image)
    else:
        raise PictureError(f"{path}: expected grey, RGB or RGBA, got {image.mode}")
    if icc and pixels.ndim == 3 and icc[16:20] == b"GRAY":
        icc = None  # of grey that has become RGB
    return Picture(_upright(pixels, orientation), icc, exif)


def _exif(path: Path, image: Image.Image) -> tuple[bytes | None, int]:
    """The EXIF block without what is only true of this file, and the orientation."""
    orientation = 1
    try:
        exif = image.getexif()
        orientation = exif.pop(_ORIENTATION, 1)
        for tag in _STRUCTURE & set(exif):
            del exif[tag]
        if _CAMERA in exif:  # asking for the folder makes one
            for tag in _SIZE:
                exif.get_ifd(_CAMERA).pop(tag, None)
            if not exif.get_ifd(_CAMERA):
                del exif[_CAMERA]
        return (exif.tobytes() if len(exif) else None), orientation
    except Exception as error:  # what is no EXIF, or tags of types that they cannot have
        warnings.warn(f"{path}: its EXIF is left out, it is damaged ({error})", stacklevel=2)
        return None, orientation


def _with_alpha(rgb: np.ndarray, transparent: Sequence[int]) -> np.ndarray:
    """16-bit RGB, and transparent where it is the one colour that stands for that."""
    opaque = (rgb != np.array(transparent, rgb.dtype)).any(-1, keepdims=True)
    return np.concatenate([rgb, opaque * rgb.dtype.type(65535)], -1)


def _unmultiplied(rgba: np.ndarray) -> np.ndarray:
    """16-bit RGBA of one whose colours were multiplied by its alpha; rounded down, as Pillow does
    in 8 bits."""
    rgb, alpha = rgba[..., :3], rgba[..., 3:]
    rgb = np.minimum(rgb, alpha).astype(np.uint32) * 65535 // np.maximum(alpha, 1)
    return np.concatenate([rgb.astype(np.uint16), alpha], -1)


def _depth(path: Path, image: Image.Image) -> int:
    """Bits of a sample in a PNG or TIFF file; 8 for other formats."""
    if image.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24]  # in the header chunk
    return max(image.tag_v2.get(BITSPERSAMPLE, (8,))) if image.format == "TIFF" else 8


def _sixteen_bit(path: Path) -> np.ndarray:
    """Pixels of 16-bit colour, in RGB order."""
    with _quiet_opencv:
        pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        raise PictureError(f"{path}: 16-bit colour that OpenCV does not read")
    order = cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB
    return cv2.cvtColor(pixels, order)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (1 to 8)."""
    if orientation in (5, 6, 7, 8):
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def check_writable(path: str | Path, picture: Picture | None = None, scale: int = 1) -> Path:
    """Refuse an output path before the work is done.

    Raises PictureError when the folder is missing or not writable, the format is unknown, or it
    cannot hold what the picture has (transparency, 16 bits), or `scale` times its size.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in READABLE:
        raise PictureError(f"{path}: expected a name ending in {', '.join(READABLE)}")
    if not path.parent.is_dir():
        raise PictureError(f"{path}: no folder {path.parent}")
    if not is_writable(path):
        raise PictureError(f"{path}: cannot be written")
    reason = None if picture is None else misfit(path, picture, scale)
    if reason is not None:
        raise PictureError(f"{path}: {reason}; use a .png name")
    return path


def misfit(path: Path, picture: Picture, scale: int = 1) -> str | None:
    """Why the format of a name cannot hold a picture of `scale` times the size, or None."""
    suffix = path.suffix.lower()
    if picture.pixels.ndim == 3 and picture.pixels.shape[2] == 4 and suffix not in _HOLDS_ALPHA:
        return "this format has no transparency"
    if picture.pixels.dtype == np.uint16 and suffix != ".png":
        return "16-bit pictures are written as .png"
    side, most = scale * max(picture.pixels.shape[:2]), _LARGEST.get(suffix, math.inf)
    if side > most:
        return f"this format holds at most {most} pixels a side, the result has {side}"
    return None


def write(path: str | Path, picture: Picture) -> None:
    """Write a picture, whole or not at all.

    Raises PictureError as `check_writable`, OSError when the file system refuses.
    """
    path = check_writable(path, picture)
    # In memory: libtiff, which would write the file itself, does not say why it could not.
    content = encoded(path, picture)
    with written_whole(path) as beside:
        beside.write_bytes(content)


def encoded(path: Path, picture: Picture) -> memoryview:
    """The content of a picture's file; its name says the format. EXIF or a colour profile that
    the format does not take is left out with a warning. Raises PictureError where the picture
    itself cannot be encoded."""
    deep_colour = picture.pixels.dtype == np.uint16 and picture.pixels.ndim == 3
    try:
        if deep_colour:
            return _encoded_sixteen_bit(picture)
        if path.suffix.lower() == ".bmp" and (picture.icc or picture.exif):
            words = f"{path}: colour profile and EXIF are left out, BMP has none"
            warnings.warn(words, stacklevel=2)
        return _encoded_by_pillow(path.suffix.lower(), picture)
    except (ValueError, RuntimeError) as error:
        # JPEG has no room for long EXIF, libtiff checks its values; libpng checks a profile.
        part, name = ("icc", "colour profile") if deep_colour else ("exif", "EXIF")
        if getattr(picture, part) is None:
            raise PictureError(f"{path}: could not be encoded ({error})") from None
        warnings.warn(f"{path}: the {name} is left out ({error})", stacklevel=2)
        return encoded(path, replace(picture, **{part: None}))


def _encoded_by_pillow(suffix: str, picture: Picture) -> memoryview:
    metadata = {"icc_profile": picture.icc, "exif": picture.exif}
    metadata = {name: value for name, value in metadata.items() if value}
    options = _SAVE_OPTIONS.get(suffix, {})
    if suffix in (".tif", ".tiff") and _has_folders(picture.exif):
        options = {}  # libtiff, which compresses, does not write them
    kind, content = Image.registered_extensions()[suffix], io.BytesIO()
    Image.fromarray(picture.pixels).save(content, kind, **options, **metadata)
    return content.getbuffer()


def _has_folders(exif: bytes | None) -> bool:
    block = Image.Exif()
    block.load(exif or b"")
    return any(tag in block for tag in _EXIF_FOLDERS)


def _encoded_sixteen_bit(picture: Picture) -> memoryview:
    order = cv2.COLOR_RGBA2BGRA if picture.pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR
    kinds, blocks = [], []
    if picture.icc:
        kinds.append(cv2.IMAGE_METADATA_ICCP)
        blocks.append(np.frombuffer(picture.icc, np.uint8))
    if picture.exif:
        kinds.append(cv2.IMAGE_METADATA_EXIF)
        blocks.append(np.frombuffer(picture.exif.removeprefix(b"Exif\0\0"), np.uint8))
    pixels = cv2.cvtColor(picture.pixels, order)
    with _quiet_opencv:
        done, data = cv2.imencodeWithMetadata(".png", pixels, kinds, blocks)
    if not done:
        raise ValueError("OpenCV does not take it as a 16-bit PNG")
    return data.data


def listing(folder: str | Path, endings: Sequence[str] = READABLE) -> list[Path]:
    """The files of a folder with those endings, as `files_of`; PictureError if there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise PictureError(f"{folder}: no such folder")
    paths = files_of(folder, endings)
    if not paths:
        raise PictureError(f"{folder}: no files of {', '.join(endings)} in this folder")
    return paths


def files_of(folder: Path, endings: Sequence[str] = READABLE) -> list[Path]:
    """The files of a folder with those endings, maybe none, sorted by name; hidden ones are left
    out: macOS leaves a ._name beside each on foreign disks."""
    names = (p for p in folder.iterdir() if not p.name.startswith("."))
    return sorted(p for p in names if p.suffix.lower() in endings and p.is_file())


class _Setting:
    """A setting of a library, which is one for all threads: it has another value while any of them
    is inside."""

    def __init__(self, exchange: Callable, value: object):
        """`exchange` sets a value and returns the one before."""
        self._exchange, self._value = exchange, value
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = self._exchange(self._value)
            self._inside += 1

    def __exit__(self, *_) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._exchange(self._before)


def _exchange_pillow_limit(pixels: int | None) -> int | None:
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, pixels
    return before


# Pillow's limit of pixels has words of its own; ours is checked instead.
_no_pillow_limit = _Setting(_exchange_pillow_limit, None)
_quiet_opencv = _Setting(cv2.utils.logging.setLogLevel, cv2.utils.logging.LOG_LEVEL_SILENT)
