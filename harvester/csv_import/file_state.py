"""Notice that a file changes while it is imported, before its rows are committed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from harvester.csv_import.csv_files import Member
from harvester.errors import DamagedFile

# The checksum of a file is known to be right only once its last row was read, but segments of its
# first rows are committed long before, and an import may be stopped or killed in between.


class _State(NamedTuple):
    """What the operating system says of a file; it differs once the file is written or replaced."""

    size: int
    modified_ns: int
    inode: int


class FileStates:
    """The states of some files at one moment, to be compared with those of later moments."""

    def __init__(self, members: Iterable[Member]) -> None:
        """Look at the files (CSV files, or the ZIPs that they are in) now, before they are read."""
        self._states = {member.path: _state(member.path) for member in members}

    def check(self) -> None:
        """Check that the files are as they were.

        Raises:
            DamagedFile: a file was written or replaced meanwhile, or can't be reached.
        """
        for path, state in self._states.items():
            if _state(path) != state:
                raise DamagedFile(f"{path.name} was changed while it was imported")


def _state(path: Path) -> _State | None:
    """The state of a file; None if it can't be reached."""
    try:
        found = path.stat()
    except OSError:
        return None
    return _State(found.st_size, found.st_mtime_ns, found.st_ino)
