"""An archive asked in SQL: its view and macros, in a connection and in a small database file."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import candle_oracle
import duckdb
import pyarrow as pa
import pytest
import sample_trades
from candle_cases import (
    MADE_HISTORIES,
    Compacting,
    Part,
    answer,
    candle_batches,
    cut,
    hold,
    is_equal,
    overlapping,
    run_sql,
)
from command_line import HARVESTER, own_environment, run_harvester
from kraken_market import expected

from harvester.errors import ArchiveDamaged, BadInterval, BadQuery, HarvesterError, UsageError
from harvester.query.plan import CandleQuery
from harvester.query.result import Result, batch_stream, source_of_sql
from harvester.query.sql import connect_views, translate_errors
from harvester.query.views import write_database
from harvester.storage.trade_store import EVERYTHING, TradeStore
from harvester.storage.writer import open_writer
from harvester.times import Range, parse_interval

COLUMNS = {
    "trade_id": "BIGINT",
    "time": "TIMESTAMP_NS",
    "tie": "INTEGER",
    "price": "DECIMAL(18,10)",
    "volume": "DECIMAL(22,8)",
    "side": "VARCHAR",
    "order_type": "VARCHAR",
    "misc": "VARCHAR",
    "pair": "VARCHAR",
    "year": "BIGINT",
}
CANDLE = (*candle_oracle.COLUMNS[:9], "buy_volume", "sell_volume")
YEARS = expected(sample_trades.market(sample_trades.new_years()))
BUSY = expected(sample_trades.market(sample_trades.xbtusd_like(900)))
ADJACENT = cut(BUSY, [0, BUSY[400][1], BUSY[-1][1]])
NAMES = {"XBTUSD": "XBTUSD", "BTCUSD": "XBTUSD", "XBT/USD": "XBTUSD", "ETHEUR": "ETHEUR"}


def filled(archive: TradeStore) -> TradeStore:
    """An archive of a pair of five years and a busy one, each in several segments."""
    for pair, rows in (("XBTUSD", YEARS), ("ETHEUR", BUSY)):
        stamps = [row[1] for row in rows]
        bounds = sorted({0, *stamps[:: len(stamps) // 7], stamps[-1] + 1})
        hold(archive, cut(rows, bounds), pair)
    return archive


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> TradeStore:
    return filled(TradeStore(tmp_path_factory.mktemp("archive")))


def live(archive: TradeStore, _: Path) -> duckdb.DuckDBPyConnection:
    return connect_views(archive, names=NAMES)


def kept(archive: TradeStore, folder: Path) -> duckdb.DuckDBPyConnection:
    """The database file as somebody without harvester opens it."""
    write_database(archive, str(folder / "kept.db"), names=NAMES)
    return duckdb.connect(str(folder / "kept.db"), read_only=True)


BOTH = pytest.mark.parametrize("opened", [live, kept])
"""For tests that make an archive of their own."""


@pytest.fixture(scope="module", params=[live, kept])
def connection(
    request: pytest.FixtureRequest, archive: TradeStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to `archive`, in which tests only read."""
    with request.param(archive, tmp_path_factory.mktemp("connection")) as opened:
        yield opened


def in_turn(name: str, values: Iterable[Any]) -> pytest.MarkDecorator:
    """Half of the values with each connection: the macros that the test shows are the same."""
    cases = [((live, kept)[at % 2], value) for at, value in enumerate(values)]
    return pytest.mark.parametrize(("connection", name), cases, indirect=["connection"])


def files_read(connection: duckdb.DuckDBPyConnection, query: str, *params: Any) -> int:
    [(_, plan)] = connection.execute(f"EXPLAIN ANALYZE {query}", list(params)).fetchall()
    return int(plan.split("Total Files Read: ")[1].split()[0])


def years_of(archive: TradeStore, pair: str, *years: int) -> int:
    return len(
        [segment for segment in archive.segments(pair) if segment.year in years or not years]
    )


# --- trades --------------------------------------------------------------------------------------


def test_trades_are_all_trades_of_all_pairs(connection: duckdb.DuckDBPyConnection) -> None:
    query = "SELECT pair, count(*), sum(volume) FROM trades GROUP BY pair ORDER BY pair"
    assert connection.sql(query).fetchall() == [
        ("ETHEUR", len(BUSY), candle_oracle.total_volume(BUSY)),
        ("XBTUSD", len(YEARS), candle_oracle.total_volume(YEARS)),
    ]


def test_trades_have_the_columns_of_the_format_and_the_partition(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    relation = connection.sql("FROM trades")
    assert dict(zip(relation.columns, map(str, relation.types), strict=True)) == COLUMNS


def test_only_the_files_of_the_pair_and_the_year_are_read(
    connection: duckdb.DuckDBPyConnection, archive: TradeStore
) -> None:
    all_of_it = years_of(archive, "XBTUSD")
    one_year = years_of(archive, "XBTUSD", 2020)
    two_years = years_of(archive, "XBTUSD", 2022, 2023)
    assert 0 < one_year < all_of_it < all_of_it + years_of(archive, "ETHEUR")
    count = "SELECT sum(price) FROM"
    assert (
        files_read(connection, f"{count} trades WHERE pair = 'XBTUSD'"),
        files_read(connection, f"{count} trades WHERE pair = 'XBTUSD' AND year = 2020"),
        files_read(connection, f"{count} tape('btc/usd')"),
        files_read(connection, f"{count} tape(?)", "btc/usd"),
        files_read(connection, f"{count} tape('XBTUSD') WHERE year = 2020"),
        files_read(
            connection,
            "FROM ohlc('XBTUSD', '1h', since := '2022-06-01', until := '2023-06-01')",
        ),
    ) == (all_of_it, one_year, all_of_it, all_of_it, one_year, two_years)


@BOTH
@pytest.mark.parametrize("way", [0, 1])
def test_what_a_crashed_compaction_left_counts_once(opened: Any, way: int, tmp_path: Path) -> None:
    archive = hold(TradeStore(tmp_path / "a"), overlapping(MADE_HISTORIES["busy"])[way])
    hold(archive, cut(YEARS, [0, YEARS[-1][1]]), "AAAEUR")
    connection = opened(archive, tmp_path)
    query = "SELECT trade_id FROM tape('XBTUSD')"
    assert [value for (value,) in connection.sql(query).fetchall()] == [
        row[0] for row in MADE_HISTORIES["busy"]
    ]
    [(counted,)] = connection.sql("SELECT count(*) FROM trades").fetchall()
    assert counted == len(MADE_HISTORIES["busy"]) + len(YEARS)


@pytest.mark.parametrize(
    "name", ["a[1]", "a*", "a?", "it's", "{a}", "a b", "%20", "pair=A", "year=1999/b", "x=1"]
)
def test_a_folder_may_be_called_anything(name: str, tmp_path: Path) -> None:
    """Beside one whose name its own would match, were it taken for a pattern."""
    hold(TradeStore(tmp_path / "a1"), cut(YEARS, [0, YEARS[-1][1]]))
    archive = hold(TradeStore(tmp_path / name), ADJACENT)
    query = "SELECT pair, year, count(*) FROM trades WHERE pair = 'XBTUSD' GROUP BY ALL"
    for opened in (live, kept):
        found = opened(archive, tmp_path).sql(query).fetchall()
        assert (opened, found) == (opened, [("XBTUSD", 2024, len(BUSY))])


@BOTH
def test_an_empty_archive_has_the_view_and_no_rows(opened: Any, tmp_path: Path) -> None:
    relation = opened(TradeStore(tmp_path / "none"), tmp_path).sql("FROM trades")
    assert dict(zip(relation.columns, map(str, relation.types), strict=True)) == COLUMNS
    assert relation.fetchall() == []


# --- the expected rows ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("opened", "name"),
    [(live, "without ids"), (kept, "one stamp"), (live, "look-alikes"), (kept, "new years")],
)
def test_the_trade_history_in_sql_is_in_the_exchanges_order(
    opened: Any, name: str, tmp_path: Path
) -> None:
    rows = MADE_HISTORIES[name]
    stamps = [row[1] for row in rows]
    archive = hold(TradeStore(tmp_path / "a"), cut(rows, [0, stamps[200 % len(rows)], stamps[-1]]))
    query = "SELECT trade_id, epoch_ns(time), tie, price, volume FROM tape('XBTUSD')"
    assert opened(archive, tmp_path).sql(query).fetchall() == [row[:5] for row in rows]


def test_a_pair_is_given_by_place_or_by_name(connection: duckdb.DuckDBPyConnection) -> None:
    [(trades,)] = connection.sql("SELECT count(*) FROM tape(pair := 'XBTUSD')").fetchall()
    by_name = connection.sql("FROM ohlc(pair := 'XBTUSD', interval := '1q')").fetchall()
    by_position = connection.sql("FROM ohlc('XBTUSD', '1q')").fetchall()
    assert (trades, by_name) == (len(YEARS), by_position)


@pytest.mark.parametrize(
    ("opened", "folder", "parts"),
    [
        pytest.param(live, "data", [], id="live empty"),
        pytest.param(live, "pair=x", ADJACENT, id="live adjacent"),
        pytest.param(live, "data", overlapping(BUSY)[0], id="live overlapping"),
        pytest.param(kept, "pair=x", [], id="kept empty"),
        pytest.param(kept, "data", ADJACENT, id="kept adjacent"),
        pytest.param(kept, "pair=x", overlapping(BUSY)[0], id="kept overlapping"),
    ],
)
def test_a_macro_may_name_its_parameter_after_any_column(
    opened: Any, parts: list[Part], folder: str, tmp_path: Path
) -> None:
    """DuckDB takes an unqualified column of a view for the parameter of a macro that reads it."""
    connection = opened(hold(TradeStore(tmp_path / folder), parts), tmp_path)
    rows = len({row for _, held in parts for row in held})
    for name in COLUMNS:
        made = f"MACRO of_{name}({name}) AS TABLE SELECT {name} AS given FROM trades"  # noqa: S608
        connection.execute(f"CREATE TEMP {made}")
        query = f"SELECT count(*), count(given), min(given) FROM of_{name}(7)"  # noqa: S608
        wanted = (rows, rows, 7 if rows else None)
        assert (name, connection.sql(query).fetchall()) == (name, [wanted])


@pytest.mark.parametrize("spelled", ["XBTUSD", "xbt/usd", "BTC-USD", " btc usd "])
def test_any_spelling_of_a_pair_will_do(
    connection: duckdb.DuckDBPyConnection, spelled: str
) -> None:
    [(counted,)] = connection.sql("SELECT count(*) FROM tape(?)", params=[spelled]).fetchall()
    assert counted == len(YEARS)


@pytest.mark.parametrize("query", ["FROM tape('NOPE''S')", "FROM ohlc('NOPE''S', '1h')"])
def test_a_pair_that_is_not_stored_is_an_error(query: str, archive: TradeStore) -> None:
    with pytest.raises(duckdb.Error) as caught:
        run_sql(archive, query).fetchall()
    assert str(caught.value) == (
        "Invalid Input Error: the archive holds no trades of 'NOPE'S'; it holds ETHEUR, XBTUSD"
    )


@pytest.mark.parametrize(
    "typed", ["x' OR '1'='1", "'; DROP VIEW trades; --", "XBTUSD' --", "*", "%", "../x", "$1"]
)
def test_what_is_typed_for_a_pair_is_never_sql(
    connection: duckdb.DuckDBPyConnection, typed: str
) -> None:
    try:
        found = connection.sql("FROM tape(?)", params=[typed]).fetchall()
    except duckdb.InvalidInputException as error:
        assert f"no trades of '{typed}'" in str(error)  # noqa: PT017 - only one of the two raises
        found = []
    assert found == []


# --- candles -------------------------------------------------------------------------------------

INTERVALS = ("500ms", "1s", "90s", "7m", "60", "1h", "4h", "1d", "3d", "10080")


@in_turn("interval", INTERVALS)
def test_candles_are_those_of_harvester(
    connection: duckdb.DuckDBPyConnection, interval: str, archive: TradeStore
) -> None:
    pair = ("XBTUSD", "ETHEUR")[INTERVALS.index(interval) // 2 % 2]
    question = CandleQuery(pair, parse_interval(interval), EVERYTHING, all_columns=True)
    truth = pa.Table.from_batches(candle_batches(archive, question))
    made = connection.sql("FROM ohlc(?, ?)", params=[pair, interval]).to_arrow_table()
    assert made.column_names == list(CANDLE)
    assert made.to_pylist() == truth.select(CANDLE).to_pylist()


@pytest.mark.parametrize(
    ("opened", "name"),
    [
        (live, "busy"),
        (kept, "look-alikes"),
        (live, "one stamp"),
        (kept, "tiny coin"),
        (live, "sparse"),
    ],
)
def test_candles_of_made_markets_equal_the_oracles(opened: Any, name: str, tmp_path: Path) -> None:
    rows = MADE_HISTORIES[name]
    stamps = [row[1] for row in rows]
    archive = hold(TradeStore(tmp_path / "a"), cut(rows, [0, stamps[len(stamps) // 2], stamps[-1]]))
    connection = opened(archive, tmp_path)
    made = answer(connection.sql("FROM ohlc('XBTUSD', '90s')"))
    assert is_equal(made, candle_oracle.candles(rows, 90 * candle_oracle.SECOND_NS), CANDLE)


@in_turn("interval", ["1w", "2w", "1mo", "5mo", "1q", "2q", "1y", "2y"])
def test_candles_of_the_calendar_are_the_oracles(
    connection: duckdb.DuckDBPyConnection, interval: str
) -> None:
    made = answer(connection.sql("FROM ohlc('XBTUSD', ?)", params=[interval]))
    truth = candle_oracle.calendar_candles(YEARS, interval[1:], number=int(interval[0]))
    assert is_equal(made, truth, CANDLE)


def test_a_span_holds_since_and_not_until(connection: duckdb.DuckDBPyConnection) -> None:
    """To the nanosecond, where a function of DuckDB's would round into the next year."""
    first, last = YEARS[20][1], YEARS[100][1]
    made = connection.sql(
        "FROM ohlc('XBTUSD', '90s', since := make_timestamp_ns(?), until := make_timestamp_ns(?))",
        params=[first, last],
    )
    rows = [row for row in YEARS if first <= row[1] < last]
    assert is_equal(answer(made), candle_oracle.candles(rows, 90 * candle_oracle.SECOND_NS), CANDLE)


@BOTH
def test_a_span_that_ends_at_new_year_loses_no_last_nanosecond(opened: Any, tmp_path: Path) -> None:
    turn = sample_trades.utc_ns(2023, 1, 1)
    trade = (1, turn - 1, 0, Decimal(5), Decimal(1), "buy", "market", "")
    archive = hold(TradeStore(tmp_path / "a"), [(Range(0, turn - 1), [trade])])
    query = (
        "SELECT count FROM ohlc('XBTUSD', '1y', since := TIMESTAMP_NS "
        "'2022-12-31 23:59:59.999999999', until := '2023-01-01')"
    )
    assert opened(archive, tmp_path).sql(query).fetchall() == [(1,)]


@in_turn("interval", ["1M", "0m", "5x", "", "1' OR 1=1 --", "101y", "9" * 18])
def test_an_interval_is_refused_in_harvesters_own_words(
    connection: duckdb.DuckDBPyConnection, interval: str
) -> None:
    with pytest.raises(BadInterval) as of_harvester:
        parse_interval(interval)
    with pytest.raises(duckdb.Error) as caught:
        connection.sql("FROM ohlc('XBTUSD', ?)", params=[interval]).fetchall()
    words = str(of_harvester.value).replace(repr(interval), f"'{interval}'")
    assert str(caught.value) == f"Invalid Input Error: {words}"


# --- in Python -----------------------------------------------------------------------------------


def test_params_are_values_and_frames_come_out(archive: TradeStore) -> None:
    relation = run_sql(archive, "SELECT count(*) AS n FROM trades WHERE pair = $p", {"p": "ETHEUR"})
    assert (relation.df()["n"][0], relation.pl()["n"][0]) == (len(BUSY), len(BUSY))


def test_a_syntax_error_is_shown_with_its_position(archive: TradeStore) -> None:
    with pytest.raises(BadQuery) as caught:
        run_sql(archive, "SELEC 1")
    assert str(caught.value) == (
        "the query can't be run\n"
        'Parser Error: syntax error at or near "SELEC"\n'
        "LINE 1: SELEC 1\n"
        "        ^^^^^"
    )


def test_a_name_that_no_table_has_is_no_variable_of_python(archive: TradeStore) -> None:
    params = archive  # A name of this function's, and of the one that it calls.
    with pytest.raises(BadQuery) as caught:
        run_sql(params, "FROM params")
    assert "\nCatalog Error: Table with name params does not exist!\n" in str(caught.value)


def test_a_text_without_a_query_is_an_error(archive: TradeStore) -> None:
    with pytest.raises(BadQuery) as caught:
        run_sql(archive, "-- nothing")
    assert str(caught.value) == (
        "there is no query in that text: give one such as FROM trades LIMIT 10"
    )


def rows(archive: TradeStore, query: str, memory_limit: str = "2GB") -> int:
    """How many rows a query writes into a file."""
    result = Result(source_of_sql(archive, query, None, names={}, memory_limit=memory_limit))
    stream = batch_stream(result)
    assert stream is not None
    return sum(batch.num_rows for batch in stream.batches)


def test_too_little_memory_is_an_error(archive: TradeStore) -> None:
    with pytest.raises(HarvesterError) as caught:
        rows(archive, "SELECT list(range) FROM range(10000000)", memory_limit="20MB")
    assert str(caught.value).startswith(
        "the query needs more memory than 20MB: raise memory_limit, or choose a shorter range "
        "(Out of Memory Error: "
    )


def test_damage_that_shows_while_candles_are_read_is_reported_as_damage() -> None:
    damage, message = OSError("IO Error: gone"), "candles can't be answered: IO Error: gone"
    with pytest.raises(ArchiveDamaged, match=message), translate_errors("candles", "1GB"):
        raise damage


def test_a_compaction_in_between_is_answered_by_listing_again(tmp_path: Path) -> None:
    stamps = [row[1] for row in BUSY]
    hold(TradeStore(tmp_path), cut(BUSY, [0, stamps[400], stamps[800], stamps[-1]]))
    assert rows(Compacting(tmp_path), "SELECT trade_id FROM trades") == len(BUSY)


# --- the database file ---------------------------------------------------------------------------


def test_a_database_stays_right_as_the_archive_grows(tmp_path: Path) -> None:
    archive = TradeStore(tmp_path / "a")
    connection = kept(archive, tmp_path)
    hold(archive, cut(BUSY, [0, BUSY[400][1]]))
    [(early,)] = connection.sql("SELECT count(*) FROM trades").fetchall()
    hold(archive, cut(BUSY, [BUSY[400][1], BUSY[-1][1]]))
    with open_writer(archive, "XBTUSD") as pair_writer:
        pair_writer.compact(merge_all=True)
    [(late,)] = connection.sql("SELECT count(*) FROM tape('XBTUSD')").fetchall()
    assert early == len([row for row in BUSY if row[1] <= BUSY[400][1]])
    assert late == len(BUSY)


def test_a_database_names_the_archive_that_it_reads(archive: TradeStore, tmp_path: Path) -> None:
    [(path,)] = kept(archive, tmp_path).sql("SELECT path FROM harvester.archive").fetchall()
    assert path == str(archive.root)


def test_a_database_is_small_and_alone_in_its_folder(archive: TradeStore, tmp_path: Path) -> None:
    write_database(archive, str(tmp_path / "kept.db"))
    assert [path.name for path in tmp_path.iterdir()] == ["kept.db"]
    assert (tmp_path / "kept.db").stat().st_size < 1_000_000


def test_a_database_is_written_again_over_one_of_its_kind(
    archive: TradeStore, tmp_path: Path
) -> None:
    write_database(TradeStore(tmp_path / "none"), str(tmp_path / "kept.db"))
    connection = kept(archive, tmp_path)
    [(counted,)] = connection.sql("SELECT count(*) FROM trades").fetchall()
    assert counted == len(BUSY) + len(YEARS)


def own_table(file: Path) -> None:
    with duckdb.connect(str(file)) as connection:
        connection.execute("CREATE TABLE mine AS SELECT 42 AS answer")


def own_view(file: Path) -> None:
    write_database(TradeStore(file.parent / "none"), str(file))
    with duckdb.connect(str(file)) as connection:
        connection.execute("CREATE VIEW mine AS FROM trades")


def own(statement: str) -> Any:
    def make(file: Path) -> None:
        write_database(TradeStore(file.parent / "none"), str(file))
        with duckdb.connect(str(file)) as connection:
            connection.execute(statement)

    return pytest.param(make, id=statement)


def text(file: Path) -> None:
    file.write_text("dear diary")


@pytest.mark.parametrize(
    "make",
    [
        own_table,
        own_view,
        text,
        own("CREATE SEQUENCE mine START 42"),
        own("CREATE TYPE mine AS ENUM ('42')"),
        own("CREATE SCHEMA mine"),
        own("CREATE MACRO mine() AS 42"),
    ],
)
def test_what_is_not_only_such_a_database_is_not_overwritten(
    make: Any, archive: TradeStore, tmp_path: Path
) -> None:
    file = tmp_path / "mine.db"
    make(file)
    before = file.read_bytes()
    with pytest.raises(UsageError) as caught:
        write_database(archive, str(file))
    assert str(caught.value) == (
        f"{file} is there already and is not, or not only, a database of such views: choose "
        "another name, or remove it first"
    )
    assert file.read_bytes() == before


def test_what_was_not_yet_written_into_a_database_is_not_written_into_another(
    archive: TradeStore, tmp_path: Path
) -> None:
    """A log that stands beside a database is played into whatever bears that name."""
    file, log = tmp_path / "mine.db", tmp_path / "mine.db.wal"
    log.write_bytes(b"changes")
    with pytest.raises(UsageError) as caught:
        write_database(archive, str(file))
    assert str(caught.value) == (
        f"{log} holds changes to a database of that name: open that one with DuckDB, which writes "
        "them into it, or remove the file; or choose another name"
    )
    assert (file.exists(), log.read_bytes()) == (False, b"changes")


# --- the command ---------------------------------------------------------------------------------


def run(archive: TradeStore, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
    words = ["sql", "-d", archive.path, *arguments]
    done = run_harvester(words, own_environment(), input=stdin)
    return done.returncode, done.stdout, done.stderr


COUNT = "SELECT count(*) AS n FROM tape('XBTUSD')"


def test_a_query_is_given_or_piped_in(archive: TradeStore) -> None:
    wanted = (0, f"n\n{len(YEARS)}\n", "")
    assert run(archive, COUNT, "-f", "csv") == wanted
    assert run(archive, "-f", "csv", stdin=COUNT) == wanted
    assert run(archive, "-", "-f", "csv", stdin=f"SET threads = 1; {COUNT};") == wanted


def test_no_query_is_wrong_use(archive: TradeStore) -> None:
    assert run(archive) == (
        2,
        "",
        "harvester: there is no query: give one, such as \"FROM ohlc('XBT/USD', '1h') LIMIT 5\", "
        "or pipe one in\nTry `harvester sql --help`.\n",
    )


def test_a_wrong_query_is_shown_with_its_place(archive: TradeStore) -> None:
    assert run(archive, "SELECT 1 +") == (
        2,
        "",
        'harvester: the query can\'t be run\nParser Error: syntax error at or near "+"\n'
        "LINE 1: SELECT 1 +\n                 ^\n",
    )


def test_a_value_that_is_nested_too_deeply_is_an_error(archive: TradeStore) -> None:
    status, output, error = run(archive, f"SELECT {'[' * 400}1{']' * 400}")
    assert (status, output) == (2, "")
    assert re.search("nested too deeply|Recursion level", error)


@pytest.mark.parametrize("to_file", [False, True], ids=["stdout", "file"])
def test_an_error_in_a_late_row_is_the_querys(
    to_file: bool, archive: TradeStore, tmp_path: Path
) -> None:
    file = tmp_path / "rows.csv"
    late = (
        "SELECT CASE WHEN i = 990000 THEN error('boom') ELSE 'x' END AS x FROM range(1000000) t(i)"
    )
    target = ["-o", str(file)] if to_file else []
    status, _, err = run(archive, late, "-f", "csv", *target)
    assert (status, err) == (
        2,
        "harvester: the query can't be run\nInvalid Input Error: boom\n",
    )
    assert not file.exists()


def test_a_statement_without_rows_prints_nothing(archive: TradeStore, tmp_path: Path) -> None:
    copied = f"COPY (SELECT 42 AS a) TO '{tmp_path / 'copied.csv'}'"
    assert run(archive, copied) == (0, "", "")
    assert (tmp_path / "copied.csv").read_text() == "a\n42\n"


def test_the_command_writes_a_database_and_says_how_to_open_it(
    archive: TradeStore, tmp_path: Path
) -> None:
    file = tmp_path / "my views.db"
    assert run(archive, "--db", str(file)) == (
        0,
        "",
        f"{file} has the views of {archive.root}; open it with: duckdb -readonly '{file}'\n",
    )
    with duckdb.connect(str(file), read_only=True) as connection:
        assert connection.sql(COUNT).fetchall() == [(len(YEARS),)]


def test_a_plan_is_printed_as_it_is_drawn(archive: TradeStore) -> None:
    status, out, _ = run(archive, "EXPLAIN FROM tape('XBTUSD')")
    assert (status, out[0], "explain_key" in out) == (0, "╭", False)


@pytest.mark.parametrize("form", ["csv", "jsonl", "table"])
def test_a_reader_that_has_had_enough_ends_it_cleanly(form: str, archive: TradeStore) -> None:
    """At once, though the query would make rows for hours."""
    endless = "SELECT * FROM range(1000000000000) AS numbers(number)"
    process = subprocess.Popen(
        [*HARVESTER, "sql", "-d", archive.path, endless, "-f", form],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert (process.stderr.read(), process.wait(timeout=30)) == ("", 0)
    process.stderr.close()
