"""Candles as Kraken's OHLC endpoint prints them, straight from the rows of the tape.

They share no code with the room `candles`: a comparison of the two compares two ways to count.

Source: Kraken's public REST documentation for `GET /0/public/OHLC`, and captured bodies
(docs/kraken.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Context, Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.kraken.pairs import Pair
from harvester.schema import PRICE, VOLUME, times
from harvester.storage.trade_store import Archive
from harvester.times import SECOND, Range

CLOSED = 720
"""So many closed candles are shown; the running one comes on top."""

_EXACT = Context(prec=76)

_WIDE_PRICE = pa.decimal256(PRICE.precision, PRICE.scale)
_WIDE_VOLUME = pa.decimal256(VOLUME.precision, VOLUME.scale)
_FIGURES = [
    ("place", "min"),
    ("place", "max"),
    ("place", "count"),
    ("price", "max"),
    ("price", "min"),
    ("volume", "sum"),
    ("value", "sum"),
]

Row = tuple[int, str, str, str, str, str, str, int]
"""Time in seconds, open, high, low, close, vwap, volume, count: numbers as Kraken's texts."""


@dataclass(slots=True)
class _Sums:
    """The trades of one interval, or of a part of it."""

    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    count: int
    volume: Decimal
    value: Decimal

    def add(self, later: _Sums) -> None:
        """Take in what comes later on the tape."""
        self.high, self.low = max(self.high, later.high), min(self.low, later.low)
        self.close = later.close
        self.count += later.count
        self.volume = _EXACT.add(self.volume, later.volume)
        self.value = _EXACT.add(self.value, later.value)


def candles(archive: Archive, pair: Pair, width_ns: int, now_ns: int) -> list[Row]:
    """The candles of a pair at a moment, from the first whole one behind its last hole on.

    Args:
        archive: holds the pair.
        pair: prints with its `pair_decimals`.
        width_ns: the length of a candle.
        now_ns: the exchange's clock.

    Raises:
        ArchiveDamaged: a file can't be read.
    """
    covered = archive.coverage(pair.altname)[-1]
    begin_ns = max(0, (now_ns // width_ns - CLOSED) * width_ns)
    # A candle without trades shows the close before it, from however far back.
    before = archive.last_time(pair.altname, begin_ns)
    after = max(covered.after, begin_ns - 1 if before is None else before - 1)
    batches = archive.scan(pair.altname, Range(after, max(after, now_ns)))
    rows = ohlc_rows(batches, width_ns, now_ns, pair.pair_decimals)
    return [row for row in rows if row[0] * SECOND > covered.after]


def ohlc_rows(
    batches: Iterable[pa.RecordBatch], width_ns: int, now_ns: int, decimals: int
) -> list[Row]:
    """The last 720 closed candles and the running one, fewer where the rows begin later.

    An interval without trades repeats the close before it, with a volume and a vwap of zero. The
    vwap is cut off after the pair's decimals, not rounded.

    Args:
        batches: rows of the tape, in its order.
        width_ns: the length of a candle.
        now_ns: the exchange's clock: it chooses the running candle.
        decimals: the pair's.
    """
    found: dict[int, _Sums] = {}
    for bucket, sums in _sums(batches, width_ns):
        if bucket in found:
            found[bucket].add(sums)
        else:
            found[bucket] = sums
    if not found:
        return []
    running = now_ns // width_ns
    first = max(min(found), running - CLOSED)
    close = found[max((one for one in found if one <= first), default=min(found))].close
    shown: list[Row] = []
    for bucket in range(first, running + 1):
        sums = found.get(bucket) or _Sums(close, close, close, close, 0, Decimal(0), Decimal(0))
        shown.append(_row(bucket * width_ns // SECOND, sums, decimals))
        close = sums.close
    return shown


def _row(time_s: int, sums: _Sums, decimals: int) -> Row:
    vwap = Decimal(0)
    if sums.volume:
        units = _EXACT.divide_int(sums.value.scaleb(decimals, _EXACT), sums.volume)
        vwap = units.scaleb(-decimals, _EXACT)
    return (
        time_s,
        _money(sums.open, decimals),
        _money(sums.high, decimals),
        _money(sums.low, decimals),
        _money(sums.close, decimals),
        f"{vwap:.{decimals}f}",
        f"{sums.volume:.8f}",
        sums.count,
    )


def _money(price: Decimal, decimals: int) -> str:
    """With the pair's decimals, or with more where the price has more."""
    short = price.quantize(Decimal(1).scaleb(-decimals), context=_EXACT)
    return f"{short if short == price else price.normalize(_EXACT):f}"


def _sums(batches: Iterable[pa.RecordBatch], width_ns: int) -> Iterator[tuple[int, _Sums]]:
    for batch in batches:
        price, volume = batch.column("price"), batch.column("volume")
        columns = {
            "bucket": pa.array(times(batch) // width_ns),
            "place": pa.array(np.arange(batch.num_rows)),
            "price": price,
            "volume": volume.cast(pa.decimal128(38, VOLUME.scale)),
            "value": pc.multiply(price.cast(_WIDE_PRICE), volume.cast(_WIDE_VOLUME)),
        }
        table = pa.table(columns).group_by("bucket").aggregate(_FIGURES)
        for row in table.to_pylist():
            yield (
                row["bucket"],
                _Sums(
                    open=price[row["place_min"]].as_py(),
                    high=row["price_max"],
                    low=row["price_min"],
                    close=price[row["place_max"]].as_py(),
                    count=row["place_count"],
                    volume=row["volume_sum"],
                    value=row["value_sum"],
                ),
            )
