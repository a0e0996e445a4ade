"""Models by name: an explicit entry for each, and the only code that loads weights."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from pysr.files import read_safetensors
from pysr.nets.dan import DAN, DANConfig

WEIGHTS = Path(__file__).parent.parent / "weights"


@dataclass(frozen=True)
class Entry:
    """A shipped model: its file in pysr/weights, beside its card (.md), and what it is for."""

    file: str
    summary: str


SHIPPED = {
    "dan-lite-x4": Entry("dan-lite-x4.safetensors", "compact DAN, x4, for real pictures"),
    "dan-lite-x2": Entry("dan-lite-x2.safetensors", "compact DAN, x2, for real pictures"),
}


class ModelError(ValueError):
    """A model that is unknown, missing or not readable; the message is one line."""


def load_model(name: str | Path) -> DAN:
    """A DAN by its name in SHIPPED, or from a weights file.

    Args:
        name: a shipped name; or a path to a .safetensors file written by `save_model`, or to a .pth
            checkpoint with the published names, which is read through torch's weights_only loader.
    Raises:
        ModelError: for an unknown name, or a file that is missing, damaged or of another network.
    """
    if str(name) in SHIPPED:
        return _load_safetensors(WEIGHTS / SHIPPED[str(name)].file)
    path = Path(name)
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise ModelError(
            f"model: expected one of {', '.join(SHIPPED)}, or a path to a .safetensors or .pth "
            f"file; got {str(name)!r}"
        )
    if not path.is_file():
        raise ModelError(f"model: no file {path}")
    return _load_safetensors(path) if path.suffix == ".safetensors" else _load_checkpoint(path)


def save_model(model: DAN, path: str | Path) -> None:
    """Write a DAN as safetensors: weights in half precision, the code's basis in full, and the
    configuration, which `load_model` needs to rebuild it."""
    state = {
        key: value.detach().cpu().contiguous().to(torch.float32 if _is_code(key) else torch.float16)
        for key, value in model.state_dict().items()
    }
    metadata = {"architecture": "dan", "config": json.dumps(asdict(model.config))}
    save_file(state, path, metadata)


def fingerprint(model: DAN) -> str:
    """SHA-256 of configuration and weights: what a model computes, whatever its file's name."""
    digest = hashlib.sha256(json.dumps(asdict(model.config)).encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _is_code(key: str) -> bool:
    return not key.startswith(("Restorer.", "Estimator."))


def _load_safetensors(path: Path) -> DAN:
    try:
        metadata, state = read_safetensors(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: not a readable weights file ({error})") from None
    if metadata.get("architecture") != "dan":
        raise ModelError(f"{path}: expected a DAN, the file says {metadata.get('architecture')!r}")
    return _filled(path, DANConfig(**json.loads(metadata["config"])), state)


def _load_checkpoint(path: Path) -> DAN:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here, all of them meaning the same
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path}: not loaded with weights_only ({reason})") from None
    if not isinstance(state, dict) or "Restorer.head.weight" not in state:
        raise ModelError(f"{path}: expected a state dict with the published DAN names")
    return _filled(path, infer_config(state), state)


def _filled(path: Path, config: DANConfig, state: dict[str, Tensor]) -> DAN:
    model = DAN(config)
    try:
        model.load_state_dict({key: value.float() for key, value in state.items()})
    except RuntimeError as error:
        raise ModelError(
            f"{path}: does not fit the network: {' '.join(str(error).split())}"
        ) from None
    return model.eval()


def infer_config(state: dict[str, Tensor]) -> DANConfig:
    """The configuration that a state dict with the published names was made with."""
    features = len(state["Restorer.head.weight"])
    upscaling = [
        len(value)
        for key, value in sorted(state.items())
        if key.startswith("Restorer.upscale.") and key.endswith(".weight")
    ]
    compact = len(upscaling) == 1
    if compact:
        scale = math.isqrt(upscaling[0] // 3)
    else:
        scale = math.prod(math.isqrt(n // features) for n in upscaling[:-1])
    _, taps, code_length = state["encoder"].shape
    return DANConfig(
        scale=scale,
        features=features,
        blocks=_count(state, "Restorer.body."),
        code_length=code_length,
        kernel_size=math.isqrt(taps),
        estimator_features=len(state["Estimator.head_LR.weight"]),
        estimator_blocks=_count(state, "Estimator.body."),
        compact_tail=compact,
    )


def _count(state: dict[str, Tensor], prefix: str) -> int:
    return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})
