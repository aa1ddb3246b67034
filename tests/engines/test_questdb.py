"""QuestDB: the file that docs/recipes.md writes for it has exact times and numbers.

QuestDB itself is no Python package, so its statements are not run.
"""

from __future__ import annotations

import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
from recipes import archive, blocks, trades

import harvester

__all__ = ["archive"]


def run(command: str, folder: Path) -> str:
    """Run a command of the page, with `harvester` of this environment, in a folder."""
    program = folder / "harvester"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m harvester "$@"\n')
    program.chmod(0o755)
    return subprocess.run(
        ["/bin/sh", "-c", re.sub(r"\bharvester\b", "./harvester", command, count=1)],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout


def test_the_file_has_types_that_questdb_reads(archive: harvester.Archive, tmp_path: Path) -> None:
    write, _ = blocks("QuestDB", "sh")
    run(write.splitlines()[0], tmp_path)
    table = pq.read_table(tmp_path / "all.parquet")
    assert {str(field.type) for field in table.schema} == {"string", "int64", "int32"}
    rows = table.to_pylist()
    assert len(rows) == len(archive.trades("XBT/USD"))
    names = ("trade_id", "time_ns", "tie", "price", "volume", "side", "order_type")
    found = [tuple(row[name] for name in names) for row in rows]
    assert [(*row[:3], *map(Decimal, row[3:5]), *row[5:]) for row in found] == [
        row[:7] for row in trades()
    ]


def test_the_sums_to_compare_with_are_printed(archive: harvester.Archive, tmp_path: Path) -> None:
    _, compare = blocks("QuestDB", "sh")
    pair, count, volume, _ = run(compare, tmp_path).splitlines()[1].split()
    assert (pair, int(count)) == ("XBTUSD", len(archive.trades("XBT/USD")))
    assert Decimal(volume) == sum(row[4] for row in trades())
