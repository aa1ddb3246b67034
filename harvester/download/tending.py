"""What a pair's files want: ends of what a crash cut, fewer of them, and roll-ups beside them."""

from __future__ import annotations

from collections.abc import Sequence

from harvester.download.beside import settle
from harvester.download.events import Listener, Noted, Step
from harvester.storage.replacement import end_replacing
from harvester.storage.writer import Writer


def finish_replacing(writer: Writer, listener: Listener) -> None:
    """End what a crash left of an upgrade; that it can't be now stops nothing.

    Where trades are not whole for it, `check_not_torn` says so, once all else is done.

    Args:
        writer: of the pair; its lock is held.
        listener: told of damage that was met.

    Raises:
        ArchiveUnwritable: the machine refused.
    """
    for text in end_replacing(writer):
        listener(Noted(writer.pair, text))
    settle(writer)


def tend(writer: Writer, rollups: Sequence[str], listener: Listener) -> None:
    """Merge small segments, then make the roll-ups that are lacking.

    Args:
        writer: of the pair; its lock is held.
        rollups: their levels, such as 1m; none for no roll-ups.
        listener: told how far it is, and of segments that can have no roll-ups.

    Raises:
        ArchiveDamaged: a segment's rows are not those of its footer.
        ArchiveUnwritable: the machine refused.
        BadInterval: a level is no interval of fixed length.
    """

    def step(pair: str, done: int, of: int) -> None:
        listener(Step(pair, done, of))

    writer.compact(closed=True, progress=step)
    if not rollups:
        return
    # The rooms of candles are wanted only now, and take their time to load.
    from harvester.query.rollups import parse_levels, roll_up  # noqa: PLC0415

    for note in roll_up(writer, parse_levels(rollups), step).notes:
        listener(Noted(writer.pair, note))
