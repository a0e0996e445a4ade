"""DAN: a Restorer and an Estimator that alternate (dan.txt, section 3).

The state dict has the published names, so that public checkpoints load unchanged. One thing is
computed differently: the kernel code is constant over the image, so its share of a block's first
convolution is a constant too, apart from the border, where zero padding cuts taps off: nine cases
in all. They enter the convolution of the features alone as its bias; the code is never stretched
over the image nor concatenated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pysr import blur
from pysr._ext import MOST_TAPS
from pysr.nets.parts import (
    BicubicUpsample,
    Conv3x3,
    check_ranges,
    convolve,
    learns_by_ours,
    learns_on_matrix_tiles,
    pixel_shuffles,
)
from pysr.ops import conditional_residual_block, mixed_residual_block
from pysr.ops.mixed_residual_block import border_cases


@dataclass(frozen=True)
class DANConfig:
    """Sizes of a DAN; the defaults are the published network (about 4 M parameters).

    Attributes:
        scale: s, 1 to 4; 1 deblurs.
        features, blocks: channels and conditional blocks of the Restorer.
        code_length: entries of the kernel code, and conditional channels of each block.
        kernel_size: k of the kernels that the code stands for.
        iterations: T, the Restorer passes of one estimate.
        estimator_features, estimator_blocks: the same of the Estimator.
        compact_tail: one convolution straight to s * s * 3 channels and one pixel shuffle, instead
            of the published upscaling at full width, which costs a small network more than its
            body.
        bicubic_skip: the network adds to bicubic interpolation, where training then begins.
        whitened_estimator: the Estimator sees pictures without their low frequencies, at unit
            contrast. Blur is a ratio of fine to coarse detail; a small network on raw pictures was
            still predicting the mean kernel after 1400 steps, where this one had long left it.
    """

    scale: int = 4
    features: int = 64
    blocks: int = 40
    code_length: int = 10
    kernel_size: int = 21
    iterations: int = 4
    estimator_features: int = 32
    estimator_blocks: int = 5
    compact_tail: bool = False
    bicubic_skip: bool = False
    whitened_estimator: bool = False

    def __post_init__(self):
        if self.scale not in (1, 2, 3, 4):
            raise ValueError(f"scale: expected 1, 2, 3 or 4, got {self.scale}")
        check_ranges(
            self,
            features=(1, 1024),
            blocks=(1, 1024),
            code_length=(1, 1024),
            kernel_size=(1, MOST_TAPS),
            iterations=(1, 64),
            estimator_features=(1, 1024),
            estimator_blocks=(1, 1024),
        )


class Restoration(NamedTuple):
    """What a DAN returns: sr (N, 3, s*H, s*W), not clipped, and a code (N, code_length)."""

    sr: Tensor
    code: Tensor


class ChannelAttention(nn.Module):
    """Gates in (0, 1), one a channel, from the channels' means: (N, C, 1, 1) to the same."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        hidden = max(1, channels // reduction)
        self.body = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(hidden, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, means: Tensor) -> Tensor:
        return self.body(means)


class ConditionalResidualBlock(nn.Module):
    """f + R(concat(f, cond)) (dan.txt, equation 5).

    f is (N, C, H, W); cond is (N, D) or (1, D), constant over the image, or (N, D, H, W).
    """

    def __init__(self, channels: int, conditional: int):
        super().__init__()
        hidden = channels + conditional
        self.channels = channels
        self.body = nn.Sequential(
            Conv3x3(hidden, hidden),
            nn.LeakyReLU(0.2, inplace=True),
            Conv3x3(hidden, channels),
            ChannelAttention(channels),
        )

    def residual(self, f: Tensor, cond: Tensor) -> Tensor:
        """R before its channel attention."""
        first, activation, second, _ = self.body
        if cond.ndim == 4:
            return second(activation(first(torch.cat((f, cond), 1))))
        weight = first.weight[:, : self.channels]
        cases = border_cases(cond, first.weight[:, self.channels :], first.bias, f.shape[-2:])
        return second(activation(conv_with_border_cases(f, weight, cases, self.training)))

    def forward(self, f: Tensor, cond: Tensor, gate: Tensor | None = None) -> Tensor:
        """`gate` (N or 1, C, 1, 1) stands in for the attention that f itself would give."""
        if gate is None and cond.ndim == 2 and self.training and learns_on_matrix_tiles(f):
            cond = cond.float().expand(len(f), -1)
            return mixed_residual_block(f.bfloat16(), cond, *self.parameters())
        if gate is None and self.training and not torch.is_grad_enabled() and learns_by_ours(f):
            # The iterations of a training step that record nothing.
            cond = cond if cond.ndim == 4 else cond.expand(len(f), -1)
            return conditional_residual_block(f, cond, *self.parameters())
        r = self.residual(f, cond)
        if gate is None:
            gate = self.body[3](r.mean((2, 3), keepdim=True))
        return torch.addcmul(f, r, gate)


def conv_with_border_cases(
    f: Tensor, weight: Tensor, cases: Tensor, training: bool = False
) -> Tensor:
    """Zero-padded 3x3 convolution of f (N, C, H, W), plus what `border_cases` returned."""
    if torch.is_grad_enabled():
        if training:
            return _AddedCases.apply(convolve(f, weight, None, training), cases)
        # One product with 0/1 matrices: an exported graph takes any size.
        rows, columns = (_membership(n).to(f) for n in f.shape[-2:])
        return convolve(f, weight, None, training) + rows @ cases @ columns.T
    # With one code for the whole batch the inner case is the convolution's own bias.
    inner = _inner(cases)
    shared = len(cases) == 1
    x = convolve(f, weight, inner[0] if shared else None, training)
    if not shared:
        x += inner[:, :, None, None]
    return _add_to_border(x, cases - inner[:, :, None, None])


class _AddedCases(torch.autograd.Function):
    """x (N, C, H, W) plus cases (N or 1, C, min(H, 3), min(W, 3)), each where it belongs. Autograd
    would copy the whole image for every slice written."""

    @staticmethod
    def forward(ctx, x: Tensor, cases: Tensor) -> Tensor:
        ctx.shared = len(cases) == 1
        inner = _inner(cases)[:, :, None, None]
        return _add_to_border(x + inner, cases - inner)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        rows, columns = (_bands(n) for n in grad.shape[-2:])
        by_columns = torch.stack([grad[..., column].sum(3) for column in columns], 3)
        cases = torch.stack([by_columns[:, :, row].sum(2) for row in rows], 2)
        return grad, cases.sum(0, keepdim=True) if ctx.shared else cases


def _inner(cases: Tensor) -> Tensor:
    """(N, C): the case of all but the border."""
    return cases[:, :, cases.shape[2] // 2, cases.shape[3] // 2]


def _add_to_border(x: Tensor, cases: Tensor) -> Tensor:
    """Adds, in place, all but the inner case."""
    rows, columns = (_bands(n) for n in x.shape[-2:])
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            if (i, j) != (len(rows) // 2, len(columns) // 2):
                x[:, :, row, column] += cases[:, :, i : i + 1, j : j + 1]
    return x


def _bands(length: int) -> list[slice]:
    if length < 3:
        return [slice(i, i + 1) for i in range(length)]
    return [slice(0, 1), slice(1, length - 1), slice(length - 1, length)]


def _membership(length: int) -> Tensor:
    """(length, min(length, 3)): 1 where a row or column belongs to a case, else 0."""
    index, cases = torch.arange(length), min(length, 3)
    case = ((index > 0).long() + (index == length - 1).long()).clamp(max=cases - 1)
    return F.one_hot(case, cases)


class Restorer(nn.Module):
    """LR picture and kernel code to SR picture (dan.txt, Figure 2a).

    forward(lr, code): lr (N, 3, H, W) in [0, 1], code (N, code_length) -> (N, 3, s*H, s*W).
    """

    def __init__(self, config: DANConfig):
        super().__init__()
        nf, s = config.features, config.scale
        self.head = Conv3x3(3, nf)
        self.body = nn.Sequential(
            *(ConditionalResidualBlock(nf, config.code_length) for _ in range(config.blocks))
        )
        self.fusion = Conv3x3(nf, nf)
        if config.compact_tail:
            upscale = [Conv3x3(nf, 3 * s * s), nn.PixelShuffle(s)]
        else:
            upscale = [*pixel_shuffles(nf, nf, s), Conv3x3(nf, 3)]
        self.upscale = nn.Sequential(*upscale)
        self.skip = BicubicUpsample(s) if config.bicubic_skip else None

    def forward(self, lr: Tensor, code: Tensor, gates: Sequence[Tensor] | None = None) -> Tensor:
        """`gates`, one (N or 1, C, 1, 1) a block, replace the blocks' own channel attention.

        Where the weights and the code are in half precision, lr may stay in float32: it is cast for
        the features, and the interpolation of it that they are added to remains exact.
        """
        f = self.head(lr.to(self.head.weight.dtype))
        for i, block in enumerate(self.body):
            f = block(f, code, None if gates is None else gates[i])
        return self.tail(lr, f)

    def tail(self, lr: Tensor, f: Tensor) -> Tensor:
        """The SR picture from the last block's features."""
        sr = self.upscale(self.fusion(f))
        return sr if self.skip is None else sr + self.skip(lr)

    def gates(self, crops: Tensor, code: Tensor, margin: tuple[int, int] = (0, 0)) -> list[Tensor]:
        """Channel attention of a large picture, from crops (N, 3, h, w) that stand for it.

        Every block pools over all crops together, leaving out `margin` pixels above and below, left
        and right, where a crop's border shows. The only approximation in restoring by tiles.
        """
        rows, columns = (slice(m, -m or None) for m in margin)
        f, gates = self.head(crops.to(self.head.weight.dtype)), []
        for block in self.body:
            r = block.residual(f, code)
            gates.append(block.body[3](r[..., rows, columns].mean((0, 2, 3), keepdim=True)))
            f = torch.addcmul(f, r, gates[-1])
        return gates

    @property
    def halo(self) -> int:
        """LR pixels around an output pixel that it depends on, channel attention aside."""
        upscaling = sum(isinstance(layer, nn.Conv2d) for layer in self.upscale)
        return 2 * len(self.body) + 2 + upscaling


class Estimator(nn.Module):
    """SR and LR picture to kernel code (dan.txt, Figure 2b).

    forward(sr, lr): sr (N, 3, s*H, s*W), lr (N, 3, H, W) -> (N, code_length).
    """

    def __init__(self, config: DANConfig):
        super().__init__()
        nf = config.estimator_features
        self.head_LR = nn.Conv2d(3, nf, 1)
        self.head_HR = nn.Conv2d(3, nf, 9, stride=config.scale, padding=4)
        self.body = nn.Sequential(
            *(ConditionalResidualBlock(nf, nf) for _ in range(config.estimator_blocks))
        )
        self.out = Conv3x3(nf, config.code_length)
        self.scale = config.scale
        self.whitened = config.whitened_estimator

    def forward(self, sr: Tensor, lr: Tensor) -> Tensor:
        if self.whitened:
            lr, sr = whiten(lr, sr, self.scale)
        f, cond = self.head_LR(lr), self.head_HR(sr)
        for block in self.body:
            f = block(f, cond)
        return self.out(f).mean((2, 3))


def whiten(lr: Tensor, sr: Tensor, scale: int) -> tuple[Tensor, Tensor]:
    """Both pictures as a whitened Estimator sees them."""
    coarse = sr if scale == 1 else F.avg_pool2d(sr, scale)
    return whitened(lr, lr), whitened(sr, coarse)


def whitened(x: Tensor, coarse: Tensor) -> Tensor:
    """x (N, C, H, W) without its low frequencies, at unit root mean square.

    The low frequencies are 5x5 means of `coarse`, which is x or x averaged over whole squares.
    """
    low = F.avg_pool2d(F.pad(coarse, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    if low.shape != x.shape:
        low = F.interpolate(low, x.shape[-2:], mode="nearest")
    detail = x - low
    return detail / (detail.square().mean((1, 2, 3), keepdim=True).sqrt() + 0.005)


class DAN(nn.Module):
    """The alternation of dan.txt, Figure 1, unfolded T times from a Dirac kernel.

    Args:
        config: sizes; `DANConfig()` is the published network.
        basis: (k * k, code_length), the code of a kernel is flat(kernel) @ basis; zeros when left
            out, to be filled from a checkpoint.
    """

    def __init__(self, config: DANConfig | None = None, basis: Tensor | None = None):
        super().__init__()
        self.config = config = config or DANConfig()
        shape = (config.kernel_size**2, config.code_length)
        basis = torch.zeros(shape) if basis is None else basis
        if tuple(basis.shape) != shape:
            raise ValueError(f"basis: expected shape {shape}, got {tuple(basis.shape)}")
        self.Restorer = Restorer(config)
        self.Estimator = Estimator(config)
        self.register_buffer("encoder", basis[None].clone())
        self.register_buffer("init_kernel", blur.dirac(config.kernel_size)[None])
        self.register_buffer("init_ker_map", blur.encode(self.init_kernel, basis))

    def forward(
        self,
        lr: Tensor,
        *,
        kernel: Tensor | None = None,
        code: Tensor | None = None,
        iterations: int | None = None,
    ) -> Restoration:
        """Restore (N, 3, H, W); returns the picture and the code of the kernel it was restored with
        (blind: the code that the last iteration estimated).

        Args:
            kernel: (N, k, k) or (k, k), known kernels: one Restorer pass, no estimate.
            code: (N, code_length), the same by its code.
            iterations: T, at least 1; by default the configuration's. Only the last iteration
                records gradients: the loop detaches between iterations, and only the last is
                supervised.
        """
        if kernel is not None:
            kernel = kernel.expand(len(lr), -1, -1) if kernel.ndim == 2 else kernel
            code = self.encode(kernel)
        if code is not None:
            return Restoration(self.Restorer(lr, code), code)
        iterations = self.config.iterations if iterations is None else iterations
        if iterations < 1:
            raise ValueError(f"iterations: expected at least 1, got {iterations}")
        sr = self.Restorer(lr, self.last_code(lr, iterations))
        return Restoration(sr, self.Estimator(sr.detach(), lr))

    @torch.no_grad()
    def last_code(self, lr: Tensor, iterations: int) -> Tensor:
        """The code (N, code_length) that the last of so many iterations restores lr with, what the
        others come to (dan.txt, Figure 1); lr is (N, 3, H, W) in [0, 1]."""
        code = self.init_ker_map.to(lr.dtype).expand(len(lr), -1)
        for _ in range(iterations - 1):
            code = self.Estimator(self.Restorer(lr, code), lr)
        return code

    @property
    def halo(self) -> int:
        """The Restorer's."""
        return self.Restorer.halo

    def encode(self, kernel: Tensor) -> Tensor:
        """Code (N, code_length) of kernels (N, k', k'), cropped or padded to the model's size."""
        if kernel.shape[-1] != self.config.kernel_size:
            kernel = blur.resized(kernel, self.config.kernel_size)
        return blur.encode(kernel.to(self.encoder), self.encoder[0])

    def decode(self, code: Tensor) -> Tensor:
        """Kernels (N, k, k), summing to 1, that codes (N, code_length) stand for."""
        return blur.decode(code, self.encoder[0])


def grown(model: DAN, config: DANConfig) -> DAN:
    """A DAN with further blocks or features that computes what `model` does, to train on from.

    New blocks come after the old ones; their second convolutions are zero, so that they add nothing
    yet. New features begin as in `initialise`, and nothing old listens to them yet. A network with
    a compact tail may change its scale, too: the tail gives s x s samples of what lies over a LR
    pixel, and as many as the new scale has are taken between them.

    Raises:
        ValueError: for a configuration that differs in more, or has fewer blocks or features.
    """
    old = model.config
    sizes = {name: getattr(old, name) for name in ("blocks", "estimator_blocks", "features")}
    scale = {"scale": old.scale} if config.compact_tail else {}
    if replace(config, **sizes, **scale) != old:
        may = ", ".join([*sizes, *scale])
        raise ValueError(f"expected {old}, or another {may}, got {config}")
    if any(getattr(config, name) < size for name, size in sizes.items()):
        raise ValueError(f"expected at least {sizes}, got {config}")
    larger = DAN(config, model.encoder[0])
    initialise(larger)
    state = model.state_dict()
    if config.scale != old.scale:
        for name in ("Restorer.upscale.0.weight", "Restorer.upscale.0.bias"):
            state[name] = _resampled_tail(state[name], old.scale, config.scale)
    wide = larger.state_dict()
    for name, value in state.items():
        wide[name] = _widened(name, value, wide[name], old.features)
    larger.load_state_dict(wide)
    for before, now in ((model.Restorer, larger.Restorer), (model.Estimator, larger.Estimator)):
        for block in now.body[len(before.body) :]:
            nn.init.kaiming_normal_(block.body[0].weight)
            for zero in (block.body[0].bias, block.body[2].weight, block.body[2].bias):
                nn.init.zeros_(zero)
    return larger


def _widened(name: str, old: Tensor, new: Tensor, features: int) -> Tensor:
    """`new`, with `old` for its first outputs, which take nothing from the inputs that are added.

    Inputs are added after the old `features`: the first convolution of a Restorer's block has the
    code's behind them.
    """
    if old.shape == new.shape:
        return old
    new = new.clone()
    new[: len(old)] = 0
    if old.ndim == 1:
        new[: len(old)] = old
        return new
    inputs = torch.arange(old.shape[1])
    if re.fullmatch(r"Restorer\.body\.\d+\.body\.0\.weight", name):
        inputs[features:] += new.shape[1] - old.shape[1]
    new[: len(old), inputs] = old
    return new


def _resampled_tail(parameter: Tensor, old: int, new: int) -> Tensor:
    """(3 * old * old, ...), a compact tail's convolution, to (3 * new * new, ...), linearly."""
    samples = parameter.reshape(3, old, old, -1).permute(0, 3, 1, 2)
    samples = F.interpolate(samples, (new, new), mode="bilinear")
    return samples.permute(0, 2, 3, 1).reshape(-1, *parameter.shape[1:])


def initialise(model: DAN, gain: float = 0.1) -> None:
    """Kaiming normal weights times `gain`, zero biases: the published start of training.

    A whitened Estimator starts at full gain, its residuals at 0.3 and its output at 0: at a tenth,
    its signal would be gone before the final average.
    """

    def reset(part: nn.Module, gain: float) -> None:
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                module.weight.data.mul_(gain)
                nn.init.zeros_(module.bias)

    reset(model, gain)
    if model.config.whitened_estimator:
        reset(model.Estimator, 1.0)
        for block in model.Estimator.body:
            block.body[2].weight.data.mul_(0.3)
        nn.init.zeros_(model.Estimator.out.weight)
