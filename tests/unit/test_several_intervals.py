"""Candles of several lengths at once: the bytes that each has alone, and trades read once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import candle_oracle
import pyarrow as pa
import pytest
import sample_trades
from candle_cases import MINUTE, PAIR, SECOND, answer, ask, candle_batches, cut, hold, is_equal
from hypothesis import given, settings
from hypothesis import strategies as st
from kraken_market import Market, expected
from rollup_cases import rolled
from stored_trades import put

from harvester.errors import ArchiveDamaged
from harvester.query import candles, plan, source_choice
from harvester.query.candles import QuerySession, batches_by_interval, run_shared_scan
from harvester.query.plan import FILLS, CandleQuery
from harvester.query.sql import connect
from harvester.storage.trade_store import EVERYTHING, Piece, TradeStore
from harvester.storage.writer import open_writer
from harvester.times import Range, parse_interval, union

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# From 23:12 until past midnight, some trades without an id.
BUSY = expected(sample_trades.market(sample_trades.zero_ids(1_500)))
FIRST, LAST = BUSY[0][1], BUSY[-1][1]
LENGTH = LAST - FIRST
CUT = Range(FIRST + LENGTH // 5 + 17, LAST - LENGTH // 7 - 13)


def partly(path: Path, rows: Sequence[candle_oracle.Row], *, with_rollups: bool) -> TradeStore:
    """Segments that part inside of seconds, a gap among them; all but one with roll-ups."""
    stamps = [row[1] for row in rows]
    bounds = sorted({0, *stamps[:: len(stamps) // 6], stamps[-1] + 1})
    parts = cut(rows, bounds)
    archive = hold(TradeStore(path), [*parts[:2], *parts[3:]])
    if with_rollups:
        rolled(archive)
        lacking = archive.segments(PAIR)[3]
        for rollup in archive.rollups(PAIR):
            if rollup.segment_path == lacking.path:
                (archive.root / rollup.path).unlink()
    return archive


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TradeStore]:
    sparse = expected(sample_trades.market(sample_trades.sparse(200)))
    return {
        "trades": partly(tmp_path_factory.mktemp("trades"), BUSY, with_rollups=False),
        "rolled": partly(tmp_path_factory.mktemp("rolled"), BUSY, with_rollups=True),
        "sparse": partly(tmp_path_factory.mktemp("sparse"), sparse, with_rollups=False),
        "sparse, rolled": partly(tmp_path_factory.mktemp("both"), sparse, with_rollups=True),
    }


def together(archive: TradeStore, question: CandleQuery, lengths: Sequence[str]) -> list[pa.Table]:
    intervals = [parse_interval(text) for text in lengths]
    return [
        pa.Table.from_batches(batches)
        for _, batches in batches_by_interval(QuerySession(archive), question, intervals)
    ]


def alone(archive: TradeStore, question: CandleQuery, lengths: Sequence[str]) -> list[pa.Table]:
    intervals = [parse_interval(text) for text in lengths]
    questions = [replace(question, interval=interval) for interval in intervals]
    return [pa.Table.from_batches(candle_batches(archive, query)) for query in questions]


def are_equal(archive: TradeStore, lengths: Sequence[str], **asked: Any) -> bool:
    question = ask(**asked)
    pairs = zip(
        together(archive, question, lengths), alone(archive, question, lengths), strict=True
    )
    return all(table.equals(other) for table, other in pairs)


def in_small_parts(monkeypatch: pytest.MonkeyPatch, candles: int) -> None:
    monkeypatch.setattr(plan.split_query, "__defaults__", (candles,))


# --- the same bytes ------------------------------------------------------------------------------


def test_each_length_equals_the_oracles(tmp_path: Path) -> None:
    archive = hold(TradeStore(tmp_path), cut(BUSY, [0, BUSY[700][1], LAST]))
    lengths = ("1h", "1m", "90s", "7m")
    for text, table in zip(lengths, together(archive, ask(all_columns=True), lengths), strict=True):
        width_ns = parse_interval(text).width_ns
        assert width_ns is not None
        made = answer(connect().from_arrow(table))
        assert is_equal(made, candle_oracle.candles(BUSY, width_ns), candle_oracle.COLUMNS)


@pytest.mark.parametrize(
    ("name", "fill", "span"),
    [
        (name, fill, (EVERYTHING, CUT)[(at + place) % 2])
        for at, name in enumerate(("trades", "rolled"))
        for place, fill in enumerate(FILLS)
    ],
)
def test_every_fill_every_column_every_source(
    archives: dict[str, TradeStore], name: str, fill: str, span: Range
) -> None:
    lengths = ("1m", "5m", "1h", "90s")
    assert are_equal(archives[name], lengths, fill=fill, span=span, all_columns=True)


@pytest.mark.parametrize(
    ("name", "lengths", "more"),
    [
        ("sparse, rolled", ("1d", "1w", "1mo", "1q"), {}),
        ("sparse", ("4h", "1d", "1w", "1mo"), {"tz": "Europe/Berlin"}),
        ("sparse, rolled", ("1d", "7m"), {"tz": "Australia/Lord_Howe", "fill": "none"}),
        ("sparse, rolled", ("1d", "10080"), {"offset_ns": 17 * 3600 * SECOND}),
        ("sparse", ("1h", "1mo"), {"offset_ns": -7 * MINUTE - 1, "fill": "none"}),
    ],
)
def test_the_calendar_zones_and_offsets(
    archives: dict[str, TradeStore], name: str, lengths: tuple[str, ...], more: dict[str, Any]
) -> None:
    asked = {"fill": "null", "all_columns": True, **more}
    assert are_equal(archives[name], lengths, **asked)


@pytest.mark.parametrize("name", ["trades", "rolled"])
def test_lengths_of_which_none_divides_another(archives: dict[str, TradeStore], name: str) -> None:
    assert are_equal(archives[name], ("7s", "500ms"), all_columns=True)
    assert are_equal(archives[name], ("90m", "1h", "13m"), span=CUT, all_columns=True)


def test_a_long_question_in_parts(
    archives: dict[str, TradeStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = ("1s", "1m", "7m", "1h")
    question = ask(fill="previous", span=CUT, all_columns=True)
    truth = alone(archives["trades"], question, lengths)
    in_small_parts(monkeypatch, 97)
    for name in ("trades", "rolled"):
        made = together(archives[name], question, lengths)
        assert all(table.equals(other) for table, other in zip(made, truth, strict=True))


def test_imported_trades_that_are_replaced_between_two_parts_of_an_answer_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trade of another time could be in none of the parts."""
    in_small_parts(monkeypatch, 97)
    archive, span = TradeStore(tmp_path), Range(0, LAST)
    put(archive, span, BUSY, is_imported=True)
    batches = candle_batches(archive, ask("1s", fill="previous"))
    assert next(batches).num_rows
    [segment] = archive.segments(PAIR)
    put(archive, span, BUSY)
    (archive.root / segment.path).unlink()
    with pytest.raises(ArchiveDamaged, match="imported trades of XBTUSD were replaced while they"):
        list(batches)


def test_several_intervals_with_kraken_fill_equal_single_queries(
    archives: dict[str, TradeStore],
) -> None:
    for decimals in (1, 5):
        assert are_equal(
            archives["trades"], ("1m", "1h"), fill="kraken", pair_decimals=decimals, span=CUT
        )


@given(
    sample_trades.markets(min_size=1),
    st.lists(st.integers(0, 60), max_size=3),
    st.lists(st.sampled_from(["1s", "7s", "1m", "3m", "1h", "1d", "1mo"]), min_size=2, max_size=3),
    st.sampled_from([0, 1, 30 * SECOND]),
    st.booleans(),
)
@settings(max_examples=12, deadline=None)
def test_several_intervals_of_any_trades_in_any_segments_equal_single_queries(
    tmp_path_factory: pytest.TempPathFactory,
    market: Market,
    cuts: list[int],
    lengths: list[str],
    offset_ns: int,
    is_rolled: bool,
) -> None:
    rows = expected(market)
    first, last = rows[0][1], rows[-1][1]
    bounds = sorted({0, last, *(first + (last - first) * place // 60 for place in cuts)})
    archive = hold(TradeStore(tmp_path_factory.mktemp("any")), cut(rows, bounds))
    if is_rolled:
        rolled(archive, ["1m"])
    assert are_equal(archive, lengths, offset_ns=offset_ns, all_columns=True)


# --- one reading ---------------------------------------------------------------------------------


@pytest.fixture
def pieces_read(monkeypatch: pytest.MonkeyPatch) -> list[Piece]:
    """Each piece of trades that a query is made for."""
    read: list[Piece] = []
    real = source_choice.trades_sql

    def noted(archive: TradeStore, pieces: Sequence[Piece], at: int = 0) -> str:
        read.extend(pieces)
        return real(archive, pieces, at)

    monkeypatch.setattr(source_choice, "trades_sql", noted)
    return read


@pytest.mark.parametrize(
    "lengths", [("1m", "5m", "1h", "1d"), ("7s", "500ms"), ("1mo", "90s", "1w")]
)
def test_several_intervals_read_each_trade_once(
    archives: dict[str, TradeStore],
    monkeypatch: pytest.MonkeyPatch,
    pieces_read: list[Piece],
    lengths: tuple[str, ...],
) -> None:
    in_small_parts(monkeypatch, 300)
    together(archives["trades"], ask(span=CUT), lengths)
    spans = sorted(piece.within for piece in pieces_read)
    held = [piece.within for piece in archives["trades"].pieces(PAIR, CUT)]
    assert sum(through - after for after, through in spans) == sum(b - a for a, b in held)
    assert union(spans) == union(held)


def test_where_roll_ups_answer_nothing_is_scanned(tmp_path: Path) -> None:
    """One length alone reads trades, and the edges of the others are less than their roll-up."""
    archive = hold(TradeStore(tmp_path), cut(BUSY, [0, LAST]))
    rolled(archive)
    folder = tmp_path / "scan"
    folder.mkdir()
    span = Range(FIRST + 777 * SECOND, LAST - 77 * SECOND)
    questions = [ask("10s", span=span), ask("1m", span=span), ask("7m", span=span)]
    assert run_shared_scan(QuerySession(archive), questions, folder) is None
    assert list(folder.iterdir()) == []


def test_what_is_stored_after_the_scan_is_read_straight(tmp_path: Path) -> None:
    archive = hold(TradeStore(tmp_path), cut(BUSY[:700], [0, BUSY[699][1]]))
    lengths = ("1m", "7m")
    found = batches_by_interval(
        QuerySession(archive), ask(), [parse_interval(text) for text in lengths]
    )
    first, batches = next(found)
    assert first.text == "1m"
    assert sum(batch.num_rows for batch in batches) > 0
    hold(archive, [(Range(BUSY[699][1], LAST), BUSY[700:])])
    _, later = next(found)
    [truth] = alone(archive, ask(), ["7m"])
    assert pa.Table.from_batches(later).equals(truth)


# --- whoever writes ------------------------------------------------------------------------------


def test_a_compaction_between_two_lengths_changes_nothing(tmp_path: Path) -> None:
    archive = partly(tmp_path, BUSY, with_rollups=True)
    question, lengths = ask(fill="previous", all_columns=True), ("1m", "5m", "1h")
    truth = alone(archive, question, lengths)
    made = []
    found = batches_by_interval(
        QuerySession(archive), question, [parse_interval(text) for text in lengths]
    )
    for interval, batches in found:
        made.append(pa.Table.from_batches(batches))
        if interval.text == "1m":
            with open_writer(TradeStore(tmp_path), PAIR) as pair_writer:
                pair_writer.compact(merge_all=True)
    assert len(archive.segments(PAIR)) < 6
    assert all(table.equals(other) for table, other in zip(made, truth, strict=True))


def test_files_that_vanish_while_they_are_read_are_listed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = partly(tmp_path, BUSY, with_rollups=False)
    truth = alone(archive, ask(), ("1m", "1h"))
    is_compacted: list[bool] = []

    def planned_and_gone(*of: Any) -> Any:
        made = plan.plan_query(*of)
        if not is_compacted:
            is_compacted.append(True)
            with open_writer(TradeStore(tmp_path), PAIR) as pair_writer:
                pair_writer.compact(merge_all=True)
        return made

    monkeypatch.setattr(candles, "plan_query", planned_and_gone)
    made = together(archive, ask(), ("1m", "1h"))
    assert all(table.equals(other) for table, other in zip(made, truth, strict=True))


def test_no_temporary_file_is_left(
    archives: dict[str, TradeStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = batches_by_interval(
        QuerySession(archives["trades"]), ask(), [parse_interval("1m"), parse_interval("1h")]
    )
    _, batches = next(found)
    next(batches)
    assert list(tmp_path.glob("harvester-*/*.parquet"))
    batches.close()  # type: ignore[attr-defined]
    found.close()  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == []
