"""Write buffer per range, and the memory budget of all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

from harvester.download.events import Committed, Listener
from harvester.schema import split_at
from harvester.storage.footer import ConfirmedIdGap, Footer
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import Writer
from harvester.times import END_OF_TIME, Range
from harvester.trade_ids import IdGap

# --- buffer ---------------------------------------------------------------------------------------

COMPACT_EVERY = 16
"""So many segments of one long run are merged on the way."""

MOST_WAITING = 1_000_000
"""Rows of all pairs together; the pair with most is written first beyond it."""

RELIEF_FROM = 0.75
"""From this part of the bound on there is writing in the background, so that nobody need wait."""


class Locks(NamedTuple):
    """What buffers take turns in.

    Attributes:
        writing: for the buffers of one writer; two merging at once would take each other's files
            away.
        merging: for all buffers of a run. Pairs begin together, so their files are due together,
            and merges grow with the history: side by side they would take more and more memory.
    """

    writing: asyncio.Lock
    merging: asyncio.Lock

    @classmethod
    def made(cls) -> Locks:
        """Locks that nobody shares."""
        return cls(asyncio.Lock(), asyncio.Lock())


class WriteBuffer:
    """One pair's trades between the tape and the archive."""

    def __init__(
        self,
        writer: Writer,
        after: int,
        pair_json: str,
        listener: Listener,
        locks: Locks | None = None,
    ) -> None:
        """Begin behind the published time `after`; `locks` are its own unless others share them."""
        self._writer = writer
        self._after = after
        self._pair_json = pair_json
        self._listener = listener
        self._batches: list[pa.RecordBatch] = []
        self._jumps: list[IdGap] = []
        self._unasked: list[IdGap] = []
        self._across_files: list[IdGap] = []
        self._cursor: str | None = None
        self._oldest_s: float | None = None
        self._writing, self._merging = locks or Locks.made()
        self._segments = 0
        self._fault: Exception | None = None
        self.whole_through = after
        self.rows = 0

    @property
    def is_writing(self) -> bool:
        """Whether a segment is on its way to disk."""
        return self._writing.locked()

    def fail(self, fault: Exception) -> None:
        """Let the next `add` raise what went wrong while others had this written."""
        self._fault = fault

    def add(self, rows: pa.RecordBatch, whole_through: int) -> None:
        """Take trades that are final, in order; all up to `whole_through` are here now."""
        if self._fault is not None:
            raise self._fault
        if rows.num_rows:
            self._batches.append(rows)
            self.rows += rows.num_rows
        self._oldest_s = self._oldest_s or time.monotonic()
        self.whole_through = max(self.whole_through, whole_through)

    def note(
        self,
        cursor: str | None,
        jumps: list[IdGap],
        unasked: Sequence[IdGap] = (),
        across_files: Sequence[IdGap] = (),
    ) -> None:
        """Take what the footer is to tell; a jump goes with the trade behind it.

        One at the range's own end goes with that end.
        """
        self._across_files += across_files
        self._cursor = cursor or self._cursor
        self._jumps += jumps
        self._unasked += unasked

    def age_s(self) -> float:
        """How long the oldest of what waits has been waiting."""
        return 0.0 if self._oldest_s is None else time.monotonic() - self._oldest_s

    async def flush(self, *, final: bool = False) -> None:
        """Commit what is whole; rows beyond it stay. `final`: nothing follows."""
        async with self._writing:
            span = Range(self._after, self.whole_through)
            if span.through <= span.after:
                return
            (now, later), self._batches = split_at(self._batches, span.through), []
            jumps, unasked = (
                [gap for gap in gaps if final or _stands(gap, span)]
                for gaps in (self._jumps, self._unasked)
            )
            across = list(self._across_files)
            footer = Footer(
                span,
                self._pair_json,
                cursor=self._cursor,
                jumps=tuple(ConfirmedIdGap(gap.after_id, gap.before_id) for gap in jumps),
                unasked_jumps=len(unasked),
                across_files=tuple(ConfirmedIdGap(*gap.sides) for gap in across),
            )
            try:
                made = await asyncio.to_thread(self._writer.commit, span, now, footer)
            except BaseException:
                # Also when it is cancelled: what was not committed must not be forgotten.
                self._batches = now + later + self._batches
                raise
            self._batches = later + self._batches
            rows = sum(batch.num_rows for batch in now)
            self._jumps = self._jumps[len(jumps) :]
            self._unasked = self._unasked[len(unasked) :]
            self._across_files = self._across_files[len(across) :]
            self.rows -= rows
            self._after = span.through
            self._oldest_s = time.monotonic() if self.rows else None
            self._segments += len(made)
            self._listener(Committed(self._writer.pair, span, rows))
            if self._segments >= COMPACT_EVERY:
                self._segments = 0
                async with self._merging:
                    await asyncio.to_thread(self._writer.compact)

    def writes_to(self, archive: TradeStore) -> bool:
        """Whether what is committed here becomes part of this very archive."""
        return self._writer.archive is archive

    async def uncover(self, lost: Range) -> bool:
        """Take a range that lacks trades out of coverage; returns whether any was covered."""
        async with self._writing, self._merging:
            return await asyncio.to_thread(self._writer.uncover, lost)

    def skip_to(self, after: int) -> None:
        """Leave a gap: what follows begins behind `after`."""
        self._after = self.whole_through = after
        self._batches, self.rows, self._oldest_s = [], 0, None


def _stands(gap: IdGap, span: Range) -> bool:
    # One at the range's end is noted as that end is whole: what is flushed then reaches up to it.
    return gap.before_ns <= span.through or gap.before_ns == END_OF_TIME


class MemoryBudget:
    """What waits in memory over all pairs: bounded, so that many pairs cost no more than few.

    The largest is written first, one at a time: in the background once the bound comes near, and
    at the bound crawls wait for it.
    """

    def __init__(self, most_rows: int = MOST_WAITING) -> None:
        """`most_rows` over all pairs together."""
        self._most_rows = most_rows
        self._buffers: set[WriteBuffer] = set()
        self._relief: asyncio.Task[None] | None = None

    @property
    def rows(self) -> int:
        """Rows that wait, those that are just being written counted in."""
        return sum(buffer.rows for buffer in self._buffers)

    def enter(self, buffer: WriteBuffer) -> None:
        """Count a pair's buffer in."""
        self._buffers.add(buffer)

    def leave(self, buffer: WriteBuffer) -> None:
        """Count it no more."""
        self._buffers.discard(buffer)

    async def relieve(self) -> None:
        """Have the largest buffer written when much waits; wait for it when too much does."""
        rows = self.rows
        if rows > RELIEF_FROM * self._most_rows and (self._relief is None or self._relief.done()):
            self._relief = asyncio.create_task(self._write_largest())
        if rows > self._most_rows and self._relief is not None:
            await asyncio.wait([self._relief])

    async def _write_largest(self) -> None:
        # One that is being written is on its way out; what came since is not worth a segment.
        idle = [buffer for buffer in self._buffers if not buffer.is_writing]
        largest = max(idle or self._buffers, key=lambda buffer: buffer.rows, default=None)
        if largest is not None:
            try:
                await largest.flush()
            except Exception as fault:  # noqa: BLE001 - told by the pair's own crawl, whatever it is
                largest.fail(fault)
