"""Where engines keep what takes long to make, and the names that tell one model from another."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

import torch

import pysr
from pysr.nets import DAN


def cache_folder(kind: str) -> Path:
    """$PYSR_CACHE/kind, else the same in pysr in $XDG_CACHE_HOME or ~/.cache; made if missing."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pysr"
    folder = Path(os.environ.get("PYSR_CACHE") or user) / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def model_digest(model: DAN) -> str:
    """Changes with the weights, the configuration and the versions that graphs depend on."""
    versions = [asdict(model.config), pysr.__version__, torch.__version__]
    digest = hashlib.sha256(json.dumps(versions).encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
