"""Candles on the grids of the calendar, from an archive to the last digit."""

from __future__ import annotations

import tempfile
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import candle_oracle
import pytest
from calendar_cases import DAY, HOUR, LONG, MINUTE, PLACES, SHORT, clock, moment
from candle_cases import answer, ask, hold, is_equal, model, ohlc
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harvester.query.plan import FILLS
from harvester.storage.trade_store import EVERYTHING, TradeStore
from harvester.times import Range, range_between

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERVALS = ("500ms", "1s", "90s", "7m", "1h", "4h", "1d", "10080", "1w", "2w", "1mo", "1q", "1y")
CASES = [
    (place, interval, FILLS[(row + column) % 4])
    for row, place in enumerate(
        ("UTC", "Kolkata, half an hour off", "Berlin forward", "Berlin back", "Apia without a day")
    )
    for column, interval in enumerate(INTERVALS)
]


def trade(stamp: int, price: int, volume: int = 1) -> candle_oracle.Row:
    return (None, stamp, 0, Decimal(price), Decimal(volume), "buy", "market", "")


def rows_at(times: Sequence[int]) -> list[candle_oracle.Row]:
    """Trades at some openings and right around, also where DuckDB's own dates would round up."""
    some = times[1 :: max(2, len(times) // 12)]
    stamps = sorted({turn + odd for turn in some for odd in (-300, -1, 0, 1)})
    return [trade(stamp, 5 + at * 7 % 4, 1 + at % 3) for at, stamp in enumerate(stamps)]


@pytest.mark.parametrize(("place", "interval", "fill"), CASES)
def test_candles_at_the_turns_of_clocks_are_the_oracles(
    tmp_path: Path, place: str, interval: str, fill: Any
) -> None:
    (tz, turn), (reach, step) = PLACES[place], (SHORT | LONG)[interval]
    question = ask(interval, tz=tz, fill=fill, all_columns=True)
    end = moment(turn) + reach * (2 if interval in LONG else 1)
    times = candle_oracle.walked(moment(turn) - reach, end, step, clock(question))
    rows = rows_at(times)
    archive = hold(TradeStore(tmp_path), [(Range(times[0] - 1, rows[-1][1]), rows)])
    truth = candle_oracle.candles_between(rows, times)
    shown = [time for time in times if truth[0]["time"] <= time <= truth[-1]["time"]]
    truth = candle_oracle.filled(truth, shown, fill)
    if fill == "kraken":
        truth = [candle | {"vwap": candle_oracle.truncated(candle["vwap"], 10)} for candle in truth]
    assert is_equal(answer(ohlc(archive, question)), truth, candle_oracle.COLUMNS)


# --- what is filled, and what is whole -----------------------------------------------------------

BACK = moment("2024-10-27T01:00")
QUARTERS = st.integers(0, 4 * 24 * 4)


@st.composite
def broken_histories(draw: st.DrawFn) -> tuple[list[candle_oracle.Row], list[Range]]:
    """Trades of some days on which Berlin's clocks go back, and ranges that hold some of them."""
    start = BACK - 2 * DAY
    edges = sorted(draw(st.sets(QUARTERS, min_size=2, max_size=6)))
    covered = [
        Range(start + a * 15 * MINUTE - 1, start + b * 15 * MINUTE - 1)
        for a, b in pairwise(edges)
        if draw(st.integers(0, 3))
    ] or [Range(start - 1, start + DAY)]
    stamps = sorted(draw(st.lists(QUARTERS, max_size=12)))
    rows = [trade(start + steps * 15 * MINUTE, 5 + at % 3) for at, steps in enumerate(stamps)]
    return [row for row in rows if any(a < row[1] <= b for a, b in covered)], covered


@given(
    broken_histories(),
    st.sampled_from(FILLS),
    st.sampled_from(("1h", "2h", "4h", "1d", "25h")),
    st.tuples(QUARTERS, QUARTERS),
    st.sampled_from((0, 0, 30 * MINUTE, -7 * HOUR)),
)
@example(
    ([trade(BACK - DAY, 5), trade(BACK + DAY, 6)], [Range(BACK - 2 * DAY, BACK + 2 * DAY)]),
    "previous",
    "1d",
    (0, 384),
    0,
)
@settings(max_examples=25, deadline=None)
def test_any_fill_over_any_gaps_as_clocks_go_back_is_as_from_first_principles(
    held: tuple[list[candle_oracle.Row], list[Range]],
    fill: Any,
    interval: str,
    edges: tuple[int, int],
    offset: int,
) -> None:
    rows, covered = held
    after, through = (BACK - 2 * DAY + edge * 15 * MINUTE for edge in sorted(edges))
    question = ask(
        interval,
        Range(after, through + 1),
        fill=fill,
        all_columns=True,
        offset_ns=offset,
        tz="Europe/Berlin",
    )
    times = candle_oracle.walked(BACK - 5 * DAY, BACK + 5 * DAY, 15 * MINUTE, clock(question))
    with tempfile.TemporaryDirectory() as folder:
        parts = [
            (span, [row for row in rows if span.after < row[1] <= span.through]) for span in covered
        ]
        made = answer(ohlc(hold(TradeStore(folder), parts), question))
    truth = model(rows, covered, question, times)
    assert is_equal(made, truth, (*candle_oracle.COLUMNS, "is_complete"))


def months(tmp_path: Path, within: Range, span_: Range = EVERYTHING, **more: Any) -> Any:
    """Whether each month shown is complete, by when it opens; one trade, on January the 20th."""
    rows = [trade(moment("2024-01-20"), 5)]
    archive = hold(TradeStore(tmp_path), [(within, rows)])
    made = answer(ohlc(archive, ask("1mo", span_, fill="null", all_columns=True, **more)))
    return {candle["time"]: candle["is_complete"] for candle in made}


def test_a_month_is_whole_where_coverage_reaches_its_last_nanosecond(tmp_path: Path) -> None:
    found = months(tmp_path, Range(moment("2024-01-15"), moment("2024-04-01") - 1))
    assert found == {
        moment("2024-01-01"): False,
        moment("2024-02-01"): True,
        moment("2024-03-01"): True,
    }


def test_a_month_that_lacks_a_nanosecond_is_not_whole(tmp_path: Path) -> None:
    found = months(tmp_path, Range(moment("2024-01-15"), moment("2024-04-01") - 2))
    assert found == {moment("2024-01-01"): False, moment("2024-02-01"): True}


def test_a_month_ends_when_the_clocks_of_its_zone_say_so(tmp_path: Path) -> None:
    """April in Berlin begins at 22:00 UTC, an hour earlier than March did."""
    within = Range(0, moment("2024-03-31T22:00") - 1)
    assert months(tmp_path, within, tz="Europe/Berlin") == {
        moment("2023-12-31T23:00"): True,
        moment("2024-01-31T23:00"): True,
        moment("2024-02-29T23:00"): True,
    }


def test_a_span_is_half_open_on_the_calendar_too(tmp_path: Path) -> None:
    rows = [trade(moment(when) - odd, 5) for when in ("2024-02-01", "2024-03-01") for odd in (1, 0)]
    archive = hold(TradeStore(tmp_path), [(Range(0, moment("2024-04-01")), rows)])
    february = range_between(moment("2024-02-01"), moment("2024-03-01"))
    made = answer(ohlc(archive, ask("1mo", february, all_columns=True)))
    assert [(candle["time"], candle["count"], candle["is_complete"]) for candle in made] == [
        (moment("2024-02-01"), 2, True)
    ]


def test_the_day_and_month_of_a_trade_are_not_rounded_up(tmp_path: Path) -> None:
    """As DuckDB's date functions do: 23:59:59.9999997 would fall into March."""
    rows = [trade(moment("2024-03-01") - 300, 5)]
    archive = hold(TradeStore(tmp_path), [(Range(0, moment("2024-04-01")), rows)])
    times = {
        interval: answer(ohlc(archive, ask(interval)))[0]["time"] for interval in ("1d", "1mo")
    }
    assert times == {"1d": moment("2024-02-29"), "1mo": moment("2024-02-01")}


def test_empty_years_before_the_first_trade_are_not_filled(tmp_path: Path) -> None:
    rows = [trade(moment("2013-03-05"), 5)]
    archive = hold(TradeStore(tmp_path), [(Range(0, moment("2013-06-01") - 1), rows)])
    made = answer(ohlc(archive, ask("1mo", fill="null", tz="America/New_York")))
    assert [candle["time"] for candle in made] == [
        moment("2013-03-01T05:00"),
        moment("2013-04-01T04:00"),
    ]


def test_the_empty_end_of_a_year_before_the_file_of_the_next_is_filled(tmp_path: Path) -> None:
    """A file lies in the year of its trades, though what it covers may begin in the year before."""
    parts = [
        (Range(moment("2023-10-15"), moment("2023-10-31")), [trade(moment("2023-10-20"), 5)]),
        (Range(moment("2023-10-31"), moment("2024-03-01") - 1), [trade(moment("2024-02-02"), 6)]),
    ]
    since = Range(moment("2023-11-01") - 1, EVERYTHING.through)
    found = answer(ohlc(hold(TradeStore(tmp_path), parts), ask("1mo", since, fill="previous")))
    assert [(candle["time"], candle["close"]) for candle in found] == [
        (moment("2023-11-01"), 5),
        (moment("2023-12-01"), 5),
        (moment("2024-01-01"), 5),
        (moment("2024-02-01"), 6),
    ]


def test_times_stay_in_utc_under_a_zone(tmp_path: Path) -> None:
    rows = [trade(moment("2024-07-01T12:00"), 5)]
    archive = hold(TradeStore(tmp_path), [(Range(0, moment("2024-07-03")), rows)])
    table = ohlc(archive, ask("1d", tz="America/New_York")).to_arrow_table()
    assert str(table.schema.field("time").type) == "timestamp[ns]"
    assert str(table.column("time")[0].as_py()) == "2024-07-01 04:00:00"
