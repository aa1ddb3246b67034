"""Grids of intervals: fixed width, months and years, time zones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from difflib import get_close_matches
from itertools import pairwise
from math import gcd
from typing import NamedTuple
from zoneinfo import ZoneInfo, available_timezones

from harvester.errors import BadSetting
from harvester.times import DAY, SECOND, Range

# --- grid -----------------------------------------------------------------------------------------

# An interval is known by its number, an integer that grows by one from each to the next. All that
# the rest of the room asks of a grid is here.


class WholeGrid(NamedTuple):
    """The intervals that a range holds whole, by number, both included; none if last < first."""

    first: int
    last: int


class Grid(ABC):
    """Intervals, one right after the other, each with its number."""

    __slots__ = ()

    @abstractmethod
    def number(self, moment_ns: int) -> int:
        """The interval that a moment lies in."""

    @abstractmethod
    def opens(self, number: int) -> int:
        """When an interval opens, in nanoseconds."""

    @abstractmethod
    def number_sql(self, moment_ns: str) -> str:
        """The same as `number`, of an SQL expression in nanoseconds."""

    @abstractmethod
    def opens_sql(self, number: str) -> str:
        """When an interval opens, as TIMESTAMP_NS, of an SQL expression of its number."""

    @property
    @abstractmethod
    def step_ns(self) -> int:
        """The greatest length that each interval opens at a multiple of, from the UNIX epoch on."""

    def divided_by(self, level_ns: int) -> bool:
        """Whether each interval opens at a multiple of a length, counted from the UNIX epoch.

        If so, candles of that length, on the grid of the epoch, add up to those of this one.
        """
        return self.step_ns % level_ns == 0

    def whole(self, span: Range) -> WholeGrid:
        """The intervals that lie in a range from their first nanosecond to their last.

        A range from 0 reaches back to the beginning of all time: nothing was traded before.
        """
        first = self.number(0) if span.after <= 0 else self.number(span.after) + 1
        return WholeGrid(first, self.number(span.through + 1) - 1)


@dataclass(frozen=True, slots=True)
class FixedGrid(Grid):
    """Intervals of one width, counted from the UNIX epoch plus an offset, in nanoseconds."""

    width_ns: int
    offset_ns: int = 0

    @property
    def _shift_ns(self) -> int:
        # Never negative: DuckDB's // cuts towards zero, and so floors what is not below it.
        return -self.offset_ns % self.width_ns

    def number(self, moment_ns: int) -> int:
        """The interval that a moment lies in."""
        return (moment_ns + self._shift_ns) // self.width_ns

    def opens(self, number: int) -> int:
        """When an interval opens, in nanoseconds."""
        return number * self.width_ns - self._shift_ns

    def number_sql(self, moment_ns: str) -> str:
        """The same as `number`, of an SQL expression in nanoseconds."""
        return f"({moment_ns} + {self._shift_ns}) // {self.width_ns}"

    def opens_sql(self, number: str) -> str:
        """When an interval opens, as TIMESTAMP_NS, of an SQL expression of its number."""
        return f"make_timestamp_ns({number} * {self.width_ns} - {self._shift_ns})"

    @property
    def step_ns(self) -> int:
        """The greatest length that each interval opens at a multiple of."""
        return gcd(self.width_ns, self._shift_ns)


class Stretch(NamedTuple):
    """Intervals of one width, from the first, which has a number, up to the next stretch."""

    opens_ns: int
    number: int
    width_ns: int


@dataclass(frozen=True, slots=True)
class CalendarGrid(Grid):
    """Intervals of many widths, in stretches of one width each; known from the first of them on.

    In the days of a zone, two in a year are stretches of their own, of 23 and of 25 hours.
    """

    stretches: tuple[Stretch, ...]

    @property
    def _singles(self) -> set[Stretch]:
        """Stretches of one interval: a constant, which DuckDB plans faster than a formula."""
        return {a for a, b in pairwise(self.stretches) if b.number - a.number == 1}

    def number(self, moment_ns: int) -> int:
        """The interval that a moment lies in."""
        after = bisect_right(self.stretches, moment_ns, key=lambda one: one.opens_ns)
        one = self.stretches[max(after - 1, 0)]
        return one.number + (moment_ns - one.opens_ns) // one.width_ns

    def opens(self, number: int) -> int:
        """When an interval opens, in nanoseconds."""
        after = bisect_right(self.stretches, number, key=lambda one: one.number)
        one = self.stretches[max(after - 1, 0)]
        return one.opens_ns + (number - one.number) * one.width_ns

    def number_sql(self, moment_ns: str) -> str:
        """The same as `number`, of an SQL expression in nanoseconds."""
        singles = self._singles
        leaves = [
            f"{stretch.number}"
            if stretch in singles
            else f"{stretch.number} + ({moment_ns} - {stretch.opens_ns}) // {stretch.width_ns}"
            for stretch in self.stretches
        ]
        number = _branching(moment_ns, [stretch.opens_ns for stretch in self.stretches], leaves)
        return f"({number})::BIGINT"

    def opens_sql(self, number: str) -> str:
        """When an interval opens, as TIMESTAMP_NS, of an SQL expression of its number."""
        singles = self._singles
        leaves = [
            f"{stretch.opens_ns}"
            if stretch in singles
            else f"{stretch.opens_ns} + ({number} - {stretch.number}) * {stretch.width_ns}"
            for stretch in self.stretches
        ]
        opens = _branching(number, [stretch.number for stretch in self.stretches], leaves)
        return f"make_timestamp_ns({opens})"

    @property
    def step_ns(self) -> int:
        """The greatest length that each interval opens at a multiple of."""
        return gcd(
            *(
                length
                for stretch in self.stretches
                for length in (stretch.opens_ns, stretch.width_ns)
            )
        )


def _branching(value: str, froms: Sequence[int], leaves: Sequence[str]) -> str:
    """The leaf of the last `from` that is not above a value; of the first one below all of them.

    Halved and halved again: of 500 leaves, a value is compared with nine.
    """
    if len(leaves) == 1:
        return leaves[0]
    half = len(leaves) // 2
    below = _branching(value, froms[:half], leaves[:half])
    above = _branching(value, froms[half:], leaves[half:])
    return f"CASE WHEN {value} < {froms[half]} THEN {below} ELSE {above} END"


# --- clock ----------------------------------------------------------------------------------------

# A wall time is written as a stamp is, in nanoseconds since 1970-01-01 00:00, but on that clock.

# A clock that is turned and turned back between two looks would go unseen. Since 1970 no zone
# left less than 6 days and 23 hours between two turns (Brazil in 2000, Gaza up to 2086).
LOOK_S = 3 * DAY // SECOND

NEAR = 0.8
"""How alike two names must be, from 0 to 1, for one to be meant by the other."""


class Turn(NamedTuple):
    """From `at_ns` on, and up to the next turn, the clock is ahead of UTC by `ahead_ns`."""

    at_ns: int
    ahead_ns: int


def turns(zone: ZoneInfo, first_ns: int, last_ns: int) -> list[Turn]:
    """What the clock of a zone does from one moment through another; the first is no real turn."""
    at, last = first_ns // SECOND, last_ns // SECOND
    found = [Turn(at * SECOND, _ahead_ns(zone, at))]
    while at < last:
        ahead_ns, later = found[-1].ahead_ns, min(at + LOOK_S, last)
        if _ahead_ns(zone, later) != ahead_ns:
            later = _turned(zone, at, later)
            found.append(Turn(later * SECOND, _ahead_ns(zone, later)))
        at = later
    return found


def _turned(zone: ZoneInfo, before: int, after: int) -> int:
    """The first second that is not as far ahead as `before` is, while `after` is not either."""
    ahead_ns = _ahead_ns(zone, before)
    while after - before > 1:
        middle = (before + after) // 2
        if _ahead_ns(zone, middle) == ahead_ns:
            before = middle
        else:
            after = middle
    return after


def _ahead_ns(zone: ZoneInfo, at: int) -> int:
    ahead = datetime.fromtimestamp(at, zone).utcoffset() or timedelta()
    return ahead // timedelta(seconds=1) * SECOND


def zone_of(name: str) -> ZoneInfo:
    """The time zone of a name in the tz database, such as Europe/Berlin.

    Raises:
        BadSetting: there is none of that name.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        # A folder of zones, such as `Europe`, is an OSError; a path, such as `../x`, a ValueError.
        meant = " or ".join(_names_like(name)) or "a name such as Europe/Berlin or UTC"
    raise BadSetting(f"tz is {name!r}, which is no time zone of the tz database: give {meant}")


def _names_like(name: str) -> list[str]:
    """Names that another case, a slip of the keyboard, or a city alone is near to."""
    names = {known.casefold(): known for known in sorted(available_timezones())}
    cities = {known.rpartition("/")[2]: known for known in names}
    wanted = name.strip().replace(" ", "_").casefold()
    if wanted in names:
        return [names[wanted]]
    near = get_close_matches(wanted, names, n=2, cutoff=NEAR)
    near += [cities[city] for city in get_close_matches(wanted, cities, n=2, cutoff=NEAR)]
    return [names[known] for known in dict.fromkeys(near)]
