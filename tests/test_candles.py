"""Candles against the oracle's, and what must hold beside their figures."""

from __future__ import annotations

import gc
import tempfile
from bisect import bisect_right
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import oracle
import pyarrow as pa
import pytest
import tapes
from exchange import expected
from hypothesis import given, settings
from hypothesis import strategies as st

from harvester import columns
from harvester.archive.archive import EVERYTHING, Archive, Piece
from harvester.archive.footers import Footer
from harvester.archive.writer import writer
from harvester.candles.query import candle_batches, ohlc
from harvester.candles.question import FILLS, Question
from harvester.errors import (
    ArchiveDamaged,
    BadInterval,
    BadSetting,
    NothingHeld,
    ValueDoesNotFit,
)
from harvester.times import Range, parse_interval, union

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb

PAIR = "XBTUSD"
SECOND = 1_000_000_000
MINUTE = 60 * SECOND
START = 1_600_000_020 * SECOND
PLAIN = ("time", "open", "high", "low", "close", "vwap", "volume", "count")
NAMES = ("trade_id", "time", "tie", "price", "volume", "side", "order_type", "misc")
INTERVALS = ("500ms", "1s", "90s", "7m", "1h", "4h", "1d", "10080")

Part = tuple[Range, "Sequence[oracle.Row]"]


# --- archives to ask -----------------------------------------------------------------------------


def batch(rows: Sequence[oracle.Row]) -> pa.RecordBatch:
    """Rows of a tape as the archive takes them."""
    return pa.RecordBatch.from_pylist(
        [dict(zip(NAMES, row, strict=True)) for row in rows], schema=columns.ROWS
    )


def hold(archive: Archive, parts: Sequence[Part], pair: str = PAIR) -> Archive:
    """Commit each part as a segment; overlapping ones stay, as after a crash in a compaction."""
    with writer(archive, pair) as one:
        for span, rows in parts:
            one.commit(span, batch(rows), Footer(range=span, pair="{}"))
    return archive


def cut(rows: Sequence[oracle.Row], bounds: Sequence[int]) -> list[Part]:
    """A tape in parts that touch, the first from `bounds[0]`, the last through `bounds[-1]`."""
    stamps = [row[1] for row in rows]
    return [
        (Range(a, b), rows[bisect_right(stamps, a) : bisect_right(stamps, b)])
        for a, b in zip(bounds, bounds[1:], strict=False)
    ]


def trade(after_s: float, price: str, volume: str = "1", side: str | None = "buy") -> oracle.Row:
    """A trade without an id, some seconds after START."""
    stamp = START + int(after_s * SECOND)
    return (None, stamp, 0, Decimal(price), Decimal(volume), side, "market", "")


def ask(interval: str = "1m", span: Range = EVERYTHING, **more: Any) -> Question:  # noqa: ANN401
    return Question(PAIR, parse_interval(interval), span, **more)


def answer(relation: duckdb.DuckDBPyRelation) -> list[oracle.Candle]:
    """Candles as the oracle writes them: times are nanoseconds."""
    table = relation.to_arrow_table()
    for place, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            table = table.set_column(place, field.name, table.column(place).cast(pa.int64()))
    return [dict(row) for row in table.to_pylist()]


def is_equal(made: Sequence[oracle.Candle], truth: Sequence[oracle.Candle], names: Any) -> bool:  # noqa: ANN401
    """All columns equal to the last digit; the vwap, a double, in twelve."""
    for one, true in zip(made, truth, strict=True):
        assert {n: one[n] for n in names if n != "vwap"} == {
            n: true[n] for n in names if n != "vwap"
        }
        if true["vwap"]:
            assert abs(one["vwap"] / float(true["vwap"]) - 1) < 1e-12
        else:
            assert one["vwap"] == true["vwap"]
    return True


# --- exact ---------------------------------------------------------------------------------------

MADE_TAPES = {
    "busy": expected(tapes.market(tapes.xbtusd_like(900))),
    "without ids": expected(tapes.old_style(900)),
    "zero ids": expected(tapes.market(tapes.zero_ids(900))),
    "look-alikes": expected(tapes.market(tapes.look_alikes(900))),
    "one stamp": expected(tapes.market(tapes.one_stamp(500))),
    "new years": expected(tapes.market(tapes.new_years())),
    "tiny coin": expected(tapes.tiny_coin(900)),
    "sparse": expected(tapes.market(tapes.sparse(300))),
}


@pytest.fixture(scope="module")
def made_archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Archive]:
    archives = {}
    for name, rows in MADE_TAPES.items():
        stamps = [row[1] for row in rows]
        bounds = sorted({0, *stamps[:: len(stamps) // 7], stamps[-1] + 1})
        archives[name] = hold(Archive(tmp_path_factory.mktemp("made")), cut(rows, bounds))
    return archives


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("name", MADE_TAPES)
def test_every_column_equals_the_oracles(
    made_archives: dict[str, Archive], name: str, interval: str
) -> None:
    made = answer(ohlc(made_archives[name], ask(interval, all_columns=True)))
    width = parse_interval(interval).width_ns
    assert width is not None
    assert is_equal(made, oracle.candles(MADE_TAPES[name], width), oracle.COLUMNS)


@given(
    tapes.tapes(min_size=1),
    st.lists(st.integers(0, 60), max_size=3),
    st.sampled_from(INTERVALS),
    st.integers(-(10**15), 10**15),
)
@settings(max_examples=100, deadline=None)
def test_any_tape_in_any_segments_on_any_grid_equals_the_oracles(
    market: Any,  # noqa: ANN401
    cuts: list[int],
    interval: str,
    offset: int,
) -> None:
    rows = expected(market)
    bounds = sorted({0, rows[-1][1] + 1, *(rows[i % len(rows)][1] for i in cuts)})
    with tempfile.TemporaryDirectory() as folder:
        archive = hold(Archive(folder), cut(rows, bounds))
        made = answer(ohlc(archive, ask(interval, all_columns=True, offset_ns=offset)))
    width = parse_interval(interval).width_ns
    assert width is not None
    assert is_equal(made, oracle.candles(rows, width, offset), oracle.COLUMNS)


def test_weeks_open_on_thursday(made_archives: dict[str, Archive]) -> None:
    week = 7 * 86_400 * SECOND
    made = answer(ohlc(made_archives["sparse"], ask("10080")))
    assert {one["time"] % week for one in made} == {0}


def test_every_run_on_one_or_two_threads_gives_the_same_bytes(
    made_archives: dict[str, Archive],
) -> None:
    question = ask("1s", fill="previous", all_columns=True)
    runs = {
        ohlc(made_archives["busy"], question, threads=threads).to_arrow_table().to_pydict().__str__()
        for threads in [1, 2] * 10
    }
    assert len(runs) == 1


def test_a_side_that_is_unknown_counts_on_neither_side(tmp_path: Path) -> None:
    rows = [trade(0, "5", "1", None), trade(1, "6", "2", "sell")]
    archive = hold(Archive(tmp_path), [(Range(0, START + MINUTE), rows)])
    made = answer(ohlc(archive, ask(all_columns=True)))
    assert is_equal(made, oracle.candles(rows, MINUTE), oracle.COLUMNS)


def test_a_candle_without_volume_has_no_vwap(tmp_path: Path) -> None:
    archive = hold(Archive(tmp_path), [(Range(0, START + MINUTE), [trade(0, "5", "0")])])
    assert [one["vwap"] for one in answer(ohlc(archive, ask()))] == [None]


# --- whichever files hold the tape ---------------------------------------------------------------


def overlapping(rows: Sequence[oracle.Row]) -> list[list[Part]]:
    """Ways in which segments overlap: a merger beside its parts, and one that reaches halfway."""
    a, b, c, d = (rows[i][1] for i in (100, 300, 500, 700))
    end = rows[-1][1]
    bounds = [0, a, b, c, d, end]
    merged = cut(rows, [a, d])
    return [cut(rows, bounds) + merged, cut(rows, [0, c]) + cut(rows, [a, d]) + cut(rows, [b, end])]


@pytest.mark.parametrize("way", [0, 1])
@pytest.mark.parametrize("name", ["busy", "without ids", "one stamp"])
def test_overlapping_segments_count_each_trade_once(tmp_path: Path, name: str, way: int) -> None:
    rows = MADE_TAPES[name]
    archive = hold(Archive(tmp_path), overlapping(rows)[way])
    made = answer(ohlc(archive, ask("90s", all_columns=True)))
    assert is_equal(made, oracle.candles(rows, 90 * SECOND), oracle.COLUMNS)


def test_a_folder_may_be_called_anything(tmp_path: Path) -> None:
    parts = [(Range(0, START + MINUTE), [trade(0, "5")])]
    hold(Archive(tmp_path / "a1"), parts)
    archive = hold(Archive(tmp_path / "a[1]*?' {x}"), parts)
    assert [one["count"] for one in answer(ohlc(archive, ask()))] == [1]


class Compacting(Archive):
    """An archive whose segments are merged right after it was listed for the first time."""

    def pieces(self, pair: str, span: Range = EVERYTHING) -> list[Piece]:
        found = super().pieces(pair, span)
        if len(self.segments(pair)) > 1:
            with writer(Archive(self.path), pair) as one:
                one.compact(every=True)
        return found


@pytest.mark.parametrize("fill", FILLS)
def test_a_compaction_in_between_is_answered_by_listing_again(tmp_path: Path, fill: Any) -> None:  # noqa: ANN401
    rows = MADE_TAPES["busy"]
    stamps = [row[1] for row in rows]
    hold(Archive(tmp_path), cut(rows, [0, stamps[400], stamps[800], stamps[-1]]))
    span = Range(stamps[850], EVERYTHING.through)
    made = list(candle_batches(Compacting(tmp_path), ask("90s", span, fill=fill)))
    assert sum(sum(one.column("count").to_pylist()) for one in made) == len(rows) - 851


class Vanishing(Archive):
    """An archive whose files go between every listing and the reading."""

    def pieces(self, pair: str, span: Range = EVERYTHING) -> list[Piece]:
        gone = [one.segment._replace(path=one.segment.path + "x") for one in super().pieces(pair)]
        return [Piece(one, one.range) for one in gone if span]


def test_files_that_keep_vanishing_end_in_an_error(tmp_path: Path) -> None:
    hold(Archive(tmp_path), [(Range(0, START), [])])
    with pytest.raises(ArchiveDamaged) as caught:
        next(candle_batches(Vanishing(tmp_path), ask()))
    assert str(caught.value) == (
        "files of XBTUSD keep vanishing while they are read: try again"
    )


def test_a_file_that_is_no_parquet_is_damage(tmp_path: Path) -> None:
    archive = hold(Archive(tmp_path), [(Range(0, START), [trade(-1, "5")])])
    location = archive.location(archive.segments(PAIR)[0])
    Path(location).write_bytes(b"no parquet file" * 9)
    with pytest.raises(ArchiveDamaged) as caught:
        ohlc(archive, ask())
    assert str(caught.value) == (
        "1m candles of XBTUSD can't be answered: Invalid Input Error: "
        f"No magic bytes found at end of file '{location}'"
    )


# --- spans, holes, fills -------------------------------------------------------------------------

STRETCH = 40
MOMENTS = st.integers(0, 4 * STRETCH)


@st.composite
def broken_tapes(draw: st.DrawFn) -> tuple[list[oracle.Row], list[Range]]:
    """Trades of some seconds, a quarter apart, and ranges that hold some of that time."""
    edges = sorted(draw(st.sets(MOMENTS, min_size=2, max_size=8)))
    covered = [
        Range(START + a * SECOND // 4, START + b * SECOND // 4)
        for a, b in zip(edges, edges[1:], strict=False)
        if draw(st.integers(0, 3))
    ]
    prices = st.sampled_from(("5", "6.1", "7.25"))
    rows = [
        trade(at / 4, draw(prices), draw(st.sampled_from(("1", "0.3"))))
        for at in sorted(draw(st.lists(MOMENTS, max_size=12)))
    ]
    return [row for row in rows if any(a < row[1] <= b for a, b in covered)], covered


def model(
    rows: list[oracle.Row], covered: list[Range], question: Question
) -> list[oracle.Candle]:
    """Fill interval by interval, from first principles."""
    width, (after, through) = question.interval.width_ns or 0, question.span
    made = {one["time"]: one for one in oracle.candles(
        [row for row in rows if after < row[1] <= through], width, question.offset_ns
    )}
    runs = union(covered)
    shown = []
    opens = oracle.floor_fixed(START, width, question.offset_ns) - width
    for time in range(opens, START + (STRETCH + 20) * SECOND, width):
        run = next((run for run in runs if run.after < time and time + width - 1 <= run.through), None)
        whole = run is not None and after < time and time + width - 1 <= through
        before = [row for row in rows if row[1] < time and run and row[1] > run.after]
        close = before[-1][3] if before else None
        filling = oracle.filled([], [time], "null")[0] | {"is_complete": True}
        if time in made:
            shown.append(made[time] | {"is_complete": whole})
        elif not whole or question.fill == "none":
            continue
        elif question.fill == "null" and any(row[1] < time for row in rows):
            shown.append(filling)
        elif question.fill != "null" and close is not None:
            vwap = 0 if question.fill == "kraken" else None
            shown.append(filling | dict.fromkeys(("open", "high", "low", "close"), close) | {"vwap": vwap})
    return shown


@given(
    broken_tapes(),
    st.sampled_from(FILLS),
    st.sampled_from(("500ms", "1s", "7s", "1m")),
    st.tuples(MOMENTS, MOMENTS),
    st.sampled_from((0, 0, 250_000_000, -3 * SECOND)),
)
@settings(max_examples=300, deadline=None)
def test_any_fill_over_any_holes_and_span_is_as_from_first_principles(
    held: tuple[list[oracle.Row], list[Range]],
    fill: Any,  # noqa: ANN401
    interval: str,
    edges: tuple[int, int],
    offset: int,
) -> None:
    rows, covered = held
    if not covered:
        return
    after, through = (START + edge * SECOND // 4 for edge in sorted(edges))
    question = ask(
        interval, Range(after, through + 1), fill=fill, all_columns=True, offset_ns=offset
    )
    with tempfile.TemporaryDirectory() as folder:
        parts = [(one, [row for row in rows if one.after < row[1] <= one.through]) for one in covered]
        made = answer(ohlc(hold(Archive(folder), parts), question))
    truth = model(rows, covered, question)
    names = [name for name in (*oracle.COLUMNS, "is_complete") if fill != "kraken" or name != "vwap"]
    assert is_equal([{**one, "vwap": one["vwap"]} for one in made], truth, names) if (
        "vwap" in names
    ) else [{n: one[n] for n in names} for one in made] == [
        {n: one[n] for n in names} for one in truth
    ]
