"""What waits in memory is bounded over all pairs, and written when its time has come."""

from __future__ import annotations

import asyncio
import threading
from decimal import Decimal
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from harvester.download import buffer as module
from harvester.download.buffer import MemoryBudget, WriteBuffer
from harvester.errors import ArchiveUnwritable
from harvester.events import Committed, Event
from harvester.schema import PAGE_SCHEMA
from harvester.storage.id_gaps import IdGap
from harvester.storage.segment import IdPair
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import Writer, open_writer
from harvester.times import END_OF_TIME, Range

TARGET = "{}/trades/pair=A/year=1970/0000000000000000000-0000000000000000001.parquet"


def rows(*stamps: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(
        [
            {"trade_id": at, "time": at, "price": Decimal(1), "volume": Decimal(1)}
            | {"side": "buy", "order_type": "limit", "misc": ""}
            for at in stamps
        ],
        schema=PAGE_SCHEMA,
    )


def buffer_of(writer: Writer, events: list[Event] | None = None) -> WriteBuffer:
    listener = events.append if events is not None else (lambda _event: None)
    return WriteBuffer(writer, 0, '{"altname":"A"}', listener)


def backlog_of(*buffers: WriteBuffer, most_rows: int) -> MemoryBudget:
    backlog = MemoryBudget(most_rows)
    for buffer in buffers:
        backlog.buffers.add(buffer)
    return backlog


def test_a_flush_writes_only_complete_rows(tmp_path: Path) -> None:
    archive = TradeStore(tmp_path)
    events: list[Event] = []
    with open_writer(archive, "A") as pair_writer:
        buffer = buffer_of(pair_writer, events)
        buffer.add(rows(1, 2, 3, 3), 2)
        asyncio.run(buffer.flush())
    assert events == [Committed("A", Range(0, 2), 2)]
    assert (buffer.rows, archive.coverage("A")) == (2, [Range(0, 2)])


def test_rows_left_by_a_flush_are_written_with_the_next(tmp_path: Path) -> None:
    archive = TradeStore(tmp_path)

    async def both(buffer: WriteBuffer) -> None:
        await buffer.flush()
        buffer.add(rows(4), 9)
        await buffer.flush()

    with open_writer(archive, "A") as pair_writer:
        buffer = buffer_of(pair_writer)
        buffer.add(rows(1, 2, 3, 3), 2)
        asyncio.run(both(buffer))
    found = [at for batch in archive.scan("A") for at in batch.column("trade_id").to_pylist()]
    assert (found, archive.coverage("A")) == ([1, 2, 3, 3, 4], [Range(0, 9)])


def test_an_id_gap_at_the_end_of_the_range_is_recorded_in_the_last_segment(
    tmp_path: Path,
) -> None:
    """A flush in the background may be the one that reaches up to there."""
    archive = TradeStore(tmp_path)
    inside, at_end = IdGap(3, 6, 3, 6), IdGap(6, 9, 6, END_OF_TIME)
    with open_writer(archive, "A") as pair_writer:
        buffer = buffer_of(pair_writer)
        buffer.note([inside], [inside])
        buffer.add(rows(1, 2, 3), 4)
        asyncio.run(buffer.flush())
        buffer.note([at_end], [at_end])
        buffer.add(rows(6), 7)
        asyncio.run(buffer.flush())
        asyncio.run(buffer.flush(final=True))
    footers = [archive.footer(segment) for segment in archive.segments("A")]
    assert [(each.confirmed_id_gaps, each.unconfirmed_id_gaps) for each in footers] == [
        ((), 0),
        ((IdPair(3, 6), IdPair(6, 9)), 2),
    ]


def test_an_id_gap_is_recorded_in_the_segment_of_the_trade_behind_it(tmp_path: Path) -> None:
    archive = TradeStore(tmp_path)

    async def both(buffer: WriteBuffer) -> None:
        await buffer.flush()
        buffer.add(rows(7), 9)
        await buffer.flush()

    with open_writer(archive, "A") as pair_writer:
        buffer = buffer_of(pair_writer)
        buffer.add(rows(1, 2), 5)
        buffer.cursor = "1"
        buffer.note([IdGap(2, 7, 2, 7)])
        asyncio.run(both(buffer))
    recorded = [archive.footer(segment).confirmed_id_gaps for segment in archive.segments("A")]
    assert recorded == [(), (IdPair(2, 7),)]


def test_a_write_that_fails_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = TradeStore(tmp_path)

    def full(*_: object) -> None:
        raise ArchiveUnwritable("the disk is full")

    with open_writer(archive, "A") as pair_writer:
        buffer = buffer_of(pair_writer)
        buffer.add(rows(1, 2, 3), 3)
        with monkeypatch.context() as patched:
            patched.setattr(pair_writer, "commit", full)
            with pytest.raises(ArchiveUnwritable):
                asyncio.run(buffer.flush())
        asyncio.run(buffer.flush())
    found = [at for batch in archive.scan("A") for at in batch.column("trade_id").to_pylist()]
    assert (found, archive.coverage("A")) == ([1, 2, 3], [Range(0, 3)])


def test_downloads_wait_while_too_many_rows_are_buffered(tmp_path: Path) -> None:
    with (
        open_writer(TradeStore(tmp_path), "A") as pair_writer,
        open_writer(TradeStore(tmp_path), "B") as other,
    ):
        small, large = buffer_of(pair_writer), buffer_of(other)

        async def go() -> None:
            backlog = backlog_of(small, large, most_rows=4)
            small.add(rows(1, 2), 2)
            large.add(rows(1, 2, 3), 3)
            await backlog.flush_if_needed()

        asyncio.run(go())
        assert (small.rows, large.rows) == (2, 0)


def test_near_the_limit_the_largest_buffer_is_written_while_downloads_continue(
    tmp_path: Path,
) -> None:
    with (
        open_writer(TradeStore(tmp_path), "A") as pair_writer,
        open_writer(TradeStore(tmp_path), "B") as other,
    ):
        written = asyncio.Event()
        small = buffer_of(pair_writer)
        large = WriteBuffer(other, 0, "{}", lambda _event: written.set())

        async def go() -> tuple[int, int, int]:
            backlog = backlog_of(small, large, most_rows=5)
            small.add(rows(1), 1)
            large.add(rows(1, 2, 3), 3)
            await backlog.flush_if_needed()
            before = large.rows
            await written.wait()
            return before, large.rows, small.rows

        assert asyncio.run(go()) == (3, 0, 1)


def test_well_below_the_limit_nothing_is_written(tmp_path: Path) -> None:
    with open_writer(TradeStore(tmp_path), "A") as pair_writer:
        buffer = buffer_of(pair_writer)

        async def go() -> bool:
            backlog = backlog_of(buffer, most_rows=4)
            buffer.add(rows(1, 2, 3), 3)
            await backlog.flush_if_needed()
            await asyncio.sleep(0)
            return buffer.is_writing

        assert not asyncio.run(go())


def test_while_a_buffer_is_written_the_next_largest_is_chosen(tmp_path: Path) -> None:
    archive = TradeStore(tmp_path)
    with open_writer(archive, "A") as pair_writer, open_writer(archive, "B") as other:
        small, large = buffer_of(pair_writer), buffer_of(other)

        async def go() -> None:
            backlog = backlog_of(small, large, most_rows=4)
            large.add(rows(1, 2, 3), 3)
            own = asyncio.create_task(large.flush())
            await asyncio.sleep(0)
            small.add(rows(1, 2), 2)
            large.add(rows(4), 4)
            await backlog.flush_if_needed()
            await own

        asyncio.run(go())
        assert (small.rows, large.rows) == (0, 1)


def test_an_error_of_a_flush_by_another_download_is_raised_by_the_buffers_own_download(
    tmp_path: Path,
) -> None:
    with open_writer(TradeStore(tmp_path), "A") as pair_writer:
        buffer = buffer_of(pair_writer)

        async def go() -> None:
            backlog = backlog_of(buffer, most_rows=0)
            buffer.add(rows(1), 1)
            (tmp_path / "trades").write_text("no folder")
            await backlog.flush_if_needed()
            with pytest.raises(ArchiveUnwritable) as caught:
                buffer.add(rows(2), 2)
            assert str(caught.value) == f"can't write {TARGET.format(tmp_path)}: File exists"

        asyncio.run(go())
        assert buffer.rows == 1


def test_a_removed_buffer_is_not_counted(tmp_path: Path) -> None:
    with open_writer(TradeStore(tmp_path), "A") as pair_writer:
        buffer = buffer_of(pair_writer)

        async def go() -> None:
            backlog = backlog_of(buffer, most_rows=0)
            buffer.add(rows(1), 1)
            backlog.buffers.discard(buffer)
            await backlog.flush_if_needed()

        asyncio.run(go())
        assert buffer.rows == 1


def test_files_of_one_pair_at_a_time_are_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Merges grow with the history: side by side they would take more and more memory."""
    monkeypatch.setattr(module, "COMPACT_EVERY", 1)
    begun: list[str] = []
    release = threading.Event()

    async def go(pair_writer: Writer, other: Writer) -> list[str]:
        loop, merging = asyncio.get_running_loop(), asyncio.Lock()
        first, committed = asyncio.Event(), asyncio.Event()

        def merge(writer: Writer) -> None:
            begun.append(writer.pair)
            loop.call_soon_threadsafe(first.set)
            release.wait(10)

        for each in (pair_writer, other):
            monkeypatch.setattr(each, "compact", partial(merge, each))
        footers = {"A": lambda _event: None, "B": lambda _event: committed.set()}
        tasks = []
        for each in (pair_writer, other):
            buffer = WriteBuffer(each, 0, "{}", footers[each.pair], merging)
            buffer.add(rows(1, 2), 2)
            tasks.append(asyncio.create_task(buffer.flush()))
            await (first if each is pair_writer else committed).wait()
        # Whatever was handed to a thread before this has begun by then.
        await asyncio.to_thread(lambda: None)
        during = list(begun)
        release.set()
        await asyncio.gather(*tasks)
        return during

    with (
        open_writer(TradeStore(tmp_path), "A") as pair_writer,
        open_writer(TradeStore(tmp_path), "B") as other,
    ):
        during = asyncio.run(go(pair_writer, other))
    assert (during, begun) == (["A"], ["A", "B"])
