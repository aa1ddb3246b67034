"""The archive's candles in the exchange's form, and the trades at their edges."""

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

# --- ours -----------------------------------------------------------------------------------------

SHOWN = ("time", *VALUES, "first_time", "is_complete")

# Wide enough for 38 digits and a division's worth beside: nothing here is ever rounded.
_EXACT = Context(prec=120)
_WIDE_PRICE = pa.decimal256(PRICE.precision, PRICE.scale)
_WIDE_VOLUME = pa.decimal256(VOLUME.precision, VOLUME.scale)


@dataclass(frozen=True, slots=True)
class LocalCandle:
    """A candle of ours.

    Attributes:
        candle: in the exchange's form.
        is_complete: whether what it tells of is held whole.
        at_opening: whether a trade was published at the very moment it opens.
    """

    candle: Candle
    is_complete: bool
    at_opening: bool


@dataclass(frozen=True, slots=True)
class LocalCandleReader:
    """Asks an archive for candles of one pair.

    Attributes:
        decimals: the pair's, after which a vwap is cut off.
    """

    archive: TradeStore
    pair: str
    decimals: int
    memory_limit: str = MEMORY_LIMIT

    def held(self, minutes: int, span: Range) -> dict[int, LocalCandle]:
        """The candles of a span, empty ones included, by when they open."""
        found = {}
        for row in self._rows(minutes, span, SHOWN, fill="kraken"):
            values = {name: row[name] for name in VALUES}
            at_opening = row["first_time"] == row["time"]
            candle = Candle(row["time"], **values)
            found[candle.time_ns] = LocalCandle(candle, row["is_complete"], at_opening)
        return found

    def batches(self, minutes: int, span: Range) -> Iterator[pa.RecordBatch]:
        """The candles of a span that saw trades, as a stream, with the plain columns."""
        question = self._question(minutes, span, all_columns=False)
        yield from candle_batches(self.archive, question, memory_limit=self.memory_limit)

    def openings(self, minutes: int, span: Range) -> set[int]:
        """When those candles of a span open that have a trade published at that very moment."""
        rows = self._rows(minutes, span, ("time", "first_time"))
        return {row["time"] for row in rows if row["time"] == row["first_time"]}

    def edges(self, minutes: int, opens: Sequence[int]) -> dict[int, BoundaryTrades]:
        """What was traded at the edges of some candles, by when these open.

        Candles that lie near one another are read at once.

        Args:
            minutes: their length.
            opens: when they open, in order.
        """
        width_ns = minutes * UNITS_NS["m"]
        found = {one: BoundaryTrades([], [], []) for one in opens}
        for some in _near(opens, max(DAY, width_ns)):
            span = Range(some[0] - 1, some[-1] + width_ns)
            for batch in self.archive.scan(self.pair, span):
                stamps = times(batch)
                first = bisect_left(some, int(stamps[0]) - width_ns)
                for time_ns in some[first : bisect_right(some, int(stamps[-1]))]:
                    found[time_ns].take(batch, time_ns, time_ns + width_ns)
        return found

    def _rows(
        self, minutes: int, span: Range, columns: Sequence[str], fill: Fill = "none"
    ) -> list[dict[str, Any]]:
        question = self._question(minutes, span, fill)
        rows: list[dict[str, Any]] = []
        for batch in candle_batches(self.archive, question, memory_limit=self.memory_limit):
            rows += _in_ns(batch.select(list(columns))).to_pylist()
        return rows

    def _question(
        self, minutes: int, span: Range, fill: Fill = "none", *, all_columns: bool = True
    ) -> CandleQuery:
        interval = parse_interval(str(minutes))
        return CandleQuery(
            self.pair, interval, span, fill, all_columns, pair_decimals=self.decimals
        )


@dataclass(frozen=True, slots=True)
class _Sum:
    """Some neighbouring trades, or one."""

    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    value: Decimal
    volume: Decimal
    count: int


class BoundaryTrades(NamedTuple):
    """The trades of a candle, and those published at the very moment that it is over.

    Attributes:
        before: those published at the very moment that it opens, one by one in the tape's order.
        inside: the others of it, as sums of neighbours.
        behind: those published when it is over, one by one.
    """

    before: list[_Sum]
    inside: list[_Sum]
    behind: list[_Sum]

    def take(self, batch: pa.RecordBatch, time_ns: int, end_ns: int) -> None:
        """Take in what a batch of the tape holds of a candle."""
        marks = [time_ns, time_ns + 1, end_ns, end_ns + 1]
        opening, inside, ending, over = np.searchsorted(times(batch), marks).tolist()
        for place in range(opening, inside):
            self.before.append(_summed(batch.slice(place, 1)))
        if inside < ending:
            self.inside.append(_summed(batch.slice(inside, ending - inside)))
        for place in range(ending, over):
            self.behind.append(_summed(batch.slice(place, 1)))

    def candle(self, time_ns: int, given: int, taken: int, decimals: int) -> Candle:
        """The candle without the first trades of its opening, and with the first behind it.

        Args:
            time_ns: when it opens.
            given: how many it lacks of those published as it opens.
            taken: how many it has of those published when it is over; one of both is not 0.
            decimals: the pair's.
        """
        parts = [*self.before[given:], *self.inside, *self.behind[:taken]]
        if parts:
            return _joined(time_ns, parts, decimals)
        return _empty(time_ns, self.before[-1].close)


def _near(opens: Sequence[int], most_ns: int) -> Iterator[Sequence[int]]:
    """Moments in groups, in which none is farther than so much from the one before it."""
    begin = 0
    for end in range(1, len(opens) + 1):
        if end == len(opens) or opens[end] - opens[end - 1] > most_ns:
            yield opens[begin:end]
            begin = end


def _summed(trades: pa.RecordBatch) -> _Sum:
    """Some trades of the tape, at least one, as one sum: exact."""
    price, volume = trades.column("price"), trades.column("volume")
    bounds = pc.min_max(price).as_py()
    value = pc.sum(pc.multiply(price.cast(_WIDE_PRICE), volume.cast(_WIDE_VOLUME))).as_py()
    return _Sum(
        price[0].as_py(),
        bounds["max"],
        bounds["min"],
        price[-1].as_py(),
        value,
        pc.sum(volume).as_py(),
        trades.num_rows,
    )


def _joined(time_ns: int, parts: Sequence[_Sum], decimals: int) -> Candle:
    value = volume = Decimal(0)
    for part in parts:
        value, volume = _EXACT.add(value, part.value), _EXACT.add(volume, part.volume)
    unit = Decimal(1).scaleb(-decimals)
    cut = _EXACT.divide_int(value, _EXACT.multiply(volume, unit)) if volume else Decimal(0)
    return Candle(
        time_ns,
        open=parts[0].open,
        high=max(one.high for one in parts),
        low=min(one.low for one in parts),
        close=parts[-1].close,
        vwap=_EXACT.multiply(cut, unit),
        volume=volume,
        count=sum(one.count for one in parts),
    )


def _empty(time_ns: int, close: Decimal) -> Candle:
    return Candle(time_ns, close, close, close, close, Decimal(0), Decimal(0), 0)


def _in_ns(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Times as integers."""
    for place, field in enumerate(batch.schema):
        if pa.types.is_timestamp(field.type):
            batch = batch.set_column(place, field.name, batch.column(place).cast(pa.int64()))
    return batch


# --- splits ---------------------------------------------------------------------------------------

# A time is published as the float next to it. That may be the moment at which a candle opens,
# when the trade happened up to 238 ns earlier: the exchange, which knows, counts it in the candle
# before. Which of the trades published at that moment these are is not known; they are the first
# of them.
#
# So each edge is split at one place, and what one candle takes is what the next one gives: no
# trade counts twice, and none is lost. Of all ways to split the edges of candles that follow one
# another, the one with the fewest that differ is told, and of these the one that moves the fewest
# trades.

IsEqual = Callable[[Candle | None, Candle | None], bool]
"""Tells whether our candle is the exchange's."""

MOST_OPEN = 1_000
"""So many candles in a row may wait until it is known which of them differ."""


class Sides(NamedTuple):
    """One candle of either side.

    Attributes:
        time_ns: when it opens.
        our: by the times that are published; None where there are no trades.
        their: None where the exchange shows none.
        edges: the trades at its edges; None where there are none.
    """

    time_ns: int
    our: Candle | None
    their: Candle | None
    edges: BoundaryTrades | None

    @property
    def most_given(self) -> int:
        """How many trades were published as it opens."""
        return len(self.edges.before) if self.edges else 0

    @property
    def most_taken(self) -> int:
        """How many trades were published when it is over."""
        return len(self.edges.behind) if self.edges else 0

    def taken(self, given: int) -> int | None:
        """How many it must take, so that it has as many as the exchange's; None where none do."""
        have = self.our.count if self.our else 0
        want = self.their.count if self.their else 0
        taken = want - (have - given)
        fits = given <= self.most_given and 0 <= taken <= self.most_taken
        return taken if fits else None

    def made(self, given: int, taken: int, decimals: int) -> Candle | None:
        """Ours, without the first trades of its opening and with the first of the next one's."""
        if self.edges is None or not (given or taken):
            return self.our
        return self.edges.candle(self.time_ns, given, taken, decimals)


class SplitChoice(NamedTuple):
    """One way to split the edges of a candle, and of those before it.

    Attributes:
        sides: the candle.
        given: trades of its opening that count in the candle before.
        taken: trades of the next one's opening that count in it.
        outside: how many of those given went to a candle that is not compared.
        before: that of the candle before; None where it is settled.
    """

    sides: Sides
    given: int
    taken: int
    outside: int
    before: SplitChoice | None


class _Way(NamedTuple):
    """The best way to one place of the latest edge."""

    differing: int
    moved: int
    latest: SplitChoice | None

    @property
    def cost(self) -> tuple[int, int]:
        return self.differing, self.moved

    @property
    def cost_to_anywhere(self) -> tuple[int, int]:
        """Of letting the next candle differ, after which its other edge may be split anywhere."""
        return self.differing + 1, self.moved


_SETTLED = _Way(0, 0, None)


class Splits:
    """Takes candles that follow one another, and finds the best way to split their edges."""

    def __init__(self, is_equal: IsEqual, decimals: int) -> None:
        """`decimals` are the pair's."""
        self._is_equal = is_equal
        self._decimals = decimals
        # By how many trades of the latest edge count before it; the others are no better.
        self._ways = {0: _SETTLED}
        self._is_open = False
        self._waiting = 0

    @property
    def is_settled(self) -> bool:
        """Whether no trade of the latest edge is, or may be, moved."""
        return not self._is_open and self._ways == {0: _SETTLED}

    def begin(self, *, is_open: bool) -> None:
        """Begin with a candle; with `is_open`, trades of its opening may go to the one before."""
        self._ways, self._is_open = {0: _SETTLED}, is_open

    def take(self, sides: Sides) -> None:
        """Take the next candle."""
        if self._is_open:
            self._ways = {one: _Way(0, one, None) for one in range(sides.most_given + 1)}
        ways: dict[int, _Way] = {}
        for given, before in self._ways.items():
            taken = sides.taken(given)
            if taken is None:
                continue
            if self._is_equal(sides.made(given, taken, self._decimals), sides.their):
                way = self._next(sides, given, taken, before, differs=False)
                _keep(ways, taken, way)
        given, best = min(self._ways.items(), key=lambda one: one[1].cost)
        for taken in range(sides.most_taken + 1):
            _keep(ways, taken, self._next(sides, given, taken, best, differs=True))
        most = min(one.cost_to_anywhere for one in ways.values())
        self._ways = {taken: one for taken, one in ways.items() if one.cost < most}
        self._is_open = False
        self._waiting += 1

    def settled(self) -> list[SplitChoice]:
        """The choices that are certain by now, in order; each is handed out once."""
        if len(self._ways) > 1 and self._waiting < MOST_OPEN:
            return []
        return self._hand_out()[0]

    def end(self) -> tuple[list[SplitChoice], int]:
        """Let no more follow: the choices left, and how many trades beyond the end were taken."""
        left = self._hand_out()
        self.begin(is_open=False)
        return left

    def _hand_out(self) -> tuple[list[SplitChoice], int]:
        taken, way = min(self._ways.items(), key=lambda one: one[1].cost)
        self._ways, self._waiting = {taken: _SETTLED}, 0
        return [*_backwards(way.latest)][::-1], taken

    def _next(self, sides: Sides, given: int, taken: int, before: _Way, *, differs: bool) -> _Way:
        choice = SplitChoice(sides, given, taken, given if self._is_open else 0, before.latest)
        return _Way(before.differing + differs, before.moved + taken, choice)


def _keep(ways: dict[int, _Way], taken: int, way: _Way) -> None:
    """Keep the best way to each place."""
    known = ways.get(taken)
    if known is None or way.cost < known.cost:
        ways[taken] = way


def _backwards(choice: SplitChoice | None) -> Iterator[SplitChoice]:
    while choice is not None:
        yield choice
        choice = choice.before
