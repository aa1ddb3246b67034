"""The candles of a chart as arrays: choose the interval, load, format values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harvester.kraken.pairs import Pair
from harvester.query.candles import QuerySession
from harvester.query.plan import CandleQuery, Plan, max_candles
from harvester.storage.trade_store import TradeStore
from harvester.times import DAY, LONGEST, Interval, Range, parse_interval, show_short

# --- coarser --------------------------------------------------------------------------------------

MOST_CANDLES = 3_000
"""More than a screen has columns of pixels for; a browser still moves so many without a jerk."""

LADDER = tuple(
    parse_interval(text)
    for text in "1s 5s 15s 30s 1m 5m 15m 30m 1h 4h 1d 1w 1mo 1q 1y".split()  # noqa: SIM905
)


class Drawn(NamedTuple):
    """A question that a screen can show, and how many candles the one asked for could come to."""

    question: CandleQuery
    asked: int


def length_ns(interval: Interval) -> int:
    """The length of an interval; where the calendar decides, about that."""
    return interval.count * 36_525 * DAY // LONGEST[interval.unit]


def drawable(archive: TradeStore, question: CandleQuery) -> Drawn:
    """The question, of the next coarser interval that comes to at most `MOST_CANDLES`.

    The candles are not made for it: how many there can be is known from names and footers.

    Raises:
        NothingHeld: the archive holds nothing of the pair.
        ArchiveDamaged: a file can't be read, or files keep vanishing.
    """

    def expected(plan: Plan) -> int:
        return max_candles(archive, plan)

    session = QuerySession(archive)
    asked = session.with_snapshot_retry(question, expected)
    found = question
    if asked > MOST_CANDLES:
        for rung in LADDER:
            if length_ns(rung) > length_ns(question.interval):
                found = replace(question, interval=rung)
                if session.with_snapshot_retry(found, expected) <= MOST_CANDLES:
                    break
    return Drawn(found, asked)


# --- wording --------------------------------------------------------------------------------------

_ENTITIES = {ord(one): f"&#{ord(one)};" for one in "&<>\"'{}$"}
"""Plotly reads tags, `%{...}` and, where MathJax is, `$...$` in what it shows."""


def plain(text: str) -> str:
    """A text that plotly shows as it stands, whatever is in it."""
    shown = (one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
    return "".join(shown).translate(_ENTITIES)


def digits(number: Decimal, least: int = 0) -> str:
    """A number to its last digit that is not 0, with as many decimals as `least` at least."""
    text = f"{number:,f}"
    whole, point, fraction = text.partition(".")
    fraction = fraction.rstrip("0").ljust(least, "0")
    return f"{whole}.{fraction}" if point and fraction else whole


# --- candles --------------------------------------------------------------------------------------

Floats = NDArray[np.float64]
VOLUMES = ("buy_volume", "sell_volume", "unknown_volume")
_READ = (
    *("open", "high", "low", "close", "vwap", "volume", "count"),
    *("buy_volume", "sell_volume", "is_complete"),
)
NOT_WHOLE = "not held whole"


class Candles(NamedTuple):
    """Candles in order of time, each array of shape (candles,).

    Attributes:
        opens_ns: when each opens.
        width_ns: how long each is, or about so.
        columns: floats by name: open, high, low, close, vwap (nan where there is none), and
            volume by the taker's side, `unknown_volume` where none is known.
        told: what is said of each, one tuple of texts a candle.
    """

    opens_ns: NDArray[np.int64]
    width_ns: int
    columns: dict[str, Floats]
    told: list[tuple[str, ...]]

    @property
    def range(self) -> Range:
        """From when the first one opens to when the last one ends."""
        return Range(int(self.opens_ns[0]) - 1, int(self.opens_ns[-1]) + self.width_ns - 1)

    def place(self, stamps_ns: NDArray[np.int64]) -> NDArray[np.datetime64]:
        """Where candles that open at some moments are drawn: amid their time, to the µs."""
        return (stamps_ns + self.width_ns // 2).astype("datetime64[ns]").astype("datetime64[us]")


def arranged(table: pa.Table, interval: Interval, pair: Pair) -> Candles:
    """Candles with all columns, at least one, as a chart has them."""
    rows: dict[str, list[Any]] = {name: table.column(name).to_pylist() for name in _READ}
    known = zip(rows["volume"], rows["buy_volume"], rows["sell_volume"], strict=True)
    rows["unknown_volume"] = [volume - buy - sell for volume, buy, sell in known]
    opens_ns = table.column("time").cast(pa.int64()).to_numpy()
    names = ("open", "high", "low", "close", "vwap", *VOLUMES)
    return Candles(
        opens_ns,
        length_ns(interval),
        {name: np.array(rows[name], dtype=np.float64) for name in names},
        _told(opens_ns, rows, pair.pair_decimals),
    )


def _told(
    opens_ns: NDArray[np.int64], rows: dict[str, list[Any]], decimals: int
) -> list[tuple[str, ...]]:
    def prices(name: str) -> list[str]:
        return [digits(row, decimals) for row in rows[name]]

    def volumes(name: str) -> list[str]:
        return [digits(row) for row in rows[name]]

    return list(
        zip(
            [show_short(one) for one in opens_ns.tolist()],
            prices("open"),
            prices("high"),
            prices("low"),
            prices("close"),
            [_vwap(row, decimals) for row in rows["vwap"]],
            volumes("volume"),
            volumes("buy_volume"),
            volumes("sell_volume"),
            [f"{row:,}" for row in rows["count"]],
            ["" if whole else f"<br><i>{NOT_WHOLE}</i>" for whole in rows["is_complete"]],
            strict=True,
        )
    )


def _vwap(given: float | None, decimals: int) -> str:
    """A vwap with two decimals more than the pair's prices have; it is a quotient, not a price."""
    if given is None:
        return "none"
    return f"{Decimal(given):,.{decimals + 2}f}"


def broken(candles: Candles, gaps: Sequence[Range]) -> list[int]:
    """The places before which a line over candles breaks: a gap took candles away there."""
    ends_ns = candles.opens_ns + candles.width_ns
    behind = np.searchsorted(ends_ns, [gap.through + 1 for gap in gaps], side="right")
    apart = np.diff(candles.opens_ns, prepend=candles.opens_ns[0]) > candles.width_ns * 3 // 2
    inside = behind < len(candles.opens_ns)
    return sorted({int(one) for one in behind[inside] if apart[one]})
