"""What is held from the API where a file is imported: it tells how the file rounds its times."""

from __future__ import annotations

from harvester.csv_import.rounding import Sample, Tally, joined, rows_of
from harvester.download.events import Rounding
from harvester.errors import ArchiveDamaged, HarvesterError
from harvester.storage.replacement_staging import from_files
from harvester.storage.trade_store import Archive
from harvester.times import SECOND, Range, missing


def held_from_api(archive: Archive, pair: str) -> list[Range]:
    """What is covered by what the API gave, in order; nothing where a segment can't be read."""
    try:
        told = [part for _, part in from_files(archive, pair)]
    except ArchiveDamaged:
        return []
    return missing(archive.coverage(pair), told)


def measured(archive: Archive, pair: str, sample: Sample) -> Rounding | None:
    """How a file rounds its times; None where nothing of it is held from the API.

    It is worth a word, and stops no import: a segment that can't be read is for `verify` to tell.
    """
    rows = sample.taken()
    if not len(rows.stamps):
        return None
    span = Range(int(rows.stamps[0]) - SECOND - 1, int(rows.stamps[-1]) + SECOND)
    tally = Tally()
    try:
        for part in held_from_api(archive, pair):
            inside = rows.within(part)
            if len(inside.stamps):
                ends = Range(max(part.after, span.after), min(part.through, span.through))
                tally.compare(inside, joined([rows_of(one) for one in archive.scan(pair, ends)]))
    except HarvesterError:
        return None
    return tally.rounding()


def how_exact(rounding: Rounding | None, pair: str) -> str:
    """What a boundary at a busy second is worth, by the rounding that was measured."""
    way = rounding.way if rounding is not None else "not told"
    if way == "down":
        return "it is exact, as the file rounds its times down"
    if way == "not told":
        return (
            "it is exact if the file rounds its times down; "
            f"`harvester verify {pair} --against-exchange` tells"
        )
    return (
        "as the file does not round its times down, a trade may be missing there, or be there "
        f"twice; `harvester backfill {pair} --upgrade` puts that right"
    )
