"""What `--explain` prints is what DuckDB does, and its SQL gives the answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pytest
import sample_trades
from candle_cases import PAIR, ask, candle_batches, cut, hold
from cli_runner import run
from kraken_market import expected
from rollup_cases import LEVELS, rolled

from harvester.query import plan as cutting
from harvester.query.candles import QuerySession
from harvester.query.explain import explain
from harvester.query.plan import FILLS
from harvester.storage import parquet_files
from harvester.storage.trade_store import EVERYTHING, TradeStore
from harvester.times import Range

if TYPE_CHECKING:
    from pathlib import Path

BUSY = expected(sample_trades.market(sample_trades.zero_ids(3_000)))
FIRST, LAST = BUSY[0][1], BUSY[-1][1]
CUT = Range(FIRST + (LAST - FIRST) // 5 + 17, LAST - (LAST - FIRST) // 7 - 13)
GROUP = 100
TRADES_READ = len([row for row in BUSY if row[1] > BUSY[1499][1]])
"""Those of the second segment."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> TradeStore:
    """Two segments of many small row groups; the second has no roll-ups."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet_files, "ROW_GROUP_ROWS", GROUP)
        path = tmp_path_factory.mktemp("archive")
        (path / "pairs.json").write_text(json.dumps({PAIR: {"altname": PAIR}}))
        made = hold(TradeStore(path), cut(BUSY, [0, BUSY[1499][1], LAST]))
        rolled(made)
        for rollup in made.rollups(PAIR):
            if rollup.segment_path == made.segments(PAIR)[1].path:
                (made.root / rollup.path).unlink()
        return made


def profiled(sql: str, path: Path) -> list[dict[str, Any]]:
    """The tables that a query scans, by DuckDB's profile."""
    with duckdb.connect() as connection:
        connection.execute("PRAGMA enable_profiling = 'json'")
        connection.execute(f"PRAGMA profiling_output = '{path}'")
        connection.execute(sql).fetchall()

    def scans(operator: dict[str, Any]) -> list[dict[str, Any]]:
        found = [operator] if operator["type"] == "TABLE_SCAN" else []
        return found + [scan for child in operator.get("children", []) for scan in scans(child)]

    return [scan for load in json.loads(path.read_text())["operator"] for scan in scans(load)]


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("interval", ["1m", "1h", "7s"])
def test_plain_duckdb_runs_the_sql_and_gives_the_candles(
    archive: TradeStore, interval: str, fill: str
) -> None:
    for span in (EVERYTHING, CUT):
        question = ask(interval, span, fill=fill, all_columns=True, pair_decimals=1)
        with duckdb.connect() as connection:
            made = connection.sql(explain(QuerySession(archive), question).sql).to_arrow_table()
        assert made.equals(pa.Table.from_batches(candle_batches(archive, question)))


@pytest.mark.parametrize("span", [EVERYTHING, CUT], ids=["all", "cut"])
def test_the_rows_of_explain_are_those_of_the_row_groups_that_duckdb_scans(
    archive: TradeStore, tmp_path: Path, span: Range
) -> None:
    explained = explain(QuerySession(archive), ask("1s", span))
    [scan] = profiled(explained.sql, tmp_path / "profile.json")
    groups = [-(-read.rows // GROUP) for read in explained.reads]
    assert scan["row_groups_scanned"] == sum(groups)
    assert (sum(groups) == 31) == (span == EVERYTHING)


def test_files_levels_and_ranges_are_listed_in_order(archive: TradeStore) -> None:
    first, second = archive.segments(PAIR)
    explained = explain(QuerySession(archive), ask("1m", Range(CUT.after, LAST)))
    minute = 60 * 10**9
    opens = -(-(CUT.after + 1) // minute) * minute - 1
    assert [(read.level, read.file, read.range) for read in explained.reads] == [
        ("trades", first.path, Range(CUT.after, opens)),
        (
            "1m",
            first.path.replace("trades", "candles/interval=1m"),
            Range(opens, first.range.through),
        ),
        ("trades", second.path, second.range),
    ]
    edge, _, rest = explained.reads
    assert rest.rows == TRADES_READ
    assert [(total.level, total.files) for total in explained.totals] == [("trades", 2), ("1m", 1)]
    assert explained.totals[0].rows == edge.rows + TRADES_READ
    assert (explained.close_read, explained.passes, explained.parts) == (None, 1, 1)
    assert LEVELS == ("1m", "1h")


def test_the_read_of_the_close_before_the_range_is_listed(archive: TradeStore) -> None:
    explained = explain(QuerySession(archive), ask("1m", CUT, fill="previous"))
    last_before = max(row[1] for row in BUSY if row[1] <= CUT.after)
    assert explained.close_read is not None
    assert (explained.close_read.file, explained.close_read.range, explained.close_read.rows) == (
        archive.segments(PAIR)[0].path,
        Range(last_before - 1, last_before),
        GROUP,
    )
    assert explain(QuerySession(archive), ask("1m", CUT, fill="null")).close_read is None
    assert explain(QuerySession(archive), ask("1m", fill="previous")).close_read is None


def test_krakens_form_reads_twice_where_a_digit_may_be_lost(archive: TradeStore) -> None:
    assert explain(QuerySession(archive), ask("1m", fill="kraken", pair_decimals=1)).passes == 2
    assert explain(QuerySession(archive), ask("1m", fill="kraken")).passes == 1


def test_the_parts_are_those_of_the_stream(
    archive: TradeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting.split_query, "__defaults__", (500,))
    assert explain(QuerySession(archive), ask("1s")).parts > 5


# --- the command ---------------------------------------------------------------------------------


def test_the_command_prints_a_table(archive: TradeStore) -> None:
    first, second = archive.segments(PAIR)
    status, out, err = run(archive, "ohlc", "XBTUSD", "-i", "1h", "--explain")
    explained = explain(QuerySession(archive), ask("1h"))
    rows = explained.reads[0].rows
    title, totals, table, sql = out.split("\n\n")
    assert (status, err) == (0, "")
    assert title == (
        f"1h candles of XBTUSD, the beginning to the end: {rows + TRADES_READ:,} rows read, "
        "in 1 part"
    )
    assert totals.splitlines() == [
        "level   files  rows read",
        f"1h          1  {rows:>9}",
        f"trades      1      {TRADES_READ:,}",
    ]
    assert [line.split()[:2] for line in table.splitlines()] == [
        ["level", "file"],
        ["1h", first.path.replace("trades", "candles/interval=1h")],
        ["trades", second.path],
    ]
    assert table.splitlines()[1].split()[2:] == [
        "the",
        "beginning",
        "to",
        *str(explained.reads[0].range).split()[3:],
        str(rows),
    ]
    assert sql == f"{explained.sql};\n"


def test_the_command_prints_json(archive: TradeStore) -> None:
    asked = ["ohlc", "XBTUSD", "-i", "1h", "--fill", "previous", "--explain", "-f", "json"]
    status, out, err = run(archive, *asked)
    explained = explain(QuerySession(archive), ask("1h", fill="previous"))
    assert (status, err) == (0, "")
    assert json.loads(out) == {
        "pair": "XBTUSD",
        "interval": "1h",
        "range": list(EVERYTHING),
        "reads": [
            {"level": read.level, "file": read.file, "range": list(read.range), "rows": read.rows}
            for read in explained.reads
        ],
        "close_read": None,
        "totals": [
            {"level": "1h", "files": 1, "rows": explained.reads[0].rows},
            {"level": "trades", "files": 1, "rows": TRADES_READ},
        ],
        "passes": 1,
        "parts": 1,
        "sql": explained.sql,
    }


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["-f", "csv"], "--explain writes a table or JSON, and --format is csv: give -f json"),
        (["-o", "x"], "--explain writes to stdout: leave -o out, or pipe it on"),
        (
            ["-i", "5m"],
            "--explain takes one pair and one --interval at a time: give one each",
        ),
        (["--strict"], "--explain computes no candles: leave --strict out"),
    ],
)
def test_what_makes_no_sense_beside_it_is_refused(
    archive: TradeStore, more: list[str], message: str
) -> None:
    status, out, err = run(archive, "ohlc", "XBTUSD", "-i", "1h", "--explain", *more)
    assert (status, out, err) == (2, "", f"harvester: {message}\n")
