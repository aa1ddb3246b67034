"""Compact segments and build roll-ups on request; `backfill` and `refresh` also do both."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import NamedTuple

from harvester.config import Settings
from harvester.download.events import Begun, Listener, Noted, steps
from harvester.pair_names import resolve_held
from harvester.query.aggregate import parse_levels, roll_up
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import Writer, writer


class CompactionResult(NamedTuple):
    """The result of the compaction of a pair.

    Attributes:
        pair: altname.
        files_before: number of segment files before it.
        files_after: number of segment files after it.
        notes: sentences that the user should read.
    """

    pair: str
    files_before: int
    files_after: int
    notes: list[str]


class RollupResult(NamedTuple):
    """The result of building the roll-ups of a pair.

    Attributes:
        pair: altname.
        built: number of roll-up files that were written.
        up_to_date: number of roll-up files that were there already.
        notes: sentences that the user should read, such as why a segment has no roll-up.
    """

    pair: str
    built: int
    up_to_date: int
    notes: list[str]


def compact(
    archive: TradeStore, settings: Settings, pairs: Sequence[str], listener: Listener
) -> list[CompactionResult]:
    """Merge neighbouring small segments of some pairs, and roll up the merged ones.

    Args:
        archive: the archive.
        settings: `candles.rollups` says which roll-ups there should be.
        pairs: names in any spelling; all pairs of the archive if there are none.
        listener: called with events.

    Raises:
        NothingHeld: the archive has no trades of a pair.
        ArchiveLocked: another run is writing a pair.
        ArchiveDamaged: a file can't be read, or has other rows than its footer says.
        ArchiveUnwritable: the operating system refused to write.
    """
    levels, progress = parse_levels(settings.candles.rollups), steps(listener)
    results = []
    with closing(_each_pair(archive, pairs, listener)) as writers:
        for pair_writer in writers:
            before, after = pair_writer.compact(every=True, progress=progress)
            notes = roll_up(pair_writer, levels, progress).notes
            _report_notes(pair_writer.pair, notes, listener)
            results.append(CompactionResult(pair_writer.pair, before, after, notes))
    return results


def build_rollups(
    archive: TradeStore, settings: Settings, pairs: Sequence[str], listener: Listener
) -> list[RollupResult]:
    """Build the roll-ups that segments of some pairs lack.

    Args:
        archive: the archive.
        settings: `candles.rollups` says which roll-ups there should be.
        pairs: names in any spelling; all pairs of the archive if there are none.
        listener: called with events.

    Raises:
        NothingHeld: the archive has no trades of a pair.
        ArchiveLocked: another run is writing a pair.
        ArchiveDamaged: a file can't be read, or has other rows than its footer says.
        ArchiveUnwritable: the operating system refused to write.
    """
    levels = parse_levels(settings.candles.rollups)
    results = []
    with closing(_each_pair(archive, pairs, listener)) as writers:
        for pair_writer in writers:
            done = roll_up(pair_writer, levels, steps(listener))
            _report_notes(pair_writer.pair, done.notes, listener)
            results.append(RollupResult(pair_writer.pair, done.built, done.up_to_date, done.notes))
    return results


def _each_pair(
    archive: TradeStore, pairs: Sequence[str], listener: Listener
) -> Generator[Writer, None, None]:
    """Lock one pair after the other."""
    names = [resolve_held(archive, name).altname for name in pairs] or archive.held()
    listener(Begun(len(names)))
    for name in names:
        with writer(archive, name) as pair_writer:
            yield pair_writer


def _report_notes(pair: str, notes: Sequence[str], listener: Listener) -> None:
    for note in notes:
        listener(Noted(pair, note))
