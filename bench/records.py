"""What every file in bench/results says of how it was made."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def made_by(*command: str) -> dict[str, str]:
    """The command, by default this process's own, the commit, and the versions."""
    commit = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return {
        "command": " ".join(command or ["python", *sys.argv]),
        "commit": subprocess.run(commit, capture_output=True, text=True).stdout.strip(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
