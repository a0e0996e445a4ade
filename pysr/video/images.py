"""Image sequences, in and out, in the shape of clips and segments."""

from __future__ import annotations

from pathlib import Path


def is_sequence(path: Path) -> bool:
    """Whether a path names an image sequence: a folder, or a pattern such as frames/%05d.png."""
    return path.is_dir() or "%" in path.name
