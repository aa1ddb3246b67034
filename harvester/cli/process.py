"""Tune the process of a command: memory, garbage collection, imports, limit of open files."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from contextlib import suppress
from importlib.abc import MetaPathFinder

_is_dedicated: list[bool] = []
"""Not empty if this process runs nothing but a command, so that its settings may be changed."""

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def configure_early() -> None:
    """Declare that this process runs one command only, and set what must be set before imports.

    A start creates hundreds of thousands of objects that stay, and a download of hundreds of pairs
    creates as many tasks and frames: garbage collection at Python's default thresholds takes a
    twelfth of the time.
    """
    _is_dedicated.append(True)
    gc.set_threshold(5_000, 20, 50)
    # Arrow reads it when it is loaded, and reads and writes Parquet with this memory pool, whatever
    # pool Python chooses later. Arrow's own allocator keeps more memory with every hour.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")


def skip_exit_gc() -> None:
    """Skip the garbage collection at the end of the process, which takes 70 ms.

    Not if DuckDB was used: its types complain then that they were not freed.
    """
    if "duckdb" not in sys.modules:
        gc.freeze()


def prepare_imports() -> None:
    """Keep pandas from being imported, and make glibc free memory early.

    pyarrow imports pandas at its first conversion. No command uses pandas; importing it costs
    0.16 s and 43 MB at every start.
    """
    if not _is_dedicated or "pandas" in sys.modules:
        return
    import pyarrow as pa  # `harvester --help` needs none of it

    no_pandas = _BlockedImport("pandas")
    sys.meta_path.insert(0, no_pandas)
    try:
        # pyarrow tries the import once and remembers the result.
        pa.array([0]).to_numpy()
    finally:
        sys.meta_path.remove(no_pandas)
    _limit_malloc()
    # Each thread of Arrow's pools would keep memory of its own; harvester uses its own threads.
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)


def allow_files(count: int) -> None:
    """Raise this process's limit of open files to `count`, as far as the system permits.

    Systems start a process with a limit of 256 or 1024 that it may raise itself; hundreds of
    connections and locks need more.
    """
    try:
        import resource  # not on Windows
    except ImportError:  # pragma: no cover - Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _limit_malloc() -> None:
    """Make glibc's malloc, if it is used, return large blocks to the system and keep one arena.

    Otherwise each thread that writes a segment keeps an arena of its own, and large buffers leave
    unused memory in it: 213 MB at the peak of 300,000 trades became 269 MB at 3,000,000.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 20)
    mallopt(_M_ARENA_MAX, 1)


def tune_malloc_for_import() -> None:
    """Make glibc's malloc reuse freed memory, for an import, which takes minutes.

    Otherwise an import spends a fifth of its time on new pages of memory, at the same peak.
    """
    if _is_dedicated:
        with suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_M_MMAP_THRESHOLD, 1 << 26)
            mallopt(_M_TRIM_THRESHOLD, 1 << 28)


class _BlockedImport(MetaPathFinder):
    """An import hook that makes one module look as if it were not installed."""

    def __init__(self, module: str) -> None:
        self._module = module

    def find_spec(self, fullname: str, _path: object, _target: object = None) -> None:
        """Raise ModuleNotFoundError for that module; leave other modules to other finders."""
        if fullname == self._module:
            raise ModuleNotFoundError(fullname)
