"""Candles against the oracle's, and what must hold beside their figures."""

from __future__ import annotations

import gc
import tempfile
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import candle_oracle
import pyarrow as pa
import pytest
import sample_trades
from candle_cases import (
    MADE_HISTORIES,
    MINUTE,
    PAIR,
    PLAIN,
    SECOND,
    START,
    Compacting,
    answer,
    ask,
    candle_batches,
    closes,
    cut,
    hold,
    is_equal,
    model,
    ohlc,
    overlapping,
    trade,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kraken_market import expected

from harvester.errors import ArchiveDamaged, BadSetting, NothingStored, ValueDoesNotFit
from harvester.query.plan import FILLS
from harvester.storage.trade_store import EVERYTHING, Piece, TradeStore
from harvester.times import Range, parse_interval

if TYPE_CHECKING:
    pass

INTERVALS = ("500ms", "1s", "90s", "7m", "1h", "4h", "1d", "10080")


# --- archives to ask -----------------------------------------------------------------------------


# --- exact ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made_archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TradeStore]:
    archives = {}
    for name, rows in MADE_HISTORIES.items():
        stamps = [row[1] for row in rows]
        bounds = sorted({0, *stamps[:: len(stamps) // 7], stamps[-1] + 1})
        archives[name] = hold(TradeStore(tmp_path_factory.mktemp("made")), cut(rows, bounds))
    return archives


@pytest.mark.parametrize(
    ("name", "interval"),
    # Each history with every second interval, and so each interval with half of the histories.
    [
        (name, interval)
        for at, name in enumerate(MADE_HISTORIES)
        for interval in INTERVALS[at % 2 :: 2]
    ],
)
def test_every_column_equals_the_oracles(
    made_archives: dict[str, TradeStore], name: str, interval: str
) -> None:
    made = answer(ohlc(made_archives[name], ask(interval, all_columns=True)))
    width = parse_interval(interval).width_ns
    assert width is not None
    assert is_equal(made, candle_oracle.candles(MADE_HISTORIES[name], width), candle_oracle.COLUMNS)


@given(
    sample_trades.markets(min_size=1),
    st.lists(st.integers(0, 60), max_size=3),
    st.sampled_from(INTERVALS),
    st.integers(-(10**15), 10**15),
)
@settings(max_examples=25, deadline=None)
def test_candles_of_any_trades_in_any_segments_on_any_grid_equal_the_oracles(
    market: Any,
    cuts: list[int],
    interval: str,
    offset: int,
) -> None:
    rows = expected(market)
    bounds = sorted({0, rows[-1][1] + 1, *(rows[i % len(rows)][1] for i in cuts)})
    with tempfile.TemporaryDirectory() as folder:
        archive = hold(TradeStore(folder), cut(rows, bounds))
        made = answer(ohlc(archive, ask(interval, all_columns=True, offset_ns=offset)))
    width = parse_interval(interval).width_ns
    assert width is not None
    assert is_equal(made, candle_oracle.candles(rows, width, offset), candle_oracle.COLUMNS)


def test_weeks_open_on_thursday(made_archives: dict[str, TradeStore]) -> None:
    week = 7 * 86_400 * SECOND
    made = answer(ohlc(made_archives["sparse"], ask("10080")))
    assert {candle["time"] % week for candle in made} == {0}


def test_every_run_on_one_or_two_threads_gives_the_same_bytes(
    made_archives: dict[str, TradeStore],
) -> None:
    question = ask("1s", fill="previous", all_columns=True)
    runs = {
        ohlc(made_archives["busy"], question, threads=threads)
        .to_arrow_table()
        .to_pydict()
        .__str__()
        for threads in [1, 2] * 5
    }
    assert len(runs) == 1


def test_a_side_that_is_unknown_counts_on_neither_side(tmp_path: Path) -> None:
    rows = [trade(0, "5", "1", None), trade(1, "6", "2", "sell")]
    archive = hold(TradeStore(tmp_path), [(Range(0, START + MINUTE), rows)])
    made = answer(ohlc(archive, ask(all_columns=True)))
    assert is_equal(made, candle_oracle.candles(rows, MINUTE), candle_oracle.COLUMNS)


def test_a_candle_without_volume_has_no_vwap(tmp_path: Path) -> None:
    archive = hold(TradeStore(tmp_path), [(Range(0, START + MINUTE), [trade(0, "5", "0")])])
    assert [candle["vwap"] for candle in answer(ohlc(archive, ask()))] == [None]


# --- any division into files ----------------------------------------------------------------------


@pytest.mark.parametrize("way", [0, 1])
@pytest.mark.parametrize("name", ["busy", "without ids", "one stamp"])
def test_overlapping_segments_count_each_trade_once(tmp_path: Path, name: str, way: int) -> None:
    rows = MADE_HISTORIES[name]
    archive = hold(TradeStore(tmp_path), overlapping(rows)[way])
    made = answer(ohlc(archive, ask("90s", all_columns=True)))
    assert is_equal(made, candle_oracle.candles(rows, 90 * SECOND), candle_oracle.COLUMNS)


@pytest.mark.parametrize("name", ["a[1]", "a*", "a?", "it's", "{a}", "a b"])
def test_a_folder_may_be_called_anything(tmp_path: Path, name: str) -> None:
    """Beside one whose name its own would match, were it taken for a pattern."""
    span = Range(0, START + MINUTE)
    hold(TradeStore(tmp_path / "a1"), [(span, [trade(0, "5"), trade(1, "5")])])
    archive = hold(TradeStore(tmp_path / name), [(span, [trade(0, "5")])])
    assert [candle["count"] for candle in answer(ohlc(archive, ask()))] == [1]


@pytest.mark.parametrize("fill", FILLS)
def test_a_compaction_in_between_is_answered_by_listing_again(tmp_path: Path, fill: Any) -> None:
    rows = MADE_HISTORIES["busy"]
    stamps = [row[1] for row in rows]
    hold(TradeStore(tmp_path), cut(rows, [0, stamps[400], stamps[800], stamps[-1]]))
    span = Range(stamps[850], EVERYTHING.through)
    made = list(candle_batches(Compacting(tmp_path), ask("90s", span, fill=fill)))
    counted = sum(sum(batch.column("count").to_pylist()) for batch in made)
    assert counted == len([stamp for stamp in stamps if stamp > span.after])


class Vanishing(TradeStore):
    """An archive whose files go between every listing and the reading."""

    def pieces(self, pair: str, span: Range = EVERYTHING) -> list[Piece]:
        gone = [
            piece.segment._replace(path=piece.segment.path + "x") for piece in super().pieces(pair)
        ]
        return [Piece(segment, segment.range) for segment in gone if span]


def test_files_that_keep_vanishing_end_in_an_error(tmp_path: Path) -> None:
    hold(TradeStore(tmp_path), [(Range(0, START), [])])
    with pytest.raises(ArchiveDamaged) as caught:
        next(candle_batches(Vanishing(tmp_path), ask()))
    assert str(caught.value) == ("files of XBTUSD keep vanishing while they are read: try again")


def test_a_file_that_is_no_parquet_is_damage(tmp_path: Path) -> None:
    archive = hold(TradeStore(tmp_path), [(Range(0, START), [trade(-1, "5")])])
    location = archive.location(archive.segments(PAIR)[0])
    Path(location).write_bytes(b"no parquet file" * 9)
    with pytest.raises(ArchiveDamaged) as caught:
        ohlc(archive, ask())
    assert str(caught.value) == (
        f"{location} can't be read: Parquet magic bytes not found in footer. Either the file "
        "is corrupted or this is not a parquet file."
    )


# --- spans, gaps, fills -------------------------------------------------------------------------

STRETCH = 40
MOMENTS = st.integers(0, 4 * STRETCH)


@st.composite
def broken_histories(draw: st.DrawFn) -> tuple[list[candle_oracle.Row], list[Range]]:
    """Trades of some seconds, a quarter apart, and ranges that hold some of that time."""
    edges = sorted(draw(st.sets(MOMENTS, min_size=2, max_size=8)))
    covered = [
        Range(START + a * SECOND // 4, START + b * SECOND // 4)
        for a, b in pairwise(edges)
        if draw(st.integers(0, 3))
    ] or [Range(START + edges[0] * SECOND // 4, START + edges[1] * SECOND // 4)]
    prices = st.sampled_from(("5", "6.1", "7.25"))
    rows = [
        trade(at / 4, draw(prices), draw(st.sampled_from(("1", "0.3"))))
        for at in sorted(draw(st.lists(MOMENTS, max_size=12)))
    ]
    return [row for row in rows if any(a < row[1] <= b for a, b in covered)], covered


@given(
    broken_histories(),
    st.sampled_from(FILLS),
    st.sampled_from(("500ms", "1s", "7s", "1m")),
    st.tuples(MOMENTS, MOMENTS),
    st.sampled_from((0, 0, 250_000_000, -3 * SECOND)),
)
@example(
    # Two runs begin within one second: which of them fills must not hang on the threads.
    (
        [trade(0.25, "5")],
        [Range(START, START + SECOND // 4), Range(START + SECOND // 2, START + 2 * SECOND)],
    ),
    "null",
    "1s",
    (0, 16),
    0,
)
@example(
    # Coverage ends right where the span begins: what follows lies behind a gap.
    (
        [trade(1, "5")],
        [
            Range(START + SECOND // 2, START + 20 * SECOND),
            Range(START + 20 * SECOND + SECOND // 4, START + 21 * SECOND),
        ],
    ),
    "previous",
    "500ms",
    (80, 84),
    0,
)
@settings(max_examples=40, deadline=None)
def test_any_fill_over_any_gaps_and_span_is_as_from_first_principles(
    held: tuple[list[candle_oracle.Row], list[Range]],
    fill: Any,
    interval: str,
    edges: tuple[int, int],
    offset: int,
) -> None:
    rows, covered = held
    after, through = (START + edge * SECOND // 4 for edge in sorted(edges))
    span = Range(after, through + 1)
    question = ask(interval, span, fill=fill, all_columns=True, offset_ns=offset)
    parts = [
        (part, [row for row in rows if part.after < row[1] <= part.through]) for part in covered
    ]
    with tempfile.TemporaryDirectory() as folder:
        made = answer(ohlc(hold(TradeStore(folder), parts), question))
    width = question.interval.width_ns
    assert width is not None
    times = range(START // width * width + offset - width, START + (STRETCH + 80) * SECOND, width)
    assert is_equal(
        made, model(rows, covered, question, times), (*candle_oracle.COLUMNS, "is_complete")
    )


@pytest.fixture
def with_gap(tmp_path: Path) -> TradeStore:
    """Ten seconds with a trade in the first and the fourth, a gap of ten, ten with one trade."""
    first = Range(START - 1, START + 10 * SECOND - 1)
    second = Range(START + 20 * SECOND - 1, START + 30 * SECOND - 1)
    early = [trade(0, "5"), trade(3, "7", "2")]
    return hold(TradeStore(tmp_path), [(first, early), (second, [trade(25, "9")])])


def test_nothing_is_carried_across_a_gap(with_gap: TradeStore) -> None:
    carried = dict.fromkeys(range(3), 5) | dict.fromkeys(range(3, 10), 7)
    assert closes(with_gap, fill="previous") == carried | dict.fromkeys(range(25, 30), 9)


def test_null_shows_what_is_covered_and_empty_even_after_a_gap(with_gap: TradeStore) -> None:
    shown = {**dict.fromkeys((*range(10), *range(20, 30))), 0: 5, 3: 7, 25: 9}
    assert closes(with_gap, fill="null") == shown


def test_the_close_before_the_span_is_carried_in(with_gap: TradeStore) -> None:
    span = Range(START + 5 * SECOND - 1, START + 8 * SECOND - 1)
    assert closes(with_gap, span=span, fill="previous") == dict.fromkeys((5, 6, 7), 7)


def test_null_filling_begins_at_the_requested_start(with_gap: TradeStore) -> None:
    span = Range(START + 5 * SECOND - 1, START + 8 * SECOND - 1)
    assert closes(with_gap, span=span, fill="null") == dict.fromkeys((5, 6, 7))


def test_a_span_without_coverage_has_no_candles(with_gap: TradeStore) -> None:
    assert closes(with_gap, span=Range(0, START - SECOND), fill="null") == {}


def test_a_trade_in_a_cut_interval_is_carried_on_instead_of_one_before(
    with_gap: TradeStore,
) -> None:
    question = ask("4s", Range(START, START + 10 * SECOND - 1), fill="previous")
    assert [candle["close"] for candle in answer(ohlc(with_gap, question))] == [7, 7]


def test_null_filling_continues_within_the_coverage_after_a_gap_inside_an_interval(
    tmp_path: Path,
) -> None:
    before, after = Range(START - 1, START + SECOND), Range(START + 2 * SECOND, START + 15 * SECOND)
    archive = hold(TradeStore(tmp_path), [(before, [trade(0.5, "5")]), (after, [])])
    found = answer(ohlc(archive, ask("5s", fill="null", all_columns=True)))
    assert [(candle["close"], candle["is_complete"]) for candle in found] == [
        (5, False),
        (None, True),
        (None, True),
    ]


def test_a_trade_at_the_very_end_of_its_coverage_is_not_carried_beyond(tmp_path: Path) -> None:
    first, second = Range(START - 1, START), Range(START + 1, START + 15 * SECOND)
    archive = hold(TradeStore(tmp_path), [(first, [trade(0, "5")]), (second, [])])
    assert closes(archive, fill="previous") == {0: 5}


def test_before_the_first_coverage_from_0_there_was_nothing(tmp_path: Path) -> None:
    rows = [(None, 30 * SECOND, 0, Decimal(5), Decimal(1), "buy", "market", "")]
    archive = hold(TradeStore(tmp_path), [(Range(0, 60 * SECOND - 1), rows)])
    assert [candle["is_complete"] for candle in answer(ohlc(archive, ask(all_columns=True)))] == [
        True
    ]


def test_the_running_interval_is_not_complete(tmp_path: Path) -> None:
    rows = [trade(0, "5"), trade(61, "6")]
    archive = hold(TradeStore(tmp_path), [(Range(0, START + 90 * SECOND), rows)])
    made = answer(ohlc(archive, ask(all_columns=True)))
    assert [candle["is_complete"] for candle in made] == [True, False]


def test_a_candle_that_the_span_cuts_counts_its_part_and_is_not_complete(
    with_gap: TradeStore,
) -> None:
    made = answer(ohlc(with_gap, ask("5s", Range(START, START + 9 * SECOND), all_columns=True)))
    assert [(candle["open"], candle["is_complete"]) for candle in made] == [(7, False)]


# --- Kraken's form -------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.integers(1, 10**9), st.lists(st.integers(1, 10**14), min_size=1, max_size=5)),
        min_size=5,
        max_size=9,
    )
)
@settings(max_examples=8, deadline=None)
def test_the_cut_vwap_of_trades_of_one_price_is_that_price(
    minutes: list[tuple[int, list[int]]],
) -> None:
    """A price and volumes for each minute of an archive, as a candle costs little beside one."""
    prices = [Decimal(hundredths).scaleb(-2) for hundredths, _ in minutes]
    rows = [
        trade(60 * minute + at, str(price), str(Decimal(lot).scaleb(-8)))
        for minute, (price, (_, lots)) in enumerate(zip(prices, minutes, strict=True))
        for at, lot in enumerate(lots)
    ]
    with tempfile.TemporaryDirectory() as folder:
        archive = hold(TradeStore(folder), [(Range(0, START + len(minutes) * MINUTE), rows)])
        made = answer(ohlc(archive, ask(fill="kraken", pair_decimals=2)))
    assert [candle["vwap"] for candle in made] == prices


@pytest.mark.parametrize("decimals", [0, 1, 5, 10])
def test_the_vwap_is_cut_off_after_the_pairs_decimals(
    made_archives: dict[str, TradeStore], decimals: int
) -> None:
    question = ask("7m", fill="kraken", pair_decimals=decimals)
    made = answer(ohlc(made_archives["tiny coin"], question))
    truth = candle_oracle.candles(MADE_HISTORIES["tiny coin"], 7 * MINUTE)
    cut_off = {
        candle["time"]: candle_oracle.truncated(candle["vwap"], decimals) for candle in truth
    }
    assert {candle["time"]: candle["vwap"] for candle in made if candle["count"]} == cut_off


@pytest.mark.parametrize(("price", "decimals"), [("5.1", 1), ("5.12", 10)])
def test_prices_have_the_pairs_decimals_unless_a_digit_were_lost(
    tmp_path: Path, price: str, decimals: int
) -> None:
    archive = hold(TradeStore(tmp_path), [(Range(0, START + MINUTE), [trade(0, price)])])
    table = ohlc(archive, ask(fill="kraken", pair_decimals=1)).to_arrow_table()
    assert {table.schema.field(name).type.scale for name in PLAIN[1:5]} == {decimals}


# --- how it is handed over -----------------------------------------------------------------------


@pytest.mark.parametrize("fill", FILLS)
def test_the_columns_and_their_types_are_those_of_the_documentation(
    made_archives: dict[str, TradeStore],
    fill: Any,
) -> None:
    volume, value, price = "decimal128(38, 8)", "decimal128(38, 18)", "decimal128(18, 10)"
    schema = ohlc(made_archives["busy"], ask(fill=fill, all_columns=True)).to_arrow_table().schema
    types = ["timestamp[ns]", *[price] * 4, price if fill == "kraken" else "double"]
    types += [volume, "int64", value, volume, volume, value, value, *["int64"] * 4]
    types += ["timestamp[ns]", "timestamp[ns]", "bool"]
    assert schema.names == [*candle_oracle.COLUMNS, "is_complete"]
    assert [str(type_) for type_ in schema.types] == types


def test_a_relation_outlives_all_that_made_it(made_archives: dict[str, TradeStore]) -> None:
    relation = ohlc(made_archives["busy"], ask())
    gc.collect()
    assert relation.to_arrow_table() == relation.to_arrow_table()


def test_what_is_built_upon_a_relation_keeps_its_order(
    made_archives: dict[str, TradeStore],
) -> None:
    relation = ohlc(made_archives["busy"], ask("1s"))
    assert answer(relation.limit(9)) == answer(relation)[:9]


def test_batches_are_the_relation_in_pieces(made_archives: dict[str, TradeStore]) -> None:
    relation = ohlc(made_archives["busy"], ask("1s"))
    batches = list(candle_batches(made_archives["busy"], ask("1s"), batch_rows=50))
    assert pa.Table.from_batches(batches) == relation.to_arrow_table()


def test_an_answer_without_candles_still_has_its_columns(with_gap: TradeStore) -> None:
    batches = list(candle_batches(with_gap, ask(span=Range(0, 1))))
    assert [(batch.num_rows, tuple(batch.schema.names)) for batch in batches] == [(0, PLAIN)]


def test_a_question_larger_than_its_memory_spills_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, spill = tmp_path / "here", tmp_path / "spill"
    here.mkdir()
    spill.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(tempfile, "tempdir", str(spill))
    span = Range(0, START + 400_000 * SECOND)
    archive = hold(TradeStore(tmp_path / "data"), [(span, [trade(0, "5")])])
    question = ask("100ms", fill="previous")
    rows = sum(
        candle_batch.num_rows
        for candle_batch in candle_batches(archive, question, memory_limit="200MB")
    )
    gc.collect()
    assert (rows, list(here.iterdir()), list(spill.iterdir())) == (4_000_000, [], [])


# --- refusals ------------------------------------------------------------------------------------


def test_a_pair_that_is_not_held_is_refused(tmp_path: Path) -> None:
    archive = hold(TradeStore(tmp_path), [(Range(0, START), [])], "XBTEUR")
    with pytest.raises(NothingStored) as caught:
        ohlc(archive, ask())
    assert str(caught.value) == f"the archive at {tmp_path} holds no trades of XBTUSD"


HUGE = [trade(at, "9000000", "9000000000000") for at in range(2)]


def test_a_sum_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    archive = hold(TradeStore(tmp_path), [(Range(0, START + MINUTE), HUGE)])
    with pytest.raises(ValueDoesNotFit) as caught:
        list(candle_batches(archive, ask()))
    assert str(caught.value) == (
        "1m candles of XBTUSD: a sum of price x volume reaches 10^20, more than fits 38 exact "
        "digits: choose a shorter interval or range (Out of Range Error: Overflow in SUM of "
        "DECIMAL: the result does not fit in DECIMAL(38))"
    )


def test_a_sum_that_just_fits_is_exact(tmp_path: Path) -> None:
    archive = hold(TradeStore(tmp_path), [(Range(0, START + MINUTE), HUGE)])
    made = answer(ohlc(archive, ask("1s", all_columns=True, fill="kraken")))
    assert {(candle["value"], candle["vwap"]) for candle in made if candle["count"]} == {
        (Decimal(81) * 10**18, Decimal(9_000_000))
    }


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"fill": "last"}, "fill is 'last': give one of none, previous, null, kraken"),
        (
            {"pair_decimals": 11},
            "pair_decimals is 11: give 0 to 10, the decimals that the archive keeps",
        ),
    ],
)
def test_a_question_that_can_not_be_answered_is_refused(more: Any, message: str) -> None:
    with pytest.raises(BadSetting) as caught:
        ask(**more)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("more", "given", "why"),
    [
        (
            {"memory_limit": "much"},
            "memory_limit 'much', threads None",
            "Parser Error: Memory must have a number (e.g. 1GB)",
        ),
        (
            {"threads": 0},
            "memory_limit '2GB', threads 0",
            "Syntax Error: Must have at least 1 thread!",
        ),
    ],
)
def test_limits_that_duckdb_does_not_take_are_refused(
    made_archives: dict[str, TradeStore],
    more: Any,
    given: str,
    why: str,
) -> None:
    with pytest.raises(BadSetting) as caught:
        ohlc(made_archives["busy"], ask(), **more)
    assert str(caught.value) == f"{given}: DuckDB refuses them: {why}"
