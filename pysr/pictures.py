"""Picture files: read with everything worth keeping, written whole or not at all.

Pillow reads and writes all but one kind: it cuts 16-bit colour down to 8 bits without a word, so
those pixels pass through OpenCV.
"""

from __future__ import annotations

import contextlib
import io
import math
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

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
_EXIF_FOLDERS = (0x8769, 0x8825)  # of the camera and of the place
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
    """

    pixels: np.ndarray
    icc: bytes | None = field(default=None, repr=False)
    exif: bytes | None = field(default=None, repr=False)

    def with_pixels(self, pixels: np.ndarray) -> Picture:
        return replace(self, pixels=pixels)


def read(path: str | Path) -> Picture:
    """Read a picture file: grey, grey with alpha, RGB, RGBA or palette, 8 or 16 bits a channel.

    Raises:
        PictureError: missing, empty, truncated, not a picture, animated, of another colour model,
            or of more than MAX_PIXELS pixels.
    """
    path = Path(path)
    if not path.is_file():
        raise PictureError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise PictureError(f"{path}: the file is empty")
    try:
        # By its name Pillow 13 maps a file into memory, and scrambles a TIFF that is to be turned.
        with _pillow_limit.lifted(), path.open("rb") as file, Image.open(file) as image:
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


def _decode(path: Path, image: Image.Image) -> Picture:
    deep = _holds_sixteen_bit(path, image)
    # Raises on truncated data, which OpenCV would pad without a word; turns a TIFF upright.
    image.load()
    icc, transparent = image.info.get("icc_profile"), image.info.get("transparency")
    exif, orientation = _exif(path, image)
    if image.mode.startswith("I;16"):
        pixels = np.array(image).astype(np.uint16)
        if transparent is not None:
            pixels = _with_alpha(np.stack([pixels] * 3, -1), [transparent] * 3)
    elif deep and image.mode in ("RGB", "RGBA"):
        pixels = _sixteen_bit(path)
        if transparent is not None and pixels.shape[2] == 3:
            pixels = _with_alpha(pixels, transparent)
    elif image.mode in ("LA", "PA", "La", "RGBa") or transparent is not None:
        pixels = np.array(image.convert("RGBA"))
    elif image.mode in ("1", "P"):
        pixels = np.array(image.convert("L" if image.mode == "1" else "RGB"))
    elif image.mode in ("L", "RGB", "RGBA"):
        pixels = np.array(image)
    else:
        raise PictureError(f"{path}: expected grey, RGB or RGBA, got {image.mode}")
    return Picture(_upright(pixels, orientation), icc, exif)


def _exif(path: Path, image: Image.Image) -> tuple[bytes | None, int]:
    """The EXIF block without what is only true of this file, and the orientation."""
    exif = image.getexif()
    orientation = exif.pop(_ORIENTATION, 1)
    for tag in _STRUCTURE & set(exif):
        del exif[tag]
    try:
        return (exif.tobytes() if len(exif) else None), orientation
    except Exception as error:  # tags of types that they cannot have
        warnings.warn(f"{path}: its EXIF is left out, it is damaged ({error})", stacklevel=2)
        return None, orientation


def _with_alpha(rgb: np.ndarray, transparent: Sequence[int]) -> np.ndarray:
    """16-bit RGB, and transparent where it is the one colour that stands for that."""
    opaque = (rgb != np.array(transparent, rgb.dtype)).any(-1, keepdims=True)
    return np.concatenate([rgb, opaque * rgb.dtype.type(65535)], -1)


def _holds_sixteen_bit(path: Path, image: Image.Image) -> bool:
    if image.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24] == 16  # the bit depth in the header chunk
    bits_per_sample = 258
    return image.format == "TIFF" and max(image.tag_v2.get(bits_per_sample, (8,))) == 16


def _sixteen_bit(path: Path) -> np.ndarray:
    """Pixels of 16-bit colour, in RGB order."""
    with _quiet_opencv():
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
    if picture is not None:
        if picture.pixels.ndim == 3 and picture.pixels.shape[2] == 4 and suffix not in _HOLDS_ALPHA:
            raise PictureError(f"{path}: this format has no transparency; use a .png name")
        if picture.pixels.dtype == np.uint16 and suffix != ".png":
            raise PictureError(f"{path}: 16-bit pictures are written as .png; use a .png name")
        side, most = scale * max(picture.pixels.shape[:2]), _LARGEST.get(suffix, math.inf)
        if side > most:
            raise PictureError(
                f"{path}: this format holds at most {most} pixels a side, the result has {side}; "
                "use a .png name"
            )
    return path


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
    """The content of a picture's file; its name says the format. Raises PictureError where OpenCV
    cannot encode it."""
    if picture.pixels.dtype == np.uint16 and picture.pixels.ndim == 3:
        return _encoded_sixteen_bit(path, picture)
    suffix = path.suffix.lower()
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


def _encoded_sixteen_bit(path: Path, picture: Picture) -> memoryview:
    order = cv2.COLOR_RGBA2BGRA if picture.pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR
    kinds, blocks = [], []
    if picture.icc:
        kinds.append(cv2.IMAGE_METADATA_ICCP)
        blocks.append(np.frombuffer(picture.icc, np.uint8))
    if picture.exif:
        kinds.append(cv2.IMAGE_METADATA_EXIF)
        blocks.append(np.frombuffer(picture.exif.removeprefix(b"Exif\0\0"), np.uint8))
    pixels = cv2.cvtColor(picture.pixels, order)
    done, data = cv2.imencodeWithMetadata(".png", pixels, kinds, blocks)
    if not done:
        raise PictureError(f"{path}: could not be encoded as a 16-bit PNG")
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


class _PillowLimit:
    """Pillow's own limit of pixels, with words of its own; ours is checked instead. It is one for
    all threads, and lifted while any of them reads."""

    def __init__(self):
        self._lock, self._readers, self._pixels = threading.Lock(), 0, None

    @contextlib.contextmanager
    def lifted(self) -> Iterator[None]:
        with self._lock:
            if self._readers == 0:
                self._pixels, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._readers += 1
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1
                if self._readers == 0:
                    Image.MAX_IMAGE_PIXELS = self._pixels


_pillow_limit = _PillowLimit()


@contextlib.contextmanager
def _quiet_opencv() -> Iterator[None]:
    log = cv2.utils.logging
    level = log.getLogLevel()
    log.setLogLevel(log.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        log.setLogLevel(level)
