"""The event loop is never held for long: requests of other pairs go out when their time has come.

What counts is the processor time that the loop's own thread spends in one callback, not the time
that passes: on a loaded machine any callback may be suspended for long, through no fault of its
own. What other threads do, such as writing, is not counted; what the loop does for them is.
"""

from __future__ import annotations

import asyncio
import gc
import time
from asyncio.events import Handle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from backfills import rows_on_disk, serve
from kraken_market import Market, expected
from sample_trades import xbtusd_like
from segment_rows import batch

from harvester import config
from harvester.download.backfill import backfill
from harvester.download.buffer import WriteBuffer
from harvester.download.exchange import BackfillRequest, RunOptions
from harvester.events import CancelToken
from harvester.kraken.client import Client
from harvester.schema import PAGE_SCHEMA, int64s_as, times
from harvester.storage.locks_and_requests import locked
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import END_OF_TIME, Range

MOST_S = 0.020


class Held(list[tuple[float, str]]):
    """How long each callback held the loop, and which it was."""

    def too_long(self) -> list[tuple[float, str]]:
        """Those that held it for more than it may be held."""
        return [callback for callback in self if callback[0] > MOST_S]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """Every callback of every loop from now on."""
    held = Held()
    run = Handle._run

    def timed(handle: Handle) -> None:
        begun_s = time.thread_time()
        try:
            run(handle)
        finally:
            held.append((time.thread_time() - begun_s, repr(handle)))

    monkeypatch.setattr(Handle, "_run", timed)
    # A pass over all that the test runner keeps is no work of the backfill.
    gc.collect()
    gc.disable()
    yield held
    gc.enable()


def test_the_fixture_finds_a_callback_that_takes_too_long(held: Held) -> None:
    async def work() -> None:
        begun_s = time.thread_time()
        while time.thread_time() - begun_s < 2 * MOST_S:
            pass

    asyncio.run(work())
    assert len(held.too_long()) == 1


@pytest.mark.parametrize("gzip", [True, False])
def test_a_backfill_with_flushes_compaction_and_roll_ups_never_blocks_the_loop(
    tmp_path: Path, held: Held, gzip: bool
) -> None:
    market = Market(trades=xbtusd_like(40_000, 5))
    with serve(market, gzip=gzip) as exchange:
        settings = config.load(
            {"exchange.url": exchange.url, "exchange.rate": 0, "archive.flush_rows": 2_000},
            environment={},
        )
        # Certificates are read and libraries loaded before anything is downloaded; that of locks by
        # the run log, which is locked first.
        client = Client(settings.exchange)
        with locked(tmp_path / "locks", "runs"):
            pass

        async def run_backfill() -> Any:
            async with client:
                pairs = await client.pairs()
                held.clear()
                watch = RunOptions(lambda _event: None, CancelToken())
                request = BackfillRequest(pairs["XBTUSD"], Range(0, END_OF_TIME))
                return await backfill(client, TradeStore(tmp_path), [request], settings, watch)

        (outcome,) = asyncio.run(run_backfill())
    assert outcome.error is None
    assert len(list((tmp_path / "candles").rglob("*.parquet"))) > 0
    assert rows_on_disk(tmp_path, "XBTUSD") == expected(market)
    assert held.too_long() == []


def test_a_flush_of_a_million_trades_does_not_hold_the_loop(tmp_path: Path, held: Held) -> None:
    page = batch(expected(Market(trades=xbtusd_like(1_000, 5))), PAGE_SCHEMA)
    stamps = times(page)
    length = int(stamps[-1] - stamps[0]) + 1

    def later(number: int) -> pa.RecordBatch:
        columns = page.columns
        columns[1] = int64s_as(pa.timestamp("ns"), stamps + np.int64(number * length))
        return pa.RecordBatch.from_arrays(columns, schema=PAGE_SCHEMA)

    archive = TradeStore(tmp_path)
    with open_writer(archive, "XBTUSD") as pair_writer:
        buffer = WriteBuffer(pair_writer, 0, "{}", lambda _event: None)
        for number in range(1_000):
            rows = later(number)
            buffer.add(rows, int(times(rows)[-1]))
        asyncio.run(buffer.flush(final=True))
    assert sum(archive.footer(segment).rows for segment in archive.segments("XBTUSD")) == 1_000_000
    assert held.too_long() == []
