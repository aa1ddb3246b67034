"""Read candles of the archive in the exchange's form, and the trades at their boundaries."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.kraken.ohlc import VALUES, Candle
from harvester.query.candles import candle_batches
from harvester.query.connection import MEMORY_LIMIT
from harvester.query.plan import CandleQuery, Fill
from harvester.schema import PRICE, VOLUME, times
from harvester.storage.trade_store import TradeStore
from harvester.times import DAY, UNITS_NS, Range, parse_interval

# --- candles --------------------------------------------------------------------------------------

COLUMNS = ("time", *VALUES, "first_time", "is_complete")

# Wide enough for 38 digits and a division: nothing here is ever rounded.
_EXACT = Context(prec=120)
_WIDE_PRICE = pa.decimal256(PRICE.precision, PRICE.scale)
_WIDE_VOLUME = pa.decimal256(VOLUME.precision, VOLUME.scale)


@dataclass(frozen=True, slots=True)
class LocalCandle:
    """A candle of the archive.

    Attributes:
        candle: the candle in the exchange's form.
        is_complete: whether its interval is covered completely.
        has_trade_at_opening: whether a trade was published exactly at its opening time.
    """

    candle: Candle
    is_complete: bool
    has_trade_at_opening: bool


@dataclass(frozen=True, slots=True)
class LocalCandleReader:
    """Reads candles of one pair from an archive.

    Attributes:
        archive: the archive.
        pair: altname.
        decimals: the pair's price decimals; a vwap is cut off after them.
        memory_limit: the memory that DuckDB may use, such as 1GB.
    """

    archive: TradeStore
    pair: str
    decimals: int
    memory_limit: str = MEMORY_LIMIT

    def candles(self, minutes: int, wanted: Range) -> dict[int, LocalCandle]:
        """Read the candles of a range, empty ones included, by their opening time.

        Args:
            minutes: their length.
            wanted: the range of their opening times, in nanoseconds.
        """
        found = {}
        for row in self._rows(minutes, wanted, COLUMNS, fill="kraken"):
            values = {name: row[name] for name in VALUES}
            has_trade_at_opening = row["first_time"] == row["time"]
            candle = Candle(row["time"], **values)
            found[candle.time_ns] = LocalCandle(candle, row["is_complete"], has_trade_at_opening)
        return found

    def batches(self, minutes: int, wanted: Range) -> Iterator[pa.RecordBatch]:
        """Stream the candles of a range that have trades, without the additional columns.

        Args:
            minutes: their length.
            wanted: the range of their opening times, in nanoseconds.
        """
        query = self._query(minutes, wanted, all_columns=False)
        yield from candle_batches(self.archive, query, memory_limit=self.memory_limit)

    def openings(self, minutes: int, wanted: Range) -> set[int]:
        """The opening times of candles that have a trade published exactly then.

        Args:
            minutes: their length.
            wanted: the range of their opening times, in nanoseconds.
        """
        rows = self._rows(minutes, wanted, ("time", "first_time"))
        return {row["time"] for row in rows if row["time"] == row["first_time"]}

    def edges(self, minutes: int, opens: Sequence[int]) -> dict[int, BoundaryTrades]:
        """Read the trades at the boundaries of some candles, by the candles' opening time.

        Candles near one another are read together.

        Args:
            minutes: the candles' length.
            opens: their opening times in nanoseconds, in order.
        """
        width_ns = minutes * UNITS_NS["m"]
        found = {time_ns: BoundaryTrades([], [], []) for time_ns in opens}
        for group in _groups(opens, max(DAY, width_ns)):
            wanted = Range(group[0] - 1, group[-1] + width_ns)
            for batch in self.archive.scan(self.pair, wanted):
                stamps = times(batch)
                first = bisect_left(group, int(stamps[0]) - width_ns)
                for time_ns in group[first : bisect_right(group, int(stamps[-1]))]:
                    found[time_ns].add(batch, time_ns, time_ns + width_ns)
        return found

    def _rows(
        self, minutes: int, wanted: Range, columns: Sequence[str], fill: Fill = "none"
    ) -> list[dict[str, Any]]:
        query = self._query(minutes, wanted, fill)
        rows: list[dict[str, Any]] = []
        for batch in candle_batches(self.archive, query, memory_limit=self.memory_limit):
            rows += _in_ns(batch.select(list(columns))).to_pylist()
        return rows

    def _query(
        self, minutes: int, wanted: Range, fill: Fill = "none", *, all_columns: bool = True
    ) -> CandleQuery:
        interval = parse_interval(str(minutes))
        return CandleQuery(
            self.pair, interval, wanted, fill, all_columns, pair_decimals=self.decimals
        )


@dataclass(frozen=True, slots=True)
class _TradeSum:
    """The aggregate of one trade, or of some neighbouring ones."""

    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    value: Decimal
    volume: Decimal
    count: int


class BoundaryTrades(NamedTuple):
    """The trades of a candle, and those published exactly at its end.

    Attributes:
        at_opening: the trades published exactly at its opening time, one by one, in the exchange's
            order.
        inside: its other trades, as aggregates of neighbours.
        at_end: the trades published exactly at its end, one by one.
    """

    at_opening: list[_TradeSum]
    inside: list[_TradeSum]
    at_end: list[_TradeSum]

    def add(self, batch: pa.RecordBatch, time_ns: int, end_ns: int) -> None:
        """Add the trades of a batch that belong to the candle.

        Args:
            batch: trades, in the exchange's order.
            time_ns: the candle's opening time.
            end_ns: its end.
        """
        bounds = [time_ns, time_ns + 1, end_ns, end_ns + 1]
        opening, inside, ending, over = np.searchsorted(times(batch), bounds).tolist()
        for row in range(opening, inside):
            self.at_opening.append(_sum_of(batch.slice(row, 1)))
        if inside < ending:
            self.inside.append(_sum_of(batch.slice(inside, ending - inside)))
        for row in range(ending, over):
            self.at_end.append(_sum_of(batch.slice(row, 1)))

    def candle(self, time_ns: int, removed: int, added: int, decimals: int) -> Candle:
        """The candle without its first trades, and with the first trades at its end.

        Args:
            time_ns: its opening time.
            removed: how many trades at its opening it is without.
            added: how many trades at its end it has; `removed` and `added` are not both 0.
            decimals: the pair's price decimals.
        """
        parts = [*self.at_opening[removed:], *self.inside, *self.at_end[:added]]
        if parts:
            return _candle_of(time_ns, parts, decimals)
        return _empty(time_ns, self.at_opening[-1].close)


def _groups(opens: Sequence[int], max_distance_ns: int) -> Iterator[Sequence[int]]:
    """Split times into groups; neighbours in a group are at most `max_distance_ns` apart."""
    begin = 0
    for end in range(1, len(opens) + 1):
        if end == len(opens) or opens[end] - opens[end - 1] > max_distance_ns:
            yield opens[begin:end]
            begin = end


def _sum_of(trades: pa.RecordBatch) -> _TradeSum:
    """Aggregate neighbouring trades, at least one; exact."""
    price, volume = trades.column("price"), trades.column("volume")
    bounds = pc.min_max(price).as_py()
    value = pc.sum(pc.multiply(price.cast(_WIDE_PRICE), volume.cast(_WIDE_VOLUME))).as_py()
    return _TradeSum(
        price[0].as_py(),
        bounds["max"],
        bounds["min"],
        price[-1].as_py(),
        value,
        pc.sum(volume).as_py(),
        trades.num_rows,
    )


def _candle_of(time_ns: int, parts: Sequence[_TradeSum], decimals: int) -> Candle:
    value = volume = Decimal(0)
    for part in parts:
        value, volume = _EXACT.add(value, part.value), _EXACT.add(volume, part.volume)
    unit = Decimal(1).scaleb(-decimals)
    cut = _EXACT.divide_int(value, _EXACT.multiply(volume, unit)) if volume else Decimal(0)
    return Candle(
        time_ns,
        open=parts[0].open,
        high=max(part.high for part in parts),
        low=min(part.low for part in parts),
        close=parts[-1].close,
        vwap=_EXACT.multiply(cut, unit),
        volume=volume,
        count=sum(part.count for part in parts),
    )


def _empty(time_ns: int, close: Decimal) -> Candle:
    return Candle(time_ns, close, close, close, close, Decimal(0), Decimal(0), 0)


def _in_ns(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Times as integers."""
    for index, field in enumerate(batch.schema):
        if pa.types.is_timestamp(field.type):
            batch = batch.set_column(index, field.name, batch.column(index).cast(pa.int64()))
    return batch


# --- trades at boundaries -------------------------------------------------------------------------

# A time is published as the float nearest to it. That may be exactly the opening time of a candle
# though the trade happened up to 238 ns earlier: the exchange, which knows the exact time, counts
# the trade in the candle before. Which of the trades published at that time these are is unknown,
# but they are the first of them.
#
# So each boundary is split at one trade, and what one candle counts more, the next one counts less:
# no trade is counted twice, and none is lost. Of all ways to split the boundaries of consecutive
# candles, the one with the fewest differing candles is reported, and of these the one that moves
# the fewest trades.

IsEqual = Callable[[Candle | None, Candle | None], bool]
"""Whether a local candle equals the exchange's."""

MAX_UNDECIDED = 1_000
"""How many consecutive candles may wait until it is known which of them differ."""


class ComparedCandle(NamedTuple):
    """A candle of the archive and of the exchange.

    Attributes:
        time_ns: its opening time.
        local: by the published times of the stored trades; None where there are no trades.
        exchange: the exchange's; None where it shows none.
        edges: the trades at its boundaries; None where there are none.
    """

    time_ns: int
    local: Candle | None
    exchange: Candle | None
    edges: BoundaryTrades | None

    @property
    def max_removed(self) -> int:
        """How many trades were published exactly at its opening time."""
        return len(self.edges.at_opening) if self.edges else 0

    @property
    def max_added(self) -> int:
        """How many trades were published exactly at its end."""
        return len(self.edges.at_end) if self.edges else 0

    def added_for(self, removed: int) -> int | None:
        """How many trades at its end it must have, so that its count equals the exchange's.

        None if that is impossible. `removed` is how many trades at its opening it is without.
        """
        local_count = self.local.count if self.local else 0
        exchange_count = self.exchange.count if self.exchange else 0
        added = exchange_count - (local_count - removed)
        is_possible = removed <= self.max_removed and 0 <= added <= self.max_added
        return added if is_possible else None

    def split(self, removed: int, added: int, decimals: int) -> Candle | None:
        """The local candle without its first trades, and with the first trades at its end.

        Args:
            removed: how many trades at its opening it is without.
            added: how many trades at its end it has.
            decimals: the pair's price decimals.
        """
        if self.edges is None or not (removed or added):
            return self.local
        return self.edges.candle(self.time_ns, removed, added, decimals)


class SplitChoice(NamedTuple):
    """One way to split the boundaries of a candle, and of the candles before it.

    Attributes:
        candle: the candle.
        removed: how many trades at its opening count in the candle before.
        added: how many trades at its end count in it.
        outside: how many of those removed went to a candle that is not compared.
        previous: the choice for the candle before; None if that is decided.
    """

    candle: ComparedCandle
    removed: int
    added: int
    outside: int
    previous: SplitChoice | None


class _Path(NamedTuple):
    """The best choices that lead to one split of the latest boundary."""

    differing: int
    moved: int
    latest: SplitChoice | None

    @property
    def cost(self) -> tuple[int, int]:
        return self.differing, self.moved

    @property
    def cost_to_any_split(self) -> tuple[int, int]:
        """The cost if the next candle differs: then its other boundary may be split anywhere."""
        return self.differing + 1, self.moved


_DECIDED = _Path(0, 0, None)


class Splits:
    """Finds the best way to split the boundaries of consecutive candles: dynamic programming."""

    def __init__(self, is_equal: IsEqual, decimals: int) -> None:
        """`decimals` are the pair's price decimals."""
        self._is_equal = is_equal
        self._decimals = decimals
        # By how many trades at the latest boundary count before it; other splits are no better.
        self._paths = {0: _DECIDED}
        self._is_open = False
        self._waiting = 0

    @property
    def is_decided(self) -> bool:
        """Whether no trade at the latest boundary is, or may be, moved."""
        return not self._is_open and self._paths == {0: _DECIDED}

    def begin(self, *, is_open: bool) -> None:
        """Begin a series of candles; with `is_open`, its first trades may count before it."""
        self._paths, self._is_open = {0: _DECIDED}, is_open

    def add(self, candle: ComparedCandle) -> None:
        """Add the next candle."""
        if self._is_open:
            self._paths = {
                removed: _Path(0, removed, None) for removed in range(candle.max_removed + 1)
            }
        paths: dict[int, _Path] = {}
        for removed, path in self._paths.items():
            added = candle.added_for(removed)
            if added is None:
                continue
            local = candle.split(removed, added, self._decimals)
            if self._is_equal(local, candle.exchange):
                _keep_best(paths, added, self._next(candle, removed, added, path, differs=False))
        removed, best = min(self._paths.items(), key=lambda item: item[1].cost)
        for added in range(candle.max_added + 1):
            _keep_best(paths, added, self._next(candle, removed, added, best, differs=True))
        limit = min(path.cost_to_any_split for path in paths.values())
        self._paths = {added: path for added, path in paths.items() if path.cost < limit}
        self._is_open = False
        self._waiting += 1

    def decided(self) -> list[SplitChoice]:
        """The choices that are certain by now, in order; each is returned once."""
        if len(self._paths) > 1 and self._waiting < MAX_UNDECIDED:
            return []
        return self._best_choices()[0]

    def end(self) -> tuple[list[SplitChoice], int]:
        """End the series: the remaining choices, and how many trades after its end were added."""
        remaining = self._best_choices()
        self.begin(is_open=False)
        return remaining

    def _best_choices(self) -> tuple[list[SplitChoice], int]:
        added, path = min(self._paths.items(), key=lambda item: item[1].cost)
        self._paths, self._waiting = {added: _DECIDED}, 0
        return [*_backwards(path.latest)][::-1], added

    def _next(
        self, candle: ComparedCandle, removed: int, added: int, path: _Path, *, differs: bool
    ) -> _Path:
        outside = removed if self._is_open else 0
        choice = SplitChoice(candle, removed, added, outside, path.latest)
        return _Path(path.differing + differs, path.moved + added, choice)


def _keep_best(paths: dict[int, _Path], added: int, path: _Path) -> None:
    """Keep the cheapest path to each split of a boundary."""
    known = paths.get(added)
    if known is None or path.cost < known.cost:
        paths[added] = path


def _backwards(choice: SplitChoice | None) -> Iterator[SplitChoice]:
    while choice is not None:
        yield choice
        choice = choice.previous
