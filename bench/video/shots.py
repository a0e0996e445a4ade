"""Our shot detector beside PySceneDetect's (pip install scenedetect), on cuts that are known.

    python bench/video/shots.py --data FOLDER_OF_PICTURES [--json FILE]

Every clip is a row of ten shots, each a photograph under a pan, a zoom, noise or a fade, some with
a flash of one frame. PySceneDetect's detectors take frames one by one too, by an interface that its
documentation calls unstable, as 8-bit BGR; its adaptive detector looks two frames ahead. A shot is
kept from being too short by `min_scene_len`, 15 frames by default; 1 lets it find every cut.
"""

import argparse
import json
import math
import random
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from scenedetect import AdaptiveDetector, ContentDetector, FrameTimecode
from torch import Tensor

from pysr import arrays, pictures
from pysr.video.shots import find_shots

sys.path.append(str(Path(__file__).parent.parent))
from records import made_by  # noqa: E402

CLIPS, SHOTS, SIZE = 12, 10, (135, 240)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--json")
    options = parser.parse_args()
    torch.manual_seed(0)
    draw = random.Random(0)
    paths = pictures.listing(options.data)
    counts = {name: [0, 0, 0, 0.0] for name in DETECTORS}
    frames_in_all = 0
    for _ in range(CLIPS):
        shots = [shot(draw, draw.choice(paths)) for _ in range(SHOTS)]
        frames = [frame for one in shots for frame in one]
        cuts = {sum(map(len, shots[:i])) for i in range(1, SHOTS)}
        frames_in_all += len(frames)
        for name, detect in DETECTORS.items():
            started = time.process_time()
            found = set(detect(frames)) - {0}
            seconds = time.process_time() - started
            found = [len(found & cuts), len(found - cuts), len(cuts - found), seconds]
            counts[name] = [a + b for a, b in zip(counts[name], found, strict=True)]
    rows = [
        {
            "detector": name,
            "found": hits,
            "false": false,
            "missed": missed,
            "f1": 2 * hits / (2 * hits + false + missed),
            "milliseconds_a_frame": 1000 * seconds / frames_in_all,
        }
        for name, (hits, false, missed, seconds) in counts.items()
    ]
    for row in rows:
        print(row)
    if options.json:
        about = {**made_by(), "scenedetect": version("scenedetect")}
        result = {**about, "frames": frames_in_all, "measured": rows}
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n")


def shot(draw: random.Random, path: Path) -> list[Tensor]:
    """4 to 30 frames (3, H, W) of a picture."""
    picture = arrays.unpack(pictures.read(path).pixels).rgb
    count, angle = draw.choice((4, 8, 15, 30)), draw.uniform(0, 2 * math.pi)
    pan, zoom = draw.choice((0, 0, 0.01, 0.03, 0.06)), draw.choice((0, 0, 0.01, 0.03))
    noise, fade = draw.choice((0, 0.01, 0.04)), draw.choice((0, 0, 0, 0.8))
    frames = []
    for t in range(count):
        size = 0.5 * (1 - zoom) ** t
        way = 2 * size * pan * (t - count / 2)
        move = [[size, 0, way * math.cos(angle)], [0, size, way * math.sin(angle)]]
        grid = F.affine_grid(torch.tensor([move]), (1, 3, *SIZE), align_corners=False)
        frame = F.grid_sample(picture, grid, padding_mode="reflection", align_corners=False)[0]
        frame = frame * (1 - fade * t / count) + noise * torch.randn(frame.shape)
        frames.append(frame.clamp(0, 1))
    if count > 12 and draw.random() < 0.3:
        frames[draw.randrange(3, count - 3)] = torch.full_like(frames[0], draw.choice((0.0, 1.0)))
    return frames


def peer(detector, **settings):
    def detect(frames: list[Tensor]) -> list[int]:
        at_work, cuts = detector(**settings), []
        for index, frame in enumerate(frames):
            bgr = (frame.flip(0).permute(1, 2, 0) * 255).round().byte().contiguous().numpy()
            cuts += at_work.process_frame(FrameTimecode(index, 25.0), bgr)
        cuts += at_work.post_process(FrameTimecode(len(frames) - 1, 25.0))
        return [cut.frame_num for cut in cuts]

    return detect


DETECTORS = {
    "pysr": find_shots,
    "ContentDetector": peer(ContentDetector),
    "ContentDetector, min_scene_len=1": peer(ContentDetector, min_scene_len=1),
    "AdaptiveDetector": peer(AdaptiveDetector),
    "AdaptiveDetector, min_scene_len=1": peer(AdaptiveDetector, min_scene_len=1),
}

if __name__ == "__main__":
    main()
