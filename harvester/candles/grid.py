"""Where candles begin and end: moments to numbered intervals and back, in Python and in SQL.

An interval is known by its number, an integer that grows by one from each to the next. All that
the rest of the room asks of a grid is here, so that a grid of the calendar can take its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from harvester.times import Range


class Whole(NamedTuple):
    """The intervals that a range holds whole, by number, both included; none if last < first."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class FixedGrid:
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

    def divided_by(self, width_ns: int) -> bool:
        """Whether each interval is made of whole ones of another width, counted from the epoch."""
        return self.width_ns % width_ns == 0 and self.offset_ns % width_ns == 0

    def whole(self, span: Range) -> Whole:
        """The intervals that lie in a range from their first nanosecond to their last.

        A range from 0 reaches back to the beginning of all time: nothing was traded before.
        """
        first = self.number(0) if span.after <= 0 else self.number(span.after) + 1
        return Whole(first, self.number(span.through + 1) - 1)

    def number_sql(self, moment_ns: str) -> str:
        """The same as `number`, of an SQL expression in nanoseconds."""
        return f"({moment_ns} + {self._shift_ns}) // {self.width_ns}"

    def opens_sql(self, number: str) -> str:
        """When an interval opens, as TIMESTAMP_NS, of an SQL expression of its number."""
        return f"make_timestamp_ns({number} * {self.width_ns} - {self._shift_ns})"
