"""Re-download imported ranges from the exchange, compare them day by day, and replace them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from harvester.csv_import.boundaries import QUIET_S
from harvester.csv_import.day_comparison import DaySums, ExchangeDaySums, IdProof, day_number
from harvester.csv_import.overlap import KeyedRows, RoundingCounts, joined, rows_of
from harvester.download.events import Day, Left, Noted, Replaced, Started, Upgrade
from harvester.download.pair import PairDownload
from harvester.schema import Int64s, times
from harvester.storage.filesystem import QuarantineNote, quarantine_segment_copy
from harvester.storage.replacement import checked, clear, finish, splice
from harvester.storage.replacement_staging import (
    ReplacementView,
    aside_of,
    from_files,
    quarantine_damaged,
)
from harvester.storage.segment import Segment, read_batches
from harvester.storage.trade_store import TradeStore, pieces_of
from harvester.storage.writer import Writer, writer
from harvester.times import DAY, SECOND, UNITS_NS, Range, missing, overlap, union

# --- ranges that are replaced at once -------------------------------------------------------------

# A range ends where imported and downloaded trades meet, or at a quiet moment of the file (see
# `boundaries`). Two segments of one file may meet between trades, for example at the end of a year.
# There a rounded time may be on the other side than the exchange's own time. So a range extends
# into the neighbour segment up to the next quiet moment.

FIRST_SEARCH_NS = UNITS_NS["m"]
SEARCH_GROWTH = 8
"""A quiet moment is searched in the next minute, then in a window that grows by this factor."""


class Unit(NamedTuple):
    """A range that is replaced at once.

    Attributes:
        span: the range from its first to its last imported part.
        parts: the imported parts, in order; between them are trades from the API.
        rows: number of imported rows.
    """

    span: Range
    parts: tuple[Range, ...]
    rows: int


def units(archive: TradeStore, pair: str, within: Range) -> list[Unit]:
    """The imported ranges of a pair that are to be replaced, in order.

    Args:
        archive: the archive.
        pair: altname.
        within: only segments that overlap this range; all of their imported parts are included.

    Raises:
        ArchiveDamaged: a segment can't be read.
    """
    imported = from_files(archive, pair)
    regions = union(part for _, part in imported)
    found: list[Unit] = []
    for segment in dict.fromkeys(segment for segment, _ in imported):
        if overlap(segment.range, within) is None:
            continue
        own = [part for other, part in imported if other == segment]
        span = Range(
            _quiet_before(archive, pair, own[0].after, regions),
            _quiet_after(archive, pair, own[-1].through, regions),
        )
        parts = tuple(part for region in regions if (part := overlap(region, span)))
        rows = sum(_rows(archive, other, part, parts) for other, part in imported)
        found.append(Unit(span, parts, rows))
    return found


def rows_to_fetch(unit: Unit, staged: list[Range]) -> int:
    """Estimate how many rows of a unit are still to be downloaded, assuming an even rate of trades.

    Args:
        unit: the unit.
        staged: the ranges that are in the staging archive already.
    """
    left = missing(unit.parts, staged)
    length = sum(part.through - part.after for part in unit.parts)
    return unit.rows * sum(span.through - span.after for span in left) // length


def _rows(archive: TradeStore, segment: Segment, part: Range, parts: tuple[Range, ...]) -> int:
    """The number of rows of a segment's imported part that are in any of `parts`."""
    inside = [both for span in parts if (both := overlap(span, part))]
    if not inside:
        return 0
    if inside == [segment.range]:
        return archive.footer(segment).rows
    return sum(
        batch.num_rows
        for span in inside
        for batch in read_batches(archive.store, segment.path, span, ["time"])
    )


def _quiet_after(archive: TradeStore, pair: str, moment: int, regions: list[Range]) -> int:
    """The first quiet moment from a moment on. The end of an imported region counts as quiet.

    Args:
        archive: the archive.
        pair: altname.
        moment: in nanoseconds.
        regions: the imported ranges of the pair.
    """
    region = next((span for span in regions if span.after < moment < span.through), None)
    if region is None or _is_quiet(archive, pair, moment):
        return moment
    width_ns = FIRST_SEARCH_NS
    while True:
        window = Range(moment - SECOND, min(region.through, moment + width_ns))
        seconds = _seconds(archive, pair, window)
        for at in (np.diff(seconds) > QUIET_S).nonzero()[0]:
            found = (int(seconds[at]) + QUIET_S) * SECOND - 1
            if found >= moment:
                return found
        if window.through == region.through:
            return region.through
        width_ns *= SEARCH_GROWTH


def _quiet_before(archive: TradeStore, pair: str, moment: int, regions: list[Range]) -> int:
    """The last quiet moment up to a moment; see `_quiet_after`."""
    region = next((span for span in regions if span.after < moment < span.through), None)
    if region is None or _is_quiet(archive, pair, moment):
        return moment
    width_ns = FIRST_SEARCH_NS
    while True:
        window = Range(max(region.after, moment - width_ns), moment + SECOND)
        seconds = _seconds(archive, pair, window)
        for at in (np.diff(seconds) > QUIET_S).nonzero()[0][::-1]:
            found = (int(seconds[at + 1]) - 1) * SECOND - 1
            if found <= moment:
                return found
        if window.after == region.after:
            return region.after
        width_ns *= SEARCH_GROWTH


def _is_quiet(archive: TradeStore, pair: str, moment: int) -> bool:
    return not len(_seconds(archive, pair, Range(moment - SECOND, moment + SECOND)))


def _seconds(archive: TradeStore, pair: str, window: Range) -> Int64s:
    """The UNIX seconds of a range in which there are trades."""
    stamps = [times(batch) for batch in archive.scan(pair, window)]
    seconds: Int64s = np.unique(np.concatenate([np.empty(0, np.int64), *stamps]) // SECOND)
    return seconds


# --- re-download ----------------------------------------------------------------------------------

# Trades are downloaded like all others, but into a staging archive that queries do not read, so
# that the same command continues after an interruption. Once a range is complete there, it is
# compared with the imported rows, day by day, and replaces them.

MAX_DAYS_LISTED = 20
"""Up to this many days that differ are listed one by one."""

WINDOW_ROWS = 250_000
"""Number of imported rows that are compared with the exchange's trades at once."""


async def upgrade(hand: PairDownload) -> None:
    """Re-download the imported ranges of a pair, and replace them by the exchange's own trades.

    Raises:
        ExchangeError: the exchange can't be reached, or refuses.
        ArchiveDamaged: a segment has other rows than its footer says; nothing of it was replaced.
        ArchiveUnwritable: the operating system refused to write.
        Interrupted: the run was cancelled; what was downloaded is kept.
    """
    await _Redownload(hand).run()


class DayComparison(NamedTuple):
    """The differences between a file and the exchange in a range.

    Attributes:
        days: the days on which they differ.
        fewer: those of them on which the exchange shows fewer trades, and no consecutive ids prove
            that these are all.
    """

    days: list[Day]
    fewer: list[Day]


class _Redownload:
    """The re-download of one pair, whose lock this process has."""

    def __init__(self, hand: PairDownload) -> None:
        self._hand = hand
        self._run = hand.context
        self._pair = hand.request.pair.altname
        self._archive: TradeStore = hand.context.archive
        self._view = ReplacementView(hand.context.archive)
        self._rounding: dict[Range, RoundingCounts] = {}
        self._result = Upgrade()
        self._left: dict[Range, str] = {}
        self._fewer: dict[Range, list[Day]] = {}
        self._days_listed = 0

    async def run(self) -> None:
        for text in await asyncio.to_thread(quarantine_damaged, self._view, self._pair):
            self._note(text)
        await asyncio.to_thread(finish, self._hand.writer, self._view)
        found = await asyncio.to_thread(self._units)
        if not found:
            self._note("nothing of it is imported, or all of it was re-downloaded before")
            if not self._view.aside(self._pair):
                return
        settled_ns = await self._run.options.stop.guard(self._run.clock.settled_ns())
        with writer(aside_of(self._archive), self._pair) as staging:
            await asyncio.to_thread(clear, self._hand.writer, staging)
            if found:
                self._report_start(found, staging.archive.coverage(self._pair))
            while True:
                unit = await asyncio.to_thread(self._next, staging, settled_ns)
                if unit is None:
                    break
                await self._fetch(staging, unit)
                async with self._run.maintenance:
                    await asyncio.to_thread(self._replace, unit, staging)
                self._report_result()
            await asyncio.to_thread(self._discard_fewer, staging)
        self._report_result()

    def _discard_fewer(self, staging: Writer) -> None:
        """Remove staged days that have fewer trades than a file: an answer may have lost some."""
        days = [day for span in self._left for day in self._fewer.get(span, [])]
        for segment in staging.archive.segments(self._pair):
            if any(overlap(segment.range, _around(day)) for day in days):
                staging.remove(segment)

    def _units(self) -> list[Unit]:
        return units(self._archive, self._pair, self._hand.request.range)

    def _report_start(self, found: list[Unit], staged: list[Range]) -> None:
        ranges = missing([part for unit in found for part in unit.parts], staged)
        expected = sum(rows_to_fetch(unit, staged) for unit in found)
        stored = sum(rows_to_fetch(unit, []) for unit in found) - expected
        self._run.options.listener(Started(self._pair, ranges, expected, stored))

    def _next(self, staging: Writer, settled_ns: int) -> Unit | None:
        """The range that needs the fewest calls, or the newest one if newest come first."""
        staged = staging.archive.coverage(self._pair)
        for unit in (found := self._units()):
            if unit.span.through > settled_ns:
                reason = "its last trades are too new to be final; a later run replaces it"
                self._left.setdefault(unit.span, reason)
        todo = [unit for unit in found if unit.span not in self._left]
        if self._run.options.newest_first:
            return max(todo, default=None, key=lambda unit: unit.span)
        return min(todo, default=None, key=lambda unit: (rows_to_fetch(unit, staged), unit.span))

    async def _fetch(self, staging: Writer, unit: Unit) -> None:
        await self._run.options.stop.guard(asyncio.sleep(0))
        for gap in missing(unit.parts, staging.archive.coverage(self._pair)):
            await self._hand.download_range(staging, self._view, gap)

    def _replace(self, unit: Unit, staging: Writer) -> None:
        """Replace imported rows by the staged trades of a range, unless trades may be missing."""
        gaps = missing(unit.parts, staging.archive.coverage(self._pair))
        if gaps:
            self._leave(unit, f"the exchange does not show all of {gaps[0]}")
            return
        compared = self._compare(unit)
        self._report_days(compared.days)
        self._fewer[unit.span] = compared.fewer
        if compared.fewer:
            self._leave(
                unit,
                f"the exchange shows fewer trades than the file on {_listed(compared.fewer)}, and "
                "no ids prove them to be all; another --upgrade asks for them again; to use the "
                "exchange's trades all the same, remove "
                f"{', '.join(segment.path for segment in self._segments(unit))} and backfill",
            )
            return
        self._keep_copies(unit, compared.days)
        splice(self._hand.writer, self._view, unit.parts)
        clear(self._hand.writer, staging)
        self._result = self._result._replace(replaced=(*self._result.replaced, unit.span))
        self._run.options.listener(Replaced(self._pair, unit.span, unit.rows))
        for span in list(self._left):
            # A neighbour may have been left because there were no ids next to it to check against.
            if unit.span.after <= span.through and span.after <= unit.span.through:
                del self._left[span]

    def _compare(self, unit: Unit) -> DayComparison:
        file, exchange = DaySums(), ExchangeDaySums()
        for segment in self._segments(unit):
            for batch in checked(self._view, segment, unit.parts):
                file.add(batch)
        for segment in self._staged(unit.parts):
            for batch in checked(self._view, segment, unit.parts):
                exchange.add(batch)
        counts = self._rounding[unit.span] = self._measure_rounding(unit)
        days = exchange.differing(file, counts.rounding())
        fewer = [day for day in days if day.exchange_rows < day.file_rows]
        if fewer:
            unproved = self._unproved(unit.span)
            fewer = [day for day in fewer if day_number(day) in unproved]
        return DayComparison(days, fewer)

    def _measure_rounding(self, unit: Unit) -> RoundingCounts:
        """Compare the file's whole seconds with the exchange's times."""
        counts = RoundingCounts()
        for segment in self._segments(unit):
            waiting: list[KeyedRows] = []
            for part in (span for span in unit.parts if overlap(span, segment.range)):
                for batch in read_batches(self._archive.store, segment.path, part):
                    waiting.append(rows_of(batch))
                    if sum(len(keyed_rows.stamps) for keyed_rows in waiting) >= WINDOW_ROWS:
                        rows = joined(waiting)
                        # More rows of the last second may follow.
                        end = int(rows.stamps.searchsorted(rows.stamps[-1] // SECOND * SECOND))
                        early = rows.part(0, end)
                        counts.compare(early, self._exchange_rows(early))
                        waiting = [rows.part(end, len(rows.stamps))]
            counts.compare(joined(waiting), self._exchange_rows(joined(waiting)))
        return counts

    def _exchange_rows(self, rows: KeyedRows) -> KeyedRows:
        """The staged trades that may be the same as rows of a file."""
        if not len(rows.stamps):
            return rows
        span = Range(int(rows.stamps[0]) - SECOND - 1, int(rows.stamps[-1]) + SECOND)
        return joined(
            [
                rows_of(batch)
                for piece in pieces_of(self._view.aside(self._pair), span)
                for batch in read_batches(self._archive.store, piece.segment.path, piece.within)
            ]
        )

    def _unproved(self, span: Range) -> set[int]:
        """The numbers of the days on which ids do not prove the exchange's trades complete."""
        proof = IdProof(span, self._view.last_id_before(self._pair, span.after))
        for batch in self._view.scan(self._pair, span):
            proof.add(batch)
        return proof.finish(self._view.first_id_after(self._pair, span.through))

    def _segments(self, unit: Unit) -> list[Segment]:
        pieces = self._archive.pieces(self._pair, unit.span)
        return [
            segment
            for segment, _ in pieces
            if any(overlap(segment.range, part) for part in unit.parts)
        ]

    def _staged(self, parts: Sequence[Range]) -> list[Segment]:
        staged = self._view.aside(self._pair)
        pieces = (piece for part in parts for piece in pieces_of(staged, part))
        return list(dict.fromkeys(piece.segment for piece in pieces))

    def _keep_copies(self, unit: Unit, days: list[Day]) -> None:
        """Copy segments that differ from the exchange into quarantine before they are replaced."""
        for segment in self._segments(unit):
            parts = [both for part in unit.parts if (both := overlap(part, segment.range))]
            inside = [day for day in days if any(overlap(_around(day), part) for part in parts)]
            if inside:
                faults = [f"the exchange does not agree: {day}" for day in inside]
                note = QuarantineNote(self._pair, segment.path, segment.range, faults)
                to = quarantine_segment_copy(self._archive.store, note)
                self._result = self._result._replace(kept=(*self._result.kept, to))
                self._note(f"{segment.path} does not agree with the exchange: a copy is in {to}")

    def _report_days(self, days: list[Day]) -> None:
        days = [day for day in days if day not in self._result.days]
        known = sorted([*self._result.days, *days], key=lambda day: day.day)
        self._result = self._result._replace(days=tuple(known))
        for day in days[: max(0, MAX_DAYS_LISTED - self._days_listed)]:
            self._note(str(day))
        if self._days_listed < MAX_DAYS_LISTED < self._days_listed + len(days):
            self._note("more days do not agree; --json lists them")
        self._days_listed += len(days)

    def _leave(self, unit: Unit, reason: str) -> None:
        self._left[unit.span] = reason

    def _note(self, text: str) -> None:
        self._run.options.listener(Noted(self._pair, text))

    def _report_result(self) -> None:
        total = RoundingCounts()
        for counts in self._rounding.values():
            total.add(counts)
        left = tuple(Left(span, reason) for span, reason in sorted(self._left.items()))
        self._hand.upgrade = self._result._replace(left=left, rounding=total.rounding())


def _around(day: Day) -> Range:
    """A day, with a second more on both sides because a file may round."""
    begin_ns = day_number(day) * DAY
    return Range(begin_ns - SECOND, begin_ns + DAY + SECOND)


def _listed(days: list[Day]) -> str:
    shown = ", ".join(day.day for day in days[:3])
    return shown if len(days) <= 3 else f"{shown} and {len(days) - 3} more days"
