"""A step of ONSR beside the same algorithm written plainly.

    pytest bench/adapt/bench_onsr_step.py

Plainly: contiguous float32, three full-size convolutions and a bicubic interpolation, sharp patches
decoded from their files as they are needed, gradients through everything, Adam in its default form.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from side_by_side import side_by_side
from skimage import data

from pysr import blur
from pysr.adapt import ONSRConfig
from pysr.adapt.onsr import ONSR
from pysr.adapt.pool import open_pool
from pysr.degrade.deep_linear import SIZES, DeepLinear
from pysr.nets import RRDB, RRDBConfig
from pysr.nets.discriminators import VGGDiscriminator
from pysr.resize import imresize
from pysr.tiling import inside
from pysr.train.data import TileCache, draw

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
CONFIG = ONSRConfig()
# The small RRDB that ships, and the published one, which a processor is too slow for.
NETWORKS = {"cpu": {"features": 32, "growth": 16, "blocks": 3}, "cuda": {}}


class Plain:
    """Algorithm 1 as one would first write it down."""

    def __init__(self, network, lr, folder):
        self.gr, self.lr, self.scale = network, lr, network.config.scale
        self.paths = TileCache([folder]).paths
        self.generator = torch.Generator().manual_seed(0)
        self.layers = [
            blur.isotropic(1.0, size)[None, None].to(lr.device).requires_grad_()
            for size in SIZES[self.scale]
        ]
        self.critic = VGGDiscriminator().to(lr.device)
        self.blur_optimiser = torch.optim.Adam(self.layers, 1e-4)
        self.optimiser = torch.optim.Adam(self.gr.parameters(), CONFIG.learning_rate)
        self.critic_optimiser = torch.optim.Adam(self.critic.parameters(), CONFIG.critic_rate)

    def patch(self, picture, size):
        y, x = draw([n - size + 1 for n in picture.shape[-2:]], self.generator)
        return picture[..., y : y + size, x : x + size]

    def sharp(self, size):
        index = draw([len(self.paths)], self.generator)[0]
        return self.patch(TileCache._load(self.paths[index]), size).float() / 255

    def gd(self, x):
        n, c, h, w = x.shape
        x = x.reshape(n * c, 1, h, w)
        for layer in self.layers:
            x = F.conv2d(x, layer, padding="same")
        return imresize(x.view(n, c, h, w), 1 / self.scale)

    def step(self):
        n, s, m = CONFIG.batch, self.scale, 5
        y = torch.cat([self.patch(self.lr, CONFIG.patch) for _ in range(n)])
        x = torch.stack([self.sharp(s * (CONFIG.patch + 2 * m)) for _ in range(n)]).to(y)
        made = inside(self.gd(x), m)
        loss = F.l1_loss(inside(self.gd(self.gr(y)), m), inside(y, m))
        loss = loss + CONFIG.adversarial * F.softplus(-self.critic(made)).mean()
        self.blur_optimiser.zero_grad()
        loss.backward()
        self.blur_optimiser.step()
        made = made.detach()
        self.optimiser.zero_grad()
        restoring = F.l1_loss(self.gr(made), inside(x, s * m))
        restoring.backward()
        self.optimiser.step()
        self.critic_optimiser.zero_grad()
        judging = F.softplus(-self.critic(y)).mean() + F.softplus(self.critic(made)).mean()
        judging.backward()
        self.critic_optimiser.step()
        return float(loss + restoring)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        Image.fromarray(getattr(data, name)()).save(folder / f"{name}.jpg", quality=94)
    return folder


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scale", [2, 4])
def test_step(benchmark, folder, scale, device):
    device = torch.device(device)
    torch.manual_seed(0)
    network = RRDB(RRDBConfig(scale=scale, **NETWORKS[device.type])).to(device)
    lr = torch.rand(1, 3, 120, 160, device=device)
    pool = open_pool(folder, scale * (CONFIG.patch + 10), 0, device)
    ours = ONSR(copy.deepcopy(network), lr, pool, DeepLinear(scale), CONFIG)
    compiled = ONSR(copy.deepcopy(network), lr, pool, DeepLinear(scale), CONFIG)
    compiled.model.compile()
    compiled.step(0)  # compiling takes longer than most budgets
    plain = Plain(network, lr, folder)
    title = f"a step of ONSR, RRDB of {network.config.blocks} blocks, x{scale}, batch of 8"
    peers = {
        "the same written plainly": plain.step,
        "the same by torch.compile": lambda: compiled.step(0),
    }
    side_by_side(benchmark, title, lambda: ours.step(0), peers, device, rounds=5)
