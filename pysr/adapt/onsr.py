"""ONSR: a network and the degradation that it undoes, learned together from one picture (onsr.txt).

Two branches share a reconstruction network Gr and a degradation Gd. The internal one restores
patches of the picture and degrades them again, from which Gd learns; the external one degrades
sharp pictures by Gd and restores them, from which Gr learns. A discriminator of LR patches tells Gd
where what it makes still differs from the picture. Optimisation is separate (section 3.4): each
learns from its own losses only, so that the internal branch needs no gradient through Gr, and one
backward pass serves both.

Where the degradation is known, by its kernel (section 4.5) or as one that was learned from a
camera's pairs, it is Gd, and Gr learns from the external branch alone.

Where this differs from the paper: patches are compared inside a margin, so that mirrored borders
teach Gd next to nothing, Gd's kernel is kept at sum 1 and begins as DAN's estimate, and Gd's
adversarial loss is the one that does not saturate. For speed, a step has 8 patches of a kind
instead of 10, and weights are looked at every 20 steps instead of every 10. Where the picture has
noise, what Gd makes of sharp pictures gets as much: Gr would learn to sharpen it.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pysr import blur
from pysr.adapt.anytime import Anytime
from pysr.adapt.budget import Budget
from pysr.adapt.camera import Camera, camera_of
from pysr.adapt.pairs import noisy
from pysr.adapt.picture import (
    check_counts,
    estimated_kernel,
    knows_blur,
    noise_of,
    one_picture,
    second_opinion,
    student,
    teaching,
)
from pysr.adapt.pool import LEAVES, READING, Patches, open_pool
from pysr.adapt.report import Adapted
from pysr.adapt.weights import drawn
from pysr.degrade import LearnedDegradation
from pysr.degrade.deep_linear import DeepLinear, GivenBlur, layer_sizes, most_to_begin
from pysr.nets import DAN
from pysr.nets.discriminators import VGGDiscriminator
from pysr.tiling import informative_crops, inside
from pysr.upscaler import Upscaler, usable_device

# What each variant of section 4.4.3 learns from: the branches, and a critic of LR patches (Dl) or
# of restored ones (Dh). EBSR is trained offline in the paper: its blur stays as it begins.
VARIANTS = {
    "ibsr": {"internal"},
    "ebsr": {"external"},
    "ib-ebsr": {"internal", "external"},
    "ib-eb-gsr": {"internal", "external", "lr critic", "hr critic"},
    "onsr": {"internal", "external", "lr critic"},
}
BEGINNINGS = ("gaussians", "estimate")


@dataclass(frozen=True)
class ONSRConfig:
    """How ONSR learns; section 4.1 where the paper says it, save the batch (10 there).

    Attributes:
        variant: of VARIANTS.
        joint: all losses teach both networks (section 4.4.4), instead of each its own.
        patch, batch: of LR pixels; a smaller picture makes smaller patches. The discriminators see
            the middle 32x32, and below that there are none.
        learning_rate: of Gr.
        blur_rate: of Gd, as the share of a layer's sum that a step moves at most.
        critic_rate: of the discriminators.
        adversarial: lambda of equation 9. Like the rates, 0 or more.
        begin: what Gd begins as: "estimate", what DAN makes of the picture (the model itself if it
            is one, else the shipped one of its scale, where there is one); or "gaussians", the
            paper's, which a short budget does not leave far behind: where the true blur is
            narrower, pictures are sharpened too much.
    """

    variant: str = "onsr"
    joint: bool = False
    patch: int = 32
    batch: int = 8
    learning_rate: float = 5e-4
    blur_rate: float = 0.005
    critic_rate: float = 3e-4
    adversarial: float = 1.0
    begin: str = "estimate"

    def __post_init__(self):
        for name, known in (("variant", VARIANTS), ("begin", BEGINNINGS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        check_counts(self, "patch", "batch")
        for name in ("learning_rate", "blur_rate", "critic_rate", "adversarial"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name}: expected a number of at least 0, got {getattr(self, name)}"
                )


class Critic:
    """A discriminator and its optimiser: what is real, and what is made to look so (eq. 8)."""

    def __init__(self, rate: float, device: torch.device, generator: torch.Generator):
        network = drawn(VGGDiscriminator, generator)
        self.network = network.to(device, memory_format=torch.channels_last)
        self.optimiser = torch.optim.Adam(self.network.parameters(), rate, fused=True)

    def doubt(self, made: Tensor) -> Tensor:
        """The loss of whoever made it: how surely it is seen to be made."""
        self.network.requires_grad_(False)
        loss = F.softplus(-self.network(made)).mean()
        self.network.requires_grad_(True)
        return loss

    def learn(self, real: Tensor, made: Tensor) -> None:
        seen_real, seen_made = self.network(torch.cat((real, made.detach()))).chunk(2)
        loss = F.softplus(-seen_real).mean() + F.softplus(seen_made).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()


class ONSR:
    """Algorithm 1 on one picture; a `pysr.adapt.anytime.Learner`.

    Args:
        model: taught in place. Of a DAN it is the Restorer, with the code of the blur found so far.
        lr: (1, 3, H, W), the picture, on the device.
        pool: sharp patches, as `pool_for` opens them; None leaves the internal branch alone.
        degradation: Gd.
        seed: of the patches, the discriminators' weights and the noise.
        noise: standard deviation of the picture's, which Gd has not.
    """

    finished, settled = False, True

    def __init__(
        self,
        model: nn.Module,
        lr: Tensor,
        pool: Patches | None,
        degradation: DeepLinear | GivenBlur | Camera,
        config: ONSRConfig,
        seed: int = 0,
        noise: float = 0.0,
    ):
        self.noise, self.grain = noise, torch.Generator(lr.device).manual_seed(seed)
        self.config, self.scale = config, model.config.scale
        self.device = device = lr.device
        self.uses = VARIANTS[config.variant] if pool is not None else VARIANTS["ibsr"]
        known = not list(degradation.parameters())
        if known and "external" in self.uses:
            self.uses = {"external"}  # the rest is there to find the blur
        if isinstance(degradation, Camera) and self.uses != {"external"}:
            raise ValueError(
                "degradation: a learned one teaches by sharp pictures, expected a pool and a "
                "variant that takes it"
            )
        self.model = model.to(device, memory_format=torch.channels_last)
        self.follows_blur = isinstance(model, DAN) and not known
        self.gd = degradation.to(device)
        self.own, self.pool = Patches([lr[0]], device, turned=False), pool
        self.generator = torch.Generator().manual_seed(seed)
        self.patch = min(config.patch, *lr.shape[-2:])
        if self.patch < VGGDiscriminator.SIZE:
            self.uses = {name for name in self.uses if not name.endswith("critic")}
        self.margin = margin(self.scale, degradation)
        taught = self.model.Restorer if isinstance(model, DAN) else self.model
        taught.requires_grad_(True)  # whoever froze it, here it learns
        groups = [{"params": list(taught.parameters()), "lr": config.learning_rate}]
        if "internal" in self.uses or config.joint:
            # Adam moves every tap by about its rate: the larger a layer, the smaller its taps.
            groups += [
                {"params": [layer], "lr": config.blur_rate / layer.numel()}
                for layer in self.gd.parameters()
            ]
        self.optimiser = torch.optim.Adam(groups, fused=True)
        weights = torch.Generator().manual_seed(seed)
        self.critics = {
            name: Critic(config.critic_rate, device, weights)
            for name in sorted(self.uses)
            if name.endswith("critic")
        }

    def restore(self, lr: Tensor) -> Tensor:
        return self.restore_under(lr, self.gd)

    def restore_under(self, lr: Tensor, degradation: DeepLinear | GivenBlur | Camera) -> Tensor:
        lr = lr.contiguous(memory_format=torch.channels_last)
        if isinstance(self.model, DAN):
            code = self.model.encode(degradation.kernel().detach()[None])
            return self.model.Restorer(lr, code.expand(len(lr), -1))
        return self.model(lr)

    def degradation(self) -> GivenBlur | Camera:
        return self.gd.frozen()

    def step(self, index: int) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            loss, shown = self._losses()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        for name, (real, made) in shown.items():
            self.critics[name].learn(real, made)
        return loss.detach()

    def _losses(self) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """The sum of all losses, and what the critics are to learn from: real and made patches.

        Separate optimisation lies in what is detached: no loss reaches a network that another one
        teaches.
        """
        n, s, m, joint = self.config.batch, self.scale, self.margin, self.config.joint
        alone = "external" not in self.uses
        loss, shown = 0.0, {}
        if "internal" in self.uses:
            y = self.own.draw(n, self.patch, self.generator)
            with torch.set_grad_enabled(joint or alone or "hr critic" in self.uses):
                sr = self.restore(y)
            again = self.gd(sr if joint or alone else sr.detach())
            edge = min(m, (self.patch - 1) // 2)
            loss = loss + F.l1_loss(inside(again, edge), inside(y, edge))
        if "external" in self.uses:
            x = self.pool.draw(n, s * (self.patch + 2 * m), self.generator)
            made, x = inside(self.gd(x), m), inside(x, s * m)
            made = noisy(made, self.noise, self.grain)
            loss = loss + F.l1_loss(self.restore(made if joint else made.detach()), x)
        if "lr critic" in self.uses:
            shown["lr critic"] = middle(y), middle(made)
        if "hr critic" in self.uses:
            shown["hr critic"] = middle(x), middle(sr)
        for name, (_, fake) in shown.items():
            loss = loss + self.config.adversarial * self.critics[name].doubt(fake)
        return loss, shown


def margin(scale: int, degradation: DeepLinear | GivenBlur | Camera | None) -> int:
    """LR pixels at a patch's border that the blur reaches from outside: the paper's initial one, or
    a known one that is wider.

    One that is learned may reach further, by taps of which little is left there: at x2 and a width
    of 4, mirrored borders come to 0.02 levels. To cut them off too would leave a quarter of the
    pixels to learn from.
    """
    gaussians = math.ceil(sum(size // 2 for size in layer_sizes(scale)) / scale)
    known = isinstance(degradation, GivenBlur | Camera)
    return max(gaussians, degradation.reach) if known else gaussians


def middle(x: Tensor) -> Tensor:
    """The part of patches that a discriminator takes."""
    top, left = ((n - VGGDiscriminator.SIZE) // 2 for n in x.shape[-2:])
    return x[..., top : top + VGGDiscriminator.SIZE, left : left + VGGDiscriminator.SIZE]


def pool_for(
    lr: Tensor,
    scale: int,
    source: str | Path | None,
    config: ONSRConfig,
    seed: int,
    degradation: DeepLinear | GivenBlur | Camera | None = None,
    budget: Budget | None = None,
) -> Patches | None:
    """Sharp patches large enough for a picture (1, 3, H, W) and what was done to it, on its device;
    where that is None, for the blur that ONSR begins with. Of a budget in seconds a share is spent
    on reading them."""
    if source is None:
        return None
    patch = min(config.patch, *lr.shape[-2:])
    least = scale * (patch + 2 * margin(scale, degradation))
    seconds = None if budget is None or budget.seconds is None else READING * budget.seconds
    return open_pool(source, least, seed, lr.device, seconds)


def first_blur(lr: Tensor, model: nn.Module, config: ONSRConfig) -> DeepLinear:
    """Gd as it begins for a picture (1, 3, H, W): of a wide estimate the middle that folds."""
    scale = model.config.scale
    if not begins_from_estimate(model, config):
        return DeepLinear(scale)
    estimate = estimated_kernel(lr, model)
    most = most_to_begin(scale)
    return DeepLinear(scale, blur.resized(estimate, most) if len(estimate) > most else estimate)


def begins_from_estimate(model: nn.Module, config: ONSRConfig) -> bool:
    """Whether the blur of a picture is first looked for by a DAN."""
    return config.begin != "gaussians" and knows_blur(model)


@teaching
def onsr(
    model: nn.Module | str | Path,
    image,
    hr_pool: str | Path | None = LEAVES,
    *,
    budget: Budget | int | float | str,
    kernel=None,
    degradation: LearnedDegradation | str | Path | None = None,
    noise: float | None = None,
    config: ONSRConfig | None = None,
    device: str = "auto",
    seed: int = 0,
) -> Adapted:
    """Teach a model the degradation of one picture.

    Args:
        model: a network of `pysr.nets`, which stays as it is, or what `pysr.nets.load_model` takes.
        image: as for `pysr.Upscaler`, one picture.
        hr_pool: a folder of sharp pictures, of a large one some, which the seed draws; LEAVES for
            dead leaves, which are drawn too; None for the internal branch alone, whatever the
            variant.
        budget: see `Budget.of`; seconds count from this call.
        kernel: (k, k), the blur where it is known (section 4.5): only Gr learns, from the external
            branch.
        degradation: instead of a kernel, what was learned from pairs of the camera (`pysr train`),
            of the model's scale: with the noise it has, or its file, with noise of deviation 5/255
            (dml.txt, section 3.3).
        noise: standard deviation, in [0, 1] units, of the picture's noise; None has it found, see
            `pysr.adapt.picture.noise_of`. The model learns to take it off, and is judged without
            it. A learned degradation brings its own.
        seed: of all that is drawn.
    Raises:
        ValueError, TypeError: for a picture, kernel, degradation, noise, budget, pool or seed that
            cannot be used.
    """
    seed = blur.check_seed(seed)
    started, budget, config = time.perf_counter(), Budget.of(budget), config or ONSRConfig()
    if kernel is not None and degradation is not None:
        raise ValueError("kernel: given together with a degradation, expected one of them")
    if noise is not None and degradation is not None:
        raise ValueError("noise: given together with a degradation, which brings its own")
    device = usable_device(device)
    model = student(model)
    lr, scale = one_picture(image, device), model.config.scale
    if degradation is not None:
        gd = camera_of(degradation, lr, model, seed)
    elif kernel is not None:
        gd = GivenBlur(scale, blur.check_kernel(kernel))
    else:
        gd = first_blur(lr, model, config)
    noise = noise_of(lr, noise) if degradation is None else 0.0
    pool = pool_for(lr, scale, hr_pool, config, seed, gd, budget)
    learner = ONSR(copy.deepcopy(model), lr, pool, gd, config, seed, noise)
    crops = [crop for _, _, crop in informative_crops(lr)]
    opinion = []
    if kernel is None and degradation is None and not noise and begins_from_estimate(model, config):
        opinion = second_opinion(crops, model, gd.kernel().detach())
    report = Anytime(learner, crops, budget, started, noise, opinion).run("onsr")
    taught = learner.model.eval()
    return Adapted(Upscaler(taught, device=str(device), kernel=report.kernel), report, model)
