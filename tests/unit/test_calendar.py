"""Candles by the clock on the wall: months, days of 23 and 25 hours, and clocks of other minds."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from io import BytesIO
from itertools import pairwise
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import candle_oracle
import duckdb
import pytest
from calendar_cases import DAY, HOUR, LONG, MINUTE, PLACES, SECOND, SHORT, clock, moment
from candle_cases import ask
from hypothesis import given, settings
from hypothesis import strategies as st

from harvester.errors import BadSetting
from harvester.query.calendar import (
    Grid,
    OffsetChange,
    find_time_zone,
    offset_changes,
)
from harvester.query.plan import CandleQuery
from harvester.storage.trade_store import EVERYTHING
from harvester.times import Range

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


OFFSETS = (0, 30 * MINUTE, -7 * HOUR, 17 * HOUR)


def openings(grid: Grid, first_ns: int, last_ns: int) -> list[int]:
    """Those after one moment, through another."""
    numbers = range(grid.number(first_ns) + 1, grid.number(last_ns) + 1)
    return [grid.start_ns(number) for number in numbers]


def utc(times: Sequence[int]) -> list[str]:
    return [
        datetime.fromtimestamp(time // SECOND, UTC).strftime("%Y-%m-%d %H:%M") for time in times
    ]


# --- where intervals open ------------------------------------------------------------------------


def with_offsets(intervals: Iterable[str], places: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    """Each interval at each place with one offset, and so each of both with each offset."""
    for at, interval in enumerate(intervals):
        for turn, place in enumerate(places):
            yield interval, place, OFFSETS[(at + turn) % len(OFFSETS)]


@pytest.mark.parametrize(
    ("interval", "place", "offset"),
    [
        *with_offsets(SHORT, [*PLACES]),
        *with_offsets(LONG, [place for place in PLACES if "past midnight" not in place]),
    ],
)
def test_intervals_open_where_the_clock_and_the_calendar_say(
    interval: str, place: str, offset: int
) -> None:
    (tz, turn), (reach, step) = PLACES[place], (SHORT | LONG)[interval]
    first, last = moment(turn) - reach, moment(turn) + reach
    question = ask(interval, tz=tz, offset_ns=offset)
    grid = question.grid(Range(first, last))
    assert openings(grid, first, last) == candle_oracle.walked(first, last, step, clock(question))


@pytest.mark.parametrize("tz", ["Europe/Berlin", "America/New_York", "Asia/Kolkata", None])
@pytest.mark.parametrize("interval", ["1d", "5d", "1w", "3w", "1mo", "7mo", "1q", "3q", "1y", "7y"])
def test_the_calendar_of_a_century_is_right(tz: str | None, interval: str) -> None:
    question = ask(interval, tz=tz)
    first, last = moment("1996-02-29"), moment("2096-02-29")
    grid = question.grid(Range(first, last))
    length = question.interval
    for stamp in range(first, last, 73 * DAY + 5 * HOUR):
        opens = candle_oracle.floor_calendar(stamp, length.unit, tz or "UTC", length.count)
        after = candle_oracle.next_calendar(opens, length.unit, tz or "UTC", length.count)
        number = grid.number(stamp)
        assert (grid.start_ns(number), grid.start_ns(number + 1)) == (opens, after)


@cache
def zone_file(name: str) -> bytes:
    return files("tzdata").joinpath("zoneinfo", *name.split("/")).read_bytes()


def table(name: str) -> list[tuple[int, int]]:
    """The turns in a zone's file: UNIX seconds, seconds ahead; by its layout, RFC 9636."""
    data = zone_file(name)
    counts = struct.unpack(">6l", data[20:44])
    at = 44 + sum(n * size for n, size in zip(counts, (1, 1, 8, 5, 6, 1), strict=True))
    turned, kinds = struct.unpack(">6l", data[at + 20 : at + 44])[3:5]
    at += 44
    times = struct.unpack(f">{turned}q", data[at : at + 8 * turned])
    places = data[at + 8 * turned : at + 9 * turned]
    at += 9 * turned
    ahead = [int.from_bytes(data[at + 6 * i : at + 6 * i + 4], signed=True) for i in range(kinds)]
    changes: list[tuple[int, int]] = []
    for time, place in zip(times, places, strict=True):
        if not changes or changes[-1][1] != ahead[place]:
            changes.append((time, ahead[place]))
    return changes


LISTED = files("tzdata").joinpath("zones").read_text().split()
NAMES = sorted({zone_file(name): name for name in LISTED}.values())


def test_every_turn_of_every_zone_is_seen() -> None:
    since, until = moment("2011-01-01"), moment("2031-01-01")
    for name in NAMES:
        changes = [(at * SECOND, ahead * SECOND) for at, ahead in table(name)]
        if not changes or changes[-1][0] < since:
            continue
        until_ = min(until, changes[-1][0])
        seen = offset_changes(ZoneInfo.from_file(BytesIO(zone_file(name))), since, until_)
        assert seen[1:] == [
            OffsetChange(*change) for change in changes if since < change[0] <= until_
        ], name


@st.composite
def clocks(draw: st.DrawFn) -> tuple[CandleQuery, int]:
    """Any zone, at a turn of its clock if there is one, and intervals of quarters of an hour.

    Only Casey was turned at another time than a quarter since 2012: at 00:01.
    """
    tz = draw(st.sampled_from(NAMES).filter(lambda name: name != "Antarctica/Casey"))
    whens = [at * SECOND for at, _ in table(tz) if moment("2012-01-01") < at * SECOND]
    hours = st.integers(moment("2012-01-01") // HOUR, moment("2090-01-01") // HOUR)
    when = draw(st.sampled_from(whens) if whens else hours.map(lambda hour: hour * HOUR))
    interval = draw(st.sampled_from(("15m", "45m", "1h", "90m", "3h", "4h", "7h", "1d", "25h")))
    offset = draw(st.integers(-200, 200)) * 15 * MINUTE
    return ask(interval, tz=tz, offset_ns=offset), when


@given(clocks(), st.integers(0, 200))
@settings(max_examples=150, deadline=None)
def test_any_clock_is_followed_through_any_turn(case: tuple[CandleQuery, int], early: int) -> None:
    question, when = case
    first = when - early * 15 * MINUTE
    last = first + 4 * DAY
    grid = question.grid(Range(first, last))
    # From earlier on, so that the oracle has seen what the clock showed before it was turned.
    truth = candle_oracle.walked(first - 2 * DAY, last, 15 * MINUTE, clock(question))
    open_at_first = max(opening for opening in truth if opening <= first)
    assert openings(grid, open_at_first - 1, last) == [
        opening for opening in truth if opening >= open_at_first
    ]


# --- by hand -------------------------------------------------------------------------------------


def opens(interval: str, tz: str | None, since: str, until: str, offset: int = 0) -> list[str]:
    """The openings from one moment to before another, in UTC."""
    first, last = moment(since) - 1, moment(until) - 1
    grid = ask(interval, tz=tz, offset_ns=offset).grid(Range(first, last))
    return utc(openings(grid, first, last))


def hours(times: Sequence[str]) -> list[float]:
    stamps = [datetime.strptime(time, "%Y-%m-%d %H:%M").replace(tzinfo=UTC) for time in times]
    return [(b - a).total_seconds() / 3600 for a, b in pairwise(stamps)]


def test_a_day_in_berlin_has_23_hours_in_spring_and_25_in_autumn() -> None:
    assert opens("1d", "Europe/Berlin", "2024-03-29T12:00", "2024-04-02") == [
        "2024-03-29 23:00",
        "2024-03-30 23:00",
        "2024-03-31 22:00",
        "2024-04-01 22:00",
    ]
    autumn = opens("1d", "Europe/Berlin", "2024-10-25T12:00", "2024-10-29")
    assert hours(autumn) == [24, 25, 24]


def test_four_hours_in_berlin_open_at_the_same_hours_of_the_clock_all_year() -> None:
    spring = opens("4h", "Europe/Berlin", "2024-03-30T22:00", "2024-03-31T08:00")
    assert spring == ["2024-03-30 23:00", "2024-03-31 02:00", "2024-03-31 06:00"]
    autumn = opens("4h", "Europe/Berlin", "2024-10-26T21:00", "2024-10-27T08:00")
    assert autumn == ["2024-10-26 22:00", "2024-10-27 03:00", "2024-10-27 07:00"]


@pytest.mark.parametrize(
    ("day", "next_day", "many"),
    [
        ("2024-03-30T23:00", "2024-03-31T22:00", 23),
        ("2024-10-26T22:00", "2024-10-27T23:00", 25),
    ],
)
@pytest.mark.parametrize("interval", ["1h", "30m", "1m"])
def test_hours_and_less_are_never_longer_or_shorter_in_berlin(
    interval: str, day: str, next_day: str, many: int
) -> None:
    width = {"1h": 1, "30m": 1 / 2, "1m": 1 / 60}[interval]
    found = opens(interval, "Europe/Berlin", day, next_day)
    assert (len(found), {round(hour, 9) for hour in hours(found)}) == (
        round(many / width),
        {round(width, 9)},
    )


def test_hours_in_kolkata_open_at_its_full_hours() -> None:
    assert opens("1h", "Asia/Kolkata", "2024-01-01", "2024-01-01T02:00") == [
        "2024-01-01 00:30",
        "2024-01-01 01:30",
    ]


def test_an_hour_takes_in_the_half_hour_that_lord_howe_goes_back() -> None:
    found = opens("1h", "Australia/Lord_Howe", "2024-04-06T13:00", "2024-04-06T17:00")
    assert hours(found) == [1, 1.5, 1]


def test_a_day_without_midnight_opens_at_its_first_moment() -> None:
    assert opens("1d", "America/Sao_Paulo", "2018-11-03T12:00", "2018-11-05T12:00") == [
        "2018-11-04 03:00",
        "2018-11-05 02:00",
    ]


def test_a_month_whose_first_midnight_does_not_exist_opens_at_its_first_moment() -> None:
    assert opens("1mo", "Asia/Damascus", "2011-03-15", "2011-05-15") == [
        "2011-03-31 22:00",
        "2011-04-30 21:00",
    ]


def test_a_day_with_two_midnights_opens_at_the_first() -> None:
    assert opens("1d", "America/Havana", "2024-11-02T12:00", "2024-11-04T12:00") == [
        "2024-11-03 04:00",
        "2024-11-04 05:00",
    ]


def test_a_day_that_a_place_skipped_has_no_candle() -> None:
    assert opens("1d", "Pacific/Apia", "2011-12-28T20:00", "2012-01-01") == [
        "2011-12-29 10:00",
        "2011-12-30 10:00",
        "2011-12-31 10:00",
    ]


def test_krakens_week_opens_on_thursday_and_a_calendar_week_on_monday() -> None:
    assert opens("10080", None, "2024-01-01", "2024-01-08") == ["2024-01-04 00:00"]
    assert opens("1w", None, "2024-01-01", "2024-01-08") == ["2024-01-01 00:00"]


def test_two_weeks_count_from_the_first_monday_of_1970() -> None:
    assert opens("2w", None, "1970-01-02", "1970-01-31") == ["1970-01-05 00:00", "1970-01-19 00:00"]


def test_months_quarters_and_years_open_on_their_first() -> None:
    assert opens("1mo", None, "2024-01-02", "2024-04-01T00:01") == [
        "2024-02-01 00:00",
        "2024-03-01 00:00",
        "2024-04-01 00:00",
    ]
    assert opens("1q", None, "2024-01-02", "2024-12-31") == [
        "2024-04-01 00:00",
        "2024-07-01 00:00",
        "2024-10-01 00:00",
    ]
    assert opens("1y", "America/New_York", "2023-06-01", "2025-06-01") == [
        "2024-01-01 05:00",
        "2025-01-01 05:00",
    ]


def test_several_months_count_from_january_1970() -> None:
    assert opens("5mo", None, "1970-01-02", "1971-04-02") == [
        "1970-06-01 00:00",
        "1970-11-01 00:00",
        "1971-04-01 00:00",
    ]
    assert opens("2y", None, "1971-01-01", "1975-01-01") == ["1972-01-01 00:00", "1974-01-01 00:00"]


def test_an_offset_is_time_on_the_clock() -> None:
    """New York's day of trading, from 17:00 to 17:00, over the turn of the tenth of March."""
    found = opens("1d", "America/New_York", "2024-03-08T12:00", "2024-03-12", 17 * HOUR)
    assert found == ["2024-03-08 22:00", "2024-03-09 22:00", "2024-03-10 21:00", "2024-03-11 21:00"]


def test_an_offset_moves_months_too() -> None:
    assert opens("1mo", None, "2024-01-01", "2024-03-31", -7 * HOUR) == [
        "2024-01-31 17:00",
        "2024-02-29 17:00",
    ]


def test_a_grid_that_begins_as_clocks_are_turned_knows_what_was_open() -> None:
    late = moment("2024-10-27T02:59")
    grid = ask("4h", tz="Europe/Berlin").grid(Range(late, late))
    assert utc([grid.start_ns(grid.number(late))]) == ["2024-10-26 22:00"]


def test_a_day_is_24_hours_and_1440_minutes_on_every_clock() -> None:
    days = [
        opens(text, "Europe/Berlin", "2024-01-01", "2025-01-01") for text in ("1d", "24h", "1440")
    ]
    assert (days[0] == days[1] == days[2], len(days[0])) == (True, 366)


# --- in SQL --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def connection() -> duckdb.DuckDBPyConnection:
    return duckdb.connect()


@pytest.mark.parametrize("place", ["UTC", "Berlin back", "Lord Howe half an hour back"])
@pytest.mark.parametrize("interval", ["500ms", "7m", "1h", "4h", "1d", "1w", "1mo", "1q", "1y"])
def test_sql_numbers_and_opens_as_python_does(
    connection: duckdb.DuckDBPyConnection, place: str, interval: str
) -> None:
    tz, turn = PLACES[place]
    first, last = moment(turn) - 700 * DAY, moment(turn) + 700 * DAY
    grid = ask(interval, tz=tz, offset_ns=30 * MINUTE).grid(Range(first, last))
    middle = grid.number(moment(turn))
    numbers = [n for n in range(middle - 60, middle + 60) if first < grid.start_ns(n) < last]
    stamps = [grid.start_ns(n) + odd for n in numbers for odd in (-1, 0, 1, SECOND - 300)]
    rows = connection.execute(
        f"SELECT {grid.number_sql('epoch_ns(time)')} AS number, "  # noqa: S608
        f"epoch_ns({grid.start_sql('number')}), {grid.start_of_sql('epoch_ns(time)')} "
        "FROM (SELECT make_timestamp_ns(unnest($1::BIGINT[])) AS time)",
        [stamps],
    ).fetchall()
    starts = [(grid.number(stamp), grid.start_ns(grid.number(stamp))) for stamp in stamps]
    assert rows == [(number, start_ns, start_ns) for number, start_ns in starts]


# --- what roll-ups may serve ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "tz", "offset", "by_minutes", "by_hours"),
    [
        ("1mo", None, 0, True, True),
        ("1d", "Europe/Berlin", 0, True, True),
        ("1y", "Asia/Kolkata", 0, True, False),
        ("4h", "Europe/Berlin", 30 * MINUTE, True, False),
        ("1w", None, 0, True, True),
        ("1w", None, SECOND, False, False),
        ("90s", None, 0, False, False),
        ("7m", "Europe/Berlin", 0, True, False),
        ("1h", "Australia/Lord_Howe", 0, True, False),
        ("500ms", "Asia/Kolkata", 0, False, False),
    ],
)
def test_a_grid_knows_what_it_is_made_of(
    interval: str, tz: str | None, offset: int, by_minutes: bool, by_hours: bool
) -> None:
    over = Range(moment("2013-01-01"), moment("2026-01-01"))
    grid = ask(interval, tz=tz, offset_ns=offset).grid(over)
    assert (grid.is_divisible_by(MINUTE), grid.is_divisible_by(HOUR)) == (by_minutes, by_hours)


def test_what_needs_no_calendar_is_reckoned_by_one_formula() -> None:
    formulas = {text: len(ask(text).grid(EVERYTHING).sections) for text in ("7m", "1d", "1w")}
    assert formulas == {"7m": 1, "1d": 1, "1w": 1}
    assert len(ask("1mo").grid(EVERYTHING).sections) > 1


# --- zones ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "meant"),
    [
        ("Europe/Berln", "Europe/Berlin or Europe/Dublin"),
        ("europe/berlin", "Europe/Berlin"),
        ("Berlin", "Europe/Berlin"),
        ("new york", "America/New_York"),
        ("Asia/Kolkatta", "Asia/Kolkata"),
        ("+05:30", "a name such as Europe/Berlin or UTC"),
        ("", "a name such as Europe/Berlin or UTC"),
        ("Europe", "a name such as Europe/Berlin or UTC"),
        ("../zoneinfo/UTC", "a name such as Europe/Berlin or UTC"),
        ("/etc/passwd", "a name such as Europe/Berlin or UTC"),
    ],
)
def test_a_zone_that_there_is_not_names_those_near_it(given_: str, meant: str) -> None:
    with pytest.raises(BadSetting) as caught:
        ask("1d", tz=given_)
    message = f"tz is {given_!r}, which is no time zone of the tz database: give {meant}"
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "Asia/Calcutta", "EST"])
def test_a_zone_is_known_by_any_name_of_the_database(name: str) -> None:
    assert find_time_zone(name).key == name
