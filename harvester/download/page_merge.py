"""Merge pages into one trade history: overlap rule, next `since`, end of history."""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple, Protocol

import pyarrow as pa

from harvester.errors import ExchangeUnreachable
from harvester.schema import (
    Int64s,
    joined,
    joined_rows,
    merge_rows,
    no_rows,
    sort_rows,
    times,
    trade_ids,
)
from harvester.times import SECOND, show
from harvester.trade_ids import IdGap, find_gaps

# --- tape -----------------------------------------------------------------------------------------

# The rule (docs/design.md, "How pages join"): with L the published time of the last row held, the
# next page is asked from a margin before L. Of the new page, rows before L are dropped and rows
# at L are united with those held, so that each group of one stamp is taken whole. That is exact
# whether the exchange takes `since` inclusively or exclusively, and needs no comparing of
# contents.

LEAST_MARGIN_NS = 1_000
"""Published times are floats, off by up to 238 ns from the stamps that `since` is held against."""

FIRST_MARGIN_NS = 1_000_000
"""Before any page has shown its decimals: enough for those of three, today's have seven."""

FULL_PAGE = 1_000

DOUBTS = 2
"""So often a page that contradicts what is held, or itself, is asked for again."""

NO_ROWS = no_rows()


class JoinResult(Enum):
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


class MergeStep(NamedTuple):
    """What joining a page gave: trades that are now final, in order, and what it meant.

    `beyond`: the first id behind the limit, and how many rows without one stand before it there.
    `before`: rows at or before the range's start that the page shows as well, in order.
    """

    rows: pa.RecordBatch
    verdict: JoinResult
    beyond: tuple[int, int] | None = None
    before: pa.RecordBatch = NO_ROWS


class PageMerger:
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

    def join(self, rows: pa.RecordBatch, cursor: int | None, unit_ns: int, limit: int) -> MergeStep:
        """Take the next page.

        Args:
            rows: as the exchange sent them, in any order.
            cursor: its `last` in nanoseconds, None where it is missing or odd.
            unit_ns: one unit of the last decimal that its times print.
            limit: rows published after it are not wanted.
        """
        if rows.num_rows == 0:
            return MergeStep(no_rows(), JoinResult.QUIET)
        if self.is_too_coarse(unit_ns):
            self._margin = unit_ns
            return MergeStep(no_rows(), JoinResult.AGAIN)
        full = rows.num_rows >= FULL_PAGE
        rows = sort_rows(rows)
        stamps = times(rows)
        newest = int(stamps[-1])
        if self._doubts < DOUBTS and self._ids_go_back(rows):
            # A row printed with a later time would end the page, and skip what lies between.
            self._doubts += 1
            return MergeStep(no_rows(), JoinResult.STALE)
        self._finest = max(LEAST_MARGIN_NS, min(self._finest, unit_ns))
        if self._last_ns is None:
            if full and self._first_since is not None and newest <= self._after:
                return MergeStep(no_rows(), JoinResult.STAMP_FULL)
            return self._advance(rows, stamps, cursor, unit_ns, limit, full=full)
        if newest <= self._last_ns:
            return self._nothing_later(rows, stamps, cursor, full=full)
        start = int(stamps.searchsorted(self._last_ns))
        shows_last = int(stamps[start]) == self._last_ns
        if self._doubts < DOUBTS and not (shows_last and self._same_beginning(rows.slice(start))):
            # It was asked from before the last rows held, and does not show them.
            self._doubts += 1
            return MergeStep(no_rows(), JoinResult.STALE)
        return self._advance(rows.slice(start), stamps[start:], cursor, unit_ns, limit, full=full)

    def lacks(self, rows: pa.RecordBatch) -> bool:
        """Whether another page shows more trades at the last published time; they are added.

        Args:
            rows: of the page that was requested without `since`.
        """
        rows, before = sort_rows(rows), self._tail.num_rows
        if self._last_ns is None:
            return False
        self._tail = merge_rows(
            self._tail, rows.slice(int(times(rows).searchsorted(self._last_ns)))
        )
        return bool(self._tail.num_rows > before)

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
    ) -> MergeStep:
        same = int(stamps.searchsorted(self._last_ns or 0, side="right"))
        shown = rows.slice(0, same)
        group = merge_rows(self._tail, shown)
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
            return MergeStep(self._wanted(final), JoinResult.PAST, beyond, self._unwanted(final))
        self._tail = rows.slice(last)
        final = _continued(group, shown, rows, last)
        return MergeStep(self._wanted(final), JoinResult.ADVANCED, before=self._unwanted(final))

    def _nothing_later(
        self, rows: pa.RecordBatch, stamps: Int64s, cursor: int | None, *, full: bool
    ) -> MergeStep:
        too_old = full and int(stamps[0]) < self.next_since() - self._margin
        if too_old or int(stamps[-1]) < (self._last_ns or 0):
            # Even a page at the head repeats the last row held, or is empty.
            return MergeStep(no_rows(), JoinResult.STALE)
        before = self._tail.num_rows
        self._tail = merge_rows(
            self._tail, rows.slice(int(stamps.searchsorted(self._last_ns or 0)))
        )
        if not full:
            return MergeStep(no_rows(), JoinResult.QUIET)
        if self._margin > self._finest:
            # A page of few rows can look coarser than the exchange prints.
            self._margin = self._finest
            return MergeStep(no_rows(), JoinResult.ADVANCED)
        grew = self._tail.num_rows > before
        if not self._tail.column("trade_id").null_count and (grew or not self._inside_stamp):
            # The cursor knows true stamps, finer than the published one: go on between them.
            moved = self._note_cursor(cursor, int(stamps[-1]))
            if self._cursor is not None and (moved or not self._inside_stamp):
                self._inside_stamp = True
                return MergeStep(no_rows(), JoinResult.ADVANCED)
        return MergeStep(no_rows(), JoinResult.STAMP_FULL)

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
    return edge.trade_id < number <= edge.trade_id + edge.rows_without_id + loose + 1


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


# --- pages ----------------------------------------------------------------------------------------

REASK_PAGES = 8
CONTRADICTIONS = 5
"""So often answers may contradict one another before the crawl of a pair gives up."""


class Page(Protocol):
    """One answer of the Trades endpoint."""

    @property
    def rows(self) -> pa.RecordBatch:
        """A batch of `columns.ROWS`, as the exchange ordered them."""

    @property
    def last(self) -> str | None:
        """The cursor verbatim."""

    @property
    def cursor_ns(self) -> int | None:
        """The cursor as nanoseconds, where it has its nineteen digits."""

    @property
    def unit_ns(self) -> int:
        """One unit of the last decimal that the page's times print."""


class PageSource:
    """The pages of one crawl. Counts the contradictions among them."""

    def __init__(self, fetch: Fetch, pair: str, has_traded: Traded | None = None) -> None:
        """`fetch` answers a page from a stamp, or the newest for None.

        `has_traded` tells by other means whether there were trades at all; without it, a market is
        never taken for empty.
        """
        self._fetch = fetch
        self._pair = pair
        self._has_traded = has_traded
        self._contradictions = 0
        self.newest_ns: int | None = None
        """The last published time on the newest page, once it was asked for."""
        self.newest: pa.RecordBatch | None = None
        """The rows of that page."""

    async def page(self, since_ns: int | None) -> Page:
        """One page from a stamp on, or the newest for None."""
        return await self._fetch(since_ns)

    @property
    def in_doubt(self) -> bool:
        """Whether answers contradicted one another more than once in a row."""
        return self._contradictions > 1

    def agreed(self) -> None:
        """The answers agree again."""
        self._contradictions = 0

    def contradicted(self, what: str) -> None:
        """Count an answer that contradicts another.

        Raises:
            ExchangeUnreachable: there were too many in a row.
        """
        self._contradictions += 1
        if self._contradictions > CONTRADICTIONS:
            raise ExchangeUnreachable(
                f"{self._pair}: the exchange's answers contradict one another ({what}); "
                "nothing in doubt was kept, the same command goes on where it stopped"
            )

    async def at_head(self, last_ns: int | None, after: int, known_ns: int | None) -> bool:
        """Whether the newest page holds nothing that is still to come.

        One empty answer is not believed for years: the newest page must end with the last row
        seen. A market that seems empty must seem so twice, and its candles must show it as well.

        Args:
            last_ns: the published time of the last row seen of this range; None before the first.
            after: where the range begins.
            known_ns: the time of the last trade held before it; None where none is.
        """
        newest = (await self.page(None)).rows
        if newest.num_rows == 0:
            nothing_known = last_ns is None and known_ns is None
            if nothing_known and self._contradictions and not await self._was_alive():
                return True
            self.contradicted("the newest page is empty")
            return False
        latest = self.newest_ns = int(times(newest).max())
        self.newest = newest
        if latest == last_ns or (last_ns is None and (known_ns or 0) <= latest <= after):
            return True
        last = last_ns if last_ns is not None else after
        self.contradicted(
            f"by one nothing follows {show(last)}, the newest page ends {show(latest)}"
        )
        return False

    async def _was_alive(self) -> bool:
        return self._has_traded is None or await self._has_traded()

    async def again(self, gaps: list[IdGap], since_ns: int) -> pa.RecordBatch:
        """The tape from `since_ns` on, until it shows the far side of the last of some gaps."""
        tape = PageMerger(since_ns, first_since=since_ns)
        found: list[pa.RecordBatch] = []
        end = gaps[-1].before_ns
        for _ in range(REASK_PAGES):
            page = await self.page(tape.next_since())
            step = tape.join(page.rows, page.cursor_ns, page.unit_ns, end)
            found.append(step.rows)
            there = bool((trade_ids(page.rows) == gaps[-1].before_id).any())
            if there or step.verdict in (JoinResult.PAST, JoinResult.QUIET, JoinResult.STAMP_FULL):
                break
        return joined([batch for batch in [*found, tape.finish()] if batch.num_rows])


class Traded(Protocol):
    """Whether a market ever traded, by other means than its pages."""

    async def __call__(self) -> bool:
        """Ask for it.

        Raises:
            ExchangeUnreachable: the exchange shows neither that it did nor that it did not.
        """


class Fetch(Protocol):
    """How pages are had."""

    async def __call__(self, since_ns: int | None) -> Page:
        """One page from a stamp on, or the newest for None."""
