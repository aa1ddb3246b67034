"""The first page of a range: proved by what it shows at or before the range's start.

A page's own first row proves nothing: an answer may leave out its first rows, begin late, or be
the newest page. So the start of a range is believed where the page also shows a trade at or
before it, or an id that continues the last one before it; else where two answers begin alike.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from harvester.download.pages import Page, Source
from harvester.download.tape import FULL_PAGE
from harvester.schema import in_order, times
from harvester.times import DAY, SECOND
from harvester.trade_ids import BEGINNING, Edge, Gap, find_gaps

LOOKS_FOR_A_TRADE_BEFORE = 2
"""Requests that look for a trade before the start, each nearer to it, as it may be a busy time."""

ROWS_BEFORE = 300
"""About so many trades before the start are requested, by the density of those behind it."""

LOOKS_FOR_AN_ID_GAP = 3
"""Answers that must begin with the same id above 1: the first, and two more."""

FirstRow = tuple[Any, ...]


class Beginning:
    """Proves where a range begins, by more than one answer where one alone does not show it."""

    def __init__(self, source: Source, after: int, edge: Edge | None) -> None:
        """`edge`: the last trade with an id before `after`; BEGINNING before the first trade."""
        self._source = source
        self._after = after
        self._edge = edge
        self.confirmed: Gap | None = None
        """The id gap before the first trade, where all answers began with an id above 1."""

    async def prove(self, page: Page, since_ns: int) -> Page:
        """The page to begin with: `page`, or another answer that shows more.

        Args:
            page: the answer to the range's first request.
            since_ns: what it was requested from.

        Raises:
            ExchangeUnreachable: the answers contradict one another.
        """
        rows = in_order(page.rows) if page.rows.num_rows else page.rows
        if self._is_proved(rows):
            return page
        first = _first(rows, self._after)
        if self._after > 0 and since_ns < self._after and self._edge is None:
            earlier = await self._from_before(rows)
            if earlier is not None:
                found = in_order(earlier.rows)
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
            rows = in_order(again.rows) if again.rows.num_rows else again.rows
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
            gaps, _ = find_gaps(BEGINNING, in_order(page.rows))
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
