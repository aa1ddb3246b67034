"""A process that is harvester's alone: what Arrow does in it, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from candle_cases import START, hold, trade

from harvester.storage.trade_store import TradeStore
from harvester.times import Range

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
    """What Arrow's own allocators keep grew by 80 MB in an hour of downloading."""
    monkeypatch.delenv("ARROW_DEFAULT_MEMORY_POOL", raising=False)
    assert printed(ARRANGED + PARQUET) == ["system", "False", "0", "0"]


QUERY = """
import sys
from harvester.cli.main import cli
cli(["ohlc", "XBTUSD", "-i", "1d", "--data", {folder!r}], "harvester", standalone_mode=False)
print([name for name in {unused!r} if name in sys.modules])
"""
UNUSED = (
    "asyncio",
    "harvester.exporters.export",
    "harvester.query.explain",
    "harvester.verify.status",
    "httpx",
    "numpy.ma",
    "pyarrow.csv",
    "rich",
)


def test_a_query_imports_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    """asyncio and numpy.ma took a tenth of the time that a command of ten rows needs."""
    hold(TradeStore(tmp_path), [(Range(0, START), [trade(-1, "5", "0.25")])])
    query = QUERY.format(folder=str(tmp_path), unused=UNUSED)
    shown = printed(f"{ARRANGED}\n{query}")
    assert "0.25" in shown
    assert shown[-1] == "[]"


def test_modules_are_kept_from_the_garbage_collector_which_stays_enabled() -> None:
    """It would search 70,000 objects of libraries again and again, and twice at exit."""
    program = (
        "import click, gc; from harvester.cli.main import OWN_PROCESS, cli\n"
        "cli.get_command(click.Context(cli, obj=OWN_PROCESS), 'ohlc')\n"
        "print(gc.get_freeze_count() > 10_000, gc.isenabled())"
    )
    assert printed(program) == ["True", "True"]


def test_a_pool_that_was_chosen_stays_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARROW_DEFAULT_MEMORY_POOL", "mimalloc")
    pytest.importorskip("pyarrow").mimalloc_memory_pool()
    assert printed(ARRANGED + PARQUET)[0] == "mimalloc"


INTERRUPTED = """
import sys

class Interrupts:
    def find_spec(self, name, path, target=None):
        if name == "click":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupts())
from harvester.__main__ import main
main()
"""


def test_ctrl_c_while_the_program_is_loaded_is_one_line() -> None:
    command = [sys.executable, "-c", INTERRUPTED]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "harvester: interrupted\n")


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_closed_stream_changes_no_exit_status(closed: str, tmp_path: Path) -> None:
    hold(TradeStore(tmp_path), [(Range(0, START), [trade(-1, "5", "0.25")])])
    for words in ("status", "ohlc XBTUSD -i 1d"):
        program = f"'{sys.executable}' -m harvester {words} --data '{tmp_path}' {closed}"
        done = subprocess.run(
            ["/bin/sh", "-c", program], capture_output=True, text=True, check=False
        )
        assert (done.returncode, "internal error" in done.stderr) == (0, False)
