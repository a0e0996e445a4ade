"""What a model was taught, as a small file of its own: the differences to the weights before.

Only tensors that changed are kept, in half precision: a difference is small beside its weight, and
so is its rounding. They mean nothing on another model, so the file names the one it belongs to.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from pysr.files import read_safetensors, written_whole
from pysr.nets import ModelError, fingerprint


@dataclass(frozen=True)
class Delta:
    """What a file says.

    Attributes:
        base: fingerprint of the model that it belongs to.
        scale: of that model; None where the file does not say.
        report, settings: as they were saved.
        differences: by the names of what changed.
    """

    base: str
    scale: int | None
    report: dict
    settings: dict
    differences: dict[str, Tensor]


def save(
    path: str | Path,
    taught: nn.Module,
    start: nn.Module,
    base: nn.Module,
    report: dict,
    settings: dict,
) -> None:
    """Write the difference of two networks of one form, tied to the model it was taught from.

    `settings` are what makes that form of the base, beside the report; any JSON.

    Raises OSError when the file system refuses.
    """
    before = start.state_dict()
    differences = {
        name: (tensor.detach().cpu() - before[name].cpu()).to(torch.float16).contiguous()
        for name, tensor in taught.state_dict().items()
        if not torch.equal(tensor.detach().cpu(), before[name].cpu())
    }
    metadata = {
        "architecture": "delta",
        "base": fingerprint(base),
        "scale": json.dumps(base.config.scale),
        "report": json.dumps(report),
        "settings": json.dumps(settings),
    }
    with written_whole(path) as beside:
        save_file(differences, beside, metadata)


def read(path: str | Path) -> Delta:
    """What a file says. Raises ModelError for one that is missing, damaged or no delta."""
    if not Path(path).is_file():
        raise ModelError(f"{path}: no such file")
    try:
        metadata, differences = read_safetensors(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: not a readable file ({error})") from None
    if metadata.get("architecture") != "delta":
        raise ModelError(
            f"{path}: expected what an adapted model was saved as, "
            f"the file says {metadata.get('architecture')!r}"
        )
    try:
        return Delta(
            base=metadata["base"],
            scale=json.loads(metadata.get("scale", "null")),
            report=json.loads(metadata["report"]),
            settings=json.loads(metadata["settings"]),
            differences=differences,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: not a readable file ({error!r})") from None


@torch.no_grad()
def add(model: nn.Module, differences: dict[str, Tensor]) -> None:
    """Make of the weights before those that were taught, in place."""
    state = model.state_dict()
    for name, difference in differences.items():
        state[name].add_(difference.to(state[name]))
