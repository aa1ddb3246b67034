"""Made trades: each a difficulty that the exchange's history is known to have, drawn from a seed.

Functions that need nothing of a market but its trades return the trades; `market` makes one of
them. The others return a `Market`. `markets()` is a hypothesis strategy that mixes them.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from kraken_market import SECOND_NS, Market, Trade

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MICRO_NS = 1_000
MILLI_NS = 1_000_000
DAY_NS = 86_400 * SECOND_NS
# 2024-01-20T23:12:11.777820800Z: about when XBTUSD traded a thousand times in a millisecond.
BUSY_NS = 1_705_792_331_777_820_800
CAPTURED_2021_NS = 1_616_889_746_905_812_345


def market(trades: Iterable[Trade], **fields: Any) -> Market:
    """Make an XBTUSD of these trades; any field of `Market` may be given."""
    return Market(trades=list(trades), **fields)


def utc_ns(*when: int) -> int:
    """Give the nanoseconds of a UTC date and time."""
    since_epoch = datetime(*when, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)  # type: ignore[misc,arg-type]
    return since_epoch // timedelta(microseconds=1) * MICRO_NS


class _Maker:
    """Draws trades one after the other, their prices a random walk."""

    def __init__(self, seed: int, *, first_id: int | None = 1, price: str = "41450.1") -> None:
        self.random = random.Random(f"tape {seed}")
        self.trade_id = first_id
        self.price = float(price)

    def volume(self) -> str:
        """Heavy-tailed: mostly dust, now and then a whale."""
        return f"{max(self.random.lognormvariate(-4.5, 2.2), 1e-8):.8f}"

    def step(self) -> str:
        """Move the price by some tenths."""
        self.price = max(self.price + self.random.choice((-0.3, -0.1, 0, 0, 0, 0.1, 0.3)), 0.1)
        return f"{self.price:.1f}0000"

    def take_id(self) -> int | None:
        """Count on by one."""
        taken = self.trade_id
        if taken is not None:
            self.trade_id = taken + 1
        return taken

    def trade(self, true_ns: int, side: str | None = None) -> Trade:
        """Make the next trade."""
        chance = self.random.random
        taker = side or ("b" if chance() < 0.5 else "s")
        kind = "m" if chance() < 0.6 else "l"
        return Trade(true_ns, self.step(), self.volume(), taker, kind, "", self.take_id())


def _odd(stamp_ns: int) -> int:
    """Keep a stamp off the multiples of 100 ns, which would hide what rounding does."""
    return stamp_ns + 1 if stamp_ns % 100 == 0 else stamp_ns


def xbtusd_like(
    n: int,
    seed: int = 0,
    *,
    start_ns: int = BUSY_NS,
    gap_s: float = 6.0,
    first_id: int | None = 1,
) -> list[Trade]:
    """Make what a busy pair looks like: quiet seconds, then bursts with up to 17 equal stamps."""
    maker = _Maker(seed, first_id=first_id)
    chance, spread = maker.random.random, maker.random.expovariate
    trades: list[Trade] = []
    stamp = start_ns
    while len(trades) < n:
        stamp = _odd(stamp + 1 + int(spread(1 / gap_s) * SECOND_NS))
        for _ in range(1 if chance() < 0.6 else maker.random.randint(2, 6)):
            stamp = _odd(stamp + int(spread(1 / 300) * MICRO_NS) + 1)
            side = "b" if chance() < 0.5 else "s"
            equal = 1 if chance() < 0.7 else min(1 + int(spread(0.25)), 17)
            trades += [maker.trade(stamp, side) for _ in range(equal)]
    return trades[:n]


def old_style(n: int, seed: int = 0) -> Market:
    """Make a market as captured in 2021: six elements, times of four decimals."""
    trades = xbtusd_like(n, seed, start_ns=CAPTURED_2021_NS, first_id=None)
    return market(trades, decimals=4)


def zero_ids(n: int, seed: int = 0) -> list[Trade]:
    """Make runs of id 0 while the true counter goes on, as until June 2024."""
    chances = random.Random(f"zero {seed}")
    trades: list[Trade] = []
    zero = False
    for trade in xbtusd_like(n, seed, first_id=1):
        zero = chances.random() < (0.85 if zero else 0.05)
        trades.append(_renumbered(trade, 0 if zero else trade.trade_id))
    return trades


def _renumbered(trade: Trade, trade_id: int | None) -> Trade:
    return Trade(
        trade.true_ns,
        trade.price,
        trade.volume,
        trade.side,
        trade.order_type,
        trade.misc,
        trade_id,
    )


def ids_with_gaps(n: int, seed: int = 0, *, chance: float = 0.01) -> list[Trade]:
    """Make ids that skip some numbers now and then (or, with 0.9, at nearly every trade)."""
    chances = random.Random(f"jump {seed}")
    trades: list[Trade] = []
    skipped = 0
    for trade in xbtusd_like(n, seed, first_id=1):
        if chances.random() < chance:
            skipped += chances.choice((1, 1, 2, 2, 3, 40))
        trades.append(_renumbered(trade, (trade.trade_id or 0) + skipped))
    return trades


def shared_ids(n: int, seed: int = 0, *, chance: float = 0.2) -> list[Trade]:
    """Make trades that bear time and id of the one before, and differ in price or volume."""
    chances = random.Random(f"shared {seed}")
    trades: list[Trade] = []
    for number, trade in enumerate(inside_stamps(n, seed), start=1):
        trades.append(_renumbered(trade, number))
        if chances.random() < chance:
            last = trades[-1]
            dearer = str(Decimal(last.price) + 1)
            other = chances.choice(((dearer, last.volume), (last.price, "7.00000000")))
            trades.append(_repriced(last, *other))
    return trades


def inside_stamps(n: int, seed: int = 0, *, page_size: int = 1000, group: int = 8) -> list[Trade]:
    """Make each page of `page_size` rows end inside a group of equal stamps."""
    maker = _Maker(seed)
    trades: list[Trade] = []
    stamp = BUSY_NS
    while len(trades) < n:
        behind = (len(trades) + group // 2) % page_size
        if behind >= group or not trades:
            stamp = _odd(stamp + maker.random.randint(1, 2 * SECOND_NS))
        trades.append(maker.trade(stamp))
    return trades[:n]


def look_alikes(n: int, seed: int = 0, *, first_id: int | None = 1) -> list[Trade]:
    """Make true trades equal in all that is printed but the id, at neighbouring nanoseconds."""
    maker = _Maker(seed, first_id=first_id)
    trades: list[Trade] = []
    stamp = BUSY_NS
    while len(trades) < n:
        stamp += maker.random.choice((1, 1, 1, 2, 240, 500, SECOND_NS))
        lots = maker.random.choice(("0.00010000", "0.00010000", "0.20000000"))
        trades.append(Trade(stamp, "41450.00000", lots, "s", "m", "", maker.take_id()))
    return trades


def one_stamp(
    n: int, seed: int = 0, *, before: int = 300, after: int = 300, first_id: int | None = 1
) -> list[Trade]:
    """Make `n` trades on one stamp (900 fit a page, 1000 and 1500 do not), and neighbours."""
    maker = _Maker(seed, first_id=first_id)
    ahead = [maker.trade(_odd(BUSY_NS - (before - i) * 37 * MILLI_NS)) for i in range(before)]
    same = [maker.trade(BUSY_NS + 22) for _ in range(n)]
    behind = [maker.trade(_odd(BUSY_NS + (i + 1) * 53 * MILLI_NS)) for i in range(after)]
    return ahead + same + behind


def packed_stamps(n: int = 1000, seed: int = 0, *, span_ns: int = 14 * MICRO_NS) -> list[Trade]:
    """Make `n` different stamps within 14 microseconds, fewer than 100 of which print apart."""
    maker = _Maker(seed)
    ahead = [maker.trade(_odd(BUSY_NS - (200 - i) * 41 * MILLI_NS)) for i in range(200)]
    packed = [maker.trade(BUSY_NS + i * span_ns // n) for i in range(n)]
    behind = [maker.trade(_odd(BUSY_NS + SECOND_NS + i * 29 * MILLI_NS)) for i in range(200)]
    return ahead + packed + behind


def new_years(seed: int = 0, *, each: int = 40, first_id: int | None = 1) -> list[Trade]:
    """Make trades of 2019, 2020, 2022 and 2023 that crowd around New Year; 2021 has none.

    The last nanosecond of a year prints as the first of the next.
    """
    maker = _Maker(seed, first_id=first_id)
    stamps: list[int] = []
    for year in (2019, 2020, 2022, 2023):
        first, last = utc_ns(year, 1, 1), utc_ns(year + 1, 1, 1)
        stamps += [first + maker.random.randrange(last - first) for _ in range(each)]
        stamps += [last - SECOND_NS, last - 60_000, last - 300, last - 1] if year != 2020 else []
        stamps += [first, first + 1, first + 300, first + 300] if year != 2022 else []
    return [maker.trade(stamp) for stamp in sorted(stamps)]


def tiny_coin(n: int, seed: int = 0) -> Market:
    """Make a coin of 0.0000123 dollars that trades 10^11 units and more at a time."""
    maker = _Maker(seed)
    trades = []
    for trade in xbtusd_like(n, seed, first_id=1):
        price = Decimal(12300 + maker.random.randint(-90, 90)).scaleb(-9)
        units = maker.random.choice((10**5, 10**8, 10**11, 5 * 10**11, 10**12))
        volume = Decimal(maker.random.randint(units // 10, units) * 10**5 + 12345).scaleb(-5)
        trades.append(_repriced(trade, f"{price:.10f}", f"{volume:.8f}"))
    return Market(
        "BTTUSD", "BTTUSD", "BTT/USD", "BTT", "ZUSD", 10, 5, 10, "0.0000000001", trades=trades
    )


def _repriced(trade: Trade, price: str, volume: str) -> Trade:
    return Trade(
        trade.true_ns, price, volume, trade.side, trade.order_type, trade.misc, trade.trade_id
    )


def thirteen_decimals(n: int, seed: int = 0) -> Market:
    """Make a pair whose prices have more decimals than any yet, the last of them never 0."""
    prices = random.Random(f"thirteen {seed}")
    trades = [
        _repriced(t, f"0.{prices.randint(10**6, 10**7) * 10 + prices.randint(1, 9):013d}", t.volume)
        for t in xbtusd_like(n, seed, first_id=1)
    ]
    return Market(
        "PEPEXBT",
        "PEPEXBT",
        "PEPE/XBT",
        "PEPE",
        "XXBT",
        13,
        5,
        13,
        "0.0000000000001",
        trades=trades,
    )


def sparse(n: int, seed: int = 0) -> list[Trade]:
    """Make a pair that trades once in some days."""
    maker = _Maker(seed)
    stamp = utc_ns(2023, 5, 1)
    trades: list[Trade] = []
    while len(trades) < n:
        stamp = _odd(stamp + maker.random.randint(DAY_NS // 8, 6 * DAY_NS))
        trades.append(maker.trade(stamp))
    return trades


def empty() -> Market:
    """Make a market in which nobody ever traded."""
    return market([])


def ids_unknown(trades: Iterable[Trade]) -> list[Trade]:
    """Take the ids away, as in captures from before late 2022."""
    return [_renumbered(trade, None) for trade in trades]


# --- hypothesis ----------------------------------------------------------------------------------

BASES_NS = (
    BUSY_NS,
    utc_ns(2018, 12, 31, 23, 59, 59) + 999_990_000,
    utc_ns(2019, 6, 1),
    CAPTURED_2021_NS,
)
LATEST_NS = utc_ns(2025, 1, 1)
GAPS_NS = st.one_of(
    st.sampled_from((0, 0, 1)),
    st.sampled_from((14, 119, 120, 238, 239, 477, 1000)),
    st.integers(1, 100 * MICRO_NS),
    st.integers(1, 3 * SECOND_NS),
    st.sampled_from((60 * SECOND_NS, 3600 * SECOND_NS, 3 * DAY_NS, 400 * DAY_NS)),
)
PRICES = st.sampled_from(("41450.00000", "41450.10000", "669.79391", "0.0000123000"))
VOLUMES = st.sampled_from(("0.00010000", "0.00010000", "3.12345678", "0.00000001", "1e11"))
NUMBERINGS: dict[str, Callable[[int, int, int], tuple[int, int | None]]] = {
    # From the counter and two draws: the counter's next value, and the id that is printed.
    "plain": lambda counter, _id_gap, _zero: (counter + 1, counter + 1),
    "none": lambda counter, _id_gap, _zero: (counter, None),
    "zeros": lambda counter, _id_gap, zero: (counter + 1, 0 if zero else counter + 1),
    "jumps": lambda counter, id_gap, _zero: (counter + 1 + id_gap, counter + 1 + id_gap),
}
ROWS = st.tuples(
    GAPS_NS,
    PRICES,
    VOLUMES,
    st.sampled_from("bs"),
    st.sampled_from("ml"),
    st.sampled_from((0, 0, 0, 0, 1, 2, 40)),
    st.sampled_from((0, 0, 1)),
)


@st.composite
def markets(
    draw: st.DrawFn,
    *,
    min_size: int = 0,
    max_size: int = 60,
    numberings: tuple[str, ...] = tuple(NUMBERINGS),
    decimals: tuple[int | None, ...] = (None, 4),
) -> Market:
    """Draw a small market that mixes equal and neighbouring stamps, years, ids and look-alikes."""
    number = NUMBERINGS[draw(st.sampled_from(numberings))]
    printed = draw(st.sampled_from(decimals))
    stamp = draw(st.sampled_from(BASES_NS))
    counter = draw(st.sampled_from((0, 2, 66_432_457)))
    trades = []
    for gap, price, volume, side, kind, id_gap, zero in draw(
        st.lists(ROWS, min_size=min_size, max_size=max_size)
    ):
        stamp += gap if stamp + gap < LATEST_NS else 1
        counter, trade_id = number(counter, id_gap, zero)
        units = "100000000000.00000000" if volume == "1e11" else volume
        trades.append(Trade(stamp, price, units, side, kind, "", trade_id))
    return market(trades, decimals=printed)
