"""Decode an answer of the OHLC endpoint into exact candles; estimate trades from their counts.

Source of the rules: Kraken's public REST documentation for `GET /0/public/OHLC`, and captured
answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import pairwise

import msgspec

from harvester.errors import BAD_JSON, UnreadableAnswer, brief
from harvester.kraken.answers import read_result
from harvester.kraken.pairs import Pair, check_market
from harvester.kraken.trades import LONGEST_NUMBER
from harvester.times import END_OF_TIME, SECOND, UNITS_NS, Range, overlap

INTERVALS_MIN = (1, 5, 15, 30, 60, 240, 1440, 10080, 21600)
"""The candle lengths that the exchange offers, in minutes."""

WEEK_MIN = 10080

VALUES = ("open", "high", "low", "close", "vwap", "volume", "count")
"""A candle's fields after its time, in the exchange's order."""


@dataclass(frozen=True, slots=True)
class Candle:
    """One candle as the exchange sends it, exact to the last digit.

    Attributes:
        time_ns: its open time, UNIX nanoseconds.
        vwap: truncated to the pair's decimals; 0 without trades.
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
    """Decode the body of an OHLC answer; the candles are in order of time.

    Args:
        body: the answer's body.
        minutes: the candles' length.
        pair: the requested market; None accepts any market.

    Raises:
        Transient: the body is not JSON, is cut short, or names another market.
        UnreadableAnswer: it does not have the documented shape; the message shows the row.
    """
    raws = _raw_rows(read_result(body), pair)
    candles = [_candle(raw, minutes) for raw in raws]
    for raw, (previous, candle) in zip(raws[1:], pairwise(candles), strict=True):
        if candle.time_ns <= previous.time_ns:
            raise _bad_row(raw, "it is not later than the candle before it")
    return candles


def _raw_rows(result: dict[str, msgspec.Raw], pair: Pair | None) -> list[msgspec.Raw]:
    markets = {name: raw for name, raw in result.items() if name != "last"}
    if len(markets) != 1:
        raise UnreadableAnswer(
            f"the exchange's candles are of {len(markets)} markets "
            f"({brief(', '.join(markets))}), but one was requested"
        )
    [(market, rows)] = markets.items()
    if pair is not None:
        check_market(pair, market)
    try:
        return msgspec.json.decode(rows, type=list[msgspec.Raw])
    except BAD_JSON as error:
        raise UnreadableAnswer(f"the exchange's candles are not a list of rows: {error}") from error


def _candle(raw: msgspec.Raw, minutes: int) -> Candle:
    try:
        row = _rows.decode(raw)
        if max(map(len, (row.open, row.high, row.low, row.close, row.vwap, row.volume))) > (
            LONGEST_NUMBER
        ):
            raise _bad_row(raw, "one of its numbers has too many digits")
        candle = Candle(
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
        raise _bad_row(raw, "one of its numbers can't be read") from error
    values = [Decimal(getattr(candle, name)) for name in VALUES]
    if not all(value.is_finite() and value >= 0 for value in values):
        raise _bad_row(raw, "one of its numbers is negative or infinite")
    if not 0 <= candle.time_ns <= END_OF_TIME or row.time % (minutes * 60):
        raise _bad_row(raw, f"no candle of {minutes} minutes opens then")
    return candle


def _bad_row(raw: msgspec.Raw, reason: str) -> UnreadableAnswer:
    row = brief(bytes(raw).decode(errors="replace"))
    return UnreadableAnswer(f"the exchange sent a candle that can't be read: {row} ({reason})")


def expected_trades(weeks: list[tuple[int, int]], ranges: list[Range], now_ns: int) -> int:
    """About how many trades are in some ranges; within a week they count as evenly spread.

    Args:
        weeks: the trades of each week of a pair, as (open time in ns, count).
        ranges: the ranges.
        now_ns: the exchange's time: the week that it is in is counted up to then.
    """
    total = 0.0
    for open_ns, count in weeks:
        week = Range(open_ns, max(open_ns + 1, min(open_ns + UNITS_NS["w"], now_ns)))
        for part in ranges:
            within = overlap(part, week)
            if within is not None:
                total += count * (within.through - within.after) / (week.through - week.after)
    return round(total)
