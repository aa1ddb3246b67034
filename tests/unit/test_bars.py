"""Bars that are not of time, against counting trade by trade with plain decimals."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import candle_oracle
import pyarrow as pa
import pytest
import sample_trades
from candle_cases import SECOND, START, Compacting, cut, trade
from hypothesis import given, settings
from hypothesis import strategies as st
from kraken_market import expected

from harvester import schema
from harvester.errors import ArchiveDamaged, BadSetting, NothingStored, ValueDoesNotFit
from harvester.query.bars import (
    MAX_WAITING_BATCHES,
    MEASURES,
    BarQuery,
    Measure,
    bar_batches,
    parse_size,
)
from harvester.storage import parquet_files
from harvester.storage.segment import Footer
from harvester.storage.trade_store import EVERYTHING, TradeStore
from harvester.storage.writer import open_writer
from harvester.times import Range, union

PAIR = "XBTUSD"
NAMES = ("trade_id", "time", "tie", "price", "volume", "side", "order_type", "misc")
PLAIN = (*candle_oracle.COLUMNS[:8], "last_time", "is_complete")
ALL = (*candle_oracle.COLUMNS, "is_complete")

Rows = Sequence[candle_oracle.Row]


# --- what must come out --------------------------------------------------------------------------


def amount(row: candle_oracle.Row, by: Measure) -> Decimal:
    if by == "trades":
        return Decimal(1)
    return row[4] if by == "volume" else candle_oracle.EXACT.multiply(row[3], row[4])


def counted(rows: Rows, by: Measure, size: Decimal) -> Iterator[candle_oracle.Candle]:
    """Bars of one stretch without a gap: count until the size is reached, and begin at zero."""
    bar: list[candle_oracle.Row] = []
    total = Decimal(0)
    for row in rows:
        bar.append(row)
        total = candle_oracle.EXACT.add(total, amount(row, by))
        if total >= size:
            yield candle_oracle.candle(bar[0][1], bar) | {"is_complete": True}
            bar, total = [], Decimal(0)
    if bar:
        yield candle_oracle.candle(bar[0][1], bar) | {"is_complete": False}


def counted_between_gaps(
    rows: Rows, covered: Sequence[Range], by: Measure, size: Decimal
) -> list[candle_oracle.Candle]:
    """Bars of several stretches, each counted for itself."""
    return [
        bar
        for run in union(covered)
        for bar in counted([row for row in rows if run.after < row[1] <= run.through], by, size)
    ]


# --- archives to ask -----------------------------------------------------------------------------


def hold(folder: str | Path, parts: Sequence[tuple[Range, Rows]]) -> TradeStore:
    """An archive of these segments."""
    archive = TradeStore(folder)
    with open_writer(archive, PAIR) as pair_writer:
        for span, rows in parts:
            made = [dict(zip(NAMES, row, strict=True)) for row in rows]
            batch = pa.RecordBatch.from_pylist(made, schema=schema.PAGE_SCHEMA)
            pair_writer.commit(span, batch, Footer(range=span, pair_json="{}"))
    return archive


def in_quarters(folder: Path, rows: Rows) -> TradeStore:
    """An archive of rows in segments that touch, most of them with a quarter of the rows."""
    stamps = [row[1] for row in rows]
    bounds = sorted({0, *stamps[:: len(stamps) // 4], stamps[-1] + 1})
    return hold(folder, cut(rows, bounds))


def ask(by: Measure, size: str, **more: Any) -> BarQuery:
    return BarQuery(PAIR, parse_size(by, size), **{"all_columns": True, **more})


@contextmanager
def batches_of(rows: int) -> Iterator[None]:
    """Segments are read in batches of so many trades."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet_files, "READ_ROWS", rows)
        yield


def answer(archive: TradeStore, question: BarQuery) -> list[candle_oracle.Candle]:
    """Bars as the oracle writes them: times are nanoseconds."""
    table = pa.Table.from_batches(bar_batches(archive, question))
    for place, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            table = table.set_column(place, field.name, table.column(place).cast(pa.int64()))
    return [dict(row) for row in table.to_pylist()]


def assert_equal(
    made: Sequence[candle_oracle.Candle], truth: Sequence[candle_oracle.Candle]
) -> None:
    """All columns equal to the last digit; the vwap, a double, in fifteen."""
    for bar, true in zip(made, truth, strict=True):
        assert {n: bar[n] for n in ALL if n != "vwap"} == {n: true[n] for n in ALL if n != "vwap"}
        if true["vwap"]:
            assert abs(float(bar["vwap"]) / float(true["vwap"]) - 1) < 1e-15
        else:
            assert bar["vwap"] == true["vwap"]


MADE_HISTORIES = {
    "busy": expected(sample_trades.market(sample_trades.xbtusd_like(700))),
    "without ids": expected(sample_trades.old_style(700)),
    "zero ids": expected(sample_trades.market(sample_trades.zero_ids(700))),
    "one stamp": expected(sample_trades.market(sample_trades.one_stamp(300, before=50, after=50))),
    "tiny coin": expected(sample_trades.tiny_coin(700)),
    "sparse": expected(sample_trades.market(sample_trades.sparse(200))),
    "sparse without ids": expected(
        sample_trades.market(sample_trades.ids_unknown(sample_trades.sparse(200)))
    ),
}
SHORT_HISTORIES = {name: MADE_HISTORIES[name][:120] for name in ("zero ids", "tiny coin")}
"""A tenth of their trades is more than a few steps have."""
SHARES = ("a trade", "a tenth", "a half", "all", "more")


def size_of(rows: Rows, by: Measure, share: str) -> str:
    """A size that ends a bar with each trade, or with a share of the total amount."""
    total = sum((amount(row, by) for row in rows), Decimal(0))
    least = {"trades": Decimal(1), "volume": Decimal("1e-8"), "value": Decimal("1e-18")}[by]
    shares = {"a tenth": 10, "a half": 2, "all": 1}
    size = least if share == "a trade" else (total / shares.get(share, 1)).quantize(least)
    return format(size + least if share == "more" else size, "f")


@pytest.fixture(scope="module")
def made_archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TradeStore]:
    return {
        name: in_quarters(tmp_path_factory.mktemp("made"), rows)
        for name, rows in MADE_HISTORIES.items()
    }


@pytest.fixture(scope="module")
def short_archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TradeStore]:
    return {
        name: in_quarters(tmp_path_factory.mktemp("short"), rows)
        for name, rows in SHORT_HISTORIES.items()
    }


# --- exact ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "share", "by"),
    # Each history with each share of its total amount, and so each of both with each kind of bar.
    [
        (name, share, MEASURES[(at + place) % len(MEASURES)])
        for at, name in enumerate(MADE_HISTORIES)
        for place, share in enumerate(SHARES)
    ],
)
def test_every_column_equals_the_oracles(
    made_archives: dict[str, TradeStore], name: str, by: Measure, share: str
) -> None:
    size = size_of(MADE_HISTORIES[name], by, share)
    made = answer(made_archives[name], ask(by, size))
    assert_equal(made, list(counted(MADE_HISTORIES[name], by, Decimal(size))))


@pytest.mark.parametrize(
    ("name", "by", "read_rows"),
    [
        (("zero ids", "tiny coin")[(read_rows + at) % 2], by, read_rows)
        for at, by in enumerate(MEASURES)
        for read_rows in (1, 2, 3, 7)
    ],
)
def test_how_many_trades_are_counted_at_a_time_makes_no_difference(
    short_archives: dict[str, TradeStore], name: str, by: Measure, read_rows: int
) -> None:
    rows = SHORT_HISTORIES[name]
    size = size_of(rows, by, "a tenth")
    with batches_of(read_rows):
        made = answer(short_archives[name], ask(by, size))
    assert_equal(made, list(counted(rows, by, Decimal(size))))


SIZES: dict[Measure, st.SearchStrategy[str]] = {
    "trades": st.integers(1, 70).map(str),
    "volume": st.sampled_from(("0.00000001", "0.0001", "3.12345679", "6.2", "100000000000")),
    "value": st.sampled_from(
        ("0.000000000000000001", "4.1", "4145.01", "2469135.80203", "1000000")
    ),
}


@given(
    sample_trades.markets(min_size=1),
    st.lists(st.integers(0, 60), max_size=3),
    st.integers(1, 9),
    st.fixed_dictionaries(SIZES),
)
@settings(max_examples=30, deadline=None)
def test_bars_of_any_trades_in_any_segments_and_steps_equal_the_oracles(
    market: Any, cuts: list[int], read_rows: int, sizes: dict[Measure, str]
) -> None:
    rows = expected(market)
    bounds = sorted({0, rows[-1][1] + 1, *(rows[i % len(rows)][1] for i in cuts)})
    with tempfile.TemporaryDirectory() as folder:
        archive = hold(folder, cut(rows, bounds))
        for by, size in sizes.items():
            with batches_of(read_rows):
                made = answer(archive, ask(by, size))
            assert_equal(made, list(counted(rows, by, Decimal(size))))
            assert sum(bar["volume"] for bar in made) == candle_oracle.total_volume(rows)


def test_a_trade_larger_than_several_bars_is_one_bar(tmp_path: Path) -> None:
    rows = [trade(0, volume="0.5"), trade(1, volume="47"), trade(2, volume="10")]
    made = answer(hold(tmp_path, [(Range(0, START + 9 * SECOND), rows)]), ask("volume", "10"))
    assert [(bar["volume"], bar["is_complete"]) for bar in made] == [
        (Decimal("47.5"), True),
        (10, True),
    ]


@pytest.mark.parametrize(("trades", "is_complete"), [(3, False), (4, True)])
@pytest.mark.parametrize(("by", "size"), [("trades", "2"), ("volume", "2"), ("value", "10")])
def test_only_a_full_last_bar_is_complete(
    tmp_path: Path, by: Measure, size: str, trades: int, *, is_complete: bool
) -> None:
    rows = [trade(at) for at in range(trades)]
    made = answer(hold(tmp_path, [(Range(0, START + 9 * SECOND), rows)]), ask(by, size))
    assert [bar["is_complete"] for bar in made] == [True, is_complete]


def test_a_bar_without_volume_has_no_vwap(tmp_path: Path) -> None:
    archive = hold(tmp_path, [(Range(0, START), [trade(-1, volume="0")])])
    assert [bar["vwap"] for bar in answer(archive, ask("trades", "1"))] == [None]


@pytest.mark.parametrize("sides", [["sell"], ["buy"], ["sell", "buy"], []])
def test_a_side_that_is_unknown_counts_on_neither_side(tmp_path: Path, sides: list[str]) -> None:
    rows = [trade(at, side=side) for at, side in enumerate([None, *sides, None])]
    made = answer(hold(tmp_path, [(Range(0, START + 9 * SECOND), rows)]), ask("trades", "2"))
    assert_equal(made, list(counted(rows, "trades", Decimal(2))))


# --- spans, anchors, gaps -----------------------------------------------------------------------


@pytest.mark.parametrize("by", MEASURES)
def test_a_requested_range_shows_the_same_bars_as_the_whole_history(
    made_archives: dict[str, TradeStore], by: Measure
) -> None:
    rows = MADE_HISTORIES["one stamp"]
    size = size_of(rows, by, "a tenth")
    bars = answer(made_archives["one stamp"], ask(by, size))
    begins = [bar["time"] for bar in bars]
    behind = rows[-1][1] + 1
    for since, until in (
        (0, begins[-2]),
        (begins[3], begins[-2] + 1),
        (begins[3] + 1, behind),
        (behind, behind + 1),
    ):
        question = ask(by, size, range=Range(max(0, since - 1), until - 1))
        shown = [bar for bar in bars if since <= bar["time"] < until]
        with batches_of(7):
            assert answer(made_archives["one stamp"], question) == shown


def test_counting_begins_with_the_first_trade_at_or_after_the_anchor(
    made_archives: dict[str, TradeStore],
) -> None:
    rows = MADE_HISTORIES["busy"]
    for anchor_ns in (rows[0][1], rows[100][1] + 1, rows[333][1]):
        made = answer(made_archives["busy"], ask("volume", "0.5", anchor_ns=anchor_ns))
        later = [row for row in rows if row[1] >= anchor_ns]
        assert_equal(made, list(counted(later, "volume", Decimal("0.5"))))


def test_an_anchor_behind_the_last_trade_leaves_no_bar(
    made_archives: dict[str, TradeStore],
) -> None:
    anchor_ns = MADE_HISTORIES["busy"][-1][1] + 1
    assert answer(made_archives["busy"], ask("trades", "5", anchor_ns=anchor_ns)) == []


WITH_GAP_RANGES = [
    Range(START - 1, START + 10 * SECOND),
    Range(START + 20 * SECOND, START + 30 * SECOND),
]


@pytest.fixture
def with_gap(tmp_path: Path) -> TradeStore:
    """Five trades, a gap of ten seconds, five trades."""
    return hold(tmp_path, [(WITH_GAP_RANGES[0], FIVE), (WITH_GAP_RANGES[1], FIVE_MORE)])


FIVE = [trade(at) for at in range(5)]
FIVE_MORE = [trade(at) for at in range(21, 26)]


@pytest.mark.parametrize("by", MEASURES)
def test_a_gap_ends_the_running_bar_and_counting_starts_again(
    with_gap: TradeStore, by: Measure
) -> None:
    size = {"trades": "3", "volume": "2.5", "value": "15"}[by]
    made = answer(with_gap, ask(by, size))
    assert [(bar["count"], bar["is_complete"]) for bar in made] == [
        (3, True),
        (2, False),
    ] * 2
    assert_equal(
        made, counted_between_gaps([*FIVE, *FIVE_MORE], WITH_GAP_RANGES, by, Decimal(size))
    )


@pytest.mark.parametrize("second", [2, 4, 15, 22])
def test_a_span_beside_a_gap_shows_the_same_bars(with_gap: TradeStore, second: int) -> None:
    begin = START + second * SECOND
    made = answer(with_gap, ask("trades", "3", range=Range(begin - 1, EVERYTHING.through)))
    bars = counted_between_gaps([*FIVE, *FIVE_MORE], WITH_GAP_RANGES, "trades", Decimal(3))
    assert_equal(made, [bar for bar in bars if bar["time"] >= begin])


def test_an_anchor_in_a_gap_begins_behind_it(with_gap: TradeStore) -> None:
    made = answer(with_gap, ask("trades", "3", anchor_ns=START + 15 * SECOND))
    assert_equal(made, list(counted(FIVE_MORE, "trades", Decimal(3))))


def test_a_bar_continues_over_covered_time_without_trades(tmp_path: Path) -> None:
    between = Range(WITH_GAP_RANGES[0].through, WITH_GAP_RANGES[1].after)
    archive = hold(
        tmp_path, [(WITH_GAP_RANGES[0], FIVE), (between, []), (WITH_GAP_RANGES[1], FIVE_MORE)]
    )
    made = answer(archive, ask("trades", "7"))
    assert_equal(made, list(counted([*FIVE, *FIVE_MORE], "trades", Decimal(7))))


# --- whoever writes meanwhile --------------------------------------------------------------------


@pytest.mark.parametrize("by", MEASURES)
def test_a_compaction_in_between_changes_no_bar(tmp_path: Path, by: Measure) -> None:
    rows = MADE_HISTORIES["without ids"]
    stamps = [row[1] for row in rows]
    hold(tmp_path, cut(rows, [0, stamps[200], stamps[400], stamps[-1]]))
    size = size_of(rows, by, "a tenth")
    made = answer(Compacting(tmp_path), ask(by, size))
    assert_equal(made, list(counted(rows, by, Decimal(size))))


class Counting(TradeStore):
    """An archive that counts the batches that were taken from it."""

    taken = 0

    def scan(self, pair: str, span: Range = EVERYTHING) -> Iterator[pa.RecordBatch]:
        for batch in super().scan(pair, span):
            self.taken += 1
            yield batch


def test_the_first_bars_come_before_all_segments_are_read(
    made_archives: dict[str, TradeStore],
) -> None:
    archive = Counting(made_archives["busy"].path)
    first = next(bar_batches(archive, ask("trades", "10"), batch_rows=2))
    assert first.num_rows > 0
    assert (archive.taken, len(archive.segments(PAIR))) == (2, 5)


def test_nothing_is_read_behind_the_last_bar_of_the_span(
    made_archives: dict[str, TradeStore],
) -> None:
    archive = Counting(made_archives["busy"].path)
    begin = MADE_HISTORIES["busy"][20][1]
    assert len(answer(archive, ask("trades", "10", range=Range(0, begin)))) == 3
    assert (archive.taken, len(archive.segments(PAIR))) == (2, 5)


def test_nothing_is_read_before_the_gap_before_the_span(with_gap: TradeStore) -> None:
    archive = Counting(with_gap.path)
    answer(archive, ask("trades", "3", range=Range(WITH_GAP_RANGES[1].after, EVERYTHING.through)))
    assert archive.taken == 1


# --- how it is handed over -----------------------------------------------------------------------


@pytest.mark.parametrize("question", [ask("trades", "9"), ask("trades", "9", range=Range(0, 1))])
def test_the_columns_and_their_types_are_those_of_the_documentation(
    made_archives: dict[str, TradeStore], question: BarQuery
) -> None:
    volume, value, price = "decimal128(38, 8)", "decimal128(38, 18)", "decimal128(18, 10)"
    types = ["timestamp[ns]", *[price] * 4, "double", volume, "int64"]
    types += [value, volume, volume, value, value, *["int64"] * 4]
    types += ["timestamp[ns]", "timestamp[ns]", "bool"]
    schema = next(bar_batches(made_archives["busy"], question)).schema
    assert [*zip(schema.names, map(str, schema.types), strict=True)] == [
        *zip(ALL, types, strict=True)
    ]


def test_the_plain_columns_are_a_candles_and_what_a_bar_needs_besides(
    made_archives: dict[str, TradeStore],
) -> None:
    plain = answer(made_archives["busy"], ask("volume", "3", all_columns=False))
    full = answer(made_archives["busy"], ask("volume", "3"))
    assert plain == [{name: bar[name] for name in PLAIN} for bar in full]
    assert tuple(plain[0]) == PLAIN


def test_batches_have_about_the_requested_number_of_rows(
    made_archives: dict[str, TradeStore],
) -> None:
    with batches_of(30):
        batches = list(bar_batches(made_archives["busy"], ask("trades", "1"), batch_rows=50))
    assert {batch.num_rows for batch in batches} <= set(range(25, 80))


def test_few_bars_of_many_trades_do_not_pile_up(made_archives: dict[str, TradeStore]) -> None:
    with batches_of(4):
        batches = list(bar_batches(made_archives["busy"], ask("trades", "2")))
    assert max(batch.num_rows for batch in batches) <= 2 * MAX_WAITING_BATCHES


# --- refusals ------------------------------------------------------------------------------------


def test_a_pair_that_is_not_held_is_refused(with_gap: TradeStore) -> None:
    with pytest.raises(NothingStored) as caught:
        next(bar_batches(with_gap, BarQuery("ETHUSD", parse_size("trades", "5"))))
    assert str(caught.value) == f"the archive at {with_gap.path} holds no trades of ETHUSD"


HUGE = [trade(at, "9000000", "9000000000000") for at in range(2)]


@pytest.mark.parametrize("read_rows", [1, 2])
def test_a_sum_that_does_not_fit_is_refused(tmp_path: Path, read_rows: int) -> None:
    archive = hold(tmp_path, [(Range(0, START + 9 * SECOND), HUGE)])
    with batches_of(read_rows), pytest.raises(ValueDoesNotFit) as caught:
        answer(archive, ask("trades", "2", all_columns=False))
    assert str(caught.value) == (
        "XBTUSD in bars of trades 2: the sum of price x volume from 2020-09-13T12:27:00Z on "
        "reaches 10^20, more than fits 38 exact digits"
    )


def test_a_sum_that_just_fits_is_exact(tmp_path: Path) -> None:
    archive = hold(tmp_path, [(Range(0, START + 9 * SECOND), HUGE)])
    made = answer(archive, ask("value", "81000000000000000000"))
    assert [(bar["value"], bar["vwap"]) for bar in made] == [(Decimal(81) * 10**18, 9_000_000)] * 2


def test_dust_behind_a_whale_is_counted_to_its_last_unit(tmp_path: Path) -> None:
    """The sums are alike in their first eighteen digits."""
    whale, dust = "90000000000000", "0.00000001"
    rows = [trade(i, "1", volume) for i, volume in enumerate((whale, dust, dust, whale, dust))]
    archive = hold(tmp_path, [(Range(0, START + 9 * SECOND), rows)])
    for by in ("volume", "value"):
        made = answer(archive, ask(by, "90000000000000.00000002"))
        assert [(bar["count"], bar["is_complete"]) for bar in made] == [
            (3, True),
            (2, False),
        ]


def test_what_is_below_0_can_not_be_counted(tmp_path: Path) -> None:
    rows = [trade(0), trade(1, volume="-1")]
    archive = hold(tmp_path, [(Range(0, START + 9 * SECOND), rows)])
    with pytest.raises(ArchiveDamaged) as caught:
        answer(archive, ask("volume", "2"))
    assert str(caught.value) == (
        "XBTUSD in bars of volume 2: a price or a volume below 0 was published between "
        "2020-09-13T12:27:00Z and 2020-09-13T12:27:01Z: nothing can be counted"
    )


@pytest.mark.parametrize(
    ("by", "text", "message"),
    [
        ("trades", "0", "trades '0' would never end a bar: give more than 0"),
        ("value", "0.0", "value '0.0' would never end a bar: give more than 0"),
        (
            "trades",
            "many",
            "trades 'many' is no number: give one such as 1000 or 1e6",
        ),
        ("trades", "1.5", "trades '1.5': no trade is ever split: give a whole number"),
        ("volume", "abc", "volume 'abc' is no number: give one such as 10, 0.5 or 1e6"),
        ("volume", "-1", "volume '-1' is no number: give one such as 10, 0.5 or 1e6"),
        ("volume", "1e", "volume '1e' is no number: give one such as 10, 0.5 or 1e6"),
        ("volume", "e3", "volume 'e3' is no number: give one such as 10, 0.5 or 1e6"),
        ("volume", "1e999", "volume '1e999' is no number: give one such as 10, 0.5 or 1e6"),
        ("volume", "1e-9", "volume '1e-9': a volume has 8 decimals at most"),
        ("trades", "1e-1", "trades '1e-1': no trade is ever split: give a whole number"),
        ("value", ".", "value '.' is no number: give one such as 10, 0.5 or 1e6"),
        ("value", "", "value '' is no number: give one such as 10, 0.5 or 1e6"),
        ("value", "٣", "value '٣' is no number: give one such as 10, 0.5 or 1e6"),
        ("volume", "0.123456789", "volume '0.123456789': a volume has 8 decimals at most"),
        (
            "value",
            "0.0000000000000000001",
            "value '0.0000000000000000001': a value has 18 decimals at most",
        ),
        (
            "trades",
            "1" + "0" * 18,
            "trades '1000000000000000000' is more than any bar can reach: give less than 10^18",
        ),
        (
            "value",
            "1" + "0" * 20,
            "value '100000000000000000000' is more than any bar can reach: give less than 10^20",
        ),
    ],
)
def test_a_size_that_makes_no_bars_is_refused(by: Measure, text: str, message: str) -> None:
    with pytest.raises(BadSetting) as caught:
        parse_size(by, text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("by", "text", "units"),
    [
        ("trades", "0010", 10),
        ("trades", "10.0", 10),
        ("volume", " .5", 5 * 10**7),
        ("volume", "1.", 10**8),
        ("volume", "0.0000000100", 1),
        ("trades", "1e3", 1_000),
        ("volume", "1E6", 10**6 * 10**8),
        ("volume", "2e-8", 2),
        ("value", "2.5e+6", 2_500_000 * 10**18),
        ("volume", "9" * 30, (10**30 - 1) * 10**8),
        ("value", "0.000000000000000001", 1),
        ("value", "9" * 20, (10**20 - 1) * 10**18),
    ],
)
def test_a_size_is_read_to_its_last_digit(by: Measure, text: str, units: int) -> None:
    assert parse_size(by, text).units == units


def test_bars_of_something_else_are_refused() -> None:
    with pytest.raises(BadSetting) as caught:
        parse_size("ticks", "5")  # type: ignore[arg-type]
    assert str(caught.value) == "bars of 'ticks': give one of trades, volume, value"
