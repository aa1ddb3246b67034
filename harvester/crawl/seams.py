"""Checks that ids go on by one, and asks again where they do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

import pyarrow as pa

from harvester.columns import no_rows, times
from harvester.crawl.events import Listener, Noted
from harvester.crawl.gaps import Edge, Gap, find_gaps, mend, spans
from harvester.crawl.order import joined_rows
from harvester.crawl.pages import Source
from harvester.crawl.tape import LEAST_MARGIN_NS
from harvester.times import END_OF_TIME, SECOND, Range

JUMPS_BELIEVED = 8
"""After so many askings in a row that found nothing, a pair's jumps are noted, not asked for."""

MOST_CARRIED = 20_000
"""Rows kept back until the next trade with an id shows them to be whole."""

Interruptible = Callable[[Awaitable[pa.RecordBatch]], Awaitable[pa.RecordBatch]]


class Seams:
    """The tape of one range on its way from joining to the buffer, id by id.

    The last trade with an id, and what follows it, is kept back: only the next one shows whether
    something is missing between them.
    """

    def __init__(self, source: Source, pair: str, span: Range, listener: Listener) -> None:
        """`span` is the range being crawled; nothing outside of it is ever taken."""
        self._source = source
        self._pair = pair
        self._span = span
        self._listener = listener
        self._edge: Edge | None = None
        self._carry = no_rows()
        self._passed_ns = span.after
        self._unfruitful = 0
        self._margin_ns = LEAST_MARGIN_NS
        self.jumps: list[Gap] = []
        """Gaps that two answers agree on, in order; whoever takes them empties the list."""
        self.unasked = 0
        """How many more there are that were not asked for, or not answered."""

    def begin_at(self, left: tuple[int, int] | None) -> None:
        """Go on from the id at the end of the neighbouring range, and its rows without an id."""
        self._edge = left and Edge(left[0], left[1], self._span.after)

    @property
    def waiting(self) -> int:
        """Rows kept back."""
        return int(self._carry.num_rows)

    async def take(
        self, rows: pa.RecordBatch, unit_ns: int, ask: Interruptible
    ) -> tuple[pa.RecordBatch, int]:
        """Check trades that are final; returns those that are sure, and up to when all are."""
        self._margin_ns = max(LEAST_MARGIN_NS, unit_ns)
        rows = joined_rows(self._carry, rows)
        start = None if self._carry.num_rows else self._edge
        gaps, edge = find_gaps(start, rows)
        if gaps:
            rows = await self._settle(rows, gaps, ask)
            gaps, edge = find_gaps(start, rows)
        keep = edge.loose + 1 if edge is not None else 0
        keep = keep if keep <= min(rows.num_rows, MOST_CARRIED) else 0
        self._edge, self._carry = edge, rows.slice(rows.num_rows - keep)
        sure = rows.slice(0, rows.num_rows - keep)
        if sure.num_rows:
            self._passed_ns = int(times(sure)[-1])
        whole = int(times(self._carry)[0]) - 1 if keep else self._passed_ns
        return sure, whole

    async def close(self, right: tuple[int, int] | None, ask: Interruptible) -> pa.RecordBatch:
        """What was kept back, held against the id at the beginning of the range to the right."""
        rows = self._carry
        if right is not None and self._edge is not None:
            room = right[0] - self._edge.trade_id - 1
            if room > self._edge.loose + right[1]:
                gap = Gap(self._edge.trade_id, right[0], self._edge.time_ns, END_OF_TIME)
                rows = await self._settle(rows, [gap], ask)
        self._carry = no_rows()
        return rows

    async def _settle(
        self, rows: pa.RecordBatch, gaps: list[Gap], ask: Interruptible
    ) -> pa.RecordBatch:
        """Ask for the places again: from the margin before, then from a second earlier."""
        if self._unfruitful >= JUMPS_BELIEVED:
            self.unasked += len(gaps)
            return rows
        shown: Counter[Gap] = Counter()
        before = rows.num_rows
        for back in (self._margin_ns, SECOND, self._margin_ns):
            since = max(0, gaps[0].after_ns - back)
            found = await ask(self._source.again(gaps, since))
            rows = mend(rows, gaps, found, Range(self._passed_ns, self._span.through))
            shown.update(gap for gap in gaps if spans(found, gap))
            gaps = self._remaining(rows, gaps)
            # A busy second may be too long to be shown whole; the margin is then asked twice.
            if not [gap for gap in gaps if shown[gap] < 2]:
                break
        self._unfruitful = 0 if rows.num_rows > before else self._unfruitful + 1
        confirmed = [gap for gap in gaps if shown[gap] >= 2]
        self.jumps += confirmed
        self.unasked += len(gaps) - len(confirmed)
        self._tell(gaps)
        return rows

    def _remaining(self, rows: pa.RecordBatch, asked: list[Gap]) -> list[Gap]:
        if asked[-1].before_ns == END_OF_TIME:
            return asked if rows.num_rows == self._carry.num_rows else []
        return find_gaps(None if self._carry.num_rows else self._edge, rows)[0]

    def _tell(self, gaps: list[Gap]) -> None:
        if gaps and self._unfruitful == JUMPS_BELIEVED:
            text = (
                "its ids jump again and again, and asking again finds nothing; from here on jumps "
                "are recorded as not asked for"
            )
            self._listener(Noted(self._pair, text))
