"""What waits in memory is bounded over all pairs, and written when its time has come."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from harvester.archive.archive import Archive
from harvester.archive.footers import Jump
from harvester.archive.writer import Writer, writer
from harvester.columns import ROWS
from harvester.crawl.buffer import Buffer, Waiting
from harvester.crawl.events import Committed, Event
from harvester.crawl.gaps import Gap
from harvester.errors import ArchiveUnwritable
from harvester.times import Range


def rows(*stamps: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(
        [
            {"trade_id": at, "time": at, "price": Decimal(1), "volume": Decimal(1)}
            | {"side": "buy", "order_type": "limit", "misc": ""}
            for at in stamps
        ],
        schema=ROWS,
    )


def buffer_of(one: Writer, events: list[Event] | None = None) -> Buffer:
    listener = events.append if events is not None else (lambda _event: None)
    return Buffer(one, 0, '{"altname":"A"}', listener)


def test_only_what_is_whole_is_written(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    events: list[Event] = []
    with writer(archive, "A") as one:
        buffer = buffer_of(one, events)
        buffer.add(rows(1, 2, 3, 3), 2)
        asyncio.run(buffer.flush())
    assert events == [Committed("A", Range(0, 2), 2)]
    assert (buffer.rows, archive.coverage("A")) == (2, [Range(0, 2)])


def test_what_stayed_is_written_with_what_follows(tmp_path: Path) -> None:
    archive = Archive(tmp_path)

    async def both(buffer: Buffer) -> None:
        await buffer.flush()
        buffer.add(rows(4), 9)
        await buffer.flush()

    with writer(archive, "A") as one:
        buffer = buffer_of(one)
        buffer.add(rows(1, 2, 3, 3), 2)
        asyncio.run(both(buffer))
    found = [at for batch in archive.scan("A") for at in batch.column("trade_id").to_pylist()]
    assert (found, archive.coverage("A")) == ([1, 2, 3, 3, 4], [Range(0, 9)])


def test_a_jump_is_told_by_the_segment_of_the_trade_behind_it(tmp_path: Path) -> None:
    archive = Archive(tmp_path)

    async def both(buffer: Buffer) -> None:
        await buffer.flush()
        buffer.add(rows(7), 9)
        await buffer.flush()

    with writer(archive, "A") as one:
        buffer = buffer_of(one)
        buffer.add(rows(1, 2), 5)
        buffer.note("1", [Gap(2, 7, 2, 7)])
        asyncio.run(both(buffer))
    jumps = [archive.footer(segment).jumps for segment in archive.segments("A")]
    assert jumps == [(), (Jump(2, 7),)]


def test_a_write_that_fails_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = Archive(tmp_path)

    def full(*_: object) -> None:
        raise ArchiveUnwritable("the disk is full")

    with writer(archive, "A") as one:
        buffer = buffer_of(one)
        buffer.add(rows(1, 2, 3), 3)
        with monkeypatch.context() as patched:
            patched.setattr(one, "commit", full)
            with pytest.raises(ArchiveUnwritable):
                asyncio.run(buffer.flush())
        asyncio.run(buffer.flush())
    found = [at for batch in archive.scan("A") for at in batch.column("trade_id").to_pylist()]
    assert (found, archive.coverage("A")) == ([1, 2, 3], [Range(0, 3)])


def test_beyond_the_bound_the_largest_is_written_first(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    with writer(archive, "A") as one, writer(archive, "B") as other:
        small, large = buffer_of(one), buffer_of(other)
        waiting = Waiting(most_rows=4)
        for buffer in (small, large):
            waiting.enter(buffer)
        small.add(rows(1), 1)
        large.add(rows(1, 2, 3), 3)
        asyncio.run(waiting.relieve())
        assert (small.rows, large.rows) == (1, 3)
        small.add(rows(2), 2)
        asyncio.run(waiting.relieve())
        assert (small.rows, large.rows) == (2, 0)


def test_a_buffer_that_left_is_not_counted(tmp_path: Path) -> None:
    with writer(Archive(tmp_path), "A") as one:
        buffer, waiting = buffer_of(one), Waiting(most_rows=0)
        waiting.enter(buffer)
        buffer.add(rows(1), 1)
        waiting.leave(buffer)
        asyncio.run(waiting.relieve())
        assert buffer.rows == 1
