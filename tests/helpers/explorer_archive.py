"""Shared by tests: archives to explore, and an explorer that answers without a socket."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pyarrow as pa

import harvester
from harvester.schema import clip, times
from harvester.server.explorer.web import explorer_app
from harvester.server.sample_data import END_NS, SAMPLE_PAIR, sample_trades
from harvester.storage.locks_and_requests import store_pairs
from harvester.storage.segment import Footer
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import DAY, Range

HOUR = DAY // 24
START_NS = END_NS - 10 * DAY
GAP = Range(START_NS + 2 * DAY - 1, START_NS + 4 * DAY - 1)
"""Two days that were requested and are not stored."""

TOKEN = "a-token-of-the-tests"  # noqa: S105 - of archives that only tests have
URL = "http://127.0.0.1:8723"


def sample_archive(
    folder: Path,
    gaps: tuple[Range, ...] = (),
    trades: int = 30_000,
    wsname: str = "XBT/USD",
    others: tuple[str, ...] = (),
) -> harvester.Archive:
    """The made-up market of ten days, without the trades of some requested ranges.

    `others` are the altnames of more pairs, with other made-up trades and no gaps.
    """
    pairs = [msgspec.structs.replace(SAMPLE_PAIR, wsname=wsname)]
    for name in others:
        more = {"altname": name, "key": name, "wsname": f"{name[:-3]}/{name[-3:]}"}
        pairs.append(msgspec.structs.replace(SAMPLE_PAIR, **more))
    store = TradeStore(folder)
    store_pairs(store.store, msgspec.json.encode({pair.altname: pair for pair in pairs}))
    for number, pair in enumerate(pairs):
        rows, after = sample_trades(trades, 7 + number), START_NS - 1
        described = msgspec.json.encode(pair).decode()
        with open_writer(store, pair.altname) as pair_writer:
            pair_writer.record_requested(Range(START_NS - 1, END_NS - 1))
            for gap in [*(gaps if number == 0 else ()), Range(END_NS - 1, END_NS)]:
                covered = Range(after, gap.after)
                footer = Footer(covered, described, source="made")
                pair_writer.commit(covered, clip(rows, covered), footer)
                after = gap.through
    return harvester.open(folder)


def request_only(folder: Path, altname: str) -> None:
    """Add a pair to an archive, of which a day was requested and nothing is stored."""
    store = TradeStore(folder)
    named = {"altname": altname, "key": altname, "wsname": f"{altname[:-3]}/{altname[-3:]}"}
    pairs = [SAMPLE_PAIR, msgspec.structs.replace(SAMPLE_PAIR, **named)]
    store_pairs(store.store, msgspec.json.encode({pair.altname: pair for pair in pairs}))
    with open_writer(store, altname) as pair_writer:
        pair_writer.record_requested(Range(START_NS - 1, START_NS + DAY))


def years_archive(folder: Path, trades: int = 30_000) -> harvester.Archive:
    """The made-up trades, spread over twelve years."""
    store = TradeStore(folder)
    store_pairs(store.store, msgspec.json.encode({SAMPLE_PAIR.altname: SAMPLE_PAIR}))
    rows = sample_trades(trades, 7)
    factor = 12 * 365 // 10
    stretched = END_NS - (END_NS - times(rows)) * factor
    column = pa.array(stretched).cast(pa.timestamp("ns"))
    rows = rows.set_column(rows.schema.get_field_index("time"), "time", column)
    described = msgspec.json.encode(SAMPLE_PAIR).decode()
    with open_writer(store, SAMPLE_PAIR.altname) as pair_writer:
        covered = Range(0, END_NS)
        pair_writer.record_requested(covered)
        pair_writer.commit(covered, rows, Footer(covered, described, source="made"))
    return harvester.open(folder)


def ask(
    archive: harvester.Archive,
    path: str,
    *,
    method: str = "GET",
    token: str | None = TOKEN,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    params: dict[str, str] | None = None,
) -> httpx.Response:
    """Send one request to an explorer of the archive."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(explorer_app(archive, TOKEN))
        sent = {"X-Token": token} if token is not None else {}
        async with httpx.AsyncClient(transport=transport, base_url=URL) as client:
            return await client.request(
                method, path, params=params, content=body, headers=sent | (headers or {})
            )

    return asyncio.run(send())


def answer(archive: harvester.Archive, name: str, **params: str) -> dict[str, Any]:
    """The JSON of a successful request."""
    response = ask(archive, f"/api/{name}", params=params)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def run_sql(archive: harvester.Archive, query: str, form: str = "json") -> httpx.Response:
    """Run SQL as the page does."""
    body = json.dumps({"query": query, "format": form}).encode()
    return ask(archive, "/api/sql", method="POST", body=body)
