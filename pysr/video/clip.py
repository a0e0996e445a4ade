"""What is known about a clip before it is decoded: see `pysr.video.reader.probe`."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path


class VideoError(ValueError):
    """A video that cannot be read, worked on or written; the message is one line."""


def pyav():
    """The module `av`. Raises VideoError, saying how to install it, where it is missing."""
    try:
        import av
    except ImportError:
        raise VideoError("video needs PyAV: pip install 'pysr[video]'") from None
    return av


def opened(path: str | Path, mode: str = "r", **options):
    """`av.open` of a file, by its absolute path: FFmpeg takes a name such as 12:30.mp4 for an
    address. Tags that are not UTF-8 are read as far as they are."""
    if mode == "r":
        options["metadata_errors"] = "replace"
    return pyav().open(str(Path(path).absolute()), mode, **options)


@dataclass(frozen=True)
class ColourTags:
    """How planes and RGB relate, as FFmpeg's numbers (ITU-T H.273; 2 or 0 is unspecified).

    Attributes:
        matrix: 0 RGB, 1 BT.709, 5 and 6 BT.601, 9 BT.2020 non-constant luminance, 2 unspecified.
        range: 1 limited, 2 full, 0 unspecified.
        primaries, transfer: carried along, never converted.
        chroma_location: 1 left, 2 centre, 3 top left, 4 top,
            5 bottom left, 6 bottom, 0 unspecified.
    """

    matrix: int = 2
    range: int = 0
    primaries: int = 2
    transfer: int = 2
    chroma_location: int = 0


@dataclass(frozen=True)
class Hdr:
    """HDR10 static metadata.

    Attributes:
        primaries: CIE 1931 x and y of red, green, blue and the white point, or None.
        luminance: lowest and highest of the mastering display, cd/m2, or None.
        light: MaxCLL and MaxFALL, cd/m2, or None.
    """

    primaries: tuple[Fraction, ...] | None = None
    luminance: tuple[Fraction, Fraction] | None = None
    light: tuple[int, int] | None = None


@dataclass(frozen=True)
class Clip:
    """A video stream and what travels with it.

    Attributes:
        path: the file; for pictures the folder or the pattern.
        stream: index of the video stream in the file; -1 for pictures.
        files: the pictures of an image sequence, in order; empty for a video file.
        codec: FFmpeg's name of the decoder.
        width, height: of the coded picture, before rotation.
        depth: bits a sample, 8 to 16.
        pixel_format: FFmpeg's name, as decoded.
        time_base: unit of pts and durations, in seconds.
        rate: average frames a second.
        pts: presentation times in ascending order, one for each frame.
        durations: as long as pts.
        keys: indices of frames that decoding can start at, ascending.
        size: bytes of the stream's packets; 0 for pictures.
        sample_aspect: width over height of a sample.
        display_matrix: nine integers as FFmpeg stores them, or None when the picture is upright.
        rotation: degrees counter-clockwise that a player turns the picture by.
        colour: tags as found; `pysr.video.colour` fills in what is unspecified.
        hdr: HDR10 metadata, or None.
        others: the other streams and chapters in words.
        lost: what pysr cannot carry into a result, in words.
    """

    path: Path
    stream: int
    codec: str
    width: int
    height: int
    depth: int
    pixel_format: str
    time_base: Fraction
    rate: Fraction
    pts: tuple[int, ...]
    durations: tuple[int, ...]
    keys: tuple[int, ...]
    size: int = 0
    sample_aspect: Fraction = Fraction(1)
    display_matrix: tuple[int, ...] | None = None
    rotation: int = 0
    colour: ColourTags = ColourTags()
    hdr: Hdr | None = None
    others: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def seconds(self) -> Fraction:
        return (self.pts[-1] + self.durations[-1] - self.pts[0]) * self.time_base
