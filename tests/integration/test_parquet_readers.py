"""Any tool reads the archive as one table, with no harvester installed."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pytest
import sample_trades
from backfills import Backfill, serve
from kraken_market import Market, expected

XBT = sample_trades.market(sample_trades.xbtusd_like(3_000, 61))
COIN = sample_trades.tiny_coin(800, 61)
OLD = sample_trades.market(
    sample_trades.new_years(61, first_id=None),
    altname="GRTETH",
    key="GRTETH",
    wsname="GRT/ETH",
    decimals=4,
)
ALL = (XBT, COIN, OLD)

Facts = tuple[int, Decimal, Decimal]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    with serve(*ALL) as exchange:
        backfill = Backfill(exchange.url, folder, {"archive.flush_rows": 700})
        assert [result.exit_status for result in backfill.run("XBTUSD", "BTTUSD", "GRTETH")] == [
            0,
            0,
            0,
        ]
    return folder


def by_duckdb(files: str) -> Facts:
    query = f"SELECT count(*), sum(price), sum(volume) FROM read_parquet('{files}')"  # noqa: S608
    [found] = duckdb.connect().execute(query).fetchall()
    return found[0], Decimal(found[1]), Decimal(found[2])


def by_polars(files: str) -> Facts:
    frame = pl.scan_parquet(files).select(
        pl.len(), price=pl.col("price").sum(), volume=pl.col("volume").sum()
    )
    [found] = frame.collect().rows()
    return found[0], found[1], found[2]


def by_pandas(files: str) -> Facts:
    folder = files.partition("/**")[0]
    frame = pd.read_parquet(folder)
    return len(frame), sum(frame["price"], Decimal(0)), sum(frame["volume"], Decimal(0))


READERS = [by_duckdb, by_polars, by_pandas]


def facts(*markets: Market) -> Facts:
    """What the exchange knows."""
    trades = [trade for market in markets for trade in market.trades]
    return (
        len(trades),
        sum((Decimal(trade.price) for trade in trades), Decimal(0)),
        sum((Decimal(trade.volume) for trade in trades), Decimal(0)),
    )


@pytest.mark.parametrize("read", READERS)
def test_one_pair_is_one_table(read: Callable[[str], Facts], data: Path) -> None:
    assert read(f"{data}/trades/pair=XBTUSD/**/*.parquet") == facts(XBT)


@pytest.mark.parametrize("read", READERS)
def test_all_pairs_are_one_table(read: Callable[[str], Facts], data: Path) -> None:
    assert read(f"{data}/trades/**/*.parquet") == facts(*ALL)


def test_the_pair_and_the_year_are_in_the_path(data: Path) -> None:
    rows = (
        duckdb.connect()
        .execute(
            f"SELECT pair, year, count(*) FROM read_parquet('{data}/trades/**/*.parquet', "  # noqa: S608
            "hive_partitioning = true) WHERE pair = 'GRTETH' GROUP BY ALL ORDER BY year"
        )
        .fetchall()
    )
    stamps = [row[1] for row in expected(OLD)]
    years = [int(pd.Timestamp(stamp).year) for stamp in stamps]
    assert rows == [("GRTETH", year, years.count(year)) for year in sorted(set(years))]


def test_rows_ordered_by_time_and_tie_are_in_the_exchanges_order(data: Path) -> None:
    ids = (
        duckdb.connect()
        .execute(
            f"SELECT trade_id FROM read_parquet('{data}/trades/pair=XBTUSD/**/*.parquet') "  # noqa: S608
            "ORDER BY time, tie"
        )
        .fetchall()
    )
    assert [row[0] for row in ids] == [row[0] for row in expected(XBT)]


def test_pandas_and_polars_keep_the_nanoseconds(data: Path) -> None:
    truth = [row[1] for row in expected(XBT)]
    files = f"{data}/trades/pair=XBTUSD/**/*.parquet"
    by_polars_ = pl.scan_parquet(files).sort("time", "tie").collect()["time"].cast(pl.Int64)
    by_pandas_ = pd.read_parquet(f"{data}/trades/pair=XBTUSD").sort_values(["time", "tie"])["time"]
    assert by_polars_.to_list() == truth
    assert by_pandas_.astype("int64").tolist() == truth
