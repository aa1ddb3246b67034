"""Tick, volume and value bars."""

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
from harvester.query.aggregate import Columns, Ticks, as_batch, carry_on, grouped, part, schema_of
from harvester.schema import Int64s
from harvester.storage.trade_store import EVERYTHING, TradeStore
from harvester.times import Range, show

# --- bar size -------------------------------------------------------------------------------------

By = Literal["trades", "volume", "value"]
BYS: tuple[By, ...] = get_args(By)

DECIMALS = {"trades": 0, "volume": 8, "value": 18}
"""A volume has eight decimals; a price has ten, so that price x volume has eighteen."""

_DIGITS = 38
_NUMBER = re.compile(r"(\d*)(?:\.(\d*))?", re.ASCII)


class BarSize(NamedTuple):
    """What ends a bar: so many trades, so much volume or so much value.

    Attributes:
        by: what is counted.
        text: how much, as typed.
        units: the same in trades, in 1e-8 of volume or in 1e-18 of value.
    """

    by: By
    text: str
    units: int


def parse_size(by: By, text: str) -> BarSize:
    """Read a bar's size: plain digits, for volume and value with a point.

    Raises:
        BadSetting: it counts none of the three, is no number above 0, or has more digits than
            a sum keeps.
    """
    if by not in BYS:
        raise BadSetting(f"bars of {by!r}: give one of {', '.join(BYS)}")
    given, decimals = text.strip(), DECIMALS[by]
    match = _NUMBER.fullmatch(given)
    if match is None or not (match[1] or match[2]):
        example = "such as 1000" if by == "trades" else "such as 10 or 0.5"
        raise BadSetting(f"{by} {text!r} is no number: give plain digits, {example}")
    whole, fraction = match[1].lstrip("0"), (match[2] or "").rstrip("0")
    if len(fraction) > decimals:
        raise BadSetting(f"{by} {text!r}: {_allowed(by)}")
    if len(whole) + decimals > _DIGITS or (by == "trades" and len(whole) > 18):
        raise BadSetting(
            f"{by} {text!r} is more than any bar can reach: give less than "
            f"10^{18 if by == 'trades' else _DIGITS - decimals}"
        )
    units = int((whole + fraction.ljust(decimals, "0")) or "0")
    if units == 0:
        raise BadSetting(f"{by} {text!r} would never end a bar: give more than 0")
    return BarSize(by, given, units)


def _allowed(by: By) -> str:
    if by == "trades":
        return "no trade is ever split: give a whole number"
    return f"a {by} has {DECIMALS[by]} decimals at most"


# --- cuts -----------------------------------------------------------------------------------------

_KEY_BITS = 60
"""Two keys can be added up and stay within 64 bits."""

_SPARSE = 100
"""Bars of more trades than these are looked up one by one; smaller ones faster all at once."""


def every(size: int, rows: int, got: int) -> Int64s:
    """The last trade of each bar of `size` trades, where `got` of them have gone before."""
    return np.arange(size - got - 1, rows, size, dtype=np.int64)


def reaching(size: int, amounts: Int64s, got: int) -> Int64s:
    """The last trade of each bar whose amounts reach `size`, of which `got` have gone before.

    Args:
        size: what ends a bar, above `got`.
        amounts: none is negative; limbs as in `sums`, shape (limbs, trades).
        got: what the bar under way has already.

    Returns the places of the trades, in order.
    """
    rows = amounts.shape[1]
    running = _Running(amounts)
    if running.total < size - got:
        return np.empty(0, dtype=np.int64)
    ends = [running.first_at(size - got)]
    # What no second bar can reach is cut down, so that the keys need not hold it.
    ends.extend(_chain(running.seeker(min(size, running.total + 1)), ends[0], rows))
    return np.array(ends, dtype=np.int64)


def _chain(seek: Callable[[int], int], end: int, rows: int) -> Iterator[int]:
    """Each bar begins behind the end of the one before."""
    while (end := seek(end)) < rows:
        yield end


class _Running:
    """What has been counted with each trade, as a key of 64 bits and, where in doubt, exactly.

    The key is the exact sum shifted down until the total fits; so it settles all but a few.
    """

    def __init__(self, amounts: Int64s) -> None:
        self._limbs = aggregate.carried(np.cumsum(amounts, axis=1))
        self.rows = amounts.shape[1]
        self.total = self._exact(self.rows - 1)
        self._shift = max(0, self.total.bit_length() - _KEY_BITS)
        self._keys = self._key()

    def _key(self) -> Int64s:
        keys = np.zeros(self.rows, dtype=np.int64)
        for i, limb in enumerate(self._limbs):
            up = aggregate.BITS * i - self._shift
            if up >= 0:
                keys += limb << up
            elif up > -64:
                keys += limb >> -up
        return keys

    def _exact(self, place: int) -> int:
        return aggregate.number(self._limbs[:, place])

    def first_at(self, wanted: int) -> int:
        """The first trade with which the count is `wanted` or more; `rows` where none is."""
        key = wanted >> self._shift
        low, high = (int(self._keys.searchsorted(one)) for one in (key, key + 1))
        return bisect_left(range(self.rows), wanted, low, high, key=self._exact)

    def seeker(self, size: int) -> Callable[[int], int]:
        """What finds the end of the bar that begins behind a trade."""
        if self.total < size * (self.rows // _SPARSE):
            return lambda end: self.first_at(self._exact(end) + size)
        # Dropping the lower digits of both may lose one unit of the key in their sum.
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
MOST_WAITING = 64
"""Of few bars, those of about two million trades make a batch, so that they need not pile up."""


@dataclass(frozen=True, slots=True)
class BarQuery:
    """Bars of one pair, of one size.

    Attributes:
        pair: the altname.
        size: what ends a bar.
        span: bars whose first trade was published in it are shown; it does not move any bar.
        anchor_ns: counting begins with the first trade at or after it.
        all_columns: the columns between `count` and `last_time` as well.
        complete_only: leave out bars that ended before their size, at a gap or at the end.
    """

    pair: str
    size: BarSize
    span: Range = EVERYTHING
    anchor_ns: int = 0
    all_columns: bool = False
    complete_only: bool = False

    @property
    def title(self) -> str:
        """The question in a few words, for messages."""
        return f"{self.pair} in bars of {self.size.by} {self.size.text}"


def bar_batches(
    archive: TradeStore,
    question: BarQuery,
    *,
    batch_rows: int = BATCH_ROWS,
    step_rows: int = STEP_ROWS,
) -> Iterator[pa.RecordBatch]:
    """Bars as Arrow batches in the tape's order, at least one; docs/bars.md tells the columns.

    The tape is read once, from where counting begins, and never held: memory does not grow
    with it. The answer is right whoever writes the archive meanwhile.

    Args:
        archive: where the tape is.
        question: what is asked.
        batch_rows: about how many bars a batch holds.
        step_rows: how many trades are counted at a time; makes no difference to the bars.

    Raises:
        NothingHeld: the archive holds nothing of the pair.
        ArchiveDamaged: a file can't be read, or files keep vanishing.
        ValueDoesNotFit: a bar's sum has more than 38 digits.
    """
    runs = _runs(archive, question)
    schema = schema_of(all_columns=question.all_columns)
    # A batch without rows, so that there is one at least, and its columns are known.
    waiting, rows = [pa.RecordBatch.from_pylist([], schema=schema)], 0
    for batch in _shown(archive, question, runs, min(step_rows, aggregate.MOST)):
        waiting.append(batch)
        rows += batch.num_rows
        if rows >= batch_rows or len(waiting) == MOST_WAITING:
            yield pa.concat_batches(waiting)
            waiting, rows = [], 0
    if waiting:
        yield pa.concat_batches(waiting)


def counted_spans(question: BarQuery) -> list[Range]:
    """The ranges in which a gap matters: bars are counted from the anchor on, anew after a gap."""
    from_anchor = Range(max(0, question.anchor_ns - 1), question.span.through)
    return [question.span, *([from_anchor] if from_anchor.after < from_anchor.through else [])]


def _runs(archive: TradeStore, question: BarQuery) -> list[Range]:
    """The stretches of coverage to count through, each anew; those before the span are left out."""
    covered = archive.coverage(question.pair)
    if not covered:
        held = archive.held()
        raise NothingHeld(
            f"the archive at {archive.path} holds no trades of {question.pair}; "
            + (f"it holds {', '.join(held)}. " if held else "it is empty. ")
            + f"`harvester backfill {question.pair}` fetches them"
        )
    begin = max(0, question.anchor_ns - 1)
    return [
        Range(max(run.after, begin), run.through)
        for run in covered
        if run.through > max(begin, question.span.after)
    ]


def _shown(
    archive: TradeStore, question: BarQuery, runs: list[Range], step_rows: int
) -> Iterator[pa.RecordBatch]:
    """The bars that begin in the span, batch by batch."""
    for run in runs:
        if run.after >= question.span.through:
            return
        under_way: Columns | None = None
        for batch in archive.scan(question.pair, run):
            for start in range(0, batch.num_rows, step_rows):
                full, under_way = _cut(question, batch.slice(start, step_rows), under_way)
                yield from _in_span(question, full, is_complete=True)
                newest = full if under_way is None else under_way
                if newest["time"][-1] > question.span.through:
                    return
        # At a gap, as at the end, the bar under way is as far as anybody knows.
        if under_way is not None and not question.complete_only:
            yield from _in_span(question, under_way, is_complete=False)


def _cut(
    question: BarQuery, batch: pa.RecordBatch, under_way: Columns | None
) -> tuple[Columns, Columns | None]:
    """The bars that end in a batch, and the one that is under way behind it."""
    ticks = Ticks.of(batch)
    if ticks.price.min() < 0 or ticks.volume.min() < 0:
        raise ArchiveDamaged(
            f"{question.title}: a price or a volume below 0 was published between "
            f"{show(int(ticks.time[0]))} and {show(int(ticks.time[-1]))}: nothing can be counted"
        )
    ends = _ends(question.size, ticks, under_way)
    last = batch.num_rows - 1
    starts = np.append(0, ends[ends < last] + 1)
    bars = grouped(batch, ticks, starts, all_columns=question.all_columns)
    if under_way is not None:
        carry_on(under_way, bars)
    _hold_to_decimals(question, bars)
    rest = part(bars, len(ends)) if len(ends) < len(starts) else None
    return part(bars, 0, len(ends)), rest


def _ends(size: BarSize, ticks: Ticks, under_way: Columns | None) -> Int64s:
    if size.by == "trades":
        got = 0 if under_way is None else int(under_way["count"][0])
        return every(size.units, len(ticks.time), got)
    got = 0 if under_way is None else aggregate.number(under_way[size.by][:, 0])
    return reaching(size.units, ticks.volume if size.by == "volume" else ticks.value, got)


def _hold_to_decimals(question: BarQuery, bars: Columns) -> None:
    """Refuse a sum that no decimal can hold."""
    for name in ("value", "volume"):
        for place in aggregate.too_large(bars[name])[:1]:
            raise ValueDoesNotFit(
                f"{question.title}: the {name} of the bar that begins at "
                f"{show(int(bars['time'][place]))} does not fit 38 exact digits: "
                "ask for smaller bars"
            )


def _in_span(question: BarQuery, bars: Columns, *, is_complete: bool) -> Iterator[pa.RecordBatch]:
    """Those bars that begin in the span, as a batch; none where there are none."""
    start, stop = bars["time"].searchsorted(question.span, side="right").tolist()
    if start < stop:
        chosen = part(bars, start, stop)
        yield as_batch(chosen, is_complete=is_complete, all_columns=question.all_columns)
