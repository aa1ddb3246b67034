"""Times, ranges and intervals: parse what a person types, print it, and compute with ranges.

Inside harvester a time is an `int` of nanoseconds since the UNIX epoch (UTC), and a range is a
half-open `Range` of published time, ``(after, through]``. Only this module parses times.
"""

from __future__ import annotations

import calendar
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import NamedTuple, cast

from harvester.errors import BadInterval, BadTime

SECOND = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = 86_400 * SECOND
QUIET_S = 2
"""Two rows of a CSV file have a quiet moment between them if they are more seconds apart than this.

docs/import.md has the rule.
"""
BEGINNING_NS = 1_293_840_000 * SECOND
"""2011-01-01: the exchange did not exist before."""
END_OF_TIME = 9_223_372_036_854_775_806
"""The last time that fits nineteen digits and int64, minus one, so that `+ 1` still fits."""

UNITS_NS = {
    "ms": 1_000_000,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3600 * SECOND,
    "d": DAY,
    "w": 7 * DAY,
}

MAX_COUNT = {unit: 36_525 * DAY // width for unit, width in UNITS_NS.items()}
MONTHS = {"mo": 1, "q": 3, "y": 12}
MAX_COUNT |= {unit: 1200 // months for unit, months in MONTHS.items()}
"""How many of each unit make a century: no interval is longer."""

_AGO = re.compile(r"([0-9]{1,18})(mo|s|m|h|d|w|q|y)")
_YEAR_OR_MONTH = re.compile(r"([0-9]{4})(?:-([0-9]{2}))?")
_DIGITS_NS = {10: SECOND, 13: 1_000_000, 19: 1}
"""The nanoseconds of a bare number's unit, by its number of digits."""
_ISO = re.compile(
    r"(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2})?)(?:\.(\d{1,9}))?)?"
    r"\s?(Z|[+-]\d{2}:?\d{2})?",
    re.IGNORECASE | re.ASCII,
)
_INTERVAL = re.compile(r"([0-9]{1,18})(ms|s|m|h|d|w|mo|q|y)?")
_OFFSET = re.compile(r"(-?)(?:([0-9]{1,18})(ms|s|m|h|d|w)|0)")


class Range(NamedTuple):
    """A half-open range of published time, ``(after, through]``, in UNIX nanoseconds."""

    after: int
    through: int

    def __str__(self) -> str:
        """Both ends in UTC, such as `2024-01-01 to 2024-01-05 12:30`.

        Like `since` and `until`, the first is the first instant in the range, and the second is the
        first instant after it. Midnight is printed as a date; other times to the minute, the second
        or the last digit.
        """
        # Ranges end just before a round time (`--until 2024-01-01`), or at one: the exchange's
        # clock has whole seconds.
        start_ns, end_ns = (last if last % 10 == 0 else last + 1 for last in self)
        if start_ns == end_ns:
            # A single instant.
            start_ns, end_ns = self.after + 1, self.through + 1
        start = "the beginning" if self.after <= 0 else show_short(start_ns)
        return f"{start} to {show_short(end_ns)}"

    @property
    def bounds_text(self) -> str:
        """The exact bounds in nanoseconds, as `(after, through]`."""
        return f"({self.after}, {self.through}]"


def parse_moment(text: str, now_ns: int, zone: tzinfo = UTC) -> int:
    """Parse a time: a date or time, a UNIX time, an age such as 7d, or a word.

    Args:
        text: `0` or `start`, `now`, `today`, `yesterday`, a year, a month such as 2024-06, an ISO
            date or time, a UNIX time (10 digits: seconds, 13: milliseconds, 19: nanoseconds), or an
            age in s, m, h, d, w, mo, q or y. A year, a month or a date is its first moment.
        now_ns: the present time, UNIX nanoseconds.
        zone: the time zone of texts that name none.

    Returns UNIX nanoseconds.

    Raises:
        BadTime: it is none of these, or is before 1970 or after 2262.
    """
    stripped = text.strip()
    word = stripped.lower()
    if word in ("0", "start"):
        return 0
    if word == "now":
        return now_ns
    if word in ("today", "yesterday"):
        today = local_time(now_ns, zone).date()
        return _parse_iso(str(today - timedelta(days=word == "yesterday")), zone)
    if part := _YEAR_OR_MONTH.fullmatch(stripped):
        return _parse_iso(f"{part[1]}-{part[2] or '01'}-01", zone)
    if stripped.isdigit() and stripped.isascii():
        return _parse_digits(stripped)
    if ago := _AGO.fullmatch(word):
        if stripped.endswith("M"):
            raise BadTime(
                f"{text!r} could mean anything: for minutes ago write {word}, for months {word}o"
            )
        return _ago_ns(now_ns, int(ago[1]), ago[2], zone)
    if _ISO.fullmatch(stripped):
        return _parse_iso(stripped, zone)
    raise BadTime(
        f"{text!r} is not a time: give a date or time (2024, 2024-06, 2024-01-31, "
        "2024-01-31T12:00Z), a UNIX time (10, 13 or 19 digits), 7d, 12h or 6mo (that long ago), "
        "today, yesterday, now or start"
    )


def _parse_digits(digits: str) -> int:
    width_ns = _DIGITS_NS.get(len(digits))
    if width_ns is not None and int(digits) * width_ns <= END_OF_TIME:
        return int(digits) * width_ns
    raise BadTime(
        f"{digits!r} could mean anything: a bare number is UNIX seconds (10 digits), milliseconds "
        "(13 digits) or nanoseconds (19 digits), or a year; for days ago write 7d, for a date "
        "2024-01-31"
    )


def local_time(stamp_ns: int, zone: tzinfo | None) -> datetime:
    """A time on the clocks of a zone, or of this machine for None; without the part of a second."""
    return (_EPOCH + timedelta(seconds=stamp_ns // SECOND)).astimezone(zone)


def _ago_ns(now_ns: int, count: int, unit: str, zone: tzinfo) -> int:
    """The time a number of units ago; 0 if that is before 1970.

    For months, quarters and years, it is the same time of that month's same day, or of its last day
    if it has fewer days.
    """
    if unit in UNITS_NS:
        return max(0, now_ns - count * UNITS_NS[unit])
    now = local_time(now_ns, zone)
    months = now.year * 12 + now.month - 1 - count * MONTHS[unit]
    if months < 1970 * 12:
        return 0
    year, month = months // 12, months % 12 + 1
    day = min(now.day, calendar.monthrange(year, month)[1])
    then = now.replace(year=year, month=month, day=day, fold=0)
    return max(0, _whole_seconds(then) * SECOND + now_ns % SECOND)


def _whole_seconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(seconds=1)


def _parse_iso(text: str, default_zone: tzinfo) -> int:
    """Parse an ISO date or time, which `_ISO` matches.

    Args:
        text: the date or time.
        default_zone: its time zone if it names none. Of a time that the clocks there show twice,
            the first is meant; of one that they skip, the time as much after the change.

    Raises:
        BadTime: there is no such date, or it is before 1970 or after 2262.
    """
    date, clock, fraction, zone = cast("re.Match[str]", _ISO.fullmatch(text)).groups()
    try:
        moment = datetime.fromisoformat(
            f"{date}T{clock or '00:00'}{'+00:00' if zone in ('z', 'Z') else zone or ''}"
        )
        whole = _whole_seconds(moment if zone else moment.replace(tzinfo=default_zone))
    except (ValueError, OverflowError) as error:
        raise BadTime(f"{text!r} is no date that exists: {error}") from error
    # datetime has microseconds only, so the fraction is read digit by digit.
    stamp = whole * SECOND + int((fraction or "").ljust(9, "0"))
    if not 0 <= stamp <= END_OF_TIME:
        raise BadTime(f"{text!r} is out of bounds: from 1970-01-01 to 2262-04-11")
    return stamp


def range_between(since_ns: int, until_ns: int | None) -> Range:
    """The range from `since_ns` (inclusive) to `until_ns` (exclusive), both UNIX nanoseconds.

    Args:
        since_ns: its first instant.
        until_ns: the first instant after it; None for no end.

    Raises:
        BadTime: `since_ns` is not before `until_ns`.
    """
    through = END_OF_TIME if until_ns is None else until_ns - 1
    after = max(0, since_ns - 1)
    if through <= after:
        raise BadTime(
            f"since {show_short(since_ns)} is not before until {show_short(through + 1)}: "
            "since is inclusive, until exclusive"
        )
    return Range(after, through)


def show(stamp_ns: int) -> str:
    """A time as ISO 8601 in UTC, exact to the last digit: `2024-01-31T12:00:00.5Z`."""
    if stamp_ns >= END_OF_TIME:
        return "the end"
    whole, fraction = divmod(stamp_ns, SECOND)
    text = (_EPOCH + timedelta(seconds=whole)).strftime("%Y-%m-%dT%H:%M:%S")
    # strftime does not pad years below 1000, but times start at 1970.
    return f"{text}.{fraction:09d}".rstrip("0").rstrip(".") + "Z"


def show_short(stamp_ns: int) -> str:
    """A time in UTC as short as possible without loss: `2024-01-31`, `2024-01-31 12:00`."""
    if stamp_ns >= END_OF_TIME:
        return "the end"
    text = show(stamp_ns).removesuffix("Z").replace("T", " ")
    if stamp_ns % DAY == 0:
        return text[:10]
    return text[:16] if stamp_ns % (60 * SECOND) == 0 else text


def year_of(stamp_ns: int) -> int:
    """The calendar year (UTC) of a time."""
    return (_EPOCH + timedelta(seconds=stamp_ns // SECOND)).year


def year_end(year: int) -> int:
    """The last nanosecond of a calendar year (UTC)."""
    days = (datetime(year + 1, 1, 1, tzinfo=UTC) - _EPOCH).days
    return days * DAY - 1


def second_of(stamp_ns: int) -> Range:
    """The second that a time is in."""
    begin_ns = stamp_ns // SECOND * SECOND
    return Range(begin_ns - 1, begin_ns + SECOND - 1)


def overlap(first: Range, second: Range) -> Range | None:
    """The part that two ranges share; None if they share nothing."""
    both = Range(max(first.after, second.after), min(first.through, second.through))
    return both if both.after < both.through else None


def union(ranges: Iterable[Range]) -> list[Range]:
    """Join touching and overlapping ranges; the result is in order."""
    joined: list[Range] = []
    for part in sorted(ranges):
        if joined and part.after <= joined[-1].through:
            joined[-1] = Range(joined[-1].after, max(joined[-1].through, part.through))
        else:
            joined.append(part)
    return joined


def enclosing_range(ranges: Iterable[Range]) -> list[Range]:
    """The smallest range that contains all of some ranges, in a list; empty without ranges."""
    joined = union(ranges)
    return [Range(joined[0].after, joined[-1].through)] if joined else []


def covers(covered: Iterable[Range], requested: Range) -> bool:
    """Whether one of the disjoint covered ranges contains a whole range.

    Args:
        covered: disjoint ranges; one that begins at 0 covers all earlier times.
        requested: the range in question.
    """
    return any(
        part.after <= max(requested.after, 0) and requested.through <= part.through
        for part in covered
    )


def missing(requested: Iterable[Range], covered: Iterable[Range]) -> list[Range]:
    """The gaps: the parts of the requested ranges that no covered range contains, in order."""
    gaps: list[Range] = []
    covered_parts = union(covered)
    for requested_part in union(requested):
        reached = requested_part.after
        for covered_part in covered_parts:
            if covered_part.through <= reached or covered_part.after >= requested_part.through:
                continue
            if covered_part.after > reached:
                gaps.append(Range(reached, covered_part.after))
            reached = max(reached, covered_part.through)
        if reached < requested_part.through:
            gaps.append(Range(reached, requested_part.through))
    return gaps


MAX_NAMED_GAPS = 5
"""A note names the first gaps, up to this number; of more it gives the number and total length."""


def gap_note(gaps: Sequence[Range]) -> str:
    """Return one sentence that names gaps: `not downloaded: 2024-01-01 to 2025-01-01`."""
    named = ", ".join(str(gap) for gap in gaps[:MAX_NAMED_GAPS])
    if len(gaps) <= MAX_NAMED_GAPS:
        return f"not downloaded: {named}"
    total_ns = sum(gap.through - max(gap.after, BEGINNING_NS) for gap in gaps)
    return (
        f"not downloaded: {named} and {len(gaps) - MAX_NAMED_GAPS:,} more; {len(gaps):,} gaps, "
        f"{_length_text(total_ns)} in total"
    )


def _length_text(total_ns: int) -> str:
    for unit, width_ns in (("days", DAY), ("hours", 3600 * SECOND), ("minutes", 60 * SECOND)):
        if total_ns >= 2 * width_ns:
            return f"{total_ns / width_ns:,.1f} {unit}"
    return f"{total_ns / SECOND:,.9f}".rstrip("0").rstrip(".") + " seconds"


@dataclass(frozen=True, slots=True)
class Interval:
    """A candle interval.

    Attributes:
        text: the text without spaces, in harvester's units.
        count: its number of units.
        unit: one of the units of `MAX_COUNT`.
    """

    text: str
    count: int
    unit: str

    @property
    def name(self) -> str:
        """The normalized text, such as 60m for 60."""
        return f"{self.count}{self.unit}"

    @property
    def width_ns(self) -> int | None:
        """Fixed length in nanoseconds; None for months, quarters and years, which vary."""
        return self.count * UNITS_NS[self.unit] if self.unit in UNITS_NS else None

    @property
    def average_width_ns(self) -> int:
        """Length in nanoseconds; an average for months, quarters and years."""
        return self.count * 36_525 * DAY // MAX_COUNT[self.unit]


def parse_interval(text: str) -> Interval:
    """Parse a candle interval: a number and one of ms s m h d w mo q y; a bare number is minutes.

    `min`, and H, D and W, are accepted as pandas has them.

    Raises:
        BadInterval: it is not an interval, is zero, or is longer than a century.
    """
    stripped = text.strip()
    if re.fullmatch(r"[0-9]+M", stripped):
        number = stripped[:-1]
        raise BadInterval(
            f"interval {text!r}: is {number}m (minutes) meant, or {number}mo (months)?"
        )
    if re.fullmatch(r"[0-9]+(min|[HDW])", stripped):
        stripped = stripped.lower().replace("min", "m")
    match = _INTERVAL.fullmatch(stripped)
    if match is None:
        raise BadInterval(
            f"{text!r} is no interval: give a number and one of ms, s, m, h, d, w, mo, q, y, "
            "such as 7m or 4h; a bare number is minutes"
        )
    count, unit = int(match[1]), match[2] or "m"
    if count == 0:
        raise BadInterval(f"interval {text!r} has no length: give 1 or more")
    if count > MAX_COUNT[unit]:
        raise BadInterval(f"interval {text!r} is longer than a century: give a shorter one")
    return Interval(stripped, count, unit)


def parse_offset(text: str) -> int:
    """Parse an offset of candle boundaries: a number and one of ms s m h d w, or minus that; or 0.

    Returns nanoseconds.

    Raises:
        BadInterval: it is not an offset, or is longer than a century.
    """
    match = _OFFSET.fullmatch(text.strip())
    if match is None:
        raise BadInterval(
            f"{text!r} is no offset: give a number and one of ms, s, m, h, d, w, "
            "such as 30m, or -7h to move it back"
        )
    count, unit = int(match[2] or 0), match[3] or "w"
    if count > MAX_COUNT[unit]:
        raise BadInterval(f"offset {text!r} is longer than a century: give a shorter one")
    return count * UNITS_NS[unit] * (-1 if match[1] else 1)


def show_seconds(stamp_ns: int) -> str:
    """A time as text, cut to the second."""
    return show(stamp_ns // SECOND * SECOND)


def now_text(unit_ns: int = SECOND) -> str:
    """This machine's time as text, in whole units of this many nanoseconds."""
    return show(time.time_ns() // unit_ns * unit_ns)
