"""Archives of made rows, and the API server over them, with and without a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import httpx
import msgspec
import pyarrow as pa
from starlette.applications import Starlette

from harvester.kraken.pairs import Pair
from harvester.schema import PAGE_SCHEMA
from harvester.server.app import kraken_api_app, serve_in_thread
from harvester.server.sample_data import SAMPLE_PAIR
from harvester.storage.locks_and_requests import store_pairs
from harvester.storage.segment import Footer
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import DAY, Range

T0 = 1_700_000_000_000_000_000


# trade_id, time in ns, price, volume, side, order type, misc
Trade = tuple[int | None, int, str, str, str | None, str | None, str | None]


PLAIN: list[Trade] = [
    (n, T0 + 100 * n, f"{100 + n}.5", f"0.{n:08d}", "buy", "limit", "") for n in range(1, 31)
]


def rows_of(trades: list[Trade]) -> pa.RecordBatch:
    names = PAGE_SCHEMA.names
    rows = [dict(zip(names, trade, strict=True)) for trade in trades]
    for row in rows:
        row["price"], row["volume"] = Decimal(str(row["price"])), Decimal(str(row["volume"]))
    return pa.RecordBatch.from_pylist(rows, schema=PAGE_SCHEMA)


def commit(archive: TradeStore, span: Range, rows: pa.RecordBatch, pair: str = "XBTUSD") -> None:
    with open_writer(archive, pair) as pair_writer:
        pair_writer.commit(span, rows, Footer(span, "{}"))


def archive_of(path: Path, trades: list[Trade], pair: Pair = SAMPLE_PAIR) -> TradeStore:
    archive = TradeStore(path)
    store_pairs(archive.store, msgspec.json.encode({pair.altname: pair}))
    commit(archive, Range(0, T0 + DAY), rows_of(trades), pair.altname)
    return archive


@contextmanager
def serving(archive: TradeStore, port: int = 0) -> Iterator[str]:
    """Serve an archive in a thread while the block runs; yields the URL."""
    with serve_in_thread(kraken_api_app(archive), "127.0.0.1", port) as url:
        yield url


def get(application: Starlette, endpoint: str, **params: str) -> bytes:
    """What an endpoint answers other programs."""
    return _ask(application, endpoint, params, {})


def get_as_stored(application: Starlette, endpoint: str, **params: str) -> bytes:
    """What an endpoint answers harvester's own client."""
    return _ask(application, endpoint, params, {"Prefer": "rows=stored"})


def _ask(
    application: Starlette, endpoint: str, params: dict[str, str], headers: dict[str, str]
) -> bytes:
    async def ask() -> bytes:
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://api-server") as client:
            response = await client.get(f"/0/public/{endpoint}", params=params, headers=headers)
            assert response.status_code == 200
            return response.content

    return asyncio.run(ask())


def errors(body: bytes) -> list[str]:
    answer = json.loads(body)
    assert set(answer) == {"error"}
    found: list[str] = answer["error"]
    return found
