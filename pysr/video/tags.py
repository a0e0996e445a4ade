"""The tags of a file and of its tracks: those that are the film's, whatever holds it."""

from __future__ import annotations

# What describes the old file and not the film; the muxer writes its own.
_TECHNICAL = set("major_brand minor_version compatible_brands encoder vendor_id alpha_mode".split())
_STATISTICS = ("duration", "bps", "number_of_frames", "number_of_bytes", "_statistics_")


def kept(metadata: dict[str, str]) -> dict[str, str]:
    """Those that go on to the result."""
    return {
        name: value
        for name, value in metadata.items()
        if name.lower() not in _TECHNICAL and not name.lower().startswith(_STATISTICS)
    }


def named(metadata: dict[str, str]) -> dict[str, str]:
    """A track's tags with its title, which reading MP4 gives as its name, for writing."""
    return metadata if title(metadata) is None else {**metadata, "title": title(metadata)}


def title(metadata: dict[str, str]) -> str | None:
    """A track's title, whichever of the two names it was read under."""
    return metadata.get("title", metadata.get("name"))
