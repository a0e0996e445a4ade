"""Peak memory of whole jobs over a short clip and over one ten times as long: the same within 5%.

    python bench/video/soak.py [--frames 300 3000] [--size 128 72] [--json FILE]

A small model, so that thousands of frames pass in minutes. Memory is the peak of each job's own
process, as the system counts it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from pysr.nets import DAN, DANConfig, save_model

sys.path.append(str(Path(__file__).parent.parent))
from records import made_by  # noqa: E402

ALLOWED = 0.05


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs=2, default=(300, 3000))
    parser.add_argument("--size", type=int, nargs=2, default=(128, 72))
    parser.add_argument("--json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = small_model(Path(folder) / "small.safetensors")
        peaks = []
        for frames in options.frames:
            clip = Path(folder) / f"{frames}.mkv"
            write_clip(clip, frames, *options.size)
            peaks.append(peak_memory(clip, Path(folder) / "out.mkv", model))
            print(f"{frames} frames: {peaks[-1] / 2**20:.1f} MiB at the peak", flush=True)
    growth = peaks[1] / peaks[0] - 1
    print(f"growth {growth:+.1%}, allowed {ALLOWED:.0%}")
    if options.json:
        result = {
            **made_by(),
            "frames": options.frames,
            "size": options.size,
            "peak_bytes": peaks,
            "growth": round(growth, 4),
        }
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n")
    return growth > ALLOWED


def small_model(path: Path) -> Path:
    torch.manual_seed(0)
    config = DANConfig(
        scale=2, features=16, blocks=2, estimator_features=16, estimator_blocks=2, compact_tail=True
    )
    save_model(DAN(config, basis=torch.rand(441, 10)), path)
    return path


def write_clip(path: Path, frames: int, width: int, height: int) -> None:
    """A pan over noise, with a key frame every second."""
    scene = np.random.default_rng(0).integers(0, 255, (height // 4, width, 3), np.uint8)
    scene = scene.repeat(4, 0).repeat(4, 1)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", 25, options={"g": "25", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(frames):
            view = np.roll(scene, i, 1)[:height, :width]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(view), "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def peak_memory(clip: Path, target: Path, model: Path) -> int:
    command = [sys.executable, "-m", "pysr", "upscale", clip, target, "--model", model]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise RuntimeError(f"the job ended with status {status}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    sys.exit(main())
