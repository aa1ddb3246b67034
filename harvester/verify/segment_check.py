"""Verify one segment and its roll-ups, from their bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from harvester.errors import ArchiveDamaged, BadInterval, ValueDoesNotFit
from harvester.query.rollups import RollupRecomputation, parse_levels
from harvester.schema import (
    TRADES,
    Int64s,
    RowsChecksum,
    decimal_words,
    tie_indexes,
    times,
    trade_ids,
)
from harvester.storage.footer import Footer
from harvester.storage.rollup_files import PARTIALS, RollUp, read_partials
from harvester.storage.segment import READ_ROWS, Segment, footer_in, opened, segment_path
from harvester.storage.trade_store import TradeStore
from harvester.times import Range
from harvester.trade_ids import LastId, find_gaps

# --- rollups --------------------------------------------------------------------------------------


class RollUps:
    """The roll-ups of one segment, made once more from its ticks as they pass."""

    def __init__(self, archive: TradeStore, segment: Segment, rollups: Sequence[RollUp]) -> None:
        """`rollups` are those that stand beside the segment."""
        self._archive = archive
        self._segment = segment
        self._wrong: list[tuple[RollUp, str]] = []
        self._rollups = [rollup for rollup in rollups if self._is_level(rollup)]
        levels = parse_levels(rollup.interval for rollup in self._rollups)
        self._recount = (
            RollupRecomputation(levels, f"roll-ups of {segment.path}") if levels else None
        )

    def add(self, batch: pa.RecordBatch) -> None:
        """Count the next ticks."""
        try:
            if self._recount is not None:
                self._recount.add(batch)
        except ValueDoesNotFit as reason:
            self._recount = None
            self._wrong += [(rollup, str(reason)) for rollup in self._rollups]

    def wrong(self) -> list[tuple[RollUp, str]]:
        """The roll-ups that do not agree with the ticks, each with what is wrong.

        Raises:
            FileNotFoundError: one went meanwhile; list again.
        """
        made = self._recount.finish() if self._recount is not None else {}
        for one in self._rollups if made else []:
            truth = pa.Table.from_batches(made[one.interval], schema=PARTIALS)
            try:
                same = read_partials(self._archive.store, one.path).equals(truth)
            except ArchiveDamaged as damage:
                where = self._archive.location(one)
                self._wrong.append((one, str(damage).replace(where, "it", 1)))
                continue
            if not same:
                self._wrong.append((one, "it does not agree with the trades that it is made of"))
            elif not self._archive.is_rollup_valid(one, self._segment):
                self._wrong.append((one, "its footer is not of the segment beside it"))
        return self._wrong

    def _is_level(self, roll_up: RollUp) -> bool:
        try:
            parse_levels([roll_up.interval])
        except BadInterval:
            self._wrong.append((roll_up, f"{roll_up.interval!r} is no level of roll-ups"))
            return False
        return True


# --- files ----------------------------------------------------------------------------------------


class Skip(NamedTuple):
    """Two neighbouring ids that leave room for others, and how many rows lie between them.

    `stamps` are the published times of the two trades, in nanoseconds.
    """

    sides: tuple[int, int]
    rows: int
    stamps: tuple[int, int]

    @property
    def between(self) -> Range:
        """The range that may lack trades; of both trades' times where there is none between."""
        left_ns, right_ns = self.stamps
        return (
            Range(left_ns, right_ns - 1) if right_ns - left_ns > 1 else Range(left_ns - 1, right_ns)
        )


@dataclass(slots=True)
class Findings:
    """What reading one segment showed; `wrong` is empty when it holds what it says.

    Attributes:
        skips: where ids leave room for others, which only what is on record can explain.
        first_id_ns, last_id_ns: published times of the first and last trade with an id.
    """

    segment: Segment
    footer: Footer | None = None
    ids: int = 0
    skips: list[Skip] = field(default_factory=list)
    first_id_ns: int = 0
    last_id_ns: int = 0
    wrong: list[str] = field(default_factory=list)
    wrong_rollups: list[tuple[RollUp, str]] = field(default_factory=list)
    rollups: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong with it, nor with its roll-ups."""
        return not (self.wrong or self.wrong_rollups)


def check_segment(archive: TradeStore, segment: Segment, rollups: Sequence[RollUp]) -> Findings:
    """Hold a segment's name, footer, rows and roll-ups against one another.

    Footer and rows are read from one open file: another may take its name meanwhile, whole.

    Raises:
        FileNotFoundError: it went meanwhile; list again.
    """
    found = Findings(segment)
    beside = RollUps(archive, segment, rollups)
    try:
        with opened(archive.store, segment.path) as file:
            footer = found.footer = footer_in(segment.path, file)
            _check_footer(found, footer)
            if not file.schema_arrow.remove_metadata().equals(TRADES):
                found.wrong.append("its columns are not those of the format")
                return found
            rows = _Rows(found, footer)
            for batch in filter(len, file.iter_batches(READ_ROWS)):
                rows.check(batch)
                beside.add(batch)
        rows.finish()
        found.rollups = len(rollups)
        found.wrong_rollups = [] if found.wrong else beside.wrong()
    except ArchiveDamaged as damage:
        found.wrong.append(str(damage).removeprefix(segment.path).removeprefix(" "))
    return found


def _check_footer(found: Findings, footer: Footer) -> None:
    segment = found.segment
    if footer.range != segment.range:
        found.wrong.append(f"its footer says {footer.range}, its name another range")
    if footer.altname != segment.pair:
        named = footer.altname or "no pair"
        found.wrong.append(f"its footer is of {named}, its folder of {segment.pair}")


class _Rows:
    """The rows of one segment as they pass: order, place, values, ids, checksum."""

    def __init__(self, found: Findings, footer: Footer) -> None:
        self._found = found
        self._footer = footer
        self._checksum = RowsChecksum()
        self._last_ns: int | None = None
        self._tie = 0
        self._edge: LastId | None = None
        self._lead = 0
        self._first_id: int | None = None
        self._said: set[str] = set()

    def check(self, batch: pa.RecordBatch) -> None:
        stamps = times(batch)
        self._checksum.update(batch)
        self._check_times(stamps)
        self._check_ties(stamps, batch.column("tie").to_numpy())
        self._check_values(batch)
        self._check_ids(batch)
        self._last_ns = int(stamps[-1])

    def finish(self) -> None:
        footer, segment = self._footer, self._found.segment
        if self._checksum.hexdigest() != footer.checksum:
            self._say("its rows do not have the checksum that its footer tells")
        edge = self._edge
        trail = edge.rows_without_id if edge else self._checksum.rows
        ends = (self._first_id, edge and edge.trade_id, self._lead, trail)
        if ends != (footer.first_trade_id, footer.last_trade_id, footer.lead, footer.trail):
            self._say("its first and last ids are not those that its footer tells")
        if segment.path != segment_path(segment.pair, segment.range, self._last_ns):
            self._say("it stands in another year than its rows")

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._found.wrong.append(text)

    def _check_times(self, stamps: Int64s) -> None:
        span = self._found.segment.range
        if int(stamps.min()) <= span.after or int(stamps.max()) > span.through:
            self._say("it holds trades from outside of its range")
        ordered = (stamps[1:] >= stamps[:-1]).all()
        if not ordered or (self._last_ns is not None and int(stamps[0]) < self._last_ns):
            self._say("its times go back")

    def _check_ties(self, stamps: Int64s, given: Int64s) -> None:
        want = tie_indexes(stamps)
        if self._last_ns == int(stamps[0]):
            same = stamps == stamps[0]
            want = want + np.where(same, self._tie + 1, 0)
        if not (want == given).all():
            self._say("its ties do not count the rows of equal time")
        self._tie = int(want[-1])

    def _check_values(self, batch: pa.RecordBatch) -> None:
        price = decimal_words(batch.column("price"))[0]
        low, high = decimal_words(batch.column("volume"))
        if not (price > 0).all() or (high < 0).any():
            self._say("it holds a price or a volume below what can be")
        nothing = int(((low == 0) & (high == 0)).sum())
        if nothing:
            self._found.notes.append(f"{self._found.segment.path}: {nothing} trades of no volume")

    def _check_ids(self, batch: pa.RecordBatch) -> None:
        ids, found = trade_ids(batch), self._found
        places = ids.nonzero()[0]
        numbers = ids[places]
        found.ids += len(places)
        if self._first_id is None:
            self._lead += int(places[0]) if len(places) else len(ids)
            self._first_id = int(numbers[0]) if len(places) else None
            found.first_id_ns = int(times(batch)[places[0]]) if len(places) else 0
        if self._edge is not None:
            numbers = np.concatenate(([self._edge.trade_id], numbers))
        back = int((np.diff(numbers) <= 0).sum())
        if back:
            found.notes.append(f"{found.segment.path}: ids go back in {back} places")
        gaps, self._edge = find_gaps(self._edge, batch)
        found.last_id_ns = self._edge.time_ns if self._edge else 0
        found.skips += [Skip(gap.sides, gap.rows, (gap.after_ns, gap.before_ns)) for gap in gaps]
