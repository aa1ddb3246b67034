"""Drives a backfill from tests, and reads what it left, without the reader under test."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from kraken_market import Market
from kraken_server import Exchange

from harvester import config
from harvester.csv_import.redownload import replace_imported
from harvester.download import completeness, page_merge
from harvester.download.backfill import backfill
from harvester.download.exchange import BackfillRequest, RunOptions
from harvester.events import BackfillResult, CancelToken, Event, Noted
from harvester.kraken.client import Client
from harvester.storage.trade_store import TradeStore
from harvester.times import END_OF_TIME, Range

ALL = Range(0, END_OF_TIME)


@dataclass
class Backfill:
    """A backfill from the test exchange, to be run once or again."""

    url: str
    folder: Path
    options: dict[str, Any] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    stop_after_pages: int | None = None
    newest_first: bool = False
    replace_imported: bool = False
    estimates: bool = False
    open: Callable[[Path], TradeStore] = TradeStore
    now_ns: Callable[[], int] = time.time_ns

    def run(self, *names: str, span: Range = ALL) -> list[BackfillResult]:
        """Backfill the pairs; returns their outcomes."""
        return asyncio.run(self._run(names, span))

    def only(self, name: str, span: Range = ALL) -> BackfillResult:
        """Backfill one pair."""
        return self.run(name, span=span)[0]

    async def _run(self, names: Sequence[str], span: Range) -> list[BackfillResult]:
        settings = config.load(
            {
                "exchange.url": self.url,
                "exchange.rate": 0,
                "exchange.retry_wait_s": 0.005,
                "exchange.timeout_s": 5,
            }
            | self.options,
            environment={},
        )
        cancel = CancelToken()

        def listen(event: Event) -> None:
            self.events.append(event)
            pages = getattr(event, "pages", 0)
            if self.stop_after_pages is not None and pages >= self.stop_after_pages:
                cancel.cancel()

        async with Client(settings.exchange) as client:
            pairs = await client.pairs()
            requests = [BackfillRequest(pairs[name], span) for name in names]
            then = replace_imported if self.replace_imported else None
            watch = RunOptions(
                listen,
                cancel,
                newest_first=self.newest_first,
                estimates=self.estimates,
                once_complete=then,
                now_ns=self.now_ns,
            )
            return await backfill(client, self.open(self.folder), requests, settings, watch)

    @property
    def notes(self) -> list[str]:
        """The texts of all notes."""
        return [event.text for event in self.events if isinstance(event, Noted)]


def rows_on_disk(folder: Path, pair: str) -> list[tuple[Any, ...]]:
    """The rows on disk, read as plain Parquet: files in the order of their names."""
    rows: list[tuple[Any, ...]] = []
    files = sorted((folder / "trades" / f"pair={pair}").rglob("*.parquet"), key=lambda f: f.name)
    for file in files:
        table = pq.ParquetFile(file).read()
        columns = table.set_column(
            1, "time", table.column("time").cast("int64").combine_chunks()
        ).to_pydict()
        rows += zip(*columns.values(), strict=True)
    return rows


def foreign_files(folder: Path) -> list[str]:
    """Files that stand where only segments and their roll-ups may, and leftovers in staging."""
    segments = {p.relative_to(folder / "trades") for p in (folder / "trades").rglob("*.parquet")}
    found = [
        p
        for p in (folder / "candles").rglob("*")
        if p.is_file() and p.relative_to(folder / "candles").parts[1:] not in parts_of(segments)
    ]
    found += [p for p in (folder / "trades").rglob("*") if p.is_file() and p.suffix != ".parquet"]
    found += [p for p in (folder / "staging").rglob("*") if p.is_file()]
    return [str(path.relative_to(folder)) for path in found]


def parts_of(paths: Iterable[Path]) -> set[tuple[str, ...]]:
    """Their folders and names."""
    return {path.parts for path in paths}


def serve(*markets: Market, **options: Any) -> Exchange:
    """The test exchange with these markets."""
    return Exchange(list(markets), **options)


def set_page_rows(rows: int, patch: pytest.MonkeyPatch) -> None:
    """Let a download take a page for full that has so many rows."""
    patch.setattr(completeness, "PAGE_ROWS", rows)
    patch.setattr(page_merge, "PAGE_ROWS", rows)


@pytest.fixture
def serve_100(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Exchange]:
    """The exchange with pages of 100 rows, so that a market of many pages has few trades."""
    set_page_rows(100, monkeypatch)
    return partial(serve, page_size=100)
