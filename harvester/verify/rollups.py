"""A segment's roll-ups, held against its ticks."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from harvester.errors import ArchiveDamaged, BadInterval, ValueDoesNotFit
from harvester.query.rollups import Recount, parse_levels
from harvester.storage.rollup_files import PARTIALS, RollUp, read_partials
from harvester.storage.segment import Segment
from harvester.storage.trade_store import Archive


class RollUps:
    """The roll-ups of one segment, made once more from its ticks as they pass."""

    def __init__(self, archive: Archive, segment: Segment, rollups: Sequence[RollUp]) -> None:
        """`rollups` are those that stand beside the segment."""
        self._archive = archive
        self._segment = segment
        self._wrong: list[tuple[RollUp, str]] = []
        self._rollups = [one for one in rollups if self._is_level(one)]
        levels = parse_levels(one.interval for one in self._rollups)
        self._recount = Recount(levels, f"roll-ups of {segment.path}") if levels else None

    def add(self, batch: pa.RecordBatch) -> None:
        """Count the next ticks."""
        try:
            if self._recount is not None:
                self._recount.add(batch)
        except ValueDoesNotFit as reason:
            self._recount = None
            self._wrong += [(one, str(reason)) for one in self._rollups]

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
            elif not self._archive.serves(one, self._segment):
                self._wrong.append((one, "its footer is not of the segment beside it"))
        return self._wrong

    def _is_level(self, one: RollUp) -> bool:
        try:
            parse_levels([one.interval])
        except BadInterval:
            self._wrong.append((one, f"{one.interval!r} is no level of roll-ups"))
            return False
        return True
