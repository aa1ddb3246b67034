"""How files round times to whole seconds, and which of their rows is which trade all the same.

Arithmetic only: nothing is read or written.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harvester.schema import Int64s, decimal_words, times, trade_ids
from harvester.times import SECOND, Range

# --- rows and trades as they are compared ---------------------------------------------------------

Flags = NDArray[np.bool_]


class KeyedRows(NamedTuple):
    """Trades as they are compared.

    Attributes:
        stamps: times in nanoseconds, shape (rows,).
        hashes: a hash of price and volume, or the trade id; shape (rows,).
    """

    stamps: Int64s
    hashes: NDArray[np.uint64]

    def part(self, start: int, stop: int) -> KeyedRows:
        """The rows from index `start` up to before `stop`, without a copy."""
        return KeyedRows(self.stamps[start:stop], self.hashes[start:stop])

    def within(self, span: Range) -> KeyedRows:
        """The rows in a range; the rows must be in order of time."""
        start, stop = (int(self.stamps.searchsorted(end, side="right")) for end in span)
        return self.part(start, stop)

    def where(self, is_chosen: Flags) -> KeyedRows:
        """Some of the rows, as a copy."""
        return KeyedRows(self.stamps[is_chosen], self.hashes[is_chosen])


def keyed_rows(batch: pa.RecordBatch) -> KeyedRows:
    """The rows of a batch of `schema.PAGE_SCHEMA` or `schema.SEGMENT_SCHEMA`, as a copy."""
    low, high = (words.astype(np.uint64) for words in decimal_words(batch.column("volume")))
    return KeyedRows(times(batch).copy(), _mixed(_mixed(price_hashes(batch) + low) + high))


def keyed_by_id(batch: pa.RecordBatch) -> KeyedRows:
    """The rows of a batch in which all have trade ids, which are compared then, as a copy."""
    return KeyedRows(times(batch).copy(), trade_ids(batch).astype(np.uint64))


def price_hashes(batch: pa.RecordBatch) -> NDArray[np.uint64]:
    """A hash of each row's price; shape (rows,)."""
    return _mixed(decimal_words(batch.column("price"))[0].astype(np.uint64))


def concatenated(parts: list[KeyedRows]) -> KeyedRows:
    """Concatenate rows."""
    return KeyedRows(
        np.concatenate([np.empty(0, np.int64), *(part.stamps for part in parts)]),
        np.concatenate([np.empty(0, np.uint64), *(part.hashes for part in parts)]),
    )


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix the bits of each word: the usual finalizer of a hash."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = words ^ (words >> np.uint64(31))
    return mixed


# --- how a file rounds its times ------------------------------------------------------------------

# A row of the file and a trade of the API are the same trade if second, price and volume are equal.
# For each way of rounding, the rows of the file that have such a trade are counted.

RoundingMode = Literal["down", "nearest", "up"]
ROUNDING_MODES: tuple[RoundingMode, ...] = get_args(RoundingMode)

SHIFTS_NS: dict[RoundingMode, int] = {"down": 0, "nearest": SECOND // 2, "up": SECOND - 1}
"""Added to a time before it is truncated to its second."""

MIN_AGREEMENT = 0.9
"""The fraction of rows that a way of rounding must explain: files have few errors."""


class Rounding(NamedTuple):
    """How imported files round their times to whole seconds.

    Attributes:
        way: `down`, `nearest` or `up`; `none` of these; `ambiguous` if several explain as much.
        agree: rows of the file that the best way explains.
        of: rows that were compared.
    """

    way: str
    agree: int
    of: int

    def words(self) -> str:
        """The result as text after "whole seconds, "."""
        counts = f"{self.agree:,} of {self.of:,} trades stored already"
        return {
            "down": f"rounded down: {counts} agree",
            "nearest": f"rounded to the nearest: {counts} agree",
            "up": f"rounded up: {counts} agree",
            "none": f"rounded neither down, nor to the nearest, nor up: at best {counts} agree",
        }.get(self.way, f"and {self.of:,} trades stored already fit several ways of rounding")


class RoundingCounts:
    """Counts the rows compared so far, and the rows that each way of rounding explains."""

    def __init__(self) -> None:
        """Start with no rows."""
        self.compared = 0
        self.agree: dict[RoundingMode, int] = dict.fromkeys(ROUNDING_MODES, 0)
        self.is_whole = True
        """Whether all times of the file are whole seconds."""

    def compare(self, file: KeyedRows, api: KeyedRows) -> None:
        """Compare rows of a file with trades of the API.

        Args:
            file: all rows of the file in some seconds.
            api: all trades from a second before the first of them to a second after the last, in
                order of time; others are ignored.
        """
        if not len(file.stamps):
            return
        api = api.within(Range(int(file.stamps[0]) - SECOND - 1, int(file.stamps[-1]) + SECOND))
        self.is_whole &= not (file.stamps % SECOND).any()
        self.compared += len(file.stamps)
        file_keys, counts = np.unique(_keys(file, 0), return_counts=True)
        for way, shift in SHIFTS_NS.items():
            api_keys, found = np.unique(_keys(api, shift), return_counts=True)
            _, left, right = np.intersect1d(
                file_keys, api_keys, assume_unique=True, return_indices=True
            )
            self.agree[way] += int(np.minimum(counts[left], found[right]).sum())

    def rounding(self) -> Rounding | None:
        """The rounding measured; None if nothing was compared, or times are finer than seconds."""
        if not self.compared or not self.is_whole:
            return None
        way, *others = sorted(ROUNDING_MODES, key=lambda way: -self.agree[way])
        most = self.agree[way]
        if most < MIN_AGREEMENT * self.compared:
            return Rounding("none", most, self.compared)
        is_unique = most > self.agree[others[0]]
        return Rounding(way if is_unique else "ambiguous", most, self.compared)


def _keys(rows: KeyedRows, shift: int) -> NDArray[np.uint64]:
    """A hash of second, price and volume; `shift` is added to the time, in nanoseconds."""
    seconds = ((rows.stamps + shift) // SECOND).astype(np.uint64)
    return _mixed(seconds + rows.hashes)


# --- which row is which trade ---------------------------------------------------------------------

# A row and a trade are the same trade if price and volume are equal and the times differ by a
# second at most, because nobody knows how a file rounds. Each trade matches one row only.

TOLERANCE_NS = SECOND + 100_000
"""A file rounds by less than a second, and the exchange's own times are off by up to 50 µs."""


def match_rows(rows: KeyedRows, trades: KeyedRows, tolerance_ns: int) -> tuple[Flags, Flags]:
    """Match each row with a trade of its own, by price, volume and time.

    Args:
        rows: in order of time.
        trades: in order of time.
        tolerance_ns: by how much the times of a row and its trade may differ, in nanoseconds.

    Returns:
        Which rows have a trade, and which trades have a row.
    """
    count = len(rows.stamps)
    is_found, is_used = np.zeros(count, bool), np.zeros(len(trades.stamps), bool)
    if not count or not len(trades.stamps):
        return is_found, is_used
    same = trades.within(Range(int(rows.stamps[0]) - 1, int(rows.stamps[-1])))
    if all(map(np.array_equal, rows, same)):
        # The usual case: the file was imported before.
        start = int(trades.stamps.searchsorted(rows.stamps[0]))
        is_used[start : start + count] = True
        return ~is_found, is_used
    # Sort rows and trades together, by hash, then by time; a row comes before its possible trades.
    keys = np.concatenate([rows.stamps - tolerance_ns, trades.stamps])
    is_trade = np.arange(len(keys)) >= count
    order = np.lexsort((is_trade, keys, np.concatenate([rows.hashes, trades.hashes])))
    is_trade = is_trade[order]
    earliest = np.cumsum(is_trade)[~is_trade]
    row_order, trade_order = order[~is_trade], order[is_trade] - count
    latest, hashes = rows.stamps[row_order] + tolerance_ns, rows.hashes[row_order]
    stamps, trade_hashes = trades.stamps[trade_order], trades.hashes[trade_order]

    # Each row gets the first trade that no earlier row has, as long as there are enough of them.
    steps = np.arange(count)
    first_free = steps + np.maximum.accumulate(earliest - steps)
    indexes = first_free.clip(max=len(stamps) - 1)
    fits = (first_free == indexes) & (trade_hashes[indexes] == hashes) & (stamps[indexes] <= latest)
    in_doubt = np.isin(hashes, hashes[~fits])
    is_found[row_order[~in_doubt]] = True
    is_used[trade_order[indexes[~in_doubt]]] = True
    free = 0
    for row in in_doubt.nonzero()[0].tolist():
        free = max(free, int(earliest[row]))
        is_same = free < len(stamps) and trade_hashes[free] == hashes[row]
        if is_same and stamps[free] <= latest[row]:
            is_found[row_order[row]] = is_used[trade_order[free]] = True
            free += 1
    return is_found, is_used
