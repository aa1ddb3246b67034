"""Joins page to page into one tape: pure, without I/O.

The rule (docs/design.md, "How pages join"): with L the published time of the last row held, the
next page is asked from a margin before L. Of the new page, rows before L are dropped and rows at L
are united with those held, so that each group of one stamp is taken whole. That is exact whether
the exchange takes `since` inclusively or exclusively, and needs no comparing of contents.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

import pyarrow as pa

from harvester.schema import Int64s, in_order, joined_rows, no_rows, times, trade_ids, unite
from harvester.times import SECOND
from harvester.trade_ids import find_gaps

LEAST_MARGIN_NS = 1_000
"""Published times are floats, off by up to 238 ns from the stamps that `since` is held against."""

FIRST_MARGIN_NS = 1_000_000
"""Before any page has shown its decimals: enough for those of three, today's have seven."""

FULL_PAGE = 1_000

DOUBTS = 2
"""So often a page that contradicts what is held, or itself, is asked for again."""

NO_ROWS = no_rows()


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
    """What joining a page gave: trades that are now final, in order, and what it meant.

    `beyond`: the first id behind the limit, and how many rows without one stand before it there.
    `before`: rows at or before the range's start that the page shows as well, in order.
    """

    rows: pa.RecordBatch
    verdict: Verdict
    beyond: tuple[int, int] | None = None
    before: pa.RecordBatch = NO_ROWS


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
    def after(self) -> int:
        """The published time behind which the range begins."""
        return self._after

    def is_too_coarse(self, unit_ns: int) -> bool:
        """Whether a first page prints coarser times than the margin it was requested with."""
        is_first = self._last_ns is None and self._first_since is None
        return unit_ns > self._margin and self._after > 0 and is_first

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
        if self.is_too_coarse(unit_ns):
            self._margin = unit_ns
            return Step(no_rows(), Verdict.AGAIN)
        full = rows.num_rows >= FULL_PAGE
        rows = in_order(rows)
        stamps = times(rows)
        newest = int(stamps[-1])
        if self._doubts < DOUBTS and self._ids_go_back(rows):
            # A row printed with a later time would end the page, and skip what lies between.
            self._doubts += 1
            return Step(no_rows(), Verdict.STALE)
        self._finest = max(LEAST_MARGIN_NS, min(self._finest, unit_ns))
        if self._last_ns is None:
            if full and self._first_since is not None and newest <= self._after:
                return Step(no_rows(), Verdict.STAMP_FULL)
            return self._advance(rows, stamps, cursor, unit_ns, limit, full=full)
        if newest <= self._last_ns:
            return self._nothing_later(rows, stamps, cursor, full=full)
        start = int(stamps.searchsorted(self._last_ns))
        shows_last = int(stamps[start]) == self._last_ns
        if self._doubts < DOUBTS and not (shows_last and self._same_beginning(rows.slice(start))):
            # It was asked from before the last rows held, and does not show them.
            self._doubts += 1
            return Step(no_rows(), Verdict.STALE)
        return self._advance(rows.slice(start), stamps[start:], cursor, unit_ns, limit, full=full)

    def squeeze(self) -> None:
        """Ask on from between the trades of the last stamp: the exchange has more behind them.

        Without ids the trades of that stamp could not be told apart, so nothing changes then.
        """
        whole = self._tail.num_rows and not self._tail.column("trade_id").null_count
        self._inside_stamp = bool(whole and self._cursor is not None)

    @staticmethod
    def _ids_go_back(rows: pa.RecordBatch) -> bool:
        ids = trade_ids(rows)
        ids = ids[ids > 0]
        return bool((ids[1:] < ids[:-1]).any())

    def _same_beginning(self, rows: pa.RecordBatch) -> bool:
        """Whether rows begin as the last group held does, which has no ids to tell."""
        if not self._tail.num_rows or not self._tail.column("trade_id").null_count:
            return True
        shown = int(times(rows).searchsorted(self._last_ns or 0, side="right"))
        count = min(self._tail.num_rows, shown)
        return all(
            self._tail.column(name).slice(0, count).equals(rows.column(name).slice(0, count))
            for name in ("price", "volume")
        )

    def finish(self) -> pa.RecordBatch:
        """The trades of the last stamp, once it is known that nothing follows them."""
        tail, self._tail = self._wanted(self._tail), no_rows()
        return tail

    def _advance(
        self,
        rows: pa.RecordBatch,
        stamps: Int64s,
        cursor: int | None,
        unit_ns: int,
        limit: int,
        *,
        full: bool,
    ) -> Step:
        same = int(stamps.searchsorted(self._last_ns or 0, side="right"))
        shown = rows.slice(0, same)
        group = unite(self._tail, shown)
        end = int(stamps.searchsorted(limit, side="right"))
        is_past = end < len(stamps)
        if is_past and end > same and not _continues(rows, end, full=full):
            # Ask on from the last row within the limit: those behind it may be out of place.
            rows, stamps, cursor, is_past = rows.slice(0, end), stamps[:end], None, False
        newest = int(stamps[-1])
        last = int(stamps.searchsorted(newest))
        self._note_cursor(cursor, newest)
        self._last_ns = newest
        self._inside_stamp = False
        self._doubts = 0
        self._margin = max(LEAST_MARGIN_NS, unit_ns)
        if is_past:
            self._tail = no_rows()
            final = _continued(group, shown, rows, max(same, end))
            beyond = _first_id(rows.slice(end))
            return Step(self._wanted(final), Verdict.PAST, beyond, self._unwanted(final))
        self._tail = rows.slice(last)
        final = _continued(group, shown, rows, last)
        return Step(self._wanted(final), Verdict.ADVANCED, before=self._unwanted(final))

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

    def _unwanted(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Rows at or before the range's start, which show what the range goes on from."""
        if rows.num_rows and int(times(rows)[0]) <= self._after:
            return rows.slice(0, int(times(rows).searchsorted(self._after, side="right")))
        return NO_ROWS


def _continues(rows: pa.RecordBatch, end: int, *, full: bool) -> bool:
    """Whether the first id behind the limit continues the last one before it.

    One row alone at the end of a full page proves nothing: its time may be printed too late.
    """
    if full and rows.num_rows - end == 1:
        return False
    _, edge = find_gaps(None, rows.slice(0, end))
    beyond = _first_id(rows.slice(end))
    if edge is None or beyond is None:
        return False
    number, loose = beyond
    return edge.trade_id < number <= edge.trade_id + edge.loose + loose + 1


def _continued(
    group: pa.RecordBatch, shown: pa.RecordBatch, rows: pa.RecordBatch, end: int
) -> pa.RecordBatch:
    """The rows up to `end`, those `shown` first replaced by the `group` they were united to."""
    if group is shown:
        return rows.slice(0, end)
    return joined_rows(group, rows.slice(shown.num_rows, end - shown.num_rows))


def _first_id(rows: pa.RecordBatch) -> tuple[int, int] | None:
    ids = trade_ids(rows)
    places = ids.nonzero()[0]
    return (int(ids[places[0]]), int(places[0])) if len(places) else None
