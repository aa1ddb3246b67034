"""What to say where the optional libraries of this room are missing."""

from __future__ import annotations

from harvester.errors import UsageError


def missing_extra(library: str | None) -> UsageError:
    """The error for a library that only the extra `serve` brings."""
    return UsageError(
        f"serving an archive needs {library or 'a library'}, of the extra `serve`: "
        "pip install 'kraken-harvester[serve]'"
    )
