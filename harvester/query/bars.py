"""Bars that end by a number of trades, a volume or a value instead of by time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa

from harvester.errors import BadSetting, NothingStored
from harvester.query.rollups import (
    begins_ns,
    continue_partial,
    merge_adjacent,
    partials_of_trades,
    stored_columns,
    unscaled_integers,
)
from harvester.schema import PRICE
from harvester.storage.parquet_files import PARTIALS
from harvester.storage.trade_store import EVERYTHING, TradeStore
from harvester.times import Range

# --- bar size -------------------------------------------------------------------------------------

Measure = Literal["trades", "volume", "value"]
MEASURES: tuple[Measure, ...] = get_args(Measure)

DECIMALS = {"trades": 0, "volume": 8, "value": 18}
"""A volume has eight decimals; a price has ten, so price x volume has eighteen."""

_DIGITS = 38
_NUMBER = re.compile(r"(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d{1,2}))?", re.ASCII)


class BarSize(NamedTuple):
    """The size at which a bar ends: a number of trades, a volume or a value.

    Attributes:
        by: what is counted.
        text: the size as typed.
        units: the size in trades, in 1e-8 of volume or in 1e-18 of value.
    """

    by: Measure
    text: str
    units: int


def parse_size(by: Measure, text: str) -> BarSize:
    """Parse a bar's size.

    Args:
        by: `trades`, `volume` or `value`.
        text: a number such as 1000, 0.5 or 1e6.

    Raises:
        BadSetting: `by` is none of the three, or the size is no number above 0, or has more digits
            than a sum keeps.
    """
    if by not in MEASURES:
        raise BadSetting(f"bars of {by!r}: give one of {', '.join(MEASURES)}")
    digits, decimals = text.strip(), DECIMALS[by]
    match = _NUMBER.fullmatch(digits)
    if match is not None and match[3] and (match[1] or match[2]):
        digits = f"{Decimal(digits):f}"
        match = _NUMBER.fullmatch(digits)
    if match is None or not (match[1] or match[2]):
        example = "1000" if by == "trades" else "10, 0.5"
        raise BadSetting(f"{by} {text!r} is no number: give one such as {example} or 1e6")
    whole, fraction = match[1].lstrip("0"), (match[2] or "").rstrip("0")
    if len(fraction) > decimals:
        hint = f"a {by} has {decimals} decimals at most"
        if by == "trades":
            hint = "no trade is ever split: give a whole number"
        raise BadSetting(f"{by} {text!r}: {hint}")
    if len(whole) + decimals > _DIGITS or (by == "trades" and len(whole) > 18):
        raise BadSetting(
            f"{by} {text!r} is more than any bar can reach: give less than "
            f"10^{18 if by == 'trades' else _DIGITS - decimals}"
        )
    units = int((whole + fraction.ljust(decimals, "0")) or "0")
    if units == 0:
        raise BadSetting(f"{by} {text!r} would never end a bar: give more than 0")
    return BarSize(by, digits, units)


# --- columns --------------------------------------------------------------------------------------

COLUMNS = ("time", "open", "high", "low", "close", "vwap", "volume", "count")
EXTRA_COLUMNS = (
    *("value", "buy_volume", "sell_volume", "buy_value", "sell_value", "buy_count", "sell_count"),
    *("first_trade_id", "last_trade_id", "first_time"),
)
LAST_COLUMNS = ("last_time", "is_complete")


def bar_schema(*, all_columns: bool) -> pa.Schema:
    """Return the columns of a result, in order."""
    kinds = {field.name: field.type for field in PARTIALS}
    kinds |= {"vwap": pa.float64(), "is_complete": pa.bool_()}
    names = (*COLUMNS, *(EXTRA_COLUMNS if all_columns else ()), *LAST_COLUMNS)
    return pa.schema([(name, kinds[name]) for name in names])


# --- bars -----------------------------------------------------------------------------------------

BATCH_ROWS = 100_000
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
    archive: TradeStore, query: BarQuery, *, batch_rows: int = BATCH_ROWS
) -> Iterator[pa.RecordBatch]:
    """Yield bars as Arrow batches, in order, at least one; docs/bars.md describes the columns.

    The trade history is read once, as a stream, from where counting begins: memory does not grow
    with it. The result is right even while the archive is being written.

    Args:
        archive: where the trades are.
        query: the query.
        batch_rows: about how many bars a batch has.

    Raises:
        NothingStored: the archive has no trades of the pair.
        ArchiveDamaged: a file can't be read, or compaction removes files again and again.
        ValueDoesNotFit: a bar's sum has more than 38 digits.
    """
    runs = _covered_runs(archive, query)
    schema = bar_schema(all_columns=query.all_columns)
    # A batch without rows, so that there is at least one, with the columns.
    waiting, rows = [pa.RecordBatch.from_pylist([], schema=schema)], 0
    for batch in _bars_of_runs(archive, query, runs):
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
        raise NothingStored(f"the archive at {archive.path} holds no trades of {query.pair}")
    anchor = max(0, query.anchor_ns - 1)
    return [
        Range(max(run.after, anchor), run.through)
        for run in covered
        if run.through > max(anchor, query.range.after)
    ]


def _bars_of_runs(
    archive: TradeStore, query: BarQuery, runs: list[Range]
) -> Iterator[pa.RecordBatch]:
    """Yield the bars that begin in the requested range, in batches."""
    for run in runs:
        if run.after >= query.range.through:
            return
        open_bar: list[pa.RecordBatch] = []
        for batch in archive.scan(query.pair, run):
            full, open_bar = _cut_batch(query, batch, open_bar)
            yield from _in_range(query, full, is_complete=True)
            newest = open_bar[0] if open_bar else full
            if begins_ns(newest)[-1] > query.range.through:
                return
        # At a gap and at the end the open bar ends incomplete.
        if open_bar and not query.complete_only:
            yield from _in_range(query, open_bar[0], is_complete=False)


def _cut_batch(
    query: BarQuery, batch: pa.RecordBatch, open_bar: list[pa.RecordBatch]
) -> tuple[pa.RecordBatch, list[pa.RecordBatch]]:
    """Return the bars that end in a batch, and the bar that is open after it, if there is one."""
    trades = partials_of_trades(batch, query.title, all_columns=query.all_columns)
    counted = "count" if query.size.by == "trades" else query.size.by
    so_far = unscaled_integers(open_bar[0].column(counted))[0] if open_bar else 0
    ends = list(_ends(query.size.units, unscaled_integers(trades.column(counted)), so_far))
    starts = [0, *(end + 1 for end in ends if end + 1 < trades.num_rows)]
    bars = continue_partial(open_bar, merge_adjacent(trades, np.array(starts)), is_continued=True)
    # The open bar, too: its sums only grow.
    stored_columns(bars, query.title)
    is_open = bars.num_rows > len(ends)
    return bars.slice(0, len(ends)), [bars.slice(len(ends))] if is_open else []


def _ends(size: int, amounts: Iterable[int], total: int) -> Iterator[int]:
    """Yield the index of the last trade of each bar: the one with which its sum reaches `size`.

    Args:
        size: the sum that ends a bar, in the units of the amounts.
        amounts: the volume, the value or the number 1 of each trade.
        total: the sum of the open bar.
    """
    for index, amount in enumerate(amounts):
        total += amount
        if total >= size:
            yield index
            total = 0


def _in_range(
    query: BarQuery, bars: pa.RecordBatch, *, is_complete: bool
) -> Iterator[pa.RecordBatch]:
    """Yield the bars that begin in the requested range as a batch, if there are any."""
    start, stop = begins_ns(bars).searchsorted(query.range, side="right").tolist()
    if start == stop:
        return
    columns = stored_columns(bars.slice(start, stop - start), query.title)
    volumes = unscaled_integers(columns["volume"])
    # Python divides integers to the nearest double.
    columns["vwap"] = pa.array(
        [
            value / (volume * 10**PRICE.scale) if volume else None
            for value, volume in zip(unscaled_integers(columns["value"]), volumes, strict=True)
        ],
        pa.float64(),
    )
    columns["time"] = columns["first_time"]
    columns["is_complete"] = pa.array(np.full(len(volumes), is_complete))
    schema = bar_schema(all_columns=query.all_columns)
    yield pa.RecordBatch.from_pydict({name: columns[name] for name in schema.names}, schema=schema)
