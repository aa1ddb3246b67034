"""Prove that a range lacks no trade: how its first page begins, and that ids are consecutive.

Imported trades are compared with the ids around them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from harvester.download.exchange import PairPages
from harvester.download.page_merge import MIN_MARGIN_NS, fill_gaps, gap_in_answer
from harvester.errors import ImportIncomplete
from harvester.events import Listener, Noted
from harvester.kraken.answers import PageNotCovered
from harvester.kraken.trades import PAGE_ROWS, TradesPage
from harvester.schema import NO_ROWS, Int64s, joined, sort_rows, times, trade_ids
from harvester.storage.id_gaps import (
    BEFORE_FIRST_ID,
    FirstId,
    IdGap,
    LastId,
    find_gaps,
    gap_at_end,
    imported_gap_text,
    wrong_counts,
    wrong_orders,
)
from harvester.storage.trade_store import TradeStore
from harvester.times import DAY, END_OF_TIME, SECOND, Range, show

# --- beginning of a range -------------------------------------------------------------------------

# A page's own first row proves nothing: an answer may leave out its first rows, begin late, or be
# the newest page. So the start of a range is accepted where the page also shows a trade at or
# before it, or an id that continues the last one before it; else where two answers begin alike.

REQUESTS_BEFORE_START = 2
"""At most this many requests look for a trade before the start, each beginning nearer to it."""

ROWS_BEFORE = 300
"""About so many trades before the start are requested, by the density of those after it."""

AGREEING_ANSWERS = 2
"""Answers that must begin a range with the same trade."""

AGREEING_ANSWERS_OF_ID_GAP = 3
"""Answers that must begin a pair's history with the same id above 1."""

NEWEST_NS = 60 * SECOND
"""Trades this near to the exchange's newest one may have been published since the page before."""

MAX_NEWEST_PAGES = 2
"""A first page that looks like the newest one is accepted once it was shown this often again."""

FirstRow = tuple[Any, ...]


async def prove_first_page(
    source: PairPages, page: TradesPage, since_ns: int, after: int, last_id: LastId | None
) -> tuple[TradesPage, IdGap | None]:
    """Prove where a range begins, by more answers where a single one does not show it.

    Args:
        source: requests more answers.
        page: the answer to the range's first request.
        since_ns: the time it was requested from.
        after: where the range begins, in nanoseconds.
        last_id: the last trade with an id before that; BEFORE_FIRST_ID before the first trade.

    Returns:
        `page`, or another answer that shows more; and the id gap before the pair's first trade, if
        all answers began with an id above 1.

    Raises:
        ExchangeUnreachable: the answers contradict one another.
    """
    rows = sort_rows(page.rows)
    if _shows_start(rows, after, last_id):
        return page, None
    first = _first_row(rows, after)
    if after > 0 and since_ns < after and last_id is None:
        earlier = await _page_from_before(source, rows, after)
        if earlier is not None:
            found = sort_rows(earlier.rows)
            if int(times(found)[0]) <= after:
                return earlier, None
            if _first_row(found, after) == first:
                return await _agreed_page(source, page, since_ns, after, last_id, agreeing=2)
    return await _agreed_page(source, page, since_ns, after, last_id)


async def _agreed_page(
    source: PairPages,
    page: TradesPage,
    since_ns: int,
    after: int,
    last_id: LastId | None,
    agreeing: int = 1,
) -> tuple[TradesPage, IdGap | None]:
    """Request the start of a range again until enough answers begin with the same trade.

    An exchange that ignores `since` for a while shows its newest page each time, so such a page is
    not accepted at once. Returns an answer that begins with the earliest trade seen. For the
    arguments see `prove_first_page`; `agreeing` answers began like `page` already.
    """
    rows, newest_pages = sort_rows(page.rows), 0
    first, is_numbered = _first_row(rows, after), has_id(rows)
    while True:
        needed = AGREEING_ANSWERS_OF_ID_GAP if after == 0 and is_numbered else AGREEING_ANSWERS
        if agreeing >= needed:
            if newest_pages == MAX_NEWEST_PAGES or not await _is_newest_page(source, page):
                break
            source.record_conflict("the first page of a range is the newest page")
            newest_pages, agreeing = newest_pages + 1, 0
        answer = await source.page(since_ns)
        rows = sort_rows(answer.rows)
        if rows.num_rows and _shows_start(rows, after, last_id):
            return answer, None
        row = _first_row(rows, after)
        if row is not None and row == first:
            agreeing += 1
            continue
        source.record_conflict("two answers begin a range with different trades")
        if row is not None and (first is None or row < first):
            page, first, agreeing, is_numbered = answer, row, 1, has_id(rows)
    source.conflicts = 0
    if after == 0 and is_numbered:
        gaps, _ = find_gaps(BEFORE_FIRST_ID, sort_rows(page.rows))
        return page, gaps[0] if gaps else None
    return page, None


async def _is_newest_page(source: PairPages, page: TradesPage) -> bool:
    """Whether a full page is the exchange's newest one, as far as its times show."""
    if page.rows.num_rows < PAGE_ROWS:
        return False
    last_ns = int(times(page.rows).max())
    if source.newest_ns is not None and last_ns < source.newest_ns - NEWEST_NS:
        return False
    try:
        stamps = times((await source.page(None)).rows)
    except PageNotCovered:
        # An API server does not cover the newest time: this page is another one.
        return False
    later = stamps[stamps > last_ns]
    return not len(later) or int(later.min()) > int(later.max()) - NEWEST_NS


def _shows_start(rows: pa.RecordBatch, after: int, last_id: LastId | None) -> bool:
    """Whether rows show by themselves that no trade is missing at the start of a range."""
    if rows.num_rows == 0 or int(times(rows)[0]) <= after:
        # The end of history has rules of its own; a trade at or before the start shows here.
        return True
    return last_id is not None and has_id(rows) and not find_gaps(last_id, rows)[0]


async def _page_from_before(
    source: PairPages, rows: pa.RecordBatch, after: int
) -> TradesPage | None:
    """A page that begins before the range and reaches into it; None if there was none.

    Args:
        source: requests it.
        rows: the first rows of the range, which show how dense trades are.
        after: where the range begins, in nanoseconds.
    """
    stamps = times(rows)
    spacing_ns = (int(stamps[-1]) - int(stamps[0])) // max(1, rows.num_rows - 1)
    back_ns = min(DAY, max(SECOND, ROWS_BEFORE * spacing_ns))
    for _ in range(REQUESTS_BEFORE_START):
        page = await source.page(max(0, after - back_ns))
        if page.rows.num_rows and int(times(page.rows).max()) > after:
            return page
        if page.rows.num_rows < PAGE_ROWS:
            return None
        back_ns //= 20
    return None


async def last_id_of_imports(
    source: PairPages, rows: pa.RecordBatch, imported: LastId
) -> tuple[LastId | None, IdGap | None]:
    """Find the id that the first downloaded trade must follow after imports without ids.

    All earlier trades were imported. Each of them should use one id, counted from 1. If the first
    downloaded id is higher than that, the market may have begun above 1: its first page is
    requested to find out.

    Args:
        source: requests the market's first page.
        rows: the first rows after the imported trades.
        imported: id 0, with the number of imported trades.

    Returns:
        What the next id must follow, None if the exchange shows no earlier page; and the id gap
        before the market's first trade, if three answers confirm it.
    """
    if not find_gaps(imported, rows)[0]:
        return imported, None
    try:
        _, gap = await prove_first_page(source, await source.page(0), 0, 0, BEFORE_FIRST_ID)
    except PageNotCovered:
        return None, None
    return (imported._replace(trade_id=gap.before_id - 1) if gap else imported), gap


def has_id(rows: pa.RecordBatch) -> bool:
    """Whether the first row has a trade id."""
    return bool(rows.num_rows) and rows.column("trade_id")[0].is_valid


def _first_row(rows: pa.RecordBatch, after: int) -> FirstRow | None:
    """The first row after a time: its time, its id (0 without one) and the other columns.

    Of two answers' first rows, the smaller one is the earlier trade.
    """
    place = int(times(rows).searchsorted(after, side="right")) if rows.num_rows else 0
    if place >= rows.num_rows:
        return None
    row = rows.slice(place, 1)
    others = [name for name in row.schema.names if name not in {"time", "trade_id"}]
    texts = [str(row.column(name)[0].as_py()) for name in others]
    return (int(times(row)[0]), int(trade_ids(row)[0]), *texts)


# --- id continuity --------------------------------------------------------------------------------

CONFIRMING_ANSWERS = 2
"""Answers that must leave out the trades of an id gap, before it counts as confirmed."""

MAX_FRUITLESS_PAGES = 12
"""After this many pages in a row whose id gaps could not be filled, gaps are only recorded."""

MAX_KEPT_BACK = 20_000
"""Rows kept back at most until the next trade with an id shows that nothing is missing."""


def _times_between(found: pa.RecordBatch, gap: IdGap) -> Int64s:
    """The times of an answer's trades between both sides of an id gap, by id and time."""
    ids, times_ns = trade_ids(found), times(found)
    is_between = (gap.after_id < ids) & (ids < gap.before_id)
    return times_ns[is_between & (gap.after_ns < times_ns) & (times_ns < gap.before_ns)]


class TradesSkipped(Exception):
    """The answers went on after trades of the range which the exchange shows by now."""


class MissingTrades(NamedTuple):
    """Trades that the exchange shows in a range that is covered and does not contain them.

    Attributes:
        gap: the ids on both sides of them.
        range: where they are.
    """

    gap: IdGap
    range: Range


class IdContinuityChecker:
    """Checks the trades of one range, id by id, before they go to the write buffer.

    The last trade with an id, and what follows it, is kept back: only the next one shows whether
    something is missing between them.

    Attributes:
        lost: trades that the exchange shows outside of the range, where they are not stored.
        confirmed: id gaps that two answers agree on, in order.
        across_imports: id gaps with imported rows between their ids, which have none.
        unconfirmed: other id gaps, that were not requested again, or not answered.

    Whoever handles the entries of these lists empties them.
    """

    def __init__(self, source: PairPages, pair: str, within: Range, listener: Listener) -> None:
        """Create a checker.

        Args:
            source: requests pages again.
            pair: altname, for messages.
            within: the range that is downloaded; no rows outside of it are added.
            listener: receives notes about id gaps.
        """
        self._range = within
        self.lost: list[MissingTrades] = []
        self.confirmed: list[IdGap] = []
        self.across_imports: list[IdGap] = []
        self.unconfirmed: list[IdGap] = []
        self._source = source
        self._pair = pair
        self._listener = listener
        self._last_id: LastId | None = None
        self._kept_back = NO_ROWS
        self._passed_ns = within.after
        self._fruitless_pages = 0
        self._margin_ns = MIN_MARGIN_NS
        # The id before the range after which there is imported data, and whether there is such
        # data after the range: it has no ids.
        self._id_before_import: int | None = None
        self._id_not_stored: int | None = None
        self._is_import_after = False
        self._is_stored_after = True
        self._known_gap: IdGap | None = None

    def begin_at(
        self, last_id: LastId | None, *, is_imported: bool = False, known_gap: IdGap | None = None
    ) -> None:
        """Continue from the last trade with an id before the range.

        Args:
            last_id: that trade; None if it is not known.
            is_imported: whether some of the rows without an id after it were imported.
            known_gap: the id gap after it that is known to be confirmed.
        """
        self._last_id = last_id
        self._id_before_import = last_id.trade_id if last_id and is_imported else None
        self._known_gap = known_gap

    def continue_after_uncovered(self, rows: pa.RecordBatch) -> None:
        """Continue from rows before the range that a page shows and the archive does not have."""
        self._last_id = find_gaps(None, rows)[1] or self._last_id
        self._id_not_stored = self._last_id.trade_id if self._last_id else None

    async def check(self, rows: pa.RecordBatch, unit_ns: int) -> tuple[pa.RecordBatch, int]:
        """Check the next trades; returns those that are certain, and the time they are complete to.

        Args:
            rows: final trades, in order.
            unit_ns: one unit of the last decimal that the page's times print.
        """
        self._margin_ns = max(MIN_MARGIN_NS, unit_ns)
        rows, last_id = await self._fill_gaps(joined([self._kept_back, rows]), None)
        keep = last_id.rows_without_id + 1 if last_id is not None else 0
        keep = keep if keep <= min(rows.num_rows, MAX_KEPT_BACK) else 0
        self._last_id, self._kept_back = last_id, rows.slice(rows.num_rows - keep)
        certain = rows.slice(0, rows.num_rows - keep)
        if certain.num_rows:
            self._passed_ns = int(times(certain)[-1])
        complete_ns = int(times(self._kept_back)[0]) - 1 if keep else self._passed_ns
        return certain, complete_ns

    async def close(
        self,
        first_id: FirstId | None,
        *,
        shown: FirstId | None = None,
        is_imported: bool = False,
        is_stored: bool = True,
    ) -> pa.RecordBatch:
        """End the range: return the rows kept back, compared with the first id after it.

        Args:
            first_id: the first trade with an id after it; None if it is not known.
            shown: the same by the last answer, where it shows one.
            is_imported: whether some rows before that id were imported.
            is_stored: whether the archive has that trade, or is about to. If not, the download of
                the next range finds the gap again and records it there.

        Raises:
            TradesSkipped: the last answer skips stored trades, so it may skip others as well; or
                the exchange shows trades by now that answers skipped.
        """
        last = self._last_id.trade_id if self._last_id else 0
        if first_id and shown and last < first_id.trade_id < shown.trade_id:
            raise TradesSkipped
        self._is_import_after, self._is_stored_after = is_imported, is_stored
        rows, _ = await self._fill_gaps(self._kept_back, first_id)
        self._kept_back, self._last_id = NO_ROWS, None
        return rows

    def _find(
        self, rows: pa.RecordBatch, first_id: FirstId | None
    ) -> tuple[list[IdGap], LastId | None]:
        """The id gaps of rows, and before `first_id` after them; and the last id of the rows."""
        gaps, last_id = find_gaps(None if self._kept_back.num_rows else self._last_id, rows)
        at_end = None if first_id is None else gap_at_end(last_id, first_id)
        return [*gaps, at_end] if at_end is not None else gaps, last_id

    async def _fill_gaps(
        self, rows: pa.RecordBatch, first_id: FirstId | None
    ) -> tuple[pa.RecordBatch, LastId | None]:
        """Request the id gaps of rows again: from the margin before, then from a second earlier.

        Returns the rows with what was found, and the last id that the next rows must continue.
        """
        gaps, last_id = self._find(rows, first_id)
        known = self._known_gap and self._known_gap.sides
        self.confirmed += [gap for gap in gaps if gap.sides == known]
        gaps = [gap for gap in gaps if gap.sides != known]
        if not gaps:
            self._fruitless_pages = 0 if rows.num_rows else self._fruitless_pages
            return rows, last_id
        if self._fruitless_pages >= MAX_FRUITLESS_PAGES:
            self._record_unconfirmed(self._gaps_of_range(gaps))
            return rows, last_id
        absent: Counter[tuple[int, int]] = Counter()
        outside: dict[tuple[int, int], Range] = {}
        shown_in_part: dict[tuple[int, int], Int64s] = {}
        count_before = rows.num_rows
        # After the last row with an id rows may still be added, where that one is kept back.
        free_after = self._range.after if self._kept_back.num_rows else self._passed_ns
        for back_ns in (self._margin_ns, SECOND, self._margin_ns):
            since_ns = max(0, gaps[0].after_ns - back_ns)
            found = await self._source.request_again(gaps, since_ns)
            rows = fill_gaps(rows, gaps, found, Range(free_after, self._range.through))
            gaps, last_id = self._find(rows, first_id)
            gaps = [gap for gap in gaps if gap.sides != known]
            for gap in gaps:
                shown = gap_in_answer(found, gap, self._range)
                if shown is None:
                    between = _times_between(found, gap)
                    if len(between) > gap.rows:
                        shown_in_part[gap.sides] = between
                elif shown.rows > gap.rows:
                    # Rows of this range that were passed on already can't be added any more.
                    outside[gap.sides] = shown.lost or Range(gap.after_ns - 1, self._passed_ns)
                else:
                    absent[gap.sides] += 1
            # A busy second may be too long to be shown complete; the margin is then tried twice.
            if all(absent[gap.sides] >= CONFIRMING_ANSWERS or gap.sides in outside for gap in gaps):
                break
        undecided = [gap for gap in gaps if absent[gap.sides] < CONFIRMING_ANSWERS]
        outside = self._lost_in_part(undecided, shown_in_part) | outside
        has_found = rows.num_rows > count_before or bool(outside)
        self._fruitless_pages = 0 if has_found else self._fruitless_pages + 1
        gaps = self._gaps_of_range(gaps)
        recorded = [gap for gap in gaps if gap.sides not in outside]
        self._record(recorded, absent, shown_in_part)
        self.lost += [
            MissingTrades(gap, outside[gap.sides]) for gap in gaps if gap.sides in outside
        ]
        return rows, last_id

    def _lost_in_part(
        self, gaps: Iterable[IdGap], shown: Mapping[tuple[int, int], Int64s]
    ) -> dict[tuple[int, int], Range]:
        """The covered ranges that lack trades of gaps which are too long to be shown completely.

        Args:
            gaps: that no two answers confirm.
            shown: by the sides of a gap, the times of some trades in it.

        Raises:
            TradesSkipped: the range that is downloaded lacks some of them, too.
        """
        after, through = self._range
        lost = {}
        for gap in gaps:
            if gap.sides not in shown or self._is_at_import(gap):
                continue
            shown_ns = shown[gap.sides]
            if ((after < shown_ns) & (shown_ns <= through)).any():
                raise TradesSkipped
            is_before = int(shown_ns[0]) <= after
            lost[gap.sides] = (
                Range(gap.after_ns, after) if is_before else Range(through, int(shown_ns[-1]))
            )
        return lost

    def _is_at_import(self, gap: IdGap) -> bool:
        """Whether one side of a gap is that of imported trades, which have no ids."""
        is_at_end = gap.before_ns == END_OF_TIME and self._is_import_after
        return is_at_end or gap.after_id == self._id_before_import

    def _gaps_of_range(self, gaps: list[IdGap]) -> list[IdGap]:
        """The gaps to be recorded with this range: at its ends only if the other side is stored.

        Otherwise the download of the range next to it finds the gap again, and records it.
        """
        return [
            gap
            for gap in gaps
            if (self._is_stored_after or gap.before_ns != END_OF_TIME)
            and gap.after_id != self._id_not_stored
        ]

    def _record_unconfirmed(
        self, gaps: list[IdGap], shown_in_part: Container[tuple[int, int]] = ()
    ) -> list[IdGap]:
        """Record gaps that are not confirmed; those across imported rows in a list of their own.

        Of the others the segment stores the number, which `verify` tolerates for good, wherever
        the gaps are; imported data may be replaced. Returns the others.

        Args:
            gaps: in order.
            shown_in_part: the sides of gaps that are too long to be requested completely, but in
                which the exchange shows trades: if imported data lacks them, nothing excuses it.
        """
        others = []
        for gap in gaps:
            if self._is_at_import(gap):
                if gap.sides not in shown_in_part:
                    self.across_imports.append(gap)
                self._listener(
                    Noted(self._pair, imported_gap_text(self._pair, *gap.sides, gap.rows))
                )
            else:
                others.append(gap)
        self.unconfirmed += others
        return others

    def _record(
        self,
        gaps: list[IdGap],
        absent: Counter[tuple[int, int]],
        shown_in_part: Container[tuple[int, int]],
    ) -> None:
        """Record gaps: those that two answers agree on are confirmed, the others are not."""
        self.confirmed += [gap for gap in gaps if absent[gap.sides] >= CONFIRMING_ANSWERS]
        unconfirmed = [gap for gap in gaps if absent[gap.sides] < CONFIRMING_ANSWERS]
        others = self._record_unconfirmed(unconfirmed, shown_in_part)
        if others:
            first = others[0]
            text = (
                f"trade ids jump from {first.after_id} to {first.before_id} after "
                f"{show(first.after_ns)}, and the exchange did not show both sides again"
            )
            self._listener(Noted(self._pair, text))
        if gaps and self._fruitless_pages == MAX_FRUITLESS_PAGES:
            text = (
                "it has many id gaps, and requesting them again finds nothing; from here on they "
                "are recorded without requesting them again"
            )
            self._listener(Noted(self._pair, text))


# --- imported trades ------------------------------------------------------------------------------


def check_imported_counts(archive: TradeStore, pair: str, newest_id: int = 0) -> list[str]:
    """Check that imported trades fit the ids around them, in number and in order.

    Returns notes about trades of a delisted pair that may be too few: nobody can find out.

    Args:
        archive: the archive.
        pair: altname.
        newest_id: the id of the exchange's newest trade, if it is stored; 0 if unknown.

    Raises:
        ImportIncomplete: they are fewer or more than the ids on both sides leave room for, or have
            ids that are not between those.
    """
    footers = [archive.footer(piece.segment) for piece in archive.pieces(pair)]
    for within, text in wrong_orders(footers, pair):
        raise ImportIncomplete(f"{pair}: {text}", *within)
    counts = wrong_counts(footers, newest_id)
    for count in counts:
        if count.is_proved:
            raise ImportIncomplete(f"{pair}: {count.text(pair)}", *count.within)
    return [count.text(pair) for count in counts if count.is_delisted]
