"""Decode an answer of the OHLC endpoint into exact candles."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import pairwise

import msgspec

from harvester.errors import BAD_JSON, UnreadableAnswer
from harvester.escaping import printable, shortened
from harvester.kraken.decode import read_result
from harvester.kraken.pairs import Pair, check_market
from harvester.kraken.trades import LONGEST_NUMBER
from harvester.times import END_OF_TIME, SECOND

# --- candles --------------------------------------------------------------------------------------

# Source: Kraken's public REST documentation for `GET /0/public/OHLC`, and captured bodies.

INTERVALS_MIN = (1, 5, 15, 30, 60, 240, 1440, 10080, 21600)
"""The lengths of candles that the exchange makes, in minutes."""

WEEK_MIN = 10080


VALUES = ("open", "high", "low", "close", "vwap", "volume", "count")
"""What a candle tells beside its time, in the exchange's order."""


@dataclass(frozen=True, slots=True)
class Candle:
    """One candle as the exchange prints it, every digit of it.

    Attributes:
        time_ns: when it opens.
        vwap: cut off after the pair's decimals; 0 where nothing was traded.
        count: number of trades.
    """

    time_ns: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    vwap: Decimal
    volume: Decimal
    count: int


class _Row(msgspec.Struct, array_like=True, gc=False):
    time: int
    open: str
    high: str
    low: str
    close: str
    vwap: str
    volume: str
    count: int


_rows = msgspec.json.Decoder(_Row)


def read_candles(body: bytes, minutes: int, pair: Pair | None = None) -> list[Candle]:
    """Read the body of an OHLC answer for candles of so many minutes, in order of time.

    Args:
        body: the answer.
        minutes: the length of its candles.
        pair: the market that was asked for; None takes the candles of any one.

    Raises:
        Transient: it is no JSON, is cut short, or names another market.
        UnreadableAnswer: it is not of the documented shape; the message shows the row.
    """
    raws = _raw_rows(read_result(body), pair)
    candles = [_candle(raw, minutes) for raw in raws]
    for raw, (before, one) in zip(raws[1:], pairwise(candles), strict=True):
        if one.time_ns <= before.time_ns:
            raise _bad_row(raw, "it does not come after the one before it")
    return candles


def _raw_rows(result: dict[str, msgspec.Raw], pair: Pair | None) -> list[msgspec.Raw]:
    markets = {name: raw for name, raw in result.items() if name != "last"}
    if len(markets) != 1:
        raise UnreadableAnswer(
            f"the exchange's candles are of {len(markets)} markets "
            f"({printable(shortened(', '.join(markets)))}) where one was asked for"
        )
    [(market, rows)] = markets.items()
    if pair is not None:
        check_market(pair, market)
    try:
        return msgspec.json.decode(rows, type=list[msgspec.Raw])
    except BAD_JSON as error:
        raise UnreadableAnswer(f"the exchange's candles are no list of rows: {error}") from error


def _candle(raw: msgspec.Raw, minutes: int) -> Candle:
    try:
        row = _rows.decode(raw)
        if max(map(len, (row.open, row.high, row.low, row.close, row.vwap, row.volume))) > (
            LONGEST_NUMBER
        ):
            raise _bad_row(raw, "one of its numbers has too many digits")
        one = Candle(
            row.time * SECOND,
            Decimal(row.open),
            Decimal(row.high),
            Decimal(row.low),
            Decimal(row.close),
            Decimal(row.vwap),
            Decimal(row.volume),
            row.count,
        )
    except BAD_JSON as error:
        raise _bad_row(raw, str(error)) from error
    except InvalidOperation as error:
        raise _bad_row(raw, "one of its numbers is none") from error
    values = [Decimal(getattr(one, name)) for name in VALUES]
    if not all(value.is_finite() and value >= 0 for value in values):
        raise _bad_row(raw, "one of its numbers is below 0 or without end")
    if not 0 <= one.time_ns <= END_OF_TIME or row.time % (minutes * 60):
        raise _bad_row(raw, f"no candle of {minutes} minutes opens then")
    return one


def _bad_row(raw: msgspec.Raw, reason: str) -> UnreadableAnswer:
    row = printable(shortened(bytes(raw).decode(errors="replace")))
    return UnreadableAnswer(f"the exchange sent a candle that can't be read: {row} ({reason})")
