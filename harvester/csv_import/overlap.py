"""Compare a file with stored trades: how it rounds times, and whether rows are missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harvester.download.events import Rounding
from harvester.errors import ArchiveDamaged, HarvesterError
from harvester.schema import Int64s, clip, decimal_words, times
from harvester.storage.replacement_staging import from_files
from harvester.storage.trade_store import TradeStore
from harvester.times import SECOND, Range, missing, overlap, show

# --- rounding -------------------------------------------------------------------------------------

# Pure arithmetic, without I/O. A row of the file and a trade of the API are the same where
# second, price and volume are; of each hypothesis it is counted how many rows of the file it
# explains.

Way = Literal["down", "nearest", "up"]
WAYS: tuple[Way, ...] = get_args(Way)

SHIFTS_NS: dict[Way, int] = {"down": 0, "nearest": SECOND // 2, "up": SECOND - 1}
"""What is added to a time before it is cut to its second."""

MOST_SAMPLED = 100_000
"""Rows of a file that an import holds against what is held already."""

ENOUGH = 0.9
"""Of the rows, so many must be explained: a file's errors are few."""


class KeyedRows(NamedTuple):
    """Trades as they are compared: times in ns, and what tells price and volume; shape (rows,)."""

    stamps: Int64s
    marks: NDArray[np.uint64]

    def part(self, start: int, stop: int) -> KeyedRows:
        """Some of them, without a copy."""
        return KeyedRows(self.stamps[start:stop], self.marks[start:stop])

    def within(self, span: Range) -> KeyedRows:
        """Those published in a range, of rows in order of time."""
        start, stop = (int(self.stamps.searchsorted(end, side="right")) for end in span)
        return self.part(start, stop)


def rows_of(batch: pa.RecordBatch) -> KeyedRows:
    """The rows of a batch of `columns.ROWS`, or of `schema.TRADES`, in copies of their own."""
    price = decimal_words(batch.column("price"))[0].astype(np.uint64)
    low, high = (words.astype(np.uint64) for words in decimal_words(batch.column("volume")))
    return KeyedRows(times(batch).copy(), _mixed(_mixed(_mixed(price) + low) + high))


def joined(parts: list[KeyedRows]) -> KeyedRows:
    """Several as one."""
    return KeyedRows(
        np.concatenate([np.empty(0, np.int64), *(part.stamps for part in parts)]),
        np.concatenate([np.empty(0, np.uint64), *(part.marks for part in parts)]),
    )


class RoundingCounts:
    """Rows compared so far, and how many of them each way explains."""

    def __init__(self) -> None:
        """Nothing was compared yet."""
        self.of = 0
        self.agree: dict[Way, int] = dict.fromkeys(WAYS, 0)
        self.is_whole = True
        """Whether all times of the file were whole seconds."""

    def compare(self, file: KeyedRows, api: KeyedRows) -> None:
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

    def add(self, other: RoundingCounts) -> None:
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
        self._rows: list[KeyedRows] = []
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

    def taken(self) -> KeyedRows:
        """The rows that were taken."""
        return joined(self._rows)


def _keys(rows: KeyedRows, shift: int) -> NDArray[np.uint64]:
    """One number that tells second, price and volume from others."""
    seconds = ((rows.stamps + shift) // SECOND).astype(np.uint64)
    return _mixed(seconds + rows.marks)


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each word's bits spread over all of it: the usual finalizer of a hash."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = words ^ (words >> np.uint64(31))
    return mixed


# --- overlap --------------------------------------------------------------------------------------


def held_from_api(archive: TradeStore, pair: str) -> list[Range]:
    """What is covered by what the API gave, in order; nothing where a segment can't be read."""
    try:
        told = [part for _, part in from_files(archive, pair)]
    except ArchiveDamaged:
        return []
    return missing(archive.coverage(pair), told)


def measured(archive: TradeStore, pair: str, sample: Sample) -> Rounding | None:
    """How a file rounds its times; None where nothing of it is held from the API.

    It is worth a word, and stops no import: a segment that can't be read is for `verify` to tell.
    """
    rows = sample.taken()
    if not len(rows.stamps):
        return None
    span = Range(int(rows.stamps[0]) - SECOND - 1, int(rows.stamps[-1]) + SECOND)
    tally = RoundingCounts()
    try:
        for part in held_from_api(archive, pair):
            inside = rows.within(part)
            if len(inside.stamps):
                ends = Range(max(part.after, span.after), min(part.through, span.through))
                tally.compare(inside, joined([rows_of(one) for one in archive.scan(pair, ends)]))
    except HarvesterError:
        return None
    return tally.rounding()


def how_exact(rounding: Rounding | None, pair: str) -> str:
    """What a boundary at a busy second is worth, by the rounding that was measured."""
    way = rounding.way if rounding is not None else "not told"
    if way == "down":
        return "it is exact, as the file rounds its times down"
    if way == "not told":
        return (
            "it is exact if the file rounds its times down; "
            f"`harvester verify {pair} --against-exchange` tells"
        )
    return (
        "as the file does not round its times down, a trade may be missing there, or be there "
        f"twice; `harvester backfill {pair} --upgrade` puts that right"
    )


# --- stored ---------------------------------------------------------------------------------------

# A row and a trade are the same where price and volume are, and the times agree. Between files of
# whole seconds times agree to the digit, else within a second, as nobody tells how a file rounds.
# Each trade stands for one row only.

BATCH_ROWS = 1_000_000
"""Rows, and trades, that are compared at once."""
TOLERANCE_NS = SECOND + 100_000
"""A file rounds by less than a second, and the exchange's own times are off by up to 50 µs."""


class _Part(NamedTuple):
    """A covered range, and whether its trades came from the API."""

    span: Range
    is_api: bool


class StoredCheck:
    """Compares rows of one pair, in order of time, with the trades that are stored."""

    def __init__(
        self, archive: TradeStore, pair: str, covered: Sequence[Range], api: Sequence[Range]
    ) -> None:
        """Begin at the beginning of history.

        Args:
            archive: where the rows should be.
            pair: altname.
            covered: the ranges in which the rows lie.
            api: which part of them came from the API.
        """
        self._archive = archive
        self._pair = pair
        self._parts = sorted(
            [_Part(span, True) for span in api]
            + [_Part(span, False) for span in missing(covered, api)]
        )
        self._ends = np.array(sorted(end for span in api for end in span), dtype=np.int64)
        self._waiting: list[KeyedRows] = []
        self._waiting_rows = 0
        self._trades = joined([])
        """Trades that were read, and may still stand for a row."""
        self._read_through = -1
        self._first_ns = self._last_ns = 0
        self.of = 0
        """Rows that were looked up."""
        self.absent = 0
        """Rows of them that are not stored."""
        self.error: HarvesterError | None = None
        """Why trades can't be read; nothing is looked up from then on."""

    def push(self, rows: pa.RecordBatch) -> None:
        """Look up the next rows."""
        self._waiting.append(rows_of(rows))
        self._waiting_rows += rows.num_rows
        if self._waiting_rows >= BATCH_ROWS:
            self._look_up()

    def finish(self) -> None:
        """Look up the last rows.

        Raises:
            ArchiveDamaged: rows are not stored, or trades can't be read.
        """
        self._look_up()
        if self.error is not None:
            raise self.error
        if self.absent:
            raise ArchiveDamaged(
                f"{self.absent:,} of {self.of:,} rows of time that is covered already are not "
                f"stored there, the first of {show(self._first_ns)}, the last of "
                f"{show(self._last_ns)}: either an import of another file claimed that time, or "
                f"this file has trades that the exchange has not; `harvester backfill {self._pair} "
                "--upgrade` fetches what came from files anew"
            )

    def _look_up(self) -> None:
        rows, self._waiting, self._waiting_rows = joined(self._waiting), [], 0
        if self.error is not None:
            return
        try:
            for part in self._parts:
                inside = rows.within(part.span)
                if len(inside.stamps):
                    self.of += len(inside.stamps)
                    self._compare(inside, part)
        except HarvesterError as reason:
            self.error = reason

    def _compare(self, rows: KeyedRows, part: _Part) -> None:
        first, last = int(rows.stamps[0]), int(rows.stamps[-1])
        span = Range(
            max(part.span.after, first - TOLERANCE_NS - 1, self._read_through),
            min(part.span.through, last + TOLERANCE_NS),
        )
        trades, count = [self._trades.within(part.span)], 0
        if span.after < span.through:
            for batch in self._archive.scan(self._pair, span):
                trades.append(rows_of(batch))
                count += batch.num_rows
                if count >= BATCH_ROWS:
                    bound = int(trades[-1].stamps[-1]) - TOLERANCE_NS - 1
                    rows, left = self._matched(rows, joined(trades), bound, part)
                    trades, count = [left], 0
            self._read_through = span.through
        _, self._trades = self._matched(rows, joined(trades), last, part)

    def _matched(
        self, rows: KeyedRows, trades: KeyedRows, bound: int, part: _Part
    ) -> tuple[KeyedRows, KeyedRows]:
        """Match rows up to a time; returns the rows behind it and the trades left for them."""
        stop = int(rows.stamps.searchsorted(bound, side="right"))
        some = rows.part(0, stop)
        whole = not ((some.stamps % SECOND).any() or (trades.stamps % SECOND).any())
        tolerance = 0 if whole and not part.is_api else TOLERANCE_NS
        is_found, is_used = match(some, trades, tolerance)
        absent = some.stamps[~is_found]
        # At an end of what the API told, a rounded row may be of a trade on the other side.
        if len(absent) and len(self._ends):
            behind = self._ends.searchsorted(absent).clip(1, len(self._ends) - 1)
            nearest = np.minimum(
                abs(absent - self._ends[behind]), abs(absent - self._ends[behind - 1])
            )
            absent = absent[nearest > TOLERANCE_NS]
        if len(absent):
            self._first_ns = self._first_ns or int(absent[0])
            self._last_ns = int(absent[-1])
            self.absent += len(absent)
        keep = ~is_used & (trades.stamps > bound - TOLERANCE_NS)
        left = KeyedRows(trades.stamps[keep], trades.marks[keep])
        return rows.part(stop, len(rows.stamps)), left


Flags = NDArray[np.bool_]


def match(rows: KeyedRows, trades: KeyedRows, tolerance: int) -> tuple[Flags, Flags]:
    """Find a trade of its own for each row, by price, volume and time.

    Args:
        rows: in order of time.
        trades: likewise.
        tolerance: how far their times may lie apart, in nanoseconds.

    Returns which rows have one, and which trades are one.
    """
    count = len(rows.stamps)
    is_found, is_used = np.zeros(count, bool), np.zeros(len(trades.stamps), bool)
    if not count or not len(trades.stamps):
        return is_found, is_used
    same = trades.within(Range(int(rows.stamps[0]) - 1, int(rows.stamps[-1])))
    if all(map(np.array_equal, rows, same)):
        # As nearly always: the file was imported before.
        start = int(trades.stamps.searchsorted(rows.stamps[0]))
        is_used[start : start + count] = True
        return ~is_found, is_used
    # All in one order, by mark, then time; a row stands before the trades that it may be.
    keys = np.concatenate([rows.stamps - tolerance, trades.stamps])
    is_trade = np.arange(len(keys)) >= count
    order = np.lexsort((is_trade, keys, np.concatenate([rows.marks, trades.marks])))
    is_trade = is_trade[order]
    earliest = np.cumsum(is_trade)[~is_trade]
    row_order, trade_order = order[~is_trade], order[is_trade] - count
    latest, marks = rows.stamps[row_order] + tolerance, rows.marks[row_order]
    stamps, trade_marks = trades.stamps[trade_order], trades.marks[trade_order]

    # Each row takes the first trade that no row before it took, as long as all have one.
    steps = np.arange(count)
    taken = steps + np.maximum.accumulate(earliest - steps)
    places = taken.clip(max=len(stamps) - 1)
    fits = (taken == places) & (trade_marks[places] == marks) & (stamps[places] <= latest)
    in_doubt = np.isin(marks, marks[~fits])
    is_found[row_order[~in_doubt]] = True
    is_used[trade_order[places[~in_doubt]]] = True
    free = 0
    for row in in_doubt.nonzero()[0].tolist():
        free = max(free, int(earliest[row]))
        if free < len(stamps) and trade_marks[free] == marks[row] and stamps[free] <= latest[row]:
            is_found[row_order[row]] = is_used[trade_order[free]] = True
            free += 1
    return is_found, is_used
