"""Prove where a range or a pair's history begins: no trade is missing before its first page."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from harvester.download.exchange import PairPages
from harvester.download.page_merge import FULL_PAGE
from harvester.kraken.answers import PageNotCovered
from harvester.kraken.trades import TradesPage
from harvester.schema import sort_rows, times
from harvester.times import DAY, SECOND
from harvester.trade_ids import (
    BEFORE_FIRST_ID,
    IdGap,
    LastId,
    find_gaps,
)

# A page's own first row proves nothing: an answer may leave out its first rows, begin late, or be
# the newest page. So the start of a range is accepted where the page also shows a trade at or
# before it, or an id that continues the last one before it; else where two answers begin alike.

REQUESTS_BEFORE_START = 2
"""Requests that look for a trade before the start, each nearer to it, as it may be a busy time."""

ROWS_BEFORE = 300
"""About so many trades before the start are requested, by the density of those behind it."""

AGREEING_ANSWERS = 2
"""Answers that must begin a range with the same trade."""

AGREEING_ANSWERS_OF_ID_GAP = 3
"""Answers that must begin a pair's history with the same id above 1."""

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
                return page, None
    return await _agreed_page(source, page, since_ns, after, last_id)


async def _agreed_page(
    source: PairPages, page: TradesPage, since_ns: int, after: int, last_id: LastId | None
) -> tuple[TradesPage, IdGap | None]:
    """Request the start of a range again until enough answers begin with the same trade.

    Returns an answer that begins with the earliest trade seen. For the arguments see
    `prove_first_page`.
    """
    rows = sort_rows(page.rows)
    first, agreeing, is_numbered = _first_row(rows, after), 1, has_id(rows)
    while agreeing < (
        AGREEING_ANSWERS_OF_ID_GAP if after == 0 and is_numbered else AGREEING_ANSWERS
    ):
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
        if page.rows.num_rows < FULL_PAGE:
            return None
        back_ns //= 20
    return None


async def last_id_of_imports(
    source: PairPages, rows: pa.RecordBatch, imported: LastId
) -> tuple[LastId | None, IdGap | None]:
    """Find out what the ids behind trades must continue that were imported from the first one on.

    Only if the first id shows that they are fewer than the ids before it: a market's own first id
    may be above 1.

    Args:
        source: requests the market's first page.
        rows: the first rows behind the imported trades.
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
    """The first row behind a time, with all columns, to be compared with another answer's."""
    place = int(times(rows).searchsorted(after, side="right")) if rows.num_rows else 0
    if place >= rows.num_rows:
        return None
    row = rows.slice(place, 1)
    others = [name for name in row.schema.names if name != "time"]
    return (int(times(row)[0]), *(str(row.column(name)[0].as_py()) for name in others))
