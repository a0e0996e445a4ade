"""What a model was taught, as a small file of its own: the differences to the weights before.

Only tensors that changed are kept, in half precision: a difference is small beside its weight, and
so is its rounding. They mean nothing on another model, so the file names the one it belongs to.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from pysr.files import read_safetensors, written_whole
from pysr.nets import ModelError, fingerprint


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
        "report": json.dumps(report),
        "settings": json.dumps(settings),
    }
    with written_whole(path) as beside:
        save_file(differences, beside, metadata)


def read(path: str | Path, base: nn.Module) -> tuple[dict, dict, dict[str, Tensor]]:
    """The report, the settings and the differences in a file.

    Raises:
        ModelError: for a file that is missing, damaged, no delta, or taught from another model.
    """
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
    if metadata["base"] != fingerprint(base):
        raise ModelError(f"{path}: was taught from another model than the one given")
    return json.loads(metadata["report"]), json.loads(metadata["settings"]), differences


@torch.no_grad()
def add(model: nn.Module, differences: dict[str, Tensor]) -> None:
    """Make of the weights before those that were taught, in place."""
    state = model.state_dict()
    for name, difference in differences.items():
        state[name].add_(difference.to(state[name]))
