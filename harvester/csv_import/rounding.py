"""How a file of whole seconds rounds its times, measured where the API's own times are held too.

Pure arithmetic, without I/O. A row of the file and a trade of the API are the same where second,
price and volume are; of each hypothesis it is counted how many rows of the file it explains.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harvester.download.events import Rounding
from harvester.schema import Int64s, clip, decimal_words, times
from harvester.times import SECOND, Range, overlap

Way = Literal["down", "nearest", "up"]
WAYS: tuple[Way, ...] = get_args(Way)

SHIFTS_NS: dict[Way, int] = {"down": 0, "nearest": SECOND // 2, "up": SECOND - 1}
"""What is added to a time before it is cut to its second."""

MOST_SAMPLED = 100_000
"""Rows of a file that an import holds against what is held already."""

ENOUGH = 0.9
"""Of the rows, so many must be explained: a file's errors are few."""


class Rows(NamedTuple):
    """Trades as they are compared: times in ns, and what tells price and volume; shape (rows,)."""

    stamps: Int64s
    marks: NDArray[np.uint64]

    def part(self, start: int, stop: int) -> Rows:
        """Some of them, without a copy."""
        return Rows(self.stamps[start:stop], self.marks[start:stop])

    def within(self, span: Range) -> Rows:
        """Those published in a range, of rows in order of time."""
        start, stop = (int(self.stamps.searchsorted(end, side="right")) for end in span)
        return self.part(start, stop)


def rows_of(batch: pa.RecordBatch) -> Rows:
    """The rows of a batch of `columns.ROWS`, or of `schema.TRADES`, in copies of their own."""
    price = decimal_words(batch.column("price"))[0].astype(np.uint64)
    low, high = (words.astype(np.uint64) for words in decimal_words(batch.column("volume")))
    return Rows(times(batch).copy(), _mixed(_mixed(_mixed(price) + low) + high))


def joined(parts: list[Rows]) -> Rows:
    """Several as one."""
    return Rows(
        np.concatenate([np.empty(0, np.int64), *(one.stamps for one in parts)]),
        np.concatenate([np.empty(0, np.uint64), *(one.marks for one in parts)]),
    )


class Tally:
    """Rows compared so far, and how many of them each way explains."""

    def __init__(self) -> None:
        """Nothing was compared yet."""
        self.of = 0
        self.agree: dict[Way, int] = dict.fromkeys(WAYS, 0)
        self.is_whole = True
        """Whether all times of the file were whole seconds."""

    def compare(self, file: Rows, api: Rows) -> None:
        """Count rows of a file.

        Args:
            file: all that it has in some seconds.
            api: all trades from a second before the first of them to a second after the last.
        """
        if not len(file.stamps):
            return
        self.is_whole &= not (file.stamps % SECOND).any()
        self.of += len(file.stamps)
        theirs, counts = np.unique(_keys(file, 0), return_counts=True)
        for way, shift in SHIFTS_NS.items():
            ours, found = np.unique(_keys(api, shift), return_counts=True)
            _, left, right = np.intersect1d(theirs, ours, assume_unique=True, return_indices=True)
            self.agree[way] += int(np.minimum(counts[left], found[right]).sum())

    def add(self, other: Tally) -> None:
        """Count in what another one has counted."""
        self.of += other.of
        self.is_whole &= other.is_whole
        for way in WAYS:
            self.agree[way] += other.agree[way]

    def rounding(self) -> Rounding | None:
        """What that tells; None where nothing was compared, or times are finer than seconds."""
        if not self.of or not self.is_whole:
            return None
        way, *others = sorted(WAYS, key=lambda one: -self.agree[one])
        most = self.agree[way]
        if most < ENOUGH * self.of:
            return Rounding("none", most, self.of)
        told = most > self.agree[others[0]]
        return Rounding(way if told else "not told", most, self.of)


class Sample:
    """The first rows of a file that fall into what is held from the API."""

    def __init__(self, held: list[Range], most: int = MOST_SAMPLED) -> None:
        """`held`: those ranges, in order."""
        # However a row was rounded, all trades that it may be lie in the range.
        self._ranges = [
            Range(one.after + 2 * SECOND, one.through - 2 * SECOND)
            for one in held
            if one.through - one.after > 4 * SECOND
        ]
        self._most = most
        self._rows: list[Rows] = []
        self._count = 0

    def take(self, batch: pa.RecordBatch) -> None:
        """Look at the next rows of the file, in order of time."""
        if not batch.num_rows or self._count >= self._most:
            return
        stamps = times(batch)
        span = Range(int(stamps[0]) - 1, int(stamps[-1]))
        for one in self._ranges:
            room = self._most - self._count
            if room > 0 and overlap(one, span):
                found = rows_of(clip(batch, one).slice(0, room))
                self._rows.append(found)
                self._count += len(found.stamps)

    def taken(self) -> Rows:
        """The rows that were taken."""
        return joined(self._rows)


def _keys(rows: Rows, shift: int) -> NDArray[np.uint64]:
    """One number that tells second, price and volume from others."""
    seconds = ((rows.stamps + shift) // SECOND).astype(np.uint64)
    return _mixed(seconds + rows.marks)


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each word's bits spread over all of it: the usual finalizer of a hash."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = words ^ (words >> np.uint64(31))
    return mixed
