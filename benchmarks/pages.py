"""What a page of 1000 trades costs, stage by stage, each beside a reference in the same run.

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import httpx
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from backfill import AGENT, FULL_PAGE, sample_exchange

from harvester import config
from harvester.download.backfill import backfill
from harvester.download.completeness import IdContinuityChecker
from harvester.download.exchange import BackfillRequest, PairPages, RunOptions
from harvester.download.page_merge import PageMerger
from harvester.events import CancelToken
from harvester.kraken.client import Client
from harvester.kraken.pairs import Pair
from harvester.kraken.trades import TradesPage, decode_general, decode_page
from harvester.schema import (
    ROW_GROUP_ROWS,
    SEGMENT_SCHEMA,
    RowsChecksum,
    joined,
    times,
    with_ties,
)
from harvester.storage.parquet_files import WRITER_OPTIONS
from harvester.storage.segment import Footer
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import END_OF_TIME, Range

READ_ROWS = 32_768
RECORD_BYTES = 51
"""Of one row in its checksum."""

MOST_MS = {"plain": 2.3, "gzipped": 2.8}
MOST_DECODE_MS = 0.8
SPAN = Range(0, END_OF_TIME)


class Served(NamedTuple):
    """What the test exchange answers: where pages were asked from, and their bodies as JSON."""

    url: str
    pair: Pair
    sinces: list[int]
    bodies: list[bytes]


async def followed(url: str) -> Served:
    """Request every page of the test exchange once, from where a download requests it."""
    async with Client(settings(url).exchange) as client:
        pair = (await client.pairs())["XBTUSD"]
    served = Served(url, pair, [], [])
    merger = PageMerger(SPAN.after)
    async with httpx.AsyncClient(base_url=url, headers=AGENT) as plain:
        while True:
            since = merger.next_since()
            body = await get(plain, since)
            page = decode_page(body)
            if page.rows.num_rows < FULL_PAGE:
                return served
            served.sinces.append(since)
            served.bodies.append(body)
            merger.join(page.rows, page.cursor_ns, page.unit_ns, SPAN.through)


def settings(url: str) -> config.Settings:
    """A backfill without limits, and without roll-ups, which are a cost of their own."""
    return config.load(
        {"exchange.url": url, "exchange.rate": 0, "candles.rollups": []}, environment={}
    )


# --- the work, done for every page ---------------------------------------------------------------


async def get(client: httpx.AsyncClient, since: int) -> bytes:
    """One page by httpx as it comes."""
    params = {"pair": "XBTUSD", "since": str(since)}
    return (await client.get("/0/public/Trades", params=params)).content


async def get_all(client: httpx.AsyncClient, served: Served) -> None:
    """Page after page by httpx as it comes."""
    for since in served.sinces:
        await get(client, since)


async def ask_all(client: Client, served: Served) -> None:
    """Page after page by harvester's client, which decodes them, too."""
    for since in served.sinces:
        await client.page(served.pair, since)


async def run_backfill(client: Client, served: Served) -> None:
    """The whole of it: a backfill into a fresh archive, in this process."""
    with tempfile.TemporaryDirectory() as name:
        watch = RunOptions(lambda _event: None, CancelToken())
        requests = [BackfillRequest(served.pair, SPAN)]
        (outcome,) = await backfill(client, TradeStore(name), requests, settings(served.url), watch)
    if outcome.error is not None:
        raise outcome.error


def join_pages(pages: list[TradesPage]) -> list[pa.RecordBatch]:
    """Join decoded pages into one history."""
    merger = PageMerger(SPAN.after)
    return [
        merger.join(page.rows, page.cursor_ns, page.unit_ns, SPAN.through).rows for page in pages
    ]


class NoSource(PairPages):
    """Answers nothing: ids of the test exchange are consecutive."""

    def __init__(self) -> None:
        """Nothing is ever asked."""


async def check_seams(pages: list[TradesPage], parts: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Hold the ids of joined pages against one another."""
    seams = IdContinuityChecker(NoSource(), "XBTUSD", SPAN, lambda _event: None)
    seams.begin_at(None)
    return [
        (await seams.check(rows, page.unit_ns))[0] for page, rows in zip(pages, parts, strict=True)
    ]


class Disk(NamedTuple):
    """One segment's rows, in their places on disk."""

    rows: pa.RecordBatch
    trades: pa.RecordBatch
    folder: Path

    def commit(self) -> None:
        """Commit them as a download does."""
        span = Range(0, int(times(self.rows)[-1]))
        with open_writer(TradeStore(self.folder), "XBTUSD") as pair_writer:
            pair_writer.commit(span, self.rows, Footer(span, "{}"))

    def write(self) -> None:
        """Write them as segments are laid out."""
        with pq.ParquetWriter(
            self.folder / "ours.parquet", SEGMENT_SCHEMA, **WRITER_OPTIONS
        ) as sink:
            sink.write_batch(self.trades, row_group_size=ROW_GROUP_ROWS)

    def write_defaults(self) -> None:
        """Write them with all of pyarrow's options left alone."""
        pq.write_table(pa.Table.from_batches([self.trades]), self.folder / "defaults.parquet")

    def read(self, name: str) -> None:
        """Read a file again."""
        with pq.ParquetFile(self.folder / name, pre_buffer=False) as file:
            for _ in file.iter_batches(READ_ROWS):
                pass

    def check(self) -> None:
        """Take the checksum of the rows."""
        checksum = RowsChecksum()
        checksum.update(self.trades)
        checksum.hexdigest()


# --- figures -------------------------------------------------------------------------------------

Work = Callable[[], object]


def each(work: Callable[[bytes], object], bodies: list[bytes]) -> Work:
    """Do something with each body, and keep nothing of it."""

    def run() -> None:
        for body in bodies:
            work(body)

    return run


def works(served: Served, folder: Path) -> dict[str, Work]:
    """Pieces of work over the same pages, by name."""
    bodies = served.bodies
    pages = [decode_page(body) for body in bodies]
    parts = join_pages(pages)
    rows = joined(asyncio.run(check_seams(pages, parts)))
    disk = Disk(rows, joined(list(with_ties([rows]))), folder)
    disk.write()
    disk.write_defaults()
    records = bytes(RECORD_BYTES * rows.num_rows)
    return {
        "gunzip": each(gzip.decompress, [gzip.compress(body, 6) for body in bodies]),
        "decode": each(decode_page, bodies),
        "decode, row by row": each(decode_general, bodies),
        "orjson.loads": each(orjson.loads, bodies),
        "join": lambda: join_pages(pages),
        "check ids": lambda: asyncio.run(check_seams(pages, parts)),
        "concat_batches": lambda: joined(parts),
        "write": disk.write,
        "write, defaults": disk.write_defaults,
        "read": lambda: disk.read("ours.parquet"),
        "read, defaults": lambda: disk.read("defaults.parquet"),
        "checksum": disk.check,
        "sha256": lambda: hashlib.sha256(records),
        "commit": disk.commit,
    }


def measured(served: Served, rounds: int) -> dict[str, float]:
    """CPU-ms a page of each piece of work, all threads counted; in turn, round after round."""
    costs: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name, asyncio.Runner() as runner:
        todo = works(served, Path(name))
        product = Client(settings(served.url).exchange)
        todo["client"] = lambda: runner.run(ask_all(product, served))
        todo["backfill"] = lambda: runner.run(run_backfill(product, served))
        plain = httpx.AsyncClient(base_url=served.url, headers=AGENT)
        todo["httpx get"] = lambda: runner.run(get_all(plain, served))
        for turn in range(rounds + 1):
            for what, work in todo.items():
                begun = time.process_time()
                work()
                took_ms = (time.process_time() - begun) * 1e3 / len(served.bodies)
                if turn:  # the first round opens connections
                    costs.setdefault(what, []).append(took_ms)
        runner.run(product.__aexit__(None, None, None))
        runner.run(plain.aclose())
    # What else runs on a machine only ever adds.
    return {what: min(several) for what, several in costs.items()}


def lines(cost: dict[str, float]) -> list[tuple[str, float, str, float]]:
    """The table: a stage and its cost, a reference and its cost."""
    asked = cost["client"] - cost["decode"]
    joining = cost["join"] + cost["check ids"]
    disk = cost["write"] + cost["read"] + 2 * cost["checksum"]
    rest = cost["backfill"] - asked - cost["decode"] - joining - cost["commit"]
    bare = cost["httpx get"] + cost["orjson.loads"]
    return [
        ("HTTP", asked, "httpx.AsyncClient.get", cost["httpx get"]),
        ("decode", cost["decode"], "orjson.loads", cost["orjson.loads"]),
        ("  row by row", cost["decode, row by row"], "", 0),
        ("join, check ids", joining, "concat_batches", cost["concat_batches"]),
        ("commit", cost["commit"], "", 0),
        ("  write Parquet", cost["write"], "pyarrow's defaults", cost["write, defaults"]),
        ("  read back", cost["read"], "pyarrow's defaults", cost["read, defaults"]),
        ("  checksum, twice", 2 * cost["checksum"], "sha256, twice", 2 * cost["sha256"]),
        ("  list, sync, rename", cost["commit"] - disk, "", 0),
        ("the rest", rest, "", 0),
        ("a page in all", cost["backfill"], "httpx + orjson", bare),
    ]


def show(name: str, cost: dict[str, float]) -> None:
    """Print the table of one way of sending."""
    print(f"\n{name}\n{'stage':<24}{'CPU-ms':>8}   {'reference':<24}{'CPU-ms':>8}")
    for stage, product, reference, bare_cost in lines(cost):
        print(
            f"{stage:<24}{product:>8.3f}   "
            + (f"{reference:<24}{bare_cost:>8.3f}" if bare_cost else "")
        )
    print(f"{'gunzip':<24}{cost['gunzip']:>8.3f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    for gzipped, name in (("none", "plain"), ("once", "gzipped")):
        with sample_exchange(options.pages * 1000, gzipped) as url:
            served = asyncio.run(followed(url))
            found[name] = measured(served, options.rounds)
        show(f"{name}, {len(served.bodies)} pages, {options.rounds} rounds", found[name])
    met = {
        f"at most {most:g} CPU-ms a page, {name}": found[name]["backfill"] <= most
        for name, most in MOST_MS.items()
    }
    most_decode = max(cost["decode"] for cost in found.values())
    met[f"decode at most {MOST_DECODE_MS:g}"] = most_decode <= MOST_DECODE_MS
    print()
    for text, is_met in met.items():
        print(f"{'met   ' if is_met else 'MISSED'} {text}")
    print(json.dumps({"benchmark": "pages", "cpu_ms": found, "targets": met}))


if __name__ == "__main__":
    main()
