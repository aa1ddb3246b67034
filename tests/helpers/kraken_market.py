"""The truth of a test market: its trades, what the exchange prints of them, and clocks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal, Inexact
from itertools import pairwise
from typing import Any, Protocol, Self

SECOND_NS = 1_000_000_000


EXACT = Context(prec=120, traps=[Inexact])


COMMON_NAMES = {"XBT": "BTC", "XDG": "DOGE"}


TradeRows = list[tuple[int | None, int, int, Decimal, Decimal, str | None, str | None, str | None]]


@dataclass(frozen=True, slots=True)
class Trade:
    """One trade as the exchange knows it; `trade_id` None makes a row of six elements."""

    true_ns: int
    price: str
    volume: str
    side: str
    order_type: str
    misc: str
    trade_id: int | None


@dataclass
class Market:
    """A pair and its whole history, in the exchange's order.

    `decimals` None prints times as today (shortest digits of the nearest float64); 4 as in 2021.
    `literals` are the times of captured rows, verbatim: then the true stamp is the literal itself.
    """

    altname: str = "XBTUSD"
    key: str = "XXBTZUSD"
    wsname: str = "XBT/USD"
    base: str = "XXBT"
    quote: str = "ZUSD"
    pair_decimals: int = 1
    lot_decimals: int = 8
    cost_decimals: int = 5
    tick_size: str = "0.1"
    status: str = "online"
    trades: list[Trade] = field(default_factory=list)
    decimals: int | None = None
    literals: list[str] | None = None
    aclass_base: str = "currency"

    def __post_init__(self) -> None:
        """Refuse a history out of order: every answer here is found by bisection."""
        stamps = [trade.true_ns for trade in self.trades]
        if any(later < earlier for earlier, later in pairwise(stamps)):
            message = f"{self.altname}: trades must ascend by true_ns"
            raise ValueError(message)

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[Any]], **fields: Any) -> Self:
        """Build a market from captured rows whose times are given as text, to be shown verbatim.

        Rows are put in order of time, those of equal time staying as they came.
        """
        known = sorted(
            ((literal_ns(str(row[2])), str(row[2]), row) for row in rows), key=lambda item: item[0]
        )
        trades = [
            Trade(stamp, row[0], row[1], row[3], row[4], row[5], row[6] if len(row) > 6 else None)
            for stamp, _, row in known
        ]
        return cls(trades=trades, literals=[literal for _, literal, _ in known], **fields)

    @classmethod
    def from_bodies(cls, *bodies: str | bytes, **fields: Any) -> Self:
        """Build a market from captured Trades answers that follow one another."""
        rows: list[Sequence[Any]] = []
        for body in bodies:
            result = json.loads(body, parse_float=str)["result"]
            fields.setdefault("key", next(name for name in result if name != "last"))
            rows += result[fields["key"]]
        fields.setdefault("altname", fields["key"])
        return cls.from_rows(rows, **fields)

    def shows_as(self, other: Market) -> bool:
        """Return whether another market has the same history, printed alike."""
        printed = (self.decimals, self.literals) == (other.decimals, other.literals)
        return self.trades is other.trades and printed

    def literal(self, place: int) -> str:
        """Give the time of the row at `place` as it is printed."""
        if self.literals is not None:
            return self.literals[place]
        return time_literal(self.trades[place].true_ns, self.decimals)

    def published_ns(self, trade: Trade) -> int:
        """Read the printed time of a trade back, by text and so to the last digit."""
        if self.literals is not None:
            return trade.true_ns
        return literal_ns(time_literal(trade.true_ns, self.decimals))


def time_literal(true_ns: int, decimals: int | None) -> str:
    """Print a stamp as Kraken does: as the nearest float64, or rounded to a few decimals."""
    if decimals is None:
        # Python divides integers to the float that is nearest to the quotient.
        return repr(true_ns / SECOND_NS)
    unit = 10 ** (9 - decimals)
    seconds, rest = divmod((true_ns + unit // 2) // unit, 10**decimals)
    return f"{seconds}.{rest:0{decimals}d}".rstrip("0").rstrip(".")


def literal_ns(literal: str) -> int:
    """Give the nanoseconds that a printed time says, exactly."""
    whole, _, fraction = literal.partition(".")
    return int(whole) * SECOND_NS + int(fraction.ljust(9, "0"))


def expected(market: Market) -> TradeRows:
    """Give the rows of a perfect download of the market.

    A row is (trade_id or None, published_ns, tie, price, volume, side, order type, misc).
    """
    history: TradeRows = []
    before, tie = -1, 0
    for trade in market.trades:
        published = market.published_ns(trade)
        tie = tie + 1 if published == before else 0
        before = published
        side = {"b": "buy", "s": "sell"}[trade.side]
        kind = {"m": "market", "l": "limit"}[trade.order_type]
        price, volume = Decimal(trade.price), Decimal(trade.volume)
        history.append(
            (trade.trade_id or None, published, tie, price, volume, side, kind, trade.misc)
        )
    return history


class HasNow(Protocol):
    """A source of the exchange's time."""

    @property
    def now_ns(self) -> int:
        """Nanoseconds since the UNIX epoch."""


class WallClock:
    """The machine's own time."""

    @property
    def now_ns(self) -> int:
        """Nanoseconds since the UNIX epoch."""
        return time.time_ns()


@dataclass
class Clock:
    """A clock that stands until it is moved: trades later than it are not shown."""

    now_ns: int

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_ns += round(seconds * SECOND_NS)


def spellings(market: Market) -> list[str]:
    """Give all that people type for a pair, the exchange's own names first.

    Of a tokenized stock only what the exchange has itself, as case matters in its names.
    """
    names = [market.altname, market.key]
    if market.aclass_base != "currency":
        return [*names, market.wsname]
    base, slash, quote = market.wsname.partition("/")
    if slash:
        for first in (base, COMMON_NAMES.get(base, base)):
            for second in (quote, COMMON_NAMES.get(quote, quote)):
                names += [f"{first}/{second}", f"{first}{second}"]
    return [*names, *(name.upper() for name in names)]


WELL_KNOWN = (
    ("XBTUSD", "XXBTZUSD", "XBT/USD", "XXBT", "ZUSD"),
    ("ETHUSD", "XETHZUSD", "ETH/USD", "XETH", "ZUSD"),
    ("XBTEUR", "XXBTZEUR", "XBT/EUR", "XXBT", "ZEUR"),
    ("XDGUSD", "XDGUSD", "XDG/USD", "XXDG", "ZUSD"),
    ("SOLUSD", "SOLUSD", "SOL/USD", "SOL", "ZUSD"),
)


def named(number: int, trades: list[Trade]) -> Market:
    """Give a market its names: some well-known ones, then made ones."""
    made = f"C{number}"
    names = (f"{made}USD", f"{made}USD", f"{made}/USD", made, "ZUSD")
    return Market(*(WELL_KNOWN[number] if number < len(WELL_KNOWN) else names), trades=trades)
