"""The main commands as a user has them after `pip install .`, without constraints or extras.

`make check-newest` and `make check-oldest` run this against venvs of their own, whose Python
HARVESTER_PYTHON names; else it runs against the harvester of the tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PYTHON = os.path.abspath(os.environ.get("HARVESTER_PYTHON", sys.executable))  # noqa: PTH100
HARVESTER = [PYTHON, "-m", "harvester"]
TRADES = 20_000
COUNT = "SELECT count(*) AS trades FROM tape('XBT/USD')"


def run(folder: Path, *command: str, **variables: str) -> str:
    """What a command prints, which must end well."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("HARVESTER_")}
    done = subprocess.run(
        command, cwd=folder, env=known | variables, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr if done.returncode else "") == (0, "")
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the demo was run, so that `demo/data` is an archive."""
    made = tmp_path_factory.mktemp("installed")
    run(made, *HARVESTER, "demo", "--quiet", "--trades", str(TRADES))
    return made


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """`harvester serve` on a free port while the block runs; gives its URL."""
    process = subprocess.Popen(
        [*HARVESTER, "serve", "--data", "demo/data", "--port", "0"],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        yield process.stderr.readline().split(" at ")[1].split()[0]
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_sql_runs(folder: Path) -> None:
    printed = run(folder, *HARVESTER, "sql", COUNT, "--data", "demo/data", "-f", "csv")
    assert printed == f"trades\n{TRADES}\n"


def test_a_database_is_opened_by_plain_duckdb(folder: Path) -> None:
    run(folder, *HARVESTER, "sql", "--db", "views.db", "--data", "demo/data")
    plain = (
        "import duckdb; views = duckdb.connect('views.db', read_only=True); "
        "print(*views.sql(\"SELECT (SELECT count(*) FROM tape(pair := 'XBT/USD')), sum(count) "
        "FROM ohlc('btcusd', '1d')\").fetchall())"
    )
    assert run(folder, PYTHON, "-c", plain) == f"({TRADES}, {TRADES})\n"


@pytest.mark.parametrize("kind", ["cron", "systemd", "launchd"])
def test_a_schedule_is_printed(folder: Path, kind: str) -> None:
    printed = run(folder, *HARVESTER, "schedule", kind, "--data", "demo/data")
    assert str(folder / "demo" / "data") in printed


def test_a_chart_is_drawn(folder: Path) -> None:
    chart = ["chart", "XBT/USD", "-i", "1h", "-o", "chart.html", "--data", "demo/data"]
    run(folder, *HARVESTER, *chart)
    assert "plotly" in (folder / "chart.html").read_text(encoding="utf-8")


def test_an_archive_is_served_and_copied(folder: Path) -> None:
    with served(folder) as url:
        backfill = ["backfill", "XBT/USD", "--api-url", url, "--rate", "0", "--data", "copy"]
        run(folder, *HARVESTER, *backfill, HARVESTER_REFRESH_SETTLE_S="0")
    printed = run(folder, *HARVESTER, "sql", COUNT, "--data", "copy", "-f", "csv")
    assert printed == f"trades\n{TRADES}\n"
