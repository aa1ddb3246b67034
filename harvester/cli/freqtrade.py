"""Candles and trades as freqtrade keeps them, so that it reads them as its own downloads.

Source: freqtrade's own reader (`featherdatahandler.py`, `idatahandler.py`, `constants.py`): file
names, columns in order, and types.
"""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

from harvester.errors import BadInterval
from harvester.schema import times
from harvester.times import Interval

CANDLES = pa.schema(
    [pa.field("date", pa.timestamp("ms", tz="UTC"))]
    + [pa.field(name, pa.float64()) for name in ("open", "high", "low", "close", "volume")]
)
TRADES = pa.schema(
    [
        pa.field("timestamp", pa.int64()),
        *(pa.field(name, pa.string()) for name in ("id", "type", "side")),
        *(pa.field(name, pa.float64()) for name in ("price", "amount", "cost")),
    ]
)

_MINUTES = (1, 3, 5, 15, 30)
_HOURS = (1, 2, 4, 6, 8, 12)
_FIXED = {f"{count}m": count * 60 for count in _MINUTES}
_FIXED |= {f"{count}h": count * 3600 for count in _HOURS}
_FIXED |= {f"{count}d": count * 86_400 for count in (1, 3)}
_NAMES = {seconds * 1_000_000_000: name for name, seconds in _FIXED.items()}
# By the calendar; a month's file is called so that no file system takes it for a minute's.
_CALENDAR = {"1w": "1w", "2w": "2w", "1mo": "1Mo"}

_NANOSECONDS = 1_000_000


def timeframe(interval: Interval) -> str:
    """The interval as freqtrade's files call it, by what it means: 60 is 1h, 24h is 1d.

    Raises:
        BadInterval: freqtrade knows none of this length.
    """
    text = interval.text.strip()
    name = _CALENDAR.get(text)
    if name is None and not re.fullmatch(r"[0-9]+(w|mo|q|y)", text):
        name = _NAMES.get(interval.width_ns or 0)
    if name is None:
        raise BadInterval(
            f"freqtrade knows no interval {interval.text!r}: give one of "
            f"{', '.join([*_FIXED, *_CALENDAR])}"
        )
    return name


def file_name(symbol: str, what: str) -> str:
    """What freqtrade calls the file of a symbol's candles of one interval, or of its trades."""
    return f"{re.sub('[/ .@$+:]', '_', symbol)}-{what}.feather"


def candles(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Candles as `CANDLES`; each figure is the float nearest to the decimal."""
    date = batch.column("time").cast(CANDLES.field("date").type)
    figures = [_float(batch.column(name)) for name in CANDLES.names[1:]]
    return pa.RecordBatch.from_arrays([date, *figures], schema=CANDLES)


def trades(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Trades as `TRADES`, `cost` the float nearest to the exact product.

    freqtrade drops what has the timestamp, in milliseconds, and the id of another trade. So one
    without an id gets its place within the millisecond for one, such as `820800.0`: nanoseconds
    and tie.
    """
    price, volume = batch.column("price"), batch.column("volume")
    cost = pc.multiply(price.cast(pa.decimal256(18, 10)), volume.cast(pa.decimal256(22, 8)))
    columns = {
        "timestamp": pa.array(times(batch) // _NANOSECONDS),
        "id": pc.coalesce(batch.column("trade_id").cast(pa.string()), _place(batch)),
        "type": batch.column("order_type").dictionary_decode(),
        "side": batch.column("side").dictionary_decode(),
        "price": _float(price),
        "amount": _float(volume),
        "cost": _float(cost),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in TRADES.names], schema=TRADES)


def _place(batch: pa.RecordBatch) -> pa.Array:
    within = pa.array(times(batch) % _NANOSECONDS).cast(pa.string())
    return pc.binary_join_element_wise(within, batch.column("tie").cast(pa.string()), ".")


def _float(decimals: pa.Array) -> pa.Array:
    # By the digits: Arrow's own cast is a hair off for one price in five.
    return decimals.cast(pa.string()).cast(pa.float64())
