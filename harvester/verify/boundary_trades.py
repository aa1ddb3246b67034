"""Trades published exactly when a candle opens: each counts in that candle or in the one before.

A time is published as the float nearest to it. That may be exactly the opening time of a candle
though the trade happened up to 238 ns earlier: the exchange, which knows the exact time, counts the
trade in the candle before. Which of the trades published at that time these are is unknown, but
they are the first of them. So each boundary is split at one trade: what one candle counts more, the
next one counts less, and no trade is counted twice or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from harvester.kraken.ohlc import Candle
from harvester.query.rollups import merge_adjacent, partials_of_trades
from harvester.schema import times
from harvester.storage.parquet_files import PRICES
from harvester.storage.trade_store import TradeStore
from harvester.times import DAY, Range

# Wide enough for 76 digits and a division: nothing here is ever rounded.
_EXACT = Context(prec=120)

# --- the trades of a candle -----------------------------------------------------------------------


@dataclass(slots=True)
class BoundaryTrades:
    """The trades of a candle, and those published exactly at its end.

    Attributes:
        bars: in order: each trade at the opening time, the other trades merged, and each trade at
            the end; see `rollups.partials_of_trades`.
        at_opening: how many trades were published exactly at its opening time.
        at_end: how many trades were published exactly at its end.
    """

    bars: list[pa.RecordBatch] = field(default_factory=list)
    at_opening: int = 0
    at_end: int = 0

    def add(self, batch: pa.RecordBatch, time_ns: int, end_ns: int, pair: str) -> None:
        """Add the trades of a batch that belong to the candle.

        Args:
            batch: trades, in the exchange's order.
            time_ns: the candle's opening time.
            end_ns: its end.
            pair: altname, for messages.
        """
        bounds = [time_ns, time_ns + 1, end_ns, end_ns + 1]
        opening, inside, ending, over = np.searchsorted(times(batch), bounds).tolist()
        if opening == over:
            return
        trades = partials_of_trades(batch.slice(opening, over - opening), pair, all_columns=False)
        starts = [*range(opening, inside), *range(inside, ending)[:1], *range(ending, over)]
        self.bars.append(merge_adjacent(trades, np.array(starts) - opening))
        self.at_opening += inside - opening
        self.at_end += over - ending

    @property
    def count(self) -> int:
        """The number of the candle's trades, by their published times."""
        return sum(int(bars.column("count").to_numpy().sum()) for bars in self.bars) - self.at_end

    def candle(self, time_ns: int, removed: int, added: int, decimals: int) -> Candle:
        """The candle without its first trades, and with the first trades at its end.

        Args:
            time_ns: its opening time.
            removed: how many trades at its opening it is without.
            added: how many trades at its end it has; `removed` and `added` are not both 0.
            decimals: the pair's price decimals; the vwap is cut off after them.
        """
        bars = pa.concat_batches(self.bars)
        kept = bars.slice(removed, bars.num_rows - removed - self.at_end + added)
        if not kept.num_rows:
            close = bars.column("close")[removed - 1].as_py()
            return Candle(time_ns, close, close, close, close, Decimal(0), Decimal(0), 0)
        merged = merge_adjacent(kept, np.array([0]))
        [values] = merged.drop_columns(["first_time", "last_time"]).to_pylist()
        value, volume = values["value"], values["volume"]
        unit = Decimal(1).scaleb(-decimals)
        cut = _EXACT.divide_int(value, _EXACT.multiply(volume, unit)) if volume else Decimal(0)
        prices = {name: values[name] for name in PRICES}
        vwap = _EXACT.multiply(cut, unit)
        return Candle(time_ns, **prices, vwap=vwap, volume=volume, count=values["count"])


def read_boundary_trades(
    archive: TradeStore, pair: str, opens: Sequence[int], width_ns: int
) -> dict[int, BoundaryTrades]:
    """Read the trades of some candles, by the candles' opening time.

    Args:
        archive: where the trades are.
        pair: altname.
        opens: the opening times in nanoseconds, in order; near ones are read together.
        width_ns: the candles' length.
    """
    found = {time_ns: BoundaryTrades() for time_ns in opens}
    is_far = np.diff(opens) > max(DAY, width_ns)
    for group in np.split(np.array(opens, np.int64), is_far.nonzero()[0] + 1) if opens else ():
        for batch in archive.scan(pair, Range(int(group[0]) - 1, int(group[-1]) + width_ns)):
            stamps = times(batch)
            first, end = group.searchsorted((stamps[0] - width_ns, stamps[-1] + 1))
            for time_ns in group[first:end].tolist():
                found[time_ns].add(batch, time_ns, time_ns + width_ns, pair)
    return found


# --- splitting boundaries -------------------------------------------------------------------------

IsEqual = Callable[[Candle | None, Candle | None], bool]
"""Whether a local candle equals the exchange's."""

MAX_UNDECIDED = 1_000
"""How many consecutive candles may wait until it is known how their boundaries are split."""


class ComparedCandle(NamedTuple):
    """A candle of the archive and of the exchange.

    Attributes:
        time_ns: its opening time.
        local: by the published times of the stored trades; None where there are no trades.
        exchange: the exchange's; None where it shows none.
        trades: its trades; None if none was published at its opening or at its end.
    """

    time_ns: int
    local: Candle | None
    exchange: Candle | None
    trades: BoundaryTrades | None

    @property
    def surplus(self) -> int:
        """How many trades more than the local candle the exchange's has."""
        local_count = self.local.count if self.local else 0
        return (self.exchange.count if self.exchange else 0) - local_count

    def split(self, removed: int, added: int, decimals: int) -> Candle | None:
        """The local candle without its first trades, and with the first trades at its end.

        Args:
            removed: how many trades at its opening it is without.
            added: how many trades at its end it has.
            decimals: the pair's price decimals.
        """
        if self.trades is None or not (removed or added):
            return self.local
        return self.trades.candle(self.time_ns, removed, added, decimals)


class BoundarySplits:
    """Splits the boundaries of consecutive candles, in order of time, so that few candles differ.

    The first split of a series decides the others, because each candle must have as many trades as
    the exchange counts. All splits that make the candles so far equal are kept. Where none is left,
    the latest candle differs, and its end may be split anywhere.
    """

    def __init__(
        self,
        is_equal: IsEqual,
        decimals: int,
        on_decided: Callable[[ComparedCandle, int, int], None],
    ) -> None:
        """Start without candles.

        Args:
            is_equal: whether a local candle equals the exchange's.
            decimals: the pair's price decimals.
            on_decided: called with each candle, in order, and how many trades it is without at its
                opening and has at its end.
        """
        self._is_equal = is_equal
        self._decimals = decimals
        self._on_decided = on_decided
        self._starts: Sequence[int] = [0]
        """Possible numbers of trades at the first undecided boundary that belong to the candle
        before it."""
        self._waiting: list[ComparedCandle] = []
        """The candles since that boundary."""
        self._surplus = 0
        """How much larger that number is at the latest boundary."""
        self._differing: tuple[ComparedCandle, int] | None = None
        """The differing candle before the first undecided boundary, and how many of its opening
        trades belong to the candle before it."""

    def begin(self, max_removed: int) -> None:
        """Begin a series of candles, of whose first trades up to `max_removed` may count before."""
        self.finish()
        self._starts = range(max_removed + 1)

    def add(self, candle: ComparedCandle) -> None:
        """Add the next candle, which opens when the one before ends."""
        before, after = self._surplus, self._surplus + candle.surplus
        fitting = [i for i in self._starts if self._fits(candle, i + before, i + after)]
        if fitting:
            self._starts, self._surplus = fitting, after
            self._waiting.append(candle)
        else:
            self._differing = candle, self.finish()
            self._starts = range((candle.trades.at_end if candle.trades else 0) + 1)
        if len(self._starts) == 1 or len(self._waiting) == MAX_UNDECIDED:
            self.finish()

    def finish(self) -> int:
        """Decide on all candles; returns how many trades at the latest boundary count before it."""
        removed = self._starts[0]
        if self._differing is not None:
            self._on_decided(*self._differing, removed)
        for candle in self._waiting:
            self._on_decided(candle, removed, removed + candle.surplus)
            removed += candle.surplus
        self._starts, self._waiting, self._surplus, self._differing = [removed], [], 0, None
        return removed

    def _fits(self, candle: ComparedCandle, removed: int, added: int) -> bool:
        """Whether a split is possible and makes the candle equal."""
        trades = candle.trades
        at_opening, at_end = (trades.at_opening, trades.at_end) if trades else (0, 0)
        if not (0 <= removed <= at_opening and 0 <= added <= at_end):
            return False
        return self._is_equal(candle.split(removed, added, self._decimals), candle.exchange)
