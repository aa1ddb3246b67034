"""Roll-ups: partial candles of each segment, so that long questions need not read ticks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from harvester.errors import ArchiveDamaged, BadInterval, ValueDoesNotFit
from harvester.query.partials import Partials
from harvester.schema import RowsChecksum
from harvester.storage.rollup_files import RollUp, rollup_path
from harvester.storage.segment import Segment, read_batches
from harvester.storage.writer import Writer
from harvester.times import Interval, parse_interval

Progress = Callable[[str, int, int], None]
"""Told a pair, its files done and its files in all."""


@dataclass(slots=True)
class RolledUp:
    """What a run of `roll_up` came to.

    Attributes:
        files: roll-ups that were written.
        standing: roll-ups that stood already and agree with their segment.
        notes: segments that have none, and why.
    """

    files: int = 0
    standing: int = 0
    notes: list[str] = field(default_factory=list)


def parse_levels(texts: Iterable[str]) -> list[Interval]:
    """The levels of roll-ups by their names, the finest first.

    Raises:
        BadInterval: one is no interval of fixed length.
    """
    levels = [parse_interval(text) for text in texts]
    for level in levels:
        if level.width_ns is None:
            raise BadInterval(
                f"rollups holds {level.text!r}, which follows the calendar: "
                "give fixed lengths such as 1m or 1h"
            )
    return sorted(levels, key=lambda level: level.width_ns or 0)


def roll_up(
    writer: Writer,
    levels: Sequence[Interval],
    progress: Progress = lambda _pair, _done, _all: None,
) -> RolledUp:
    """Make the roll-ups that a pair's segments lack, or that were made from other rows.

    Args:
        writer: of the pair; its lock is held.
        levels: see `parse_levels`.
        progress: told after each segment.

    Raises:
        ArchiveDamaged: a segment's rows are not those of its footer; nothing is made from them.
        ArchiveUnwritable: the machine refused.
    """
    done = RolledUp()
    archive = writer.archive
    segments = archive.segments(writer.pair)
    for place, segment in enumerate(segments, 1):
        _roll_up_one(writer, segment, levels, done)
        progress(writer.pair, place, len(segments))
    return done


def _roll_up_one(
    writer: Writer, segment: Segment, levels: Sequence[Interval], done: RolledUp
) -> None:
    if writer.archive.footer(segment).rows == 0:
        return
    lacking = [level for level in levels if not _stands(writer, segment, level)]
    done.standing += len(levels) - len(lacking)
    try:
        made = _made(writer, segment, lacking) if lacking else {}
    except ValueDoesNotFit as reason:
        done.notes.append(str(reason))
        return
    for text, partials in made.items():
        writer.keep_rollup(segment, text, partials)
        done.files += 1


def _stands(writer: Writer, segment: Segment, level: Interval) -> bool:
    path = rollup_path(segment, level.text)
    try:
        return writer.archive.serves(RollUp(level.text, segment.path, path, 0), segment)
    except FileNotFoundError:
        return False


def _made(
    writer: Writer, segment: Segment, levels: Sequence[Interval]
) -> dict[str, list[pa.RecordBatch]]:
    archive = writer.archive
    checksum = RowsChecksum()
    partials = Partials([width_of(level) for level in levels], f"roll-ups of {segment.path}")
    for batch in read_batches(archive.store, segment.path):
        checksum.update(batch)
        partials.add(batch)
    if checksum.hexdigest() != archive.footer(segment).checksum:
        raise ArchiveDamaged(
            f"{archive.location(segment)} holds other rows than its footer tells: it was not "
            f"rolled up. `harvester verify {writer.pair}` tells more"
        )
    made = partials.finish()
    return {level.text: some for level, some in zip(levels, made, strict=True)}


def width_of(level: Interval) -> int:
    """How long a level's candles are, in nanoseconds."""
    if level.width_ns is None:
        raise BadInterval(f"{level.text} is no level of roll-ups: give fixed lengths such as 1h")
    return level.width_ns
