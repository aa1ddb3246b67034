"""Candles of several pairs as one table, a wide frame of them, and rows read one by one."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from candle_cases import PAIR
from candle_folders import BUSY, archive
from cli_runner import run

import harvester
from harvester.errors import BadQuery, NothingStored, UsageError

__all__ = ["archive"]
"""A fixture."""

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harvester.query.result import Result
    from harvester.storage.trade_store import TradeStore

PAIRS = ["ETHUSD", PAIR]


@pytest.fixture
def opened(archive: TradeStore) -> harvester.Archive:
    return harvester.open(archive.path)


def chained(opened: harvester.Archive, interval: str, **options: Any) -> pa.Table:
    """The candles of each pair alone, with its name before them."""
    alone = {pair: opened.ohlc(pair, interval, **options).to_arrow_table() for pair in PAIRS}
    named = [
        table.add_column(0, "pair", pa.array([pair] * table.num_rows))
        for pair, table in alone.items()
    ]
    return pa.concat_tables(named, promote_options="permissive")


@pytest.mark.parametrize("options", [{}, {"all_columns": True}, {"fill": "previous"}])
def test_a_panel_has_the_candles_of_each_pair_alone(
    opened: harvester.Archive, options: dict[str, Any]
) -> None:
    until = BUSY[-1][1] + 1
    asked = opened.ohlc(["eth/usd", "btc/usd"], "1m", until=until, **options)
    truth = chained(opened, "1m", until=until, **options)
    assert asked.to_arrow_table().equals(truth)
    assert asked.to_arrow_reader(100).read_all().equals(truth)


def test_prices_in_krakens_form_have_equal_decimals_in_a_panel(opened: harvester.Archive) -> None:
    until = BUSY[-1][1] + 1
    asked = opened.ohlc(PAIRS, "1h", fill="kraken", until=until)
    panel = asked.to_arrow_reader().read_all()
    truth = chained(opened, "1h", fill="kraken", until=until)
    assert panel.schema.field("close").type == pa.decimal128(18, 10)
    assert panel.to_pylist() == truth.to_pylist()
    assert asked.to_arrow_table().to_pylist() == truth.to_pylist()


def test_a_pair_named_twice_is_there_once(opened: harvester.Archive) -> None:
    panel = opened.ohlc([PAIR, "btc-usd"], "1h")
    assert len(panel) == len(opened.ohlc(PAIR, "1h"))
    assert repr(panel) == "<harvester.Result: 1h candles of XBTUSD>"


def test_a_panel_of_nothing_or_of_what_is_not_held_is_refused(opened: harvester.Archive) -> None:
    with pytest.raises(UsageError, match="no pair is given"):
        opened.ohlc([], "1h")
    with pytest.raises(NothingStored):
        opened.ohlc([PAIR, "SOLUSD"], "1h")


def test_notes_name_the_pair_whose_gap_it_is(opened: harvester.Archive) -> None:
    alone = {pair: opened.ohlc(pair, "1h", since="2015", until="yesterday").notes for pair in PAIRS}
    panel = opened.ohlc(PAIRS, "1h", since="2015", until="yesterday")
    assert all(alone.values())
    assert panel.notes == tuple(f"{pair}: {note}" for pair in PAIRS for note in alone[pair])


def test_pivot_has_a_row_for_each_time_and_a_column_for_each_pair(
    opened: harvester.Archive,
) -> None:
    wide = opened.ohlc(PAIRS, "1m").pivot("close", utc_index=True)
    assert list(wide.columns) == PAIRS
    assert wide.index.is_monotonic_increasing
    assert str(wide.index.dtype) == "datetime64[ns, UTC]"
    for pair in PAIRS:
        alone = opened.ohlc(pair, "1m").df(utc_index=True)["close"]
        assert wide[pair].dropna().to_dict() == alone.to_dict()


def test_pivot_of_what_is_no_panel_is_refused(opened: harvester.Archive) -> None:
    with pytest.raises(UsageError, match="pivot needs a column `pair`; there are time, open"):
        opened.ohlc(PAIR, "1h").pivot("close")
    with pytest.raises(UsageError, match="one row for each time and pair"):
        opened.sql("SELECT time, pair, 1 AS one FROM trades CROSS JOIN range(2)").pivot("one")


# --- rows and columns of a result ----------------------------------------------------------------


@pytest.fixture
def hours(opened: harvester.Archive) -> Result:
    return opened.ohlc(PAIR, "1m")


def test_a_result_iterates_over_its_rows(hours: Result) -> None:
    assert list(hours) == hours.to_arrow_table().to_pylist()
    assert isinstance(next(iter(hours))["close"], Decimal)


def test_a_result_is_indexed_as_a_sequence_of_rows(hours: Result) -> None:
    rows = list(hours)
    assert (hours[0], hours[3], hours[-1]) == (rows[0], rows[3], rows[-1])
    for part in (
        slice(2, 5),
        slice(None, 3),
        slice(3),
        slice(5, None),
        slice(-2, None),
        slice(4, 2),
    ):
        assert list(hours[part]) == rows[part]
    for number in (len(rows), -len(rows) - 1):
        with pytest.raises(IndexError):
            hours[number]


def test_a_result_is_indexed_by_columns(hours: Result) -> None:
    assert hours["close"].tolist() == hours.df()["close"].tolist()
    assert hours[["time", "count"]].columns == ["time", "count"]
    with pytest.raises(KeyError):
        hours["closing"]


@pytest.mark.parametrize("key", [1.5, None, True, slice(0, 9, 2), ("time",)])
def test_no_other_index_is_taken(hours: Result, key: Any) -> None:
    with pytest.raises(UsageError):
        hours[key]


def test_frames_are_made_of_a_result(hours: Result) -> None:
    frame = pd.DataFrame(hours)
    assert list(frame.columns) == hours.columns
    assert frame.astype({"close": float})["close"].tolist() == hours["close"].tolist()
    assert pl.DataFrame(hours).equals(hours.pl())


RESULTS: dict[str, Callable[[harvester.Archive], Result]] = {
    "trades": lambda opened: opened.trades(PAIR),
    "bars": lambda opened: opened.bars(PAIR, trades=100, all_columns=True),
    "panel": lambda opened: opened.ohlc(PAIRS, "1m"),
    "sql": lambda opened: opened.sql("SELECT time, price, [tie] AS ties FROM trades"),
    "derived": lambda opened: opened.trades(PAIR).filter("side = 'buy'").select("time, price"),
    "empty": lambda opened: opened.trades(PAIR, until="1971"),
}


@pytest.mark.parametrize("kind", RESULTS)
def test_every_result_iterates_and_is_indexed_and_becomes_a_frame(
    opened: harvester.Archive, kind: str
) -> None:
    result = RESULTS[kind](opened)
    rows = result.to_arrow_table().to_pylist()
    assert list(result) == rows
    assert len(result) == len(rows)
    assert list(result[-3:]) == rows[-3:]
    frame = pd.DataFrame(result).astype(object)
    assert frame.where(frame.notna(), None).to_dict("records") == rows
    assert pl.DataFrame(result).equals(result.pl())
    assert bool(rows) is (kind != "empty")
    if rows:
        assert (result[0], result[-1]) == (rows[0], rows[-1])
    else:
        with pytest.raises(IndexError):
            result[0]


def test_a_time_of_a_row_has_nanoseconds(opened: harvester.Archive) -> None:
    times = [row["time"] for row in opened.trades(PAIR)]
    assert [time.value for time in times] == [row[1] for row in BUSY]


# --- SQL -----------------------------------------------------------------------------------------


def test_ohlc_in_sql_takes_a_list_of_pairs(opened: harvester.Archive) -> None:
    panel = opened.sql("FROM ohlc(['btc/usd', 'ETHUSD'], '1m')")
    parts = [
        (pair, *row)
        for pair in PAIRS
        for row in opened.sql(f"FROM ohlc('{pair}', '1m')").fetchall()
    ]
    assert panel.columns[:3] == ["pair", "time", "open"]
    assert panel.fetchall() == parts
    assert opened.sql("FROM ohlc(?, '1m')", [["XBTUSD", "ETHUSD"]]).fetchall() == parts
    assert opened.sql("FROM ohlc(?, '1m')", [PAIR]).columns[0] == "time"


def test_a_list_in_sql_opens_the_files_of_its_pairs_only(opened: harvester.Archive) -> None:
    [(_, plan)] = opened.sql("EXPLAIN ANALYZE FROM ohlc(['eth/usd'], '1m')").fetchall()
    assert re.findall(r"Total Files Read: (\d+)", plan) == ["1"]


def test_a_list_in_sql_with_an_unknown_pair_is_refused(opened: harvester.Archive) -> None:
    with pytest.raises(BadQuery, match="NOPE"):
        opened.sql("FROM ohlc(['XBTUSD', 'NOPE'], '1d')").fetchall()


def test_a_database_file_has_the_macro_of_one_pair(
    opened: harvester.Archive, tmp_path: Path
) -> None:
    opened.write_database(tmp_path / "x.db")
    with duckdb.connect(str(tmp_path / "x.db"), read_only=True) as connection:
        found = connection.sql(
            "SELECT parameter_types FROM duckdb_functions() WHERE function_name = 'ohlc'"
        ).fetchall()
        assert len(found) == 1
        assert connection.sql(f"FROM ohlc('{PAIR}', '1d')").columns[0] == "time"


# --- the command ---------------------------------------------------------------------------------


def test_several_pairs_are_one_file_or_one_table(
    archive: TradeStore, opened: harvester.Archive, tmp_path: Path
) -> None:
    asked = ["ohlc", *PAIRS, "-i", "1m"]
    file = tmp_path / "panel.parquet"
    truth = chained(opened, "1m")
    status, out, err = run(archive, *asked, "-o", str(file))
    assert (status, out, err) == (0, "", f"{truth.num_rows:,} candles in {file}\n")
    assert pq.read_table(file).to_pylist() == truth.to_pylist()
    status, text, _ = run(archive, *asked, "-f", "csv")
    lines = text.splitlines()
    assert lines[0].startswith("pair,time,open,")
    assert [line.partition(",")[0] for line in lines[1:]] == truth["pair"].to_pylist()
    single = run(archive, "ohlc", PAIR, "-i", "1m", "-f", "csv")[1].splitlines()
    assert [line.partition(",")[2] for line in lines if line.startswith(PAIR)] == single[1:]


def test_several_intervals_are_not_one_file(archive: TradeStore) -> None:
    status, _, err = run(archive, "ohlc", *PAIRS, "-i", "1m", "-i", "1h", "-o", "x.csv")
    assert (status, "give a folder" in err) == (2, True)


@pytest.mark.parametrize("more", [["-f", "csv"], ["-f", "table"], ["-f", "json"]])
def test_a_panel_goes_into_the_file_that_is_named_whatever_its_ending(
    archive: TradeStore, tmp_path: Path, more: list[str]
) -> None:
    asked = ["ohlc", "ETHUSD", "XBTUSD", "-i", "1d", *more]
    file = tmp_path / "panel.txt"
    status, printed, err = run(archive, *asked)
    assert (status, err) == (0, "")
    status, out, _ = run(archive, *asked, "-o", str(file))
    assert (status, out, file.read_text()) == (0, "", printed)
