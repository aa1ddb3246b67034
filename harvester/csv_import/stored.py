"""Looks up rows of a file in the archive: whoever calls their time covered must hold them, too.

A row and a trade are the same where price and volume are, and the times agree. Between files of
whole seconds times agree to the digit, else within a second, as nobody tells how a file rounds.
Each trade stands for one row only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harvester.csv_import.rounding import Rows, joined, rows_of
from harvester.errors import ArchiveDamaged, HarvesterError
from harvester.storage.trade_store import Archive
from harvester.times import SECOND, Range, missing, show

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
        self, archive: Archive, pair: str, covered: Sequence[Range], api: Sequence[Range]
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
        self._waiting: list[Rows] = []
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

    def _compare(self, rows: Rows, part: _Part) -> None:
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

    def _matched(self, rows: Rows, trades: Rows, bound: int, part: _Part) -> tuple[Rows, Rows]:
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
        left = Rows(trades.stamps[keep], trades.marks[keep])
        return rows.part(stop, len(rows.stamps)), left


Flags = NDArray[np.bool_]


def match(rows: Rows, trades: Rows, tolerance: int) -> tuple[Flags, Flags]:
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
