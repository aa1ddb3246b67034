"""Check that trade ids are consecutive, request the gaps again, and record those that remain."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import pyarrow as pa

from harvester.download.events import Listener, Noted
from harvester.download.exchange import PairPages
from harvester.download.page_merge import LEAST_MARGIN_NS
from harvester.schema import joined, no_rows, times
from harvester.times import END_OF_TIME, SECOND, Range, show
from harvester.trade_ids import (
    IdGap,
    LastId,
    fill_gaps,
    find_gaps,
    gap_at_end,
    imported_gap_text,
    lost_range,
    rows_in_gap,
)

# --- id continuity --------------------------------------------------------------------------------

JUMPS_BELIEVED = 12
"""After so many pages in a row with id gaps that requests did not fill, gaps are only recorded."""

MAX_KEPT_BACK = 20_000
"""Rows kept back at most until the next trade with an id shows that nothing is missing."""


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
        across_imports: id gaps that imported rows leave, which have no ids.
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
        self._kept_back = no_rows()
        self._passed_ns = within.after
        self._unfruitful = 0
        self._margin_ns = LEAST_MARGIN_NS
        # The id before the range behind which there is imported data, and whether there is such
        # data behind the range: it has no ids.
        self._id_before_import: int | None = None
        self._id_not_stored: int | None = None
        self._is_import_behind = False
        self._is_stored_behind = True
        self._known_gap: IdGap | None = None

    def begin_at(
        self, last_id: LastId | None, *, is_imported: bool = False, known_gap: IdGap | None = None
    ) -> None:
        """Continue from the last trade with an id before the range.

        Args:
            last_id: that trade; None if it is not known.
            is_imported: whether some of the rows without an id behind it were imported.
            known_gap: the id gap behind it that is known to be confirmed.
        """
        self._last_id = last_id
        self._id_before_import = last_id.trade_id if last_id and is_imported else None
        self._known_gap = known_gap

    def pass_over(self, rows: pa.RecordBatch) -> None:
        """Continue from rows before the range that a page shows and the archive does not have."""
        self._last_id = find_gaps(None, rows)[1] or self._last_id
        self._id_not_stored = self._last_id.trade_id if self._last_id else None

    async def check(self, rows: pa.RecordBatch, unit_ns: int) -> tuple[pa.RecordBatch, int]:
        """Check the next trades; returns those that are certain, and the time they are complete to.

        Args:
            rows: final trades, in order.
            unit_ns: one unit of the last decimal that the page's times print.
        """
        self._margin_ns = max(LEAST_MARGIN_NS, unit_ns)
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
        first_id: tuple[int, int] | None,
        *,
        is_imported: bool = False,
        is_stored: bool = True,
    ) -> pa.RecordBatch:
        """End the range: return the rows kept back, compared with the first id behind the range.

        Args:
            first_id: that id, and the rows without an id before it; None if it is not known.
            is_imported: whether some rows before that id were imported.
            is_stored: whether the archive has that trade, or is about to. If not, the download of
                the next range finds the gap again and records it there.
        """
        self._is_import_behind, self._is_stored_behind = is_imported, is_stored
        rows, _ = await self._fill_gaps(self._kept_back, first_id)
        self._kept_back, self._last_id = no_rows(), None
        return rows

    def _find(
        self, rows: pa.RecordBatch, first_id: tuple[int, int] | None
    ) -> tuple[list[IdGap], LastId | None]:
        """The id gaps of rows, and before `first_id` behind them; and the last id of the rows."""
        gaps, last_id = find_gaps(None if self._kept_back.num_rows else self._last_id, rows)
        if first_id is not None:
            gaps += gap_at_end(last_id, first_id, rows)
        return gaps, last_id

    async def _fill_gaps(
        self, rows: pa.RecordBatch, first_id: tuple[int, int] | None
    ) -> tuple[pa.RecordBatch, LastId | None]:
        """Request the id gaps of rows again: from the margin before, then from a second earlier.

        Returns the rows with what was found, and the last id that the next rows must continue.
        """
        gaps, last_id = self._find(rows, first_id)
        known = self._known_gap and self._known_gap.sides
        self.confirmed += [gap for gap in gaps if gap.sides == known]
        gaps = [gap for gap in gaps if gap.sides != known]
        if not gaps:
            self._unfruitful = 0 if rows.num_rows else self._unfruitful
            return rows, last_id
        if self._unfruitful >= JUMPS_BELIEVED:
            self._record_unconfirmed(self._gaps_of_range(gaps))
            return rows, last_id
        absent: Counter[tuple[int, int]] = Counter()
        outside: dict[tuple[int, int], Range] = {}
        count_before = rows.num_rows
        # Behind the last row with an id rows may still be added, where that one is kept back.
        free_after = self._range.after if self._kept_back.num_rows else self._passed_ns
        for back_ns in (self._margin_ns, SECOND, self._margin_ns):
            since_ns = max(0, gaps[0].after_ns - back_ns)
            found = await self._source.request_again(gaps, since_ns)
            rows = fill_gaps(rows, gaps, found, Range(free_after, self._range.through))
            gaps, last_id = self._find(rows, first_id)
            gaps = [gap for gap in gaps if gap.sides != known]
            for gap in gaps:
                shown = rows_in_gap(found, gap)
                lost = lost_range(found, gap, self._range)
                if shown is not None and shown.num_rows > gap.rows:
                    # Rows of this range that were passed on already can't be added any more.
                    outside[gap.sides] = lost or Range(gap.after_ns - 1, self._passed_ns)
                elif shown is not None:
                    absent[gap.sides] += 1
            # A busy second may be too long to be shown complete; the margin is then tried twice.
            if all(absent[gap.sides] >= 2 or gap.sides in outside for gap in gaps):
                break
        has_found = rows.num_rows > count_before or bool(outside)
        self._unfruitful = 0 if has_found else self._unfruitful + 1
        gaps = self._gaps_of_range(gaps)
        self._record([gap for gap in gaps if gap.sides not in outside], absent)
        self.lost += [
            MissingTrades(gap, outside[gap.sides]) for gap in gaps if gap.sides in outside
        ]
        return rows, last_id

    def _gaps_of_range(self, gaps: list[IdGap]) -> list[IdGap]:
        """The gaps to be recorded with this range: at its ends only if the other side is stored.

        Otherwise the download of the range next to it finds the gap again, and records it.
        """
        return [
            gap
            for gap in gaps
            if (self._is_stored_behind or gap.before_ns != END_OF_TIME)
            and gap.after_id != self._id_not_stored
        ]

    def _record_unconfirmed(self, gaps: list[IdGap]) -> list[IdGap]:
        """Record gaps that are not confirmed; those across imported rows in a list of their own.

        Of the others the segment stores the number, which `verify` tolerates for good, wherever
        the gaps are; imported data may be replaced. Returns the others.
        """
        others = []
        for gap in gaps:
            is_at_end = gap.before_ns == END_OF_TIME and self._is_import_behind
            if is_at_end or gap.after_id == self._id_before_import:
                self.across_imports.append(gap)
                self._listener(
                    Noted(self._pair, imported_gap_text(self._pair, *gap.sides, gap.rows))
                )
            else:
                others.append(gap)
        self.unconfirmed += others
        return others

    def _record(self, gaps: list[IdGap], absent: Counter[tuple[int, int]]) -> None:
        """Record gaps: those that two answers agree on are confirmed, the others are not."""
        self.confirmed += [gap for gap in gaps if absent[gap.sides] >= 2]
        others = self._record_unconfirmed([gap for gap in gaps if absent[gap.sides] < 2])
        if others:
            first = others[0]
            text = (
                f"trade ids go from {first.after_id} to {first.before_id} behind "
                f"{show(first.after_ns)}, and the exchange did not show the place again"
            )
            self._listener(Noted(self._pair, text))
        if gaps and self._unfruitful == JUMPS_BELIEVED:
            text = (
                "it has many id gaps, and requesting them again finds nothing; from here on they "
                "are recorded without requesting them again"
            )
            self._listener(Noted(self._pair, text))
