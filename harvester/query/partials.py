"""Partial candles of a stretch of the tape, at several levels, counted by numpy as it passes.

The same that `rollups.Maker` asks DuckDB for, by which `verify` holds them: in a third of the time
where a segment is small, and without DuckDB in the memory of a crawl.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from harvester.errors import ArchiveDamaged, ValueDoesNotFit
from harvester.query import sums
from harvester.query.bar_columns import (
    Columns,
    Ticks,
    array_of,
    carry_on,
    grouped,
    ids_of,
    part,
)
from harvester.schema import Int64s
from harvester.storage.rollup_files import PARTIALS
from harvester.times import show

_SUMS = ("volume", "value", "buy_volume", "sell_volume", "buy_value", "sell_value")
_COUNTS = ("count", "buy_count", "sell_count")


class Partials:
    """Counts ticks into partial candles. Memory holds some thousands of ticks, and what is made."""

    def __init__(self, widths_ns: Sequence[int], what: str) -> None:
        """`widths_ns`: from the finest on; `what` names the work in messages."""
        self._what = what
        self._levels: list[_Level] = []
        for width_ns in widths_ns:
            level = _Level(width_ns, what)
            finer = [one for one in self._levels if width_ns % one.width_ns == 0]
            if finer:
                finer[-1].coarser.append(level)
            else:
                level.takes_ticks = True
            self._levels.append(level)

    def add(self, batch: pa.RecordBatch) -> None:
        """Count the next ticks, a batch of `TRADES`.

        Raises:
            ArchiveDamaged: a price or a volume lies below 0.
            ValueDoesNotFit: a sum has too many digits.
        """
        for start in range(0, batch.num_rows, sums.MOST):
            some = batch.slice(start, sums.MOST)
            ticks = Ticks.of(some)
            if ticks.price.min() < 0 or ticks.volume.min() < 0:
                raise ArchiveDamaged(
                    f"{self._what}: a price or a volume below 0 was published behind "
                    f"{show(int(ticks.time[0]))}: nothing can be counted"
                )
            for level in self._levels:
                if level.takes_ticks:
                    starts = _starts(ticks.time, level.width_ns)
                    level.take(grouped(some, ticks, starts, all_columns=True))

    def finish(self) -> list[list[pa.RecordBatch]]:
        """Batches of `PARTIALS` for each width, of all that was counted."""
        # A finer level ends before those that are made of it.
        for level in self._levels:
            level.close()
        return [level.made for level in self._levels]


class _Level:
    """The candles of one width."""

    def __init__(self, width_ns: int, what: str) -> None:
        self.width_ns = width_ns
        self.takes_ticks = False
        self.coarser: list[_Level] = []
        self.made: list[pa.RecordBatch] = []
        self._what = what
        self._under_way: Columns | None = None

    def take(self, candles: Columns) -> None:
        """Take the next candles, in order; the first may go on with the last so far."""
        under_way = self._under_way
        if under_way is not None:
            if self._number(under_way, 0) == self._number(candles, 0):
                carry_on(under_way, candles)
            else:
                self._hand_on(under_way)
        last = len(candles["time"]) - 1
        self._under_way = part(candles, last)
        if last:
            self._hand_on(part(candles, 0, last))

    def close(self) -> None:
        """No more will come."""
        if self._under_way is not None:
            self._hand_on(self._under_way)
            self._under_way = None

    def _hand_on(self, candles: Columns) -> None:
        for name in _SUMS:
            if len(sums.too_large(candles[name])):
                raise ValueDoesNotFit(
                    f"{self._what}: a sum of price x volume reaches 10^20, more than fits 38 "
                    "exact digits"
                )
        self.made.append(_as_batch(candles, self.width_ns))
        for level in self.coarser:
            level.take(_regrouped(candles, _starts(candles["time"], level.width_ns)))

    def _number(self, candles: Columns, place: int) -> int:
        return int(candles["time"][place]) // self.width_ns


def _starts(stamps: Int64s, width_ns: int) -> Int64s:
    """Where another interval begins among times in order, the first of them counted in."""
    numbers = stamps // width_ns
    return np.append(0, (numbers[1:] != numbers[:-1]).nonzero()[0] + 1)


def _regrouped(candles: Columns, starts: Int64s) -> Columns:
    """Neighbouring candles as one from each start to the next."""
    last = np.append(starts[1:], len(candles["time"])) - 1
    made = {name: candles[name][starts] for name in ("time", "open")}
    made |= {name: candles[name][last] for name in ("close", "last_time")}
    made["high"] = np.maximum.reduceat(candles["high"], starts)
    made["low"] = np.minimum.reduceat(candles["low"], starts)
    made |= {name: sums.totals(candles[name], starts) for name in _SUMS}
    made |= {name: np.add.reduceat(candles[name], starts) for name in _COUNTS}
    return made | ids_of(candles["first_trade_id"], candles["last_trade_id"], starts)


def _as_batch(candles: Columns, width_ns: int) -> pa.RecordBatch:
    """As Arrow; a candle's time is when its interval opens."""
    first = candles["time"]
    shown = candles | {"time": first // width_ns * width_ns, "first_time": first}
    return pa.RecordBatch.from_arrays(
        [array_of(shown, field) for field in PARTIALS], schema=PARTIALS
    )
