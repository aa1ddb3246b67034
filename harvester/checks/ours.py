"""Our candles in the exchange's form, to be held against its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any

import pyarrow as pa

from harvester.archive.archive import Archive
from harvester.candles.engine import MEMORY_LIMIT
from harvester.candles.query import candle_batches
from harvester.candles.question import Fill, Question
from harvester.kraken.candles import VALUES, Candle
from harvester.times import UNITS_NS, Range, parse_interval

SHOWN = ("time", *VALUES, "first_time", "is_complete")
STREAMED = tuple(name for name in SHOWN if name != "vwap")

# Wide enough for 38 digits and a division's worth beside: nothing here is ever rounded.
_EXACT = Context(prec=120)


@dataclass(frozen=True, slots=True)
class Held:
    """A candle of ours.

    Attributes:
        candle: in the exchange's form.
        is_complete: whether what it tells of is held whole.
        at_opening: whether a trade was published at the very moment it opens.
    """

    candle: Candle
    is_complete: bool
    at_opening: bool


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks an archive for candles of one pair.

    Attributes:
        decimals: the pair's, after which a vwap is cut off.
    """

    archive: Archive
    pair: str
    decimals: int
    memory_limit: str = MEMORY_LIMIT

    def held(self, minutes: int, span: Range) -> dict[int, Held]:
        """The candles of a span, empty ones included, by when they open."""
        found = {}
        for row in self._rows(minutes, span, SHOWN, fill="kraken"):
            values = {name: row[name] for name in VALUES}
            at_opening = row["first_time"] == row["time"]
            candle = Candle(row["time"], **values)
            found[candle.time_ns] = Held(candle, row["is_complete"], at_opening)
        return found

    def batches(self, minutes: int, span: Range) -> Iterator[pa.RecordBatch]:
        """The candles of a span that saw trades, as a stream, with `STREAMED` for columns."""
        for batch in candle_batches(
            self.archive, self._question(minutes, span), memory_limit=self.memory_limit
        ):
            yield batch.select(list(STREAMED))

    def with_edges_moved(self, minutes: int, time_ns: int, count: int) -> list[Candle]:
        """What a candle of `count` trades may be, if trades published at its edges are moved.

        A time is published as the float next to it. That may be the moment at which an interval
        opens, when the trade happened up to 238 ns earlier: the exchange, which knows, counts it
        in the interval before. Which of the trades published at that moment these are is not
        known; they are the first of them.
        """
        end_ns = time_ns + minutes * UNITS_NS["m"]
        inside = self._sums(minutes, Range(time_ns, end_ns - 1))
        before, behind = self._at(time_ns), self._at(end_ns)
        candles = []
        for moved in range(len(before) + 1):
            added = count - sum(one.count for one in inside) - (len(before) - moved)
            if not 0 <= added <= len(behind):
                continue
            parts = [*before[moved:], *inside, *behind[:added]]
            if parts:
                candles.append(_joined(time_ns, parts, self.decimals))
            elif moved:
                candles.append(_empty(time_ns, before[-1].close))
        return candles

    def _rows(
        self, minutes: int, span: Range, columns: Sequence[str], fill: Fill = "none"
    ) -> list[dict[str, Any]]:
        question = self._question(minutes, span, fill)
        rows: list[dict[str, Any]] = []
        for batch in candle_batches(self.archive, question, memory_limit=self.memory_limit):
            rows += _in_ns(batch.select(list(columns))).to_pylist()
        return rows

    def _question(self, minutes: int, span: Range, fill: Fill = "none") -> Question:
        interval = parse_interval(str(minutes))
        return Question(
            self.pair, interval, span, fill, all_columns=True, pair_decimals=self.decimals
        )

    def _sums(self, minutes: int, span: Range) -> list[_Sum]:
        """The trades of a span within one interval, as one sum, or none."""
        columns = ("open", "high", "low", "close", "value", "volume", "count")
        return [_Sum(**row) for row in self._rows(minutes, span, columns)]

    def _at(self, moment: int) -> list[_Sum]:
        """The trades published at one moment, in the tape's order."""
        found = []
        for batch in self.archive.scan(self.pair, Range(moment - 1, moment)):
            for row in batch.select(["price", "volume"]).to_pylist():
                price, volume = row["price"], row["volume"]
                value = _EXACT.multiply(price, volume)
                found.append(_Sum(price, price, price, price, value, volume, 1))
        return found


@dataclass(frozen=True, slots=True)
class _Sum:
    """Some neighbouring trades, or one."""

    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    value: Decimal
    volume: Decimal
    count: int


def _joined(time_ns: int, parts: Sequence[_Sum], decimals: int) -> Candle:
    value = volume = Decimal(0)
    for one in parts:
        value, volume = _EXACT.add(value, one.value), _EXACT.add(volume, one.volume)
    unit = Decimal(1).scaleb(-decimals)
    cut = _EXACT.divide_int(value, _EXACT.multiply(volume, unit)) if volume else Decimal(0)
    return Candle(
        time_ns,
        open=parts[0].open,
        high=max(one.high for one in parts),
        low=min(one.low for one in parts),
        close=parts[-1].close,
        vwap=_EXACT.multiply(cut, unit),
        volume=volume,
        count=sum(one.count for one in parts),
    )


def _empty(time_ns: int, close: Decimal) -> Candle:
    return Candle(time_ns, close, close, close, close, Decimal(0), Decimal(0), 0)


def _in_ns(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Times as integers."""
    for place, field in enumerate(batch.schema):
        if pa.types.is_timestamp(field.type):
            batch = batch.set_column(place, field.name, batch.column(place).cast(pa.int64()))
    return batch
