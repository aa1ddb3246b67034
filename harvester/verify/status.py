"""What an archive has of each pair, from file names and footers only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from harvester.errors import BAD_JSON, ArchiveDamaged, ArchiveError, ArchiveIncomplete
from harvester.storage import metadata
from harvester.storage.filesystem import Entry
from harvester.storage.metadata_cache import SegmentSummary, SegmentSummaryCache
from harvester.storage.replacement_staging import check_not_torn
from harvester.storage.segment import Segment, pair_files, parse_path
from harvester.storage.trade_store import (
    TradeStore,
    ending_in_future,
    future_message,
    pieces_of,
    with_snapshot_retry,
    without_future,
)
from harvester.times import BEGINNING_NS, SECOND, Range, missing, union

# --- status ---------------------------------------------------------------------------------------

PAGE_ROWS = 1000
"""Trades of a full page."""

CALLS_A_GAP = 2
"""What a gap takes beside its pages: the page that shows its end, and a look at the head."""


@dataclass(slots=True)
class PairStatus:
    """What an archive holds of a pair. Times are published times, in nanoseconds.

    Attributes:
        pair: altname.
        wsname: the exchange's name for people, such as XBT/USD; empty where it is not known.
        trades: how many.
        first_ns: time of the first trade, None for none.
        last_ns: time of the last one.
        coverage: what has been fetched whole.
        wanted: what was ever asked for.
        gaps: what was wanted and is not covered.
        files: segments.
        bytes: of the segments together.
        rollups: by level, how many segments with trades have a roll-up, by their names.
        rollups_wanted: how many segments have trades, and so can have one.
        age_s: seconds since the moment that coverage ends at; None where nothing is covered.
        calls_for_gaps: estimate of the calls that fill the gaps; None where there is nothing to
            judge by.
        calls_to_now: likewise from where coverage ends to now.
        damaged: files that can't be read, and why: they count as files alone; and those whose
            range ends in the future.
    """

    pair: str
    wsname: str = ""
    trades: int = 0
    first_ns: int | None = None
    last_ns: int | None = None
    coverage: list[Range] = field(default_factory=list)
    wanted: list[Range] = field(default_factory=list)
    gaps: list[Range] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    rollups: dict[str, int] = field(default_factory=dict)
    rollups_wanted: int = 0
    age_s: int | None = None
    calls_for_gaps: int | None = None
    calls_to_now: int | None = None
    damaged: list[str] = field(default_factory=list)

    @property
    def bytes_a_trade(self) -> float | None:
        """Bytes of the segments by trades; None where there are none."""
        return self.bytes / self.trades if self.trades else None

    @property
    def calls(self) -> int | None:
        """Estimate of the calls that make it complete up to now."""
        if self.calls_for_gaps is None or self.calls_to_now is None:
            return None
        return self.calls_for_gaps + self.calls_to_now

    @property
    def exit_status(self) -> int:
        """0 when all that was asked for is covered, and can be read."""
        return ArchiveIncomplete.exit_status if self.gaps or self.damaged else 0


def status(archive: TradeStore, pairs: Sequence[str] | None, now_ns: int) -> list[PairStatus]:
    """What an archive holds of some pairs.

    Args:
        archive: the archive.
        pairs: altnames; None for all that are held or were ever asked for.
        now_ns: what ages are counted to.

    Raises:
        ArchiveDamaged: files keep vanishing while they are listed.
        ArchiveTooNew: a newer harvester wrote one of them.
        ArchiveError: a folder can't be read.
    """
    gists = SegmentSummaryCache(archive)
    names = _names(archive)
    chosen = _all(archive) if pairs is None else pairs
    found = [_status_of(archive, gists, pair, now_ns) for pair in chosen]
    gists.save(whole=pairs is None)
    for one in found:
        one.wsname = names.get(one.pair, one).wsname
    return [one for one in found if one.files or one.wanted or one.damaged or pairs is not None]


class _Named(msgspec.Struct):
    wsname: str = ""


def _names(archive: TradeStore) -> dict[str, _Named]:
    """Names for people; that they can't be read keeps nobody from a status."""
    try:
        raw = metadata.known_pairs(archive.store)
        return msgspec.json.decode(raw, type=dict[str, _Named]) if raw else {}
    except (ArchiveError, *BAD_JSON):
        return {}


def _all(archive: TradeStore) -> list[str]:
    held = {name.removeprefix("pair=") for name in archive.store.folders("trades")}
    asked = {
        entry.path.removeprefix("wanted/").removesuffix(".json")
        for entry in archive.store.files("wanted")
        if entry.path.endswith(".json")
    }
    return sorted(held | asked)


def _status_of(
    archive: TradeStore, gists: SegmentSummaryCache, pair: str, now_ns: int
) -> PairStatus:
    return with_snapshot_retry(lambda: _look(archive, gists, pair, now_ns), pair)


def _look(archive: TradeStore, gists: SegmentSummaryCache, pair: str, now_ns: int) -> PairStatus:
    found = PairStatus(pair)
    try:
        listed = _listed(archive, pair)
    except ArchiveDamaged as damage:
        found.damaged.append(str(damage))
        return found
    known: dict[Segment, SegmentSummary] = {}
    for segment, entry in listed.items():
        try:
            known[segment] = gists.get(entry)
        except ArchiveDamaged as damage:
            found.damaged.append(str(damage))
    _add_up(found, listed, known)
    _compare(found, archive, listed, now_ns)
    if found.coverage:
        found.age_s = max(0, now_ns - found.coverage[-1].through) // SECOND
    density = Density(known)
    found.calls_for_gaps = density.calls(found.gaps)
    ahead = [Range(one.through, now_ns) for one in found.coverage[-1:] if one.through < now_ns]
    found.calls_to_now = density.calls(ahead)
    _count_rollups(found, archive, {one.path for one, gist in known.items() if gist.rows})
    return found


def _listed(archive: TradeStore, pair: str) -> dict[Segment, Entry]:
    """A pair's segments by `after`, the widest first, as the store lists them."""
    entries = pair_files(archive.store, pair)
    parsed = ((parse_path(*entry), entry) for entry in entries)
    found = [(one, entry) for one, entry in parsed if one is not None and one.pair == pair]
    found.sort(key=lambda both: (both[0].range.after, -both[0].range.through))
    return dict(found)


def _add_up(
    found: PairStatus, listed: Iterable[Segment], known: dict[Segment, SegmentSummary]
) -> None:
    segments = list(listed)
    found.files = len(segments)
    found.bytes = sum(segment.size for segment in segments)
    found.coverage = union(segment.range for segment in segments)
    found.trades = sum(
        known[piece.segment].rows for piece in pieces_of(segments) if piece.segment in known
    )
    firsts = [gist.first_ns for gist in known.values() if gist.first_ns is not None]
    lasts = [gist.last_ns for gist in known.values() if gist.last_ns is not None]
    found.first_ns, found.last_ns = min(firsts, default=None), max(lasts, default=None)


def _compare(
    found: PairStatus, archive: TradeStore, segments: Iterable[Segment], now_ns: int
) -> None:
    try:
        found.wanted = archive.wanted(found.pair)
    except ArchiveDamaged as damage:
        found.damaged.append(str(damage))
    found.gaps = missing(without_future(found.wanted, now_ns), found.coverage)
    try:
        check_not_torn(archive, found.pair)
    except ArchiveDamaged as damage:
        found.damaged.append(str(damage))
    found.damaged += [
        future_message(archive, segment, now_ns) for segment in ending_in_future(segments, now_ns)
    ]


def _count_rollups(found: PairStatus, archive: TradeStore, with_rows: set[str]) -> None:
    found.rollups_wanted = len(with_rows)
    for rollup in archive.rollups(found.pair):
        if rollup.segment_path in with_rows:
            found.rollups[rollup.interval] = found.rollups.get(rollup.interval, 0) + 1


class Density:
    """How many trades a span holds, judged by the segments that lie next to it."""

    def __init__(self, known: dict[Segment, SegmentSummary]) -> None:
        """`known`: a pair's segments by `after`, and what their footers tell."""
        self._spans = [
            (Range(max(one.range.after, gist.first_ns - 1), one.range.through), gist.rows)
            for one, gist in known.items()
            if gist.first_ns is not None
        ]

    def calls(self, spans: Iterable[Range]) -> int | None:
        """Roughly how many calls these spans take; None where no trade tells a density."""
        total = 0
        for span in spans:
            if not self._spans:
                return None
            trades = self._a_ns(span) * max(0, span.through - max(span.after, BEGINNING_NS))
            total += math.ceil(trades / PAGE_ROWS) + CALLS_A_GAP
        return total

    def _a_ns(self, span: Range) -> float:
        """Trades a nanosecond, by the nearest segment with trades on either side."""
        before = [one for one in self._spans if one[0].through <= span.after][-1:]
        behind = [one for one in self._spans if one[0].after >= span.through][:1]
        beside = before + behind or self._spans[-1:]
        return sum(rows for _, rows in beside) / sum(one.through - one.after for one, _ in beside)
