"""An archive with imported trades, and its re-download from the test exchange."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import csv_files
import pytest
import sample_trades
from backfills import Backfill, foreign_files, rows_on_disk, serve
from csv_imports import imported
from kraken_market import Clock, Trade, TradeRows, expected
from kraken_server import Exchange

from harvester.csv_import.csv_files import CompletePeriod
from harvester.events import BackfillResult
from harvester.storage.trade_store import TradeStore
from harvester.verify.integrity import verify

PAIR = "XBTUSD"


NOW_NS = sample_trades.utc_ns(2025, 3, 1)


class RedownloadScenario:
    """An archive of a file's trades and then the exchange's, over a clock that stands."""

    def __init__(self, folder: Path, trades: Sequence[Trade]) -> None:
        self.folder = folder / "data"
        self.market = sample_trades.market(trades)
        self.truth: TradeRows = expected(self.market)
        self.exchange = serve(self.market, clock=Clock(NOW_NS))
        self._file = folder / "XBTUSD.csv"

    def take_in(self, data: bytes, whole: CompletePeriod | None = None) -> None:
        self._file.write_bytes(data)
        imported(self.folder, self._file, whole=whole or CompletePeriod())

    def backfill(self, **fields: Any) -> Backfill:
        fields = {"now_ns": lambda: NOW_NS} | fields
        return Backfill(self.exchange.url, self.folder, {"archive.flush_rows": 700}, **fields)

    def fill(self) -> None:
        assert self.backfill().only(PAIR).exit_status == 0

    def redownload(self, **fields: Any) -> BackfillResult:
        return self.backfill(replace_imported=True, **fields).only(PAIR)

    def stopped_before_deletion(self) -> Path:
        """Import, re-download, and put the imported file back, as a kill before its deletion does.

        Returns the imported file.
        """
        self.take_in(csv_files.three_columns(TRADES[1_000:4_000]))
        self.fill()
        [name] = imported_paths(self.folder)
        path = self.folder / name
        imported_file = path.read_bytes()
        assert self.redownload().exit_status == 0
        path.write_bytes(imported_file)
        return path

    @property
    def history(self) -> list[tuple[Any, ...]]:
        return rows_on_disk(self.folder, PAIR)

    def sources(self) -> list[str]:
        archive = TradeStore(self.folder)
        return [archive.footer(segment).source for segment in archive.segments(PAIR)]

    def check(self) -> None:
        """All trades are the exchange's, nothing is left over, and `verify` finds no fault."""
        assert self.history == self.truth
        assert set(self.sources()) == {"api"}
        assert verify(TradeStore(self.folder), PAIR).faults == []
        assert foreign_files(self.folder) == []
        assert aside(self.folder) == []


def aside(folder: Path) -> list[Path]:
    return list((folder / "staging").rglob("*.parquet"))


def imported_paths(folder: Path) -> list[str]:
    """The imported segments, as paths within the archive."""
    return [segment.path for segment in TradeStore(folder).segments(PAIR) if segment.is_imported]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Any]:
    running: list[Exchange] = []

    def start(trades: Sequence[Trade]) -> RedownloadScenario:
        scenario = RedownloadScenario(tmp_path, trades)
        running.append(scenario.exchange.start())
        return scenario

    yield start
    for exchange in running:
        exchange.stop()


TRADES = sample_trades.xbtusd_like(6_000, 81)


def years(*counts: int) -> list[Trade]:
    """So many trades in June of each year from 2016 on, of ids that go on."""
    some = [
        sample_trades.xbtusd_like(
            count, place, start_ns=sample_trades.utc_ns(2016 + place, 6, 1), first_id=1
        )
        for place, count in enumerate(counts)
    ]
    flat = [each for year in some for each in year]
    return [sample_trades._renumbered(each, number) for number, each in enumerate(flat, 1)]
