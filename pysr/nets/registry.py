"""Models by name: an explicit entry for each, and the only code that loads weights."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from numbers import Integral
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from pysr.files import read_safetensors
from pysr.nets import edsr, rcan, rdn, rrdb, vdsr
from pysr.nets.checkpoints import PublicNames, State, count, unwrapped
from pysr.nets.dan import DAN, DANConfig
from pysr.nets.edsr import EDSR, EDSRConfig
from pysr.nets.parts import shuffled_scale
from pysr.nets.rcan import RCAN, RCANConfig
from pysr.nets.rdn import RDN, RDNConfig
from pysr.nets.rrdb import RRDB, RRDBConfig
from pysr.nets.vdsr import VDSR, VDSRConfig
from pysr.ops.mixed_residual_block import on_matrix_tiles

WEIGHTS = Path(__file__).parent.parent / "weights"


@dataclass(frozen=True)
class Entry:
    """A shipped model: its file in pysr/weights, beside its card (.md), what it is for, and which
    smaller one finds the blur of large pictures for it (the scout of `pysr.Upscaler`)."""

    file: str
    summary: str
    scout: str | None = None


# Of blurred pictures these know nothing; a picture's own blur is taught by adaptation.
START = "bicubic only: a start for adaptation"

SHIPPED = {
    "dan-x4": Entry(
        "dan-x4.safetensors", "DAN of the published size, x4, for real pictures", "dan-lite-x4"
    ),
    "dan-x3": Entry(
        "dan-x3.safetensors", "DAN of the published size, x3, for real pictures", "dan-mid-x3"
    ),
    "dan-x2": Entry(
        "dan-x2.safetensors", "DAN of the published size, x2, for real pictures", "dan-lite-x2"
    ),
    "dan-x4-iso": Entry("dan-x4-iso.safetensors", "DAN of the published size, x4, isotropic blur"),
    "dan-x2-iso": Entry("dan-x2-iso.safetensors", "DAN of the published size, x2, isotropic blur"),
    "dan-mid-x4": Entry("dan-mid-x4.safetensors", "DAN of middle size, x4, for real pictures"),
    "dan-mid-x3": Entry("dan-mid-x3.safetensors", "DAN of middle size, x3, for real pictures"),
    "dan-mid-x2": Entry("dan-mid-x2.safetensors", "DAN of middle size, x2, for real pictures"),
    "dan-mid-x4-iso": Entry("dan-mid-x4-iso.safetensors", "DAN of middle size, x4, isotropic blur"),
    "dan-lite-x4": Entry("dan-lite-x4.safetensors", "compact DAN, x4, for real pictures"),
    "dan-lite-x2": Entry("dan-lite-x2.safetensors", "compact DAN, x2, for real pictures"),
    "rrdb-lite-x4": Entry("rrdb-lite-x4.safetensors", f"small RRDB, x4, {START}"),
    "rrdb-lite-x2": Entry("rrdb-lite-x2.safetensors", f"small RRDB, x2, {START}"),
    "vdsr-lite": Entry("vdsr-lite.safetensors", f"narrow VDSR, any scale, {START}"),
}

# Of each scale the best that takes two CPU cores less than three seconds for a picture of 480x320,
# and what takes them a quarter of that for a pass, where passes are many.
DEFAULTS = {4: "dan-x4", 3: "dan-x3", 2: "dan-x2"}
DEFAULTS_FOR_MANY = {4: "dan-mid-x4", 3: "dan-mid-x3", 2: "dan-mid-x2"}


class ModelError(ValueError):
    """A model that is unknown, missing or not readable; the message is one line."""


def infer_config(state: State, scale: int | None = None) -> DANConfig:
    """The configuration that a state dict with the published DAN names was made with."""
    features = len(state["Restorer.head.weight"])
    tail = "Restorer.upscale."
    compact = f"{tail}2.weight" not in state
    if compact:
        scale = math.isqrt(len(state[f"{tail}0.weight"]) // 3)
    else:
        scale = shuffled_scale(state, tail, features)
    _, taps, code_length = state["encoder"].shape
    return DANConfig(
        scale=scale,
        features=features,
        blocks=count(state, "Restorer.body."),
        code_length=code_length,
        kernel_size=math.isqrt(taps),
        estimator_features=len(state["Estimator.head_LR.weight"]),
        estimator_blocks=count(state, "Estimator.body."),
        compact_tail=compact,
    )


@dataclass(frozen=True)
class Architecture:
    """A kind of network.

    Attributes:
        config, network: the dataclass of its sizes, and the module that takes one.
        public: the spellings of its weights in public checkpoints.
        exact: keys of the state dict that are saved in float32; the rest is in float16.
    """

    config: type
    network: type[nn.Module]
    public: tuple[PublicNames, ...]
    exact: tuple[str, ...] = ()


ARCHITECTURES = {
    "dan": Architecture(
        DANConfig,
        DAN,
        (PublicNames("Restorer.head.weight", infer_config),),
        exact=("encoder", "init_kernel", "init_ker_map"),
    ),
    "vdsr": Architecture(VDSRConfig, VDSR, vdsr.PUBLIC_NAMES),
    "rrdb": Architecture(RRDBConfig, RRDB, rrdb.PUBLIC_NAMES),
    "edsr": Architecture(EDSRConfig, EDSR, edsr.PUBLIC_NAMES),
    "rcan": Architecture(RCANConfig, RCAN, rcan.PUBLIC_NAMES),
    "rdn": Architecture(RDNConfig, RDN, rdn.PUBLIC_NAMES),
}


def build(architecture: str, **config) -> nn.Module:
    """An untrained network of an architecture; `config` are fields of its configuration.

    Raises:
        ModelError: for an unknown architecture or field.
        ValueError: for a value that the configuration refuses.
    """
    return _network(architecture, config)


def load_model(name: str | Path, scale: int | None = None) -> nn.Module:
    """A network by its name in SHIPPED, or from a weights file, in evaluation mode.

    Args:
        name: a shipped name; or a path to a .safetensors file written by `save_model`, or to a
            checkpoint (.pth, .pt or .safetensors) with public names of one of ARCHITECTURES. Those
            that need torch are read through its weights_only loader.
        scale: what it must upscale by; needed where the weights do not say (a public RRDB of x3),
            and chosen freely where they do not care (VDSR, which is x4 by default).
    Raises:
        ModelError: for an unknown name, a file that is missing, damaged or of another network, or a
            model of another scale.
    """
    _check_scale(scale)
    model = _loaded(name, scale)
    own = model.config.scale
    if scale in (None, own):
        return model
    if not hasattr(model, "with_scale"):
        raise ModelError(f"model: {name} upscales x{own}, expected x{scale}")
    return model.with_scale(scale)


def load_scout(model: str | Path) -> DAN | None:
    """The scout of a shipped model, by the name of that; None where it has none."""
    entry = SHIPPED.get(str(model))
    return load_model(entry.scout) if entry and entry.scout else None


def default_model(scale: int | None = None, many_on: torch.device | None = None) -> str:
    """The shipped model that is taken where none is named: of this scale, or for x4.

    Args:
        many_on: where many passes are to be made, for the frames of a clip or to learn. A CPU is
            then given a smaller model than for single pictures, unless it has matrix tiles.
    Raises:
        ModelError: for a scale that none is shipped for.
    """
    _check_scale(scale)
    scale = 4 if scale is None else scale
    if scale not in DEFAULTS:
        raise ModelError(f"scale: no model for x{scale} is shipped; name one, or its file")
    slow = many_on is not None and many_on.type == "cpu" and not on_matrix_tiles(many_on)
    return (DEFAULTS_FOR_MANY if slow else DEFAULTS)[scale]


def _check_scale(scale: object) -> None:
    if scale is not None and (not isinstance(scale, Integral) or isinstance(scale, bool)):
        raise ModelError(f"scale: expected an integer, got {scale!r}")


def load_dan(model: str | Path | nn.Module) -> DAN:
    """`load_model`, or a network that is loaded already, for what works with DANs alone.

    Raises ModelError for another network too.
    """
    network = model if isinstance(model, nn.Module) else load_model(model)
    if not isinstance(network, DAN):
        raise ModelError(f"model: expected a DAN, got {type(network).__name__}")
    return network


def save_model(model: nn.Module, path: str | Path) -> None:
    """Write a network as safetensors: weights in half precision, what is `exact` in full, and the
    configuration, which `load_model` needs to rebuild it.

    Raises ModelError for a network of no registered architecture.
    """
    name = architecture_of(model)
    if name is None:
        kind = type(model).__name__
        raise ModelError(f"model: expected one of {', '.join(ARCHITECTURES)}, got {kind}")
    exact = ARCHITECTURES[name].exact
    state = {
        key: value.detach().cpu().contiguous().to(torch.float32 if key in exact else torch.float16)
        for key, value in model.state_dict().items()
    }
    metadata = {"architecture": name, "config": json.dumps(asdict(model.config))}
    save_file(state, path, metadata)


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of configuration and weights: what a model computes, whatever its file's name."""
    digest = hashlib.sha256(json.dumps(asdict(model.config)).encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def architecture_of(model: nn.Module) -> str | None:
    """The name of a network's architecture; None for a network that is not of ours."""
    for name, architecture in ARCHITECTURES.items():
        if type(model) is architecture.network:
            return name
    return None


def _network(architecture: object, config: dict) -> nn.Module:
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"architecture: expected one of {', '.join(ARCHITECTURES)}, got {architecture!r}"
        )
    entry = ARCHITECTURES[architecture]
    known = [field.name for field in fields(entry.config)]
    unknown = [name for name in config if name not in known]
    if unknown:
        raise ModelError(
            f"{architecture}: expected fields among {', '.join(known)}, got {', '.join(unknown)}"
        )
    return entry.network(entry.config(**config))


def _loaded(name: str | Path, scale: int | None) -> nn.Module:
    if isinstance(name, nn.Module):
        kind = type(name).__name__
        raise ModelError(f"model: expected a name or a file, got a {kind}; Upscaler takes those")
    if str(name) in SHIPPED:
        return _load_safetensors(WEIGHTS / SHIPPED[str(name)].file, scale)
    path = Path(name)
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise ModelError(
            f"model: expected one of {', '.join(SHIPPED)}, or a path to a .safetensors or .pth "
            f"file; got {str(name)!r}"
        )
    if not path.is_file():
        raise ModelError(f"model: no file {path}")
    load = _load_safetensors if path.suffix == ".safetensors" else _load_checkpoint
    return load(path, scale)


def _load_safetensors(path: Path, scale: int | None) -> nn.Module:
    try:
        metadata, state = read_safetensors(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: not a readable weights file ({error})") from None
    if "architecture" not in metadata:
        return _from_public(path, state, scale)
    try:
        with torch.random.fork_rng(devices=[]):  # what it draws first is overwritten
            model = _network(metadata["architecture"], json.loads(metadata["config"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: not a model of this version ({error})") from None
    return _filled(path, model, state)


def _load_checkpoint(path: Path, scale: int | None) -> nn.Module:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here, all of them meaning the same
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path}: not loaded with weights_only ({reason})") from None
    state = unwrapped(content)
    if state is None:
        raise ModelError(f"{path}: expected a state dict, a mapping of names to tensors")
    return _from_public(path, state, scale)


def _from_public(path: Path, state: State, scale: int | None) -> nn.Module:
    for architecture in ARCHITECTURES.values():
        for names in architecture.public:
            if names.marker in state:
                try:
                    config, renamed = names.read(state, scale)
                    with torch.random.fork_rng(devices=[]):
                        model = architecture.network(config)
                except (KeyError, ValueError) as error:
                    raise ModelError(f"{path}: does not fit the network: {error}") from None
                return _filled(path, model, renamed)
    raise ModelError(
        f"{path}: expected a state dict with the published names of {', '.join(ARCHITECTURES)}"
    )


def _filled(path: Path, model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    model = model.float()  # whatever torch's default type is
    try:
        model.load_state_dict({key: value.float() for key, value in state.items()})
    except RuntimeError as error:
        raise ModelError(
            f"{path}: does not fit the network: {' '.join(str(error).split())}"
        ) from None
    return model.eval()
