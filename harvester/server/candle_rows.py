"""Candles and 24-hour figures of the API server, summed from an archive by pyarrow.

Queries use SQL instead: comparing an archive with an API server compares two independent
computations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Context, Decimal
from typing import Any

import pyarrow as pa

from harvester.kraken.pairs import Pair
from harvester.query.arrow_bars import PRICES, begins_ns, candles_of_trades
from harvester.storage.trade_store import TradeStore
from harvester.times import DAY, SECOND, Range

# Source: Kraken's public REST documentation for `GET /0/public/OHLC` and `GET /0/public/Ticker`,
# and captured answers (docs/kraken.md).

CLOSED_CANDLES = 720
"""Closed candles in an answer; the open one follows them."""

_EXACT = Context(prec=76)

Row = tuple[int, str, str, str, str, str, str, int]
"""Time in seconds, open, high, low, close, vwap, volume, count; prices and volumes as text."""


def ohlc_from_archive(
    archive: TradeStore, pair: Pair, width_ns: int, numbers: range, now_ns: int
) -> list[Row]:
    """Candles of a pair, from the first one that is complete and has a price.

    Args:
        archive: an archive that covers some range of the pair.
        pair: the market; prices are printed with its `pair_decimals`.
        width_ns: a candle's length in nanoseconds.
        numbers: which candles; number 0 begins at the UNIX epoch. Candles before the last gap that
            ends among them are left out.
        now_ns: the exchange's clock, UNIX nanoseconds.

    Raises:
        ArchiveDamaged: a file can't be read.
    """
    begin_ns, end_ns = numbers.start * width_ns, min(numbers.stop * width_ns - 1, now_ns)
    covered = [part for part in archive.coverage(pair.altname) if part.after < max(end_ns, 1)]
    if not covered:
        return []
    # A candle without trades repeats the previous close, which may be far back.
    previous_ns = archive.last_time(pair.altname, begin_ns)
    after = max(covered[-1].after, begin_ns - 1 if previous_ns is None else previous_ns - 1)
    batches = archive.scan(pair.altname, Range(after, max(after, end_ns)))
    rows = ohlc_rows(batches, width_ns, numbers, pair.pair_decimals)
    return [row for row in rows if row[0] * SECOND > covered[-1].after]


def ohlc_rows(
    batches: Iterable[pa.RecordBatch], width_ns: int, numbers: range, decimals: int
) -> list[Row]:
    """Candles by their numbers, from the first one with a price on.

    An interval without trades repeats the previous close, with a volume and a vwap of zero. The
    vwap is truncated to the pair's decimals, not rounded.

    Args:
        batches: rows in the trade history's order; they may begin earlier.
        width_ns: a candle's length in nanoseconds.
        numbers: which candles; number 0 begins at the UNIX epoch.
        decimals: the decimals of the pair's prices.
    """
    by_number: dict[int, dict[str, Any]] = {}
    for candles in candles_of_trades(batches, width_ns, "OHLC"):
        values = candles.drop_columns(["first_time", "last_time"]).to_pylist()
        by_number |= zip((begins_ns(candles) // width_ns).tolist(), values, strict=True)
    if not by_number:
        return []
    first = max(min(by_number), numbers.start)
    earlier = (number for number in by_number if number <= first)
    close = by_number[max(earlier, default=min(by_number))]["close"]
    rows: list[Row] = []
    for number in range(first, numbers.stop):
        candle = by_number.get(number) or _without_trades(close)
        rows.append(_row(number * width_ns // SECOND, candle, decimals))
        close = candle["close"]
    return rows


def ticker_from_archive(archive: TradeStore, pair: Pair, now_ns: int) -> dict[str, Any] | None:
    """The figures of the day and of the last 24 hours in the form of Ticker; None without trades.

    Figures begin after the last gap. There is no order book in an archive, so best bid and ask are
    left out.

    Args:
        archive: an archive that covers some range of the pair.
        pair: the market; prices are printed with its `pair_decimals`.
        now_ns: the exchange's clock, UNIX nanoseconds.

    Raises:
        ArchiveDamaged: a file can't be read.
    """
    last_ns = archive.last_time(pair.altname, now_ns)
    if last_ns is None:
        return None
    covered = archive.coverage(pair.altname)[-1]
    today_ns = now_ns // DAY * DAY
    [*_, last] = archive.scan(pair.altname, Range(last_ns - 1, last_ns))
    price, volume = last.column("price")[-1].as_py(), last.column("volume")[-1].as_py()
    since_midnight = _sum(archive, pair, Range(max(today_ns - 1, covered.after), now_ns), price)
    last_day = _sum(archive, pair, Range(max(now_ns - DAY, covered.after), now_ns), price)
    both = [_row(0, candle, pair.pair_decimals) for candle in (since_midnight, last_day)]
    return {
        "c": [_price_text(price, pair.pair_decimals), f"{volume:.8f}"],
        "v": [row[6] for row in both],
        "p": [row[5] for row in both],
        "t": [row[7] for row in both],
        "l": [row[3] for row in both],
        "h": [row[2] for row in both],
        "o": both[0][1],
    }


def _sum(archive: TradeStore, pair: Pair, within: Range, close: Decimal) -> dict[str, Any]:
    """All trades of a range as one candle; at the price `close` if there are none."""
    batches = archive.scan(pair.altname, within._replace(after=min(within)))
    # Any width that holds the range in one interval.
    candles: list[dict[str, Any]] = [
        candle
        for bars in candles_of_trades(batches, 2 * within.through + 1, "Ticker")
        for candle in bars.drop_columns(["first_time", "last_time"]).to_pylist()
    ]
    return candles[0] if candles else _without_trades(close)


def _without_trades(close: Decimal) -> dict[str, Any]:
    return dict.fromkeys(PRICES, close) | dict.fromkeys(("volume", "value", "count"), 0)


def _row(time_s: int, candle: Mapping[str, Any], decimals: int) -> Row:
    vwap = Decimal(0)
    if candle["volume"]:
        units = _EXACT.divide_int(candle["value"].scaleb(decimals, _EXACT), candle["volume"])
        vwap = units.scaleb(-decimals, _EXACT)
    open_, high, low, close = (_price_text(candle[name], decimals) for name in PRICES)
    vwap_text, volume_text = f"{vwap:.{decimals}f}", f"{candle['volume']:.8f}"
    return (time_s, open_, high, low, close, vwap_text, volume_text, candle["count"])


def _price_text(price: Decimal, decimals: int) -> str:
    """A price with the pair's decimals, or with more if it has more."""
    short = price.quantize(Decimal(1).scaleb(-decimals), context=_EXACT)
    return f"{short if short == price else price.normalize(_EXACT):f}"
