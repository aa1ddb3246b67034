"""Candles and trades written into the folders of other programs, in their own layouts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from harvester.cli import freqtrade, quantconnect
from harvester.errors import UsageError
from harvester.kraken.pairs import Pair
from harvester.storage.export import check_outside, file_sink, write_arrow
from harvester.storage.filesystem import writing
from harvester.times import Interval

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
        quantconnect.resolution(interval)
    else:
        freqtrade.timeframe(interval)


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
        quantconnect.resolution(interval)
        written = Written(Path(folder))
        check_outside(written.place)
        with writing(folder):
            quantconnect.write_candles(
                written.whole(batches), written.place, lean_symbol(pair), interval
            )
        return written
    name = freqtrade.file_name(symbol_of(pair), freqtrade.timeframe(interval))
    written = Written(_file_in(folder, name))
    rows = (freqtrade.candles(batch) for batch in written.whole(batches))
    with file_sink(written.place) as sink:
        write_arrow(rows, freqtrade.CANDLES, sink, compression="lz4")
    return written


def export_trades(batches: Iterable[pa.RecordBatch], pair: Pair, folder: str) -> Written:
    """Write trades for freqtrade.

    Raises:
        UsageError: the exchange's name of the pair is not known.
        ArchiveUnwritable: the machine refused.
    """
    written = Written(_file_in(folder, freqtrade.file_name(symbol_of(pair), "trades")))

    def rows() -> Iterator[pa.RecordBatch]:
        for batch in batches:
            written.rows += batch.num_rows
            yield freqtrade.trades(batch)

    with file_sink(written.place) as sink:
        write_arrow(rows(), freqtrade.TRADES, sink, compression="lz4")
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
