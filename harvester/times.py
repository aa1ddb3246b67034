"""Time: what a person types becomes UTC nanoseconds here, and nowhere else.

Inside harvester a moment is an `int` of nanoseconds since the UNIX epoch, and a span is a
half-open `Range` of published time, ``(after, through]``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from harvester.errors import BadInterval, BadTime

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
BEGINNING_NS = 1_293_840_000 * SECOND
"""2011, before which there was no exchange."""
END_OF_TIME = 9_223_372_036_854_775_806
"""The last stamp that fits nineteen digits and int64, with one to spare for `+ 1`."""

UNITS_NS = {
    "ms": 1_000_000,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3600 * SECOND,
    "d": DAY,
    "w": 7 * DAY,
}

LONGEST = {unit: 36_525 * DAY // width for unit, width in UNITS_NS.items()}
LONGEST |= {"mo": 1200, "q": 400, "y": 100}
"""How many of a unit make a century: no candle is longer."""

_AGO = re.compile(r"([0-9]{1,18})(s|m|h|d|w)")
_ISO = re.compile(
    r"(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2})?)(?:\.(\d{1,9}))?)?"
    r"\s?(Z|[+-]\d{2}:?\d{2})?",
    re.IGNORECASE | re.ASCII,
)
_INTERVAL = re.compile(r"([0-9]{1,18})(ms|s|m|h|d|w|mo|q|y)?")
_OFFSET = re.compile(r"(-?)(?:([0-9]{1,18})(ms|s|m|h|d|w)|0)")


class Range(NamedTuple):
    """A half-open span of published time, ``(after, through]``, in nanoseconds."""

    after: int
    through: int

    def __str__(self) -> str:
        """Both ends as people write them, in UTC: `2024-01-01 to 2024-01-05 12:30`.

        The first is the first instant in the range, the second the first one after it, as `since`
        and `until` are. Each is a date at midnight, else to the minute, the second or the digit.
        """
        start_ns, end_ns = _boundary(self.after), _boundary(self.through)
        if start_ns == end_ns:
            # A single instant.
            start_ns, end_ns = self.after + 1, self.through + 1
        start = "the beginning" if self.after <= 0 else show_short(start_ns)
        return f"{start} to {show_short(end_ns)}"

    @property
    def bounds_text(self) -> str:
        """The bounds to the nanosecond, `(after, through]`, for who asks for more detail."""
        return f"({self.after}, {self.through}]"


def parse_moment(text: str, now_ns: int) -> int:
    """Read a moment: `0`, `start`, an ISO date or time, 10 or 19 digits, `7d`, `yesterday`, `now`.

    Returns nanoseconds since the UNIX epoch. A time without a zone is UTC.

    Raises:
        BadTime: it is none of these, or lies before 1970 or beyond 2262.
    """
    given = text.strip()
    word = given.lower()
    if word in ("0", "start"):
        return 0
    if word == "now":
        return now_ns
    if word == "yesterday":
        return (now_ns // DAY - 1) * DAY
    if given.isdigit() and given.isascii():
        return _from_digits(given)
    if ago := _AGO.fullmatch(word):
        if given.endswith("M"):
            raise BadTime(
                f"{text!r} could mean anything: for minutes ago write {word}, for months ago a date"
            )
        return max(0, now_ns - int(ago[1]) * UNITS_NS[ago[2]])
    if iso := _ISO.fullmatch(given):
        return _from_iso(given, iso)
    raise BadTime(
        f"{text!r} is no time: give an ISO date or time (2024-01-31, 2024-01-31T12:00Z), UNIX "
        "seconds or nanoseconds (10 or 19 digits), 7d or 12h (that long ago), "
        "yesterday, now or start"
    )


def _from_digits(given: str) -> int:
    if len(given) == 10:
        return int(given) * SECOND
    if len(given) == 19 and int(given) <= END_OF_TIME:
        return int(given)
    raise BadTime(
        f"{given!r} could mean anything: a bare number is UNIX seconds (10 digits) or "
        "nanoseconds (19 digits); for days ago write 7d, for a date 2024-01-31"
    )


def _from_iso(given: str, match: re.Match[str]) -> int:
    date, clock, fraction, zone = match.groups()
    zone = "+00:00" if zone is None or zone in "zZ" else zone
    try:
        moment = datetime.fromisoformat(f"{date}T{clock or '00:00'}{zone}")
    except ValueError as error:
        raise BadTime(f"{given!r} is no date that exists: {error}") from error
    # Whole seconds by datetime, the fraction by its digits: datetime stops at microseconds.
    whole = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    stamp = whole * SECOND + int((fraction or "").ljust(9, "0"))
    if not 0 <= stamp <= END_OF_TIME:
        raise BadTime(f"{given!r} is out of bounds: from 1970-01-01 to 2262-04-11")
    return stamp


def span(since_ns: int, until_ns: int | None) -> Range:
    """The range that holds `since` itself and all before `until` (exclusive; None: no end)."""
    through = END_OF_TIME if until_ns is None else until_ns - 1
    after = max(0, since_ns - 1)
    if through <= after:
        raise BadTime(
            f"--since {show(since_ns)} does not lie before --until {show(through + 1)}: "
            "since is inclusive, until exclusive"
        )
    return Range(after, through)


def show(stamp_ns: int) -> str:
    """A stamp as ISO 8601 in UTC, to its last digit: `2024-01-31T12:00:00.5Z`."""
    if stamp_ns >= END_OF_TIME:
        return "the end"
    whole, fraction = divmod(stamp_ns, SECOND)
    text = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=whole)).strftime(
        "%Y-%m-%dT%H:%M:%S"
    )
    # strftime does not pad years below 1000, and none can occur: stamps start at 1970.
    return f"{text}.{fraction:09d}".rstrip("0").rstrip(".") + "Z"


def show_short(stamp_ns: int) -> str:
    """A stamp in UTC as short as it can be: `2024-01-31`, `2024-01-31 12:00`, to the digit."""
    if stamp_ns >= END_OF_TIME:
        return "the end"
    text = show(stamp_ns).removesuffix("Z").replace("T", " ")
    if stamp_ns % DAY == 0:
        return text[:10]
    return text[:16] if stamp_ns % (60 * SECOND) == 0 else text


def _boundary(last_ns: int) -> int:
    """The stamp that names the boundary between `last_ns` and the next nanosecond.

    That is the next nanosecond, as ranges end just before a round one (`--until 2024-01-01`), or
    `last_ns` where it is the round one of the two (the exchange's clock has whole seconds).
    """
    return last_ns if last_ns % 10 == 0 else last_ns + 1


def year_of(stamp_ns: int) -> int:
    """The calendar year, in UTC, that a stamp lies in."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=stamp_ns // SECOND)).year


def year_end(year: int) -> int:
    """The last nanosecond of a year, in UTC."""
    days = (datetime(year + 1, 1, 1, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)).days
    return days * DAY - 1


def overlap(one: Range, other: Range) -> Range | None:
    """What two ranges share; None for nothing."""
    both = Range(max(one.after, other.after), min(one.through, other.through))
    return both if both.after < both.through else None


def union(ranges: Iterable[Range]) -> list[Range]:
    """The same time as few ranges as can be, in order: touching and overlapping ones joined."""
    joined: list[Range] = []
    for one in sorted(ranges):
        if joined and one.after <= joined[-1].through:
            joined[-1] = Range(joined[-1].after, max(joined[-1].through, one.through))
        else:
            joined.append(one)
    return joined


def hull(ranges: Iterable[Range]) -> list[Range]:
    """The one range from where the first of some ranges begins to where the last ends, if any."""
    joined = union(ranges)
    return [Range(joined[0].after, joined[-1].through)] if joined else []


def covers(covered: Iterable[Range], span: Range) -> bool:
    """Whether one of some disjoint ranges holds a span whole; one from 0 reaches back for ever."""
    return any(one.after <= max(span.after, 0) and span.through <= one.through for one in covered)


def missing(wanted: Iterable[Range], covered: Iterable[Range]) -> list[Range]:
    """The gaps: what is wanted and not covered, in order."""
    gaps: list[Range] = []
    have = union(covered)
    for want in union(wanted):
        at = want.after
        for held in have:
            if held.through <= at or held.after >= want.through:
                continue
            if held.after > at:
                gaps.append(Range(at, held.after))
            at = max(at, held.through)
        if at < want.through:
            gaps.append(Range(at, want.through))
    return gaps


@dataclass(frozen=True, slots=True)
class Interval:
    """A candle's length as typed, and what it means: so many of a unit of `LONGEST`."""

    text: str
    count: int
    unit: str

    @property
    def name(self) -> str:
        """The same for all ways to type it, such as 60m for 60."""
        return f"{self.count}{self.unit}"

    @property
    def width_ns(self) -> int | None:
        """Its length; None where the calendar decides."""
        return self.count * UNITS_NS[self.unit] if self.unit in UNITS_NS else None


def parse_interval(text: str) -> Interval:
    """Read a candle interval: `<n>` and one of ms s m h d w mo q y; a bare number is minutes.

    Raises:
        BadInterval: it is none of these, is zero, or is longer than a century.
    """
    given = text.strip()
    if re.fullmatch(r"[0-9]+M", given):
        raise BadInterval(
            f"interval {text!r}: is {given[:-1]}m (minutes) meant, or {given[:-1]}mo (months)?"
        )
    match = _INTERVAL.fullmatch(given)
    if match is None:
        raise BadInterval(
            f"{text!r} is no interval: give a number and one of ms, s, m, h, d, w, mo, q, y, "
            "such as 7m or 4h; a bare number is minutes"
        )
    count, unit = int(match[1]), match[2] or "m"
    if count == 0:
        raise BadInterval(f"interval {text!r} has no length: give 1 or more")
    if count > LONGEST[unit]:
        raise BadInterval(f"interval {text!r} is longer than a century: give a shorter one")
    return Interval(given, count, unit)


def parse_offset(text: str) -> int:
    """Read what moves the grid of candles: `<n>` and one of ms s m h d w, or minus that; or 0.

    Returns nanoseconds.

    Raises:
        BadInterval: it is none of these, or is longer than a century.
    """
    match = _OFFSET.fullmatch(text.strip())
    if match is None:
        raise BadInterval(
            f"{text!r} is no offset: give a number and one of ms, s, m, h, d, w, "
            "such as 30m, or -7h to move it back"
        )
    count, unit = int(match[2] or 0), match[3] or "w"
    if count > LONGEST[unit]:
        raise BadInterval(f"offset {text!r} is longer than a century: give a shorter one")
    return count * UNITS_NS[unit] * (-1 if match[1] else 1)
