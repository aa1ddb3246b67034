"""Write candles and trades in the layouts of freqtrade and LEAN."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from harvester.cli.formats import as_text
from harvester.errors import BadInterval, UsageError
from harvester.kraken.pairs import Pair
from harvester.schema import times
from harvester.storage.export import check_outside, file_sink, write_arrow
from harvester.storage.filesystem import writing
from harvester.times import DAY, SECOND, Interval

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

_MINUTES = (1, 3, 5, 15, 30)
_HOURS = (1, 2, 4, 6, 8, 12)
_FIXED = {f"{count}m": count * 60 for count in _MINUTES}
_FIXED |= {f"{count}h": count * 3600 for count in _HOURS}
_FIXED |= {f"{count}d": count * 86_400 for count in (1, 3)}
_NAMES = {seconds * 1_000_000_000: name for name, seconds in _FIXED.items()}
# By the calendar; a month's file is called so that no file system takes it for a minute's.
_CALENDAR = {"1w": "1w", "2w": "2w", "1mo": "1Mo"}

_NANOSECONDS = 1_000_000


def freqtrade_timeframe(interval: Interval) -> str:
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


def freqtrade_file_name(symbol: str, what: str) -> str:
    """What freqtrade calls the file of a symbol's candles of one interval, or of its trades."""
    return f"{re.sub('[/ .@$+:]', '_', symbol)}-{what}.feather"


def freqtrade_candles(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Candles as `CANDLES`; each figure is the float nearest to the decimal."""
    date = batch.column("time").cast(FREQTRADE_CANDLES.field("date").type)
    figures = [_float(batch.column(name)) for name in FREQTRADE_CANDLES.names[1:]]
    return pa.RecordBatch.from_arrays([date, *figures], schema=FREQTRADE_CANDLES)


def freqtrade_trades(batch: pa.RecordBatch) -> pa.RecordBatch:
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
    return pa.RecordBatch.from_arrays(
        [columns[name] for name in FREQTRADE_TRADES.names], schema=FREQTRADE_TRADES
    )


def _place(batch: pa.RecordBatch) -> pa.Array:
    within = pa.array(times(batch) % _NANOSECONDS).cast(pa.string())
    return pc.binary_join_element_wise(within, batch.column("tie").cast(pa.string()), ".")


def _float(decimals: pa.Array) -> pa.Array:
    # By the digits: Arrow's own cast is a hair off for one price in five.
    return decimals.cast(pa.string()).cast(pa.float64())


# --- quantconnect ---------------------------------------------------------------------------------

# Source: LEAN's `Data/crypto/readme.md` and the paths in its own tests of `LeanData`.

MARKET = "kraken"

_DAILY_FILES = {SECOND: "second", 60 * SECOND: "minute"}
_ONE_FILE = {3600 * SECOND: "hour", DAY: "daily"}
_MILLISECOND = SECOND // 1000


class Line(NamedTuple):
    """A candle: when it opens, and its figures as LEAN's CSV has them."""

    time_ns: int
    figures: str


def lean_resolution(interval: Interval) -> str:
    """The interval as LEAN calls it.

    Raises:
        BadInterval: LEAN knows none of this length.
    """
    name = (_DAILY_FILES | _ONE_FILE).get(interval.width_ns or 0)
    if name is None:
        raise BadInterval(f"LEAN knows no interval {interval.text!r}: give one of 1s, 1m, 1h, 1d")
    return name


def write_lean_candles(
    batches: Iterator[pa.RecordBatch], folder: Path, symbol: str, interval: Interval
) -> None:
    """Write candles under `folder`, LEAN's data folder; files of the same days are replaced.

    Args:
        batches: the candles, in order.
        folder: LEAN's data folder.
        symbol: the pair in LEAN's spelling for file names, such as `btcusd`.
        interval: the candles' length.
    """
    name, kind = symbol, lean_resolution(interval)
    home = folder / "crypto" / MARKET / kind
    if interval.width_ns in _ONE_FILE:
        lines = (f"{_day(line.time_ns):%Y%m%d %H:%M},{line.figures}" for line in _lines(batches))
        _write(home / f"{name}_trade.zip", f"{name}.csv", lines)
        return
    for day_ns, held in groupby(_lines(batches), lambda one: one.time_ns // DAY * DAY):
        day = f"{_day(day_ns):%Y%m%d}"
        lines = (f"{(one.time_ns - day_ns) // _MILLISECOND},{one.figures}" for one in held)
        _write(home / name / f"{day}_trade.zip", f"{day}_{name}_{kind}_trade.csv", lines)


def _lines(batches: Iterator[pa.RecordBatch]) -> Iterator[Line]:
    for batch in batches:
        figures = as_text(batch.select(["open", "high", "low", "close", "volume"]))
        columns = [column.to_pylist() for column in figures.columns]
        for stamp, *texts in zip(times(batch).tolist(), *columns, strict=True):
            yield Line(stamp, ",".join(text or "" for text in texts))


def _day(stamp_ns: int) -> datetime:
    return datetime.fromtimestamp(stamp_ns // SECOND, UTC)


def _write(file: Path, entry: str, lines: Iterator[str]) -> None:
    """One zip that holds one text; the same lines give the same bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    info = zipfile.ZipInfo(entry)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    with (
        file_sink(file) as whole,
        zipfile.ZipFile(whole, "w") as packed,
        packed.open(info, "w") as sink,
    ):
        sink.writelines(f"{line}\n".encode() for line in lines)


# --- exports --------------------------------------------------------------------------------------

# Where ccxt, and so freqtrade, calls a currency by another name than Kraken does.
_CCXT_CURRENCIES = {
    "LUNA": "LUNC",
    "LUNA2": "LUNA",
    "REP": "REPV1",
    "REPV2": "REP",
    "UST": "USTC",
    "XBT": "BTC",
    "XDG": "DOGE",
}


class Written:
    """How many rows were written where, and how many candles were not whole."""

    def __init__(self, place: Path) -> None:
        """Nothing written yet."""
        self.place = place
        self.rows = 0
        self.left_out = 0

    def whole(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The candles that are complete: other programs have no way to tell one that is not."""
        for batch in batches:
            kept = batch.filter(pc.fill_null(batch.column("is_complete"), False))
            self.left_out += batch.num_rows - kept.num_rows
            self.rows += kept.num_rows
            yield kept


def check_known(pair: Pair, interval: Interval, form: str) -> None:
    """See that another program has names for what is to be written.

    Raises:
        UsageError: the exchange's name of the pair is not known.
        BadInterval: the other program knows no such interval.
    """
    symbol_of(pair)
    if form == "lean":
        lean_resolution(interval)
    else:
        freqtrade_timeframe(interval)


def export_candles(
    batches: Iterable[pa.RecordBatch], pair: Pair, interval: Interval, form: str, folder: str
) -> Written:
    """Write candles, which must have the column `is_complete`; those that are not are left out.

    Raises:
        UsageError: the exchange's name of the pair is not known.
        BadInterval: the other program knows no such interval.
        ArchiveUnwritable: the machine refused.
    """
    if form == "lean":
        lean_resolution(interval)
        written = Written(Path(folder))
        check_outside(written.place)
        with writing(folder):
            write_lean_candles(written.whole(batches), written.place, lean_symbol(pair), interval)
        return written
    name = freqtrade_file_name(symbol_of(pair), freqtrade_timeframe(interval))
    written = Written(_file_in(folder, name))
    rows = (freqtrade_candles(batch) for batch in written.whole(batches))
    with file_sink(written.place) as sink:
        write_arrow(rows, FREQTRADE_CANDLES, sink, compression="lz4")
    return written


def export_trades(batches: Iterable[pa.RecordBatch], pair: Pair, folder: str) -> Written:
    """Write trades for freqtrade.

    Raises:
        UsageError: the exchange's name of the pair is not known.
        ArchiveUnwritable: the machine refused.
    """
    written = Written(_file_in(folder, freqtrade_file_name(symbol_of(pair), "trades")))

    def rows() -> Iterator[pa.RecordBatch]:
        for batch in batches:
            written.rows += batch.num_rows
            yield freqtrade_trades(batch)

    with file_sink(written.place) as sink:
        write_arrow(rows(), FREQTRADE_TRADES, sink, compression="lz4")
    return written


def symbol_of(pair: Pair) -> str:
    """The pair as ccxt and freqtrade write it: BTC/USD for XBT/USD.

    Raises:
        UsageError: its base and its quote are not known apart.
    """
    return "/".join(_CCXT_CURRENCIES.get(name, name) for name in _currencies(pair))


def lean_symbol(pair: Pair) -> str:
    """The pair as LEAN's database of Kraken's symbols writes it: Kraken's names, but BTC for XBT.

    ccxt's names do not fit here: LEAN's LUNAUSD and REPUSD are Kraken's LUNA and REP, which ccxt
    calls LUNC and REPV1.

    Raises:
        UsageError: its base and its quote are not known apart.
    """
    return "".join("BTC" if name == "XBT" else name for name in _currencies(pair)).lower()


def _currencies(pair: Pair) -> tuple[str, str]:
    """Base and quote by Kraken's names."""
    base, slash, quote = pair.wsname.partition("/")
    if not slash:
        raise UsageError(
            f"where {pair.altname} parts into base and quote is not known here: "
            f"`harvester pairs {pair.altname} --update` asks the exchange"
        )
    return base, quote


def _file_in(folder: str, name: str) -> Path:
    check_outside(Path(folder))
    with writing(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder) / name
