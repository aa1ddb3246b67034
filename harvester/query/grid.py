"""Where candles begin and end: moments to numbered intervals and back, in Python and in SQL.

An interval is known by its number, an integer that grows by one from each to the next. All that
the rest of the room asks of a grid is here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import gcd
from typing import NamedTuple

from harvester.times import Range


class Whole(NamedTuple):
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

    def whole(self, span: Range) -> Whole:
        """The intervals that lie in a range from their first nanosecond to their last.

        A range from 0 reaches back to the beginning of all time: nothing was traded before.
        """
        first = self.number(0) if span.after <= 0 else self.number(span.after) + 1
        return Whole(first, self.number(span.through + 1) - 1)


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
            f"{one.number}"
            if one in singles
            else f"{one.number} + ({moment_ns} - {one.opens_ns}) // {one.width_ns}"
            for one in self.stretches
        ]
        number = _branching(moment_ns, [one.opens_ns for one in self.stretches], leaves)
        return f"({number})::BIGINT"

    def opens_sql(self, number: str) -> str:
        """When an interval opens, as TIMESTAMP_NS, of an SQL expression of its number."""
        singles = self._singles
        leaves = [
            f"{one.opens_ns}"
            if one in singles
            else f"{one.opens_ns} + ({number} - {one.number}) * {one.width_ns}"
            for one in self.stretches
        ]
        opens = _branching(number, [one.number for one in self.stretches], leaves)
        return f"make_timestamp_ns({opens})"

    @property
    def step_ns(self) -> int:
        """The greatest length that each interval opens at a multiple of."""
        return gcd(*(length for one in self.stretches for length in (one.opens_ns, one.width_ns)))


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
