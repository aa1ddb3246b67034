"""Measure how a file rounds its times, by the stored trades that it overlaps with."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harvester.errors import HarvesterError
from harvester.schema import Int64s, clip, decimal_words, times
from harvester.storage.trade_store import TradeStore
from harvester.times import SECOND, Range, overlap, union

# --- how a file rounds its times ------------------------------------------------------------------

# Arithmetic only, without I/O. A row of the file and a trade of the API are the same trade if
# second, price and volume are equal. For each way of rounding, the rows of the file that have such
# a trade are counted.

Way = Literal["down", "nearest", "up"]
WAYS: tuple[Way, ...] = get_args(Way)

SHIFTS_NS: dict[Way, int] = {"down": 0, "nearest": SECOND // 2, "up": SECOND - 1}
"""Added to a time before it is truncated to its second."""

MAX_SAMPLED_ROWS = 100_000
"""Rows of a file that an import compares with stored trades to measure the rounding."""

MIN_AGREEMENT = 0.9
"""The fraction of rows that a way of rounding must explain: files have few errors."""


class Rounding(NamedTuple):
    """How imported files round their times to whole seconds.

    Attributes:
        way: `down`, `nearest` or `up`; `none` of these; `not told` if several explain as much.
        agree: rows of the file that the best way explains.
        of: rows that were compared.
    """

    way: str
    agree: int
    of: int

    def words(self, trades: str) -> str:
        """The result as text behind "whole seconds, "; `trades` names what was compared."""
        counts = f"{self.agree:,} of {self.of:,} {trades}"
        return {
            "down": f"rounded down: {counts} agree",
            "nearest": f"rounded to the nearest: {counts} agree",
            "up": f"rounded up: {counts} agree",
            "none": f"rounded neither down, nor to the nearest, nor up: at best {counts} agree",
        }.get(self.way, f"and {self.of:,} {trades} do not tell how they were rounded")


class KeyedRows(NamedTuple):
    """Trades as they are compared.

    Attributes:
        stamps: times in nanoseconds, shape (rows,).
        hashes: a hash of price and volume, shape (rows,).
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


def rows_of(batch: pa.RecordBatch) -> KeyedRows:
    """The rows of a batch of `schema.ROWS` or `schema.TRADES`, as a copy."""
    price = decimal_words(batch.column("price"))[0].astype(np.uint64)
    low, high = (words.astype(np.uint64) for words in decimal_words(batch.column("volume")))
    return KeyedRows(times(batch).copy(), _mixed(_mixed(_mixed(price) + low) + high))


def joined(parts: list[KeyedRows]) -> KeyedRows:
    """Concatenate rows."""
    return KeyedRows(
        np.concatenate([np.empty(0, np.int64), *(part.stamps for part in parts)]),
        np.concatenate([np.empty(0, np.uint64), *(part.hashes for part in parts)]),
    )


class RoundingCounts:
    """Counts the rows compared so far, and the rows that each way of rounding explains."""

    def __init__(self) -> None:
        """Start with no rows."""
        self.of = 0
        self.agree: dict[Way, int] = dict.fromkeys(WAYS, 0)
        self.is_whole = True
        """Whether all times of the file are whole seconds."""

    def compare(self, file: KeyedRows, api: KeyedRows) -> None:
        """Compare rows of a file with trades of the API.

        Args:
            file: all rows of the file in some seconds.
            api: all trades from a second before the first of them to a second after the last.
        """
        if not len(file.stamps):
            return
        self.is_whole &= not (file.stamps % SECOND).any()
        self.of += len(file.stamps)
        file_keys, counts = np.unique(_keys(file, 0), return_counts=True)
        for way, shift in SHIFTS_NS.items():
            api_keys, found = np.unique(_keys(api, shift), return_counts=True)
            _, left, right = np.intersect1d(
                file_keys, api_keys, assume_unique=True, return_indices=True
            )
            self.agree[way] += int(np.minimum(counts[left], found[right]).sum())

    def rounding(self) -> Rounding | None:
        """The rounding measured; None if nothing was compared, or times are finer than seconds."""
        if not self.of or not self.is_whole:
            return None
        way, *others = sorted(WAYS, key=lambda way: -self.agree[way])
        most = self.agree[way]
        if most < MIN_AGREEMENT * self.of:
            return Rounding("none", most, self.of)
        is_unique = most > self.agree[others[0]]
        return Rounding(way if is_unique else "not told", most, self.of)


class Sample:
    """The first rows of a file whose time is covered by trades from the API."""

    def __init__(self, api_ranges: list[Range], max_rows: int = MAX_SAMPLED_ROWS) -> None:
        """Start with no rows.

        Args:
            api_ranges: the ranges covered by trades from the API, in order.
            max_rows: size of the sample.
        """
        # However a row was rounded, all trades that it may be are in the whole range.
        self._ranges = [
            Range(span.after + 2 * SECOND, span.through - 2 * SECOND)
            for span in api_ranges
            if span.through - span.after > 4 * SECOND
        ]
        self._max_rows = max_rows
        self._rows: list[KeyedRows] = []
        self._count = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Add the next rows of the file, in order of time."""
        if not batch.num_rows or self._count >= self._max_rows:
            return
        stamps = times(batch)
        read = Range(int(stamps[0]) - 1, int(stamps[-1]))
        for span in self._ranges:
            free = self._max_rows - self._count
            if free > 0 and overlap(span, read):
                found = rows_of(clip(batch, span).slice(0, free))
                self._rows.append(found)
                self._count += len(found.stamps)

    def rows(self) -> KeyedRows:
        """The rows of the sample, in order of time."""
        return joined(self._rows)


def _keys(rows: KeyedRows, shift: int) -> NDArray[np.uint64]:
    """A hash of second, price and volume; `shift` is added to the time, in nanoseconds."""
    seconds = ((rows.stamps + shift) // SECOND).astype(np.uint64)
    return _mixed(seconds + rows.hashes)


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix the bits of each word: the usual finalizer of a hash."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = words ^ (words >> np.uint64(31))
    return mixed


# --- comparison with the archive ------------------------------------------------------------------


def ranges_from_api(archive: TradeStore, pair: str) -> list[Range]:
    """The ranges covered by trades from the API, in order.

    Args:
        archive: the archive.
        pair: altname.
    """
    pieces = archive.pieces(pair)
    return union(piece.within for piece in pieces if not piece.segment.is_imported)


def measure_rounding(archive: TradeStore, pair: str, sample: Sample) -> Rounding | None:
    """Measure how a file rounds its times; None if the sample is empty.

    The result is only a note in the report, so a segment that can't be read does not end the
    import; `verify` reports it.

    Args:
        archive: the archive.
        pair: altname.
        sample: rows of the file whose time is covered by trades from the API.
    """
    rows = sample.rows()
    if not len(rows.stamps):
        return None
    span = Range(int(rows.stamps[0]) - SECOND - 1, int(rows.stamps[-1]) + SECOND)
    counts = RoundingCounts()
    try:
        for part in ranges_from_api(archive, pair):
            inside = rows.within(part)
            if len(inside.stamps):
                ends = Range(max(part.after, span.after), min(part.through, span.through))
                trades = [rows_of(batch) for batch in archive.scan(pair, ends)]
                counts.compare(inside, joined(trades))
    except HarvesterError:
        return None
    return counts.rounding()
