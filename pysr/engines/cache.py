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
    """$PYSR_CACHE/kind, else the same in pysr in $XDG_CACHE_HOME or ~/.cache; made if missing.

    Raises OSError, one line, where it is missing and cannot be made.
    """
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pysr"
    folder = Path(os.environ.get("PYSR_CACHE") or user) / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            "PYSR_CACHE: expected a folder that graphs and engines can be kept in; "
            f"{folder} cannot be made ({error.strerror})"
        ) from None
    return folder


def model_digest(model: DAN) -> str:
    """Changes with the weights, the configuration and the versions that graphs depend on."""
    parts = [fingerprint(model), pysr.__version__, torch.__version__]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
