"""A clip through the pipeline beside the model alone, and where the pipeline's time goes.

    pytest bench/video -o python_files='bench_*.py' -s [--results]

The model alone restores the same frames, decoded beforehand, and throws the results away. What the
pipeline costs more is decoding, colour, encoding, and waiting for one another.
"""

from dataclasses import asdict
from fractions import Fraction

import av
import pytest
import side_by_side
import torch
from published import model_of
from skimage import data as photographs

from pysr import arrays
from pysr.upscaler import Estimate, Upscaler
from pysr.video import probe
from pysr.video.colour import to_rgb
from pysr.video.encoding import Encoding
from pysr.video.reader import read
from pysr.video.segments import Segment
from pysr.video.track import Shot
from pysr.video.worker import Work, Worker

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture
def clip(tmp_path, size, frames):
    """A slow pan over a photograph."""
    width, height = size
    scene = photographs.astronaut().repeat(2, 1)
    path = tmp_path / "in.mkv"
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", 25, options={"crf": "16"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(frames):
            view = scene[i % 64 : i % 64 + height, 2 * i % 256 : 2 * i % 256 + width]
            frame = av.VideoFrame.from_ndarray(view.copy(), "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return probe(path)


@pytest.mark.parametrize(
    ("name", "size", "frames"),
    [("dan-lite-x4", (192, 108), 16), ("published sizes", (96, 54), 16)],
)
@pytest.mark.parametrize("device", DEVICES)
def test_pipeline(benchmark, clip, tmp_path, device, name, size, frames):
    model = model_of(name)
    upscaler = Upscaler(model, device=device)
    code = model.init_ker_map.cpu()
    shot = Shot(0, frames, (0,), code, 0.0)
    encoding = Encoding.choose(clip, tmp_path / "out.mkv")
    work = Work(clip, "", model, {}, device, "auto", "auto", 768, encoding, (shot,))
    worker = Worker(work, upscaler)
    times = []

    def through_the_pipeline():
        segment = Segment(0, 0, frames)
        times.append(worker.make([segment], tmp_path, lambda *_: None))

    decoded = [to_rgb(f.planes, clip.colour, clip.depth, upscaler.device)[None] for f in read(clip)]
    estimate = Estimate(shot.kernel(model), code.to(upscaler.device), 1.0)

    def model_alone():
        for rgb in decoded:
            upscaler.restored(arrays.unpack(rgb), estimate)

    title = f"pipeline, {name}, {size[0]}x{size[1]}, {frames} frames"
    side_by_side.side_by_side(
        benchmark,
        title,
        through_the_pipeline,
        {"the model alone": model_alone},
        upscaler.device,
        rounds=9,
    )
    last = times[-1]
    side_by_side.RECORDS[-1]["fps"] = round(frames / last.elapsed, 2)
    side_by_side.RECORDS[-1]["seconds"] = {k: round(v, 3) for k, v in asdict(last).items()}
    print(side_by_side.RECORDS[-1])
