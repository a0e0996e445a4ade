"""A clip through the pipeline beside the model alone, and where the pipeline's time goes.

    pytest bench/video -o python_files='bench_*.py' -s [--results]

The model alone restores the same frames, decoded beforehand, and throws the results away. What the
pipeline does more is decoding, colour, figures and encoding, each timed alone too; on a CPU they
share its cores, so that CPU time is given beside elapsed time: what the pipeline takes of it and no
part does, is its own. An encoder holds frames back, so that the clip has several segments, of which
only the last one's end is not encoded while the model works.

All take turns. Other load on the machine falls on the model alone most heavily: torch's threads
spin while they wait for one another, and the pipeline has too many threads for that.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from statistics import median

import av
import pytest
import side_by_side
import torch
from published import model_of
from skimage import data as photographs

from pysr import arrays
from pysr.evaluate.limits import synchronise
from pysr.upscaler import Estimate, Upscaler
from pysr.video import probe
from pysr.video.colour import to_rgb
from pysr.video.encoding import Encoding
from pysr.video.reader import read
from pysr.video.segments import plan
from pysr.video.track import Shot
from pysr.video.worker import Work, Worker
from pysr.video.writer import SegmentWriter

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
FRAMES, SEGMENT = 64, 32
ROUNDS = 5


@dataclass(frozen=True)
class Taken:
    """Seconds: elapsed, and of all cores together."""

    elapsed: float
    cpu: float


@pytest.fixture
def clip(tmp_path, size):
    """A slow pan over a photograph."""
    width, height = size
    scene = photographs.astronaut().repeat(2, 1)
    path = tmp_path / "in.mkv"
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", 25, options={"crf": "16"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(FRAMES):
            view = scene[i : i + height, 2 * i : 2 * i + width]
            frame = av.VideoFrame.from_ndarray(view.copy(), "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return probe(path)


@pytest.mark.parametrize(
    ("name", "size"),
    [("dan-lite-x4", (192, 108)), ("dan-mid-x4", (192, 108)), ("published sizes", (96, 54))],
)
@pytest.mark.parametrize("device", DEVICES)
def test_pipeline(clip, tmp_path, device, name, size):
    model = model_of(name)
    upscaler = Upscaler(model, device=device)
    code = model.init_ker_map.cpu()
    shot = Shot(0, FRAMES, (0,), code, 0.0)
    encoding = Encoding.choose(clip, tmp_path / "out.mkv")
    work = Work(clip, "", model, {}, device, "auto", "auto", 768, encoding, (shot,))
    worker = Worker(work, upscaler)
    estimate = Estimate(shot.kernel(model), code.to(upscaler.device), 1.0)
    segments = plan(FRAMES, (), SEGMENT)
    rgb = [to_rgb(f.planes, clip.colour, clip.depth, upscaler.device)[None] for f in read(clip)]
    restored = [upscaler.restored(arrays.unpack(frame), estimate)[0][0] for frame in rgb]
    times = []

    def through_the_pipeline():
        times.append(worker.make(segments, tmp_path, lambda *_: None))

    def model_alone():
        for frame in rgb:
            upscaler.restored(arrays.unpack(frame), estimate)

    def decode():
        for frame in read(clip):
            to_rgb(frame.planes, clip.colour, clip.depth, upscaler.device)

    def encode():
        for segment in segments:
            with SegmentWriter(tmp_path / "part.mkv", clip, worker.size, encoding) as writer:
                for index in range(segment.first, segment.stop):
                    samples = tuple(s.cpu() for s in writer.samples(restored[index]))
                    writer.write(samples, clip.pts[index], clip.durations[index])

    parts = (model_alone, through_the_pipeline, decode, encode)
    rounds = [[timed(part, upscaler.device) for part in parts] for _ in range(ROUNDS)]
    alone, whole, decoding, encoding_ = (middle(taken) for taken in zip(*rounds, strict=True))
    in_the_middle = min(times, key=lambda each: abs(each.elapsed - whole.elapsed))
    record = {
        "file": "bench_pipeline",
        "device": device,
        "title": f"pipeline, {name}, {size[0]}x{size[1]}, {FRAMES} frames in {len(segments)}",
        "fps": FRAMES / whole.elapsed,
        "times_the_model_alone": whole.elapsed / alone.elapsed,
        "seconds": asdict(in_the_middle),
        "cpu_seconds": {
            "pipeline": whole.cpu,
            "model alone": alone.cpu,
            "decoding alone": decoding.cpu,
            "encoding alone": encoding_.cpu,
            "rest": whole.cpu - alone.cpu - decoding.cpu - encoding_.cpu,
        },
        "rounds": [[round(taken.elapsed, 3) for taken in each[:2]] for each in rounds],
    }
    side_by_side.RECORDS.append(rounded(record))
    print(f"\n{side_by_side.RECORDS[-1]}")


def timed(work: Callable[[], object], device: torch.device) -> Taken:
    time.sleep(side_by_side.REST)
    started, cpu = time.perf_counter(), time.process_time()
    work()
    synchronise(device)
    return Taken(time.perf_counter() - started, time.process_time() - cpu)


def middle(taken: list[Taken]) -> Taken:
    return Taken(median(each.elapsed for each in taken), median(each.cpu for each in taken))


def rounded(value):
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    return round(value, 3) if isinstance(value, float) else value
