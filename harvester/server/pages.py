"""Pages of trades as JSON, rendered once and kept for the next request."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harvester.schema import PRICE, VOLUME, Int64s, decimal_words, joined, times
from harvester.storage.segment import Segment, read_batches
from harvester.storage.trade_store import Piece, TradeStore, with_snapshot_retry
from harvester.times import Range, missing

# --- rendering ------------------------------------------------------------------------------------

_LETTERS = {"buy": "b", "sell": "s", "market": "m", "limit": "l"}


@dataclass(frozen=True, slots=True)
class Rendered:
    """A stretch of the tape, ready to be cut into pages.

    Attributes:
        stamps: published times in nanoseconds, ascending; shape (rows,).
        text: the rows as JSON one after the other, each with a comma behind it.
        ends: where each row begins and the last one ends in `text`; shape (rows + 1,).
    """

    stamps: Int64s
    text: memoryview
    ends: NDArray[np.int32]

    @property
    def size(self) -> int:
        """Bytes of memory that this takes."""
        return len(self.text) + self.stamps.nbytes + self.ends.nbytes

    def rows(self, start: int, stop: int) -> memoryview:
        """The JSON of some rows, a comma behind each."""
        return self.text[int(self.ends[start]) : int(self.ends[stop])]


def render(trades: pa.RecordBatch, pair_decimals: int) -> Rendered:
    """Rows of `archive.schema.TRADES` as Kraken's rows.

    A price shows `pair_decimals` and whatever digits it has beyond them; a time shows all its
    digits up to the last that is not zero, as text: a float has no room for them.
    """
    stamps = np.ascontiguousarray(times(trades))
    price = _trimmed(_decimals(trades.column("price"), PRICE), PRICE.scale, pair_decimals)
    volume = _decimals(trades.column("volume"), VOLUME)
    text = pc.binary_join_element_wise(
        '["',
        price,
        '","',
        volume,
        '",',
        _trimmed(_fixed(stamps, 9), 9, 0),
        ',"',
        _letters(trades.column("side")),
        '","',
        _letters(trades.column("order_type")),
        '",',
        _quoted(trades.column("misc")),
        ",",
        trades.column("trade_id").fill_null(0).cast(pa.string()),
        "],",
        "",
    )
    _, ends, data = text.buffers()
    places = np.frombuffer(ends, dtype=np.int32)[text.offset : text.offset + len(text) + 1]
    return Rendered(stamps, memoryview(data), places)


def _decimals(values: pa.Array, kind: Any) -> pa.Array:  # noqa: ANN401 - pyarrow has no types
    """Decimals as text with all digits of their scale, never in scientific notation."""
    low, high = decimal_words(values)
    if high.any() or (low < 0).any():
        # Below zero, or beyond 64 bits as volumes of the tiniest coins are: slow, and as exact.
        return pa.array([f"{value:f}" for value in values.to_pylist()], pa.string())
    return _fixed(low, kind.scale)


def _fixed(units: Int64s, scale: int) -> pa.Array:
    """Whole numbers of 10^-scale as text with that many decimals; none is negative."""
    whole, fraction = np.divmod(units, 10**scale)
    digits = pc.utf8_lpad(pa.array(fraction).cast(pa.string()), width=scale, padding="0")
    return pc.binary_join_element_wise(pa.array(whole).cast(pa.string()), digits, ".")


def _trimmed(texts: pa.Array, scale: int, least: int) -> pa.Array:
    """Texts of `scale` decimals without zeros at their end, but with `least` decimals."""
    spare = scale - max(0, min(scale, least))
    if spare == 0:
        return texts
    kept = pc.utf8_slice_codeunits(texts, 0, -spare)
    tail = pc.utf8_rtrim(pc.utf8_slice_codeunits(texts, -spare), characters="0")
    return pc.utf8_rtrim(pc.binary_join_element_wise(kept, tail, ""), characters=".")


def _letters(words: pa.DictionaryArray) -> pa.Array:
    letters = pa.array([_LETTERS[word] for word in words.dictionary.to_pylist()], pa.string())
    return letters.take(words.indices).fill_null("")


def _quoted(words: pa.DictionaryArray) -> pa.Array:
    quoted = [msgspec.json.encode(word).decode() for word in words.dictionary.to_pylist()]
    return pa.array(quoted, pa.string()).take(words.indices).fill_null('""')


# --- tape -----------------------------------------------------------------------------------------

LISTED_FOR_S = 1.0
"""A listing serves for so long: an archive grows by a segment every half minute at most."""

MOST_BYTES = 160 * 1024 * 1024
"""What rendered stretches may take: some sixteen row groups, two for each pair of a usual crawl."""

Clock = Callable[[], float]


class RenderedPage(NamedTuple):
    """Some rows as JSON, a comma behind each, and the last one's time; no rows: b"" and None.

    `whole`: there are as many as were asked for; a shorter page says that nothing follows.
    """

    text: bytes
    last_ns: int | None
    whole: bool


class RenderedChunk(NamedTuple):
    """A stretch of one segment: rendered at once, as long as a row group or so."""

    segment: Segment
    within: Range
    pair_decimals: int


class RenderedPageCache:
    """Rendered cells, the least lately used of which go first."""

    def __init__(self, archive: TradeStore, most_bytes: int = MOST_BYTES) -> None:
        """Nothing is read before it is asked for."""
        self._archive = archive
        self._most_bytes = most_bytes
        self._cells: OrderedDict[RenderedChunk, Rendered] = OrderedDict()
        self.bytes = 0

    def get(self, cell: RenderedChunk) -> Rendered:
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


class TradePages:
    """One pair's tape, as it is now: the archive may grow and be compacted meanwhile."""

    def __init__(
        self, archive: TradeStore, pair: str, shelf: RenderedPageCache, clock: Clock
    ) -> None:
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

    def gap_within(self, span: Range) -> Range | None:
        """The first stretch of a span that the archive does not cover; its end is no matter."""
        covered = [piece.within for piece in self._listing()]
        gaps = missing([Range(span.after, max(span.through, span.after))], covered)
        return next((gap for gap in gaps if gap.after < self.through), None)

    def page(self, since_ns: int | None, count: int, pair_decimals: int) -> RenderedPage:
        """Up to `count` rows published at `since_ns` or later, or the newest ones for None.

        Raises:
            ArchiveDamaged: a file can't be read, or files keep vanishing.
        """

        def read() -> RenderedPage:
            try:
                if since_ns is None:
                    return self._newest(count, pair_decimals)
                return self._after(since_ns - 1, count, pair_decimals)
            except FileNotFoundError:
                self._listed_s = None
                raise

        return with_snapshot_retry(read, self._pair)

    def _after(self, after_ns: int, count: int, pair_decimals: int) -> RenderedPage:
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
        return RenderedPage(b"".join(parts), last, whole=count == 0)

    def _newest(self, count: int, pair_decimals: int) -> RenderedPage:
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
                    return RenderedPage(b"".join(reversed(parts)), last, whole=True)
        return RenderedPage(b"".join(reversed(parts)), last, whole=False)

    def _listing(self) -> list[Piece]:
        now = self._clock()
        if self._listed_s is None or now - self._listed_s >= LISTED_FOR_S:
            self._pieces = self._archive.pieces(self._pair)
            self._listed_s = now
            there = {piece.segment for piece in self._pieces}
            self._edges = {one: at for one, at in self._edges.items() if one in there}
        return self._pieces

    def _cells(self, pieces: list[Piece], pair_decimals: int) -> Iterator[RenderedChunk]:
        """Pieces in parts that hold a row group or so each, none of them empty.

        They are cut between stamps and not between row groups: a group of one stamp may stand
        in two.
        """
        for piece in pieces:
            after = piece.within.after
            edges = self._edges_of(piece.segment)
            for one in pairwise([after, *(edge for edge in edges if edge > after)]):
                yield RenderedChunk(piece.segment, Range(*one), pair_decimals)

    def _edges_of(self, segment: Segment) -> list[int]:
        """The last stamp of each of a segment's row groups, ascending; read once."""
        if segment not in self._edges:
            batches = read_batches(self._archive.store, segment.path, columns=["time"])
            self._edges[segment] = sorted({int(times(batch)[-1]) for batch in batches})
        return self._edges[segment]
