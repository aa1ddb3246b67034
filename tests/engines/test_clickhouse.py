"""ClickHouse, as chdb: the statements of docs/other-engines.md read the archive's files exactly."""

from __future__ import annotations

import csv
import io
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import pytest
from engines import REASON
from recipes import archive, blocks, trades

import harvester

session = pytest.importorskip("chdb.session", reason=REASON.format("chdb"))

PAGE = "other-engines.md"
__all__ = ["archive"]


def rows(text: Any) -> list[list[str]]:
    return list(csv.reader(io.StringIO(str(text))))


def test_candles_from_the_files_are_the_archives(archive: harvester.Archive) -> None:
    query, _ = blocks("ClickHouse", "sql", PAGE)
    with session.Session() as chdb:
        made = rows(chdb.query(query, "CSV"))
    candles = archive.ohlc("XBT/USD", "1h").select(
        "strftime(time, '%Y-%m-%d %H:%M:%S'), open, high, low, close, volume, count"
    )
    assert [(row[0], *map(Decimal, row[1:])) for row in made] == candles.fetchall()


def test_a_table_has_every_digit(archive: harvester.Archive, tmp_path: Path) -> None:
    _, statements = blocks("ClickHouse", "sql", PAGE)
    with session.Session(str(tmp_path / "chdb")) as chdb:
        for statement in statements.split(";"):
            if statement.strip():
                chdb.query(statement)
        made = rows(
            chdb.query(
                "SELECT trade_id, toUnixTimestamp64Nano(time), tie, price, volume, side, "
                "order_type, misc FROM trades ORDER BY time, tie",
                "CSV",
            )
        )
        [[value]] = rows(chdb.query("SELECT sum(price * volume) FROM trades", "CSV"))
    found = [
        (
            None if row[0] == r"\N" else int(row[0]),
            *map(int, row[1:3]),
            *map(Decimal, row[3:5]),
            *(None if text == r"\N" else text for text in row[5:]),
        )
        for row in made
    ]
    assert found == trades()
    with localcontext(prec=60):
        assert Decimal(value) == sum(row[3] * row[4] for row in trades())
    assert len(archive.trades("XBT/USD")) == len(made)


def test_the_file_for_a_server_has_its_columns(archive: harvester.Archive, tmp_path: Path) -> None:
    [load] = blocks("ClickHouse", "sh", PAGE)
    query = load.split('"')[1]
    archive.sql(query).to_parquet(str(tmp_path / "all.parquet"))
    _, statements = blocks("ClickHouse", "sql", PAGE)
    with session.Session(str(tmp_path / "chdb")) as chdb:
        chdb.query(statements.split(";")[0])
        chdb.query("INSERT INTO trades FROM INFILE 'all.parquet' FORMAT Parquet")
        made = rows(chdb.query("SELECT count(), sum(price * volume) FROM trades", "CSV"))
    with localcontext(prec=60):
        value = sum(row[3] * row[4] for row in trades())
    assert [(int(count), Decimal(text)) for count, text in made] == [(len(trades()), value)]


def test_a_sum_that_does_not_fit_needs_a_wider_decimal() -> None:
    """If the plain sum is no longer wrong, the page says so too harshly."""
    trades = (
        "(SELECT toDecimal64('99999999', 10) AS price, toDecimal128('999999999999', 8) AS volume "
    )
    plain, wide = "sum(price * volume)", "sum(toDecimal256(price, 10) * volume)"
    with session.Session() as chdb:
        query = f"SELECT {plain}, {wide} FROM {trades} FROM numbers(2))"  # noqa: S608
        [[wrong, right]] = rows(chdb.query(query, "CSV"))
    with localcontext(prec=60):
        assert Decimal(right) == 2 * Decimal(99999999) * Decimal(999999999999)
    assert Decimal(wrong) < 0
