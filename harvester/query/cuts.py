"""Where bars end: with the trade that brings what they count to the bar's size, exactly."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator

import numpy as np

from harvester.query import sums
from harvester.schema import Int64s

_KEY_BITS = 60
"""Two keys can be added up and stay within 64 bits."""

_SPARSE = 100
"""Bars of more trades than these are looked up one by one; smaller ones faster all at once."""


def every(size: int, rows: int, got: int) -> Int64s:
    """The last trade of each bar of `size` trades, where `got` of them have gone before."""
    return np.arange(size - got - 1, rows, size, dtype=np.int64)


def reaching(size: int, amounts: Int64s, got: int) -> Int64s:
    """The last trade of each bar whose amounts reach `size`, of which `got` have gone before.

    Args:
        size: what ends a bar, above `got`.
        amounts: none is negative; limbs as in `sums`, shape (limbs, trades).
        got: what the bar under way has already.

    Returns the places of the trades, in order.
    """
    rows = amounts.shape[1]
    running = _Running(amounts)
    if running.total < size - got:
        return np.empty(0, dtype=np.int64)
    ends = [running.first_at(size - got)]
    # What no second bar can reach is cut down, so that the keys need not hold it.
    ends.extend(_chain(running.seeker(min(size, running.total + 1)), ends[0], rows))
    return np.array(ends, dtype=np.int64)


def _chain(seek: Callable[[int], int], end: int, rows: int) -> Iterator[int]:
    """Each bar begins behind the end of the one before."""
    while (end := seek(end)) < rows:
        yield end


class _Running:
    """What has been counted with each trade, as a key of 64 bits and, where in doubt, exactly.

    The key is the exact sum shifted down until the total fits; so it settles all but a few.
    """

    def __init__(self, amounts: Int64s) -> None:
        self._limbs = sums.carried(np.cumsum(amounts, axis=1))
        self.rows = amounts.shape[1]
        self.total = self._exact(self.rows - 1)
        self._shift = max(0, self.total.bit_length() - _KEY_BITS)
        self._keys = self._key()

    def _key(self) -> Int64s:
        keys = np.zeros(self.rows, dtype=np.int64)
        for i, limb in enumerate(self._limbs):
            up = sums.BITS * i - self._shift
            if up >= 0:
                keys += limb << up
            elif up > -64:
                keys += limb >> -up
        return keys

    def _exact(self, place: int) -> int:
        return sums.number(self._limbs[:, place])

    def first_at(self, wanted: int) -> int:
        """The first trade with which the count is `wanted` or more; `rows` where none is."""
        key = wanted >> self._shift
        low, high = (int(self._keys.searchsorted(one)) for one in (key, key + 1))
        return bisect_left(range(self.rows), wanted, low, high, key=self._exact)

    def seeker(self, size: int) -> Callable[[int], int]:
        """What finds the end of the bar that begins behind a trade."""
        if self.total < size * (self.rows // _SPARSE):
            return lambda end: self.first_at(self._exact(end) + size)
        # Dropping the lower digits of both may lose one unit of the key in their sum.
        least = self._keys + (size >> self._shift)
        low: list[int] = self._keys.searchsorted(least).tolist()
        if self._shift == 0:
            return low.__getitem__
        high: list[int] = self._keys.searchsorted(least + 2).tolist()
        return lambda end: (
            low[end] if low[end] == high[end] else self.first_at(self._exact(end) + size)
        )
