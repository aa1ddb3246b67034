"""Write candles and trades as freqtrade's Feather files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from harvester.errors import BadInterval
from harvester.exporters.symbols import ccxt_symbol
from harvester.kraken.pairs import Pair
from harvester.schema import times
from harvester.storage.filesystem import writing
from harvester.storage.output_files import check_outside, file_sink, write_arrow
from harvester.times import Interval

# Source: freqtrade's own reader (`featherdatahandler.py`, `idatahandler.py`, `constants.py`):
# file names, columns in order, and types.

FREQTRADE_CANDLES = pa.schema(
    [pa.field("date", pa.timestamp("ms", tz="UTC"))]
    + [pa.field(name, pa.float64()) for name in ("open", "high", "low", "close", "volume")]
)
FREQTRADE_TRADES = pa.schema(
    [
        pa.field("timestamp", pa.int64()),
        *(pa.field(name, pa.string()) for name in ("id", "type", "side")),
        *(pa.field(name, pa.float64()) for name in ("price", "amount", "cost")),
    ]
)

_MINUTES = (1, 3, 5, 15, 30)
_HOURS = (1, 2, 4, 6, 8, 12)
_DAYS = (1, 3)
_FIXED_S = {f"{count}m": count * 60 for count in _MINUTES}
_FIXED_S |= {f"{count}h": count * 3600 for count in _HOURS}
_FIXED_S |= {f"{count}d": count * 86_400 for count in _DAYS}
_NAME_BY_WIDTH_NS = {seconds * 1_000_000_000: name for name, seconds in _FIXED_S.items()}
# Calendar intervals. freqtrade writes a month as `Mo` in file names, so that no file system
# confuses it with a minute.
_CALENDAR = {"1w": "1w", "2w": "2w", "1mo": "1Mo"}

_MILLISECOND_NS = 1_000_000


def freqtrade_timeframe(interval: Interval) -> str:
    """The interval as freqtrade's file names have it, by its length: 60 is 1h, 24h is 1d.

    Raises:
        BadInterval: freqtrade has no interval of this length.
    """
    text = interval.text.strip()
    name = _CALENDAR.get(text)
    if name is None and not re.fullmatch(r"[0-9]+(w|mo|q|y)", text):
        name = _NAME_BY_WIDTH_NS.get(interval.width_ns or 0)
    if name is None:
        raise BadInterval(
            f"freqtrade has no interval {interval.text!r}: give one of "
            f"{', '.join([*_FIXED_S, *_CALENDAR])}"
        )
    return name


def write_freqtrade_candles(
    batches: Iterable[pa.RecordBatch], pair: Pair, interval: Interval, folder: str
) -> Path:
    """Write candles of one pair and interval; return the path of the file.

    Args:
        batches: the candles, in order.
        pair: the pair, whose names are known.
        interval: the candles' length.
        folder: freqtrade's data folder for Kraken, such as `user_data/data/kraken`.

    Raises:
        UsageError: the pair's currencies are not known, or the folder lies in an archive.
        BadInterval: freqtrade has no interval of this length.
        ArchiveUnwritable: the file can't be written.
    """
    file = _file_in(folder, _file_name(ccxt_symbol(pair), freqtrade_timeframe(interval)))
    with file_sink(file) as sink:
        rows = map(freqtrade_candles, batches)
        write_arrow(rows, FREQTRADE_CANDLES, sink, compression="lz4")
    return file


def write_freqtrade_trades(batches: Iterable[pa.RecordBatch], pair: Pair, folder: str) -> Path:
    """Write the trades of one pair; return the path of the file.

    Args:
        batches: the trades, in order.
        pair: the pair, whose names are known.
        folder: freqtrade's data folder for Kraken, such as `user_data/data/kraken`.

    Raises:
        UsageError: the pair's currencies are not known, or the folder lies in an archive.
        ArchiveUnwritable: the file can't be written.
    """
    file = _file_in(folder, _file_name(ccxt_symbol(pair), "trades"))
    with file_sink(file) as sink:
        rows = map(freqtrade_trades, batches)
        write_arrow(rows, FREQTRADE_TRADES, sink, compression="lz4")
    return file


def _file_name(symbol: str, content: str) -> str:
    """The file of a symbol; `content` is a timeframe, or `trades`."""
    return f"{re.sub('[/ .@$+:]', '_', symbol)}-{content}.feather"


def _file_in(folder: str, name: str) -> Path:
    check_outside(Path(folder))
    with writing(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder) / name


def freqtrade_candles(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Candles with the columns of `FREQTRADE_CANDLES`; each float is the one nearest."""
    date = batch.column("time").cast(FREQTRADE_CANDLES.field("date").type)
    figures = [_float(batch.column(name)) for name in FREQTRADE_CANDLES.names[1:]]
    return pa.RecordBatch.from_arrays([date, *figures], schema=FREQTRADE_CANDLES)


def freqtrade_trades(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Trades with the columns of `FREQTRADE_TRADES`; `cost` is the float nearest to the product.

    freqtrade drops a trade whose timestamp, in milliseconds, and id equal those of another. So a
    trade without an id gets one from its position within the millisecond, such as `820800.0`:
    nanoseconds and tie.
    """
    price, volume = batch.column("price"), batch.column("volume")
    cost = pc.multiply(price.cast(pa.decimal256(18, 10)), volume.cast(pa.decimal256(22, 8)))
    columns = {
        "timestamp": pa.array(times(batch) // _MILLISECOND_NS),
        "id": pc.coalesce(batch.column("trade_id").cast(pa.string()), _generated_ids(batch)),
        "type": batch.column("order_type").dictionary_decode(),
        "side": batch.column("side").dictionary_decode(),
        "price": _float(price),
        "amount": _float(volume),
        "cost": _float(cost),
    }
    return pa.RecordBatch.from_arrays(
        [columns[name] for name in FREQTRADE_TRADES.names], schema=FREQTRADE_TRADES
    )


def _generated_ids(batch: pa.RecordBatch) -> pa.Array:
    within = pa.array(times(batch) % _MILLISECOND_NS).cast(pa.string())
    return pc.binary_join_element_wise(within, batch.column("tie").cast(pa.string()), ".")


def _float(decimals: pa.Array) -> pa.Array:
    # By the digits: Arrow's own cast is a hair off for one price in five.
    return decimals.cast(pa.string()).cast(pa.float64())
