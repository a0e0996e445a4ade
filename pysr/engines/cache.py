"""Where engines keep what takes long to make, and the names that tell one model from another."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch

import pysr
from pysr.nets import DAN, fingerprint


def cache_folder(kind: str) -> Path:
    """$PYSR_CACHE/kind, else the same in pysr in $XDG_CACHE_HOME or ~/.cache; made if missing."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pysr"
    folder = Path(os.environ.get("PYSR_CACHE") or user) / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def model_digest(model: DAN) -> str:
    """Changes with the weights, the configuration and the versions that graphs depend on."""
    parts = [fingerprint(model), pysr.__version__, torch.__version__]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
