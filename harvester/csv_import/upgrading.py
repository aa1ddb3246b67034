"""What came from files is fetched from the exchange, and replaced range by range once it is whole.

Pages go where readers do not look (`archive.aside`), by the crawl's own rules, so that whatever
stops it, the same command goes on. A range that is whole there is held against the file, day by
day, and takes its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from harvester.csv_import.days import Days, Exchange, Proof, number_of
from harvester.csv_import.rounding import Rows, Tally, joined, rows_of
from harvester.csv_import.units import Unit, rows_to_fetch, units
from harvester.download.events import Day, Left, Noted, Replaced, Started, Upgrade
from harvester.download.request import Hand
from harvester.storage.filesystem import Note, keep_segment
from harvester.storage.replacement import checked, clear, finish, splice
from harvester.storage.replacement_staging import Upgraded, aside_of, quarantine_damaged
from harvester.storage.segment import Segment, read_batches
from harvester.storage.trade_store import Archive, pieces_of
from harvester.storage.writer import Writer, writer
from harvester.times import DAY, SECOND, Range, missing, overlap

MOST_SAID = 20
"""Days that do not agree are told one by one up to so many."""

WINDOW_ROWS = 250_000
"""Rows of a file that are held against the exchange's at a time."""


async def upgrade(hand: Hand) -> None:
    """Let the exchange's own trades take the place of what files told of a pair.

    Raises:
        ExchangeError: the exchange can't be reached, or refuses.
        ArchiveDamaged: a segment's rows are not those of its footer; nothing of it was replaced.
        ArchiveUnwritable: the machine refused.
        Interrupted: somebody wished to stop; what was fetched is kept.
    """
    await _Upgrading(hand).run()


class Compared(NamedTuple):
    """A file and the exchange over a range.

    Attributes:
        days: those that do not agree.
        fewer: those of them on which the exchange shows fewer trades, and no ids prove it whole.
    """

    days: list[Day]
    fewer: list[Day]


class _Upgrading:
    """One pair on its way; its lock is held."""

    def __init__(self, hand: Hand) -> None:
        self._hand = hand
        self._run = hand.run
        self._pair = hand.wish.pair.altname
        self._archive: Archive = hand.run.archive
        self._view = Upgraded(hand.run.archive)
        self._tallies: dict[Range, Tally] = {}
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
        settled_ns = await self._run.watch.stop.guard(self._run.clock.settled_ns())
        with writer(aside_of(self._archive), self._pair) as beside:
            await asyncio.to_thread(clear, self._hand.writer, beside)
            if found:
                self._begin(found, beside.archive.coverage(self._pair))
            while True:
                unit = await asyncio.to_thread(self._next, beside, settled_ns)
                if unit is None:
                    break
                await self._fetch(beside, unit)
                async with self._run.tending:
                    await asyncio.to_thread(self._replace, unit, beside)
                self._tell()
            await asyncio.to_thread(self._doubt, beside)
        self._tell()

    def _doubt(self, beside: Writer) -> None:
        """Drop what shows fewer trades than a file: an answer may have left some out."""
        days = [day for span in self._left for day in self._short.get(span, [])]
        for one in beside.archive.segments(self._pair):
            if any(overlap(one.range, _around(day)) for day in days):
                beside.remove(one)

    def _units(self) -> list[Unit]:
        return units(self._archive, self._pair, self._hand.wish.span)

    def _begin(self, found: list[Unit], aside: list[Range]) -> None:
        ranges = missing([part for unit in found for part in unit.parts], aside)
        expected = sum(rows_to_fetch(unit, aside) for unit in found)
        held = sum(rows_to_fetch(unit, []) for unit in found) - expected
        self._run.watch.listener(Started(self._pair, ranges, expected, held))

    def _next(self, beside: Writer, settled_ns: int) -> Unit | None:
        """The range that takes the fewest calls, or the newest where those come first."""
        aside = beside.archive.coverage(self._pair)
        for unit in (found := self._units()):
            if unit.span.through > settled_ns:
                reason = "it reaches into what is not settled yet; a later run takes it"
                self._left.setdefault(unit.span, reason)
        todo = [unit for unit in found if unit.span not in self._left]
        if self._run.watch.newest_first:
            return max(todo, default=None, key=lambda unit: unit.span)
        return min(todo, default=None, key=lambda one: (rows_to_fetch(one, aside), one.span))

    async def _fetch(self, beside: Writer, unit: Unit) -> None:
        await self._run.watch.stop.guard(asyncio.sleep(0))
        for hole in missing(unit.parts, beside.archive.coverage(self._pair)):
            await self._hand.crawl(beside, self._view, hole)

    def _replace(self, unit: Unit, beside: Writer) -> None:
        """Let a range that lies aside take its place, if it may."""
        holes = missing(unit.parts, beside.archive.coverage(self._pair))
        if holes:
            self._leave(unit, f"the exchange can't show {holes[0]} whole")
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
                f"{', '.join(one.path for one in self._segments(unit))} and backfill",
            )
            return
        self._keep(unit, compared.days)
        splice(self._hand.writer, self._view, unit.parts)
        clear(self._hand.writer, beside)
        self._told = self._told._replace(replaced=(*self._told.replaced, unit.span))
        self._run.watch.listener(Replaced(self._pair, unit.span, unit.rows))
        for span in list(self._left):
            # It may have had to stay as it had no ids beside it to go on from.
            if unit.span.after <= span.through and span.after <= unit.span.through:
                del self._left[span]

    def _compare(self, unit: Unit) -> Compared:
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
        return Compared(days, fewer)

    def _measured(self, unit: Unit) -> Tally:
        """The file's seconds, held against the exchange's times."""
        tally = Tally()
        for segment in self._segments(unit):
            waiting: list[Rows] = []
            for part in (one for one in unit.parts if overlap(one, segment.range)):
                for batch in read_batches(self._archive.store, segment.path, part):
                    waiting.append(rows_of(batch))
                    if sum(len(one.stamps) for one in waiting) >= WINDOW_ROWS:
                        rows = joined(waiting)
                        # Of the last second more may come.
                        end = int(rows.stamps.searchsorted(rows.stamps[-1] // SECOND * SECOND))
                        tally.compare(rows.part(0, end), self._api(rows.part(0, end)))
                        waiting = [rows.part(end, len(rows.stamps))]
            tally.compare(joined(waiting), self._api(joined(waiting)))
        return tally

    def _api(self, rows: Rows) -> Rows:
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
        return proof.finish(self._view.first_id_behind(self._pair, span.through))

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
            parts = [both for one in unit.parts if (both := overlap(one, segment.range))]
            inside = [day for day in days if any(overlap(_around(day), part) for part in parts)]
            if inside:
                faults = [f"the exchange does not agree: {day}" for day in inside]
                note = Note(self._pair, segment.path, segment.range, faults)
                to = keep_segment(self._archive.store, note)
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
        self._run.watch.listener(Noted(self._pair, text))

    def _tell(self) -> None:
        tally = Tally()
        for one in self._tallies.values():
            tally.add(one)
        left = tuple(Left(*one) for one in sorted(self._left.items()))
        self._hand.tell(self._told._replace(left=left, rounding=tally.rounding()))


def _around(day: Day) -> Range:
    """A day, and a second on either side: as a file may round."""
    begins = number_of(day) * DAY
    return Range(begins - SECOND, begins + DAY + SECOND)


def _listed(days: list[Day]) -> str:
    shown = ", ".join(day.day for day in days[:3])
    return shown if len(days) <= 3 else f"{shown} and {len(days) - 3} more days"
