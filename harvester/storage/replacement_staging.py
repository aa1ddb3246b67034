"""Re-downloaded trades that wait to replace imported ones, and the journal of replacements."""

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

# --- aside ----------------------------------------------------------------------------------------

# It is an archive of its own below this one's folder, with the ordinary layout. What it holds
# counts only for ranges that came from files; readers of the archive never look there.

ASIDE = "upgrade"
"""The folder, beside `trades/`."""

FIRST_LOOK_NS = UNITS_NS["h"]
GROWS_BY = 16
"""An id is looked for in the hour next to a moment, then in so many times more."""


def aside_of(archive: TradeStore) -> TradeStore:
    """The archive aside, as its writer and its readers see it; it need not exist yet."""
    return TradeStore(archive.root / ASIDE)


def from_files(archive: TradeStore, pair: str) -> list[tuple[Segment, Range]]:
    """What of each segment came out of files, in order; no two touch within a segment."""
    found: list[tuple[Segment, Range]] = []
    for piece in pieces_of(archive.segments(pair)):
        imported = union(Range(*one[:2]) for one in archive.footer(piece.segment).imported)
        inside = (overlap(one, piece.within) for one in imported)
        found += [(piece.segment, one) for one in inside if one is not None]
    return found


def unfinished(archive: TradeStore, wide: Segment, narrow: Segment) -> Segment | None:
    """Which of two segments, one inside the other, a crash left of a replacement; None for none.

    Where a replacement has another name than what it replaces, both stand for a moment.
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
    """Set aside which of the segments that lie aside are damaged; their ranges are missing then.

    Reads every row that lies aside. Returns a line for each file that was moved, which says what
    comes then.

    Raises:
        ArchiveUnwritable: the machine refused.
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
    """An archive's tape as it is to be: the API's own trades, and what lies aside of the rest.

    Where neither holds anything, it is not covered, whatever files have told.
    """

    def __init__(self, archive: TradeStore) -> None:
        """`archive` is the one that readers see."""
        super().__init__(archive.path)
        self.store = archive.store

    def aside(self, pair: str) -> list[Segment]:
        """The segments that lie aside, their paths within the whole archive."""
        found: list[Segment] = []
        for entry in self.store.files(f"{ASIDE}/trades/pair={pair}"):
            path = entry.path.removeprefix(f"{ASIDE}/")
            if (one := parse_path(path, entry.size, entry.changed_ns)) is not None:
                found.append(one._replace(path=entry.path))
        return sorted(found, key=lambda one: (one.range.after, -one.range.through))

    def pieces(self, pair: str, within: Range = EVERYTHING) -> list[Piece]:
        """As those of an archive, of the tape as it is to be."""
        told, aside = from_files(self, pair), self.aside(pair)
        found: list[Piece] = []
        for segment, piece_range in super().pieces(pair, within):
            parts = [part for imported, part in told if imported == segment]
            found += [Piece(segment, part) for part in missing([piece_range], parts)]
            inside = (both for part in parts if (both := overlap(part, piece_range)))
            found += [piece for part in inside for piece in pieces_of(aside, part)]
        return sorted(found, key=lambda piece: piece.within)

    def is_imported(self, pair: str, /, moment: int) -> bool:  # noqa: ARG002 - as that of an archive
        """Nothing is: it would not be covered."""
        return False

    @retry_on_new_listing
    def last_id_before(self, pair: str, /, moment: int) -> tuple[int, int, int] | None:
        """As that of an archive."""
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
        """As that of an archive."""
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
        """The last id of a piece, the rows without one behind it, its time; 0 for none, all rows.

        Of a whole segment its footer tells.
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
    """A span in windows that grow from one of its ends on, in order of time."""
    cuts, width = [0], FIRST_LOOK_NS
    while cuts[-1] < span.through - span.after:
        cuts.append(min(cuts[-1] + width, span.through - span.after))
        width *= GROWS_BY
    if from_end:
        return [Range(span.through - far, span.through - near) for near, far in pairwise(cuts)][
            ::-1
        ]
    return [Range(span.after + near, span.after + far) for near, far in pairwise(cuts)]


# --- torn -----------------------------------------------------------------------------------------

# There a rounded trade may stand on the other side than the exchange has it: twice, or not at
# all. So segments that touch there are replaced together, and noted from before the first one is
# until after the last; and so is a gap that is filled up to such a place.


def path_of_note(pair: str) -> str:
    """Where it stands within the archive."""
    return f"{ASIDE}/replacing/{pair}.json"


class AtomicReplacement(msgspec.Struct, frozen=True):
    """Ranges that are to be told by a file, all of them, or by the exchange.

    Attributes:
        ranges: in order.
        compared: whether what lies aside for them was held against the file, and may replace it.
    """

    ranges: tuple[Range, ...]
    compared: bool = True


_UNKNOWN = AtomicReplacement((EVERYTHING,), compared=False)


def noted(store: Store, pair: str) -> list[AtomicReplacement]:
    """What a note tells of; none where there is no note, all there is where it can't be read."""
    raw = store.read(path_of_note(pair))
    try:
        return [] if raw is None else msgspec.json.decode(raw, type=list[AtomicReplacement])
    except BAD_JSON:
        return [_UNKNOWN]


def note(store: Store, pair: str, each: Sequence[AtomicReplacement]) -> None:
    """Put on record what belongs together; nothing takes the note away.

    One that can't be read stays as it is: it stands for all.

    Raises:
        ArchiveUnwritable: the machine refused.
    """
    if not each:
        store.remove(path_of_note(pair))
    elif _UNKNOWN not in each:
        data = msgspec.json.encode([*dict.fromkeys(each)])
        store.write(path_of_note(pair), data, pair)


def still_from_files(archive: TradeStore, pair: str, ranges: Sequence[Range]) -> list[Range]:
    """What of some ranges files tell, in order.

    Raises:
        ArchiveDamaged: a segment can't be read.
    """
    told = [part for _, part in from_files(archive, pair)]
    return sorted(both for part in ranges for one in told if (both := overlap(part, one)))


@retry_on_new_listing
def torn(archive: TradeStore, pair: str, /) -> tuple[Range, str] | None:
    """Where a replacement is half-way, and what that means, for people; None where none is.

    While an upgrade is at work it is so for a moment. Where the note can't be read, it may be in
    all that files tell.

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
    """Where what is left of some ranges meets what was replaced."""
    replaced = {moment for one in missing(ranges, left) for moment in one}
    ends = [moment for one in left for moment in one]
    return " or ".join(show(end) for end in ends if end in replaced) or show(ends[0])


def check_not_torn(archive: TradeStore, pair: str) -> None:
    """Refuse what is half replaced.

    Raises:
        ArchiveDamaged: it is, or a segment can't be read.
    """
    if found := torn(archive, pair):
        raise ArchiveDamaged(f"{archive.store.location(path_of_note(pair))}: {found[1]}")
