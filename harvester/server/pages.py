"""Render pages of trades as JSON in Kraken's form, and cache what was rendered."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harvester.exporters.formats import decimal_text, fixed_text
from harvester.schema import PRICE, Int64s, joined, times
from harvester.storage.parquet_files import read_batches
from harvester.storage.segment import Segment
from harvester.storage.trade_store import Piece, TradeStore, with_snapshot_retry
from harvester.times import Range, missing

# --- Rendering ------------------------------------------------------------------------------------

_LETTERS = {"buy": "b", "sell": "s", "market": "m", "limit": "l"}


@dataclass(frozen=True, slots=True)
class RenderedRows:
    """Rows of the trade history as JSON, from which pages are cut.

    Attributes:
        times_ns: published times, ascending; shape (rows,).
        text: the rows as JSON, each followed by a comma.
        offsets: where each row begins in `text`, and where the last one ends; shape (rows + 1,).
    """

    times_ns: Int64s
    text: memoryview
    offsets: NDArray[np.int32]

    @property
    def size(self) -> int:
        """Size in memory, in bytes."""
        return len(self.text) + self.times_ns.nbytes + self.offsets.nbytes

    def rows(self, start: int, stop: int) -> memoryview:
        """The JSON of the rows from index `start` up to before `stop`, each followed by a comma."""
        return self.text[int(self.offsets[start]) : int(self.offsets[stop])]


def render(trades: pa.RecordBatch, pair_decimals: int) -> RenderedRows:
    """Render a batch of `schema.TRADES` as Kraken's JSON rows.

    A time is printed without trailing zeros, from its integer: a float can't hold all its digits.

    Args:
        trades: the rows.
        pair_decimals: decimals of a price; more are printed if the price has more.
    """
    times_ns = np.ascontiguousarray(times(trades))
    price = _trimmed(decimal_text(trades.column("price")), PRICE.scale, pair_decimals)
    text = pc.binary_join_element_wise(
        '["',
        price,
        '","',
        decimal_text(trades.column("volume")),
        '",',
        _trimmed(fixed_text(times_ns, 9), 9, 0),
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
    _, offset_buffer, data = text.buffers()
    offsets = np.frombuffer(offset_buffer, dtype=np.int32)
    return RenderedRows(
        times_ns, memoryview(data), offsets[text.offset : text.offset + len(text) + 1]
    )


def _trimmed(texts: pa.Array, scale: int, min_decimals: int) -> pa.Array:
    """Texts with `scale` decimals without trailing zeros, but with at least `min_decimals`."""
    optional = scale - max(0, min(scale, min_decimals))
    if optional == 0:
        return texts
    kept = pc.utf8_slice_codeunits(texts, 0, -optional)
    tail = pc.utf8_rtrim(pc.utf8_slice_codeunits(texts, -optional), characters="0")
    return pc.utf8_rtrim(pc.binary_join_element_wise(kept, tail, ""), characters=".")


def _letters(words: pa.DictionaryArray) -> pa.Array:
    """Sides or order types as Kraken's letters; empty for null."""
    letters = pa.array([_LETTERS[word] for word in words.dictionary.to_pylist()], pa.string())
    return letters.take(words.indices).fill_null("")


def _quoted(words: pa.DictionaryArray) -> pa.Array:
    """Texts as JSON strings; an empty one for null."""
    quoted = [msgspec.json.encode(word).decode() for word in words.dictionary.to_pylist()]
    return pa.array(quoted, pa.string()).take(words.indices).fill_null('""')


# --- Pages ----------------------------------------------------------------------------------------

LISTING_TTL_S = 1.0
"""A listing is used for this long: an archive gets a new segment every half minute at most."""

CACHE_BYTES = 160 * 1024 * 1024
"""Most memory of rendered rows: about sixteen row groups, two for each of eight pairs."""

Clock = Callable[[], float]
"""A monotonic clock in seconds."""


class RenderedPage(NamedTuple):
    """A page of rows as JSON.

    Attributes:
        text: the rows, each followed by a comma.
        last_ns: the time of the last row; None without rows.
        is_full: whether it has as many rows as were requested. If not, nothing follows it.
    """

    text: bytes
    last_ns: int | None
    is_full: bool


class RenderedChunk(NamedTuple):
    """The key of rows that are rendered together: a part of a segment, about one row group."""

    segment: Segment
    within: Range
    pair_decimals: int


class RenderedPageCache:
    """A cache of rendered rows that drops the least recently used ones."""

    def __init__(self, archive: TradeStore, max_bytes: int = CACHE_BYTES) -> None:
        """An empty cache.

        Args:
            archive: where segments are read.
            max_bytes: the size that the cache may have.
        """
        self._archive = archive
        self._max_bytes = max_bytes
        self._rows: OrderedDict[RenderedChunk, RenderedRows] = OrderedDict()
        self.bytes = 0

    def get(self, chunk: RenderedChunk) -> RenderedRows:
        """The rows of a chunk, rendered now or earlier.

        Raises:
            FileNotFoundError: its segment was removed; list the archive again.
            ArchiveDamaged: its segment can't be read.
        """
        if chunk not in self._rows:
            batches = list(read_batches(self._archive.store, chunk.segment.path, chunk.within))
            self._rows[chunk] = render(joined(batches), chunk.pair_decimals)
            self.bytes += self._rows[chunk].size
        self._rows.move_to_end(chunk)
        while self.bytes > self._max_bytes and len(self._rows) > 1:
            _, dropped = self._rows.popitem(last=False)
            self.bytes -= dropped.size
        return self._rows[chunk]


class TradePages:
    """Pages of one pair's trade history; the archive may grow and be compacted meanwhile."""

    def __init__(
        self, archive: TradeStore, pair: str, cache: RenderedPageCache, clock: Clock
    ) -> None:
        """Nothing is read before the first page.

        Args:
            archive: the archive to serve.
            pair: the pair's altname.
            cache: shared by all pairs.
            clock: a monotonic clock in seconds.
        """
        self._archive = archive
        self._pair = pair
        self._cache = cache
        self._clock = clock
        self._pieces: list[Piece] = []
        self._listed_s: float | None = None
        self._chunk_ends: dict[Segment, list[int]] = {}

    @property
    def has_coverage(self) -> bool:
        """Whether the archive covers any range of this pair."""
        return bool(self._listing())

    @property
    def through(self) -> int:
        """The end of coverage in UNIX nanoseconds; 0 without any."""
        pieces = self._listing()
        return pieces[-1].within.through if pieces else 0

    def first_gap(self, within: Range) -> Range | None:
        """The first gap in a range; the time after the end of coverage does not count."""
        covered = [piece.within for piece in self._listing()]
        gaps = missing([Range(within.after, max(within.through, within.after))], covered)
        return next((gap for gap in gaps if gap.after < self.through), None)

    def page(self, since_ns: int | None, count: int, pair_decimals: int) -> RenderedPage:
        """Render up to `count` rows.

        Args:
            since_ns: the earliest time of a row, UNIX nanoseconds; None for the newest rows.
            count: the most rows.
            pair_decimals: decimals of a price.

        Raises:
            ArchiveDamaged: a file can't be read, or files are removed again and again.
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
        for chunk in self._chunks(pieces[first:], pair_decimals):
            if chunk.within.through > after_ns:
                rows = self._cache.get(chunk)
                start = int(rows.times_ns.searchsorted(after_ns, side="right"))
                stop = min(start + count, len(rows.times_ns))
                parts.append(rows.rows(start, stop))
                last = int(rows.times_ns[stop - 1])
                count -= stop - start
                if count == 0:
                    break
        return RenderedPage(b"".join(parts), last, is_full=count == 0)

    def _newest(self, count: int, pair_decimals: int) -> RenderedPage:
        parts: list[memoryview] = []
        last = None
        for piece in reversed(self._listing()):
            for chunk in reversed(list(self._chunks([piece], pair_decimals))):
                rows = self._cache.get(chunk)
                stop = len(rows.times_ns)
                start = max(0, stop - count)
                parts.append(rows.rows(start, stop))
                last = int(rows.times_ns[-1]) if last is None else last
                count -= stop - start
                if count == 0:
                    return RenderedPage(b"".join(reversed(parts)), last, is_full=True)
        return RenderedPage(b"".join(reversed(parts)), last, is_full=False)

    def _listing(self) -> list[Piece]:
        now = self._clock()
        if self._listed_s is None or now - self._listed_s >= LISTING_TTL_S:
            self._pieces = self._archive.pieces(self._pair)
            self._listed_s = now
            listed = {piece.segment for piece in self._pieces}
            self._chunk_ends = {
                segment: ends for segment, ends in self._chunk_ends.items() if segment in listed
            }
        return self._pieces

    def _chunks(self, pieces: list[Piece], pair_decimals: int) -> Iterator[RenderedChunk]:
        """Split pieces into chunks of about one row group each; none is empty.

        Chunks end between trades of different times, not exactly between row groups: trades of one
        time may be in two row groups.
        """
        for piece in pieces:
            after = piece.within.after
            ends = self._chunk_ends_of(piece.segment)
            for bounds in pairwise([after, *(end for end in ends if end > after)]):
                yield RenderedChunk(piece.segment, Range(*bounds), pair_decimals)

    def _chunk_ends_of(self, segment: Segment) -> list[int]:
        """The last time of each of a segment's row groups, ascending; read once."""
        if segment not in self._chunk_ends:
            batches = read_batches(self._archive.store, segment.path, columns=["time"])
            self._chunk_ends[segment] = sorted({int(times(batch)[-1]) for batch in batches})
        return self._chunk_ends[segment]
