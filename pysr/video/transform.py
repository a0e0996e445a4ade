"""A clip whose frames are changed one by one, with all that came with it: how clips are degraded.

Nothing is estimated and a frame takes milliseconds. So there is neither kernel track nor journal,
as `pysr.video.job` has them: one segment, put together in the end.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pysr.video import pipeline
from pysr.video.colour import to_rgb
from pysr.video.containers import check_target
from pysr.video.encoding import Encoding
from pysr.video.losses import tags_lost
from pysr.video.mux import rehearse
from pysr.video.reader import Frame, probe, read
from pysr.video.target import check_paths, followed, place, put_in_place, put_together
from pysr.video.writer import SegmentWriter


@dataclass(frozen=True)
class Transformed:
    """What was made: frames of width x height, and what the target could not keep, in words."""

    frames: int
    width: int
    height: int
    lost: list[str]


def transform(
    source: str | Path,
    target: str | Path,
    change: Callable[[Tensor, int], Tensor],
    size: Callable[[int, int], tuple[int, int]],
    *,
    device: str | torch.device = "cpu",
    pixel_format: str | None = None,
) -> Transformed:
    """Change every frame of a video file or an image sequence; other streams are copied.

    Args:
        source: a video file, a folder of pictures, or a pattern such as frames/%05d.png.
        target: the same; the ending of a file says its container.
        change: a frame (1, 3, H, W) in [0, 1] on `device` and its number -> (1, 3, h, w).
        size: (h, w) that `change` gives for (H, W).
        pixel_format: see `Encoding.choose`.
    Raises:
        VideoError: what is asked for cannot be done, or the clip cannot be read to its end.
        CheckError: the finished file is not what it should be; it is not put in place.
    """
    source, target = Path(source), followed(Path(target))
    final = place(target)
    check_paths(source, final)
    clip = probe(source)
    encoding = Encoding.choose(clip, target, pixel_format=pixel_format)
    lost = check_target(target, clip, encoding)
    height, width = size(clip.height, clip.width)

    def changed(frame: Frame) -> tuple[Frame, Tensor]:
        rgb = to_rgb(frame.planes, clip.colour, clip.depth, device)[None]
        return frame, change(rgb, frame.index)[0].cpu()

    # Without the target's name: a file system that takes just that takes none that is longer.
    with tempfile.TemporaryDirectory(prefix=".pysr.", dir=final.parent) as work:
        rehearsed = rehearse(target, clip, encoding, (height, width), Path(work))
        lost += tags_lost(rehearsed, clip, target, encoding)
        segment = Path(work) / f"segment{encoding.suffix}"

        def encode(frames: Iterator[tuple[Frame, Tensor]]) -> None:
            with SegmentWriter(segment, clip, (height, width), encoding) as writer:
                for frame, rgb in frames:
                    writer.write(writer.samples(rgb), frame.pts, frame.duration)

        pipeline.run(read(clip), changed, encode)
        whole, altered = put_together(
            target, clip, [segment], encoding, (height, width), Path(work), rehearsed
        )
        put_in_place(whole, final)
    return Transformed(len(clip), width, height, list(dict.fromkeys((*lost, *altered))))
