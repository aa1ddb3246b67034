"""Check whether the rows of a file are stored: of covered time, and at the ends of covered time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from harvester.csv_import.file_scan import ScannedFile
from harvester.csv_import.rounding import (
    TOLERANCE_NS,
    Flags,
    KeyedRows,
    RoundingCounts,
    concatenated,
    keyed_by_id,
    keyed_rows,
    match_rows,
)
from harvester.csv_import.row_order import Sorter
from harvester.errors import ArchiveDamaged, ArchiveHasGaps, HarvesterError
from harvester.schema import Int64s, clip, int64s_as, times, trade_ids
from harvester.storage.trade_store import TradeStore
from harvester.times import END_OF_TIME, SECOND, Range, missing, overlap, second_of, show, union

# --- whether rows are stored ----------------------------------------------------------------------

BATCH_ROWS = 1_000_000
"""Number of rows, and of trades, that are compared at once."""
MAX_SAMPLED_ROWS = 100_000
"""Rows of a file that are compared to measure how it rounds."""


class StoredCheck:
    """Checks that rows of one pair, in order of time, are stored in the archive."""

    def __init__(self, archive: TradeStore, pair: str, *, is_delisted: bool = False) -> None:
        """Start at the beginning of the trade history.

        Args:
            archive: where the rows should be stored; it covers now the time of all of them.
            pair: altname.
            is_delisted: whether nothing of the pair can be downloaded.
        """
        self._archive = archive
        self._pair = pair
        self._is_delisted = is_delisted
        self._covered = archive.coverage(pair)
        pieces = archive.pieces(pair)
        self._api = union(piece.within for piece in pieces if not piece.segment.is_imported)
        """The ranges whose trades came from the API."""
        self._ends = np.array(sorted(end for span in self._api for end in span), dtype=np.int64)
        self._waiting: list[KeyedRows] = []
        self._waiting_rows = 0
        self._trades = concatenated([])
        """Trades that were read and may still match a row."""
        self._read_through = -1
        self._first_ns = self._last_ns = 0
        self.rounding = RoundingCounts()
        """How some of the rows are rounded whose time is covered by trades from the API."""
        self.checked = 0
        """Number of rows checked."""
        self.absent = 0
        """Number of rows that are not stored."""
        self.error: HarvesterError | None = None
        """Why trades can't be read; nothing is checked from then on."""

    def push(self, rows: pa.RecordBatch) -> None:
        """Add the next rows."""
        self._waiting.append(keyed_rows(rows))
        self._waiting_rows += rows.num_rows
        if self._waiting_rows >= BATCH_ROWS:
            self.finish()

    def raise_error(self) -> None:
        """Report the result, once all rows were checked.

        Raises:
            ArchiveDamaged: rows are not stored, or trades can't be read.
        """
        if self.error is not None:
            raise self.error
        if self.absent:
            command = f"`harvester backfill {self._pair} --replace-imported`"
            advice = "" if self._is_delisted else f"; {command} downloads imported ranges again"
            raise ArchiveDamaged(
                f"{self.absent:,} of {self.checked:,} rows lie in a range that is already covered, "
                f"but are not stored: the first is of {show(self._first_ns)}, the last of "
                f"{show(self._last_ns)}; either another file, imported before, claimed that time, "
                f"or this file has trades that the exchange does not have{advice}"
            )

    def finish(self) -> None:
        """Check the rows that were added and not checked yet."""
        rows, self._waiting, self._waiting_rows = concatenated(self._waiting), [], 0
        if self.error is not None:
            return
        try:
            for span in self._covered:
                inside = rows.within(span)
                if len(inside.stamps):
                    self.checked += len(inside.stamps)
                    self._compare(inside, span)
        except HarvesterError as reason:
            self.error = reason

    def _compare(self, rows: KeyedRows, covered: Range) -> None:
        first, last = int(rows.stamps[0]), int(rows.stamps[-1])
        span = Range(
            max(covered.after, first - TOLERANCE_NS - 1, self._read_through),
            min(covered.through, last + TOLERANCE_NS),
        )
        trades, count = [self._trades.within(covered)], 0
        if span.after < span.through:
            for batch in self._archive.scan(self._pair, span):
                trades.append(keyed_rows(batch))
                count += batch.num_rows
                if count >= BATCH_ROWS:
                    bound = int(trades[-1].stamps[-1]) - TOLERANCE_NS - 1
                    rows, left = self._matched(rows, concatenated(trades), bound)
                    trades, count = [left], 0
            self._read_through = span.through
        _, self._trades = self._matched(rows, concatenated(trades), last)

    def _matched(
        self, rows: KeyedRows, trades: KeyedRows, bound: int
    ) -> tuple[KeyedRows, KeyedRows]:
        """Match rows with trades up to a time.

        Args:
            rows: in order of time.
            trades: in order of time.
            bound: rows up to this time are matched, in nanoseconds.

        Returns:
            The rows after `bound`, and the trades that may still match them.
        """
        stop = int(rows.stamps.searchsorted(bound, side="right"))
        early = rows.part(0, stop)
        for span in self._api:
            # However such a row was rounded, all trades that it may be are in the range.
            inner = Range(span.after + 2 * SECOND, span.through - 2 * SECOND)
            sample = early.within(inner).part(0, MAX_SAMPLED_ROWS - self.rounding.compared)
            self.rounding.compare(sample, trades)
        is_found, is_used = match_rows(early, trades, TOLERANCE_NS)
        absent = early.stamps[~is_found]
        # At an end of a range from the API, a rounded row may be a trade of the other side.
        if len(absent) and len(self._ends):
            after = self._ends.searchsorted(absent).clip(1, len(self._ends) - 1)
            nearest = np.minimum(
                abs(absent - self._ends[after]), abs(absent - self._ends[after - 1])
            )
            absent = absent[nearest > TOLERANCE_NS]
        if len(absent):
            self._first_ns = self._first_ns or int(absent[0])
            self._last_ns = int(absent[-1])
            self.absent += len(absent)
        keep = ~is_used & (trades.stamps > bound - TOLERANCE_NS)
        return rows.part(stop, len(rows.stamps)), trades.where(keep)


# --- rows at the ends of covered time -------------------------------------------------------------

# Nothing of a delisted pair can be downloaded, so its imported ranges meet covered time between any
# two trades. There, the time of a row does not show on which side its trade is, as it was rounded.
# But the trades that are stored show it. Rows and trades of the same price and volume form a series
# as long as each follows within a second, the most by which the times of a row and its trade
# differ. If the file has all trades of a series, it has as many more rows as are not stored yet.

CONTEXT_NS = 60 * SECOND
"""Rows and trades this far from an end of covered time are compared."""


class RowsAtEnds(NamedTuple):
    """The rows of a file that are not imported as they are, by their indexes in order of time.

    Attributes:
        stored: indexes of rows that are stored already.
        moved: the nearest time that is not covered, in nanoseconds, by index of the row, for rows
            that are not stored though their rounded time is covered.
        in_doubt: the seconds of rows that may be stored or not.
        outside: ranges that begin or end in the second of the file's last row, or its first, if it
            is not known to be complete there.
    """

    stored: set[int]
    moved: dict[int, int]
    in_doubt: list[Range]
    outside: list[Range]

    def raise_doubt(self) -> None:
        """Report rows that may be stored already.

        Raises:
            ArchiveHasGaps: there are such rows.
        """
        if self.in_doubt:
            seconds = ", ".join(map(str, union(self.in_doubt)))
            raise ArchiveHasGaps(
                f"rows of {seconds} were not imported, as they may be "
                "trades that are stored with the second before or after: import a file that has "
                "the minute on both sides, such as a newer Kraken_Trading_History.zip"
            )

    def applied(
        self, batches: Iterable[pa.RecordBatch], on_stored: Callable[[pa.RecordBatch], None]
    ) -> Iterator[pa.RecordBatch]:
        """Pass on the rows that are not stored already, the moved ones with their new time.

        Args:
            batches: all rows of the file, in order of time.
            on_stored: called with the rows that are stored already.
        """
        if not (self.stored or self.moved):
            yield from batches
            return
        sorter, start = Sorter(), 0
        for rows in batches:
            here = range(start, start := start + rows.num_rows)
            stored = [index - here.start for index in self.stored if index in here]
            moved = {index - here.start: ns for index, ns in self.moved.items() if index in here}
            stamps, is_new = times(rows).copy(), np.ones(rows.num_rows, bool)
            stamps[[*moved]], is_new[stored] = [*moved.values()], False
            at = rows.schema.get_field_index("time")
            field = rows.schema.field(at)
            placed = rows.set_column(at, field, int64s_as(field.type, stamps)) if moved else rows
            on_stored(placed.filter(pa.array(~is_new)))
            yield sorter.push(placed.filter(pa.array(is_new)))
        yield sorter.finish()


def rows_at_ends(
    archive: TradeStore,
    pair: str,
    files: Sequence[ScannedFile],
    batches: Iterable[pa.RecordBatch],
    unknown: Sequence[Range],
) -> RowsAtEnds:
    """Compare the rows of a chain of files with the stored trades around ends of covered time.

    Args:
        archive: where the trades are.
        pair: altname.
        files: the chain.
        batches: all rows of the files, in order of time.
        unknown: ranges in which the files may lack rows.
    """
    complete = _complete_range(files)
    covered = archive.coverage(pair)
    ends = np.array([end for span in covered for end in span], np.int64)
    windows = union(Range(end - CONTEXT_NS, end + CONTEXT_NS) for end in ends.tolist())
    inside = {window: list[pa.RecordBatch]() for window in windows}
    firsts, start = dict[Range, int](), 0
    for rows in batches:
        for window, parts in inside.items():
            part = clip(rows, window)
            if part.num_rows:
                firsts.setdefault(window, start + int(times(rows).searchsorted(times(part)[0])))
                parts.append(part)
        start += rows.num_rows
    found = RowsAtEnds(set(), {}, [], missing([Range(0, END_OF_TIME)], [complete]))
    for window, first in firsts.items():
        parts = inside[window]
        stored = list(archive.scan(pair, window._replace(after=max(0, window.after))))
        has_ids = all((trade_ids(batch) > 0).all() for batch in (*parts, *stored))
        keyed = keyed_by_id if has_ids else keyed_rows
        rows, trades = (concatenated([*map(keyed, some)]) for some in (parts, stored))
        is_sure = np.full(len(trades.stamps), has_ids)
        for span in missing(filter(None, [overlap(window, complete)]), unknown):
            inner = Range(span.after + TOLERANCE_NS, span.through - TOLERANCE_NS)
            is_sure |= (trades.stamps > inner.after) & (trades.stamps <= inner.through)
        _decide(_Window(rows, trades, is_sure, ends, complete), first, found)
    return found


def _complete_range(files: Sequence[ScannedFile]) -> Range:
    """The range in which a chain has every trade; at an unknown end, without the second there."""
    since_s, until_s = files[0].member.complete.since_s, files[-1].member.complete.until_s
    if since_s is None:
        since_s = min((file.first_ns for file in files if file.first_ns), default=0) // SECOND + 1
    if until_s is None:
        until_s = max(file.last_ns or 0 for file in files) // SECOND
    return Range(since_s * SECOND - 1, until_s * SECOND - 1)


class _Window(NamedTuple):
    """Rows and trades around ends of covered time.

    Attributes:
        rows: of the file.
        trades: that are stored.
        is_sure: which trades the file has for sure; shape (trades,).
        ends: of covered time, in order: where a range begins, where it ends, and so on.
        complete: the range in which the file has every trade.
    """

    rows: KeyedRows
    trades: KeyedRows
    is_sure: Flags
    ends: Int64s
    complete: Range

    def target(self, stamp: int, place: int) -> int | None:
        """The time nearest to a row's that is not covered, at an end where both times meet.

        Args:
            stamp: the row's time.
            place: how many ends are before it.

        Returns:
            The time; None if no end is within a second, or the file ends there as well.
        """
        near = enumerate(self.ends[max(0, place - 1) : place + 1].tolist(), max(0, place - 1))
        # The time at which a covered range begins is not covered.
        targets = [end + index % 2 for index, end in near if abs(end - stamp) <= TOLERANCE_NS]
        inside = [ns for ns in targets if self.complete.after < ns <= self.complete.through]
        return min(inside, key=lambda ns: abs(ns - stamp), default=None)


def _decide(window: _Window, first: int, found: RowsAtEnds) -> None:
    """Decide which rows of a window are stored; `first` is the index of its first row."""
    both = concatenated([window.rows, window.trades])
    stamps, count = both.stamps, len(window.rows.stamps)
    # Covered time has odd places.
    places = window.ends.searchsorted(stamps)
    order = np.lexsort((stamps, both.hashes))
    is_break = (np.diff(both.hashes[order]) != 0) | (np.diff(stamps[order]) > TOLERANCE_NS)
    for series in np.split(order, is_break.nonzero()[0] + 1):
        rows, trades = series[series < count], series[series >= count]
        is_outside = places[series[0]] == places[series[-1]] and places[series[0]] % 2 == 0
        if is_outside or not len(rows):
            continue
        is_sure = bool(window.is_sure[trades - count].all())
        new = _new_rows(window.ends, stamps[series], places[trades], len(rows)) if is_sure else None
        for index, row in enumerate(rows.tolist()):
            stamp, place = int(stamps[row]), int(places[row])
            target = window.target(stamp, place)
            if target is None:
                continue
            if new is None:
                # Whichever side of the end the row's trade is on, no file may cover that side.
                found.in_doubt.extend(map(second_of, (stamp, target)))
            elif index in new and place % 2 == 1:
                found.moved[first + row] = target
            elif index not in new and place % 2 == 0:
                found.stored.add(first + row)


def _new_rows(ends: Int64s, stamps: Int64s, places: Int64s, rows: int) -> range | None:
    """Which rows of a series are not stored, by their order; None if that can't be decided.

    The new rows come after the stored trades, before them, or between the trades of two covered
    ranges. If several of these are possible, return None.

    Args:
        ends: of covered time.
        stamps: the times of the series' rows and trades, in order.
        places: how many of these ends are before each of its trades.
        rows: number of its rows.
    """
    trades = len(places)
    if rows <= trades:
        return range(0)
    if not trades:
        return range(rows)
    before, after = int(places[0]), int(places[-1])
    is_before = int(stamps[0]) <= int(ends[before - 1]) + TOLERANCE_NS
    is_after = int(stamps[-1]) > int(ends[after]) - TOLERANCE_NS
    is_between = before != after
    if is_before + is_after + is_between != 1 or after - before > 2:
        return None
    start = 0 if is_before else trades if is_after else int((places == before).sum())
    return range(start, start + rows - trades)
