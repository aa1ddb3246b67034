"""Write candles and trades for other programs: freqtrade's Feather files, LEAN's zipped CSVs."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain, groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from harvester.errors import BadInterval, UsageError
from harvester.exporters.formats import as_text
from harvester.kraken.pairs import Pair
from harvester.schema import times
from harvester.storage.filesystem import writing
from harvester.storage.output_files import file_sink, write_arrow
from harvester.times import DAY, SECOND, UNITS_NS, Interval, Range, show_short

_MILLISECOND_NS = SECOND // 1000

# --- names of pairs -------------------------------------------------------------------------------

# ccxt, and so freqtrade, has other names than Kraken for these currencies.
_CCXT_CURRENCIES = {
    "LUNA": "LUNC",
    "LUNA2": "LUNA",
    "REP": "REPV1",
    "REPV2": "REP",
    "UST": "USTC",
    "XBT": "BTC",
    "XDG": "DOGE",
}


def ccxt_symbol(pair: Pair) -> str:
    """The pair as ccxt and freqtrade write it: BTC/USD for XBT/USD.

    Raises:
        UsageError: the archive does not know the pair's base and quote currency.
    """
    return "/".join(_CCXT_CURRENCIES.get(name, name) for name in _base_and_quote(pair))


def lean_symbol(pair: Pair) -> str:
    """The pair as LEAN's database of Kraken's symbols writes it: Kraken's names, but BTC for XBT.

    ccxt's names do not fit here: LEAN's LUNAUSD and REPUSD are Kraken's LUNA and REP, which ccxt
    calls LUNC and REPV1.

    Raises:
        UsageError: the archive does not know the pair's base and quote currency.
    """
    return "".join("BTC" if name == "XBT" else name for name in _base_and_quote(pair)).lower()


def _base_and_quote(pair: Pair) -> tuple[str, str]:
    """Base and quote currency, by Kraken's names."""
    base, slash, quote = pair.wsname.partition("/")
    if not slash:
        raise UsageError(
            f"the base and quote currency of {pair.altname} are not known here: "
            f"`harvester pairs {pair.altname} --update` asks the exchange"
        )
    return base, quote


# --- freqtrade ------------------------------------------------------------------------------------

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

_FIXED = ("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d")
_NAME_BY_WIDTH_NS = {int(name[:-1]) * UNITS_NS[name[-1]]: name for name in _FIXED}
# Calendar intervals. freqtrade writes a month as `Mo` in file names, so that no file system
# confuses it with a minute.
_CALENDAR = {"1w": "1w", "2w": "2w", "1mo": "1Mo"}


def freqtrade_timeframe(interval: Interval) -> str:
    """The interval as freqtrade's file names have it, by its length: 60 is 1h, 24h is 1d.

    Raises:
        BadInterval: freqtrade has no interval of this length.
    """
    name = _CALENDAR.get(interval.name) or _NAME_BY_WIDTH_NS.get(interval.width_ns or 0)
    if name is None:
        raise BadInterval(
            f"freqtrade has no interval {interval.text!r}: give one of "
            f"{', '.join([*_FIXED, *_CALENDAR])}"
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
    rows = map(freqtrade_candles, batches)
    return _write_feather(rows, FREQTRADE_CANDLES, pair, freqtrade_timeframe(interval), folder)


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
    rows = map(freqtrade_trades, batches)
    return _write_feather(rows, FREQTRADE_TRADES, pair, "trades", folder)


def _write_feather(
    rows: Iterable[pa.RecordBatch], schema: pa.Schema, pair: Pair, content: str, folder: str
) -> Path:
    """Write the file of a pair; `content` is a timeframe, or `trades`."""
    file = Path(folder) / f"{re.sub('[/ .@$+:]', '_', ccxt_symbol(pair))}-{content}.feather"
    with writing(folder):
        file.parent.mkdir(parents=True, exist_ok=True)
    with file_sink(file) as sink:
        write_arrow(rows, schema, sink, compression="lz4")
    return file


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
    within = pa.array(times(batch) % _MILLISECOND_NS).cast(pa.string())
    generated_ids = pc.binary_join_element_wise(within, batch.column("tie").cast(pa.string()), ".")
    cost = pc.multiply(price.cast(pa.decimal256(18, 10)), volume.cast(pa.decimal256(22, 8)))
    columns = {
        "timestamp": pa.array(times(batch) // _MILLISECOND_NS),
        "id": pc.coalesce(batch.column("trade_id").cast(pa.string()), generated_ids),
        "type": batch.column("order_type").dictionary_decode(),
        "side": batch.column("side").dictionary_decode(),
        "price": _float(price),
        "amount": _float(volume),
        "cost": _float(cost),
    }
    return pa.RecordBatch.from_arrays(
        [columns[name] for name in FREQTRADE_TRADES.names], schema=FREQTRADE_TRADES
    )


def _float(decimals: pa.Array) -> pa.Array:
    # By the digits: Arrow's own cast is a hair off for one price in five.
    return decimals.cast(pa.string()).cast(pa.float64())


# --- LEAN -----------------------------------------------------------------------------------------

# Source: LEAN's `Data/crypto/readme.md` and the paths in its own tests of `LeanData`.

MARKET = "kraken"

_FILE_PER_DAY = {SECOND: "second", 60 * SECOND: "minute"}
_SINGLE_FILE = {3600 * SECOND: "hour", DAY: "daily"}


def lean_resolution(interval: Interval) -> str:
    """LEAN's name of the interval.

    Raises:
        BadInterval: LEAN has no interval of this length.
    """
    name = (_FILE_PER_DAY | _SINGLE_FILE).get(interval.width_ns or 0)
    if name is None:
        raise BadInterval(f"LEAN has no interval {interval.text!r}: give one of 1s, 1m, 1h, 1d")
    return name


def check_lean_files(pair: Pair, interval: Interval, folder: str, stored: Range) -> None:
    """Refuse to replace a LEAN file that has candles outside the stored part of the range.

    They would be lost.

    Args:
        pair: the pair, whose names are known.
        interval: the candles' length.
        folder: LEAN's data folder.
        stored: the part of the requested range that the archive has.

    Raises:
        UsageError: a file has candles before the range, or after it.
        BadInterval: LEAN has no interval of this length.
        ArchiveUnwritable: a file can't be read.
    """
    for time_ns in (stored.after + 1, stored.through):
        file = _lean_file(pair, interval, folder, time_ns)
        with writing(folder):
            opening_times = _first_and_last(file, interval)
        if not opening_times:
            continue
        first_ns, end_ns = opening_times[0], opening_times[-1] + (interval.width_ns or 0)
        if first_ns <= stored.after or end_ns > stored.through + 1:
            raise UsageError(
                f"{file} has candles from {show_short(first_ns)} to {show_short(end_ns)}, and "
                "would lose some of them: give a range that contains them, or remove the file"
            )


def _lean_file(pair: Pair, interval: Interval, folder: str, time_ns: int) -> Path:
    """The file that has the candles of a time."""
    market, symbol = Path(folder) / "crypto" / MARKET / lean_resolution(interval), lean_symbol(pair)
    if interval.width_ns in _SINGLE_FILE:
        return market / f"{symbol}_trade.zip"
    return market / symbol / f"{_utc(time_ns):%Y%m%d}_trade.zip"


_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)
"""What reading a damaged ZIP may raise."""


def _first_and_last(file: Path, interval: Interval) -> list[int]:
    """When the first and the last candle of a file open; empty if it has none, or is not LEAN's."""
    try:
        with zipfile.ZipFile(file) as archive:
            lines = archive.read(archive.namelist()[0]).decode().splitlines()
        texts = [line.partition(",")[0] for line in (lines[0], lines[-1])]
        if interval.width_ns in _SINGLE_FILE:
            return [_parse_utc(text, "%Y%m%d %H:%M") for text in texts]
        day_ns = _parse_utc(file.name[:8], "%Y%m%d")
        return [day_ns + int(text) * _MILLISECOND_NS for text in texts]
    except (FileNotFoundError, IndexError, ValueError, *_DAMAGE):
        return []


def _parse_utc(text: str, form: str) -> int:
    return int(datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()) * SECOND


def write_lean_candles(
    batches: Iterable[pa.RecordBatch], pair: Pair, interval: Interval, folder: str
) -> Path:
    """Write candles of one pair and interval; return LEAN's data folder. Files are replaced.

    Seconds and minutes make one zip a day, hours and days a single zip.

    Args:
        batches: the candles, in order.
        pair: the pair, whose names are known.
        interval: the candles' length.
        folder: LEAN's data folder.

    Raises:
        UsageError: the pair's currencies are not known, or the folder lies in an archive.
        BadInterval: LEAN has no interval of this length.
        ArchiveUnwritable: a file can't be written.
    """
    resolution, root = lean_resolution(interval), Path(folder)
    with writing(folder):
        symbol = lean_symbol(pair)
        if interval.width_ns in _SINGLE_FILE:
            lines = (f"{_utc(time_ns):%Y%m%d %H:%M},{text}" for time_ns, text in _candles(batches))
            file, first = _lean_file(pair, interval, folder, 0), next(lines, None)
            # A range without candles takes none away from a file that has some.
            if first is not None or not _first_and_last(file, interval):
                _write_zip(file, f"{symbol}.csv", chain([] if first is None else [first], lines))
            return root
        for day_ns, candles in groupby(_candles(batches), lambda candle: candle[0] // DAY * DAY):
            day = f"{_utc(day_ns):%Y%m%d}"
            lines = (f"{(time_ns - day_ns) // _MILLISECOND_NS},{text}" for time_ns, text in candles)
            entry = f"{day}_{symbol}_{resolution}_trade.csv"
            _write_zip(_lean_file(pair, interval, folder, day_ns), entry, lines)
    return root


def _candles(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, str]]:
    """The opening time of each candle, and its other values as LEAN's CSV has them."""
    for batch in batches:
        figures = as_text(batch.select(["open", "high", "low", "close", "volume"]))
        columns = [column.to_pylist() for column in figures.columns]
        for time_ns, *texts in zip(times(batch).tolist(), *columns, strict=True):
            yield time_ns, ",".join(text or "" for text in texts)


def _utc(time_ns: int) -> datetime:
    return datetime.fromtimestamp(time_ns // SECOND, UTC)


def _write_zip(file: Path, entry: str, lines: Iterator[str]) -> None:
    """Write a zip with one text file in it; equal lines give equal bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    info = zipfile.ZipInfo(entry)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    with (
        file_sink(file) as sink,
        zipfile.ZipFile(sink, "w") as archive,
        archive.open(info, "w") as text,
    ):
        text.writelines(f"{line}\n".encode() for line in lines)
