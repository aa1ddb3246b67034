"""Trades at the edges of candles: every one counts once, whatever was lost, doubled or moved.

Trades have few prices and volumes, so that equal trades are frequent; most are published at the
very moment at which a minute opens. Which of these the exchange counts in the minute before is
tried in all ways, by plain Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import product
from typing import NamedTuple

import candle_oracle
import pytest
from candle_cases import hold
from hypothesis import given, settings
from hypothesis import strategies as st

from harvester.csv_import.csv_files import CompletePeriod, find
from harvester.csv_import.ohlcvt_reader import read_candle_file
from harvester.kraken.ohlc import Candle
from harvester.storage.trade_store import TradeStore
from harvester.times import Range
from harvester.verify.against_kraken import compare_blocks, compare_interval
from harvester.verify.candle_comparison import LocalCandles
from harvester.verify.reports import IntervalReport

MINUTE = 60 * 10**9
FIRST = 28_532_160  # Minutes since the epoch: 2024-04-01.
MINUTES = range(FIRST, FIRST + 6)
FIELDS = ("open", "high", "low", "close", "volume", "count")
INSIDE = 7 * 10**9


class Made(NamedTuple):
    """A trade: its minute as published, whether it opens that, and the minute it happened in."""

    minute: int
    is_opening: bool
    price: str
    volume: str
    true: int


class Held(NamedTuple):
    """What an archive holds, and the trades by the minutes in which they truly happened."""

    history: list[Made]
    true: list[Made]


def row(made: Made, tie: int = 0) -> candle_oracle.Row:
    stamp = made.minute * MINUTE + (0 if made.is_opening else INSIDE)
    return (None, stamp, tie, Decimal(made.price), Decimal(made.volume), "buy", "market", "")


def rows(history: Sequence[Made]) -> list[candle_oracle.Row]:
    found: list[candle_oracle.Row] = []
    for made in history:
        new = row(made)
        tie = found[-1][2] + 1 if found and found[-1][1] == new[1] else 0
        found.append(row(made, tie))
    return found


def in_order(history: Sequence[Made]) -> list[Made]:
    return sorted(history, key=lambda trade: (trade.minute, not trade.is_opening))


@st.composite
def held(draw: st.DrawFn) -> Held:
    """Trades, of which one may have been lost, doubled or moved across an edge."""
    true = []
    for minute in MINUTES:
        number = draw(st.integers(0, 2))
        before = draw(st.integers(0, number))
        shapes = [(True, minute - (place < before)) for place in range(number)]
        shapes += [(False, minute)] * draw(st.integers(0, 2))
        for is_opening, happened in shapes:
            price = draw(st.sampled_from(("100.0", "100.0", "101.0")))
            volume = draw(st.sampled_from(("1.5", "1.5", "2.5")))
            true.append(Made(minute, is_opening, price, volume, happened))
    history = list(true)
    change = draw(st.sampled_from(("none", "lost", "doubled", "moved")))
    if history and change != "none":
        place = draw(st.integers(0, len(history) - 1))
        trade = history[place]
        if change == "doubled":
            history.insert(place, trade)
        else:
            del history[place]
        if change == "moved":
            minute = trade.minute + draw(st.sampled_from((-1, 0, 1)))
            history.append(trade._replace(minute=minute, is_opening=draw(st.booleans())))
    return Held(in_order(history), true)


class Outcome(NamedTuple):
    """What a way to split all edges comes to."""

    differing: int
    archive_count: int
    at_edge: int


IsEqual = Callable[[int, list[Made]], bool]


def best(history: Sequence[Made], compared: Sequence[int], is_equal: IsEqual) -> set[Outcome]:
    """The outcomes with the fewest differing minutes, of all ways to count the first trades of an
    opening in the minute before.

    Args:
        history: the stored trades.
        compared: the minutes that are compared.
        is_equal: whether a minute of some trades is the exchange's.
    """
    openings = {
        minute: [made for made in history if made.minute == minute and made.is_opening]
        for minute in range(MINUTES.start - 1, MINUTES.stop + 2)
    }
    asked = [
        minute
        for minute, some in openings.items()
        if some and (minute in compared or minute - 1 in compared)
    ]
    found = set()
    for numbers in product(*(range(len(openings[minute]) + 1) for minute in asked)):
        given = dict(zip(asked, numbers, strict=True))
        differing = archive_count = at_edge = 0
        for minute in compared:
            out, into = given.get(minute, 0), given.get(minute + 1, 0)
            inside = [made for made in history if made.minute == minute and not made.is_opening]
            some = [*openings[minute][out:], *inside, *openings[minute + 1][:into]]
            archive_count += len(some)
            if not is_equal(minute, some):
                differing += 1
            elif out or into:
                at_edge += 1
        found.add(Outcome(differing, archive_count, at_edge))
    least = min(outcome.differing for outcome in found)
    return {outcome for outcome in found if outcome.differing == least}


def holds(report: IntervalReport, outcomes: set[Outcome]) -> bool:
    counted = (report.differing, report.archive_trades, report.at_boundary)
    return counted in {
        (outcome.differing, outcome.archive_count, outcome.at_edge) for outcome in outcomes
    }


def values(some: Sequence[Made]) -> tuple[Decimal, ...] | None:
    """What a file prints of a minute of some trades; None where it has no row."""
    if not some:
        return None
    candle = candle_oracle.candle(0, rows(some))
    return tuple(Decimal(candle[name]) for name in FIELDS)


def happened(true: Sequence[Made], minute: int) -> list[Made]:
    return [made for made in true if made.true == minute]


# --- files ---------------------------------------------------------------------------------------

OPENS_S = MINUTES.start * 60
WHOLES = (
    CompletePeriod(None, None),
    CompletePeriod(0, None),
    CompletePeriod(OPENS_S, OPENS_S + 6 * 60),
    CompletePeriod(OPENS_S, None),
)
COVERAGES = [
    [Range((FIRST + a) * MINUTE - 1, (FIRST + b) * MINUTE - end) for a, b in minutes]
    for minutes in (((0, 20),), ((1, 5),), ((0, 2), (3, 20)), ((0, 3), (4, 5)))
    for end in (0, 1)
]
"""Each ends with the very moment at which a minute opens, or just before it."""


@settings(max_examples=16, deadline=None)
@given(
    case=held(),
    whole=st.sampled_from(WHOLES),
    spans=st.sampled_from(COVERAGES),
    chunk_rows=st.sampled_from((1, 2, 1_000)),
)
def test_of_a_file_as_few_candles_differ_as_can_be_with_each_trade_counted_once(
    case: Held,
    whole: CompletePeriod,
    spans: list[Range],
    chunk_rows: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("file")
    file_candles = {
        minute: values(happened(case.true, minute))
        for minute in range(MINUTES.start - 1, MINUTES.stop)
    }
    in_file = [minute for minute, some in file_candles.items() if some is not None]
    compared = [
        minute
        for minute in range(MINUTES.start, MINUTES.stop + 1)
        if is_stated(minute, in_file, whole)
        and any(s.after < minute * MINUTE and (minute + 1) * MINUTE - 1 <= s.through for s in spans)
    ]
    parts = [
        (span, [held for held in rows(case.history) if span.after < held[1] <= span.through])
        for span in spans
    ]
    archive = hold(TradeStore(folder / "data"), parts)
    history = [
        made for made in case.history if any(s.after < row(made)[1] <= s.through for s in spans)
    ]
    path = folder / "XBTUSD_1.csv"
    path.write_text(
        "".join(
            ",".join([str(minute * 60), *(str(value) for value in file_candles[minute] or ())])
            + "\n"
            for minute in in_file
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harvester.csv_import.csv_files.BLOCK_BYTES", 1)
        patch.setattr("harvester.verify.against_kraken.CHUNK_ROWS", chunk_rows)
        [member] = find([str(path)])
        local = LocalCandles(archive, "XBTUSD", 1)
        report = compare_blocks(local, spans, 1, whole, read_candle_file(member, 1))
    outcomes = best(
        history, compared, lambda minute, some: values(some) == file_candles.get(minute)
    )
    assert holds(report, outcomes), (report, outcomes)


def is_stated(minute: int, in_file: Sequence[int], whole: CompletePeriod) -> bool:
    """Whether the file is complete for a minute."""
    if not in_file and None in whole:
        return False
    since = in_file[0] if whole.since_s is None else whole.since_s // 60
    until = in_file[-1] + 1 if whole.until_s is None else whole.until_s // 60
    return since <= minute < until


# --- the exchange --------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(case=held(), skipped=st.integers(0, 2))
def test_of_the_exchanges_as_few_candles_differ_as_can_be_with_each_trade_counted_once(
    case: Held, skipped: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Before the first that it shows, and in the running one, nothing is compared."""
    opening = Made(FIRST - 9, False, "99.0", "1.5", FIRST - 9)
    history, true = [opening, *case.history], [opening, *case.true]
    span = Range(0, MINUTES.stop * MINUTE + MINUTE)
    archive = hold(
        TradeStore(tmp_path_factory.mktemp("exchange") / "data"), [(span, rows(history))]
    )
    shown = range(FIRST - 1 + skipped, MINUTES.stop)
    file_candles = [printed(true, minute, happened(true, minute)) for minute in shown]
    report = compare_interval(LocalCandles(archive, "XBTUSD", 1), [span], 1, file_candles)
    known = {their.time_ns // MINUTE: their for their in file_candles}
    outcomes = best(
        history,
        shown[:-1],
        lambda minute, some: printed(history, minute, some) == known[minute],
    )
    assert holds(report, outcomes), (report, outcomes)
    assert report.compared == len(shown) - 1


def printed(history: Sequence[Made], minute: int, some: Sequence[Made]) -> Candle:
    """A minute of some trades in the exchange's form."""
    if not some:
        before = [
            trade for trade in history if (trade.minute, not trade.is_opening) <= (minute, False)
        ]
        close = Decimal(before[-1].price)
        return Candle(minute * MINUTE, close, close, close, close, Decimal(0), Decimal(0), 0)
    made = candle_oracle.candle(0, rows(some))
    known = {name: made[name] for name in FIELDS}
    return Candle(minute * MINUTE, **known, vwap=candle_oracle.truncated(made["vwap"], 1))
