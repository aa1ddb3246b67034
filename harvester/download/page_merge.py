"""Merge pages of trades into one trade history: overlap rule, next `since`, end of the range."""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from harvester.kraken.trades import PAGE_ROWS
from harvester.schema import NO_ROWS, Int64s, clip, joined, merge_rows, sort_rows, times, trade_ids
from harvester.storage.id_gaps import (
    BEFORE_FIRST_ID,
    FirstId,
    IdGap,
    TradeIdentity,
    find_gaps,
    identities,
)
from harvester.times import END_OF_TIME, SECOND, Range

# The rule (docs/design.md, "Joining pages"): with L the published time of the last row so far, the
# next page is requested from a margin before L. Of the new page, rows before L are dropped and rows
# at L are united with those that are there, so that each group of equal time is complete. That is
# exact whether the exchange's `since` is inclusive or exclusive, and compares no contents. Where
# rows at L have no ids, the page must begin before them: see `_time_before`.

MIN_MARGIN_NS = 1_000
"""Published times are floats, up to 238 ns off the exact times that `since` is compared with."""

FIRST_MARGIN_NS = 1_000_000
"""The margin before any page has shown its decimals: enough for three; today there are seven."""

SINGLE_ROW_PROOF_NS = 60 * SECOND
"""One row after the range proves its end if it is at most this much later and its id follows.

Without this rule, every nightly download would request its last page twice.
"""

MAX_DOUBTS = 2
"""A page whose rows, ids and cursor contradict each other is requested again at most this often."""


class JoinResult(Enum):
    """What a page showed when it was joined to the rows before it."""

    ADVANCED = auto()
    """It brought trades, or the next request will: go on."""
    REQUEST_EARLIER = auto()
    """Its times are coarser than the margin it was requested with: request it from earlier."""
    NO_NEW_ROWS = auto()
    """A short page with nothing new: perhaps the end of history."""
    MISSING_OVERLAP = auto()
    """It ends before the last rows so far, or leaves them out: request it again."""
    TIMESTAMP_FULL = auto()
    """More trades have one published time than the exchange can be made to show."""
    UNPROVEN_END = auto()
    """It reaches beyond the limit, and a trade may be missing before that: request it once more."""
    REACHED_END = auto()
    """It reached beyond the limit: everything up to the limit is complete."""


class MergeStep(NamedTuple):
    """What joining a page gave.

    Attributes:
        rows: trades that are final now, in order.
        result: what the page showed.
        beyond: the first trade with an id after the limit.
        before: rows at or before the range's start that the page shows as well, in order.
    """

    rows: pa.RecordBatch
    result: JoinResult
    beyond: FirstId | None = None
    before: pa.RecordBatch = NO_ROWS


class PageMerger:
    """Merges the pages of one range, one after the other.

    Attributes:
        after: the published time after which the range begins.
        last_ns: the published time of the last row so far; None before the first row.
        cursor: the exchange's cursor at that row, where it sent one that can be right.
        finest_ns: one unit of the last decimal of its times; at least the error of a float.
        unproven: rows of a page that is requested again as its end was not proved; mostly none.
        stored: the trades just before `after`, which another form of times may print after it.
    """

    def __init__(self, after: int, *, first_since: int | None = None) -> None:
        """Begin after the published time `after`.

        Args:
            after: in nanoseconds.
            first_since: request the first page from this time, instead of the margin before
                `after`.
        """
        self.after = after
        self.last_ns: int | None = None
        self.cursor: int | None = None
        self._first_since = first_since
        self._tail = NO_ROWS
        self._before_ns: int | None = None
        self._margin_ns = FIRST_MARGIN_NS
        self.finest_ns = FIRST_MARGIN_NS
        self._is_inside_timestamp = False
        self._doubts = 0
        self.unproven = NO_ROWS
        self.stored: set[TradeIdentity] = set()

    def is_too_coarse(self, unit_ns: int) -> bool:
        """Whether a first page prints coarser times than the margin it was requested with."""
        is_first = self.last_ns is None and self._first_since is None
        return unit_ns > self._margin_ns and self.after > 0 and is_first

    def next_since(self) -> int:
        """The time that the next page is requested from.

        The step back from the cursor is here and nowhere else: an exclusive `since` would skip
        what a page's edge cuts off, an inclusive one repeats some rows, which are dropped.
        """
        if self.last_ns is None:
            if self._first_since is not None:
                return self._first_since
            return max(0, self.after - self._margin_ns)
        if self._is_inside_timestamp and self.cursor is not None:
            return self.cursor - 1
        since = (self.last_ns if self._before_ns is None else self._before_ns) - self._margin_ns
        return max(0, since if self.cursor is None else min(self.cursor - 1, since))

    def join(self, rows: pa.RecordBatch, cursor: int | None, unit_ns: int, limit: int) -> MergeStep:
        """Join the next page.

        Args:
            rows: as the exchange sent them, in any order.
            cursor: its `last` in nanoseconds, None where it is missing or odd.
            unit_ns: one unit of the last decimal that its times print.
            limit: rows published after this time are not needed, in nanoseconds.
        """
        if rows.num_rows == 0:
            return MergeStep(NO_ROWS, JoinResult.NO_NEW_ROWS)
        if self.is_too_coarse(unit_ns):
            self._margin_ns = unit_ns
            return MergeStep(NO_ROWS, JoinResult.REQUEST_EARLIER)
        is_full = rows.num_rows >= PAGE_ROWS
        sent, rows = rows, sort_rows(rows)
        stamps = times(rows)
        newest_ns = int(stamps[-1])
        lacks_ids = trade_ids(self._tail).any() and not trade_ids(rows).any()
        if self._doubts < MAX_DOUBTS and (lacks_ids or not _is_in_order(sent, rows, cursor)):
            # A row printed with a later time would end the page, and skip what lies between. Some
            # answers leave out ids.
            self._doubts += 1
            return MergeStep(NO_ROWS, JoinResult.MISSING_OVERLAP)
        self.finest_ns = max(MIN_MARGIN_NS, min(self.finest_ns, unit_ns))
        if self.last_ns is None:
            if is_full and self._first_since is not None and newest_ns <= self.after:
                return MergeStep(NO_ROWS, JoinResult.TIMESTAMP_FULL)
            return self._advance(rows, stamps, cursor, unit_ns, limit, is_full=is_full)
        if newest_ns <= self.last_ns:
            return self._join_without_later_rows(rows, stamps, cursor, is_full=is_full)
        start = int(stamps.searchsorted(self.last_ns))
        shows_last = int(stamps[start]) == self.last_ns
        is_cut = self._before_ns is not None and self._before_ns not in stamps[:start]
        if is_cut or not (shows_last and self._repeats_tail(rows.slice(start))):
            # The page was requested from before the last known rows and does not show them. Their
            # times may have been printed too late, and trades between the pages could be lost.
            return MergeStep(NO_ROWS, JoinResult.MISSING_OVERLAP)
        return self._advance(
            rows.slice(start), stamps[start:], cursor, unit_ns, limit, is_full=is_full
        )

    def add_newest_page(self, rows: pa.RecordBatch) -> bool:
        """Add the trades at the last published time that the newest page shows.

        Args:
            rows: of the page that was requested without `since`.

        Returns:
            Whether there were new ones.
        """
        if self.last_ns is None:
            return False
        rows, count_before = sort_rows(rows), self._tail.num_rows
        self._tail = merge_rows(self._tail, rows.slice(int(times(rows).searchsorted(self.last_ns))))
        return bool(self._tail.num_rows > count_before)

    def page_within_timestamp(self) -> None:
        """Request on from between the trades of the last time: the exchange has more after them.

        Nothing changes where these trades have no ids, as they could not be distinguished.
        """
        has_ids = self._tail.num_rows and not self._tail.column("trade_id").null_count
        self._is_inside_timestamp = bool(has_ids and self.cursor is not None)

    def finish(self) -> pa.RecordBatch:
        """The trades of the last time, once it is known that nothing follows them."""
        tail, self._tail = self._tail, NO_ROWS
        return self._split_at_start(tail)[1]

    def _repeats_tail(self, rows: pa.RecordBatch) -> bool:
        """Whether rows begin with the last group so far; True if that group has ids to show it."""
        if not self._tail.num_rows or not self._tail.column("trade_id").null_count:
            return True
        shown = int(times(rows).searchsorted(self.last_ns or 0, side="right"))
        count = min(self._tail.num_rows, shown)
        return all(
            self._tail.column(name).slice(0, count).equals(rows.column(name).slice(0, count))
            for name in ("price", "volume")
        )

    def _advance(
        self,
        rows: pa.RecordBatch,
        stamps: Int64s,
        cursor: int | None,
        unit_ns: int,
        limit: int,
        *,
        is_full: bool,
    ) -> MergeStep:
        same = int(stamps.searchsorted(self.last_ns or 0, side="right"))
        shown = rows.slice(0, same)
        group = merge_rows(self._tail, shown)
        end = int(stamps.searchsorted(limit, side="right"))
        is_past = end < len(stamps)
        is_unproven = is_past and end and not _continues(rows, end, limit, is_full=is_full)
        if is_unproven or self.unproven.num_rows:
            # A row of the range whose time is printed too late may be after the limit.
            start = int(stamps.searchsorted(self.after, side="right"))
            answer = rows.slice(start, end + 1 - start)
            if not answer.equals(self.unproven):
                self.unproven = answer
                return MergeStep(NO_ROWS, JoinResult.UNPROVEN_END)
            self.unproven = NO_ROWS
            if is_full and is_past and end > same and len(stamps) - end == 1:
                # Both answers may print the row after the limit too late, so do not end here:
                # go on from the last row within the limit.
                rows, stamps, cursor, is_past = rows.slice(0, end), stamps[:end], None, False
        newest_ns = int(stamps[-1])
        last = int(stamps.searchsorted(newest_ns))
        self._update_cursor(cursor, newest_ns)
        self.last_ns = newest_ns
        self._is_inside_timestamp = False
        self._doubts = 0
        self._margin_ns = max(MIN_MARGIN_NS, unit_ns)
        self._tail = NO_ROWS if is_past else rows.slice(last)
        self._before_ns = (
            _time_before(stamps, last) if self._tail.column("trade_id").null_count else None
        )
        stop = max(same, end) if is_past else last
        final = (
            rows.slice(0, stop)
            if group is shown
            else joined([group, rows.slice(same, stop - same)])
        )
        before, rows_of_range = self._split_at_start(final)
        if is_past:
            beyond = _first_id(rows.slice(end))
            return MergeStep(rows_of_range, JoinResult.REACHED_END, beyond, before)
        return MergeStep(rows_of_range, JoinResult.ADVANCED, before=before)

    def _join_without_later_rows(
        self, rows: pa.RecordBatch, stamps: Int64s, cursor: int | None, *, is_full: bool
    ) -> MergeStep:
        is_too_old = is_full and int(stamps[0]) < self.next_since() - self._margin_ns
        if is_too_old or int(stamps[-1]) < (self.last_ns or 0):
            # Even a page at the end of history repeats the last row, or is empty.
            return MergeStep(NO_ROWS, JoinResult.MISSING_OVERLAP)
        count_before = self._tail.num_rows
        self._tail = merge_rows(self._tail, rows.slice(int(stamps.searchsorted(self.last_ns or 0))))
        if not is_full:
            return MergeStep(NO_ROWS, JoinResult.NO_NEW_ROWS)
        if self._margin_ns > self.finest_ns:
            # A page of few rows can look coarser than the exchange prints.
            self._margin_ns = self.finest_ns
            return MergeStep(NO_ROWS, JoinResult.ADVANCED)
        has_grown = self._tail.num_rows > count_before
        has_ids = not self._tail.column("trade_id").null_count
        if has_ids and (has_grown or not self._is_inside_timestamp):
            # The cursor is an exact time, finer than the published one: go on between them.
            has_moved = self._update_cursor(cursor, int(stamps[-1]))
            if self.cursor is not None and (has_moved or not self._is_inside_timestamp):
                self._is_inside_timestamp = True
                return MergeStep(NO_ROWS, JoinResult.ADVANCED)
        return MergeStep(NO_ROWS, JoinResult.TIMESTAMP_FULL)

    def _update_cursor(self, cursor: int | None, newest_ns: int) -> bool:
        """Accept a cursor that is there, advances, and is close to the page's last row."""
        is_later = cursor is not None and (self.cursor is None or cursor > self.cursor)
        if is_later and cursor is not None and abs(cursor - newest_ns) <= SECOND:
            self.cursor = cursor
            return True
        if newest_ns != self.last_ns:
            self.cursor = None
        return False

    def _split_at_start(self, rows: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        """Split ordered rows into those at or before the range's start, and those of the range."""
        start, near = times(rows).searchsorted([self.after + 1, self.after + FIRST_MARGIN_NS])
        for trade in identities(rows.slice(start, near - start)) if self.stored else ():
            if trade not in self.stored:
                break
            start += 1
        return rows.slice(0, start), rows.slice(start)


def _time_before(stamps: Int64s, last: int) -> int | None:
    """The time before a page's last group, if the next page has room for both.

    Rows without ids may be alike. A page that begins with some of them may lack the first ones,
    which nothing would show: so it has to begin before them.

    Args:
        stamps: the page's times, in order.
        last: the index at which its last group begins.
    """
    if not last:
        return None
    before_ns = int(stamps[last - 1])
    shown = len(stamps) - int(stamps.searchsorted(before_ns))
    return before_ns if 2 * shown <= len(stamps) else None


def _is_in_order(sent: pa.RecordBatch, rows: pa.RecordBatch, cursor: int | None) -> bool:
    """Whether a page ends at its cursor, and its ids ascend with its times.

    Args:
        sent: the page's rows in the order of the answer; it counts where rows have no ids.
        rows: the same rows by time.
        cursor: in nanoseconds.
    """
    if cursor is not None and abs(cursor - int(times(rows)[-1])) > SECOND:
        return False
    if rows.column("trade_id").null_count:
        stamps = times(sent)
        if (stamps[1:] < stamps[:-1]).any():
            return False
    ids = trade_ids(rows)
    ids = ids[ids > 0]
    return not (ids[1:] < ids[:-1]).any()


def _continues(rows: pa.RecordBatch, end: int, limit: int, *, is_full: bool) -> bool:
    """Whether the first id after the limit continues the last one before it.

    A single row after it proves nothing: its own time may be printed too late.
    """
    is_far = int(times(rows)[end]) - limit > SINGLE_ROW_PROOF_NS
    if rows.num_rows - end == 1 and (is_full or is_far):
        return False
    _, last_id = find_gaps(None, rows.slice(0, end))
    beyond = _first_id(rows.slice(end))
    if last_id is None or beyond is None:
        return False
    between = last_id.rows_without_id + beyond.rows_without_id
    return last_id.trade_id < beyond.trade_id <= last_id.trade_id + between + 1


def _first_id(rows: pa.RecordBatch) -> FirstId | None:
    """The first of some rows that has an id."""
    ids = trade_ids(rows)
    places = ids.nonzero()[0]
    return FirstId(int(ids[places[0]]), int(places[0])) if len(places) else None


# --- filling id gaps ------------------------------------------------------------------------------


def fill_gaps(
    rows: pa.RecordBatch, gaps: list[IdGap], found: pa.RecordBatch, within: Range
) -> pa.RecordBatch:
    """Add the rows that another answer has in the gaps, from one side of each gap to the other.

    The trades on both sides are included: if that answer shows them with another price or volume,
    those are separate trades. Only rows published `within` a range are added.
    """
    ids, times_ns = trade_ids(found), times(found)
    is_in_gap = np.zeros(len(ids), dtype=np.bool_)
    for gap in gaps:
        sides = _find_sides(ids, times_ns, gap)
        if sides is not None:
            left, right = sides
            is_in_gap[max(0, left[0]) : right[-1] + 1] = True
    if not is_in_gap.any():
        return rows
    return merge_rows(rows, clip(found.filter(pa.array(is_in_gap)), within))


class GapInAnswer(NamedTuple):
    """What an answer has in an id gap: the number of rows, and the range where some were lost."""

    rows: int
    lost: Range | None


def gap_in_answer(found: pa.RecordBatch, gap: IdGap, within: Range) -> GapInAnswer | None:
    """Find what an answer has in an id gap; None if it does not have both sides of the gap.

    Every answer to `since=0` has the side before a market's first trade (id 0).

    Trades in the gap that lie outside of `within` were lost there. That range begins after the
    trade on the gap's left side and ends before the one on its right side. If a lost trade has the
    same time as one of them, it includes all trades of that time.
    """
    times_ns = times(found)
    sides = _find_sides(trade_ids(found), times_ns, gap)
    if sides is None:
        return None
    first, last = int(sides[0][-1]), int(sides[1][0])
    between = times_ns[first + 1 : last]
    early = between[between <= within.after]
    late = between[between > within.through]
    lost = None
    if len(early):
        start_ns = gap.after_ns if int(early[0]) > gap.after_ns else gap.after_ns - 1
        lost = Range(max(0, start_ns), within.after)
    elif len(late):
        right_ns = int(times_ns[last])
        lost = Range(within.through, right_ns if int(late[-1]) == right_ns else right_ns - 1)
    return GapInAnswer(len(between), lost)


def _find_sides(ids: Int64s, times_ns: Int64s, gap: IdGap) -> tuple[Int64s, Int64s] | None:
    """Indexes of the trades on both sides of a gap; None if one side is missing.

    Several trades may have the id and time of a side. The index before a market's first trade is
    -1.
    """
    left = np.array([-1])
    if gap.after_id != BEFORE_FIRST_ID.trade_id:
        left = _indexes_of(ids, times_ns, gap.after_id, gap.after_ns)
    right = _indexes_of(ids, times_ns, gap.before_id, gap.before_ns)
    right = right[right > left[0]] if len(left) else right[:0]
    if len(right) == 0:
        return None
    if gap.before_ns == END_OF_TIME:
        right = right[:1]
    return left[left < right[0]], right


def _indexes_of(ids: Int64s, times_ns: Int64s, trade_id: int, time_ns: int) -> Int64s:
    """Indexes of a trade, by id and time: ids that restart from 1 may occur twice."""
    is_same = ids == trade_id
    if time_ns != END_OF_TIME:
        is_same = is_same & (times_ns == time_ns)
    indexes: Int64s = is_same.nonzero()[0]
    return indexes
