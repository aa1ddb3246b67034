"""What a person types becomes exact UTC nanoseconds, or a refusal that says what to type."""

from __future__ import annotations

import calendar
from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harvester.errors import BadInterval, BadTime
from harvester.times import (
    END_OF_TIME,
    Range,
    missing,
    parse_interval,
    parse_moment,
    parse_offset,
    range_between,
    show,
    union,
    year_end,
    year_of,
)

S = 10**9


def utc(*when: int) -> int:
    """Nanoseconds of a date and time in UTC, by the standard library's own calendar."""
    year, month, day, *clock = when
    hour, minute, second = [*clock, 0, 0, 0][:3]
    return calendar.timegm((year, month, day, hour, minute, second, 0, 0, 0)) * S


NOW = utc(2024, 3, 1, 12, 34, 56) + 789_000_001

MOMENTS = {
    "0": 0,
    "start": 0,
    "START": 0,
    "now": NOW,
    " Now ": NOW,
    "today": utc(2024, 3, 1),
    "yesterday": utc(2024, 2, 29),
    "Yesterday": utc(2024, 2, 29),
    "2024": utc(2024, 1, 1),
    "1970": 0,
    "2024-06": utc(2024, 6, 1),
    "1704067200": 1_704_067_200 * S,
    "0000000001": S,
    "1704067200123": 1_704_067_200_123_000_000,
    "0000000000001": 10**6,
    "1704067200123456789": 1_704_067_200_123_456_789,
    "0000000000000000001": 1,
    "9223372036854775806": END_OF_TIME,
    "90s": NOW - 90 * S,
    "5m": NOW - 5 * 60 * S,
    "12h": NOW - 12 * 3600 * S,
    "12H": NOW - 12 * 3600 * S,
    "7d": NOW - 7 * 86_400 * S,
    "2w": NOW - 14 * 86_400 * S,
    "0d": NOW,
    "1mo": utc(2024, 2, 1, 12, 34, 56) + 789_000_001,
    "3mo": utc(2023, 12, 1, 12, 34, 56) + 789_000_001,
    "1q": utc(2023, 12, 1, 12, 34, 56) + 789_000_001,
    "1y": utc(2023, 3, 1, 12, 34, 56) + 789_000_001,
    "0y": NOW,
    "100y": 0,
    "999999999999999999y": 0,
    "40000d": 0,
    "1970-01-01": 0,
    "2024-01-31": utc(2024, 1, 31),
    "2024-02-29": utc(2024, 2, 29),
    "2000-02-29": utc(2000, 2, 29),
    "2024-12-31T23:59:59.999999999": utc(2025, 1, 1) - 1,
    "2024-01-31T12:00": utc(2024, 1, 31, 12),
    "2024-01-31 12:00": utc(2024, 1, 31, 12),
    "2024-01-31t12:00:01z": utc(2024, 1, 31, 12, 0, 1),
    "2024-01-31T12:00:01Z": utc(2024, 1, 31, 12, 0, 1),
    "2024-01-31T12:00:01.5": utc(2024, 1, 31, 12, 0, 1) + 500_000_000,
    "2024-01-31T12:00:01.000000001Z": utc(2024, 1, 31, 12, 0, 1) + 1,
    "2024-01-31T12:00:01.1234567": utc(2024, 1, 31, 12, 0, 1) + 123_456_700,
    "2024-01-31T12:00+02:00": utc(2024, 1, 31, 10),
    "2024-01-31T12:00-0530": utc(2024, 1, 31, 17, 30),
    "2024-01-31 12:00 +02:00": utc(2024, 1, 31, 10),
    "2024-01-31Z": utc(2024, 1, 31),
    "2024-01-01T00:30+01:00": utc(2023, 12, 31, 23, 30),
    "1970-01-01T05:00+05:00": 0,
    "2262-04-11T23:47:16.854775806": END_OF_TIME,
}


@pytest.mark.parametrize(("text", "stamp"), MOMENTS.items())
def test_every_spelling_of_a_moment_is_read(text: str, stamp: int) -> None:
    assert parse_moment(text, NOW) == stamp


NO_TIME = (
    "is not a time: give a date or time (2024, 2024-06, 2024-01-31, 2024-01-31T12:00Z), a UNIX "
    "time (10, 13 or 19 digits), 7d, 12h or 6mo (that long ago), today, yesterday, now or start"
)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "tomorrow",
        "-1",
        "1e9",
        "1.5",
        "7 d",
        "-7d",
        "7 mo",
        "2024-6",
        "2024-06Z",
        "1.5h",
        "d",
        "2024-1-1",
        "24-01-01",
        "2024-01-31T12",
        "2024-01-31T1:00",
        "2024-01-31T12:00:01.",
        "2024-01-31T12:00:01.1234567890",
        "2024-01-31T12:00:01,5",
        "2024-01-31T12:00Z+01:00",
        "2024-01-31T12:00 Europe/Berlin",
        "2024/01/31",
        "31.01.2024",
        "20240131T120000",
        "\u0667d",
        "\u0662\u0660\u0662\u0664-01-31",
        "\uff11\uff17\uff10\uff14\uff10\uff16\uff17\uff12\uff10\uff10",
        "9" * 5000 + "d",
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(BadTime) as caught:
        parse_moment(text, NOW)
    assert str(caught.value) == f"{text!r} {NO_TIME}"


@pytest.mark.parametrize(
    "text",
    [
        "7",
        "00",
        "202406",
        "20240131",
        "123456789",
        "01704067200",
        "9999999999999",
        "1704067200123456",
        "170406720012345678",
        "17040672001234567890",
        "9223372036854775807",
        "9999999999999999999",
    ],
)
def test_a_bare_number_that_could_mean_anything_is_refused(text: str) -> None:
    with pytest.raises(BadTime) as caught:
        parse_moment(text, NOW)
    assert str(caught.value) == (
        f"{text!r} could mean anything: a bare number is UNIX seconds (10 digits), milliseconds "
        "(13 digits) or nanoseconds (19 digits), or a year; for days ago write 7d, for a date "
        "2024-01-31"
    )


def test_a_capital_m_in_an_age_is_an_error_that_names_minutes_and_months() -> None:
    with pytest.raises(BadTime) as caught:
        parse_moment("6M", NOW)
    assert str(caught.value) == (
        "'6M' could mean anything: for minutes ago write 6m, for months 6mo"
    )


@pytest.mark.parametrize(
    "text",
    [
        "2023-02-29",
        "2100-02-29",
        "2024-02-30",
        "2024-13-01",
        "2024-00-01",
        "0000-01-01",
        "2024-01-31T24:01",
        "2024-01-31T23:60",
        "2016-12-31T23:59:60",
        "2024-01-31T12:00+24:00",
        "2024-13",
        "2024-00",
        "0000",
    ],
)
def test_a_date_that_does_not_exist_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(BadTime) as caught:
        parse_moment(text, NOW)
    day = text + "-01-01"[len(text) - 10 :] if len(text) < 10 else text
    zone = "" if "+" in text else "+00:00"
    with pytest.raises(ValueError, match=r".") as reason:
        datetime.fromisoformat(f"{day if 'T' in day else day + 'T00:00'}{zone}")
    assert str(caught.value) == f"{day!r} is no date that exists: {reason.value}"


@pytest.mark.parametrize(
    ("now", "ago", "stamp"),
    [
        (utc(2024, 3, 31), "1mo", utc(2024, 2, 29)),
        (utc(2024, 2, 29), "1y", utc(2023, 2, 28)),
        (utc(2024, 2, 29), "4y", utc(2020, 2, 29)),
        (utc(2024, 5, 31, 10), "3mo", utc(2024, 2, 29, 10)),
    ],
)
def test_months_ago_end_on_the_last_day_of_a_shorter_month(now: int, ago: str, stamp: int) -> None:
    assert parse_moment(ago, now) == stamp


BERLIN, NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")
LOCAL_MOMENTS = {
    ("2024-01-31", BERLIN): utc(2024, 1, 30, 23),
    ("2024-07-31", BERLIN): utc(2024, 7, 30, 22),
    ("2024-07", NEW_YORK): utc(2024, 7, 1, 4),
    ("2024", NEW_YORK): utc(2024, 1, 1, 5),
    ("2024-01-31T12:00", NEW_YORK): utc(2024, 1, 31, 17),
    # A zone in the text is the text's.
    ("2024-01-31T12:00Z", NEW_YORK): utc(2024, 1, 31, 12),
    ("2024-01-31T12:00+02:00", NEW_YORK): utc(2024, 1, 31, 10),
    ("1704067200", NEW_YORK): utc(2024, 1, 1),
    ("now", NEW_YORK): NOW,
    ("1d", NEW_YORK): NOW - 86_400 * S,
    # Across the change to summer time, months ago keep the clock's time.
    ("6mo", BERLIN): utc(2023, 9, 1, 11, 34, 56) + 789_000_001,
    # Clocks there were skipped from midnight to one o'clock: the day begins at one.
    ("2018-11-04", ZoneInfo("America/Sao_Paulo")): utc(2018, 11, 4, 3),
    # Clocks there showed midnight twice: the day begins with the first.
    ("2016-11-06", ZoneInfo("America/Havana")): utc(2016, 11, 6, 4),
    ("today", ZoneInfo("Pacific/Auckland")): utc(2024, 3, 1, 11),
    ("yesterday", ZoneInfo("Pacific/Auckland")): utc(2024, 2, 29, 11),
}


@pytest.mark.parametrize(("typed", "stamp"), LOCAL_MOMENTS.items(), ids=str)
def test_a_text_without_a_zone_is_a_time_of_the_given_one(
    typed: tuple[str, ZoneInfo], stamp: int
) -> None:
    text, zone = typed
    assert parse_moment(text, NOW, zone) == stamp


@pytest.mark.parametrize(
    "text",
    [
        "1969-12-31",
        "1969-12-31T23:59:59.999999999",
        "1970-01-01T00:00+00:01",
        "2262-04-11T23:47:16.854775807",
        "2262-04-12",
        "9999-12-31T23:59-23:59",
        "0001-01-01T00:00+23:59",
    ],
)
def test_a_moment_out_of_bounds_is_refused(text: str) -> None:
    with pytest.raises(BadTime) as caught:
        parse_moment(text, NOW)
    assert str(caught.value) == f"{text!r} is out of bounds: from 1970-01-01 to 2262-04-11"


@settings(deadline=None)
@given(st.integers(0, END_OF_TIME - 1))
@example(0)
@example(END_OF_TIME - 1)
@example(1_700_000_000_000_000_000)
@example(1_700_000_000_100_000_000)
def test_what_show_prints_is_read_back_to_the_nanosecond(stamp: int) -> None:
    assert parse_moment(show(stamp), NOW) == stamp


@pytest.mark.parametrize(
    ("stamp", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (utc(2024, 1, 31, 12), "2024-01-31T12:00:00Z"),
        (utc(2024, 1, 31, 12) + 500_000_000, "2024-01-31T12:00:00.5Z"),
        (utc(2024, 1, 31, 10) + 1, "2024-01-31T10:00:00.000000001Z"),
        (END_OF_TIME - 1, "2262-04-11T23:47:16.854775805Z"),
        (END_OF_TIME, "the end"),
    ],
)
def test_a_time_is_shown_to_its_last_digit(stamp: int, text: str) -> None:
    assert show(stamp) == text


SHOWN = {
    # Ranges end a nanosecond before the round moment that people name.
    (utc(2024, 1, 1) - 1, utc(2025, 1, 1) - 1): "2024-01-01 to 2025-01-01",
    # The exchange's clock has whole seconds, and coverage ends with one.
    (utc(2024, 1, 1), utc(2024, 1, 2, 12, 0, 1)): "2024-01-01 to 2024-01-02 12:00:01",
    (utc(2024, 1, 1, 12, 30) - 1, utc(2024, 1, 1, 13) - 1): "2024-01-01 12:30 to 2024-01-01 13:00",
    (utc(2024, 1, 1) + S // 2 - 1, utc(2024, 1, 1) + S - 1): (
        "2024-01-01 00:00:00.5 to 2024-01-01 00:00:01"
    ),
    (utc(2024, 1, 1) + 122, utc(2024, 1, 1) + 455): (
        "2024-01-01 00:00:00.000000123 to 2024-01-01 00:00:00.000000456"
    ),
    # One instant alone.
    (utc(2024, 1, 1) - 1, utc(2024, 1, 1)): "2024-01-01 to 2024-01-01 00:00:00.000000001",
    (utc(2024, 1, 1) + 4, utc(2024, 1, 1) + 5): (
        "2024-01-01 00:00:00.000000005 to 2024-01-01 00:00:00.000000006"
    ),
    (0, utc(2024, 1, 1) - 1): "the beginning to 2024-01-01",
    (utc(2024, 1, 1) - 1, END_OF_TIME): "2024-01-01 to the end",
    (0, END_OF_TIME): "the beginning to the end",
}


@pytest.mark.parametrize(("bounds", "text"), SHOWN.items())
def test_a_range_is_shown_as_people_write_it(bounds: tuple[int, int], text: str) -> None:
    assert str(Range(*bounds)) == text


@given(st.integers(1, utc(2200, 1, 1)), st.integers(1, 10**18))
def test_the_ends_shown_are_since_and_until_of_the_range_to_the_nanosecond(
    after: int, length: int
) -> None:
    since, until = str(Range(after, after + length)).split(" to ")
    read = range_between(parse_moment(since, NOW), parse_moment(until, NOW))
    assert abs(read.after - after) <= 1
    assert abs(read.through - after - length) <= 1


def test_the_bounds_text_of_a_range_is_in_nanoseconds() -> None:
    assert Range(5, 1_704_067_199_999_999_999).bounds_text == "(5, 1704067199999999999]"


# Years.


@pytest.mark.parametrize("year", [1970, 1999, 2000, 2016, 2023, 2024, 2100, 2261])
def test_a_year_ends_a_nanosecond_before_the_next_begins(year: int) -> None:
    assert year_end(year) == utc(year + 1, 1, 1) - 1


@pytest.mark.parametrize("year", [1970, 2000, 2023, 2024, 2100, 2262])
def test_a_year_begins_at_its_first_nanosecond(year: int) -> None:
    assert [year_of(utc(year, 1, 1)), year_of(max(utc(year, 1, 1) - 1, 0))] == [
        year,
        max(year - 1, 1970),
    ]


# Spans.


def test_since_is_inclusive_and_until_exclusive() -> None:
    assert range_between(100, 200) == Range(99, 199)


def test_a_span_without_until_has_no_end() -> None:
    assert range_between(100, None) == Range(99, END_OF_TIME)


def test_a_span_from_the_start_begins_at_zero() -> None:
    assert range_between(0, 200) == Range(0, 199)


def test_a_span_of_one_nanosecond_is_one() -> None:
    assert range_between(100, 101) == Range(99, 100)


@pytest.mark.parametrize("until", [utc(2024, 1, 1), utc(2023, 1, 1)])
def test_a_span_that_ends_before_it_begins_is_refused(until: int) -> None:
    with pytest.raises(BadTime) as caught:
        range_between(utc(2024, 1, 1), until)
    assert str(caught.value) == (
        f"since 2024-01-01 is not before until {show(until)[:10]}: "
        "since is inclusive, until exclusive"
    )


# Sets of ranges, held against plain sets of moments.

RANGES = st.lists(
    st.tuples(st.integers(0, 20), st.integers(1, 8)).map(lambda p: Range(p[0], p[0] + p[1])),
    max_size=8,
)


def moments(ranges: list[Range]) -> set[int]:
    """All nanoseconds that lie in one of the ranges."""
    return {at for span in ranges for at in range(span.after + 1, span.through + 1)}


@settings(deadline=None)
@given(RANGES)
def test_union_covers_the_same_moments(ranges: list[Range]) -> None:
    assert moments(union(ranges)) == moments(ranges)


@settings(deadline=None)
@given(RANGES)
def test_union_is_in_order_and_leaves_time_between_its_ranges(ranges: list[Range]) -> None:
    assert all(span.through < other.after for span, other in pairwise(union(ranges)))


@settings(deadline=None)
@given(RANGES, RANGES)
def test_missing_is_what_is_wanted_and_not_covered(
    wanted: list[Range], covered: list[Range]
) -> None:
    assert moments(missing(wanted, covered)) == moments(wanted) - moments(covered)


@settings(deadline=None)
@given(RANGES, RANGES)
def test_gaps_are_in_order_and_apart(wanted: list[Range], covered: list[Range]) -> None:
    gaps = missing(wanted, covered)
    assert all(gap.after < gap.through for gap in gaps)
    assert all(span.through < other.after for span, other in pairwise(gaps))


@settings(deadline=None)
@given(RANGES)
def test_nothing_is_missing_from_what_is_covered(ranges: list[Range]) -> None:
    assert missing(ranges, ranges) == []


# Intervals.

LENGTHS = {
    "1": 60 * S,
    "5": 300 * S,
    "1440": 86_400 * S,
    "10080": 604_800 * S,
    "1ms": 10**6,
    "250ms": 250 * 10**6,
    "1s": S,
    "7m": 420 * S,
    "007m": 420 * S,
    "4h": 14_400 * S,
    "1d": 86_400 * S,
    "2w": 14 * 86_400 * S,
    "36525d": 36_525 * 86_400 * S,
    " 1h ": 3600 * S,
}


@pytest.mark.parametrize(("text", "width"), LENGTHS.items())
def test_an_interval_of_fixed_length_is_read(text: str, width: int) -> None:
    interval = parse_interval(text)
    assert (interval.text, interval.width_ns) == (text.strip(), width)


@pytest.mark.parametrize(
    ("typed", "text"), [("5min", "5m"), ("60min", "60m"), ("4H", "4h"), ("1D", "1d"), ("2W", "2w")]
)
def test_an_interval_is_read_as_pandas_has_it(typed: str, text: str) -> None:
    assert parse_interval(typed) == parse_interval(text)


@pytest.mark.parametrize("text", ["1mo", "6mo", "1200mo", "1q", "400q", "1y", "100y"])
def test_an_interval_of_the_calendar_has_no_fixed_length(text: str) -> None:
    interval = parse_interval(text)
    assert (interval.text, interval.width_ns) == (text, None)


@pytest.mark.parametrize("number", ["1", "3"])
def test_a_capital_m_in_an_interval_is_an_error_that_names_minutes_and_months(number: str) -> None:
    with pytest.raises(BadInterval) as caught:
        parse_interval(f"{number}M")
    assert str(caught.value) == (
        f"interval '{number}M': is {number}m (minutes) meant, or {number}mo (months)?"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "m",
        "-1",
        "1.5h",
        "5 m",
        "1Min",
        "1S",
        "h1",
        "1h30m",
        "\u0667m",
        "\u0667M",
        "9" * 5000 + "m",
    ],
)
def test_what_is_no_interval_is_refused(text: str) -> None:
    with pytest.raises(BadInterval) as caught:
        parse_interval(text)
    assert str(caught.value) == (
        f"{text!r} is no interval: give a number and one of ms, s, m, h, d, w, mo, q, y, "
        "such as 7m or 4h; a bare number is minutes"
    )


@pytest.mark.parametrize("text", ["0", "0m", "00d", "0mo"])
def test_an_interval_of_no_length_is_refused(text: str) -> None:
    with pytest.raises(BadInterval) as caught:
        parse_interval(text)
    assert str(caught.value) == f"interval {text!r} has no length: give 1 or more"


@pytest.mark.parametrize(
    "text", ["36526d", "52596001", "5218w", "1201mo", "401q", "101y", "99999999999999999y"]
)
def test_an_interval_longer_than_a_century_is_refused(text: str) -> None:
    with pytest.raises(BadInterval) as caught:
        parse_interval(text)
    assert str(caught.value) == f"interval {text!r} is longer than a century: give a shorter one"


# Offsets.


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("0", 0),
        ("-0", 0),
        ("0h", 0),
        ("30m", 1800 * S),
        ("-7h", -25_200 * S),
        ("250ms", 250 * 10**6),
        ("1s", S),
        (" 1d ", 86_400 * S),
        ("-2w", -14 * 86_400 * S),
    ],
)
def test_an_offset_is_read(text: str, offset: int) -> None:
    assert parse_offset(text) == offset


@pytest.mark.parametrize(
    "text", ["", "5", "-5", "m", "1M", "1mo", "1q", "1y", "+7h", "--7h", "1.5h"]
)
def test_what_is_no_offset_is_refused(text: str) -> None:
    with pytest.raises(BadInterval) as caught:
        parse_offset(text)
    assert str(caught.value) == (
        f"{text!r} is no offset: give a number and one of ms, s, m, h, d, w, such as 30m, "
        "or -7h to move it back"
    )


@pytest.mark.parametrize("text", ["36526d", "-5218w"])
def test_an_offset_longer_than_a_century_is_refused(text: str) -> None:
    with pytest.raises(BadInterval) as caught:
        parse_offset(text)
    assert str(caught.value) == f"offset {text!r} is longer than a century: give a shorter one"
