"""How a result is encoded: what a user asked for, checked before any work, and defaults."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch

from pysr.video import images
from pysr.video.clip import Clip, ColourTags, Hdr, VideoError, pyav
from pysr.video.colour import resolved
from pysr.video.planes import layout

PNG = "png"
# Fixed, since the number of threads changes what x264 and x265 write: a segment is the same on
# every machine. x264 lowers it by itself for low pictures, by a rule that knows the height only.
_THREADS = 8
_X265_FRAME_THREADS = 3
# crf and preset where the user names none, and the best and worst crf. Visually lossless, at a
# speed below a network's. Beside faster, x264's veryfast takes half to two thirds of the time, a
# tenth less room, and at 46 to 54 dB 0.5 to 0.9 less. Of NVENC nothing is measured; it takes 0 for
# "automatic".
_ENCODERS = {
    "libx264": (16, "veryfast", (0, 51)),
    "libx265": (18, "medium", (0, 51)),
    "libsvtav1": (24, "8", (0, 63)),
    "libvpx-vp9": (20, None, (0, 63)),
    "h264_nvenc": (19, "p5", (1, 51)),
    "hevc_nvenc": (19, "p5", (1, 51)),
    "av1_nvenc": (24, "p5", (1, 63)),
}
_ANY = (None, None, (-math.inf, math.inf))
# Of x264 and x265, which take their numbers too. x264 itself would refuse others in print.
_X26X_PRESETS = (
    "ultrafast superfast veryfast faster fast medium slow slower veryslow placebo".split()
)
# What hardware takes for yuv420p10le: the same samples, in two planes.
_TWO_PLANES = "p010le"


@dataclass(frozen=True)
class Encoding:
    """How a result is encoded; made by `choose`.

    Attributes:
        codec: FFmpeg's name of an encoder, or png for an image sequence.
        crf: constant quality of the encoder, lower is better; None for an encoder without it.
        preset: the encoder's name of a speed; None for the encoder's own.
        pixel_format: FFmpeg's name; for png rgb24 or rgb48be.
    """

    codec: str
    crf: float | None
    preset: str | None
    pixel_format: str

    @classmethod
    def choose(
        cls,
        clip: Clip,
        target: str | Path,
        codec: str | None = None,
        crf: float | None = None,
        preset: str | None = None,
        pixel_format: str | None = None,
    ) -> Encoding:
        """What a user asked for, checked, and good defaults for the rest.

        8 bits become libx264 yuv420p, more become libx265 yuv420p10le, either in the clip's own
        4:2:2 or 4:4:4; WebM becomes AV1; a folder or a pattern as target becomes PNG of 8 or 16
        bits. The encoders of NVIDIA's GPUs are taken where they are named.

        Raises VideoError, one line, for options that do not exist or do not fit together.
        """
        target = Path(target)
        if images.is_sequence(target) or not target.suffix:
            return _png(clip, codec, crf, preset, pixel_format)
        if codec is None:
            by_depth = "libx264" if clip.depth == 8 else "libx265"
            codec = "libsvtav1" if target.suffix.lower() == ".webm" else by_depth
        codec = _encoder(codec).name  # h264 is libx264
        default_crf, default_preset, _ = _ENCODERS.get(codec, _ANY)
        encoding = cls(
            codec,
            default_crf if crf is None else crf,
            default_preset if preset is None else preset,
            pixel_format or _default_format(clip, codec),
        )
        encoding._check(clip)
        return encoding

    @property
    def images(self) -> bool:
        return self.codec == PNG

    @property
    def suffix(self) -> str:
        """What a segment's name ends in; empty when a segment is a folder of pictures."""
        return "" if self.images else ".mkv"

    def colour(self, clip: Clip, height: int) -> ColourTags:
        """Tags of the result: the clip's, apart from what the pixel format decides."""
        if layout(self.pixel_format).rgb:
            return ColourTags(0, 2, clip.colour.primaries, clip.colour.transfer)
        if layout(clip.pixel_format).rgb:
            tags = ColourTags(2, 1, clip.colour.primaries, clip.colour.transfer)
            return resolved(tags, height)
        return clip.colour

    def open(self, context, clip: Clip, size: tuple[int, int]) -> None:
        """Configure and open an encoder. Raises VideoError when it refuses."""
        across, down = layout(self.pixel_format).subsampling
        if size[1] % across or size[0] % down:
            raise VideoError(
                f"{self.pixel_format} needs even sizes, the result is {size[1]}x{size[0]}; "
                "choose the pixel format yuv444p"
            )
        self._open(context, clip, size, f"{size[1]}x{size[0]} {self.pixel_format}")

    def _open(self, context, clip: Clip, size: tuple[int, int], what: str) -> None:
        self.configure(context, clip, size)
        try:
            context.open()
        except (pyav().FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            if self._hardware:
                reason = f"{reason}: it needs an NVIDIA GPU that encodes, and its driver"
            raise VideoError(
                f"{self.codec} refuses {what} at {float(clip.rate):g} fps with crf {self.crf} and "
                f"preset {self.preset} ({reason})"
            ) from None

    def configure(self, context, clip: Clip, size: tuple[int, int]) -> None:
        """Set up an encoder that is not open yet for frames of (height, width).

        It counts time in frames: true times are the container's, and some encoders take only
        plain time bases.
        """
        flags = pyav().codec.context.Flags
        context.height, context.width = size
        context.pix_fmt = self.pixel_format
        context.framerate = clip.rate.limit_denominator(1 << 15)
        context.time_base = 1 / context.framerate
        context.sample_aspect_ratio = clip.sample_aspect
        tags = self.colour(clip, size[0])
        context.colorspace, context.color_range = tags.matrix, tags.range
        context.color_primaries, context.color_trc = tags.primaries, tags.transfer
        if self.codec in _ENCODERS:  # some others cannot
            context.flags |= flags.closed_gop
        context.options = self._options(tags, clip.hdr)

    def _options(self, tags: ColourTags, hdr: Hdr | None) -> dict[str, str]:
        options = {"threads": str(_THREADS), "chroma_sample_location": str(tags.chroma_location)}
        if self.crf is not None:
            options[self._crf_option] = str(self.crf)
        if self.preset is not None:
            options["preset"] = self.preset
        if self.codec == "libx264":
            hdr10 = _x26x_hdr(hdr, "mastering-display", "cll")
            options["x264-params"] = ":".join(filter(None, (_x264_instructions(), hdr10)))
        elif self.codec == "libx265":
            # Its information message names the machine's cores: other bits on another machine.
            fixed = f"log-level=none:info=0:frame-threads={_X265_FRAME_THREADS}"
            hdr10 = _x26x_hdr(hdr, "master-display", "max-cll")
            options["x265-params"] = f"{fixed}:{hdr10}" if hdr10 else fixed
        elif self.codec == "libsvtav1":
            os.environ.setdefault("SVT_LOG", "1")  # errors only: it describes itself on stderr
            options["svtav1-params"] = _svtav1_hdr(hdr)
        elif self.codec == "libvpx-vp9":
            options["b"] = "0"  # else crf is only a bound
        elif self._hardware:
            options |= {"rc": "vbr", "b": "0"}
        return {name: value for name, value in options.items() if value}

    @property
    def _hardware(self) -> bool:
        return self.codec.endswith("_nvenc")

    @property
    def _crf_option(self) -> str:
        """The encoder's name of constant quality."""
        return "cq" if self._hardware else "crf"

    def carries_hdr(self) -> bool:
        """Whether the encoder writes HDR10 metadata into its stream."""
        return self.codec in ("libx264", "libx265", "libsvtav1")

    def _check(self, clip: Clip) -> None:
        encoder = _encoder(self.codec)
        formats = [found.name for found in encoder.video_formats or ()]
        if formats and self.pixel_format not in formats:
            raise VideoError(
                f"pixel format {self.pixel_format}: {self.codec} takes {', '.join(formats)}"
            )
        if not _is_usable(self.pixel_format):
            raise VideoError(f"pixel format {self.pixel_format}: expected a planar YUV or GBR one")
        context = encoder.create()
        known = {option.name for option in context.supported_options.private}
        for name, option in (("crf", self._crf_option), ("preset", "preset")):
            if getattr(self, name) is not None and option not in known:
                raise VideoError(f"{name}: {self.codec} has no such option")
        _, _, (best, worst) = _ENCODERS.get(self.codec, _ANY)
        if self.crf is not None and not best <= self.crf <= worst:
            raise VideoError(f"crf: {self.codec} takes {best} (best) to {worst}, got {self.crf:g}")
        if self.codec in ("libx264", "libx265"):
            if self.preset not in (*_X26X_PRESETS, *"0123456789"):
                takes = ", ".join(_X26X_PRESETS)
                raise VideoError(f"preset: {self.codec} takes {takes}, got {self.preset!r}")
        self._open(context, clip, (256, 256), self.pixel_format)


def _encoder(name: str):
    try:
        codec = pyav().codec.Codec(name, "w")
    except ValueError:  # also FFmpeg's own errors of this call
        codec = None
    if codec is None or codec.type != "video":
        raise VideoError(
            f"codec {name!r}: FFmpeg has no such video encoder here; "
            f"for example {', '.join(_ENCODERS)}, or png for a folder of pictures"
        )
    return codec


def _default_format(clip: Clip, codec: str) -> str:
    """4:2:0 of 8 or 10 bits, or the clip's own 4:2:2 or 4:4:4 where the encoder takes it."""
    takes = [f.name for f in _encoder(codec).video_formats or ()]
    source = layout(clip.pixel_format)
    subsampling = (2, 2) if source.rgb or source.grey else source.subsampling
    stem = {(2, 1): "yuv422p", (1, 1): "yuv444p"}.get(subsampling, "yuv420p")
    deep = () if clip.depth == 8 else (f"{stem}10le", "yuv420p10le", _TWO_PLANES)
    wanted = (*deep, stem, "yuv420p")
    fitting = [name for name in wanted if not takes or name in takes]
    usable = fitting or [name for name in takes if _is_usable(name)]
    if not usable:
        names = ", ".join(takes)
        raise VideoError(f"codec {codec}: expected one of planar YUV or GBR, it takes {names}")
    return usable[0]


def _is_usable(pixel_format: str) -> bool:
    """Whether results can be written in it: planar, and no grey."""
    try:
        chosen = layout(pixel_format)
    except VideoError:
        return False
    return not chosen.grey and pixel_format in (chosen.planar, _TWO_PLANES)


def _png(clip: Clip, codec, crf, preset, pixel_format) -> Encoding:
    if codec not in (None, PNG) or crf is not None or preset is not None:
        raise VideoError("codec, crf and preset: an image sequence is written as PNG, lossless")
    pixel_format = pixel_format or ("rgb24" if clip.depth == 8 else "rgb48be")
    if pixel_format not in ("rgb24", "rgb48be"):
        raise VideoError(f"pixel format: PNG takes rgb24 or rgb48be, got {pixel_format}")
    return Encoding(PNG, None, None, pixel_format)


def _x264_instructions() -> str:
    """x264's AVX-512 code reads memory it never wrote, and writes other bits every time.

    Seen with x264 core 165 by filling fresh memory with different bytes; with AVX2 it is steady.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    return "asm=avx2" if capability.startswith("AVX") else ""


def _x26x_hdr(hdr: Hdr | None, mastering: str, light: str) -> str:
    """In units of 0.00002 and of 0.0001 cd/m2 (SMPTE ST 2086 as HEVC writes it)."""
    return _hdr(hdr, mastering, light, lambda x: round(x * 50000), lambda y: round(y * 10000))


def _svtav1_hdr(hdr: Hdr | None) -> str:
    return _hdr(
        hdr,
        "mastering-display",
        "content-light",
        lambda x: f"{float(x):.5f}",
        lambda y: f"{float(y):.4f}",
    )


def _hdr(
    hdr: Hdr | None,
    mastering: str,
    light: str,
    chromaticity: Callable[[Fraction], object],
    luminance: Callable[[Fraction], object],
) -> str:
    """As an encoder's options, by their names there and by how it writes the two quantities."""
    if hdr is None:
        return ""
    words = []
    if hdr.primaries and hdr.luminance:
        r, g, b, w = (
            f"({chromaticity(x)},{chromaticity(y)})"
            for x, y in zip(hdr.primaries[::2], hdr.primaries[1::2], strict=True)
        )
        low, high = (luminance(value) for value in hdr.luminance)
        words.append(f"{mastering}=G{g}B{b}R{r}WP{w}L({high},{low})")
    if hdr.light:
        words.append(f"{light}={hdr.light[0]},{hdr.light[1]}")
    return ":".join(words)
