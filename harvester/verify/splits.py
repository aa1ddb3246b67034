"""Where the trades published at the edges of candles are split between the two beside them.

A time is published as the float next to it. That may be the moment at which a candle opens, when
the trade happened up to 238 ns earlier: the exchange, which knows, counts it in the candle before.
Which of the trades published at that moment these are is not known; they are the first of them.

So each edge is split at one place, and what one candle takes is what the next one gives: no trade
counts twice, and none is lost. Of all ways to split the edges of candles that follow one another,
the one with the fewest that differ is told, and of these the one that moves the fewest trades.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from harvester.kraken.ohlc import Candle
from harvester.verify.ours import Edges

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
    edges: Edges | None

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


class Choice(NamedTuple):
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
    before: Choice | None


class _Way(NamedTuple):
    """The best way to one place of the latest edge."""

    differing: int
    moved: int
    latest: Choice | None

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

    def settled(self) -> list[Choice]:
        """The choices that are certain by now, in order; each is handed out once."""
        if len(self._ways) > 1 and self._waiting < MOST_OPEN:
            return []
        return self._hand_out()[0]

    def end(self) -> tuple[list[Choice], int]:
        """Let no more follow: the choices left, and how many trades beyond the end were taken."""
        left = self._hand_out()
        self.begin(is_open=False)
        return left

    def _hand_out(self) -> tuple[list[Choice], int]:
        taken, way = min(self._ways.items(), key=lambda one: one[1].cost)
        self._ways, self._waiting = {taken: _SETTLED}, 0
        return [*_backwards(way.latest)][::-1], taken

    def _next(self, sides: Sides, given: int, taken: int, before: _Way, *, differs: bool) -> _Way:
        choice = Choice(sides, given, taken, given if self._is_open else 0, before.latest)
        return _Way(before.differing + differs, before.moved + taken, choice)


def _keep(ways: dict[int, _Way], taken: int, way: _Way) -> None:
    """Keep the best way to each place."""
    known = ways.get(taken)
    if known is None or way.cost < known.cost:
        ways[taken] = way


def _backwards(choice: Choice | None) -> Iterator[Choice]:
    while choice is not None:
        yield choice
        choice = choice.before
