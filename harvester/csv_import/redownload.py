"""Re-download imported ranges, compare them day by day, and replace them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harvester.csv_import.boundaries import QUIET_S
from harvester.csv_import.overlap import (
    SHIFTS_NS,
    WAYS,
    KeyedRows,
    RoundingCounts,
    Way,
    joined,
    rows_of,
)
from harvester.download.events import Day, Left, Noted, Replaced, Rounding, Started, Upgrade
from harvester.download.pair import PairDownload
from harvester.schema import Int64s, no_rows, times, trade_ids
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
from harvester.trade_ids import LastId, find_gaps, gap_at_end

# --- units ----------------------------------------------------------------------------------------

# Its ends are where a file and the API meet, or quiet moments of the file (see `joining`). Two
# segments of one file may touch at a busy second, as at the turn of a year. Rounded, a trade may
# lie on the other side than by the API's time; so a range reaches on into its neighbour, up to
# the next quiet moment.

FIRST_LOOK_NS = UNITS_NS["m"]
GROWS_BY = 8


class Unit(NamedTuple):
    """What is replaced at once.

    Attributes:
        span: from its first part to its last.
        parts: what came from files, in order; what lies between them came from the API.
        rows: of the files.
    """

    span: Range
    parts: tuple[Range, ...]
    rows: int


def units(archive: TradeStore, pair: str, within: Range) -> list[Unit]:
    """What is to be replaced of a pair, in order; a segment that touches `within` counts whole.

    Raises:
        ArchiveDamaged: a segment can't be read.
    """
    told = from_files(archive, pair)
    regions = union(part for _, part in told)
    found: list[Unit] = []
    for segment in dict.fromkeys(segment for segment, _ in told):
        if overlap(segment.range, within) is None:
            continue
        own = [part for one, part in told if one == segment]
        span = Range(
            _quiet_before(archive, pair, own[0].after, regions),
            _quiet_behind(archive, pair, own[-1].through, regions),
        )
        parts = tuple(both for region in regions if (both := overlap(region, span)))
        rows = sum(_rows(archive, one, part, parts) for one, part in told)
        found.append(Unit(span, parts, rows))
    return found


def rows_to_fetch(unit: Unit, aside: list[Range]) -> int:
    """About how many rows of it do not lie aside yet, as if they were evenly spread."""
    left = missing(unit.parts, aside)
    whole = sum(part.through - part.after for part in unit.parts)
    return unit.rows * sum(one.through - one.after for one in left) // whole


def _rows(archive: TradeStore, segment: Segment, part: Range, parts: tuple[Range, ...]) -> int:
    inside = [both for one in parts if (both := overlap(one, part))]
    if not inside:
        return 0
    if inside == [segment.range]:
        return archive.footer(segment).rows
    return sum(
        batch.num_rows
        for one in inside
        for batch in read_batches(archive.store, segment.path, one, ["time"])
    )


def _quiet_behind(archive: TradeStore, pair: str, moment: int, regions: list[Range]) -> int:
    """The first quiet moment from one on; where a region of files ends, that is one."""
    region = next((one for one in regions if one.after < moment < one.through), None)
    if region is None or _is_quiet(archive, pair, moment):
        return moment
    width = FIRST_LOOK_NS
    while True:
        window = Range(moment - SECOND, min(region.through, moment + width))
        seconds = _seconds(archive, pair, window)
        for at in (np.diff(seconds) > QUIET_S).nonzero()[0]:
            found = (int(seconds[at]) + QUIET_S) * SECOND - 1
            if found >= moment:
                return found
        if window.through == region.through:
            return region.through
        width *= GROWS_BY


def _quiet_before(archive: TradeStore, pair: str, moment: int, regions: list[Range]) -> int:
    """The last quiet moment up to one, likewise."""
    region = next((one for one in regions if one.after < moment < one.through), None)
    if region is None or _is_quiet(archive, pair, moment):
        return moment
    width = FIRST_LOOK_NS
    while True:
        window = Range(max(region.after, moment - width), moment + SECOND)
        seconds = _seconds(archive, pair, window)
        for at in (np.diff(seconds) > QUIET_S).nonzero()[0][::-1]:
            found = (int(seconds[at + 1]) - 1) * SECOND - 1
            if found <= moment:
                return found
        if window.after == region.after:
            return region.after
        width *= GROWS_BY


def _is_quiet(archive: TradeStore, pair: str, moment: int) -> bool:
    return not len(_seconds(archive, pair, Range(moment - SECOND, moment + SECOND)))


def _seconds(archive: TradeStore, pair: str, window: Range) -> Int64s:
    """The seconds in which there are trades."""
    stamps = [times(batch) for batch in archive.scan(pair, window)]
    seconds: Int64s = np.unique(np.concatenate([np.empty(0, np.int64), *stamps]) // SECOND)
    return seconds


# --- days -----------------------------------------------------------------------------------------


class Sum(NamedTuple):
    """Trades of a day, and their volume."""

    rows: int = 0
    volume: Decimal = Decimal(0)


class Days:
    """Sums by day; the day is that of a time after something was added to it."""

    def __init__(self, shift_ns: int = 0) -> None:
        """Nothing was counted yet."""
        self._shift_ns = shift_ns
        self.sums: dict[int, Sum] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Count a batch, in order of time."""
        days = (times(batch) + self._shift_ns) // DAY
        for start, stop in _runs(days):
            day, before = int(days[start]), self.sums.get(int(days[start]), Sum())
            volume = pc.sum(batch.column("volume").slice(start, stop - start)).as_py()
            self.sums[day] = Sum(before.rows + stop - start, before.volume + volume)

    def differing(self, exchange: Days) -> list[Day]:
        """The days on which an exchange has other sums, in order."""
        return [
            Day(_shown(day), *self.sums.get(day, Sum()), *exchange.sums.get(day, Sum()))
            for day in sorted(self.sums.keys() | exchange.sums.keys())
            if self.sums.get(day) != exchange.sums.get(day)
        ]


class Exchange:
    """The exchange's trades of some ranges, by day, however the file rounds them."""

    def __init__(self) -> None:
        """Nothing was counted yet."""
        self._by_way = {way: Days(SHIFTS_NS[way]) for way in WAYS}

    def add(self, batch: pa.RecordBatch) -> None:
        """Count a batch, in order of time."""
        for days in self._by_way.values():
            days.add(batch)

    def differing(self, file: Days, rounding: Rounding | None) -> list[Day]:
        """The days that do not agree, by the rounding that was measured, or else that fits best."""
        found: dict[Way, list[Day]] = {
            way: file.differing(days) for way, days in self._by_way.items()
        }
        measured = [way for way in WAYS if rounding is not None and way == rounding.way]
        return min((found[way] for way in measured or WAYS), key=len)


class Proof:
    """On which days ids show that no trade is missing among those of the exchange."""

    def __init__(self, span: Range, left: tuple[int, int, int] | None) -> None:
        """Begin a range; `left` is the last id before it, as `Archive.last_id_before` gives it."""
        self._span = span
        self._edge = LastId(*left) if left is not None else None
        self._open: set[int] = set()

    def add(self, batch: pa.RecordBatch) -> None:
        """Take the next trades."""
        if self._edge is None:
            self._begin(batch)
        gaps, self._edge = find_gaps(self._edge, batch)
        for gap in gaps:
            self._doubt(gap.after_ns, gap.before_ns)

    def finish(self, right: tuple[int, int] | None) -> set[int]:
        """The days on which they do not, `right` being the first id behind the range."""
        if self._edge is None:
            self._doubt(*self._span)
        elif right is None or gap_at_end(self._edge, right, no_rows()):
            self._doubt(self._edge.time_ns, self._span.through)
        return self._open

    def _begin(self, batch: pa.RecordBatch) -> None:
        """Before the first id nothing is shown, but where it is the pair's first."""
        places = trade_ids(batch).nonzero()[0]
        is_first = len(places) and trade_ids(batch)[places[0]] == 1
        if not is_first:
            self._doubt(self._span.after, int(times(batch)[places[0] if len(places) else -1]))

    def _doubt(self, after: int, through: int) -> None:
        # By the file's clock a trade may lie a second earlier, or later.
        self._open.update(range((after - SECOND) // DAY, (through + SECOND) // DAY + 1))


def number_of(day: Day) -> int:
    """The day as one of `Proof` is named."""
    since = datetime.fromisoformat(day.day).replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return since.days


def _runs(days: Int64s) -> Iterable[tuple[int, int]]:
    ends = [0, *((np.diff(days) != 0).nonzero()[0] + 1).tolist(), len(days)]
    return [(start, stop) for start, stop in pairwise(ends) if start < stop]


def _shown(day: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)).date().isoformat()


# --- upgrading ------------------------------------------------------------------------------------

# Pages go where readers do not look (`archive.aside`), by the crawl's own rules, so that whatever
# stops it, the same command goes on. A range that is whole there is held against the file, day by
# day, and takes its place.

MOST_SAID = 20
"""Days that do not agree are told one by one up to so many."""

WINDOW_ROWS = 250_000
"""Rows of a file that are held against the exchange's at a time."""


async def upgrade(hand: PairDownload) -> None:
    """Let the exchange's own trades take the place of what files told of a pair.

    Raises:
        ExchangeError: the exchange can't be reached, or refuses.
        ArchiveDamaged: a segment's rows are not those of its footer; nothing of it was replaced.
        ArchiveUnwritable: the machine refused.
        Interrupted: somebody wished to stop; what was fetched is kept.
    """
    await _Upgrading(hand).run()


class DayComparison(NamedTuple):
    """A file and the exchange over a range.

    Attributes:
        days: those that do not agree.
        fewer: those of them on which the exchange shows fewer trades, and no ids prove it whole.
    """

    days: list[Day]
    fewer: list[Day]


class _Upgrading:
    """One pair on its way; its lock is held."""

    def __init__(self, hand: PairDownload) -> None:
        self._hand = hand
        self._run = hand.context
        self._pair = hand.request.pair.altname
        self._archive: TradeStore = hand.context.archive
        self._view = ReplacementView(hand.context.archive)
        self._tallies: dict[Range, RoundingCounts] = {}
        self._told = Upgrade()
        self._left: dict[Range, str] = {}
        self._short: dict[Range, list[Day]] = {}
        self._said = 0

    async def run(self) -> None:
        for text in await asyncio.to_thread(quarantine_damaged, self._view, self._pair):
            self._note(text)
        await asyncio.to_thread(finish, self._hand.writer, self._view)
        found = await asyncio.to_thread(self._units)
        if not found:
            self._note("nothing of it came from files, or it was upgraded before")
            if not self._view.aside(self._pair):
                return
        settled_ns = await self._run.options.stop.guard(self._run.clock.settled_ns())
        with writer(aside_of(self._archive), self._pair) as beside:
            await asyncio.to_thread(clear, self._hand.writer, beside)
            if found:
                self._begin(found, beside.archive.coverage(self._pair))
            while True:
                unit = await asyncio.to_thread(self._next, beside, settled_ns)
                if unit is None:
                    break
                await self._fetch(beside, unit)
                async with self._run.maintenance:
                    await asyncio.to_thread(self._replace, unit, beside)
                self._tell()
            await asyncio.to_thread(self._doubt, beside)
        self._tell()

    def _doubt(self, beside: Writer) -> None:
        """Drop what shows fewer trades than a file: an answer may have left some out."""
        days = [day for span in self._left for day in self._short.get(span, [])]
        for segment in beside.archive.segments(self._pair):
            if any(overlap(segment.range, _around(day)) for day in days):
                beside.remove(segment)

    def _units(self) -> list[Unit]:
        return units(self._archive, self._pair, self._hand.request.range)

    def _begin(self, found: list[Unit], aside: list[Range]) -> None:
        ranges = missing([part for unit in found for part in unit.parts], aside)
        expected = sum(rows_to_fetch(unit, aside) for unit in found)
        held = sum(rows_to_fetch(unit, []) for unit in found) - expected
        self._run.options.listener(Started(self._pair, ranges, expected, held))

    def _next(self, beside: Writer, settled_ns: int) -> Unit | None:
        """The range that takes the fewest calls, or the newest where those come first."""
        aside = beside.archive.coverage(self._pair)
        for unit in (found := self._units()):
            if unit.span.through > settled_ns:
                reason = "it reaches into what is not settled yet; a later run takes it"
                self._left.setdefault(unit.span, reason)
        todo = [unit for unit in found if unit.span not in self._left]
        if self._run.options.newest_first:
            return max(todo, default=None, key=lambda unit: unit.span)
        return min(todo, default=None, key=lambda one: (rows_to_fetch(one, aside), one.span))

    async def _fetch(self, beside: Writer, unit: Unit) -> None:
        await self._run.options.stop.guard(asyncio.sleep(0))
        for gap in missing(unit.parts, beside.archive.coverage(self._pair)):
            await self._hand.download_range(beside, self._view, gap)

    def _replace(self, unit: Unit, beside: Writer) -> None:
        """Let a range that lies aside take its place, if it may."""
        gaps = missing(unit.parts, beside.archive.coverage(self._pair))
        if gaps:
            self._leave(unit, f"the exchange can't show {gaps[0]} whole")
            return
        compared = self._compare(unit)
        self._say(compared.days)
        self._short[unit.span] = compared.fewer
        if compared.fewer:
            self._leave(
                unit,
                f"the exchange shows fewer trades than the file on {_listed(compared.fewer)}, and "
                "no ids prove them to be all; another --upgrade asks for them again; to have the "
                "exchange's all the same, remove "
                f"{', '.join(segment.path for segment in self._segments(unit))} and backfill",
            )
            return
        self._keep(unit, compared.days)
        splice(self._hand.writer, self._view, unit.parts)
        clear(self._hand.writer, beside)
        self._told = self._told._replace(replaced=(*self._told.replaced, unit.span))
        self._run.options.listener(Replaced(self._pair, unit.span, unit.rows))
        for span in list(self._left):
            # It may have had to stay as it had no ids beside it to go on from.
            if unit.span.after <= span.through and span.after <= unit.span.through:
                del self._left[span]

    def _compare(self, unit: Unit) -> DayComparison:
        file, exchange = Days(), Exchange()
        for segment in self._segments(unit):
            for batch in checked(self._view, segment, unit.parts):
                file.add(batch)
        for segment in self._aside(unit.parts):
            for batch in checked(self._view, segment, unit.parts):
                exchange.add(batch)
        tally = self._tallies[unit.span] = self._measured(unit)
        days = exchange.differing(file, tally.rounding())
        fewer = [day for day in days if day.exchange_rows < day.file_rows]
        if fewer:
            unproved = self._unproved(unit.span)
            fewer = [day for day in fewer if number_of(day) in unproved]
        return DayComparison(days, fewer)

    def _measured(self, unit: Unit) -> RoundingCounts:
        """The file's seconds, held against the exchange's times."""
        tally = RoundingCounts()
        for segment in self._segments(unit):
            waiting: list[KeyedRows] = []
            for part in (one for one in unit.parts if overlap(one, segment.range)):
                for batch in read_batches(self._archive.store, segment.path, part):
                    waiting.append(rows_of(batch))
                    if sum(len(keyed_rows.stamps) for keyed_rows in waiting) >= WINDOW_ROWS:
                        rows = joined(waiting)
                        # Of the last second more may come.
                        end = int(rows.stamps.searchsorted(rows.stamps[-1] // SECOND * SECOND))
                        tally.compare(rows.part(0, end), self._api(rows.part(0, end)))
                        waiting = [rows.part(end, len(rows.stamps))]
            tally.compare(joined(waiting), self._api(joined(waiting)))
        return tally

    def _api(self, rows: KeyedRows) -> KeyedRows:
        """The trades aside that rows of a file may be."""
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
        proof = Proof(span, self._view.last_id_before(self._pair, span.after))
        for batch in self._view.scan(self._pair, span):
            proof.add(batch)
        return proof.finish(self._view.first_id_after(self._pair, span.through))

    def _segments(self, unit: Unit) -> list[Segment]:
        pieces = self._archive.pieces(self._pair, unit.span)
        return [one for one, _ in pieces if any(overlap(one.range, part) for part in unit.parts)]

    def _aside(self, parts: Sequence[Range]) -> list[Segment]:
        aside = self._view.aside(self._pair)
        pieces = (piece for part in parts for piece in pieces_of(aside, part))
        return list(dict.fromkeys(piece.segment for piece in pieces))

    def _keep(self, unit: Unit, days: list[Day]) -> None:
        """Copy into quarantine what does not agree with the exchange, before it is replaced."""
        for segment in self._segments(unit):
            parts = [both for part in unit.parts if (both := overlap(part, segment.range))]
            inside = [day for day in days if any(overlap(_around(day), part) for part in parts)]
            if inside:
                faults = [f"the exchange does not agree: {day}" for day in inside]
                note = QuarantineNote(self._pair, segment.path, segment.range, faults)
                to = quarantine_segment_copy(self._archive.store, note)
                self._told = self._told._replace(kept=(*self._told.kept, to))
                self._note(f"{segment.path} does not agree with the exchange: a copy is in {to}")

    def _say(self, days: list[Day]) -> None:
        days = [day for day in days if day not in self._told.days]
        known = sorted([*self._told.days, *days], key=lambda day: day.day)
        self._told = self._told._replace(days=tuple(known))
        for day in days[: max(0, MOST_SAID - self._said)]:
            self._note(str(day))
        if self._said < MOST_SAID < self._said + len(days):
            self._note("more days do not agree; --json lists them")
        self._said += len(days)

    def _leave(self, unit: Unit, reason: str) -> None:
        self._left[unit.span] = reason

    def _note(self, text: str) -> None:
        self._run.options.listener(Noted(self._pair, text))

    def _tell(self) -> None:
        tally = RoundingCounts()
        for one in self._tallies.values():
            tally.add(one)
        left = tuple(Left(*one) for one in sorted(self._left.items()))
        self._hand.upgrade = self._told._replace(left=left, rounding=tally.rounding())


def _around(day: Day) -> Range:
    """A day, and a second on either side: as a file may round."""
    begins = number_of(day) * DAY
    return Range(begins - SECOND, begins + DAY + SECOND)


def _listed(days: list[Day]) -> str:
    shown = ", ".join(day.day for day in days[:3])
    return shown if len(days) <= 3 else f"{shown} and {len(days) - 3} more days"
