"""The visible range of time: which candles fit into it, its gaps, and strips of coverage."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol

import msgspec

from harvester.query.calendar import make_grid
from harvester.query.source_choice import text_literal
from harvester.times import (
    DAY,
    SECOND,
    Interval,
    Range,
    missing,
    overlap,
    parse_interval,
    parse_moment,
    show,
    union,
    year_end,
    year_of,
)

# --- candles that fit -----------------------------------------------------------------------------

MAX_CANDLES = 1_500
"""More than a screen has columns of pixels for."""

MAX_CANDLES_BYTES = 200_000
"""Most bytes of an answer with candles."""

LADDER = tuple(
    parse_interval(text)
    for text in "1s 5s 15s 1m 5m 15m 1h 4h 1d 1w".split()  # noqa: SIM905
)
LONGEST = tuple(map(parse_interval, ("1mo", "1y")))
"""For more than 28 years, in which there are more than 1,500 weeks."""


def intervals_from(text: str) -> Iterator[Interval]:
    """Yield an interval, and then those of the ladder that are longer; `auto` begins with 1s.

    Raises:
        BadInterval: it is neither `auto` nor an interval.
    """
    first = None if text == "auto" else parse_interval(text)
    if first is not None:
        yield first
    for interval in (*LADDER, *LONGEST):
        if first is None or interval.average_width_ns > first.average_width_ns:
            yield interval


class WholeIntervals(NamedTuple):
    """Whole intervals that contain a view.

    Attributes:
        start_ns: when the first begins.
        end_ns: when the last ends.
        next_start_ns: when the interval after the one that contains a moment begins.
    """

    start_ns: int
    end_ns: int
    next_start_ns: Callable[[int], int]

    @property
    def range(self) -> Range:
        """From the first to the last of them."""
        return Range(self.start_ns - 1, self.end_ns - 1)


def extend_to_intervals(view: Range, interval: Interval) -> WholeIntervals | None:
    """Extend a view to whole intervals; None if it has more of them than an answer may have.

    Args:
        view: the visible range.
        interval: the length of a candle.
    """
    grid = make_grid(interval, 0, None, view)
    first, last = grid.number(view.after + 1), grid.number(view.through)
    if last - first + 1 > MAX_CANDLES:
        return None
    return WholeIntervals(
        max(grid.start_ns(first), 0),
        grid.start_ns(last + 1),
        lambda moment_ns: grid.start_ns(grid.number(moment_ns) + 1),
    )


# --- gaps -----------------------------------------------------------------------------------------

GAP, NOT_REQUESTED, NO_TRADES = "gap", "not requested", "no trades"
MIN_QUIET_PART = 1 / 100
"""Smallest share of a view that is shaded as without trades."""

MAX_QUIET, MAX_GAPS = 100, 1_000
"""Most parts of a view that are shown as being without trades, and as not stored."""


class Shade(NamedTuple):
    """A part of a view without candles.

    Attributes:
        kind: `gap` (requested, but not covered), `not requested`, or `no trades` (covered, and
            nothing was traded).
        since_ms: its start in UNIX milliseconds.
        until_ms: its end.
    """

    kind: str
    since_ms: int
    until_ms: int


class Shades(NamedTuple):
    """The parts of a view without candles.

    Attributes:
        parts: in order of time; the widest if there are many.
        unstored_left_out: number of the narrowest gaps and unrequested parts that `parts` leaves
            out.
    """

    parts: list[Shade]
    unstored_left_out: int


def shades(
    view: Range, covered: Sequence[Range], gaps: Sequence[Range], traded: Sequence[Range]
) -> Shades:
    """Return the parts of a view without candles.

    Args:
        view: the visible range, without the future.
        covered: the coverage of the pair.
        gaps: the ranges that were requested and are not covered.
        traded: the intervals with candles.
    """
    if view.after >= view.through:
        return Shades([], 0)
    gaps_seen, not_requested = _not_stored(view, covered, gaps)
    seen = [both for part in union(covered) if (both := overlap(part, view))]
    least_ns = (view.through - view.after) * MIN_QUIET_PART
    quiet = [
        part for part in missing(seen, traded) if part.through - part.after >= max(least_ns, 1)
    ]
    unstored = [(part, GAP) for part in gaps_seen]
    unstored += [(part, NOT_REQUESTED) for part in not_requested]
    widest = _widest(unstored, MAX_GAPS)
    shown = sorted([*widest, *_widest([(part, NO_TRADES) for part in quiet], MAX_QUIET)])
    parts = [
        Shade(kind, (part.after + 1) // 1_000_000, (part.through + 1) // 1_000_000)
        for part, kind in shown
    ]
    return Shades(parts, len(unstored) - len(widest))


def _not_stored(
    view: Range, covered: Sequence[Range], gaps: Sequence[Range]
) -> tuple[list[Range], list[Range]]:
    """The gaps in a view, and its parts that were not requested."""
    uncovered = missing([view], covered)
    requested = union(both for gap in gaps for part in uncovered if (both := overlap(gap, part)))
    return requested, missing(uncovered, requested)


def _widest(parts: list[tuple[Range, str]], most: int) -> list[tuple[Range, str]]:
    return sorted(parts, key=lambda part: part[0].after - part[0].through)[:most]


# --- answer ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CandleView:
    """The candles of a visible range, in order of time.

    Attributes:
        pair: the pair's name as requested.
        interval: their length.
        requested: the interval that was asked for, or `auto`.
        is_coarser: whether the candles are longer than requested, which would be too many.
        since: start of the first interval in the range.
        until: end of the last one.
        time: when each candle opens, in UNIX milliseconds.
        columns: prices and volumes by name, each with the archive's digits as text.
        count: trades of each candle.
        incomplete: the indexes of candles that still run or touch a gap.
        shades: the parts of the range without candles.
        unstored_left_out: number of the narrowest gaps and unrequested parts that `shades` leaves
            out.
        now: the present time in UNIX milliseconds: what is later is not missing.
        copy: how to get the same candles elsewhere.
        version: as `ArchiveExplorer.version` returns it.
    """

    pair: str
    interval: str
    requested: str
    is_coarser: bool
    since: str
    until: str
    time: list[int]
    columns: Mapping[str, list[str]]
    count: list[int]
    incomplete: list[int]
    shades: list[Shade]
    unstored_left_out: int
    now: int
    copy: CopyTexts
    version: str

    def encoded(self) -> bytes:
        """JSON for the page; each column is one text with a space between values, for its size."""
        values = {part.name: getattr(self, part.name) for part in fields(self)}
        columns = {"time": self.time, "count": self.count, **values.pop("columns")}
        texts = {name: " ".join(map(str, column)) for name, column in columns.items()}
        return msgspec.json.encode(values | texts | {"copy": self.copy._asdict()})


# --- coverage of all years ------------------------------------------------------------------------

STRIP_PARTS = 100


class PairSummary(Protocol):
    """What the explorer reads of a `PairStatus`, which see."""

    pair: str
    wsname: str
    trades: int
    first_ns: int | None
    last_ns: int | None
    coverage: list[Range]
    gaps: list[Range]
    files: int
    bytes: int
    rollups: dict[str, int]
    damaged: list[str]


def strip_axis(statuses: Sequence[PairSummary], now_ns: int) -> Range:
    """Return the range of all strips: from the first trade or gap to the end of what is stored.

    Coverage is no start: it may reach back to 1970, without trades.

    Args:
        statuses: of all pairs.
        now_ns: the end if there is nothing.
    """
    starts = [status.first_ns for status in statuses if status.first_ns is not None]
    starts += [gap.after for status in statuses for gap in status.gaps if gap.after > 0]
    parts = [part for status in statuses for part in (*status.coverage, *status.gaps)]
    end_ns = min(max((part.through for part in parts), default=now_ns), now_ns)
    return Range(max(min([*starts, end_ns - DAY]), 0), end_ns)


def coverage_strip(covered: Sequence[Range], gaps: Sequence[Range], axis: Range) -> str:
    """Return a letter for each part of an axis: `s` stored, `g` with a gap, `n` not requested.

    Args:
        covered: the coverage of a pair.
        gaps: its gaps; even a short one shows.
        axis: the range of the strip.
    """
    letters = ["n"] * STRIP_PARTS
    width_ns = max(axis.through - axis.after, 1)
    for letter, ranges in (("s", covered), ("g", gaps)):
        for part in ranges:
            visible = overlap(part, axis)
            if visible is not None:
                first = (visible.after - axis.after) * STRIP_PARTS // width_ns
                last = -(-(visible.through - axis.after) * STRIP_PARTS // width_ns)
                last = max(last, first + 1)
                letters[first:last] = letter * (last - first)
    return "".join(letters)


MAX_PARTS = 20
"""Most parts of a year that are listed as not requested."""


class YearCoverage(NamedTuple):
    """What is missing of a year.

    Attributes:
        year: the calendar year (UTC).
        gaps: its gaps.
        not_requested: its parts that were not requested, without the future.
    """

    year: int
    gaps: list[Range]
    not_requested: list[Range]

    def texts(self) -> dict[str, Any]:
        """The number of gaps, their length in seconds, and the parts that were not requested."""
        return {
            "year": self.year,
            "gaps": len(self.gaps),
            "gap_s": sum(gap.through - gap.after for gap in self.gaps) / SECOND,
            "not_requested": [range_texts(part) for part in self.not_requested[:MAX_PARTS]],
            "not_requested_count": len(self.not_requested),
        }


def coverage_by_year(status: PairSummary, now_ns: int) -> list[YearCoverage]:
    """Return what is missing of each year, from the first trade or gap until now.

    Args:
        status: of a pair.
        now_ns: the present time.
    """
    start_ns = strip_axis([status], now_ns).after + 1
    years = []
    for number in range(year_of(start_ns), year_of(now_ns) + 1):
        year = Range(year_end(number - 1), min(year_end(number), now_ns))
        years.append(YearCoverage(number, *_not_stored(year, status.coverage, status.gaps)))
    return years


def range_texts(part: Range) -> dict[str, str]:
    """The start of a range, and its end, which is exclusive."""
    return {
        "since": "start" if part.after <= 0 else show(part.after + 1),
        "until": show(part.through + 1),
    }


def span_texts(status: PairSummary) -> dict[str, Any]:
    """The first and the last trade, the end of the coverage, and what is known of the start.

    The first trade is known (`is_first_known`) if all time before it is covered.
    """
    covered, first_ns = status.coverage, status.first_ns
    return {
        "first": None if first_ns is None else show(first_ns),
        "last": None if status.last_ns is None else show(status.last_ns),
        "stored_until": show(covered[-1].through + 1) if covered else None,
        "is_first_known": first_ns is not None
        and bool(covered)
        and covered[0].after <= 0
        and first_ns <= covered[0].through,
    }


def as_tool_table(view: CandleView) -> dict[str, Any]:
    """Return a view as a table with named columns, for tools."""
    names = [*view.columns, "count"]
    columns = [*view.columns.values(), view.count]
    return {
        "pair": view.pair,
        "interval": view.interval,
        "since": view.since,
        "until": view.until,
        "columns": ["time_ms", *names],
        "rows": [list(row) for row in zip(view.time, *columns, strict=True)],
        "incomplete": view.incomplete,
        "without_candles": [shade._asdict() for shade in view.shades],
        "unstored_left_out": view.unstored_left_out,
        "copy": view.copy._asdict(),
    }


# --- what is on the screen, to be copied ----------------------------------------------------------


class CopyTexts(NamedTuple):
    """Three ways to get the same rows.

    Attributes:
        command: a command line for a shell.
        python: one expression; `harvester` is imported.
        sql: a query for `harvester sql` or `Archive.sql`.
    """

    command: str
    python: str
    sql: str


def candle_copy_texts(path: str, pair: str, interval: str, since: str, until: str) -> CopyTexts:
    """Return how to get candles.

    Args:
        path: the archive's folder.
        pair: its name.
        interval: their length.
        since: start time.
        until: end time.
    """
    words = ["harvester", "ohlc", pair, "-i", interval, "--since", since, "--until", until]
    return CopyTexts(
        shlex.join([*words, "--data", path]),
        f"harvester.open({path!r}).ohlc({pair!r}, {interval!r}, since={since!r}, until={until!r})",
        f"FROM ohlc({text_literal(pair)}, {text_literal(interval)}, "
        f"since := {_sql_time(since)}, until := {_sql_time(until)})",
    )


def trade_copy_texts(path: str, pair: str, since: str, last: str) -> CopyTexts:
    """Return how to get trades.

    Args:
        path: the archive's folder.
        pair: its name.
        since: the time of the first one.
        last: the time of the last one.
    """
    until = _next_instant(last)
    words = ["harvester", "trades", pair, "--since", since, "--until", until, "--data", path]
    return CopyTexts(
        shlex.join(words),
        f"harvester.open({path!r}).trades({pair!r}, since={since!r}, until={until!r})",
        f"FROM tape({text_literal(pair)}) "
        f"WHERE time >= {_sql_time(since)} AND time <= {_sql_time(last)}",
    )


def sql_copy_texts(path: str, query: str) -> CopyTexts:
    """Return how to run a query, without the explorer's limits.

    Args:
        path: the archive's folder.
        query: the SQL.
    """
    return CopyTexts(
        shlex.join(["harvester", "sql", query, "--data", path]),
        f"harvester.open({path!r}).sql({query!r})",
        query,
    )


def _next_instant(moment: str) -> str:
    """The nanosecond after a time as `show` writes it: `until` is exclusive."""
    return show(parse_moment(moment, 0) + 1) if moment else ""


def _sql_time(moment: str) -> str:
    return f"TIMESTAMP_NS {text_literal(moment.removesuffix('Z').replace('T', ' '))}"
