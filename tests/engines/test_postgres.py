"""PostgreSQL: the statements and the command of docs/recipes.md keep every digit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from recipes import archive, blocks, trades

import harvester

__all__ = ["archive"]

SHELL, PSQL = (shutil.which(name) for name in ("sh", "psql"))
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


@pytest.fixture
def database() -> Iterator[dict[str, str]]:
    """A server of this test alone, without a port; the environment variables that lead to it."""
    if not (PROGRAMS and PSQL and SHELL):
        pytest.skip("PostgreSQL is not installed")
    programs = PROGRAMS[-1].parent
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    # The server refuses to run as root.
    user: list[str] = []
    if os.geteuid() == 0:
        user = ["runuser", "-u", "postgres", "--"]
        shutil.chown(folder, "postgres")

    def run(program: str, *words: str) -> None:
        command = [*user, str(programs / program), "-D", str(folder / "db"), *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, timeout=60)

    try:
        run("initdb", "-A", "trust", "-U", "tester", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses='' -k {folder}"
        run("pg_ctl", "-l", str(folder / "log"), "-o", options, "-w", "start")
        try:
            yield {"PGHOST": str(folder), "PGUSER": "tester", "PGDATABASE": "postgres"}
        finally:
            run("pg_ctl", "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


def test_a_table_has_every_digit(
    archive: harvester.Archive, database: dict[str, str], tmp_path: Path
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    command = programs / "harvester"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m harvester "$@"\n')
    command.chmod(0o755)
    environment = os.environ | database | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}

    def psql(statement: str) -> str:
        return subprocess.run(
            [PSQL or "", "-qtA", "-v", "ON_ERROR_STOP=1", "-c", statement],
            env=environment, check=True, capture_output=True, text=True, timeout=60,
        ).stdout  # fmt: skip

    create, index = blocks("PostgreSQL and Timescale", "sql")
    [load] = blocks("PostgreSQL and Timescale", "sh")
    psql(create)
    subprocess.run(
        [SHELL or "", "-ec", load], env=environment, cwd=tmp_path, check=True, timeout=60
    )
    psql(index)
    columns = "trade_id, time_ns, tie, price, volume, side, order_type"
    found = psql(f"SELECT {columns} FROM trades ORDER BY time_ns, tie")  # noqa: S608
    assert found.splitlines() == [
        "|".join(
            [
                *("" if trade_id is None else str(trade_id), str(time_ns), str(tie)),
                *(f"{price:.10f}", f"{volume:.8f}", side or "", kind or ""),
            ]
        )
        for trade_id, time_ns, tie, price, volume, side, kind, _ in trades()
    ]
    microseconds = psql(
        "SELECT DISTINCT extract(microseconds FROM time)::bigint % 1000000 FROM trades"
    )
    assert microseconds == "123457\n"
    assert len(archive.trades("XBT/USD")) == len(found.splitlines())
