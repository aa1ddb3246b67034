"""A process that is harvester's alone: what Arrow does in it, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

ARRANGED = "from harvester.cli import main; main.use_system_memory(); main.keep_pandas_away()"
PARQUET = """
import io, sys
import pyarrow as pa, pyarrow.parquet as pq
file = io.BytesIO()
pq.write_table(pa.table({"number": list(range(1_000_000))}), file)
# Threads of a table reader can abort the interpreter at its end, in one of ten processes.
pq.ParquetFile(io.BytesIO(file.getvalue())).read(use_threads=False)
print(pa.default_memory_pool().backend_name, "pandas" in sys.modules)
for pool in (pa.mimalloc_memory_pool, pa.jemalloc_memory_pool):
    try:
        print(pool().total_bytes_allocated())
    except NotImplementedError:
        print(0)
"""


def printed(program: str) -> list[str]:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_parquet_takes_its_memory_from_the_system_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Arrow's own allocators keep grew by 80 MB in an hour's crawl."""
    monkeypatch.delenv("ARROW_DEFAULT_MEMORY_POOL", raising=False)
    assert printed(ARRANGED + PARQUET) == ["system", "False", "0", "0"]


def test_a_pool_that_was_chosen_stays_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARROW_DEFAULT_MEMORY_POOL", "mimalloc")
    pytest.importorskip("pyarrow").mimalloc_memory_pool()
    assert printed(ARRANGED + PARQUET)[0] == "mimalloc"
