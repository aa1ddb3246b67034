"""What `harvester status` says."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from harvester.cli import output
from harvester.cli.coverage import ASCII, BLOCKS, Marks, month_bars, year_bar, years
from harvester.cli.options import Common
from harvester.errors import gravest
from harvester.times import show
from harvester.verify.status import PairStatus, status

MOST_DETAILED = 3
"""So many pairs have their coverage shown month by month."""

MOST_SAID = 20
"""Gaps told one by one."""

GOES_FIRST = ("B/trade", "roll-ups", "first", "MB", "files", "calls", "coverage", "last", "age")
"""Columns that go where a terminal is narrow, the first one first."""


class Column(NamedTuple):
    """A column of the table: its head, a pair's cell, and the cell of the line for all."""

    name: str
    cell: Callable[[PairStatus], str]
    total: Callable[[Sequence[PairStatus]], str]
    head: str = ""


class Look(NamedTuple):
    """How the table is to look: its width in characters, None for any; the signs of its bars."""

    width: int | None
    marks: Marks

    @classmethod
    def of_stdout(cls) -> Look:
        """What fits where stdout goes."""
        return cls(output.width(), BLOCKS if output.speaks_unicode() else ASCII)


def tell(common: Common, names: Sequence[str], *, as_json: bool) -> int:
    """Report what is held; 4 where something wanted is not covered, or can't be read."""
    found = look(common, names)
    if as_json:
        output.as_json([plain(one) for one in found])
    elif found:
        levels = common.settings.candles.rollups
        output.block(text(found, levels, Look.of_stdout(), detailed=bool(names)))
        for line in remarks(found, exact=common.verbose > 0):
            output.hint(line)
    else:
        output.hint(nothing(common))
    return gravest([one.exit_status for one in found])


def look(common: Common, names: Sequence[str]) -> list[PairStatus]:
    """What the archive holds of some pairs, in any spelling; of all where none is named."""
    archive = common.existing()
    pairs = None
    if names:
        # The names of pairs are with the exchange's client, which takes its time to load.
        from harvester.pair_names import resolve_named

        pairs = list(dict.fromkeys(resolve_named(archive, name) for name in names))
    return status(archive, pairs, time.time_ns())


def nothing(common: Common) -> str:
    """What is said of an archive that holds nothing."""
    path = common.settings.archive.path
    return f"the archive at {path} holds nothing; `harvester backfill XBT/USD` begins one"


def plain(pair_status: PairStatus) -> dict[str, Any]:
    """For JSON."""
    return {
        **asdict(pair_status),
        "bytes_a_trade": pair_status.bytes_a_trade and round(pair_status.bytes_a_trade, 3),
        "exit_status": pair_status.exit_status,
    }


def text(
    found: Sequence[PairStatus], levels: Sequence[str], look: Look, *, detailed: bool = False
) -> str:
    """The table, and month by month the coverage of a few pairs.

    Args:
        found: what is held.
        levels: the roll-ups that are to be kept.
        look: how it is to look.
        detailed: whether the coverage of many pairs is shown by month, too.
    """
    rows = list(found)
    columns = _columns(found, levels, look.marks)
    cells = [[column.cell(one) for column in columns] for one in rows]
    if len(rows) > 1:
        cells.append([column.total(rows) for column in columns])
    names = [column.name for column in columns]
    heads = [column.head or column.name for column in columns]
    lines = [output.fitting(names, cells, GOES_FIRST, look.width, heads=heads)]
    if not (detailed or len(rows) <= MOST_DETAILED):
        return lines[0]
    for row in rows:
        if bars := month_bars(row, look.marks, look.width or 80):
            lines += ["", f"{row.pair} by month: {look.marks.legend()}", *bars]
    return "\n".join(lines)


def remarks(found: Sequence[PairStatus], *, exact: bool = False) -> list[str]:
    """What can't be read, and what is not covered, the first of it.

    Args:
        found: what is held.
        exact: whether ranges are shown with their bounds to the nanosecond.
    """
    lines = [f"{pair_status.pair}: {why}" for pair_status in found for why in pair_status.damaged]
    gaps = [
        f"{pair_status.pair}: not covered: {gap}{f' {gap.bounds_text}' if exact else ''}"
        for pair_status in found
        for gap in pair_status.gaps
    ]
    lines += gaps[:MOST_SAID]
    if len(gaps) > MOST_SAID:
        lines.append(f"and {len(gaps) - MOST_SAID:,} more gaps; --json tells all")
    return lines


def _columns(found: Sequence[PairStatus], levels: Sequence[str], marks: Marks) -> list[Column]:
    over = years(found)
    spanned = _years(over)

    def rollups(pair_status: PairStatus) -> str:
        return _rollups(pair_status, levels)

    return [
        Column("pair", lambda one: one.pair, lambda all_: f"{len(all_)} pairs"),
        Column("trades", lambda one: f"{one.trades:,}", _summed(lambda one: one.trades)),
        Column("first", lambda one: _date(one.first_ns), _outer(lambda one: one.first_ns, min)),
        Column("last", lambda one: _date(one.last_ns), _outer(lambda one: one.last_ns, max)),
        Column("age", lambda one: age(one.age_s), _oldest),
        Column("coverage", lambda one: year_bar(one, over, marks), lambda _: "", spanned),
        Column("gaps", lambda one: f"{len(one.gaps):,}", _summed(lambda one: len(one.gaps))),
        Column("calls", _calls, lambda all_: f"{sum(one.calls or 0 for one in all_):,}"),
        Column("files", lambda one: f"{one.files:,}", _summed(lambda one: one.files)),
        Column("MB", lambda one: _mb(one.bytes), lambda all_: _mb(sum(o.bytes for o in all_))),
        Column("B/trade", lambda one: _ratio(one.bytes, one.trades), _overall),
        Column("roll-ups", rollups, lambda all_: _all_rollups(all_, levels)),
    ]


def _years(over: Sequence[int]) -> str:
    """Such as 2013-26, or 2026."""
    if len(over) < 2:
        return str(over[0]) if over else ""
    return f"{over[0]}-{over[-1] % 100:02d}"


def _calls(pair_status: PairStatus) -> str:
    return "?" if pair_status.calls is None else f"{pair_status.calls:,}"


def _summed(of: Callable[[PairStatus], int]) -> Callable[[Sequence[PairStatus]], str]:
    return lambda all_: f"{sum(of(one) for one in all_):,}"


def _outer(
    of: Callable[[PairStatus], int | None], choose: Callable[[list[int]], int]
) -> Callable[[Sequence[PairStatus]], str]:
    def total(all_: Sequence[PairStatus]) -> str:
        known = [moment for pair_status in all_ if (moment := of(pair_status)) is not None]
        return _date(choose(known)) if known else ""

    return total


def _oldest(all_: Sequence[PairStatus]) -> str:
    return age(
        max(
            (pair_status.age_s for pair_status in all_ if pair_status.age_s is not None),
            default=None,
        )
    )


def _overall(all_: Sequence[PairStatus]) -> str:
    return _ratio(
        sum(pair_status.bytes for pair_status in all_),
        sum(pair_status.trades for pair_status in all_),
    )


def _rollups(pair_status: PairStatus, levels: Sequence[str]) -> str:
    """The levels that are whole, and of the others how far they are."""
    made = [(level, pair_status.rollups.get(level, 0)) for level in levels]
    whole = [level for level, count in made if count == pair_status.rollups_wanted and count]
    rest = [
        f"{level} {count}/{pair_status.rollups_wanted}"
        for level, count in made
        if level not in whole
    ]
    return " ".join(whole + rest) if pair_status.rollups_wanted else ""


def _all_rollups(all_: Sequence[PairStatus], levels: Sequence[str]) -> str:
    wanted = sum(pair_status.rollups_wanted for pair_status in all_) * len(levels)
    lacking = wanted - sum(
        pair_status.rollups.get(level, 0) for pair_status in all_ for level in levels
    )
    return f"{lacking:,} lacking" if lacking else ""


def _ratio(size: int, trades: int) -> str:
    return f"{size / trades:.1f}" if trades else ""


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f}"


def _date(stamp_ns: int | None) -> str:
    return "" if stamp_ns is None else show(stamp_ns)[:10]


def age(seconds: int | None) -> str:
    """A length of time in two or three characters, such as 45s, 12m, 3h, 9d or 2y."""
    if seconds is None:
        return ""
    for unit, length in (("y", 365 * 86_400), ("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length * (2 if unit in "yd" else 1):
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
