"""What a pair's files want once its crawl is done: fewer of them, and roll-ups beside them."""

from __future__ import annotations

from collections.abc import Sequence

from harvester.archive.writer import Writer
from harvester.crawl.events import Listener, Noted


def tend(writer: Writer, rollups: Sequence[str], listener: Listener) -> None:
    """Merge small segments, then make the roll-ups that are lacking.

    Args:
        writer: of the pair; its lock is held.
        rollups: their levels, such as 1m; none for no roll-ups.
        listener: told of segments that can have none.

    Raises:
        ArchiveDamaged: a segment's rows are not those of its footer.
        ArchiveUnwritable: the machine refused.
        BadInterval: a level is no interval of fixed length.
    """
    writer.compact(closed=True)
    if not rollups:
        return
    # DuckDB is wanted only now, and takes its time and memory to load.
    from harvester.candles.rollups import parse_levels, roll_up  # noqa: PLC0415

    for note in roll_up(writer, parse_levels(rollups)).notes:
        listener(Noted(writer.pair, note))
