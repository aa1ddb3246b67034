"""The table of `harvester status`: a line per pair, with small bars that show its coverage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, NamedTuple

from harvester.cli import output
from harvester.progress import is_utf8_locale
from harvester.times import (
    BEGINNING_NS,
    SECOND,
    Range,
    overlap,
    show,
    year_of,
)
from harvester.verify.status import PairStatus

MAX_PAIRS_BY_MONTH = 3
"""Coverage by month is shown by default for at most this many pairs."""

MAX_GAPS_LISTED = 20

DROP_ORDER = (
    "B/trade",
    "roll-ups",
    "first",
    "MB",
    "files",
    "calls left",
    "coverage",
    "last",
    "age",
)
"""Columns that are left out where a terminal is narrow, the first one first."""


def status_to_dict(pair_status: PairStatus) -> dict[str, Any]:
    """The status of a pair, for JSON."""
    ratio = pair_status.bytes_per_trade
    return {
        **asdict(pair_status),
        "never_requested": pair_status.never_requested,
        "bytes_per_trade": ratio and round(ratio, 3),
        "exit_status": pair_status.exit_status,
    }


# --- coverage bars --------------------------------------------------------------------------------


class BarSigns(NamedTuple):
    """A sign for each state of a year or month.

    Attributes:
        whole: from its first covered moment to its last everything is covered.
        part: a part is covered; the rest is a gap, or was not requested.
        gap: nothing of what was requested is covered.
        none: nothing was requested.
    """

    whole: str
    part: str
    gap: str
    none: str

    def legend(self) -> str:
        """What the signs mean."""
        return (
            f"{self.whole} complete  {self.part} in part  {self.gap} a gap  "
            f"{self.none} not requested"
        )


BLOCKS = BarSigns("█", "▒", "░", "·")
ASCII = BarSigns("#", "+", "-", ".")


def years(found: Sequence[PairStatus]) -> range:
    """The years from the first trade or gap of some pairs to the end of coverage."""
    first = [year_of(start) for status in found if (start := _start_ns(status)) is not None]
    last = [year_of(_end_ns(status)) for status in found if _start_ns(status) is not None]
    return range(min(first), max(last) + 1) if first else range(0)


def year_bar(pair_status: PairStatus, over: Sequence[int], signs: BarSigns) -> str:
    """A sign per year of `over`."""
    bounds = [_month_bound(year, 1) for year in [*over, over[-1] + 1]] if over else []
    return _bar(pair_status, signs, bounds)


def month_bars(pair_status: PairStatus, signs: BarSigns, width: int) -> list[str]:
    """A sign per month, year by year, as many years per line as fit into `width` characters."""
    over = years([pair_status])
    if not over:
        return []
    bounds = [_month_bound(year, month) for year in over for month in range(1, 13)]
    bar = _bar(pair_status, signs, [*bounds, _month_bound(over.stop, 1)])
    cells = [f"{year} {bar[12 * i : 12 * i + 12]}" for i, year in enumerate(over)]
    per_line = max(1, (width - 2) // 19)
    return ["  " + "  ".join(cells[i : i + per_line]) for i in range(0, len(cells), per_line)]


def _start_ns(pair_status: PairStatus) -> int | None:
    starts = [] if pair_status.first_ns is None else [pair_status.first_ns]
    starts += [max(gap.after + 1, BEGINNING_NS) for gap in pair_status.gaps]
    return min(starts, default=None)


def _end_ns(pair_status: PairStatus) -> int:
    ranges = [*pair_status.coverage, *pair_status.gaps]
    return max([known.through for known in ranges], default=0)


def _bar(pair_status: PairStatus, signs: BarSigns, bounds: Sequence[int]) -> str:
    """A sign for each period between two bounds."""
    uncovered = [*pair_status.gaps, *pair_status.never_requested]
    periods = [Range(*ends) for ends in pairwise(bounds)]
    return "".join(_sign(pair_status, uncovered, signs, period) for period in periods)


def _sign(
    pair_status: PairStatus, uncovered: Sequence[Range], signs: BarSigns, period: Range
) -> str:
    """The state of a year or month."""

    def has_any(ranges: Sequence[Range]) -> bool:
        return any(overlap(known, period) for known in ranges)

    if has_any(pair_status.coverage):
        return signs.part if has_any(uncovered) else signs.whole
    return signs.gap if has_any(pair_status.gaps) else signs.none


def _month_bound(year: int, month: int) -> int:
    """The last nanosecond before a month."""
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * SECOND - 1


# --- table ----------------------------------------------------------------------------------------


class Column(NamedTuple):
    """A column of the table.

    Attributes:
        name: its name, as in `DROP_ORDER`.
        cell: makes the cell of a pair.
        total: makes the cell of the last line, which is about all pairs.
        head: what stands above it, where that is not its name.
    """

    name: str
    cell: Callable[[PairStatus], str]
    total: Callable[[Sequence[PairStatus]], str]
    head: str = ""


class TableStyle(NamedTuple):
    """Width of the table in characters, None for any; the signs of its bars."""

    width: int | None
    signs: BarSigns

    @classmethod
    def of_stdout(cls) -> TableStyle:
        """The style that fits stdout."""
        return cls(output.width(), BLOCKS if is_utf8_locale() else ASCII)


def status_text(
    found: Sequence[PairStatus],
    levels: Sequence[str],
    style: TableStyle,
    *,
    detailed: bool = False,
) -> str:
    """The table, and the coverage by month of a few pairs.

    Args:
        found: the status of each pair.
        levels: the roll-up levels of the settings.
        style: width and signs.
        detailed: whether coverage by month is shown of many pairs, too.
    """
    columns = _columns(found, levels, style.signs)
    cells = [[column.cell(pair_status) for column in columns] for pair_status in found]
    if len(found) > 1:
        cells.append([column.total(found) for column in columns])
    names = [column.name for column in columns]
    heads = [column.head or column.name for column in columns]
    lines = [
        output.columns(names, cells, heads=heads, drop_order=DROP_ORDER, max_width=style.width)
    ]
    if not (detailed or len(found) <= MAX_PAIRS_BY_MONTH):
        return lines[0]
    for pair_status in found:
        if bars := month_bars(pair_status, style.signs, style.width or 80):
            lines += ["", f"{pair_status.pair} by month: {style.signs.legend()}", *bars]
    return "\n".join(lines)


def remarks(found: Sequence[PairStatus], *, exact: bool = False) -> list[str]:
    """Lines about files that can't be read, gaps, and time that was never requested.

    Of the last two up to `MAX_GAPS_LISTED` each.

    Args:
        found: the status of each pair.
        exact: whether ranges are shown with their bounds in nanoseconds, too.
    """
    damaged = [f"{status.pair}: {why}" for status in found for why in status.damaged]
    gaps = [(status.pair, gap) for status in found for gap in status.gaps]
    unknown = [(status.pair, part) for status in found for part in status.never_requested]
    return [
        *damaged,
        *_range_lines("not covered", gaps, "gaps", exact=exact),
        *_range_lines("between downloads, never requested", unknown, "such ranges", exact=exact),
    ]


def _range_lines(
    what: str, ranges: Sequence[tuple[str, Range]], unit: str, *, exact: bool
) -> list[str]:
    lines = [
        f"{pair}: {what}: {known}{f' {known.bounds_text}' if exact else ''}"
        for pair, known in ranges[:MAX_GAPS_LISTED]
    ]
    left = len(ranges) - MAX_GAPS_LISTED
    return [*lines, f"and {left:,} more {unit}; --json shows all"] if left > 0 else lines


def _columns(found: Sequence[PairStatus], levels: Sequence[str], signs: BarSigns) -> list[Column]:
    over = years(found)

    def bar(pair_status: PairStatus) -> str:
        return year_bar(pair_status, over, signs)

    def rollups(pair_status: PairStatus) -> str:
        return _rollups(pair_status, levels)

    return [
        Column("pair", lambda status: status.pair, lambda all_: f"{len(all_)} pairs"),
        _sum_column("trades", lambda status: status.trades),
        _date_column("first", lambda status: status.first_ns, min),
        _date_column("last", lambda status: status.last_ns, max),
        Column("age", lambda status: age(status.age_s), _highest_age),
        Column("coverage", bar, lambda _: "", _years_text(over)),
        _sum_column("gaps", lambda status: len(status.gaps)),
        Column("calls left", _calls, _all_calls),
        _sum_column("files", lambda status: status.files),
        Column("MB", lambda status: _mb([status]), _mb),
        Column("B/trade", lambda status: _bytes_per_trade([status]), _bytes_per_trade),
        Column("roll-ups", rollups, lambda all_: _missing_rollups(all_, levels)),
    ]


def _sum_column(name: str, count: Callable[[PairStatus], int]) -> Column:
    return Column(
        name,
        lambda status: f"{count(status):,}",
        lambda all_: f"{sum(map(count, all_)):,}",
    )


def _date_column(
    name: str,
    time_ns: Callable[[PairStatus], int | None],
    choose: Callable[[list[int]], int],
) -> Column:
    def cell(found: Sequence[PairStatus]) -> str:
        known = [time for status in found if (time := time_ns(status)) is not None]
        return show(choose(known))[:10] if known else ""

    return Column(name, lambda status: cell([status]), cell)


def _years_text(over: Sequence[int]) -> str:
    """Such as 2013-26, or 2026."""
    if len(over) < 2:
        return str(over[0]) if over else ""
    return f"{over[0]}-{over[-1] % 100:02d}"


def _calls(pair_status: PairStatus) -> str:
    return "?" if pair_status.calls is None else f"{pair_status.calls:,}"


def _all_calls(found: Sequence[PairStatus]) -> str:
    """The sum, and a question mark if it is not known of every pair."""
    known = [status.calls for status in found if status.calls is not None]
    return f"{sum(known):,}" + (" + ?" if len(known) < len(found) else "")


def _highest_age(found: Sequence[PairStatus]) -> str:
    return age(max((status.age_s for status in found if status.age_s is not None), default=None))


def _rollups(pair_status: PairStatus, levels: Sequence[str]) -> str:
    """The levels that are complete, and for the others how many roll-ups exist."""
    wanted = pair_status.rollups_wanted
    made = [(level, pair_status.rollups.get(level, 0)) for level in levels]
    complete = [level for level, count in made if count == wanted and count]
    others = [f"{level} {count}/{wanted}" for level, count in made if level not in complete]
    return " ".join(complete + others) if wanted else ""


def _missing_rollups(found: Sequence[PairStatus], levels: Sequence[str]) -> str:
    wanted = sum(status.rollups_wanted for status in found) * len(levels)
    made = sum(status.rollups.get(level, 0) for status in found for level in levels)
    return f"{wanted - made:,} missing" if wanted > made else ""


def _bytes_per_trade(found: Sequence[PairStatus]) -> str:
    trades = sum(status.trades for status in found)
    return f"{sum(status.bytes for status in found) / trades:.1f}" if trades else ""


def _mb(found: Sequence[PairStatus]) -> str:
    return f"{sum(status.bytes for status in found) / 1e6:,.1f}"


def age(seconds: int | None) -> str:
    """A length of time in two or three characters, such as 45s, 12m, 3h, 9d or 2y."""
    if seconds is None:
        return ""
    for unit, length_s in (("y", 365 * 86_400), ("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length_s * (2 if unit in "yd" else 1):
            return f"{seconds // length_s}{unit}"
    return f"{seconds}s"
