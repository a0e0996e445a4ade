"""Steps of ZSSR and of LR Finer beside the same algorithms written plainly.

    pytest bench/adapt/bench_own_step.py

Plainly: contiguous float32, the picture resized, turned and cut on the host anew for every step,
blur and bicubic downsampling one after the other, Adam in its default form.
"""

import time

import pytest
import torch
import torch.nn.functional as F
from side_by_side import side_by_side
from skimage import data

from pysr import blur
from pysr.adapt import ZSSR, Budget, DSRConfig, ZSSRConfig, ZSSRSizes
from pysr.adapt.dsr import LRFiner, assembled, dsr_phases
from pysr.adapt.pairs import FATHERS
from pysr.adapt.phases import Phases
from pysr.adapt.zssr import zssr_phases
from pysr.degrade import to_8bit
from pysr.resize import imresize
from pysr.train.data import draw

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
KERNEL = blur.anisotropic(2.0, 1.2, 0.5, 15)
CONFIG, FINER = ZSSRConfig(), DSRConfig()


class Plain:
    """Learns pairs of the host's making."""

    def __init__(self, network, scale, device):
        self.network, self.scale, self.device = network.to(device), scale, device
        self.optimiser = torch.optim.Adam(network.parameters(), 1e-3)
        self.generator = torch.Generator().manual_seed(0)

    def degraded(self, hr):
        """(3, H, W) or (1, H, W), on the host."""
        reach = len(KERNEL) // 2
        padded = F.pad(hr[:, None], (reach,) * 4, "reflect")
        return to_8bit(imresize(F.conv2d(padded, KERNEL[None, None]), 1 / self.scale))[:, 0]

    def learn(self, seen, wanted, loss):
        seen, wanted = seen[None].to(self.device), wanted[None].to(self.device)
        loss = loss(self.network(seen), wanted)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())


class PlainZSSR(Plain):
    def __init__(self, picture, scale, device):
        super().__init__(ZSSR(ZSSRSizes(scale)), scale, device)
        self.picture = picture.cpu()

    def step(self):
        index, turns, flip = draw([len(FATHERS), 4, 2], self.generator)
        father = imresize(self.picture, FATHERS[index])[0].rot90(turns, (1, 2))
        father = (father.flip(2) if flip else father).clamp(0, 1)
        y, x = draw([n - CONFIG.patch + 1 for n in father.shape[1:]], self.generator)
        father = father[:, y : y + CONFIG.patch, x : x + CONFIG.patch]
        return self.learn(self.degraded(father), father, F.l1_loss)


class PlainFiner(Plain):
    def __init__(self, scale, device):
        super().__init__(LRFiner(scale, FINER.layers, FINER.features), scale, device)

    def step(self):
        matrix = torch.rand(1, FINER.matrix, FINER.matrix, generator=self.generator)
        wanted = imresize(matrix[None], 1 / self.scale)[0]
        return self.learn(self.degraded(matrix), wanted, F.mse_loss)


@pytest.fixture(scope="module")
def picture():
    return torch.from_numpy(data.coffee()[:240, :320].copy()).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("device", DEVICES)
def test_zssr(benchmark, picture, device):
    device, scale, budget = torch.device(device), 2, Budget(steps=10**9)
    lr = picture.to(device)
    network = ZSSR(ZSSRSizes(scale)).to(device, memory_format=torch.channels_last)
    phases = zssr_phases(network, KERNEL, "bicubic", lambda: lr, CONFIG, 0.0, 0)
    ours = Phases(network, phases, network, network, None, budget, time.perf_counter())
    plain = PlainZSSR(picture, scale, device)
    title = f"a step of ZSSR, x{scale}, a patch of {CONFIG.patch}"
    peers = {"the same written plainly": plain.step}
    side_by_side(benchmark, title, lambda: ours.step(0), peers, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scale", [2, 4])
def test_lr_finer(benchmark, picture, scale, device):
    device, budget = torch.device(device), Budget(steps=10**9)
    settings = {"layers": FINER.layers, "features": FINER.features, "noise": 0.0, "seed": 0}
    whole = assembled(ZSSR(ZSSRSizes(scale)), KERNEL, downsample="bicubic", **settings)
    whole = whole.to(device, memory_format=torch.channels_last)
    phases = dsr_phases(whole, picture.to(device), FINER, 0.0, 0)
    ours = Phases(whole, phases, whole, whole, None, budget, time.perf_counter())
    plain = PlainFiner(scale, device)
    title = f"a step of LR Finer, x{scale}, a matrix of {FINER.matrix}"
    peers = {"the same written plainly": plain.step}
    side_by_side(benchmark, title, lambda: ours.step(0), peers, device)
