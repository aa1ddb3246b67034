"""Interval grids: where candles start, for fixed widths, calendar months and time zones."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta, tzinfo
from difflib import get_close_matches
from itertools import zip_longest
from math import gcd
from typing import NamedTuple
from zoneinfo import ZoneInfo, available_timezones

from harvester.errors import BadSetting
from harvester.times import DAY, MONTHS, SECOND, UNITS_NS, Interval, Range, local_time

# --- grids ----------------------------------------------------------------------------------------

# A grid numbers its intervals with consecutive integers. Other modules use only the methods of
# `Grid`.


class WholeIntervals(NamedTuple):
    """The numbers of the intervals that lie completely in a range, both ends included.

    There are none if `last < first`.
    """

    first: int
    last: int


class GridSection(NamedTuple):
    """Intervals of one width, from the one that starts at `start_ns` up to the next section.

    Attributes:
        start_ns: start of the first interval.
        number: number of the first interval.
        width_ns: width of every interval of the section.
    """

    start_ns: int
    number: int
    width_ns: int


@dataclass(frozen=True, slots=True)
class Grid:
    """Consecutive intervals without space between them, each with a number.

    They are sections of equal width, and defined from the first section on. Intervals of one width
    in UTC are one section. Of the days of a time zone, two a year are sections of their own: of 23
    and of 25 hours.
    """

    sections: tuple[GridSection, ...]

    def number(self, moment_ns: int) -> int:
        """Return the number of the interval that contains a moment."""
        index = bisect_right(self.sections, moment_ns, key=lambda section: section.start_ns)
        section = self.sections[max(index - 1, 0)]
        return section.number + (moment_ns - section.start_ns) // section.width_ns

    def start_ns(self, number: int) -> int:
        """Return the start of an interval in nanoseconds."""
        index = bisect_right(self.sections, number, key=lambda section: section.number)
        section = self.sections[max(index - 1, 0)]
        return section.start_ns + (number - section.number) * section.width_ns

    def number_sql(self, moment_ns: str) -> str:
        """Return `number` as SQL, for an SQL expression in nanoseconds."""
        formulas = [
            f"{number}" if is_single else f"{number} + ({moment_ns} - {start_ns}) // {width_ns}"
            for (start_ns, number, width_ns), is_single in self._sections()
        ]
        starts_ns = [section.start_ns for section in self.sections]
        return f"({_binary_search_sql(moment_ns, starts_ns, formulas)})::BIGINT"

    def start_sql(self, number: str) -> str:
        """Return the start of an interval as SQL (TIMESTAMP_NS), for an expression of a number."""
        formulas = [
            f"{start_ns}" if is_single else f"{start_ns} + ({number} - {first}) * {width_ns}"
            for (start_ns, first, width_ns), is_single in self._sections()
        ]
        numbers = [section.number for section in self.sections]
        return f"make_timestamp_ns({_binary_search_sql(number, numbers, formulas)})"

    def start_of_sql(self, moment_ns: str) -> str:
        """Return the start of the interval that contains a moment, as SQL of any engine, in ns.

        Args:
            moment_ns: an SQL expression in nanoseconds, not before the first section.
        """
        formulas = [
            f"{start_ns}" if is_single else f"{moment_ns} - ({moment_ns} - {start_ns}) % {width_ns}"
            for (start_ns, _, width_ns), is_single in self._sections()
        ]
        starts_ns = [section.start_ns for section in self.sections]
        return f"({_binary_search_sql(moment_ns, starts_ns, formulas)})"

    def _sections(self) -> Iterator[tuple[GridSection, bool]]:
        """Yield each section, and whether it is one interval: a constant, which is fast to plan."""
        for section, after in zip_longest(self.sections, self.sections[1:]):
            yield section, after is not None and after.number - section.number == 1

    @property
    def step_ns(self) -> int:
        """The greatest length of which every interval start is a multiple, from the UNIX epoch."""
        return gcd(
            *(length for start_ns, _, width in self.sections for length in (start_ns, width))
        )

    def is_divisible_by(self, width_ns: int) -> bool:
        """Return whether every interval starts at a multiple of a width, from the UNIX epoch.

        If so, partial candles of that width, on the grid of the epoch, add up to the candles of
        this grid.
        """
        return self.step_ns % width_ns == 0

    def is_fixed(self, width_ns: int | None) -> bool:
        """Whether all intervals are `width_ns` long and start at multiples of it from the epoch."""
        return [section.width_ns for section in self.sections] == [width_ns] == [self.step_ns]

    def whole_intervals(self, covered: Range) -> WholeIntervals:
        """Return the intervals that lie in a range from their first nanosecond to their last.

        A range from 0 reaches back without limit: nothing was traded before.
        """
        first = self.number(0) if covered.after <= 0 else self.number(covered.after) + 1
        return WholeIntervals(first, self.number(covered.through + 1) - 1)


def fixed_grid(width_ns: int, offset_ns: int = 0) -> Grid:
    """Return the intervals of one width, counted from the UNIX epoch plus an offset.

    Args:
        width_ns: their width in nanoseconds.
        offset_ns: shifts every start.
    """
    # Not after the epoch: DuckDB's // rounds towards zero, so it equals floor from 0 on only.
    return Grid((GridSection(-(-offset_ns % width_ns), 0, width_ns),))


def _binary_search_sql(value: str, thresholds: Sequence[int], formulas: Sequence[str]) -> str:
    """Return nested CASE expressions that choose the formula of the last threshold <= value.

    A value below all thresholds gets the first formula. Every CASE halves the choice: among 500
    formulas, a value is compared nine times.
    """
    if len(formulas) == 1:
        return formulas[0]
    half = len(formulas) // 2
    below = _binary_search_sql(value, thresholds[:half], formulas[:half])
    above = _binary_search_sql(value, thresholds[half:], formulas[half:])
    return f"CASE WHEN {value} < {thresholds[half]} THEN {below} ELSE {above} END"


# --- grid of a query ------------------------------------------------------------------------------

# Intervals are counted in the local time of a zone, from 1970-01-01 00:00 local time, or from the
# Monday after it for weeks. An interval starts when the clock first shows its start.
#
# - A clock that is set forward skips some starts: one interval starts there, for all of them.
# - A clock that is set back by less than the interval's length repeats time that belongs to the
#   interval that is open.
# - A clock that is set back by the interval's length or more passes the intervals of that time
#   twice.

EPOCH = date(1970, 1, 1)
# 1970 began on a Thursday: its first Monday was four days later.
FIRST_MONDAY_NS = 4 * DAY

# The grid is computed from somewhat before to somewhat after the requested range, so that clock
# changes outside cannot affect the intervals inside. A clock change is a day at most.
MARGIN_NS = 2 * DAY


class Starts(NamedTuple):
    """`total` interval starts at equal distance from each other."""

    first_ns: int
    step_ns: int
    total: int


class FixedSteps(NamedTuple):
    """Rule for intervals of one width of local time, of which one starts at `phase_ns`."""

    width_ns: int
    phase_ns: int

    @property
    def width_bounds_ns(self) -> tuple[int, int]:
        """Least and greatest width of an interval; both are `width_ns`."""
        return self.width_ns, self.width_ns

    def first_start_ns(self, local_ns: int) -> int:
        """Return the first start at or after a local time."""
        return local_ns + (self.phase_ns - local_ns) % self.width_ns

    def starts(self, first_ns: int, end_ns: int) -> Iterator[Starts]:
        """Yield the starts from `first_ns`, itself a start, to before `end_ns`, in local time."""
        if first_ns < end_ns:
            yield Starts(first_ns, self.width_ns, (end_ns - first_ns - 1) // self.width_ns + 1)


class MonthSteps(NamedTuple):
    """Rule for intervals of some months, each of which starts `phase_ns` after a month begins."""

    months: int
    phase_ns: int

    @property
    def width_bounds_ns(self) -> tuple[int, int]:
        """Least and greatest width of an interval: months of 28 and of 31 days."""
        return self.months * 28 * DAY, self.months * 31 * DAY

    def first_start_ns(self, local_ns: int) -> int:
        """Return the first start at or after a local time."""
        before = EPOCH + timedelta(days=(local_ns - self.phase_ns - 1) // DAY)
        months = (before.year - EPOCH.year) * 12 + before.month - 1
        year, month = divmod((months // self.months + 1) * self.months, 12)
        return (date(EPOCH.year + year, month + 1, 1) - EPOCH).days * DAY + self.phase_ns

    def starts(self, first_ns: int, end_ns: int) -> Iterator[Starts]:
        """Yield the starts from `first_ns`, itself a start, to before `end_ns`, in local time."""
        start_ns = first_ns
        while start_ns < end_ns:
            yield Starts(start_ns, 0, 1)
            start_ns = self.first_start_ns(start_ns + 1)


Rule = FixedSteps | MonthSteps


def make_grid(interval: Interval, offset_ns: int, time_zone: str | None, covering: Range) -> Grid:
    """Return the grid of an interval.

    Args:
        interval: the length of the intervals.
        offset_ns: shifts every start by this much local time.
        time_zone: a name of the tz database; None for UTC.
        covering: all moments that the grid is used for, both ends included.

    Raises:
        BadSetting: the time zone does not exist.
    """
    rule = _rule(interval, offset_ns)
    if time_zone is None and isinstance(rule, FixedSteps):
        return fixed_grid(rule.width_ns, rule.phase_ns)
    zone = None if time_zone is None else find_time_zone(time_zone)
    return Grid(tuple(_sections(rule, zone, covering)))


def _rule(interval: Interval, offset_ns: int) -> Rule:
    if interval.unit in MONTHS:
        return MonthSteps(interval.count * MONTHS[interval.unit], offset_ns)
    monday_ns = FIRST_MONDAY_NS if interval.unit == "w" else 0
    return FixedSteps(interval.count * UNITS_NS[interval.unit], monday_ns + offset_ns)


def _sections(rule: Rule, zone: ZoneInfo | None, covering: Range) -> list[GridSection]:
    """Group neighbouring intervals of equal width into sections."""
    margin_ns = rule.width_bounds_ns[1] + MARGIN_NS
    first_ns, last_ns = covering.after - margin_ns, covering.through + margin_ns
    if zone is None:
        changes = [OffsetChange(first_ns, 0)]
    else:
        changes = offset_changes(zone, first_ns, last_ns)
    starts = list(_interval_starts(rule, changes, last_ns))
    sections: list[GridSection] = []
    number = 0
    for run in _equal_widths(starts):
        if not sections or sections[-1].width_ns != run.step_ns:
            sections.append(GridSection(run.first_ns, number, run.step_ns))
        number += run.total
    return sections


def _interval_starts(rule: Rule, changes: list[OffsetChange], last_ns: int) -> Iterator[Starts]:
    """Yield the interval starts in UTC, through the first one after `last_ns`."""
    # The clock has shown all local times before this one.
    shown_ns = changes[0].at_ns + changes[0].utc_offset_ns
    for change, next_change in zip_longest(changes, changes[1:]):
        local_ns = change.at_ns + change.utc_offset_ns
        if shown_ns - local_ns >= rule.width_bounds_ns[0]:
            shown_ns = local_ns
        first_ns = rule.first_start_ns(shown_ns)
        if first_ns < local_ns:
            first_ns = rule.first_start_ns(local_ns)
            if first_ns > local_ns:
                yield Starts(change.at_ns, 0, 1)
        if next_change:
            end_ns = next_change.at_ns + change.utc_offset_ns
        else:
            end_ns = rule.first_start_ns(max(shown_ns, last_ns + change.utc_offset_ns + 1)) + 1
        for starts in rule.starts(first_ns, end_ns):
            yield starts._replace(first_ns=starts.first_ns - change.utc_offset_ns)
        shown_ns = max(shown_ns, end_ns)


def _equal_widths(starts: list[Starts]) -> Iterator[Starts]:
    """Yield runs of intervals of equal width; `step_ns` is the width. The last start only ends."""
    for run, next_run in zip_longest(starts, starts[1:]):
        if run.total > 1:
            yield run._replace(total=run.total - 1)
        if next_run:
            last_ns = run.first_ns + (run.total - 1) * run.step_ns
            yield Starts(last_ns, next_run.first_ns - last_ns, 1)


# --- time zones -----------------------------------------------------------------------------------

# Local times are written as nanoseconds since 1970-01-01 00:00 local time.

# Two changes of a clock that cancel each other between two samples would be missed. Since 1970 no
# zone had less than 6 days and 23 hours between two changes (Brazil in 2000, Gaza up to 2086).
SAMPLE_S = 3 * DAY // SECOND

MIN_SIMILARITY = 0.8
"""How similar a misspelt name must be, from 0 to 1, to be suggested."""


class OffsetChange(NamedTuple):
    """From `at_ns` on, up to the next change, local time is UTC + `utc_offset_ns`."""

    at_ns: int
    utc_offset_ns: int


def offset_changes(zone: tzinfo | None, first_ns: int, last_ns: int) -> list[OffsetChange]:
    """Return the changes of a zone's UTC offset between two moments.

    Args:
        zone: the time zone; None for this machine's.
        first_ns: the first result is the offset at this moment, whether it changed there or not.
        last_ns: the last moment, included.
    """
    at_s, last_s = first_ns // SECOND, last_ns // SECOND
    changes = [OffsetChange(at_s * SECOND, _utc_offset_ns(zone, at_s))]
    while at_s < last_s:
        offset_ns, later_s = changes[-1].utc_offset_ns, min(at_s + SAMPLE_S, last_s)
        if _utc_offset_ns(zone, later_s) != offset_ns:
            later_s = _first_second_of_change(zone, at_s, later_s)
            changes.append(OffsetChange(later_s * SECOND, _utc_offset_ns(zone, later_s)))
        at_s = later_s
    return changes


def _first_second_of_change(zone: tzinfo | None, before_s: int, after_s: int) -> int:
    """Find the first second whose UTC offset differs from that of `before_s`, by bisection."""
    offset_ns = _utc_offset_ns(zone, before_s)
    while after_s - before_s > 1:
        middle_s = (before_s + after_s) // 2
        if _utc_offset_ns(zone, middle_s) == offset_ns:
            before_s = middle_s
        else:
            after_s = middle_s
    return after_s


def _utc_offset_ns(zone: tzinfo | None, at_s: int) -> int:
    offset = local_time(at_s * SECOND, zone).utcoffset() or timedelta()
    return offset // timedelta(seconds=1) * SECOND


def find_time_zone(name: str) -> ZoneInfo:
    """Return the time zone with a name of the tz database, such as Europe/Berlin.

    Raises:
        BadSetting: there is no zone of that name.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        # A folder of zones, such as `Europe`, is an OSError; a path, such as `../x`, a ValueError.
        similar = " or ".join(_similar_names(name)) or "a name such as Europe/Berlin or UTC"
    raise BadSetting(f"tz is {name!r}, which is no time zone of the tz database: give {similar}")


def _similar_names(name: str) -> list[str]:
    """Return names that differ by case or a typing error, or that end with a city of that name."""
    names = {known.casefold(): known for known in sorted(available_timezones())}
    cities = {known.rpartition("/")[2]: known for known in names}
    typed = name.strip().replace(" ", "_").casefold()
    if typed in names:
        return [names[typed]]
    similar = get_close_matches(typed, names, n=2, cutoff=MIN_SIMILARITY)
    cities_found = get_close_matches(typed, cities, n=2, cutoff=MIN_SIMILARITY)
    similar += [cities[city] for city in cities_found]
    return [names[known] for known in dict.fromkeys(similar)]
