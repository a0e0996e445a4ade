"""What the measurements of learning at test time share: how a file says what it was made by."""

from __future__ import annotations

import subprocess
import sys

import torch


def made_by() -> dict[str, str]:
    commit = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return {
        "command": " ".join(["python", *sys.argv]),
        "commit": subprocess.run(commit, capture_output=True, text=True).stdout.strip(),
        "torch": torch.__version__,
    }
