"""The process of a command: memory, garbage collection, limit of open files."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from contextlib import suppress
from importlib.abc import MetaPathFinder

# --- lean -----------------------------------------------------------------------------------------

_ours: list[bool] = []

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def process_is_ours() -> None:
    """Say that no other code lives in this process, so that it may be arranged.

    A start makes hundreds of thousands of objects that stay, and a crawl of hundreds of pairs as
    many tasks and their frames: looking through them for garbage at the usual pace takes a
    twelfth of the time.
    """
    _ours.append(True)
    gc.set_threshold(5_000, 20, 50)
    # Read when Arrow is loaded. What reads and writes Parquet asks for memory by it, whatever pool
    # Python chooses later; the one that Arrow brings along keeps more with every hour.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")


def leave() -> None:
    """Before the process ends: what is left is not looked through once more, which takes 70 ms.

    DuckDB's types complain of being left over then, so where it was used they are not.
    """
    if "duckdb" not in sys.modules:
        gc.freeze()


def settle() -> None:
    """Keep pandas out, which pyarrow imports at its first conversion, and give memory back.

    No command uses pandas; looking for it costs pyarrow 0.16 s and 43 MB at every start.
    """
    if not _ours or "pandas" in sys.modules:
        return
    import pyarrow as pa

    no_pandas = _Refuses("pandas")
    sys.meta_path.insert(0, no_pandas)
    try:
        # pyarrow looks once, and remembers.
        pa.array([0]).to_numpy()
    finally:
        sys.meta_path.remove(no_pandas)
    # httpx's own command, which brings a terminal with it: 25 ms where httpx is wanted at all.
    sys.meta_path.insert(0, _Refuses("httpx._main"))
    _keep_freed_memory_small()
    # Its pools of threads would each keep memory of their own; ours run side by side as it is.
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)


def allow_files(count: int) -> None:
    """Let this process open so many files, as far as the system permits.

    Systems give a process 256 or 1024 to begin with, and more for the asking; hundreds of
    connections and locks need more.
    """
    try:
        import resource
    except ImportError:  # pragma: no cover - Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _keep_freed_memory_small() -> None:
    """Tell glibc, where that is what allocates, to give large blocks back and to keep one heap.

    Each thread that writes a segment would else keep a heap of its own, and large buffers would
    leave gaps in it: 213 MB at the peak of 300,000 trades became 269 MB at 3,000,000.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 20)
    mallopt(_M_ARENA_MAX, 1)


def settle_in() -> None:
    """For work that takes minutes: memory that was freed is used again, and not fetched anew.

    An import spends a fifth of its time on fresh pages of memory otherwise, at the same peak.
    """
    if _ours:
        with suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_M_MMAP_THRESHOLD, 1 << 26)
            mallopt(_M_TRIM_THRESHOLD, 1 << 28)


class _Refuses(MetaPathFinder):
    """Answers that there is no such module."""

    def __init__(self, module: str) -> None:
        self._module = module

    def find_spec(self, fullname: str, _path: object, _target: object = None) -> None:
        """Refuse that one, and know nothing of others."""
        if fullname == self._module:
            raise ModuleNotFoundError(fullname)
