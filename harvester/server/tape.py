"""Pages of one pair's tape, cut from rendered stretches of it that are kept for the next page."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

from harvester.errors import ArchiveDamaged
from harvester.schema import joined, times
from harvester.server.rendering import Rendered, render
from harvester.storage.segment import Segment, read_batches
from harvester.storage.trade_store import LISTINGS, Archive, Piece
from harvester.times import Range, missing

LISTED_FOR_S = 1.0
"""A listing serves for so long: an archive grows by a segment every half minute at most."""

MOST_BYTES = 160 * 1024 * 1024
"""What rendered stretches may take: some sixteen row groups, two for each pair of a usual crawl."""

Clock = Callable[[], float]


class Page(NamedTuple):
    """Some rows as JSON, a comma behind each, and the last one's time; no rows: b"" and None.

    `whole`: there are as many as were asked for; a shorter page says that nothing follows.
    """

    text: bytes
    last_ns: int | None
    whole: bool


class Cell(NamedTuple):
    """A stretch of one segment: rendered at once, as long as a row group or so."""

    segment: Segment
    within: Range
    pair_decimals: int


class Shelf:
    """Rendered cells, the least lately used of which go first."""

    def __init__(self, archive: Archive, most_bytes: int = MOST_BYTES) -> None:
        """Nothing is read before it is asked for."""
        self._archive = archive
        self._most_bytes = most_bytes
        self._cells: OrderedDict[Cell, Rendered] = OrderedDict()
        self.bytes = 0

    def get(self, cell: Cell) -> Rendered:
        """The rows of a cell, rendered now or before.

        Raises:
            FileNotFoundError: its segment is gone; list again.
            ArchiveDamaged: its segment can't be read.
        """
        if cell not in self._cells:
            found = list(read_batches(self._archive.store, cell.segment.path, cell.within))
            self._cells[cell] = render(joined(found), cell.pair_decimals)
            self.bytes += self._cells[cell].size
        self._cells.move_to_end(cell)
        while self.bytes > self._most_bytes and len(self._cells) > 1:
            _, gone = self._cells.popitem(last=False)
            self.bytes -= gone.size
        return self._cells[cell]


class Tape:
    """One pair's tape, as it is now: the archive may grow and be compacted meanwhile."""

    def __init__(self, archive: Archive, pair: str, shelf: Shelf, clock: Clock) -> None:
        """`pair` is an altname; `clock` tells seconds that never run back."""
        self._archive = archive
        self._pair = pair
        self._shelf = shelf
        self._clock = clock
        self._pieces: list[Piece] = []
        self._listed_s: float | None = None
        self._edges: dict[Segment, list[int]] = {}

    @property
    def held(self) -> bool:
        """Whether the archive covers anything of this pair."""
        return bool(self._listing())

    @property
    def through(self) -> int:
        """Up to when coverage reaches; 0 where nothing is held."""
        pieces = self._listing()
        return pieces[-1].within.through if pieces else 0

    def hole_within(self, span: Range) -> Range | None:
        """The first stretch of a span that the archive does not cover; its end is no matter."""
        covered = [piece.within for piece in self._listing()]
        holes = missing([Range(span.after, max(span.through, span.after))], covered)
        return next((hole for hole in holes if hole.after < self.through), None)

    def page(self, since_ns: int | None, count: int, pair_decimals: int) -> Page:
        """Up to `count` rows published at `since_ns` or later, or the newest ones for None.

        Raises:
            ArchiveDamaged: a file can't be read, or files keep vanishing.
        """
        for _ in range(LISTINGS):
            try:
                if since_ns is None:
                    return self._newest(count, pair_decimals)
                return self._after(since_ns - 1, count, pair_decimals)
            except FileNotFoundError:
                self._listed_s = None
        raise ArchiveDamaged(f"files of {self._pair} keep vanishing while they are read: try again")

    def _after(self, after_ns: int, count: int, pair_decimals: int) -> Page:
        parts: list[memoryview] = []
        last = None
        pieces = self._listing()
        first = bisect_right(pieces, after_ns, key=lambda piece: piece.within.through)
        for cell in self._cells(pieces[first:], pair_decimals):
            if cell.within.through > after_ns:
                rows = self._shelf.get(cell)
                start = int(rows.stamps.searchsorted(after_ns, side="right"))
                stop = min(start + count, len(rows.stamps))
                parts.append(rows.rows(start, stop))
                last = int(rows.stamps[stop - 1])
                count -= stop - start
                if count == 0:
                    break
        return Page(b"".join(parts), last, whole=count == 0)

    def _newest(self, count: int, pair_decimals: int) -> Page:
        parts: list[memoryview] = []
        last = None
        for piece in reversed(self._listing()):
            for cell in reversed(list(self._cells([piece], pair_decimals))):
                rows = self._shelf.get(cell)
                stop = len(rows.stamps)
                start = max(0, stop - count)
                parts.append(rows.rows(start, stop))
                last = int(rows.stamps[-1]) if last is None else last
                count -= stop - start
                if count == 0:
                    return Page(b"".join(reversed(parts)), last, whole=True)
        return Page(b"".join(reversed(parts)), last, whole=False)

    def _listing(self) -> list[Piece]:
        now = self._clock()
        if self._listed_s is None or now - self._listed_s >= LISTED_FOR_S:
            self._pieces = self._archive.pieces(self._pair)
            self._listed_s = now
            there = {piece.segment for piece in self._pieces}
            self._edges = {one: at for one, at in self._edges.items() if one in there}
        return self._pieces

    def _cells(self, pieces: list[Piece], pair_decimals: int) -> Iterator[Cell]:
        """Pieces in parts that hold a row group or so each, none of them empty.

        They are cut between stamps and not between row groups: a group of one stamp may stand
        in two.
        """
        for piece in pieces:
            after = piece.within.after
            edges = self._edges_of(piece.segment)
            for one in pairwise([after, *(edge for edge in edges if edge > after)]):
                yield Cell(piece.segment, Range(*one), pair_decimals)

    def _edges_of(self, segment: Segment) -> list[int]:
        """The last stamp of each of a segment's row groups, ascending; read once."""
        if segment not in self._edges:
            batches = read_batches(self._archive.store, segment.path, columns=["time"])
            self._edges[segment] = sorted({int(times(batch)[-1]) for batch in batches})
        return self._edges[segment]
