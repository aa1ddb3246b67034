"""Download imported ranges again, compare them with the file day by day, and replace them."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from itertools import chain
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harvester.csv_import.rounding import (
    ROUNDING_MODES,
    SHIFTS_NS,
    TOLERANCE_NS,
    KeyedRows,
    concatenated,
    keyed_rows,
    match_rows,
    price_hashes,
)
from harvester.download.pair_download import PairDownload
from harvester.download.range_download import RangeDownload, check_listed_again
from harvester.errors import ArchiveDamaged, ImportIncomplete, first_few
from harvester.events import (
    DayDifference,
    Noted,
    NotReplaced,
    Replaced,
    ReplacementResult,
    Started,
)
from harvester.schema import Int64s, joined, times, trade_ids
from harvester.storage.compaction import check_rows, is_within, verified_rows
from harvester.storage.id_gaps import find_gaps, gap_at_end
from harvester.storage.locks_and_requests import QuarantineNote, quarantine_copy
from harvester.storage.segment import Segment, reading_order
from harvester.storage.trade_store import TradeStore, pieces_of
from harvester.storage.writer import (
    REDOWNLOADS,
    NewGap,
    Writer,
    open_writer,
    staged_segments,
)
from harvester.times import DAY, SECOND, Range, missing, overlap

# An imported segment begins and ends at moments without trades nearby, so however the file rounds
# its times, the segment and the exchange have the same trades in its range. The range is downloaded
# into a staging archive that readers never see, by the same code as any other range, so that the
# same command continues after an interruption. A complete range is compared with the imported rows
# and renamed into place; then the imported segment is deleted. Of two segments of one range,
# readers take the downloaded one: a crash between the two steps is harmless.

MAX_DAYS_LISTED = 20
"""Up to this many days that differ are listed one by one."""


def imported_segments(archive: TradeStore, pair: str, within: Range) -> list[Segment]:
    """The imported segments of a pair that overlap a range, in order of time.

    Args:
        archive: the archive.
        pair: altname.
        within: the range.
    """
    segments = (piece.segment for piece in archive.pieces(pair))
    return [
        segment for segment in segments if segment.is_imported and overlap(segment.range, within)
    ]


def rows_to_download(archive: TradeStore, segment: Segment) -> int:
    """Estimate how many rows of an imported segment are not staged yet, at an even rate of trades.

    Args:
        archive: the archive.
        segment: an imported segment.

    Raises:
        ArchiveDamaged: the segment can't be read.
    """
    staged = [staged.range for staged in staged_segments(archive, segment.pair)]
    missing_ns = sum(part.through - part.after for part in missing([segment.range], staged))
    length_ns = segment.range.through - segment.range.after
    return archive.footer(segment).rows * missing_ns // length_ns


class _StagingView(TradeStore):
    """The archive with the staged trades of one imported segment in place of that segment."""

    def __init__(self, archive: TradeStore, replaced: Segment) -> None:
        super().__init__(archive.path)
        self.store = archive.store
        self._replaced = replaced

    def staged(self) -> list[Segment]:
        """The staged segments inside the range of the imported one, in order."""
        return [
            segment
            for segment in staged_segments(self, self._replaced.pair)
            if is_within(segment.range, self._replaced.range)
        ]

    def segments(self, pair: str) -> list[Segment]:
        """List the segments, as `TradeStore.segments` does."""
        others = (s for s in super().segments(pair) if s.path != self._replaced.path)
        return sorted([*others, *self.staged()], key=reading_order)


async def replace_imported(download: PairDownload) -> None:
    """Download the imported ranges of a pair again, and replace them by the exchange's own trades.

    Args:
        download: the download of the pair, whose lock is held; it receives the result.

    Raises:
        ExchangeError: the exchange can't be reached, or refuses.
        ArchiveDamaged: a segment has other rows than its footer says; it was not replaced.
        ArchiveUnwritable: the operating system refused to write.
        Interrupted: the run was cancelled; what was downloaded is kept.
    """
    await _Redownload(download).run()


class _Redownload:
    """The re-download of one pair, whose lock this process has."""

    def __init__(self, download: PairDownload) -> None:
        self._download = download
        self._options = download.context.options
        self._pair = download.request.pair.altname
        self._archive = download.context.archive
        self._staging = TradeStore(self._archive.root / REDOWNLOADS / self._pair)
        self._result = ReplacementResult()

    async def run(self) -> None:
        await asyncio.to_thread(self._clean_staging)
        segments = imported_segments(self._archive, self._pair, self._download.request.range)
        try:
            if segments:
                await check_listed_again(self._download)
                self._report_start(segments)
                with open_writer(self._staging, self._pair) as staging:
                    await self._replace_all(segments, staging)
            else:
                self._note("nothing of it is imported, or all of it was downloaded again before")
        finally:
            self._download.replacement = self._result
            if not staged_segments(self._archive, self._pair):
                self._archive.store.remove_folder(f"{REDOWNLOADS}/{self._pair}")

    async def _replace_all(self, segments: list[Segment], staging: Writer) -> None:
        clock, pair = self._download.context.clock, self._download.request.pair
        settled_ns = await self._options.cancel.guard(clock.settled_ns(pair))
        for segment in reversed(segments) if self._options.newest_first else segments:
            if segment not in self._archive.segments(self._pair):
                continue  # A part of it turned out to lack trades.
            if segment.range.through > settled_ns:
                self._leave(segment, "its last trades are too new to be final")
                continue
            view = _StagingView(self._archive, segment)
            await self._fetch(staging, view, segment)
            async with self._download.context.maintenance:
                await asyncio.to_thread(self._replace, view, segment)

    def _report_start(self, segments: list[Segment]) -> None:
        expected = sum(rows_to_download(self._archive, segment) for segment in segments)
        stored = sum(self._archive.footer(segment).rows for segment in segments) - expected
        ranges = [segment.range for segment in segments]
        self._options.listener(Started(self._pair, ranges, expected, stored))

    def _clean_staging(self) -> None:
        """Remove staged segments that are damaged; their ranges are downloaded again."""
        for segment in staged_segments(self._archive, self._pair):
            try:
                check_rows(self._archive, segment)
            except ArchiveDamaged as damage:
                self._note(f"{damage}; it was removed")
                self._archive.store.remove(segment.path)

    async def _fetch(self, staging: Writer, view: _StagingView, segment: Segment) -> None:
        """Download what is not staged yet of the range of an imported segment."""
        await self._options.cancel.guard(asyncio.sleep(0))

        def remove_coverage(lost: Range) -> list[NewGap]:
            # A neighbour may lack trades that the exchange shows by now. They are downloaded later.
            outside = missing([lost], [segment.range])
            removed = [self._download.writer.remove_coverage(part) for part in outside]
            return list(chain(staging.remove_coverage(lost), *removed))

        before: list[Range] = []
        while (parts := missing([segment.range], [s.range for s in view.staged()])) != before:
            before = parts
            try:
                for part in parts:
                    await RangeDownload(self._download, staging, view, part, remove_coverage).run()
            except ImportIncomplete as lack:
                # Another imported segment lacks trades: it may be replaced in this run, too.
                self._download.incomplete.append(lack)

    def _replace(self, view: _StagingView, segment: Segment) -> None:
        """Replace an imported segment by the staged trades, unless trades may be missing."""
        staged = [piece.segment for piece in pieces_of(view.staged(), segment.range)]
        gaps = missing([segment.range], [found.range for found in staged])
        if gaps:
            self._leave(segment, f"the exchange does not show all of {gaps[0]}")
            return
        days, not_shown = self._compare(segment, staged)
        self._report_days(days)
        lost = not_shown & _unproved_days(view, segment) if not_shown else set()
        if lost:
            # An answer may have left some out: the next run asks for these days again.
            for found in staged:
                if any(overlap(found.range, _around(day)) for day in lost):
                    self._archive.store.remove(found.path)
            self._leave(
                segment,
                f"the exchange does not show all trades of the file on {_listed(lost)}, and trade "
                "ids do not prove its answer complete; the same command asks for them again; to "
                f"use the exchange's trades all the same, remove {segment.path} and backfill",
            )
            return
        if days:
            faults = [f"the exchange does not agree: {day}" for day in days]
            note = QuarantineNote(self._pair, segment.path, segment.range, faults)
            to = quarantine_copy(self._archive.store, note)
            self._result = self._result._replace(kept=(*self._result.kept, to))
            self._note(f"{segment.path} does not agree with the exchange: a copy is in {to}")
        rows = self._archive.footer(segment).rows
        self._download.writer.replace_imported(segment, staged)
        for found in staged:
            self._archive.store.remove(found.path)
        self._result = self._result._replace(replaced=(*self._result.replaced, segment.range))
        self._options.listener(Replaced(self._pair, segment.range, rows))

    def _compare(
        self, segment: Segment, staged: list[Segment]
    ) -> tuple[list[DayDifference], set[int]]:
        """Compare the rows of the file with the exchange's trades.

        Returns:
            The days on which a row or a trade has no counterpart of its price, volume and second;
            and the numbers of those on which the file has a row that is no trade of the exchange: a
            row is one of the same price within a second, as old files round volumes. Sums do not
            show that: where the file lacks a trade, and an answer left out another, they may be
            equal.
        """
        rows, row_prices = self._keyed([segment])
        trades, trade_prices = self._keyed(staged)
        is_found, is_used = match_rows(rows, trades, TOLERANCE_NS)
        rows = KeyedRows(rows.stamps[~is_found], row_prices[~is_found])
        trades = KeyedRows(trades.stamps[~is_used], trade_prices[~is_used])
        if not len(rows.stamps) and not len(trades.stamps):
            return [], set()
        is_found, _ = match_rows(rows, trades, TOLERANCE_NS)
        not_shown = set((rows.stamps[~is_found] // DAY).tolist())
        return self._days_without(segment, staged, rows.stamps, trades.stamps), not_shown

    def _days_without(
        self, segment: Segment, staged: list[Segment], row_stamps: Int64s, trade_stamps: Int64s
    ) -> list[DayDifference]:
        """The days of rows and trades without a counterpart, with their sums.

        Nobody knows how a file rounds its times, and rows of files that round differently may be in
        one segment: the sums of the days are counted by the way that fits best.

        Args:
            segment: the imported segment.
            staged: the segments with the exchange's trades.
            row_stamps: the times of these rows.
            trade_stamps: the times of these trades.
        """
        file = _sums_by_day(self._volumes([segment]))
        trades = self._volumes(staged)
        by_way = [_sums_by_day(trades, SHIFTS_NS[way]) for way in ROUNDING_MODES]
        exchange = min(by_way, key=lambda days: len(_differing(file, days)))
        alone = np.concatenate([row_stamps, trade_stamps])
        around = np.concatenate([alone - TOLERANCE_NS, alone, alone + TOLERANCE_NS])
        differing = _differing(file, exchange) & set((around // DAY).tolist())
        # Sums may be equal where prices are not, or where two volumes are exchanged.
        return [
            DayDifference(
                str(np.datetime64(day, "D")),
                *file.get(day, DaySum()),
                *exchange.get(day, DaySum()),
            )
            for day in sorted(differing | set((row_stamps // DAY).tolist()))
        ]

    def _volumes(self, segments: list[Segment]) -> pa.RecordBatch:
        """The times and volumes of all rows of segments."""
        batches = verified_rows(self._archive, segments)
        return joined([batch.select(["time", "volume"]) for batch in batches])

    def _keyed(self, segments: list[Segment]) -> tuple[KeyedRows, NDArray[np.uint64]]:
        """The rows of segments as they are compared, and a hash of each one's price."""
        keyed = [
            (keyed_rows(batch), price_hashes(batch))
            for batch in verified_rows(self._archive, segments)
        ]
        prices = [np.empty(0, np.uint64), *(hashes for _, hashes in keyed)]
        return concatenated([rows for rows, _ in keyed]), np.concatenate(prices)

    def _report_days(self, days: list[DayDifference]) -> None:
        listed = len(self._result.days)
        self._result = self._result._replace(days=(*self._result.days, *days))
        for day in days[: max(0, MAX_DAYS_LISTED - listed)]:
            self._note(str(day))
        if listed < MAX_DAYS_LISTED < len(self._result.days):
            self._note("more days do not agree; --json lists them")

    def _leave(self, segment: Segment, reason: str) -> None:
        left = NotReplaced(segment.range, reason)
        self._result = self._result._replace(left=(*self._result.left, left))

    def _note(self, text: str) -> None:
        self._options.listener(Noted(self._pair, text))


# --- comparison by day ----------------------------------------------------------------------------


class DaySum(NamedTuple):
    """The number of trades of a day, and their volume."""

    rows: int = 0
    volume: Decimal = Decimal(0)


def _sums_by_day(rows: pa.RecordBatch, shift_ns: int = 0) -> dict[int, DaySum]:
    """Sum trades by UTC day, by its number from 1970-01-01; `shift_ns` is added to each time."""
    days = pa.array((times(rows) + shift_ns) // DAY)
    table = pa.table({"day": days, "volume": rows.column("volume")})
    sums = table.group_by("day").aggregate([("volume", "count"), ("volume", "sum")])
    return {
        found["day"]: DaySum(found["volume_count"], found["volume_sum"])
        for found in sums.to_pylist()
    }


def _differing(file: dict[int, DaySum], exchange: dict[int, DaySum]) -> set[int]:
    """The numbers of the days that have different sums."""
    return {day for day, _ in file.items() ^ exchange.items()}


def _unproved_days(view: TradeStore, segment: Segment) -> set[int]:
    """The numbers of the days on which ids do not prove the exchange's trades complete."""
    unproved: set[int] = set()

    def mark(after: int, through: int) -> None:
        # By the times of the file, a trade may be a second earlier or later.
        unproved.update(range((after - SECOND) // DAY, (through + SECOND) // DAY + 1))

    pair, within = segment.pair, segment.range
    last_id = view.last_id_before(pair, within.after)
    for batch in view.scan(pair, within):
        if last_id is None:
            # The time before the first id is unproved, unless this id is 1.
            with_id = trade_ids(batch).nonzero()[0]
            if not len(with_id) or trade_ids(batch)[with_id[0]] != 1:
                mark(within.after, int(times(batch)[with_id[0] if len(with_id) else -1]))
        gaps, last_id = find_gaps(last_id, batch)
        for gap in gaps:
            mark(gap.after_ns, gap.before_ns)
    id_after = view.first_id_after(pair, within.through)
    if last_id is None:
        mark(*within)
    elif id_after is None or gap_at_end(last_id, id_after):
        mark(last_id.time_ns, within.through)
    return unproved


def _around(day: int) -> Range:
    """A day, with a second more on both sides because a file may round."""
    return Range(day * DAY - SECOND, (day + 1) * DAY + SECOND)


def _listed(days: set[int]) -> str:
    return first_few([np.datetime64(day, "D") for day in sorted(days)], 3)
