"""State dicts as others published them: how each spelling is known, renamed and measured.

Public checkpoints say nothing about the network they belong to. A spelling is known by one key that
no other has; the sizes of the network are read off the shapes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

State = dict[str, Tensor]

# Trainers save more than the weights; the first of these that is there holds them.
_WRAPPERS = ("params_ema", "params", "state_dict")


@dataclass(frozen=True)
class PublicNames:
    """One spelling of a network's weights.

    Attributes:
        marker: a key that is in every such state dict, and in no other.
        config: the configuration that a renamed state dict was made with. Where the scale does not
            show in the weights, it is the second argument, or that network's usual one for None.
        renames: (pattern, replacement) of `re.sub`, applied in order to every key; () where the
            names are the network's own.
        dropped: a pattern of renamed keys that only `config` looks at.
    """

    marker: str
    config: Callable[[State, int | None], object]
    renames: tuple[tuple[str, str], ...] = ()
    dropped: str | None = None

    def read(self, state: State, scale: int | None) -> tuple[object, State]:
        """The configuration, and the state dict with the network's own names."""
        renamed = self._renamed(state)
        config = self.config(renamed, scale)
        if self.dropped is not None:
            renamed = {k: v for k, v in renamed.items() if not re.match(self.dropped, k)}
        return config, renamed

    def _renamed(self, state: State) -> State:
        out = {}
        for key, value in state.items():
            for pattern, replacement in self.renames:
                key = re.sub(pattern, replacement, key)
            out[key] = value
        return out


def unwrapped(content: object) -> State | None:
    """The state dict in what a checkpoint file holds; None where there is none."""
    for name in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
            break
    if not isinstance(content, dict) or not content:
        return None
    if not all(isinstance(value, Tensor) for value in content.values()):
        return None
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def count(state: State, prefix: str) -> int:
    """How many different parts (blocks, stages) follow a prefix in the keys."""
    return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})
