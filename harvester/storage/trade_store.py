"""The stored trades of all pairs as readers see them: segments, coverage, gaps, and scans."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import wraps
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

import pyarrow as pa

from harvester.errors import ArchiveDamaged
from harvester.schema import times, trade_ids
from harvester.storage import metadata
from harvester.storage.filesystem import LocalStore, Store
from harvester.storage.footer import Footer
from harvester.storage.rollup_files import RollUp, agrees, list_rollups
from harvester.storage.segment import (
    Segment,
    pair_files,
    parse_path,
    read_batches,
    read_footer,
    time_bounds,
)
from harvester.times import DAY, END_OF_TIME, Range, enclosing_range, missing, show, union

# --- archive --------------------------------------------------------------------------------------

EVERYTHING = Range(0, END_OF_TIME)
LISTINGS = 20
"""How often a reader lists again when files vanish under it, before it calls that damage."""

A = TypeVar("A", bound="TradeStore")
P = ParamSpec("P")
T = TypeVar("T")


class Piece(NamedTuple):
    """A segment to be read, and what of it: only rows published in `within`."""

    segment: Segment
    within: Range


def pieces_of(segments: Iterable[Segment], span: Range = EVERYTHING) -> list[Piece]:
    """See `Archive.pieces`; `segments` as they are listed."""
    pieces: list[Piece] = []
    reached = span.after
    for segment in segments:
        if segment.range.through <= reached or segment.range.after >= span.through:
            continue
        part = Range(max(reached, segment.range.after), min(span.through, segment.range.through))
        pieces.append(Piece(segment, part))
        reached = part.through
    return pieces


@dataclass(slots=True)
class _Known:
    """What is remembered of a pair's files."""

    footers: dict[Segment, Footer] = field(default_factory=dict)
    bounds: dict[Segment, tuple[int, int] | None] = field(default_factory=dict)
    agreed: set[tuple[RollUp, str]] = field(default_factory=set)


def listed_again(
    ask: Callable[Concatenate[A, str, P], T],
) -> Callable[Concatenate[A, str, P], T]:
    """Ask of a pair, and ask again where files are gone by then, merged by its writer."""

    @wraps(ask)
    def asked(archive: A, pair: str, /, *args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(LISTINGS):
            try:
                return ask(archive, pair, *args, **kwargs)
            except FileNotFoundError:
                continue
        raise ArchiveDamaged(f"files of {pair} keep vanishing while they are read: try again")

    return asked


class TradeStore:
    """A folder of segments. Reading needs no lock; a pair is written by its one `Writer`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the archive at `path`, which need not exist yet.

        Raises:
            ArchiveTooNew: a newer harvester made it.
            ArchiveDamaged: its mark can't be read.
        """
        local = LocalStore(path)
        self.path = str(path)
        self.root = local.root
        self.store: Store = local
        # By pair, as one thread may forget a pair while another learns of the next.
        self._known: dict[str, _Known] = {}
        metadata.check_mark(self.store)

    def held(self) -> list[str]:
        """The altnames of the pairs that have segments, or whose folder is refused as a link."""
        names = [name.removeprefix("pair=") for name in self.store.folders("trades")]
        return [name for name in names if self._has_segments(name)]

    def _has_segments(self, pair: str) -> bool:
        try:
            return bool(self.segments(pair))
        except ArchiveDamaged:
            # Whoever asks for this pair is told so; the others can be asked for.
            return True

    def named(self) -> list[str]:
        """The altnames of the pairs that are held, or were ever asked for."""
        wanted = [
            entry.path.removeprefix("wanted/").removesuffix(".json")
            for entry in self.store.files("wanted")
            if entry.path.endswith(".json")
        ]
        return sorted({*self.held(), *wanted})

    def strangers(self, pair: str) -> list[str]:
        """Parquet files under `trades/` that are no segments, and that plain readers count.

        Those in the pair's folder, and those that stand in no pair's folder.

        Raises:
            ArchiveDamaged: a folder is a symbolic link.
        """
        entries = pair_files(self.store, pair)
        entries += self.store.files("trades", refuse_links=True, but="trades/pair=")
        paths = [entry.path for entry in entries if parse_path(*entry) is None]
        return sorted(path for path in paths if path.endswith(".parquet"))

    def to_verify(self) -> list[str]:
        """The altnames of the pairs that are named, or have a folder with any Parquet file."""
        folders = [
            name.removeprefix("pair=")
            for name in self.store.folders("trades")
            if name.startswith("pair=")
        ]
        return sorted({*self.named(), *(name for name in folders if self._has_files(name))})

    def _has_files(self, pair: str) -> bool:
        entries = self.store.files(f"trades/pair={pair}")
        return any(entry.path.endswith(".parquet") for entry in entries)

    def segments(self, pair: str) -> list[Segment]:
        """A pair's segments by `after`, the widest first: the listing alone, no file is opened."""
        listed = (parse_path(*entry) for entry in pair_files(self.store, pair))
        found = [one for one in listed if one is not None and one.pair == pair]
        return sorted(found, key=lambda one: (one.range.after, -one.range.through))

    def coverage(self, pair: str) -> list[Range]:
        """What has been fetched whole, in order, as few ranges as can be."""
        return union(segment.range for segment in self.segments(pair))

    def wanted(self, pair: str) -> list[Range]:
        """What was ever asked for; all between the first segment and the last if that was lost.

        Raises:
            ArchiveDamaged: what is on record can't be read.
        """
        return metadata.wanted(self.store, pair) or enclosing_range(self.coverage(pair))

    def gaps(self, pair: str) -> list[Range]:
        """What was wanted and is not covered."""
        return missing(self.wanted(pair), self.coverage(pair))

    def pieces(self, pair: str, span: Range = EVERYTHING) -> list[Piece]:
        """What to read, in order, for the tape of `span`: each moment from one file only.

        From each file only what lies past the coverage so far is taken, so this is right at
        every moment of a compaction.
        """
        return pieces_of(self.segments(pair), span)

    def footer(self, segment: Segment) -> Footer:
        """What a segment says of itself; read once, as segments never change.

        Raises:
            FileNotFoundError: it is gone; list again.
        """
        footers = self._of(segment.pair).footers
        footer = footers.get(segment)
        if footer is None:
            footer = footers[segment] = read_footer(self.store, segment.path)
        return footer

    @listed_again
    def market(self, pair: str) -> Footer | None:
        """The first footer that tells the market's key, which the whole folder is taken to be of.

        None where no footer tells it. Files that can't be read tell nothing here.

        Raises:
            ArchiveDamaged: files keep vanishing.
        """
        for segment in self.segments(pair):
            with suppress(ArchiveDamaged):
                footer = self.footer(segment)
                if footer.key:
                    return footer
        return None

    def _of(self, pair: str) -> _Known:
        return self._known.setdefault(pair, _Known())

    def forget(self, segment: Segment) -> None:
        """Drop what is remembered of a segment that goes."""
        known = self._of(segment.pair)
        known.footers.pop(segment, None)
        known.bounds.pop(segment, None)

    def forget_pair(self, pair: str) -> None:
        """Drop all that is remembered of a pair, as other hands may have changed its files."""
        self._known.pop(pair, None)

    def rollups(self, pair: str) -> list[RollUp]:
        """A pair's roll-ups of every level: the listing alone, no file is opened."""
        return list_rollups(self.store, pair)

    def serves(self, rollup: RollUp, segment: Segment) -> bool:
        """Whether a roll-up was made from the very rows of a segment.

        Raises:
            FileNotFoundError: one of them is gone; list again.
        """
        footer = self.footer(segment)
        known, agreed = (rollup, footer.checksum), self._of(segment.pair).agreed
        if known not in agreed and agrees(self.store, rollup, footer):
            agreed.add(known)
        return known in agreed

    def location(self, segment: Segment | RollUp) -> str:
        """The name that any Parquet reader opens a file by."""
        return self.store.location(segment.path)

    def scan(self, pair: str, span: Range = EVERYTHING) -> Iterator[pa.RecordBatch]:
        """The tape of a span as batches of `TRADES`, in order, whoever is writing meanwhile.

        Raises:
            ArchiveDamaged: a file can't be read, or files keep vanishing.
        """
        # A batch may end inside a group of equal time: `given` rows past `reached` are out already.
        reached, given = span.after, 0
        for _ in range(LISTINGS):
            skip = given
            try:
                for piece in self.pieces(pair, Range(reached, span.through)):
                    for batch in read_batches(self.store, piece.segment.path, piece.within):
                        fresh = batch.slice(skip)
                        skip -= batch.num_rows - fresh.num_rows
                        if fresh.num_rows:
                            yield fresh
                            reached = int(times(fresh)[-1]) - 1
                            given = fresh.column("tie")[-1].as_py() + 1
                    reached, given = piece.within.through, 0
            except FileNotFoundError:
                continue
            return
        raise ArchiveDamaged(f"files of {pair} keep vanishing while they are read: try again")

    @listed_again
    def last_id_before(self, pair: str, moment: int) -> tuple[int, int, int] | None:
        """The nearest id at or before a moment that coverage reaches without a gap.

        Returns the id, how many rows without one stand between it and the moment, and its
        published time; None where coverage does not reach the moment, or no row has an id.
        """
        between, at = 0, moment
        for segment in reversed(self.segments(pair)):
            if segment.range.through != at:
                continue
            footer = self.footer(segment)
            if footer.last_trade_id is not None:
                time_ns = self._time_of_last_id(segment, footer)
                return footer.last_trade_id, between + footer.trail, time_ns
            between += footer.rows
            at = segment.range.after
        return None

    @listed_again
    def first_id_behind(self, pair: str, moment: int) -> tuple[int, int] | None:
        """The nearest id after a moment, likewise, and the rows without one before it."""
        between, at = 0, moment
        for segment in self.segments(pair):
            if segment.range.after != at:
                continue
            footer = self.footer(segment)
            if footer.first_trade_id is not None:
                return footer.first_trade_id, between + footer.lead
            between += footer.rows
            at = segment.range.through
        return None

    def _time_of_last_id(self, segment: Segment, footer: Footer) -> int:
        bounds = self.bounds(segment)
        if footer.trail == 0 and bounds is not None:
            return bounds[1]
        found = 0
        for batch in read_batches(self.store, segment.path, columns=["trade_id", "time"]):
            places = trade_ids(batch).nonzero()[0]
            if len(places):
                found = int(times(batch)[places[-1]])
        return found

    @listed_again
    def last_time(self, pair: str, moment: int) -> int | None:
        """The published time of the last trade held at or before a moment; None for none."""
        pieces = reversed(self.pieces(pair, Range(0, moment)))
        return next(
            (found for piece in pieces if (found := self.last_time_in(piece)) is not None), None
        )

    @listed_again
    def is_imported(self, pair: str, moment: int) -> bool:
        """Whether what covers a moment came out of a file: times may be whole seconds there."""
        pieces = self.pieces(pair, Range(moment - 1, moment))
        return any(self.footer(piece.segment).imported for piece in pieces)

    def last_time_in(self, piece: Piece) -> int | None:
        """The published time of the last trade of a piece; None for none."""
        bounds = self.bounds(piece.segment)
        if bounds is None or bounds[0] > piece.within.through:
            return None
        if bounds[1] <= piece.within.through:
            return bounds[1] if bounds[1] > piece.within.after else None
        # The piece ends inside the segment, so its rows have to be asked.
        batches = list(read_batches(self.store, piece.segment.path, piece.within, ["time"]))
        return int(times(batches[-1])[-1]) if batches else None

    def bounds(self, segment: Segment) -> tuple[int, int] | None:
        """The first and last published time of a segment, None where it has no rows."""
        known = self._of(segment.pair).bounds
        if segment not in known:
            rows = self.footer(segment).rows
            known[segment] = bounds = time_bounds(self.store, segment.path) if rows else None
            return bounds
        return known.get(segment)


# --- future ---------------------------------------------------------------------------------------

# Such a range claims that there are no trades in time that is still to come, so later runs would
# never download them.

TOLERANCE_NS = DAY
"""A clock may be off by this much before what it says is called implausible."""


def ending_in_future(segments: Iterable[Segment], now_ns: int) -> list[Segment]:
    """The segments whose range ends after `now_ns`, by more than the tolerance."""
    return [segment for segment in segments if segment.range.through > now_ns + TOLERANCE_NS]


def fault_of(segment: Segment, now_ns: int) -> str:
    """What is wrong with a segment whose range ends in the future, for people."""
    return (
        f"its range ends in the future, at {show(segment.range.through)}, while this machine's "
        f"clock says {show(now_ns)}: one clock was or is wrong, and trades may be missing"
    )


def advice(archive: TradeStore, segment: Segment, now_ns: int) -> str:
    """The same with the name of the file, and what to do."""
    return (
        f"{archive.location(segment)}: {fault_of(segment, now_ns)}; if this machine's clock is "
        f"right, `harvester verify {segment.pair} --repair` cuts the range"
    )


def check_not_in_future(archive: TradeStore, pair: str, now_ns: int) -> None:
    """Refuse coverage that ends in the future.

    Raises:
        ArchiveDamaged: a segment's range does.
    """
    for segment in ending_in_future(archive.segments(pair), now_ns):
        raise ArchiveDamaged(advice(archive, segment, now_ns))


def without_future(
    wanted: Iterable[Range], now_ns: int, until_ns: int | None = None
) -> list[Range]:
    """Requested ranges, those that end in the future cut to end at `until_ns`, or now.

    No run requests the future, so only a wrong clock leaves such ranges.
    """
    limit_ns = now_ns if until_ns is None else until_ns
    cut = (
        span._replace(through=min(span.through, limit_ns))
        if span.through > now_ns + TOLERANCE_NS
        else span
        for span in wanted
    )
    return [span for span in cut if span.after < span.through]
