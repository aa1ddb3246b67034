"""Check that trade ids are consecutive, prove the first page of a range, and request gaps again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pyarrow as pa

from harvester.download.events import Listener, Noted
from harvester.download.page_merge import FULL_PAGE, LEAST_MARGIN_NS, Page, PageSource
from harvester.schema import joined_rows, no_rows, sort_rows, times
from harvester.times import DAY, END_OF_TIME, SECOND, Range, show
from harvester.trade_ids import (
    BEFORE_FIRST_ID,
    IdGap,
    LastId,
    fill_gaps,
    find_gaps,
    gap_at_end,
    imported_gap_text,
    lost_range,
    rows_in_gap,
)

# --- seams ----------------------------------------------------------------------------------------

JUMPS_BELIEVED = 12
"""After so many pages in a row with jumps where asking found nothing, they are noted, not asked."""

MOST_CARRIED = 20_000
"""Rows kept back until the next trade with an id shows them to be whole."""

Finder = Callable[[pa.RecordBatch], tuple[list[IdGap], LastId | None]]
Interruptible = Callable[[Awaitable[pa.RecordBatch]], Awaitable[pa.RecordBatch]]


class MissingTrades(NamedTuple):
    """Trades that the exchange shows in a range that is covered and does not contain them.

    Attributes:
        gap: the ids on both sides of them.
        range: where they are.
    """

    gap: IdGap
    range: Range


class IdContinuityChecker:
    """The tape of one range on its way from joining to the buffer, id by id.

    The last trade with an id, and what follows it, is kept back: only the next one shows whether
    something is missing between them.
    """

    def __init__(self, source: PageSource, pair: str, span: Range, listener: Listener) -> None:
        """`span` is the range being crawled; nothing outside of it is ever taken."""
        self._source = source
        self._pair = pair
        self.span = span
        """May be made shorter while it is crawled, at what has not been reached yet."""
        self._listener = listener
        self._edge: LastId | None = None
        self._carry = no_rows()
        self._passed_ns = span.after
        self._unfruitful = 0
        self._margin_ns = LEAST_MARGIN_NS
        self._right: tuple[int, int] | None = None
        # The id before the range behind which a file told of trades, and whether one does behind
        # the range: files have no ids.
        self._id_before_file: int | None = None
        self._id_not_stored: int | None = None
        self._is_file_behind = False
        self._is_held_behind = True
        self._confirmed: IdGap | None = None
        self.lost: list[MissingTrades] = []
        """Trades that the exchange shows outside of the range, where they are not held; whoever
        takes them empties the list."""
        self.jumps: list[IdGap] = []
        """Gaps that two answers agree on, in order; whoever takes them empties the list."""
        self.across_files: list[IdGap] = []
        """Gaps that a file's rows leave, which has no ids; whoever takes them empties the list."""
        self.unasked: list[IdGap] = []
        """More of them, that were not asked for, or not answered; whoever takes them empties it."""

    def begin_at(
        self, left: LastId | None, *, is_file: bool = False, confirmed: IdGap | None = None
    ) -> None:
        """Go on from the last trade with an id before the range.

        Args:
            left: that trade; None where it is not known.
            is_file: some of the rows without an id behind it came out of a file.
            confirmed: the id gap behind it that is known to be confirmed.
        """
        self._edge = left
        self._id_before_file = left.trade_id if left and is_file else None
        self._confirmed = confirmed

    def pass_over(self, rows: pa.RecordBatch) -> None:
        """Go on from rows before the range that a page shows and the archive does not hold."""
        self._edge = find_gaps(None, rows)[1] or self._edge
        self._id_not_stored = self._edge.trade_id if self._edge else None

    async def take(
        self, rows: pa.RecordBatch, unit_ns: int, ask: Interruptible
    ) -> tuple[pa.RecordBatch, int]:
        """Check trades that are final; returns those that are sure, and up to when all are."""
        self._margin_ns = max(LEAST_MARGIN_NS, unit_ns)
        rows = joined_rows(self._carry, rows)
        start = None if self._carry.num_rows else self._edge
        rows, edge = await self._settle(rows, lambda now: find_gaps(start, now), ask)
        keep = edge.rows_without_id + 1 if edge is not None else 0
        keep = keep if keep <= min(rows.num_rows, MOST_CARRIED) else 0
        self._edge, self._carry = edge, rows.slice(rows.num_rows - keep)
        sure = rows.slice(0, rows.num_rows - keep)
        if sure.num_rows:
            self._passed_ns = int(times(sure)[-1])
        whole = int(times(self._carry)[0]) - 1 if keep else self._passed_ns
        return sure, whole

    async def close(
        self,
        right: tuple[int, int] | None,
        ask: Interruptible,
        *,
        is_file: bool = False,
        is_held: bool = True,
    ) -> pa.RecordBatch:
        """What was kept back, held against the first id behind the range.

        Args:
            right: that id, and the rows without one before it.
            ask: makes a call that may be interrupted.
            is_file: some rows before that one came out of a file.
            is_held: whether the archive holds it, or is about to; if not, whoever fetches it finds
                the gap again, and it is on record there.
        """
        self._right, self._is_file_behind, self._is_held_behind = right, is_file, is_held
        start = None if self._carry.num_rows else self._edge

        def find(now: pa.RecordBatch) -> tuple[list[IdGap], LastId | None]:
            gaps, edge = find_gaps(start, now)
            return gaps + gap_at_end(edge, right, now), edge

        rows, _ = await self._settle(self._carry, find, ask)
        self._carry, self._edge = no_rows(), None
        return rows

    async def _settle(
        self, rows: pa.RecordBatch, find: Finder, ask: Interruptible
    ) -> tuple[pa.RecordBatch, LastId | None]:
        """Ask for the places again: from the margin before, then from a second earlier.

        Returns the rows, mended, and the edge that the next must go on from.
        """
        gaps, edge = find(rows)
        if gaps and self._confirmed is not None and gaps[0].sides == self._confirmed.sides:
            self.jumps.append(gaps[0])
        gaps = self._open(gaps)
        if not gaps:
            self._unfruitful = 0 if rows.num_rows else self._unfruitful
            return rows, edge
        if self._unfruitful >= JUMPS_BELIEVED:
            self._leave_open(self._ours(gaps))
            return rows, edge
        absent: Counter[tuple[int, int]] = Counter()
        outside: dict[tuple[int, int], Range] = {}
        before = rows.num_rows
        for back in (self._margin_ns, SECOND, self._margin_ns):
            since = max(0, gaps[0].after_ns - back)
            found = await ask(self._source.again(gaps, since))
            rows = fill_gaps(rows, gaps, found, Range(self._free_after, self.span.through))
            gaps, edge = find(rows)
            gaps = self._open(gaps)
            for gap in gaps:
                shown = rows_in_gap(found, gap)
                lost = lost_range(found, gap, self.span)
                if shown is not None and shown.num_rows > gap.rows:
                    # Rows of this very range that were handed on already can't be put in any more.
                    outside[gap.sides] = lost or Range(gap.after_ns - 1, self._passed_ns)
                elif shown is not None:
                    absent[gap.sides] += 1
            # A busy second may be too long to be shown whole; the margin is then asked twice.
            if all(absent[gap.sides] >= 2 or gap.sides in outside for gap in gaps):
                break
        self._unfruitful = 0 if rows.num_rows > before or outside else self._unfruitful + 1
        gaps = self._ours(gaps)
        self._book([gap for gap in gaps if gap.sides not in outside], absent)
        self.lost += [
            MissingTrades(gap, outside[gap.sides]) for gap in gaps if gap.sides in outside
        ]
        return rows, edge

    def _open(self, gaps: list[IdGap]) -> list[IdGap]:
        """Those that are not known to be confirmed."""
        known = self._confirmed and self._confirmed.sides
        return [gap for gap in gaps if gap.sides != known]

    def _ours(self, gaps: list[IdGap]) -> list[IdGap]:
        """Those to be on record with this range: at its ends only where the other side is held.

        Else whoever downloads the range beside it finds the gap again, and puts it on record.
        """
        return [
            gap
            for gap in gaps
            if (self._is_held_behind or gap.before_ns != END_OF_TIME)
            and gap.after_id != self._id_not_stored
        ]

    @property
    def _free_after(self) -> int:
        """Behind what rows may still be put: the last row with an id where it is kept back."""
        return self.span.after if self._carry.num_rows else self._passed_ns

    def _leave_open(self, gaps: list[IdGap]) -> list[IdGap]:
        """Count what is not confirmed; where a file's rows lie between, put it on record by itself.

        What is counted excuses as many skips for ever, wherever, and a file may be replaced.
        """
        counted = []
        for gap in gaps:
            at_end = gap.before_ns == END_OF_TIME and self._is_file_behind
            if at_end or gap.after_id == self._id_before_file:
                self.across_files.append(gap)
                self._listener(
                    Noted(self._pair, imported_gap_text(self._pair, *gap.sides, gap.rows))
                )
            else:
                counted.append(gap)
        self.unasked += counted
        return counted

    def _book(self, gaps: list[IdGap], absent: Counter[tuple[int, int]]) -> None:
        """Jumps that two answers agree on are confirmed; the others stay to be asked for."""
        confirmed = [gap for gap in gaps if absent[gap.sides] >= 2]
        open_ = [gap for gap in gaps if absent[gap.sides] < 2]
        self.jumps += confirmed
        open_ = self._leave_open(open_)
        if open_:
            first = open_[0]
            text = (
                f"ids skip from {first.after_id} to {first.before_id} behind "
                f"{show(first.after_ns)}, and the exchange did not show the place again"
            )
            self._listener(Noted(self._pair, text))
        if gaps and self._unfruitful == JUMPS_BELIEVED:
            text = (
                "its ids jump again and again, and asking again finds nothing; from here on jumps "
                "are recorded as not asked for"
            )
            self._listener(Noted(self._pair, text))


# --- beginning ------------------------------------------------------------------------------------

# A page's own first row proves nothing: an answer may leave out its first rows, begin late, or be
# the newest page. So the start of a range is believed where the page also shows a trade at or
# before it, or an id that continues the last one before it; else where two answers begin alike.

LOOKS_FOR_A_TRADE_BEFORE = 2
"""Requests that look for a trade before the start, each nearer to it, as it may be a busy time."""

ROWS_BEFORE = 300
"""About so many trades before the start are requested, by the density of those behind it."""

LOOKS_FOR_AN_ID_GAP = 3
"""Answers that must begin with the same id above 1: the first, and two more."""

FirstRow = tuple[Any, ...]


class FirstPageCheck:
    """Proves where a range begins, by more than one answer where one alone does not show it."""

    def __init__(self, source: PageSource, after: int, edge: LastId | None) -> None:
        """`edge`: the last trade with an id before `after`; BEGINNING before the first trade."""
        self._source = source
        self._after = after
        self._edge = edge
        self.confirmed: IdGap | None = None
        """The id gap before the first trade, where all answers began with an id above 1."""

    async def prove(self, page: Page, since_ns: int) -> Page:
        """The page to begin with: `page`, or another answer that shows more.

        Args:
            page: the answer to the range's first request.
            since_ns: what it was requested from.

        Raises:
            ExchangeUnreachable: the answers contradict one another.
        """
        rows = sort_rows(page.rows) if page.rows.num_rows else page.rows
        if self._is_proved(rows):
            return page
        first = _first(rows, self._after)
        if self._after > 0 and since_ns < self._after and self._edge is None:
            earlier = await self._from_before(rows)
            if earlier is not None:
                found = sort_rows(earlier.rows)
                if int(times(found)[0]) <= self._after:
                    return earlier
                if _first(found, self._after) == first:
                    return page
        return await self._agreed(page, first, since_ns, numbered=has_id(rows))

    def _is_proved(self, rows: pa.RecordBatch) -> bool:
        if rows.num_rows == 0 or int(times(rows)[0]) <= self._after:
            # The end of history has rules of its own; a trade at or before the start shows here.
            return True
        return self._edge is not None and has_id(rows) and not find_gaps(self._edge, rows)[0]

    async def _from_before(self, rows: pa.RecordBatch) -> Page | None:
        """A page that begins before the range and reaches into it; None where none was had."""
        stamps = times(rows)
        spacing_ns = (int(stamps[-1]) - int(stamps[0])) // max(1, rows.num_rows - 1)
        back_ns = min(DAY, max(SECOND, ROWS_BEFORE * spacing_ns))
        for _ in range(LOOKS_FOR_A_TRADE_BEFORE):
            page = await self._source.page(max(0, self._after - back_ns))
            if page.rows.num_rows and int(times(page.rows).max()) > self._after:
                return page
            if page.rows.num_rows < FULL_PAGE:
                return None
            back_ns //= 20
        return None

    async def _agreed(
        self, page: Page, first: FirstRow | None, since_ns: int, *, numbered: bool
    ) -> Page:
        """Ask again until enough answers begin with the same trade, the earliest one seen."""
        looks = 1
        while looks < (LOOKS_FOR_AN_ID_GAP if self._is_first_of_all(numbered=numbered) else 2):
            again = await self._source.page(since_ns)
            rows = sort_rows(again.rows) if again.rows.num_rows else again.rows
            if rows.num_rows and self._is_proved(rows):
                return again
            found = _first(rows, self._after)
            if found is not None and found == first:
                looks += 1
                continue
            self._source.contradicted("two answers begin a range with different trades")
            if found is not None and (first is None or found < first):
                page, first, looks, numbered = again, found, 1, has_id(rows)
        self._source.agreed()
        if self._is_first_of_all(numbered=numbered):
            gaps, _ = find_gaps(BEFORE_FIRST_ID, sort_rows(page.rows))
            self.confirmed = gaps[0] if gaps else None
        return page

    def _is_first_of_all(self, *, numbered: bool) -> bool:
        return self._after == 0 and numbered


def has_id(rows: pa.RecordBatch) -> bool:
    """Whether the first row has a trade id."""
    return bool(rows.num_rows) and rows.column("trade_id")[0].is_valid


def _first(rows: pa.RecordBatch, after: int) -> FirstRow | None:
    """The first row behind a moment, all of it, to be compared with another answer's."""
    place = int(times(rows).searchsorted(after, side="right")) if rows.num_rows else 0
    if place >= rows.num_rows:
        return None
    row = rows.slice(place, 1)
    others = [name for name in row.schema.names if name != "time"]
    return (int(times(row)[0]), *(str(row.column(name)[0].as_py()) for name in others))
