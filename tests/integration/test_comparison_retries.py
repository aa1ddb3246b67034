"""Candles of the exchange that differ are asked for once more before a difference is reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from backfills import serve
from exchange_comparison import (
    FEW,
    FIELDS,
    NOW,
    SPARSE,
    altering,
    asked,
    compare,
    downloaded_from,
    few_intervals,
    more,
    serve_sparse,
    traded,
    verify,
)
from kraken_faults import Faults
from kraken_market import Clock
from kraken_server import Exchange

from harvester.storage.trade_store import TradeStore
from harvester.verify.reports import ExchangeReport, IntervalReport

__all__ = ["few_intervals"]

pytestmark = pytest.mark.usefixtures("few_intervals")

AGREES = ("requested again: the second answer agrees",)
DIFFERS = ("requested again: the second answer differs",)

Rows = list[list[Any]]
Answers = Callable[[int, Rows], Rows]
"""What becomes of the rows of an interval's first, second, ... answer."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TradeStore:
    """An archive of all that SPARSE ever traded."""
    with serve_sparse() as exchange:
        return downloaded_from(exchange, tmp_path_factory.mktemp("whole"))


def answering(by_minutes: dict[int, Answers]) -> Callable[[str, int, Rows], Rows]:
    """Answers of an exchange that change from one to the next."""
    numbers: dict[int, int] = {}

    def candles(_pair: str, minutes: int, rows: Rows) -> Rows:
        numbers[minutes] = numbers.get(minutes, 0) + 1
        change = by_minutes.get(minutes)
        return change(numbers[minutes], rows) if change else rows

    return candles


def compared(whole: TradeStore, by_minutes: dict[int, Answers]) -> tuple[ExchangeReport, Exchange]:
    with serve_sparse() as exchange:
        exchange.faults.candles = answering(by_minutes)
        return compare(exchange, whole), exchange


def of_minutes(report: ExchangeReport, minutes: int) -> IntervalReport:
    [found] = [interval for interval in report.intervals if interval.minutes == minutes]
    return found


def wrong(minutes: int, field: str = "volume") -> Callable[[Rows], Rows]:
    """One value of the last closed candle with trades raised by its last digit."""
    row = traded(minutes)
    return altering(row[0], **{field: more(row[FIELDS.index(field) + 1])})


def first_is_wrong(minutes: int, field: str = "volume") -> Answers:
    return lambda number, rows: wrong(minutes, field)(rows) if number == 1 else rows


def all_are_wrong(minutes: int, field: str = "volume") -> Answers:
    return lambda _number, rows: wrong(minutes, field)(rows)


@pytest.mark.parametrize("field", ["volume", "vwap"])
def test_a_difference_that_the_second_answer_does_not_repeat_is_none(
    field: str, whole: TradeStore
) -> None:
    first_answers = {minutes: first_is_wrong(minutes, field) for minutes in (1440, 10080)}
    report, exchange = compared(whole, first_answers)
    assert (report.differing, report.exit_status) == (0, 0)
    assert {
        interval.minutes: interval.notes for interval in report.intervals if interval.notes
    } == {1440: AGREES, 10080: AGREES}
    assert asked(exchange) == ["OHLC"] * (len(FEW) + 2)
    assert [call.params["interval"] for call in exchange.calls[len(FEW) :]] == ["1440", "10080"]


def test_a_candle_that_only_the_first_answer_lacks_is_no_difference(whole: TradeStore) -> None:
    gone = traded(1440)[0]

    def lacking(number: int, rows: Rows) -> Rows:
        return [row for row in rows if number > 1 or row[0] != gone]

    report, _ = compared(whole, {1440: lacking})
    assert (report.differing, of_minutes(report, 1440).notes) == (0, AGREES)


def test_a_difference_that_the_second_answer_repeats_is_reported(whole: TradeStore) -> None:
    report, exchange = compared(whole, {1440: all_are_wrong(1440)})
    days = of_minutes(report, 1440)
    assert (report.differing, report.exit_status) == (1, 4)
    assert [(difference.time_ns, difference.field) for difference in days.differences] == [
        (traded(1440)[0] * 10**9, "volume")
    ]
    assert days.notes == DIFFERS
    assert asked(exchange) == ["OHLC"] * (len(FEW) + 1)


def test_each_interval_that_differs_is_requested_again(whole: TradeStore) -> None:
    report, exchange = compared(
        whole,
        {
            240: lambda _number, rows: [[*row[:7], row[7] + 1] for row in rows],
            1440: first_is_wrong(1440),
            21600: all_are_wrong(21600),
        },
    )
    assert {
        interval.minutes: interval.notes for interval in report.intervals if interval.notes
    } == {
        240: DIFFERS,
        1440: AGREES,
        21600: DIFFERS,
    }
    again = [call.params["interval"] for call in exchange.calls[len(FEW) :]]
    assert again == ["240", "1440", "21600"]


@pytest.fixture(scope="module")
def equal(whole: TradeStore) -> tuple[ExchangeReport, Exchange]:
    """A comparison of all nine intervals in which nothing differs."""
    return compared(whole, {})


def test_an_equal_interval_is_requested_once(equal: tuple[ExchangeReport, Exchange]) -> None:
    report, exchange = equal
    assert {interval.notes for interval in report.intervals} == {()}
    assert asked(exchange) == ["OHLC"] * 9


DAY_S = traded(1440)[0]
"""When the day opens whose candle the first answer has wrong."""

SHORT: dict[str, Callable[[Rows], Rows]] = {
    "no candles": lambda _rows: [],
    "an old answer that ends before it": lambda rows: [row for row in rows if row[0] < DAY_S],
    "an old answer in which it is running": lambda rows: [row for row in rows if row[0] <= DAY_S],
    "one that begins behind it": lambda rows: [row for row in rows if row[0] > DAY_S],
}


@pytest.mark.parametrize("name", SHORT)
def test_a_second_answer_without_the_candle_does_not_agree(
    name: str, whole: TradeStore, equal: tuple[ExchangeReport, Exchange]
) -> None:
    def answers(number: int, rows: Rows) -> Rows:
        return wrong(1440)(rows) if number == 1 else SHORT[name](rows)

    report, _ = compared(whole, {1440: answers})
    days = of_minutes(report, 1440)
    assert [difference.time_ns for difference in days.differences] == [DAY_S * 10**9]
    assert (days.notes, report.exit_status) == (DIFFERS, 4)
    assert days.compared == of_minutes(equal[0], 1440).compared


def test_a_difference_is_reported_though_no_second_answer_comes(whole: TradeStore) -> None:
    """After the first refusal nothing more is asked."""
    faults = Faults(
        candles=answering({1440: all_are_wrong(1440), 10080: all_are_wrong(10080)}),
        elsewhere={"OHLC": [None] * len(FEW) + ["unknown_pair"]},
    )
    with serve(SPARSE, clock=Clock(NOW), faults=faults) as exchange:
        report = compare(exchange, whole)
    notes = (
        "requested again: no second answer: XBTUSD: the exchange refused: "
        "EQuery:Unknown asset pair",
    )
    assert {
        interval.minutes: interval.notes for interval in report.intervals if interval.notes
    } == {
        1440: notes,
        10080: notes,
    }
    assert (report.differing, report.exit_status) == (2, 4)
    assert asked(exchange) == ["OHLC"] * (len(FEW) + 1)


# --- as a command --------------------------------------------------------------------------------


def test_the_report_notes_the_second_request(whole: TradeStore) -> None:
    by_minutes = {1440: first_is_wrong(1440), 10080: all_are_wrong(10080)}
    with serve_sparse() as exchange:
        exchange.faults.candles = answering(by_minutes)
        printed = verify(exchange.url, whole, "--against-exchange")
        exchange.faults.candles = answering(by_minutes)
        plain = verify(exchange.url, whole, "--against-exchange", "--json", "-q")
    days, weeks = (
        [line for line in printed.stdout.splitlines() if line.startswith(f"  {minutes}m: ")]
        for minutes in (1440, 10080)
    )
    assert [line.partition("; ")[2] for line in days] == [f"skipped 1 running; {AGREES[0]}"]
    assert [line.partition("; ")[2] for line in weeks] == [f"skipped 1 running; {DIFFERS[0]}"]
    [report] = json.loads(plain.stdout)
    notes = {interval["minutes"]: interval["notes"] for interval in report["exchange"]["intervals"]}
    assert {minutes: some for minutes, some in notes.items() if some} == {
        1440: list(AGREES),
        10080: list(DIFFERS),
    }
    assert (printed.returncode, plain.returncode) == (4, 4)


def test_progress_ends_with_the_last_comparison(whole: TradeStore) -> None:
    with serve_sparse() as exchange:
        exchange.faults.candles = answering({1440: first_is_wrong(1440)})
        ran = verify(exchange.url, whole, "--against-exchange", "--log-json")
    steps = [json.loads(line) for line in ran.stderr.splitlines()]
    progress = [
        (step["done"], step["of"])
        for step in steps
        if step.get("unit") == "answers and comparisons"
    ]
    assert progress[-1] == (20, 20)
    assert [step for step in progress if step[0] == step[1]] == [(20, 20)]
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)
