"""What is stored on both sides of a missing range: ids to continue, times, and imported data."""

from __future__ import annotations

from typing import NamedTuple

from harvester.storage.trade_store import EVERYTHING, TradeStore
from harvester.times import SECOND, Range
from harvester.trade_ids import BEFORE_FIRST_ID, LastId


def has_imported_data(store: TradeStore, pair: str) -> bool:
    """Whether any segment of a pair is imported, by the names of the files.

    Args:
        store: the archive.
        pair: altname.
    """
    return any(segment.is_imported for segment in store.segments(pair))


def imported_in(store: TradeStore, pair: str, within: Range) -> str:
    """The location of the first imported segment in a range; empty if there is none.

    Args:
        store: the archive.
        pair: altname.
        within: may be empty.
    """
    for piece in store.pieces(pair, within) if within.after < within.through else []:
        if piece.segment.is_imported:
            return store.location(piece.segment)
    return ""


class LeftNeighbour(NamedTuple):
    """What is stored before a missing range.

    Attributes:
        last_id: the last trade with an id; BEFORE_FIRST_ID if the pair has no earlier trade, None
            if it is not known.
        last_ns: the time of the last trade; of an imported one the earliest time it can have. None
            if there is no trade.
        is_imported: whether there is imported data between that id and the range.
    """

    last_id: LastId | None
    last_ns: int | None
    is_imported: bool = False


def left_neighbour(store: TradeStore, pair: str, after: int, *, has_imports: bool) -> LeftNeighbour:
    """Read what is stored before a range.

    Args:
        store: the archive.
        pair: altname.
        after: where the range begins, in nanoseconds.
        has_imports: whether the pair has imported data.
    """
    last_ns = store.last_time(pair, after)
    found = store.last_id_before(pair, after)
    last_id = None if found is None else LastId(*found)
    if last_id is None:
        covered = [part for part in store.coverage(pair) if part.through == after]
        is_empty = bool(covered) and covered[0].after == 0 and last_ns is None
        last_id = BEFORE_FIRST_ID if after == 0 or is_empty else None
    if not has_imports:
        return LeftNeighbour(last_id, last_ns)
    is_imported = last_id is not None and bool(
        imported_in(store, pair, Range(last_id.time_ns, after))
    )
    if last_ns is not None and store.is_imported(pair, last_ns):
        last_ns -= SECOND
    return LeftNeighbour(last_id, last_ns, is_imported)


class RightNeighbour(NamedTuple):
    """What is stored behind a missing range.

    Attributes:
        first_id: the first id, and the rows without an id before it; None if there is none.
        is_imported: whether there is imported data between the range and that id.
    """

    first_id: tuple[int, int] | None
    is_imported: bool = False


def right_neighbour(
    store: TradeStore, pair: str, through: int, *, has_imports: bool
) -> RightNeighbour:
    """Read what is stored behind a range.

    Args:
        store: the archive.
        pair: altname.
        through: where the range ends, in nanoseconds.
        has_imports: whether the pair has imported data.
    """
    first_id = store.first_id_after(pair, through)
    if not has_imports:
        return RightNeighbour(first_id)
    before_id = _range_before_id(store, pair, through)
    return RightNeighbour(first_id, bool(imported_in(store, pair, before_id)))


def _range_before_id(store: TradeStore, pair: str, after: int) -> Range:
    """The stored range behind a time in which no id shows whether a trade is missing."""
    reached = after
    for segment, within in store.pieces(pair, Range(after, EVERYTHING.through)):
        if within.after != reached:
            break
        footer, bounds = store.footer(segment), store.bounds(segment)
        if footer.lead == 0 and bounds is not None and bounds[0] > reached:
            return Range(after, bounds[0])
        reached = within.through
        if footer.first_trade_id is not None:
            break
    return Range(after, reached)


def range_without_newest(
    store: TradeStore, pair: str, newest_ns: int, *, has_imports: bool
) -> Range | None:
    """The covered range before the exchange's newest trade, if no trade of that time is stored.

    Where the pair is quiet, nothing else shows that a trade came later than it should: no id
    follows it.

    Args:
        store: the archive.
        pair: altname.
        newest_ns: the published time of the exchange's newest trade.
        has_imports: whether the pair has imported data.

    Returns:
        None if the time is not covered, or a trade of it is stored.
    """
    last_ns = store.last_time(pair, newest_ns)
    if last_ns == newest_ns or not store.pieces(pair, Range(newest_ns - 1, newest_ns)):
        return None
    if has_imports and store.is_imported(pair, newest_ns):
        # Imported times are whole seconds: the trade may be stored with the second next to it.
        near_ns = store.last_time(pair, newest_ns + SECOND) or 0
        if near_ns > newest_ns - SECOND:
            return None
    covered = next(part for part in store.coverage(pair) if part.after < newest_ns <= part.through)
    return Range(max(last_ns or 0, covered.after), newest_ns)
