"""Shared by tests of Spark: what its candles are made of, and what they must be."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from candle_cases import MADE_HISTORIES, hold, overlapping
from candle_oracle import Row

import harvester
from harvester.storage.trade_store import TradeStore
from harvester.times import Range

MARKS = [
    pytest.mark.skipif(
        not (shutil.which("java") or os.environ.get("JAVA_HOME")),
        reason="Spark needs Java: install a JRE of version 17 or later",
    ),
    # What pyspark says of pandas, of Python and of its own sockets.
    pytest.mark.filterwarnings("default"),
    pytest.mark.timeout(900),
]
"""Of each file with tests of Spark."""

PAIRS = ["BTTUSD", "ETHUSD", "XBTUSD"]


def archive_of_three_pairs(folder: Path) -> harvester.Archive:
    """Lots of 10^11 units, 500 trades of one time, and files that overlap."""
    store = TradeStore(folder)
    for pair, name in (("BTTUSD", "tiny coin"), ("ETHUSD", "one stamp")):
        rows = MADE_HISTORIES[name]
        hold(store, [(Range(0, rows[-1][1]), rows)], pair)
    hold(store, overlapping(MADE_HISTORIES["zero ids"])[0], "XBTUSD")
    return harvester.open(folder)


def small_archive(folder: Path, rows: Sequence[Row]) -> harvester.Archive:
    hold(TradeStore(folder), [(Range(0, rows[-1][1]), rows)])
    return harvester.open(folder)


def expected(
    archive: harvester.Archive, interval: str, pairs: Sequence[str] = PAIRS, **more: Any
) -> list[tuple[Any, ...]]:
    """The rows of `Archive.ohlc`, times in nanoseconds."""
    table = archive.ohlc(list(pairs), interval, **{"all_columns": True, **more}).to_arrow_table()
    return sorted(
        tuple(getattr(value, "value", value) for value in row.values()) for row in table.to_pylist()
    )


def assert_equal(made: Sequence[tuple[Any, ...]], truth: Sequence[tuple[Any, ...]]) -> None:
    """All columns are equal; the vwap is at most the next double."""
    assert [(*row[:6], *row[7:]) for row in made] == [(*row[:6], *row[7:]) for row in truth]
    for found, true in zip(made, truth, strict=True):
        if true[6] is None:
            assert found[6] is None
        else:
            assert abs(found[6] - true[6]) <= math.ulp(true[6])
