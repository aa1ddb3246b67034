"""A re-download of an archive that is killed at each step."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import csv_files
import sample_trades
from backfills import Backfill, foreign_files, rows_on_disk
from csv_imports import imported
from kraken_market import SECOND_NS, Trade, TradeRows, expected
from kraken_server import Exchange
from redownloads import imported_paths

from harvester.csv_import.csv_files import CompletePeriod
from harvester.query.rollups import parse_levels, roll_up
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import DAY, Range, missing
from harvester.verify.integrity import verify

PAIR = "XBTUSD"


MIDNIGHT_NS = sample_trades.utc_ns(2024, 1, 1)


def numbered(stamps: Sequence[int]) -> list[Trade]:
    return [
        Trade(stamp, "41450.10000", f"{number}.00000000", "b", "m", "", number)
        for number, stamp in enumerate(sorted(stamps), 1)
    ]


def busy_new_year() -> list[Trade]:
    """A year that turns within a busy second."""
    near = [MIDNIGHT_NS + at * 300_000_000 + 7_000 for at in range(-40, 40)]
    far = [MIDNIGHT_NS + at * DAY // 3 for at in (-9, -8, -7, -3, -2, 2, 3, 7, 8, 9)]
    return numbered([*near, *far])


class Begun:
    """An archive with a file's trades in it, to be downloaded again and again."""

    def __init__(
        self, folder: Path, exchange: Exchange, trades: list[Trade], early: Range | None
    ) -> None:
        """Of the file one row is lost; `early` was fetched before it came."""
        self.folder = folder
        self.exchange = exchange
        self.market = sample_trades.market(trades)
        self.truth: TradeRows = expected(self.market)
        if early is not None:
            assert self.backfill(folder / "begun").only(PAIR, span=early).exit_status == 0
        file = folder / "XBTUSD.csv"
        file.write_bytes(csv_files.three_columns([*trades[:-3], *trades[-2:]], "up"))
        whole = CompletePeriod(0, trades[-1].true_ns // SECOND_NS + 9)
        imported(folder / "begun", file, whole=whole)
        # Filled by a run that ends with what the file lacks.
        Backfill(exchange.url, folder / "begun").only(PAIR)
        with open_writer(TradeStore(folder / "begun"), PAIR) as pair_writer:
            roll_up(pair_writer, parse_levels(["1h"]))
        self.before = rows_on_disk(folder / "begun", PAIR)
        self.coverage = TradeStore(folder / "begun").coverage(PAIR)

    def backfill(self, folder: Path, **fields: Any) -> Backfill:
        options = {"archive.flush_rows": 30, "candles.rollups": []}
        return Backfill(self.exchange.url, folder, options, **fields)

    def copy(self, name: str) -> Path:
        shutil.copytree(self.folder / "begun", self.folder / name)
        return self.folder / name

    def check_between(self, folder: Path) -> None:
        """All is covered; what is said to be a file's is the file's, all else the exchange's."""
        archive = TradeStore(folder)
        faults = verify(archive, PAIR).faults
        assert [fault for fault in faults if (fault.path or "").startswith("candles/")] == []
        assert archive.coverage(PAIR) == self.coverage
        files = [piece.within for piece in archive.pieces(PAIR) if piece.segment.is_imported]
        for parts, history in (
            (files, self.before),
            (missing(self.coverage, files), self.truth),
        ):
            for part in parts:
                rows = [row for batch in archive.scan(PAIR, part) for row in plain(batch)]
                assert rows == [row for row in history if part.after < row[1] <= part.through]

    def check_end(self, folder: Path) -> None:
        assert rows_on_disk(folder, PAIR) == self.truth
        assert verify(TradeStore(folder), PAIR).faults == []
        assert foreign_files(folder) == []
        assert [path for path in (folder / "staging").rglob("*") if path.is_file()] == []
        assert imported_paths(folder) == []


def plain(batch: Any) -> list[tuple[Any, ...]]:
    table = batch.set_column(1, "time", batch.column("time").cast("int64"))
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))
