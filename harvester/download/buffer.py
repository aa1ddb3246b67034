"""Write buffer per range, and the memory budget of all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import pyarrow as pa

from harvester.events import Committed, Listener
from harvester.schema import split_at
from harvester.storage.id_gaps import IdGap
from harvester.storage.segment import Footer, IdPair
from harvester.storage.writer import NewGap, Writer
from harvester.times import END_OF_TIME, Range

COMPACT_EVERY = 16
"""After so many new segments a long run merges them on the way."""

MAX_BUFFERED_ROWS = 1_000_000
"""Rows of all pairs together; beyond that the pair with most rows is written first."""

BACKGROUND_FLUSH_FROM = 0.75
"""Above this fraction of the budget, the largest buffer is written in the background."""


class WriteBuffer:
    """Trades of one range that wait to be written to segments.

    Attributes:
        complete_through: all trades up to this time, in nanoseconds, are here or written.
        rows: trades that wait.
        cursor: the exchange's cursor of the last page, stored in the next segment.
    """

    def __init__(
        self,
        writer: Writer,
        after: int,
        pair_json: str,
        listener: Listener,
        merging: asyncio.Lock | None = None,
    ) -> None:
        """Create an empty buffer.

        Args:
            writer: of the pair; its lock is held.
            after: the published time after which the range begins, in nanoseconds.
            pair_json: the pair's description, stored in segments.
            listener: receives `Committed` events.
            merging: shared by all buffers of a run; its own if None. Pairs begin together, so their
                files are due together, and merges grow with the history: side by side they would
                take more and more memory.
        """
        self.complete_through = after
        self.rows = 0
        self.cursor: str | None = None
        self._writer = writer
        self._after = after
        self._pair_json = pair_json
        self._listener = listener
        self._batches: list[pa.RecordBatch] = []
        self._confirmed: list[IdGap] = []
        self._unconfirmed: list[IdGap] = []
        self._across_imports: list[IdGap] = []
        self._oldest_s: float | None = None
        self._writing = asyncio.Lock()
        self._merging = merging or asyncio.Lock()
        self._segments = 0
        self._error: Exception | None = None

    @property
    def is_writing(self) -> bool:
        """Whether a segment is being written."""
        return self._writing.locked()

    def fail(self, error: Exception) -> None:
        """Let the next `add` raise an error that a flush in the background met."""
        self._error = error

    def add(self, rows: pa.RecordBatch, complete_through: int) -> None:
        """Add the next trades.

        Args:
            rows: final trades, in order.
            complete_through: all trades up to this time are added now, in nanoseconds.
        """
        if self._error is not None:
            raise self._error
        if rows.num_rows:
            self._batches.append(rows)
            self.rows += rows.num_rows
        self._oldest_s = self._oldest_s or time.monotonic()
        self.complete_through = max(self.complete_through, complete_through)

    def note(
        self,
        confirmed: Sequence[IdGap],
        unconfirmed: Sequence[IdGap] = (),
        across_imports: Sequence[IdGap] = (),
    ) -> None:
        """Add id gaps that the segments' footers record.

        A gap is recorded with the trade after it, one at the range's end with that end.

        Args:
            confirmed: gaps that two answers agree on.
            unconfirmed: gaps that are only counted.
            across_imports: gaps with imported rows between their ids.
        """
        self._confirmed += confirmed
        self._unconfirmed += unconfirmed
        self._across_imports += across_imports

    def age_s(self) -> float:
        """Seconds since the first `add` after the last flush (or that flush, if it left rows)."""
        return 0.0 if self._oldest_s is None else time.monotonic() - self._oldest_s

    async def flush(self, *, final: bool = False) -> None:
        """Commit what is complete; rows beyond that stay. `final`: nothing follows."""
        async with self._writing:
            span = Range(self._after, self.complete_through)
            if span.through <= span.after:
                return
            (now, later), self._batches = split_at(self._batches, span.through), []
            confirmed, unconfirmed = (
                [gap for gap in gaps if final or _belongs(gap, span)]
                for gaps in (self._confirmed, self._unconfirmed)
            )
            across = list(self._across_imports)
            footer = Footer(
                span,
                self._pair_json,
                cursor=self.cursor,
                confirmed_id_gaps=tuple(IdPair(gap.after_id, gap.before_id) for gap in confirmed),
                unconfirmed_id_gaps=len(unconfirmed),
                id_gaps_across_imports=tuple(IdPair(*gap.sides) for gap in across),
            )
            try:
                segments = await asyncio.to_thread(self._writer.commit, span, now, footer)
            except BaseException:
                # Also when it is cancelled: what was not committed must not be forgotten.
                self._batches = now + later + self._batches
                raise
            self._batches = later + self._batches
            rows = sum(batch.num_rows for batch in now)
            self._confirmed = self._confirmed[len(confirmed) :]
            self._unconfirmed = self._unconfirmed[len(unconfirmed) :]
            self._across_imports = self._across_imports[len(across) :]
            self.rows -= rows
            self._after = span.through
            self._oldest_s = time.monotonic() if self.rows else None
            self._segments += len(segments)
            self._listener(Committed(self._writer.pair, span, rows))
            if self._segments >= COMPACT_EVERY:
                self._segments = 0
                async with self._merging:
                    await asyncio.to_thread(self._writer.compact)

    async def remove_coverage(
        self, remove: Callable[[Range], list[NewGap]], lost: Range
    ) -> list[NewGap]:
        """Remove a range that lacks trades from coverage, while no buffer is written.

        Args:
            remove: removes it, and returns what was covered of it.
            lost: the range.
        """
        async with self._writing, self._merging:
            return await asyncio.to_thread(remove, lost)

    def skip_to(self, after: int) -> None:
        """Leave a gap: what follows begins after the time `after`, in nanoseconds."""
        self._after = self.complete_through = after
        self._batches, self.rows, self._oldest_s = [], 0, None


def _belongs(gap: IdGap, span: Range) -> bool:
    # A gap at the range's end is noted when that end is complete: the flush then reaches up to it.
    return gap.before_ns <= span.through or gap.before_ns == END_OF_TIME


class MemoryBudget:
    """Limits the unwritten trades of all pairs together, so that many need no more than a few.

    The largest buffer is written first, one at a time: in the background once the bound comes
    near, and at the bound downloads wait for it.

    Attributes:
        buffers: those that count.
    """

    def __init__(self, max_rows: int = MAX_BUFFERED_ROWS) -> None:
        """`max_rows` over all pairs together."""
        self.buffers: set[WriteBuffer] = set()
        self._max_rows = max_rows
        self._flushing: asyncio.Task[None] | None = None

    async def flush_if_needed(self) -> None:
        """Write the largest buffer when many rows wait; wait for it when too many do."""
        # Rows that are just being written count.
        rows = sum(buffer.rows for buffer in self.buffers)
        if rows > BACKGROUND_FLUSH_FROM * self._max_rows and (
            self._flushing is None or self._flushing.done()
        ):
            self._flushing = asyncio.create_task(self._write_largest())
        if rows > self._max_rows and self._flushing is not None:
            await asyncio.wait([self._flushing])

    async def _write_largest(self) -> None:
        # One that is being written gets smaller anyway; what it got since is not worth a segment.
        idle = [buffer for buffer in self.buffers if not buffer.is_writing]
        largest = max(idle or self.buffers, key=lambda buffer: buffer.rows, default=None)
        if largest is not None:
            try:
                await largest.flush()
            except Exception as error:  # noqa: BLE001 - the pair's own download raises it
                largest.fail(error)
