"""What a method is given, checked: the network, the picture, and the blur that was done to it; and
the mode of torch that it is called in.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import wraps
from numbers import Integral
from pathlib import Path

import torch
from torch import Tensor, nn

from pysr import arrays
from pysr.engines.defaults import undisturbed
from pysr.nets import DAN, DEFAULTS, default_model, load_model
from pysr.noise import CLEAN_NOISE, estimate_noise
from pysr.tiling import informative_crops
from pysr.upscaler import Upscaler

LEAST_SIDE = 8  # LR pixels of a son, below which there is nothing to learn from
JUDGED_SIDE = 128  # LR pixels, at most


def teaching(method: Callable) -> Callable:
    """A method that learns `undisturbed`, from copies of the tensors that it is given."""

    @wraps(method)
    def outside(*given, **named):
        with undisturbed():
            given = [_outside(value) for value in given]
            named = {name: _outside(value) for name, value in named.items()}
            return method(*given, **named)

    return outside


def _outside(value: object) -> object:
    inference = torch.is_tensor(value) and value.is_inference()
    return value.clone() if inference else value


def student(model: nn.Module | str | Path) -> nn.Module:
    """The network that is to be taught, itself or by what `pysr.nets.load_model` takes.

    Raises TypeError for anything else, for a network that is not of pysr, or not in float32.
    """
    if isinstance(model, str | Path):
        model = load_model(model)
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise TypeError(
            "model: expected a network of pysr.nets, a file or a shipped name, got "
            f"{type(model).__name__}"
        )
    for parameter in model.parameters():
        if parameter.dtype != torch.float32:
            raise TypeError(f"model: expected weights in torch.float32, got {parameter.dtype}")
    return model


def one_picture(image, device: torch.device) -> Tensor:
    """A user's picture as (1, 3, H, W) on the device. Raises ValueError for several pictures."""
    rgb = arrays.unpack(image).rgb
    if len(rgb) != 1:
        raise ValueError(f"image: expected one picture, got a batch of {len(rgb)}")
    return rgb.to(device)


def check_counts(config: object, *names: str) -> None:
    """Raises ValueError for a field that is no whole number of at least 1."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")


def own_teacher(image, scale: int, device: torch.device) -> Tensor:
    """The same of a picture that is learned from by itself.

    Raises ValueError for one too small to be its own ground truth.
    """
    lr = one_picture(image, device)
    least, (height, width) = scale * LEAST_SIDE, lr.shape[-2:]
    if min(height, width) < least:
        raise ValueError(
            f"image: expected at least {least}x{least} pixels to learn x{scale} from, got "
            f"{width}x{height}"
        )
    return lr


def noise_of(lr: Tensor, told: float | None) -> float:
    """Standard deviation of the noise of (N, 3, H, W), in [0, 1] units: the one that was told, else
    as it is found, from CLEAN_NOISE on. Raises ValueError as `check_noise`."""
    if told is not None:
        return check_noise(told)
    found = estimate_noise(lr)
    return found if found >= CLEAN_NOISE else 0.0


def check_noise(told: float) -> float:
    """Raises ValueError for a deviation that noise in [0, 1] cannot have."""
    if not 0 <= told < 1:
        raise ValueError(f"noise: expected a deviation from 0 to below 1, got {told}")
    return float(told)


def judged_on(lr: Tensor) -> list[Tensor]:
    """The parts of (1, 3, H, W) that weights are judged by: a look costs but a few steps."""
    parts = []
    for _, _, crop in informative_crops(lr):
        top, left = (max(n - JUDGED_SIDE, 0) // 2 for n in crop.shape[-2:])
        parts.append(crop[..., top : top + JUDGED_SIDE, left : left + JUDGED_SIDE])
    return parts


def knows_blur(model: nn.Module) -> bool:
    """Whether `estimated_kernel` finds the blur of pictures for a model."""
    return isinstance(model, DAN) or model.config.scale in DEFAULTS


def second_opinion(parts: list[Tensor], model: nn.Module, kernel: Tensor) -> list[Tensor]:
    """What the shipped DAN makes of parts (1, 3, H, W) of a picture under the blur that it found,
    for `Anytime` to hold against what a plain model of its scale was taught; of a DAN none."""
    if isinstance(model, DAN):
        return []
    dan = load_model(default_model(model.config.scale, many_on=parts[0].device))
    with Upscaler(dan, kernel=kernel, device=str(parts[0].device)) as upscaler:
        return [upscaler(part).image for part in parts]


def estimated_kernel(lr: Tensor, model: nn.Module) -> Tensor:
    """(k, k), the blur of (1, 3, H, W): as the model finds it if it is a DAN, else as the shipped
    DAN of its scale does.

    Raises ValueError for a scale that none is shipped for.
    """
    if not knows_blur(model):
        raise ValueError(
            f"kernel: expected one, as no shipped model estimates it at x{model.config.scale}"
        )
    if not isinstance(model, DAN):
        model = load_model(default_model(model.config.scale, many_on=lr.device))
    with Upscaler(copy.deepcopy(model), device=str(lr.device)) as upscaler:
        return upscaler.estimate(lr.cpu())
