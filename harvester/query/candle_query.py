"""A candle query, and the grid of its intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import zip_longest
from typing import Literal, NamedTuple, get_args
from zoneinfo import ZoneInfo

from harvester.errors import BadSetting
from harvester.query.calendar import CalendarGrid, FixedGrid, Grid, Stretch, Turn, turns, zone_of
from harvester.times import DAY, UNITS_NS, Interval, Range

# --- question -------------------------------------------------------------------------------------

Fill = Literal["none", "previous", "null", "kraken"]
FILLS: tuple[str, ...] = get_args(Fill)

PRICE_DECIMALS = 10
"""The decimals of a price in the archive: `columns.PRICE`."""


@dataclass(frozen=True, slots=True)
class CandleQuery:
    """Candles of one pair, of one length, over one span.

    Attributes:
        pair: the altname.
        interval: the candle's length.
        span: only trades published in it count; `(after, through]` in nanoseconds.
        fill: what to put where covered time saw no trade; see docs/candles.md.
        all_columns: the columns after `count` as well.
        offset_ns: moves the grid, by time on the clock that it follows.
        pair_decimals: the decimals that Kraken prints prices with; for `fill="kraken"` alone.
        tz: the time zone whose clock the grid follows, by its name in the tz database; None
            for UTC. It moves no column: `time` is UTC whatever is given.
        complete_only: leave out candles that are running, cut by the span, or touch a gap.

    Raises:
        BadSetting: another fill than the four, a time zone that there is not, or decimals that
            no price can have.
    """

    pair: str
    interval: Interval
    span: Range
    fill: Fill = "none"
    all_columns: bool = False
    offset_ns: int = 0
    pair_decimals: int = PRICE_DECIMALS
    tz: str | None = None
    complete_only: bool = False

    def __post_init__(self) -> None:
        """Hold what was asked to what can be answered."""
        if self.fill not in FILLS:
            raise BadSetting(f"fill is {self.fill!r}: give one of {', '.join(FILLS)}")
        if not 0 <= self.pair_decimals <= PRICE_DECIMALS:
            raise BadSetting(
                f"pair_decimals is {self.pair_decimals}: give 0 to {PRICE_DECIMALS}, the decimals "
                "that the archive keeps"
            )
        if self.tz is not None:
            zone_of(self.tz)

    @property
    def title(self) -> str:
        """The question in a few words, for messages."""
        return f"{self.interval.text} candles of {self.pair}"


# --- calendar -------------------------------------------------------------------------------------

# Intervals are counted on the clock on the wall of a zone, from 1970-01-01 00:00 on that clock,
# or from the Monday after it for weeks. They open when the clock first shows a place of that
# count.
#
# - Set forward, the clock jumps over such places: one interval opens there, for all of them.
# - Set back by less than an interval is long, it shows time again that the interval takes in.
# - Set back by an interval's length or more, it goes through the intervals of that time twice.

EPOCH = date(1970, 1, 1)
FIRST_MONDAY_NS = 4 * DAY
MONTHS = {"mo": 1, "q": 3, "y": 12}

# The grid is laid from somewhat earlier to somewhat later than asked for: how a clock was turned
# outside does not matter then to where the intervals inside open and end. A turn is a day at most.
RUN_UP_NS = 2 * DAY


class Steps(NamedTuple):
    """So many openings, at one distance from each other."""

    first_ns: int
    width_ns: int
    times: int


class Even(NamedTuple):
    """Intervals of one width on the clock, of which one opens at `phase_ns` of it."""

    width_ns: int
    phase_ns: int

    @property
    def shortest_ns(self) -> int:
        """As all are."""
        return self.width_ns

    @property
    def longest_ns(self) -> int:
        """As all are."""
        return self.width_ns

    def at_or_after(self, wall_ns: int) -> int:
        """The first opening that is not before a wall time."""
        return wall_ns + (self.phase_ns - wall_ns) % self.width_ns

    def steps(self, first_ns: int, end_ns: int) -> Iterator[Steps]:
        """The openings from one of them to before another wall time."""
        if first_ns < end_ns:
            yield Steps(first_ns, self.width_ns, (end_ns - first_ns - 1) // self.width_ns + 1)


class Months(NamedTuple):
    """Intervals of so many months, of which each opens `phase_ns` after a month begins."""

    months: int
    phase_ns: int

    @property
    def shortest_ns(self) -> int:
        """As if all were February."""
        return self.months * 28 * DAY

    @property
    def longest_ns(self) -> int:
        """As if all were January."""
        return self.months * 31 * DAY

    def at_or_after(self, wall_ns: int) -> int:
        """The first opening that is not before a wall time."""
        before = EPOCH + timedelta(days=(wall_ns - self.phase_ns - 1) // DAY)
        months = (before.year - EPOCH.year) * 12 + before.month - 1
        year, month = divmod((months // self.months + 1) * self.months, 12)
        return (date(EPOCH.year + year, month + 1, 1) - EPOCH).days * DAY + self.phase_ns

    def steps(self, first_ns: int, end_ns: int) -> Iterator[Steps]:
        """The openings from one of them to before another wall time."""
        opens_ns = first_ns
        while opens_ns < end_ns:
            yield Steps(opens_ns, 0, 1)
            opens_ns = self.at_or_after(opens_ns + 1)


Rule = Even | Months


def grid_of(question: CandleQuery, over: Range) -> Grid:
    """The intervals of a question.

    Args:
        question: what is asked; its interval, offset and time zone decide.
        over: all moments that the grid may be asked for, both edges included.

    Raises:
        BadSetting: there is no such time zone.
    """
    rule = _rule(question.interval, question.offset_ns)
    if question.tz is None and isinstance(rule, Even):
        return FixedGrid(rule.width_ns, rule.phase_ns)
    zone = None if question.tz is None else zone_of(question.tz)
    return CalendarGrid(tuple(_stretches(rule, zone, over)))


def _rule(interval: Interval, offset_ns: int) -> Rule:
    if interval.unit in MONTHS:
        return Months(interval.count * MONTHS[interval.unit], offset_ns)
    monday_ns = FIRST_MONDAY_NS if interval.unit == "w" else 0
    return Even(interval.count * UNITS_NS[interval.unit], monday_ns + offset_ns)


def _stretches(rule: Rule, zone: ZoneInfo | None, over: Range) -> list[Stretch]:
    """Neighbouring intervals of one width together."""
    around_ns = rule.longest_ns + RUN_UP_NS
    first_ns, last_ns = over.after - around_ns, over.through + around_ns
    turned = [Turn(first_ns, 0)] if zone is None else turns(zone, first_ns, last_ns)
    openings = list(_openings(rule, turned, last_ns))
    found: list[Stretch] = []
    number = 0
    for width in _widths(openings):
        if not found or found[-1].width_ns != width.width_ns:
            found.append(Stretch(width.first_ns, number, width.width_ns))
        number += width.times
    return found


def _openings(rule: Rule, turned: list[Turn], last_ns: int) -> Iterator[Steps]:
    """When intervals open, up to the first that opens after a moment."""
    shown_ns = turned[0].at_ns + turned[0].ahead_ns  # so far the clock has come, this excluded
    for turn, after in zip_longest(turned, turned[1:]):
        wall_ns = turn.at_ns + turn.ahead_ns
        if shown_ns - wall_ns >= rule.shortest_ns:
            shown_ns = wall_ns
        first_ns = rule.at_or_after(shown_ns)
        if first_ns < wall_ns:
            first_ns = rule.at_or_after(wall_ns)
            if first_ns > wall_ns:
                yield Steps(turn.at_ns, 0, 1)
        if after:
            end_ns = after.at_ns + turn.ahead_ns
        else:
            end_ns = rule.at_or_after(max(shown_ns, last_ns + turn.ahead_ns + 1)) + 1
        for some in rule.steps(first_ns, end_ns):
            yield some._replace(first_ns=some.first_ns - turn.ahead_ns)
        shown_ns = max(shown_ns, end_ns)


def _widths(openings: list[Steps]) -> Iterator[Steps]:
    """Intervals of one width together, each up to the next opening; the last opening has none."""
    for one, after in zip_longest(openings, openings[1:]):
        if one.times > 1:
            yield one._replace(times=one.times - 1)
        if after:
            last_ns = one.first_ns + (one.times - 1) * one.width_ns
            yield Steps(last_ns, after.first_ns - last_ns, 1)
