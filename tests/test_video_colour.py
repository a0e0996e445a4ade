"""Planes and RGB: published values, an independent implementation, and what must not change."""

import av
import numpy as np
import pytest
import torch

from pysr.video.clip import ColourTags, VideoError
from pysr.video.colour import from_rgb, resolved, to_rgb
from pysr.video.planes import from_frame, to_frame

LIMITED, FULL = 1, 2
WHITE, YELLOW, CYAN, GREEN, MAGENTA, RED, BLUE, BLACK = (
    (1, 1, 1), (1, 1, 0), (0, 1, 1), (0, 1, 0), (1, 0, 1), (1, 0, 0), (0, 0, 1), (0, 0, 0),
)  # fmt: skip
# Colour bars of 100% as tabled for BT.601 and BT.709; BT.2020, SMPTE 240M (7) and FCC (4) from the
# numbers in their definitions; JPEG (JFIF) for full range.
BARS = [
    (6, LIMITED, 8, WHITE, (235, 128, 128)),
    (6, LIMITED, 8, YELLOW, (210, 16, 146)),
    (6, LIMITED, 8, CYAN, (170, 166, 16)),
    (6, LIMITED, 8, GREEN, (145, 54, 34)),
    (6, LIMITED, 8, MAGENTA, (106, 202, 222)),
    (6, LIMITED, 8, RED, (81, 90, 240)),
    (5, LIMITED, 8, BLUE, (41, 240, 110)),
    (6, LIMITED, 8, BLACK, (16, 128, 128)),
    (1, LIMITED, 8, YELLOW, (219, 16, 138)),
    (1, LIMITED, 8, CYAN, (188, 154, 16)),
    (1, LIMITED, 8, MAGENTA, (78, 214, 230)),
    (1, LIMITED, 8, RED, (63, 102, 240)),
    (1, LIMITED, 10, YELLOW, (877, 64, 553)),
    (1, LIMITED, 10, GREEN, (691, 167, 105)),
    (1, LIMITED, 10, RED, (250, 409, 960)),
    (1, LIMITED, 10, BLUE, (127, 960, 471)),
    (9, LIMITED, 10, RED, (294, 387, 960)),
    (9, LIMITED, 10, GREEN, (658, 189, 100)),
    (9, LIMITED, 10, BLUE, (116, 960, 476)),
    (7, LIMITED, 8, RED, (62, 102, 240)),
    (7, LIMITED, 8, BLUE, (35, 240, 116)),
    (4, LIMITED, 8, RED, (82, 90, 240)),
    (4, LIMITED, 8, BLUE, (40, 240, 110)),
    (6, FULL, 8, RED, (76, 85, 255)),
    (6, FULL, 8, GREEN, (150, 44, 21)),
    (6, FULL, 8, BLUE, (29, 255, 107)),
    (0, FULL, 8, YELLOW, (255, 0, 255)),  # green, blue, red
]


@pytest.mark.parametrize("matrix, range_, depth, rgb, expected", BARS)
def test_bars_have_their_published_values(matrix, range_, depth, rgb, expected, device):
    tags = ColourTags(matrix=matrix, range=range_)
    patch = torch.tensor(rgb, dtype=torch.float32, device=device).view(3, 1, 1).expand(3, 4, 4)
    planes = from_rgb(patch, tags, depth, (1, 1))
    assert tuple(int(plane[0, 0]) for plane in planes) == expected
    back = to_rgb(planes, tags, depth, device)
    assert torch.allclose(back, patch, atol=2 / 2**depth)


@pytest.mark.parametrize("matrix", [1, 4, 6, 7, 9, 0])
@pytest.mark.parametrize("range_", [LIMITED, FULL])
@pytest.mark.parametrize("depth", [8, 10, 16])
def test_grey_stays_neutral_and_planes_survive_the_way_there_and_back(matrix, range_, depth):
    tags = ColourTags(matrix=matrix, range=range_)
    grey = torch.linspace(0, 1, 64).expand(3, 2, 64)
    spread = to_rgb(from_rgb(grey, tags, depth, (2, 2) if matrix else (1, 1)), tags, depth)
    assert (spread.amax(0) - spread.amin(0)).max() < 1e-6
    colours = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    planes = from_rgb(colours, tags, depth, (1, 1))
    again = from_rgb(to_rgb(planes, tags, depth), tags, depth, (1, 1))
    for before, after in zip(planes, again, strict=True):
        assert (before.int() - after.int()).abs().max() <= 1


@pytest.mark.parametrize("location", [1, 2, 3, 4])
@pytest.mark.parametrize("subsampling", [(2, 2), (2, 1), (1, 2)])
def test_chroma_lies_where_the_tags_say(location, subsampling):
    """A colour ramp is linear, so that only a wrong place would move it."""
    tags = ColourTags(matrix=1, range=LIMITED, chroma_location=location)
    y, x = torch.meshgrid(torch.arange(31.0), torch.arange(45.0), indexing="ij")
    ramp = torch.stack((0.2 + x / 80, 0.7 - y / 60, 0.3 + (x + y) / 150))
    there = to_rgb(from_rgb(ramp, tags, 16, subsampling), tags, 16)
    assert (there - ramp)[:, 3:-3, 3:-3].abs().max() < 1e-4


@pytest.mark.parametrize(
    ("location", "right", "below"), [(1, 0, 0.5), (2, 0.5, 0.5), (3, 0, 0), (4, 0.5, 0)]
)
def test_chroma_is_taken_where_the_standard_has_it(location, right, below):
    """ITU-T H.273: how far right of and below the even luma samples, in luma samples."""
    tags = ColourTags(matrix=1, range=LIMITED, chroma_location=location)
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(44.0), indexing="ij")

    def ramp(x, y):
        return torch.stack((0.2 + x / 80, 0.7 - y / 60, 0.3 + (x + y) / 150))

    halved = from_rgb(ramp(x, y), tags, 16, (2, 2))[1:]
    there = from_rgb(ramp(x + right, y + below), tags, 16, (1, 1))[1:]
    for plane, whole in zip(halved, there, strict=True):
        wrong = plane.int() - whole[::2, ::2].int()
        assert wrong[2:-2, 2:-2].abs().max() <= 1


@pytest.mark.parametrize("pixel_format, depth", [("p010le", 10), ("nv12", 8), ("yuv422p12le", 12)])
def test_samples_pass_through_a_frame_unchanged(pixel_format, depth):
    subsampling = (2, 1) if "422" in pixel_format else (2, 2)
    planes = from_rgb(torch.rand(3, 62, 70), ColourTags(matrix=1, range=FULL), depth, subsampling)
    frame = to_frame(planes, pixel_format)
    assert frame.format.name == pixel_format
    for ours, theirs in zip(from_frame(frame), planes, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("pixel_format", ["p010le", "p210le", "y210le"])
def test_no_frame_is_torn_where_rows_do_not_fill_whole_vectors(pixel_format):
    """swscale on several threads gets rows wrong in most frames of this width."""
    drawn = torch.randint(0, 1024, (768, 1366), generator=torch.Generator().manual_seed(2))
    luma = drawn.to(torch.uint16)
    down = 2 if pixel_format == "p010le" else 1
    chroma = luma[::down, ::2].contiguous()
    for _ in range(8):
        planes = from_frame(to_frame((luma, chroma, chroma), pixel_format))
        assert all(map(torch.equal, planes, (luma, chroma, chroma)))


@pytest.mark.parametrize("matrix", [1, 6, 9])
@pytest.mark.parametrize("range_", [LIMITED, FULL])
def test_swscale_agrees_to_half_a_level(matrix, range_):
    """FFmpeg's own conversion of 8 bits to 8 bits. With output of 16 bits or floats, which the
    network would want, it is up to a whole level of 8 bits away from the definition (measured with
    FFmpeg 8, of 8-bit and of 10-bit video), and so is not used.
    """
    tags = ColourTags(matrix=matrix, range=range_)
    colours = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
    planes = from_rgb(colours, tags, 8, (1, 1))
    frame = to_frame(planes, "yuv444p")
    frame.colorspace, frame.color_range = matrix, range_
    flags = av.video.reformatter.Interpolation
    theirs = frame.reformat(
        format="gbrp",
        src_color_range=range_,
        dst_color_range=FULL,
        interpolation=flags.ACCURATE_RND | flags.FULL_CHR_H_INT | flags.BICUBIC,
    )
    g, b, r = (np.frombuffer(p, np.uint8).reshape(64, -1)[:, :64].copy() for p in theirs.planes)
    theirs = torch.from_numpy(np.stack((r, g, b))) / 255
    assert (theirs - to_rgb(planes, tags, 8)).abs().max() * 255 < 0.55


def test_the_usual_rule_fills_in_what_is_unspecified():
    assert resolved(ColourTags(), 720) == ColourTags(matrix=1, range=1, chroma_location=1)
    assert resolved(ColourTags(), 719) == ColourTags(matrix=6, range=1, chroma_location=1)
    told = ColourTags(9, 2, 9, 16, 3)
    assert resolved(told, 480) == told
    planes = from_rgb(torch.rand(3, 16, 16), ColourTags(), 8, (2, 2))
    as_601 = to_rgb(planes, ColourTags(matrix=6, range=1), 8)
    assert torch.equal(to_rgb(planes, ColourTags(), 8), as_601)


@pytest.mark.parametrize("tags", [ColourTags(matrix=10), ColourTags(matrix=1, chroma_location=5)])
def test_what_is_not_converted_exactly_is_refused(tags):
    with pytest.raises(VideoError, match="convert the clip first"):
        from_rgb(torch.rand(3, 4, 4), tags, 8, (2, 2))
