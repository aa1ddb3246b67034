"""Staging archive of re-downloaded trades, and the journal of interrupted replacements."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np

from harvester.errors import BAD_JSON, ArchiveDamaged
from harvester.schema import TRADES, Int64s, RowsChecksum, times, trade_ids
from harvester.storage.filesystem import QuarantineNote, Store, quarantine_file
from harvester.storage.segment import Segment, parse_path, read_batches, read_footer, read_schema
from harvester.storage.trade_store import (
    EVERYTHING,
    Piece,
    TradeStore,
    pieces_of,
    retry_on_new_listing,
)
from harvester.times import UNITS_NS, Range, missing, overlap, show, union

# The staging archive is an archive below this one's folder, with the same layout. It counts only
# for imported ranges; readers of the archive never read it.

ASIDE = "upgrade"
"""The folder of the staging archive, next to `trades/`."""

FIRST_LOOK_NS = UNITS_NS["h"]
GROWS_BY = 16
"""An id is searched in the hour next to a moment, then in windows that grow by this factor."""


def aside_of(archive: TradeStore) -> TradeStore:
    """Open the staging archive, which need not exist yet."""
    return TradeStore(archive.root / ASIDE)


def from_files(archive: TradeStore, pair: str) -> list[tuple[Segment, Range]]:
    """List the imported ranges of all segments, in order; no two touch within a segment."""
    found: list[tuple[Segment, Range]] = []
    for piece in pieces_of(archive.segments(pair)):
        imported = union(Range(*one[:2]) for one in archive.footer(piece.segment).imported)
        inside = (overlap(one, piece.within) for one in imported)
        found += [(piece.segment, one) for one in inside if one is not None]
    return found


def unfinished(archive: TradeStore, wide: Segment, narrow: Segment) -> Segment | None:
    """Return which of two overlapping segments an interrupted replacement left; None for neither.

    If a replacement has another name than what it replaces, both exist for a moment.
    """
    before, now = (
        union(Range(*one[:2]) for one in archive.footer(each).imported) for each in (wide, narrow)
    )
    inside = [both for one in before if (both := overlap(one, narrow.range))]
    told_by_api = missing(inside, now)
    if wide.range == narrow.range:
        return wide if told_by_api else narrow if missing(now, before) else None
    if not told_by_api:
        return None
    aside = [one.range for one in ReplacementView(archive).aside(wide.pair)]
    return None if missing(told_by_api, aside) else narrow


def quarantine_damaged(
    view: ReplacementView, pair: str, then: str = "its range is fetched anew"
) -> list[str]:
    """Quarantine damaged segments of the staging archive; their ranges are missing afterwards.

    Every row of the staging archive is read. Returns a line for each file that was moved, which
    ends with `then`: what happens next.

    Raises:
        ArchiveUnwritable: the operating system refused.
    """
    said = []
    for one in view.aside(pair):
        fault = _fault_of(view.store, one)
        if fault is not None:
            to = quarantine_file(view.store, QuarantineNote(pair, one.path, one.range, [fault]))
            said.append(f"{one.path} {fault}: it is in {to} now, and {then}")
    view.forget_pair(pair)
    return said


def _fault_of(store: Store, segment: Segment) -> str | None:
    checksum = RowsChecksum()
    try:
        footer = read_footer(store, segment.path)
        if not read_schema(store, segment.path).equals(TRADES):
            return "has other columns than the format's"
        for batch in read_batches(store, segment.path):
            checksum.update(batch)
    except ArchiveDamaged:
        return "can't be read"
    is_sound = footer.range == segment.range and checksum.hexdigest() == footer.checksum
    return None if is_sound else "has other rows than its footer says"


class ReplacementView(TradeStore):
    """The archive as it will be after the replacement: API trades only.

    Imported ranges count as covered only where the staging archive covers them.
    """

    def __init__(self, archive: TradeStore) -> None:
        """View `archive`, which is the one that readers see."""
        super().__init__(archive.path)
        self.store = archive.store

    def aside(self, pair: str) -> list[Segment]:
        """List the segments of the staging archive; paths are relative to the main archive."""
        found: list[Segment] = []
        for entry in self.store.files(f"{ASIDE}/trades/pair={pair}"):
            path = entry.path.removeprefix(f"{ASIDE}/")
            if (one := parse_path(path, entry.size, entry.changed_ns)) is not None:
                found.append(one._replace(path=entry.path))
        return sorted(found, key=lambda one: (one.range.after, -one.range.through))

    def pieces(self, pair: str, within: Range = EVERYTHING) -> list[Piece]:
        """List what to read for a range, as `TradeStore.pieces` does."""
        told, aside = from_files(self, pair), self.aside(pair)
        found: list[Piece] = []
        for segment, piece_range in super().pieces(pair, within):
            parts = [part for imported, part in told if imported == segment]
            found += [Piece(segment, part) for part in missing([piece_range], parts)]
            inside = (both for part in parts if (both := overlap(part, piece_range)))
            found += [piece for part in inside for piece in pieces_of(aside, part)]
        return sorted(found, key=lambda piece: piece.within)

    def is_imported(self, pair: str, /, moment: int) -> bool:  # noqa: ARG002 - as that of an archive
        """Always False: imported ranges are not covered in this view."""
        return False

    @retry_on_new_listing
    def last_id_before(self, pair: str, /, moment: int) -> tuple[int, int, int] | None:
        """Return the last trade id at or before a moment, as `TradeStore.last_id_before` does."""
        between, at = 0, moment
        for piece in reversed(self.pieces(pair, Range(0, moment))):
            if piece.within.through != at:
                return None
            number, loose, time_ns = self._last_in(piece)
            between += loose
            if number:
                return number, between, time_ns
            at = piece.within.after
        return None

    @retry_on_new_listing
    def first_id_after(self, pair: str, /, moment: int) -> tuple[int, int] | None:
        """Return the first trade id after a moment, as `TradeStore.first_id_after` does."""
        between, at = 0, moment
        for piece in self.pieces(pair, Range(moment, EVERYTHING.through)):
            if piece.within.after != at:
                return None
            number, loose = self._first_in(piece)
            between += loose
            if number:
                return number, between
            at = piece.within.through
        return None

    def _last_in(self, piece: Piece) -> tuple[int, int, int]:
        """Return the last id of a piece, the number of rows without id after it, and its time.

        Without any id: 0, the number of all rows, and 0. For a whole segment the footer is read.
        """
        if piece.within == piece.segment.range:
            footer = self.footer(piece.segment)
            if footer.last_trade_id is None:
                return 0, footer.rows, 0
            time_ns = self._time_of_last_id(piece.segment, footer)
            return footer.last_trade_id, footer.trail, time_ns
        loose = 0
        for window in reversed(_windows(piece.within, from_end=True)):
            ids, stamps = self._ids(piece.segment, window)
            places = ids.nonzero()[0]
            if len(places):
                last = int(places[-1])
                return int(ids[last]), loose + len(ids) - 1 - last, int(stamps[last])
            loose += len(ids)
        return 0, loose, 0

    def _first_in(self, piece: Piece) -> tuple[int, int]:
        if piece.within == piece.segment.range:
            footer = self.footer(piece.segment)
            return footer.first_trade_id or 0, footer.lead
        loose = 0
        for window in _windows(piece.within, from_end=False):
            ids, _ = self._ids(piece.segment, window)
            places = ids.nonzero()[0]
            if len(places):
                return int(ids[places[0]]), loose + int(places[0])
            loose += len(ids)
        return 0, loose

    def _ids(self, segment: Segment, window: Range) -> tuple[Int64s, Int64s]:
        batches = list(read_batches(self.store, segment.path, window, ["trade_id", "time"]))
        empty = np.empty(0, dtype=np.int64)
        ids = np.concatenate([empty, *(trade_ids(batch) for batch in batches)])
        return ids, np.concatenate([empty, *(times(batch) for batch in batches)])


def _windows(span: Range, *, from_end: bool) -> list[Range]:
    """Split a range into windows that grow from one of its ends, in order of time."""
    cuts, width = [0], FIRST_LOOK_NS
    while cuts[-1] < span.through - span.after:
        cuts.append(min(cuts[-1] + width, span.through - span.after))
        width *= GROWS_BY
    if from_end:
        return [Range(span.through - far, span.through - near) for near, far in pairwise(cuts)][
            ::-1
        ]
    return [Range(span.after + near, span.after + far) for near, far in pairwise(cuts)]


# Journal. Where imported segments touch at a busy second, a trade with a rounded time may be on
# the other side than the exchange has it: stored twice, or not at all. So such segments are
# replaced together, and their journal entry exists from before the first rename until after the
# last. The same holds for a gap that is filled up to such a boundary.


def path_of_note(pair: str) -> str:
    """Path of a pair's journal within the archive."""
    return f"{ASIDE}/replacing/{pair}.json"


class AtomicReplacement(msgspec.Struct, frozen=True):
    """Ranges that must be either all imported or all re-downloaded.

    Attributes:
        ranges: in order.
        compared: whether the re-downloaded trades were compared with the imported ones, and may
            replace them.
    """

    ranges: tuple[Range, ...]
    compared: bool = True


_UNKNOWN = AtomicReplacement((EVERYTHING,), compared=False)


def noted(store: Store, pair: str) -> list[AtomicReplacement]:
    """Read the journal of a pair: empty without a file, everything if it can't be read."""
    raw = store.read(path_of_note(pair))
    try:
        return [] if raw is None else msgspec.json.decode(raw, type=list[AtomicReplacement])
    except BAD_JSON:
        return [_UNKNOWN]


def note(store: Store, pair: str, each: Sequence[AtomicReplacement]) -> None:
    """Write the journal of a pair; without entries it is deleted.

    A journal that can't be read stays as it is: it means everything.

    Raises:
        ArchiveUnwritable: the operating system refused.
    """
    if not each:
        store.remove(path_of_note(pair))
    elif _UNKNOWN not in each:
        data = msgspec.json.encode([*dict.fromkeys(each)])
        store.write(path_of_note(pair), data, pair)


def still_from_files(archive: TradeStore, pair: str, ranges: Sequence[Range]) -> list[Range]:
    """Return the parts of some ranges that are imported, in order.

    Raises:
        ArchiveDamaged: a segment can't be read.
    """
    told = [part for _, part in from_files(archive, pair)]
    return sorted(both for part in ranges for one in told if (both := overlap(part, one)))


@retry_on_new_listing
def torn(archive: TradeStore, pair: str, /) -> tuple[Range, str] | None:
    """Return the range of an incomplete replacement, with an explanation; None if there is none.

    While a re-download is at work, this is the case for a moment. If the journal can't be read,
    all imported ranges may be affected.

    Raises:
        ArchiveDamaged: a segment can't be read.
    """
    for one in noted(archive.store, pair):
        left = still_from_files(archive, pair, one.ranges)
        if left and missing(one.ranges, left):
            return Range(left[0].after, left[-1].through), _told(archive, pair, one, left)
    return None


def _told(
    archive: TradeStore, pair: str, atomic_replacement: AtomicReplacement, left: Sequence[Range]
) -> str:
    upgrade = f"`harvester backfill {pair} --upgrade` fetches what is lacking, or says why not"
    if atomic_replacement == _UNKNOWN:
        return (
            "it can't be read, and an upgrade may have been cut short between files that belong "
            f"together: trades from files may stand twice, or not at all; {upgrade}"
        )
    lacking = missing(left, [each.range for each in ReplacementView(archive).aside(pair)])
    ends = f"`harvester backfill {pair}` ends it, or says why not"
    return (
        "a file and the exchange's own trades meet in a busy second: a trade near "
        f"{_seams(atomic_replacement.ranges, left)} may stand twice, or not at all; "
        f"{upgrade if lacking or not atomic_replacement.compared else ends}"
    )


def _seams(ranges: Sequence[Range], left: Sequence[Range]) -> str:
    """The moments where remaining imported ranges touch replaced ones, as text."""
    replaced = {moment for one in missing(ranges, left) for moment in one}
    ends = [moment for one in left for moment in one]
    return " or ".join(show(end) for end in ends if end in replaced) or show(ends[0])


def check_not_torn(archive: TradeStore, pair: str) -> None:
    """Refuse a pair with an incomplete replacement.

    Raises:
        ArchiveDamaged: there is one, or a segment can't be read.
    """
    if found := torn(archive, pair):
        raise ArchiveDamaged(f"{archive.store.location(path_of_note(pair))}: {found[1]}")
