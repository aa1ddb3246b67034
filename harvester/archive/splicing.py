"""What came from files gives way to what lies aside: segments are written anew, and replaced whole.

All new files are staged first, then renamed over those of the same name, one after the other.
A crash between any two steps leaves whole segments, and the tape aside, from which it goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec
import numpy as np
import pyarrow as pa

from harvester.archive.archive import Piece, pieces_of
from harvester.archive.aside import ASIDE, Upgraded, from_files
from harvester.archive.footers import Footer, Imported, Jump
from harvester.archive.schema import RowsChecksum
from harvester.archive.segments import Segment, read_batches
from harvester.archive.writer import Writer
from harvester.columns import clip, times, trade_ids
from harvester.errors import ArchiveDamaged
from harvester.times import Range, missing, overlap, year_end, year_of


@dataclass(frozen=True, slots=True)
class Made:
    """A segment, and the files that are to stand in its place: staged, and where they belong."""

    old: Segment
    files: list[tuple[str, str]]


def splice(writer: Writer, view: Upgraded, parts: Sequence[Range]) -> list[Segment]:
    """Let some ranges that came from files be told by what lies aside.

    Args:
        writer: of the pair; its lock is held.
        view: the archive as it is to be, which covers the parts.
        parts: what to replace, in order; all of it came from files.

    Returns:
        The segments that were written anew.

    Raises:
        ArchiveDamaged: a staged file does not read back; nothing was replaced.
        ArchiveUnwritable: the machine refused.
    """
    made = []
    span = Range(parts[0].after, parts[-1].through)
    for segment, _ in writer.archive.pieces(writer.pair, span):
        inner = [both for part in parts if (both := overlap(part, segment.range))]
        if inner:
            made.append(Made(segment, _Anew(writer, view, segment, inner).staged()))
    store, note = writer.archive.store, _note(writer)
    if len(made) > 1:
        # Where segments touch at a busy second, a trade may change sides: both, or none.
        store.write(note, msgspec.json.encode(parts), writer.pair)
    for one in made:
        _put(writer, one)
    store.remove(note)
    return [one.old for one in made]


def finish(writer: Writer, view: Upgraded) -> None:
    """Replace what is left of several segments that a crash kept from being replaced together.

    Raises:
        ArchiveUnwritable: the machine refused.
    """
    store, note = writer.archive.store, _note(writer)
    raw = store.read(note)
    if raw is None:
        return
    told = [part for _, part in from_files(writer.archive, writer.pair)]
    begun = msgspec.json.decode(raw, type=list[Range])
    aside = [one.range for one in view.aside(writer.pair)]
    left = [both for part in begun for one in told if (both := overlap(part, one))]
    if left and not missing(left, aside):
        splice(writer, view, sorted(left))
    store.remove(note)


def _note(writer: Writer) -> str:
    return f"{ASIDE}/replacing/{writer.pair}.json"


def checked(view: Upgraded, segment: Segment, parts: Sequence[Range]) -> Iterator[pa.RecordBatch]:
    """The rows of some parts of a segment, once all of it is held to its own checksum.

    Raises:
        ArchiveDamaged: at the end, where its rows are not those that its footer tells of.
    """
    footer, checksum = view.footer(segment), RowsChecksum()
    for batch in read_batches(view.store, segment.path):
        checksum.update(batch)
        yield from (some for part in parts if (some := clip(batch, part)).num_rows)
    if footer.range != segment.range or checksum.hexdigest() != footer.checksum:
        raise ArchiveDamaged(
            f"{view.location(segment)} holds other rows than its footer tells: it was not "
            f"upgraded. `harvester verify {segment.pair} --repair` mends it"
        )


def clear(writer: Writer, beside: Writer) -> None:
    """Take away what lies aside and is not wanted any more."""
    left = [part for _, part in from_files(writer.archive, writer.pair)]
    for one in beside.archive.segments(beside.pair):
        if not any(overlap(one.range, part) for part in left):
            beside.remove(one)
    if not beside.archive.segments(beside.pair):
        beside.archive.store.remove_folder(f"trades/pair={beside.pair}")


def _put(writer: Writer, made: Made) -> None:
    store, old = writer.archive.store, made.old
    # Answers are the same without roll-ups, and never come from those of other rows.
    writer.remove_rollups(old)
    # Behind the old one, where it hides them, the last one first: so they show all at once.
    for staged, path in reversed(made.files):
        store.commit(staged, path)
    writer.archive.forget(old)
    if all(path != old.path for _, path in made.files):
        writer.remove(old)


class _Anew:
    """One segment on its way to be written anew."""

    def __init__(
        self, writer: Writer, view: Upgraded, segment: Segment, inner: Sequence[Range]
    ) -> None:
        self._writer = writer
        self._view = view
        self._segment = segment
        self._inner = inner
        aside = view.aside(segment.pair)
        kept = [Piece(segment, part) for part in missing([segment.range], inner)]
        new = [piece for part in inner for piece in pieces_of(aside, part)]
        self._keeps = bool(kept)
        self._sources = sorted([*kept, *new], key=lambda piece: piece.within)

    def staged(self) -> list[tuple[str, str]]:
        parts = self._by_year()
        return [
            self._writer.stage(self._rows(part), self._footer(part, is_last=part == parts[-1]))
            for part in parts
        ]

    def _by_year(self) -> list[Range]:
        """The segment's range, cut where the year turns between rows.

        The API may know of a trade in another year than the file: by half a second, or because
        the file lacks it.
        """
        years: list[int] = []
        for piece in self._sources:
            for batch in read_batches(self._view.store, piece.segment.path, piece.within, ["time"]):
                years += _years(times(batch)[[0, -1]], times(batch))
        found = sorted(set(years))
        turns = [year_end(year) for year in found[:-1]]
        ends = [self._segment.range.after, *turns, self._segment.range.through]
        return [Range(*both) for both in pairwise(ends)]

    def _within(self, part: Range) -> Iterator[Piece]:
        for piece in self._sources:
            if both := overlap(piece.within, part):
                yield Piece(piece.segment, both)

    def _rows(self, part: Range) -> Iterator[pa.RecordBatch]:
        for segment, within in self._within(part):
            yield from read_batches(self._view.store, segment.path, within)

    def _footer(self, part: Range, *, is_last: bool) -> Footer:
        old = self._view.footer(self._segment)
        new = [piece for piece in self._within(part) if piece.segment != self._segment]
        footers = [self._view.footer(piece.segment) for piece in new]
        imported = tuple(_less(old.imported, part, self._inner))
        names = [name for name in old.source.split("+") if name != "csv" or imported]
        # What the old one tells of ids is of its trades from the API, where it has some.
        told = self._keeps and is_last
        unasked = sum(one.unasked_jumps for one in footers)
        ends_aside = self._sources[-1].segment != self._segment
        cursors = [one.cursor for one in reversed(footers)]
        cursors = [*cursors, old.cursor] if ends_aside else [old.cursor, *cursors]
        jumps = [jump for piece in new for jump in self._jumps(piece)]
        return Footer(
            range=part,
            pair=footers[-1].pair if footers else old.pair,
            source="+".join(dict.fromkeys([*names, "api"])),
            cursor=next((one for one in cursors if one), None),
            jumps=tuple(dict.fromkeys([*(old.jumps if told else ()), *jumps])),
            unasked_jumps=unasked + (old.unasked_jumps if told else 0),
            imported=imported,
        )

    def _jumps(self, piece: Piece) -> Iterable[Jump]:
        """Those of a segment aside that stand in a piece of it."""
        jumps = self._view.footer(piece.segment).jumps
        if not jumps or piece.within == piece.segment.range:
            return jumps
        batches = read_batches(
            self._view.store, piece.segment.path, piece.within, ["trade_id", "time"]
        )
        ids = np.concatenate([np.empty(0, dtype=np.int64), *map(trade_ids, batches)])
        return [one for one in jumps if np.isin([one.after_id, one.before_id], ids).any()]


def _years(ends: np.ndarray, stamps: np.ndarray) -> list[int]:
    first, last = year_of(int(ends[0])), year_of(int(ends[1]))
    return [
        year
        for year in range(first, last + 1)
        if ((stamps > year_end(year - 1)) & (stamps <= year_end(year))).any()
    ]


def _less(imported: Sequence[Imported], part: Range, inner: Sequence[Range]) -> Iterator[Imported]:
    """What came from files, within a part, and is not replaced."""
    for one in imported:
        if both := overlap(Range(one.after, one.through), part):
            for rest in missing([both], inner):
                yield one._replace(after=rest.after, through=rest.through)
