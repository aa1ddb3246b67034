"""Id gaps, imported trades that ids leave no room for, and ids that do not increase with time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from harvester.schema import times, trade_ids
from harvester.storage.segment import Footer
from harvester.times import END_OF_TIME, Range


class IdGap(NamedTuple):
    """An id gap: two neighbouring trades with more unused ids than rows between them.

    Attributes:
        after_id: the id of the trade before the gap.
        before_id: the id of the trade after it.
        after_ns: the time of the trade before the gap.
        before_ns: the time of the trade after it; END_OF_TIME if that trade is beyond the range's
            end, where only its id is known.
        rows: rows without an id in the gap.
    """

    after_id: int
    before_id: int
    after_ns: int
    before_ns: int
    rows: int = 0

    @property
    def sides(self) -> tuple[int, int]:
        """The ids on both sides, which identify the gap."""
        return self.after_id, self.before_id


def imported_gap_text(
    pair: str,
    after_id: int,
    before_id: int,
    rows: int,
    expected: int | None = None,
    *,
    is_delisted: bool = False,
) -> str:
    """The message about an id gap that spans imported trades, which have no ids.

    Either the imported file lacks trades or the exchange skipped ids; neither is proved.

    Args:
        pair: the altname.
        after_id: the id of the trade before the imported ones.
        before_id: the id of the trade after them.
        rows: the number of imported trades between.
        expected: how many there should be; None for one for each id between.
        is_delisted: whether nothing of the pair can be downloaded.
    """
    expected = before_id - after_id - 1 if expected is None else expected
    advice = f"; `harvester backfill {pair} --replace-imported` downloads them again"
    return (
        f"between ids {after_id} and {before_id} there are {rows:,} imported trades, but "
        f"{expected:,} unused ids: the imported file lacks trades, or the exchange "
        f"skipped ids{'' if is_delisted else advice}"
    )


LONGEST_ROUNDING_NS = 1_000_000
"""The time of one trade differs by less between two forms in which the exchange prints it."""


class LastId(NamedTuple):
    """The last trade with an id so far: the next id must follow it.

    Attributes:
        trade_id: its id.
        rows_without_id: the number of rows without an id after it.
        time_ns: its time.
    """

    trade_id: int
    rows_without_id: int
    time_ns: int

    def is_newest(self, trade_id: int, time_ns: int) -> bool:
        """Whether nothing follows it, as the exchange's newest trade is this one.

        Its time may be printed in another form than it was before: exactly, as a float, or rounded.

        Args:
            trade_id: of the exchange's newest trade; 0 if unknown.
            time_ns: its time in nanoseconds.
        """
        is_same_time = abs(time_ns - self.time_ns) < LONGEST_ROUNDING_NS
        return 0 < trade_id == self.trade_id and is_same_time and not self.rows_without_id


class TradeIdentity(NamedTuple):
    """What is the same of a trade in whatever form its time is printed."""

    trade_id: int
    price: Decimal
    volume: Decimal


def identities(rows: pa.RecordBatch) -> list[TradeIdentity]:
    """The identities of rows, in order; the id of a row without one is 0."""
    values = [rows.column(name).to_pylist() for name in ("price", "volume")]
    return [*map(TradeIdentity, trade_ids(rows).tolist(), *values)]


class FirstId(NamedTuple):
    """The first trade with an id after a moment.

    Attributes:
        trade_id: its id.
        rows_without_id: the number of rows without an id between the moment and it.
    """

    trade_id: int
    rows_without_id: int


BEFORE_FIRST_ID = LastId(0, 0, 0)
"""The state before a market's first trade: ids begin with 1 (docs/kraken.md)."""


def find_gaps(last: LastId | None, rows: pa.RecordBatch) -> tuple[list[IdGap], LastId | None]:
    """Find the id gaps in rows that follow a trade. A row without an id uses up one id.

    Args:
        last: the last trade with an id before the rows; None if unknown.
        rows: a batch in the trade history's order.

    Returns the gaps in order, and the last trade with an id after these rows.
    """
    ids = trade_ids(rows)
    # True for nearly every page: each row has an id, one above the previous.
    if (
        len(ids)
        and ids[0]
        and (ids[1:] - ids[:-1] == 1).all()
        and (last is None or int(ids[0]) - last.trade_id <= last.rows_without_id + 1)
    ):
        return [], LastId(int(ids[-1]), 0, int(times(rows)[-1]))
    indexes = ids.nonzero()[0]
    if len(indexes) == 0:
        return [], last and last._replace(rows_without_id=last.rows_without_id + len(ids))
    numbers, times_ns = ids[indexes], times(rows)[indexes]
    if last is not None:
        numbers = np.concatenate(([last.trade_id], numbers))
        times_ns = np.concatenate(([last.time_ns], times_ns))
        indexes = np.concatenate(([-1 - last.rows_without_id], indexes))
    gap_starts = (np.diff(numbers) > np.diff(indexes)).nonzero()[0]
    gaps = [
        IdGap(
            int(numbers[i]),
            int(numbers[i + 1]),
            int(times_ns[i]),
            int(times_ns[i + 1]),
            int(indexes[i + 1] - indexes[i]) - 1,
        )
        for i in gap_starts
    ]
    new_last = LastId(int(numbers[-1]), len(ids) - 1 - int(indexes[-1]), int(times_ns[-1]))
    return gaps, new_last


def gap_at_end(last: LastId | None, following: FirstId | None) -> IdGap | None:
    """The id gap between the end of a range and the data that follows it, if there is one.

    Args:
        last: the last trade with an id in the range.
        following: the first trade with an id after the range.
    """
    if last is None or following is None:
        return None
    between = last.rows_without_id + following.rows_without_id
    if following.trade_id - last.trade_id - 1 <= between:
        return None
    return IdGap(last.trade_id, following.trade_id, last.time_ns, END_OF_TIME, between)


# --- counts of imported trades -------------------------------------------------------------------

# Each trade of the exchange has one id more than the trade before it. So the ids on both sides of
# imported trades without ids say how many trades there must be between them, and where imported
# trades with ids meet others, none may be missing. Before a market's first trade stands id 0.


MAX_UNCONFIRMED_SHARE = 0.01
"""A market skips ids often if this part of its downloaded trades follows an id gap that was not
confirmed. A few such gaps are also left by an exchange that did not answer well for a while."""


class WrongCount(NamedTuple):
    """Imported trades that are fewer or more than the ids on both sides of them leave room for.

    Attributes:
        after_id: the id of the last trade before them; 0 before a market's first trade.
        before_id: the id of the first trade after them.
        imported: how many imported trades without an id are between.
        rows: how many trades without an id are between, downloaded ones included.
        expected: how many there should be: the ids between, less those of confirmed id gaps.
        within: from the start of the first imported range between to the end of the last one; the
            range of the imported trade at a side, if there is none between.
        is_proved: False if too few rows may have a harmless reason: the market skips ids often, or
            a footer's `id_gaps_across_imports` has these ids next to an imported trade with an id,
            or nothing can be downloaded, so that nobody can find out.
        is_delisted: whether some of them were imported of a delisted pair.
    """

    after_id: int
    before_id: int
    imported: int
    rows: int
    expected: int
    within: Range
    is_proved: bool
    is_delisted: bool

    @property
    def sides(self) -> tuple[int, int]:
        """The ids on both sides."""
        return self.after_id, self.before_id

    def text(self, pair: str) -> str:
        """The message for users; `pair` is the altname."""
        if self.rows < self.expected:
            return imported_gap_text(
                pair, *self.sides, self.rows, self.expected, is_delisted=self.is_delisted
            )
        return (
            f"between ids {self.after_id} and {self.before_id} there are {self.imported:,} "
            f"imported trades, but {self.expected:,} unused ids: the imported file has "
            f"{self.imported - self.expected:,} too many there (rows that are in it twice, or that "
            f"have a wrong time); `harvester backfill {pair} --replace-imported` downloads the "
            "range again"
        )


class _Stretch:
    """The trades without an id since the last one that has an id."""

    def __init__(self, after_id: int | None, imported_side: Range | None = None) -> None:
        self.after_id = after_id
        self.imported = self.rows = 0
        self.within: Range | None = None
        self.imported_side = imported_side
        """The range of an imported segment whose id is at an end; None if there is none."""

    def add(self, footer: Footer, rows: int) -> None:
        """Add the trades without an id at one end of a segment; `rows` is their number."""
        if footer.is_imported:
            self.imported += rows
            first = self.within or footer.range
            self.within = Range(first.after, footer.range.through)
        elif rows and self.within is None and self.after_id == 0:
            # Old answers of the exchange have no ids: the first one may be any.
            self.after_id = None
        self.rows += rows


def wrong_counts(footers: Iterable[Footer], newest_id: int = 0) -> list[WrongCount]:
    """Find imported trades that are fewer or more than the ids on both sides leave room for.

    Too few: fewer rows without an id than unused ids; also where ids are missing next to imported
    trades that have ids. Too many: more imported rows than unused ids. Downloaded rows without an
    id never count as too many, because they may use no id.

    Args:
        footers: of the segments of a pair that are read, in order.
        newest_id: the id of the exchange's newest trade, if it is stored; 0 if unknown.
    """
    footers = list(footers)
    found = [
        (before_id, stretch, within)
        for before_id, stretch in _stretches(footers, newest_id)
        if (within := stretch.within or stretch.imported_side) is not None
    ]
    if not found:
        return []
    confirmed = {tuple(gap) for footer in footers for gap in footer.confirmed_id_gaps}
    across = {tuple(gap) for footer in footers for gap in footer.id_gaps_across_imports}
    downloaded = [footer for footer in footers if not footer.is_imported]
    skips_often = sum(
        footer.unconfirmed_id_gaps for footer in downloaded
    ) > MAX_UNCONFIRMED_SHARE * sum(footer.rows for footer in downloaded)
    is_delisted = any(footer.ends_between_trades for footer in footers)
    wrong = []
    for before_id, stretch, within in found:
        after_id = stretch.after_id
        if after_id is None or before_id <= after_id or (after_id, before_id) in confirmed:
            continue
        skipped = sum(
            right - left - 1 for left, right in confirmed if after_id <= left and right <= before_id
        )
        expected = before_id - after_id - 1 - skipped
        if stretch.rows < expected or stretch.imported > expected:
            counts = (stretch.imported, stretch.rows, expected)
            is_excused = stretch.imported_side is not None and (after_id, before_id) in across
            may_be_right = skips_often or is_excused or is_delisted
            is_proved = stretch.imported > expected or not may_be_right
            wrong.append(WrongCount(after_id, before_id, *counts, within, is_proved, is_delisted))
    return wrong


def _stretches(footers: Iterable[Footer], newest_id: int) -> Iterator[tuple[int, _Stretch]]:
    """Yield each id that ends a stretch of trades without ids, and that stretch.

    A gap in coverage begins a new stretch. The id that the exchange gives next ends the last one.
    There, imported trades are never too many: they may be newer than the exchange's answer.
    """
    reached = -1
    stretch = _Stretch(None)
    for footer in footers:
        if footer.range.after != reached:
            stretch = _Stretch(0 if footer.range.after == 0 else None)
        reached = footer.range.through
        if footer.first_trade_id is None:
            stretch.add(footer, footer.rows)
            continue
        if footer.rows_before_first_id:
            stretch.add(footer, footer.rows_before_first_id)
        imported_side = footer.range if footer.is_imported else None
        stretch.imported_side = stretch.imported_side or imported_side
        yield footer.first_trade_id, stretch
        stretch = _Stretch(footer.last_trade_id, imported_side)
        if footer.rows_after_last_id:
            stretch.add(footer, footer.rows_after_last_id)
    if newest_id:
        stretch.imported = 0
        yield newest_id + 1, stretch


# --- order of ids --------------------------------------------------------------------------------

# The ids of a market increase with time, apart from trades of nearly the same time. Where those of
# imported trades do not, the file has trades twice or wrong ids.


def wrong_ids_advice(pair: str) -> str:
    """What to do about imported trades whose ids are wrong; `pair` is the altname."""
    return (
        "the imported file has wrong ids, or trades twice; `harvester backfill "
        f"{pair} --replace-imported` downloads imported ranges again"
    )


def wrong_orders(footers: Iterable[Footer], pair: str) -> Iterator[tuple[Range, str]]:
    """Find imported segments whose ids do not fit those of their neighbours.

    Args:
        footers: of the segments of a pair that are read, in order.
        pair: its altname.

    Yields:
        The range of such a segment, of the later one if both are imported, and what is wrong.
    """
    numbered = [footer for footer in footers if footer.first_trade_id is not None]
    for before, footer in pairwise(numbered):
        ends = before.last_trade_id or 0, footer.first_trade_id or 0
        imported = [each for each in (before, footer) if each.is_imported]
        if ends[1] <= ends[0] and imported:
            yield (
                imported[-1].range,
                f"trade id {ends[0]} is followed by {ends[1]} at an end of imported trades, but "
                f"ids increase with time: {wrong_ids_advice(pair)}",
            )
