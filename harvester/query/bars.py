"""Bars that end by a number of trades, a volume or a value instead of by time."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa

from harvester.errors import ArchiveDamaged, BadSetting, NothingHeld, ValueDoesNotFit
from harvester.query import aggregate
from harvester.query.aggregate import (
    Columns,
    TradeArrays,
    bar_schema,
    group_trades,
    merge_open_bar,
    slice_bars,
    to_batch,
)
from harvester.schema import Int64s
from harvester.storage.trade_store import EVERYTHING, TradeStore
from harvester.times import Range, show

# --- bar size -------------------------------------------------------------------------------------

By = Literal["trades", "volume", "value"]
BYS: tuple[By, ...] = get_args(By)

DECIMALS = {"trades": 0, "volume": 8, "value": 18}
"""A volume has eight decimals; a price has ten, so price x volume has eighteen."""

_DIGITS = 38
_NUMBER = re.compile(r"(\d*)(?:\.(\d*))?", re.ASCII)


class BarSize(NamedTuple):
    """The size at which a bar ends: a number of trades, a volume or a value.

    Attributes:
        by: what is counted.
        text: the size as typed.
        units: the size in trades, in 1e-8 of volume or in 1e-18 of value.
    """

    by: By
    text: str
    units: int


def parse_size(by: By, text: str) -> BarSize:
    """Parse a bar's size.

    Args:
        by: `trades`, `volume` or `value`.
        text: plain digits, for volume and value with a decimal point.

    Raises:
        BadSetting: `by` is none of the three, or the size is no number above 0, or has more digits
            than a sum keeps.
    """
    if by not in BYS:
        raise BadSetting(f"bars of {by!r}: give one of {', '.join(BYS)}")
    digits, decimals = text.strip(), DECIMALS[by]
    match = _NUMBER.fullmatch(digits)
    if match is None or not (match[1] or match[2]):
        example = "such as 1000" if by == "trades" else "such as 10 or 0.5"
        raise BadSetting(f"{by} {text!r} is no number: give plain digits, {example}")
    whole, fraction = match[1].lstrip("0"), (match[2] or "").rstrip("0")
    if len(fraction) > decimals:
        raise BadSetting(f"{by} {text!r}: {_decimals_hint(by)}")
    if len(whole) + decimals > _DIGITS or (by == "trades" and len(whole) > 18):
        raise BadSetting(
            f"{by} {text!r} is more than any bar can reach: give less than "
            f"10^{18 if by == 'trades' else _DIGITS - decimals}"
        )
    units = int((whole + fraction.ljust(decimals, "0")) or "0")
    if units == 0:
        raise BadSetting(f"{by} {text!r} would never end a bar: give more than 0")
    return BarSize(by, digits, units)


def _decimals_hint(by: By) -> str:
    if by == "trades":
        return "no trade is ever split: give a whole number"
    return f"a {by} has {DECIMALS[by]} decimals at most"


# --- ends of bars ---------------------------------------------------------------------------------

_KEY_BITS = 60
"""The sum of two keys fits 64 bits."""

_LARGE_BAR_TRADES = 100
"""From this mean size on, each bar's end is searched; of smaller bars all ends at once."""


def ends_by_count(size: int, rows: int, so_far: int) -> Int64s:
    """Return the index of the last trade of each bar of `size` trades.

    Args:
        size: the number of trades of a bar.
        rows: how many trades there are.
        so_far: how many trades the open bar has already.
    """
    return np.arange(size - so_far - 1, rows, size, dtype=np.int64)


def ends_by_sum(size: int, amounts: Int64s, so_far: int) -> Int64s:
    """Return the index of the last trade of each bar: the one with which its sum reaches `size`.

    Args:
        size: the sum that ends a bar, above `so_far`.
        amounts: the volume or value of each trade, not negative, as limbs of shape (limbs, trades).
        so_far: the sum of the open bar.
    """
    rows = amounts.shape[1]
    sums = _RunningSum(amounts)
    if sums.total < size - so_far:
        return np.empty(0, dtype=np.int64)
    ends = [sums.first_at(size - so_far)]
    # A size that no second bar can reach is reduced, so that it fits the keys.
    ends.extend(_following_ends(sums.end_finder(min(size, sums.total + 1)), ends[0], rows))
    return np.array(ends, dtype=np.int64)


def _following_ends(find_end: Callable[[int], int], end: int, rows: int) -> Iterator[int]:
    """Yield the ends of the following bars; each begins after the end of the previous one."""
    while (end := find_end(end)) < rows:
        yield end


class _RunningSum:
    """The cumulative sum at each trade: as a key of 64 bits, and exactly where the key is doubtful.

    The key is the exact sum without its lowest bits, so that the total fits. It decides nearly all
    comparisons.
    """

    def __init__(self, amounts: Int64s) -> None:
        self._limbs = aggregate.propagate_carries(np.cumsum(amounts, axis=1))
        self.rows = amounts.shape[1]
        self.total = self._exact(self.rows - 1)
        self._shift = max(0, self.total.bit_length() - _KEY_BITS)
        self._keys = self._shifted_sums()

    def _shifted_sums(self) -> Int64s:
        keys = np.zeros(self.rows, dtype=np.int64)
        for i, limb in enumerate(self._limbs):
            bits = aggregate.BITS * i - self._shift
            if bits >= 0:
                keys += limb << bits
            elif bits > -64:
                keys += limb >> -bits
        return keys

    def _exact(self, index: int) -> int:
        return aggregate.to_int(self._limbs[:, index])

    def first_at(self, wanted: int) -> int:
        """Return the index of the first trade at which the sum reaches `wanted`, or `rows`."""
        key = wanted >> self._shift
        low, high = int(self._keys.searchsorted(key)), int(self._keys.searchsorted(key + 1))
        return bisect_left(range(self.rows), wanted, low, high, key=self._exact)

    def end_finder(self, size: int) -> Callable[[int], int]:
        """Return a function from the end of a bar to the end of the next one."""
        if self.total < size * (self.rows // _LARGE_BAR_TRADES):
            return lambda end: self.first_at(self._exact(end) + size)
        # The lowest bits, which both keys lack, may add one unit to the sum.
        least = self._keys + (size >> self._shift)
        low: list[int] = self._keys.searchsorted(least).tolist()
        if self._shift == 0:
            return low.__getitem__
        high: list[int] = self._keys.searchsorted(least + 2).tolist()
        return lambda end: (
            low[end] if low[end] == high[end] else self.first_at(self._exact(end) + size)
        )


# --- bars -----------------------------------------------------------------------------------------

BATCH_ROWS = 100_000
STEP_ROWS = 32_768
MAX_WAITING_BATCHES = 64
"""A batch is returned after about two million trades, even if they make few bars."""


@dataclass(frozen=True, slots=True)
class BarQuery:
    """A request for the bars of one pair, of one size.

    Attributes:
        pair: the altname.
        size: the size at which a bar ends.
        range: bars whose first trade was published in it are returned; it does not move any bar.
        anchor_ns: counting begins with the first trade at or after it.
        all_columns: also return the columns between `count` and `last_time`.
        complete_only: leave out bars that ended before their size, at a gap or at the end.
    """

    pair: str
    size: BarSize
    range: Range = EVERYTHING
    anchor_ns: int = 0
    all_columns: bool = False
    complete_only: bool = False

    @property
    def title(self) -> str:
        """The query in a few words, for messages."""
        return f"{self.pair} in bars of {self.size.by} {self.size.text}"


def bar_batches(
    archive: TradeStore,
    query: BarQuery,
    *,
    batch_rows: int = BATCH_ROWS,
    step_rows: int = STEP_ROWS,
) -> Iterator[pa.RecordBatch]:
    """Yield bars as Arrow batches, in order, at least one; docs/bars.md describes the columns.

    The trade history is read once, as a stream, from where counting begins: memory does not grow
    with it. The result is right even while the archive is being written.

    Args:
        archive: where the trades are.
        query: the query.
        batch_rows: about how many bars a batch has.
        step_rows: how many trades are counted at a time; the bars do not depend on it.

    Raises:
        NothingHeld: the archive has no trades of the pair.
        ArchiveDamaged: a file can't be read, or compaction removes files again and again.
        ValueDoesNotFit: a bar's sum has more than 38 digits.
    """
    runs = _covered_runs(archive, query)
    schema = bar_schema(all_columns=query.all_columns)
    # A batch without rows, so that there is at least one, with the columns.
    waiting, rows = [pa.RecordBatch.from_pylist([], schema=schema)], 0
    for batch in _bars_of_runs(archive, query, runs, min(step_rows, aggregate.MAX_ROWS)):
        waiting.append(batch)
        rows += batch.num_rows
        if rows >= batch_rows or len(waiting) == MAX_WAITING_BATCHES:
            yield pa.concat_batches(waiting)
            waiting, rows = [], 0
    if waiting:
        yield pa.concat_batches(waiting)


def counted_ranges(query: BarQuery) -> list[Range]:
    """Return the ranges in which gaps matter: counting begins at the anchor and after each gap."""
    from_anchor = Range(max(0, query.anchor_ns - 1), query.range.through)
    return [query.range, *([from_anchor] if from_anchor.after < from_anchor.through else [])]


def _covered_runs(archive: TradeStore, query: BarQuery) -> list[Range]:
    """Return the covered ranges to count in; those before the requested range are left out."""
    covered = archive.coverage(query.pair)
    if not covered:
        pairs = archive.held()
        raise NothingHeld(
            f"the archive at {archive.path} holds no trades of {query.pair}; "
            + (f"it holds {', '.join(pairs)}. " if pairs else "it is empty. ")
            + f"`harvester backfill {query.pair}` fetches them"
        )
    anchor = max(0, query.anchor_ns - 1)
    return [
        Range(max(run.after, anchor), run.through)
        for run in covered
        if run.through > max(anchor, query.range.after)
    ]


def _bars_of_runs(
    archive: TradeStore, query: BarQuery, runs: list[Range], step_rows: int
) -> Iterator[pa.RecordBatch]:
    """Yield the bars that begin in the requested range, in batches."""
    for run in runs:
        if run.after >= query.range.through:
            return
        open_bar: Columns | None = None
        for batch in archive.scan(query.pair, run):
            for start in range(0, batch.num_rows, step_rows):
                full, open_bar = _cut_batch(query, batch.slice(start, step_rows), open_bar)
                yield from _in_range(query, full, is_complete=True)
                newest = full if open_bar is None else open_bar
                if newest["time"][-1] > query.range.through:
                    return
        # At a gap and at the end the open bar ends incomplete.
        if open_bar is not None and not query.complete_only:
            yield from _in_range(query, open_bar, is_complete=False)


def _cut_batch(
    query: BarQuery, batch: pa.RecordBatch, open_bar: Columns | None
) -> tuple[Columns, Columns | None]:
    """Return the bars that end in a batch, and the bar that is open after it."""
    trades = TradeArrays.of(batch)
    if trades.price.min() < 0 or trades.volume.min() < 0:
        raise ArchiveDamaged(
            f"{query.title}: a price or a volume below 0 was published between "
            f"{show(int(trades.time[0]))} and {show(int(trades.time[-1]))}: nothing can be counted"
        )
    ends = _ends(query.size, trades, open_bar)
    last = batch.num_rows - 1
    starts = np.append(0, ends[ends < last] + 1)
    bars = group_trades(batch, trades, starts, all_columns=query.all_columns)
    if open_bar is not None:
        merge_open_bar(open_bar, bars)
    _check_sums(query, bars)
    next_open_bar = slice_bars(bars, len(ends)) if len(ends) < len(starts) else None
    return slice_bars(bars, 0, len(ends)), next_open_bar


def _ends(size: BarSize, trades: TradeArrays, open_bar: Columns | None) -> Int64s:
    if size.by == "trades":
        so_far = 0 if open_bar is None else int(open_bar["count"][0])
        return ends_by_count(size.units, len(trades.time), so_far)
    so_far = 0 if open_bar is None else aggregate.to_int(open_bar[size.by][:, 0])
    return ends_by_sum(size.units, trades.volume if size.by == "volume" else trades.value, so_far)


def _check_sums(query: BarQuery, bars: Columns) -> None:
    """Raise an error for a sum that does not fit a decimal."""
    for name in ("value", "volume"):
        for index in aggregate.indices_of_overflow(bars[name])[:1]:
            raise ValueDoesNotFit(
                f"{query.title}: the {name} of the bar that begins at "
                f"{show(int(bars['time'][index]))} does not fit 38 exact digits: "
                "ask for smaller bars"
            )


def _in_range(query: BarQuery, bars: Columns, *, is_complete: bool) -> Iterator[pa.RecordBatch]:
    """Yield the bars that begin in the requested range as a batch, if there are any."""
    start, stop = bars["time"].searchsorted(query.range, side="right").tolist()
    if start < stop:
        selected = slice_bars(bars, start, stop)
        yield to_batch(selected, is_complete=is_complete, all_columns=query.all_columns)
