"""What to say where the optional libraries of this room are missing."""

from __future__ import annotations

from harvester.errors import UsageError


def missing_extra(what: str, library: str | None, extra: str) -> UsageError:
    """The error for a library that only an extra brings."""
    name = (library or "a library").partition(".")[0]
    return UsageError(
        f"{what} needs {name}, of the extra `{extra}`: pip install 'kraken-harvester[{extra}]'"
    )
