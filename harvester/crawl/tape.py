"""Joins page to page into one tape: pure, without I/O.

The rule (docs/design.md, "How pages join"): with L the published time of the last row held, the
next page is asked from a margin before L. Of the new page, rows before L are dropped and rows at L
are united with those held, so that each group of one stamp is taken whole. That is exact whether
the exchange takes `since` inclusively or exclusively, and needs no comparing of contents.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from harvester.columns import Int64s, clip, joined, no_rows, times, trade_ids
from harvester.times import SECOND, Range

LEAST_MARGIN_NS = 1_000
"""Published times are floats, off by up to 238 ns from the stamps that `since` is held against."""

FIRST_MARGIN_NS = 1_000_000
"""Before any page has shown its decimals: enough for those of three, today's have seven."""

FULL_PAGE = 1_000

DOUBTS = 2
"""So often a page that does not show the last row held is asked for again."""


class Verdict(Enum):
    """What a page meant for the tape."""

    ADVANCED = auto()
    """It brought trades, or the promise of some: ask on."""
    AGAIN = auto()
    """Its times are coarser than the margin it was asked with: ask again, from earlier."""
    QUIET = auto()
    """A short page with nothing new: perhaps the head of the market."""
    STALE = auto()
    """It ends before what is held, or leaves it out: an answer to another question."""
    STAMP_FULL = auto()
    """More trades bear one stamp than the exchange can be made to show."""
    PAST = auto()
    """It reached beyond the limit: everything up to it is here."""


class Step(NamedTuple):
    """What joining a page gave: trades that are now final, in order, and what it meant."""

    rows: pa.RecordBatch
    verdict: Verdict


class Gap(NamedTuple):
    """Two neighbouring trades whose ids leave room for others between them."""

    after_id: int
    before_id: int
    after_ns: int
    before_ns: int


class Edge(NamedTuple):
    """The last trade with an id so far: where the next id must go on.

    `loose` counts the rows without an id that follow it.
    """

    trade_id: int
    loose: int
    time_ns: int


class Tape:
    """The tape of one range, page by page."""

    def __init__(self, after: int, *, first_since: int | None = None) -> None:
        """Begin behind the published time `after`.

        `first_since` asks the first page from a stamp of one's own choice.
        """
        self._after = after
        self._first_since = first_since
        self._last_ns: int | None = None
        self._tail = no_rows()
        self._margin = FIRST_MARGIN_NS
        self._finest = FIRST_MARGIN_NS
        self._cursor: int | None = None
        self._inside_stamp = False
        self._doubts = 0

    @property
    def last_ns(self) -> int | None:
        """The published time of the last row seen; None before the first."""
        return self._last_ns

    @property
    def cursor(self) -> int | None:
        """The exchange's cursor of the last row seen, where it gave one that can be right."""
        return self._cursor

    @property
    def _is_first(self) -> bool:
        return self._last_ns is None and self._first_since is None

    def next_since(self) -> int:
        """The stamp that the next page is asked from.

        The step back from the cursor stands here and nowhere else: an exclusive `since` would
        skip what a page's edge cuts off, an inclusive one repeats some rows, which are dropped.
        """
        if self._last_ns is None:
            if self._first_since is not None:
                return self._first_since
            return max(0, self._after - self._margin)
        if self._cursor is None:
            return max(0, self._last_ns - self._margin)
        if self._inside_stamp:
            return self._cursor - 1
        return max(0, min(self._cursor - 1, self._last_ns - self._margin))

    def join(self, rows: pa.RecordBatch, cursor: int | None, unit_ns: int, limit: int) -> Step:
        """Take the next page.

        Args:
            rows: as the exchange sent them, in any order.
            cursor: its `last` in nanoseconds, None where it is missing or odd.
            unit_ns: one unit of the last decimal that its times print.
            limit: rows published after it are not wanted.
        """
        if rows.num_rows == 0:
            return Step(no_rows(), Verdict.QUIET)
        if unit_ns > self._margin and self._after > 0 and self._is_first:
            self._margin = unit_ns
            return Step(no_rows(), Verdict.AGAIN)
        full = rows.num_rows >= FULL_PAGE
        rows = in_order(rows)
        stamps = times(rows)
        newest = int(stamps[-1])
        self._finest = max(LEAST_MARGIN_NS, min(self._finest, unit_ns))
        if self._last_ns is None:
            if full and self._first_since is not None and newest <= self._after:
                return Step(no_rows(), Verdict.STAMP_FULL)
            return self._advance(rows, stamps, cursor, unit_ns, limit)
        if newest <= self._last_ns:
            return self._nothing_later(rows, stamps, cursor, full=full)
        start = int(stamps.searchsorted(self._last_ns))
        if int(stamps[start]) != self._last_ns and self._doubts < DOUBTS:
            # It was asked from before the last row held, and does not show it.
            self._doubts += 1
            return Step(no_rows(), Verdict.STALE)
        return self._advance(rows.slice(start), stamps[start:], cursor, unit_ns, limit)

    def squeeze(self) -> None:
        """Ask on from between the trades of the last stamp: the exchange has more behind them.

        Without ids the trades of that stamp could not be told apart, so nothing changes then.
        """
        whole = self._tail.num_rows and not self._tail.column("trade_id").null_count
        self._inside_stamp = bool(whole and self._cursor is not None)

    def finish(self) -> pa.RecordBatch:
        """The trades of the last stamp, once it is known that nothing follows them."""
        tail, self._tail = self._wanted(self._tail), no_rows()
        return tail

    def _advance(
        self, rows: pa.RecordBatch, stamps: Int64s, cursor: int | None, unit_ns: int, limit: int
    ) -> Step:
        newest = int(stamps[-1])
        same = int(stamps.searchsorted(self._last_ns or 0, side="right"))
        group = unite(self._tail, rows.slice(0, same))
        last = int(stamps.searchsorted(newest))
        end = int(stamps.searchsorted(limit, side="right"))
        self._note_cursor(cursor, newest)
        self._last_ns = newest
        self._inside_stamp = False
        self._doubts = 0
        self._margin = max(LEAST_MARGIN_NS, unit_ns)
        if end < len(stamps):
            self._tail = no_rows()
            final = joined_rows(group, rows.slice(same, max(0, end - same)))
            return Step(self._wanted(final), Verdict.PAST)
        self._tail = rows.slice(last)
        final = joined_rows(group, rows.slice(same, last - same))
        return Step(self._wanted(final), Verdict.ADVANCED)

    def _nothing_later(
        self, rows: pa.RecordBatch, stamps: Int64s, cursor: int | None, *, full: bool
    ) -> Step:
        too_old = full and int(stamps[0]) < self.next_since() - self._margin
        if too_old or int(stamps[-1]) < (self._last_ns or 0):
            # Even a page at the head repeats the last row held, or is empty.
            return Step(no_rows(), Verdict.STALE)
        before = self._tail.num_rows
        self._tail = unite(self._tail, rows.slice(int(stamps.searchsorted(self._last_ns or 0))))
        if not full:
            return Step(no_rows(), Verdict.QUIET)
        if self._margin > self._finest:
            # A page of few rows can look coarser than the exchange prints.
            self._margin = self._finest
            return Step(no_rows(), Verdict.ADVANCED)
        grew = self._tail.num_rows > before
        if not self._tail.column("trade_id").null_count and (grew or not self._inside_stamp):
            # The cursor knows true stamps, finer than the published one: go on between them.
            moved = self._note_cursor(cursor, int(stamps[-1]))
            if self._cursor is not None and (moved or not self._inside_stamp):
                self._inside_stamp = True
                return Step(no_rows(), Verdict.ADVANCED)
        return Step(no_rows(), Verdict.STAMP_FULL)

    def _note_cursor(self, cursor: int | None, newest: int) -> bool:
        """Believe a cursor that is there, advances, and stands near the page's last row."""
        advances = cursor is not None and (self._cursor is None or cursor > self._cursor)
        if advances and cursor is not None and abs(cursor - newest) <= SECOND:
            self._cursor = cursor
            return True
        if newest != self._last_ns:
            self._cursor = None
        return False

    def _wanted(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        if rows.num_rows and int(times(rows)[0]) <= self._after:
            return rows.slice(int(times(rows).searchsorted(self._after, side="right")))
        return rows


def joined_rows(first: pa.RecordBatch, second: pa.RecordBatch) -> pa.RecordBatch:
    """Two batches as one, without a copy where one of them is empty."""
    return joined([batch for batch in (first, second) if batch.num_rows])


def in_order(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Rows in the tape's order: by time, then trade id, then place; repeats of an id dropped.

    A row without an id keeps its place behind the row that it followed.
    """
    stamps = times(rows)
    if not (stamps[1:] >= stamps[:-1]).all():
        rows = rows.take(pa.array(np.argsort(stamps, kind="stable")))
        stamps = times(rows)
    keys = _carried(trade_ids(rows), stamps)
    later, equal = stamps[1:] > stamps[:-1], stamps[1:] == stamps[:-1]
    if not (later | (equal & (keys[1:] >= keys[:-1]))).all():
        rows = rows.take(pa.array(np.lexsort((keys, stamps))))
        stamps = times(rows)
        equal = stamps[1:] == stamps[:-1]
    ids = trade_ids(rows)
    repeats = equal & (ids[1:] == ids[:-1]) & (ids[1:] != 0)
    if repeats.any():
        keep = np.concatenate(([True], ~repeats))
        rows = rows.filter(pa.array(keep))
    return rows


def unite(held: pa.RecordBatch, new: pa.RecordBatch) -> pa.RecordBatch:
    """Two views of the trades of one stamp as one: the fuller, and what only the other has by id.

    Both are beginnings of the same group, so of rows without ids the longer run is right.
    """
    if held.num_rows == 0 or new.num_rows == 0:
        return new if held.num_rows == 0 else held
    base, other = (new, held) if new.num_rows >= held.num_rows else (held, new)
    have, ids = trade_ids(base), trade_ids(other)
    more = (ids != 0) & ~np.isin(ids, have)
    if not more.any():
        return base
    return in_order(joined([base, other.filter(pa.array(more))]))


def find_gaps(edge: Edge | None, rows: pa.RecordBatch) -> tuple[list[Gap], Edge | None]:
    """Where ids do not go on by one, rows without an id between them counted in.

    Returns the gaps in order, and the edge that the next rows must go on from.
    """
    ids = trade_ids(rows)
    places = ids.nonzero()[0]
    if len(places) == 0:
        return [], edge and edge._replace(loose=edge.loose + len(ids))
    numbers, stamps = ids[places], times(rows)[places]
    if edge is not None:
        numbers = np.concatenate(([edge.trade_id], numbers))
        stamps = np.concatenate(([edge.time_ns], stamps))
        places = np.concatenate(([-1 - edge.loose], places))
    wide = (np.diff(numbers) > np.diff(places)).nonzero()[0]
    gaps = [
        Gap(int(numbers[i]), int(numbers[i + 1]), int(stamps[i]), int(stamps[i + 1])) for i in wide
    ]
    behind = Edge(int(numbers[-1]), len(ids) - 1 - int(places[-1]), int(stamps[-1]))
    return gaps, behind


def mend(
    rows: pa.RecordBatch, gaps: list[Gap], found: pa.RecordBatch, within: Range
) -> pa.RecordBatch:
    """Put into the gaps what another answer shows there.

    A gap's sides that are not among `rows` lie in the neighbouring ranges.

    Args:
        rows: the tape so far, in order.
        gaps: where it was asked for again, in order.
        found: that answer's rows, in order.
        within: only rows published in this range are taken.
    """
    shown, ours = trade_ids(found), trade_ids(rows)
    parts: list[pa.RecordBatch] = []
    done = 0
    for gap in gaps:
        first, last = _place(shown, gap.after_id), _place(shown, gap.before_id)
        if first is None or last is None:
            continue
        start, stop = _place(ours, gap.after_id), _place(ours, gap.before_id)
        start = 0 if start is None else start + 1
        stop = rows.num_rows if stop is None else stop
        between = clip(found.slice(first + 1, max(0, last - first - 1)), within)
        if between.num_rows > stop - start:
            parts += [rows.slice(done, start - done), between]
            done = stop
    parts.append(rows.slice(done))
    return joined([part for part in parts if part.num_rows])


def spans(found: pa.RecordBatch, gap: Gap) -> bool:
    """Whether an answer shows both sides of a gap, so that what it leaves out is not there."""
    ids = trade_ids(found)
    return bool((ids == gap.after_id).any() and (ids == gap.before_id).any())


def _place(ids: Int64s, number: int) -> int | None:
    places = (ids == number).nonzero()[0]
    return int(places[0]) if len(places) else None


def _carried(ids: Int64s, stamps: Int64s) -> Int64s:
    """Each row's id, or where it has none that of the nearest row before it of the same stamp."""
    if ids.all():
        return ids
    anchored = ids != 0
    anchored[0] = True
    anchored[1:] |= stamps[1:] != stamps[:-1]
    carried: Int64s = ids[np.maximum.accumulate(np.where(anchored, np.arange(len(ids)), 0))]
    return carried
