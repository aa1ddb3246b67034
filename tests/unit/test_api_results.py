"""What an archive answers from Python: exact, lazy, and right after a compaction."""

from __future__ import annotations

import re
import shutil
import sys
import threading
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from html import unescape
from pathlib import Path
from typing import Any

import candle_oracle
import duckdb
import polars as pl
import pyarrow as pa
import pytest
import sample_trades
from candle_cases import PLAIN, answer, cut, hold, is_equal
from kraken_market import expected

import harvester
from harvester.errors import (
    ArchiveDamaged,
    BadInterval,
    BadQuery,
    BadSetting,
    HarvesterError,
    NothingStored,
    UsageError,
    not_installed,
)
from harvester.query import candles
from harvester.query.plan import FILLS, Fill
from harvester.query.result import Result, ResultSource
from harvester.query.rollups import parse_levels, roll_up
from harvester.storage.filesystem import Entry, LocalStore
from harvester.storage.locks_and_requests import Requests, store_pairs, write_requests
from harvester.storage.trade_store import PairFile
from harvester.storage.trade_store import TradeStore as Disk
from harvester.storage.writer import open_writer
from harvester.times import Range

YEARS = list(expected(sample_trades.market(sample_trades.new_years(each=200))))
DAY = 86_400_000_000_000


def filled(path: Path, *, rolled: bool = False) -> harvester.Archive:
    """Four years in some dozen segments."""
    stamps = [row[1] for row in YEARS]
    turns = [candle_oracle.midnight_ns(date(year, 1, 1)) - 1 for year in (2019, 2020, 2022, 2023)]
    hold(Disk(path), cut(YEARS, sorted({0, *turns, *stamps[::80], stamps[-1] + DAY})))
    if rolled:
        with open_writer(Disk(path), "XBTUSD") as pair_writer:
            roll_up(pair_writer, parse_levels(["1h"]))
    return harvester.open(path)


def copied(archive: harvester.Archive, path: Path) -> harvester.Archive:
    """An archive of its own, which a test may change."""
    shutil.copytree(archive.path, path, dirs_exist_ok=True)
    return harvester.open(path)


def compact(path: str) -> None:
    """Merge all that can be, so that files go."""
    with open_writer(Disk(path), "XBTUSD") as pair_writer:
        before, after = pair_writer.compact(merge_all=True)
    assert after < before


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> harvester.Archive:
    return filled(tmp_path_factory.mktemp("trades"))


@pytest.fixture(scope="module")
def rolled(tmp_path_factory: pytest.TempPathFactory) -> harvester.Archive:
    return filled(tmp_path_factory.mktemp("rolled"), rolled=True)


def files_read(result: Result) -> set[str]:
    """The files that DuckDB has read, by its profile."""
    explained = result.explain("analyze")
    counted = [int(count) for count in re.findall(r"Total Files Read: (\d+)", explained)]
    named = re.findall(r"(year=\d{4}/[\d-]+\.parquet)", re.sub(r"[│\s]", "", explained))
    assert sum(counted) == len(set(named))
    return set(named)


def of_years(archive: harvester.Archive, *years: int) -> set[str]:
    """The segments of some years, as the disk lists them."""
    folder = Path(archive.path) / "trades" / "pair=XBTUSD"
    return {f"year={y}/{file.name}" for y in years for file in (folder / f"year={y}").iterdir()}


# --- exact ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "interval"),
    [
        *(("archive", interval) for interval in ("90s", "1d")),
        *(("rolled", interval) for interval in ("7m", "4h", "1d", "10080")),
    ],
)
def test_candles_of_a_fixed_length_are_the_oracles_over_years(
    request: pytest.FixtureRequest, name: str, interval: str
) -> None:
    archive: harvester.Archive = request.getfixturevalue(name)
    widths = {"90s": 90, "7m": 420, "4h": 14_400, "1d": 86_400, "10080": 604_800}
    truth = candle_oracle.candles(YEARS, widths[interval] * 10**9)
    made = answer(archive.ohlc("XBTUSD", interval, all_columns=True))  # type: ignore[arg-type]
    assert is_equal(made, truth, candle_oracle.COLUMNS)


@pytest.mark.parametrize("interval", ["1w", "1mo", "1q", "1y", "2y"])
def test_candles_of_the_calendar_are_the_oracles_over_years(
    rolled: harvester.Archive, interval: str
) -> None:
    number, unit = int(interval[0]), interval[1:]
    truth = candle_oracle.calendar_candles(YEARS, unit, number=number)
    made = answer(rolled.ohlc("XBTUSD", interval))  # type: ignore[arg-type]
    assert is_equal(made, truth, PLAIN)


@pytest.mark.parametrize("fill", ["previous", "null"])
def test_filling_continues_over_new_year(rolled: harvester.Archive, fill: Any) -> None:
    made = candle_oracle.candles(YEARS, DAY)
    truth = candle_oracle.filled_fixed(made, DAY, fill)
    result = rolled.ohlc("XBTUSD", "1d", fill=fill, until=YEARS[-1][1] + 1)
    assert is_equal(answer(result)[: len(truth)], truth, PLAIN)  # type: ignore[arg-type]


def test_a_day_of_new_york_that_lies_in_two_years_is_one_candle(rolled: harvester.Archive) -> None:
    truth = candle_oracle.calendar_candles(YEARS, "d", tz="America/New_York")
    made = answer(rolled.ohlc("XBTUSD", "1d", tz="America/New_York"))  # type: ignore[arg-type]
    assert is_equal(made, truth, PLAIN)


def test_trades_are_all_stored_rows_in_order(archive: harvester.Archive) -> None:
    table = archive.trades("btc-usd").to_arrow_table()
    table = table.set_column(1, "time", table.column("time").cast(pa.int64()))
    assert [tuple(row.values()) for row in table.to_pylist()] == YEARS


def test_without_polars_pl_is_an_error_that_names_the_package(
    archive: harvester.Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(UsageError) as caught:
        archive.trades("XBT/USD").pl()
    assert str(caught.value) == str(not_installed(".pl() needs Polars", "polars"))


def test_pandas_gets_floats_and_arrow_and_polars_decimals(archive: harvester.Archive) -> None:
    result = archive.trades("XBTUSD")
    frame = result.df()
    assert [str(frame[name].dtype) for name in ("price", "volume", "time")] == [
        "float64",
        "float64",
        "datetime64[ns]",
    ]
    assert frame["price"].tolist() == [float(row[3]) for row in YEARS]
    assert result.pl()["price"].to_list() == [row[3] for row in YEARS]
    assert result.to_arrow_table().column("volume").to_pylist() == [row[4] for row in YEARS]


def test_decimals_become_the_nearest_floats(archive: harvester.Archive) -> None:
    """Also where their digits as an integer are more than a float can hold."""
    figures = """
        SELECT
            (i * 1234567.123456789 - 5000000000)::DECIMAL(38, 18) AS wide,
            (i * 791.9000123457)::DECIMAL(18, 10) AS "a ""b c",
            CASE WHEN i % 3 > 0 THEN (i / 100)::DECIMAL(22, 8) END AS narrow
        FROM range(20000) AS numbers(i)
    """
    result = archive.sql(figures)
    frame, table = result.df(), result.to_arrow_table()
    assert [str(kind) for kind in frame.dtypes] == ["float64"] * 3
    for name in table.column_names:
        exact = [None if cell is None else float(cell) for cell in table.column(name).to_pylist()]
        assert frame[name].astype(object).where(frame[name].notna(), None).tolist() == exact


def test_columns_of_one_name_become_floats(archive: harvester.Archive) -> None:
    frame = archive.sql("SELECT 1.5 AS a, 2.5 AS a").df()
    assert frame.to_numpy().tolist() == [[1.5, 2.5]]


def test_an_index_in_utc_is_the_time(archive: harvester.Archive) -> None:
    frame = archive.trades("XBTUSD").df(utc_index=True)
    assert (str(frame.index.dtype), frame.index.name) == ("datetime64[ns, UTC]", "time")
    assert frame.index.astype("int64").tolist() == [row[1] for row in YEARS]


def test_an_index_needs_a_time(archive: harvester.Archive) -> None:
    with pytest.raises(UsageError) as caught:
        archive.trades("XBTUSD").select("price, volume").df(utc_index=True)
    assert str(caught.value) == "utc_index needs a column `time`; there are price, volume"


def test_a_stream_has_the_rows_and_types_of_the_table(archive: harvester.Archive) -> None:
    for result in (
        archive.trades("XBTUSD"),
        archive.ohlc("XBTUSD", "1h"),
        archive.bars("XBTUSD", trades=100),
        archive.sql("FROM tape('XBTUSD')"),
    ):
        streamed = result.to_arrow_reader(50).read_all()
        table = result.to_arrow_table()
        assert streamed.schema.types == table.schema.types
        assert streamed.to_pydict() == table.to_pydict()


def test_any_tool_of_arrows_stream_takes_a_result(archive: harvester.Archive) -> None:
    result = archive.trades("XBTUSD")
    volumes = [row[4] for row in YEARS]
    assert pl.DataFrame(result)["volume"].to_list() == volumes
    assert pa.table(result).column("volume").to_pylist() == volumes
    relation = duckdb.sql("SELECT sum(volume) FROM result")
    assert relation is not None
    [(total,)] = relation.fetchall()
    assert total == sum(volumes)


def test_bars_end_with_their_nth_trade(archive: harvester.Archive) -> None:
    bars = archive.bars("XBTUSD", trades=100, all_columns=True)
    assert bars.df()["open"].tolist() == [float(row[3]) for row in YEARS[::100]]
    assert bars.shape[0] == -(-len(YEARS) // 100)


@pytest.mark.parametrize("size", [0.25, "0.25", Decimal("0.25")])
def test_a_bars_size_may_be_a_number_or_text(archive: harvester.Archive, size: Any) -> None:
    bars = archive.bars("XBTUSD", volume=size).fetchall()
    done, count, volume = 0, 0, Decimal(0)
    for row in YEARS:
        count, volume = count + 1, volume + row[4]
        if volume >= Decimal("0.25"):
            assert bars[done][bars_count()] == count
            done, count, volume = done + 1, 0, Decimal(0)
    assert len(bars) == done + bool(count)


def bars_count() -> int:
    from harvester.query.bars import bar_schema

    return int(bar_schema(all_columns=False).get_field_index("count"))


# --- lazy ----------------------------------------------------------------------------------------


def test_a_condition_on_trades_opens_the_files_of_its_years_only(
    archive: harvester.Archive,
) -> None:
    late = archive.trades("XBTUSD").filter("time >= '2023-01-01'")
    assert files_read(late) == of_years(archive, 2023, 2024)
    within = "time >= '2022-03-01' AND time < '2022-06-01'"
    assert files_read(archive.trades("XBTUSD").filter(within)) == of_years(archive, 2022)


def test_a_condition_on_candles_opens_the_files_of_its_years_only(
    archive: harvester.Archive,
) -> None:
    late = archive.ohlc("XBTUSD", "1h").filter("time >= '2023-01-01'")
    assert files_read(late) == of_years(archive, 2023, 2024)
    assert late.fetchall() == archive.ohlc("XBTUSD", "1h", since="2023-01-01").fetchall()


def test_a_condition_on_many_candles_from_roll_ups_opens_no_others(
    rolled: harvester.Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candles, "PART_CANDLES", 100)
    late = rolled.ohlc("XBTUSD", "1d").filter("time >= '2023-01-01'")
    assert files_read(late) == of_years(rolled, 2023, 2024)
    assert "/candles/interval=1h/" in re.sub(r"[│\s]", "", late.explain("analyze"))


@pytest.mark.parametrize("fill", FILLS)
def test_candles_are_the_same_in_one_query_and_in_one_per_year(
    fill: Fill, rolled: harvester.Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked() -> tuple[pa.Table, int]:
        result = rolled.ohlc("XBTUSD", "1d", fill=fill, all_columns=True)
        return result.to_arrow_table(), result.explain().count("Function: READ_PARQUET")

    whole, reads = asked()
    monkeypatch.setattr(candles, "PART_CANDLES", 100)
    by_year, reads_by_year = asked()
    assert whole.num_rows > 100
    assert by_year == whole
    assert reads_by_year > reads > 0


def test_since_and_until_open_no_other_files(archive: harvester.Archive) -> None:
    stamps = [row[1] for row in YEARS]
    some = archive.trades("XBTUSD", since=stamps[90], until=stamps[100])
    assert len(files_read(some)) == 1
    assert some.shape == (10, 8)


def test_columns_that_are_not_selected_are_not_read(archive: harvester.Archive) -> None:
    plan = archive.trades("XBTUSD").select("time, price").explain()
    assert re.findall(r"Projections: (time, price)\s", plan)
    assert "volume" not in plan


def test_making_a_result_reads_nothing(tmp_path: Path) -> None:
    archive = filled(tmp_path)
    results = [
        archive.trades("XBTUSD"),
        archive.ohlc("XBTUSD", "1h"),
        archive.bars("XBTUSD", trades=5),
    ]
    for file in tmp_path.rglob("*.parquet"):
        file.write_bytes(b"no Parquet")
    for result in results:
        with pytest.raises(ArchiveDamaged):
            result.fetchall()


def test_what_is_built_upon_a_result_keeps_its_order(archive: harvester.Archive) -> None:
    trades = archive.trades("XBTUSD").filter("side = 'buy'").select("trade_id").limit(300, 20)
    bought = [row[0] for row in YEARS if row[5] == "buy"]
    assert [value for (value,) in trades.fetchall()] == bought[20:320]


def test_a_relations_own_methods_give_results(archive: harvester.Archive) -> None:
    by_side = archive.trades("XBTUSD").aggregate("side, sum(volume) AS volume").order("side")
    assert isinstance(by_side, Result)
    assert by_side.fetchall() == [
        (side, sum(row[4] for row in YEARS if row[5] == side)) for side in ("buy", "sell")
    ]


# --- whoever writes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        lambda archive: archive.trades("XBTUSD"),
        lambda archive: archive.trades("XBTUSD").filter("volume > 0").select("trade_id"),
        lambda archive: archive.ohlc("XBTUSD", "1h", fill="previous", until="2024-02-01"),
        lambda archive: archive.ohlc("XBTUSD", "1h").order("volume, time").limit(7),
        lambda archive: archive.sql("FROM tape('XBTUSD')"),
        lambda archive: archive.sql("FROM ohlc('XBTUSD', ?)", ["1d"]).filter("count > 1"),
    ],
)
def test_a_result_outlives_a_compaction(
    rolled: harvester.Archive, tmp_path: Path, ask: Any
) -> None:
    archive = copied(rolled, tmp_path)
    result = ask(archive)
    before = result.fetchall()
    compact(archive.path)
    assert result.fetchall() == before


@pytest.mark.parametrize("fill", ["none", "kraken"])
def test_candles_are_right_if_files_are_merged_right_after_they_were_listed(
    rolled: harvester.Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fill: Any
) -> None:
    archive = copied(rolled, tmp_path)
    ask: dict[str, Any] = {"fill": fill, "until": "2024-02-01"}
    before = archive.ohlc("XBTUSD", "1h", **ask).fetchall()
    listing, merges = Disk.pair_files, [compact]

    def listed_and_merged(store: Disk, pair: str) -> frozenset[PairFile]:
        files = listing(store, pair)
        for merge in [*merges]:
            merges.clear()
            merge(archive.path)
        return files

    monkeypatch.setattr(Disk, "pair_files", listed_and_merged)
    assert harvester.open(tmp_path).ohlc("XBTUSD", "1h", **ask).fetchall() == before
    assert merges == []


def test_a_candle_query_lists_its_files_for_its_pair_its_notes_and_its_rows_once_each(
    rolled: harvester.Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = copied(rolled, tmp_path)
    store_pairs(LocalStore(tmp_path), b'{"XBTUSD": {"altname": "XBTUSD"}}')
    write_requests(LocalStore(tmp_path), "XBTUSD", Requests([Range(0, DAY)]))
    trades, rollups = "trades/pair=XBTUSD", "candles/interval=1h/pair=XBTUSD"
    files, listed = LocalStore.files, list[str]()

    def counted(store: LocalStore, folder: str, **options: Any) -> list[Entry]:
        listed.append(folder)
        return files(store, folder, **options)

    monkeypatch.setattr(LocalStore, "files", counted)
    result = archive.ohlc("XBTUSD", "1h")
    assert listed == [trades, trades]
    assert len(result.to_arrow_table())
    assert listed == [trades, trades, trades, rollups]


def test_a_result_outlives_the_archive_that_gave_it(tmp_path: Path) -> None:
    with filled(tmp_path) as archive:
        result = archive.ohlc("XBTUSD", "1d")
    compact(archive.path)
    assert len(result) == len(candle_oracle.candles(YEARS, DAY))


def test_statements_that_may_change_something_are_not_run_again(tmp_path: Path) -> None:
    archive = filled(tmp_path)
    result = archive.sql("CREATE TABLE mine AS SELECT 1 AS one; FROM trades, mine")
    compact(archive.path)
    with pytest.raises(HarvesterError) as caught:
        result.fetchall()
    assert str(caught.value) == (
        "files of the archive were merged into others while they were read: run it again"
    )


def test_a_stream_continues_through_a_compaction(tmp_path: Path) -> None:
    archive = filled(tmp_path)
    reader = archive.trades("XBTUSD").to_arrow_reader()
    ids = reader.read_next_batch().column("trade_id").to_pylist()
    compact(archive.path)
    ids += reader.read_all().column("trade_id").to_pylist()
    assert ids == [row[0] for row in YEARS]


def test_several_threads_can_query_an_archive(archive: harvester.Archive) -> None:
    found: list[int] = []

    def ask() -> None:
        found.extend(len(archive.ohlc("XBTUSD", "1d")) for _ in range(2))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [len(candle_oracle.candles(YEARS, DAY))] * 6


# --- what is wrong -------------------------------------------------------------------------------


def test_a_pair_that_is_not_held_names_those_that_are(archive: harvester.Archive) -> None:
    with pytest.raises(NothingStored) as caught:
        archive.trades("ETH/USD")
    assert str(caught.value) == (
        f"the archive at {archive.path} holds no trades of 'ETH/USD'; it holds XBTUSD. "
        "`harvester backfill ETH/USD` downloads them"
    )


@pytest.mark.parametrize(
    "ask",
    [
        lambda archive: archive.trades(""),
        lambda archive: archive.ohlc(" ", "1h"),
        lambda archive: archive.bars("", trades=5),
        lambda archive: archive.coverage(""),
    ],
)
def test_an_empty_name_is_refused(
    archive: harvester.Archive, ask: Callable[[harvester.Archive], object]
) -> None:
    with pytest.raises(UsageError) as caught:
        ask(archive)
    assert str(caught.value) == "a pair's name is empty: give one such as XBT/USD"


@pytest.mark.parametrize(
    "ask",
    [
        lambda archive: archive.trades("XBTUSD"),
        lambda archive: archive.ohlc("XBTUSD", "1h"),
        lambda archive: archive.bars("XBTUSD", trades=5),
    ],
)
def test_an_empty_archive_says_so(
    tmp_path: Path, ask: Callable[[harvester.Archive], object]
) -> None:
    with pytest.raises(NothingStored) as caught:
        ask(harvester.open(tmp_path))
    assert str(caught.value) == (
        f"the archive at {tmp_path} holds no trades of 'XBTUSD'; it is empty. "
        "`harvester backfill XBTUSD` downloads them"
    )


def test_a_condition_that_makes_no_sense_is_refused_at_once(archive: harvester.Archive) -> None:
    with pytest.raises(BadQuery) as caught:
        archive.trades("XBTUSD").filter("colour = 'red'")
    assert str(caught.value).startswith(
        'the query can\'t be run\nBinder Error: Referenced column "colour" not found in FROM'
    )


def test_sql_that_makes_no_sense_is_refused_at_once(archive: harvester.Archive) -> None:
    with pytest.raises(BadQuery, match="no trades of 'ETHUSD'; it holds XBTUSD"):
        archive.sql("FROM tape('ETHUSD')").fetchall()
    with pytest.raises(BadQuery, match=r"^the query can't be run\nParser Error"):
        archive.sql("SELCT 1")


def test_an_attribute_that_a_relation_lacks_is_named(archive: harvester.Archive) -> None:
    with pytest.raises(AttributeError) as caught:
        archive.trades("XBTUSD").resample  # noqa: B018
    assert str(caught.value) == (
        "a Result has no attribute 'resample', nor has DuckDB's relation: .df() makes a pandas "
        "DataFrame of it"
    )


@pytest.mark.parametrize("name", ["open", "close", "count"])
def test_an_attribute_named_as_a_column_is_the_column(
    archive: harvester.Archive, name: str
) -> None:
    """A relation has methods `close` and `count`."""
    candles = archive.ohlc("XBTUSD", "1h")
    assert getattr(candles, name).to_list() == candles.df()[name].to_list()


@pytest.mark.parametrize(
    ("ask", "kind", "message"),
    [
        (
            lambda archive: archive.ohlc("XBTUSD", "1M"),
            BadInterval,
            "interval '1M': is 1m (minutes) meant, or 1mo (months)?",
        ),
        (
            lambda archive: archive.ohlc("XBTUSD", "1h", fill="zero"),
            BadSetting,
            "fill is 'zero': give one of none, previous, null, kraken",
        ),
        (
            lambda archive: archive.bars("XBTUSD"),
            UsageError,
            "a bar has one size: give one of trades=N, volume=X and value=X",
        ),
        (
            lambda archive: archive.bars("XBTUSD", trades=5, value=1),
            UsageError,
            "a bar has one size: give one of trades=N, volume=X and value=X",
        ),
        (
            lambda archive: archive.bars("XBTUSD", trades=0),
            BadSetting,
            "trades '0' would never end a bar: give more than 0",
        ),
    ],
)
def test_what_can_not_be_answered_is_refused_at_once(
    archive: harvester.Archive, ask: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as caught:
        ask(archive)
    assert str(caught.value) == message


def test_ctrl_c_in_a_query_is_a_keyboard_interrupt() -> None:
    def interrupted(_: frozenset[PairFile]) -> duckdb.DuckDBPyRelation:
        # What DuckDB raises then.
        raise RuntimeError("Query interrupted")

    with pytest.raises(KeyboardInterrupt):
        Result(ResultSource("nothing", frozenset, interrupted)).df()


# --- SQL -----------------------------------------------------------------------------------------


def test_values_are_never_sql(archive: harvester.Archive) -> None:
    assert archive.sql("SELECT $it", {"it": "'; DROP"}).fetchall() == [("'; DROP",)]


def test_a_statement_without_rows_gives_none(archive: harvester.Archive, tmp_path: Path) -> None:
    file = tmp_path / "hours.parquet"
    archive.sql(f"COPY (FROM ohlc('XBT/USD', '1h')) TO '{file}'")
    assert pl.read_parquet(file).height == len(candle_oracle.candles(YEARS, 3600 * 10**9))
    assert archive.sql("CREATE TABLE mine (a INTEGER)").fetchall() == []


def test_a_connection_runs_several_queries(archive: harvester.Archive) -> None:
    with archive.connect() as connection:
        connection.execute("CREATE TABLE big AS FROM trades WHERE volume > 0.1")
        [(count,)] = connection.execute("SELECT count(*) FROM big").fetchall()
    assert count == len([row for row in YEARS if row[4] > Decimal("0.1")])


# --- looks ---------------------------------------------------------------------------------------


def texts(html: str) -> list[str]:
    """The cells of a table, and what stands around it."""
    return [unescape(text) for text in re.findall(r">([^<]+)<", html)]


def test_a_result_shows_its_first_rows_and_its_units(tmp_path: Path) -> None:
    rows = [row for row in YEARS if row[1] < YEARS[20][1]]
    hold(Disk(tmp_path), cut(rows, [0, YEARS[20][1]]))
    (tmp_path / "pairs.json").write_text('{"XBTUSD": {"altname": "XBTUSD", "wsname": "XBT/USD"}}')
    shown = texts(harvester.open(tmp_path).trades("XBTUSD")._repr_html_())
    assert shown[:9] == [
        "trades of XBTUSD",
        "trade_id",
        "bigint",
        "time",
        "UTC",
        "tie",
        "integer",
        "price",
        "USD per XBT",
    ]
    assert f"{rows[0][3].normalize():f}" in shown
    assert shown[-1] == "and more"


def test_a_short_result_shows_its_number_of_rows(archive: harvester.Archive) -> None:
    assert texts(archive.trades("XBTUSD").limit(3)._repr_html_())[-1] == "3 rows"


def test_what_others_wrote_is_escaped(archive: harvester.Archive) -> None:
    html = archive.sql("SELECT '<script>alert(1)</script>' AS \"<b>\"")._repr_html_()
    assert "<script>" not in html
    assert "<b>" not in html
    assert "&lt;script&gt;" in html


def test_a_result_says_what_it_is_without_reading(archive: harvester.Archive) -> None:
    assert repr(archive.ohlc("XBTUSD", "4h")) == "<harvester.Result: 4h candles of XBTUSD>"
    assert repr(archive.sql("FROM\n  trades")) == "<harvester.Result: FROM trades>"
