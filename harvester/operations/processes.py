"""Whether a process is still the one that began something."""

from __future__ import annotations

import os
from pathlib import Path


def is_alive(pid: int) -> bool:
    """Whether a process of this number runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # It is somebody else's.
        return True
    return True


def ticks_of(pid: int) -> int | None:
    """When a process started, where the system tells: on Linux."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        # The name before it may hold anything, so fields count from its closing bracket.
        return int(stat.rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None
