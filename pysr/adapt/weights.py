"""First weights of networks that are taught from nothing: always the same for a seed.

They come from a generator of their own. From torch's, which a process has but one of, other threads
draw meanwhile, and so does the user.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn


def drawn(build: Callable[[], nn.Module], generator: torch.Generator) -> nn.Module:
    """What `build` gives, on the CPU, with the numbers that torch's own generator would have given
    it in the same state: of convolutions and linear layers with a bias, and of nothing else."""
    with torch.device("meta"):  # where nothing is drawn
        network = build()
    network.to_empty(device="cpu")
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
            bound = 1 / math.sqrt(layer.weight[0].numel())
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return network
