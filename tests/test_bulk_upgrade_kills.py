"""An upgrade that is killed at any step leaves whole tapes, and goes on from there."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import csvs
import pytest
import tapes
from crawling import Crawl, serve, strangers, tape_of
from exchange import Exchange
from exchange_market import SECOND_NS, Clock, Tape, Trade, expected
from test_bulk_joining import imported
from victims import Victims, hunt

from harvester.csv_import import redownload
from harvester.csv_import.boundaries import BoundaryFinder
from harvester.csv_import.files import KnownComplete
from harvester.query.rollups import parse_levels, roll_up
from harvester.storage.filesystem import LocalStore
from harvester.storage.replacement_staging import from_files
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import writer
from harvester.times import DAY, Range, missing
from harvester.verify.integrity import verify

PAIR = "XBTUSD"
NOW_NS = tapes.utc_ns(2025, 3, 1)
MIDNIGHT_NS = tapes.utc_ns(2024, 1, 1)


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


def quiet_new_year() -> list[Trade]:
    """A trade that a file which rounds up tells in the year behind it."""
    far = [MIDNIGHT_NS + at * DAY // 3 for at in (-9, -8, 2, 3, 7)]
    return numbered([*far, MIDNIGHT_NS - 200_000_000])


@contextlib.contextmanager
def earlier_import() -> Iterator[None]:
    """Import as before ends of years among trades were left out: segments meet in a busy second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BoundaryFinder, "_end_gap_at_busy_year_end", lambda *_: None)
        yield


class Begun:
    """An archive with a file's trades in it, to be upgraded again and again from here."""

    def __init__(
        self, folder: Path, exchange: Exchange, trades: list[Trade], early: Range | None
    ) -> None:
        """Of the file one row is lost; `early` was fetched before it came."""
        self.folder = folder
        self.exchange = exchange
        self.market = tapes.market(trades)
        self.truth: Tape = expected(self.market)
        if early is not None:
            assert self.crawl(folder / "begun").only(PAIR, span=early).exit_status == 0
        file = folder / "XBTUSD.csv"
        file.write_bytes(csvs.three_columns([*trades[:-3], *trades[-2:]], "up"))
        with earlier_import():
            imported(
                folder / "begun", file, whole=KnownComplete(0, trades[-1].true_ns // SECOND_NS + 9)
            )
        # Filled by a run that ends with what the file lacks.
        Crawl(exchange.url, folder / "begun").only(PAIR)
        with writer(TradeStore(folder / "begun"), PAIR) as one:
            roll_up(one, parse_levels(["1h"]))
        self.before = tape_of(folder / "begun", PAIR)
        self.coverage = TradeStore(folder / "begun").coverage(PAIR)

    def crawl(self, folder: Path, **fields: Any) -> Crawl:
        options = {"archive.flush_rows": 30, "candles.rollups": []}
        return Crawl(self.exchange.url, folder, options, **fields)

    def copy(self, name: str) -> Path:
        shutil.copytree(self.folder / "begun", self.folder / name)
        return self.folder / name

    def check_between(self, folder: Path) -> None:
        """All is covered; what is said to be a file's is the file's, all else the exchange's."""
        archive = TradeStore(folder)
        faults = verify(archive, PAIR).faults
        assert [fault for fault in faults if (fault.path or "").startswith("candles/")] == []
        assert archive.coverage(PAIR) == self.coverage
        files = [part for _, part in from_files(archive, PAIR)]
        for parts, tape in (
            (files, self.before),
            (missing(self.coverage, files), self.truth),
        ):
            for part in parts:
                rows = [row for batch in archive.scan(PAIR, part) for row in plain(batch)]
                assert rows == [row for row in tape if part.after < row[1] <= part.through]

    def check_end(self, folder: Path) -> None:
        assert tape_of(folder, PAIR) == self.truth
        assert verify(TradeStore(folder), PAIR).faults == []
        assert strangers(folder) == []
        assert list((folder / "upgrade").rglob("*.parquet")) == []
        assert from_files(TradeStore(folder), PAIR) == []


def plain(batch: Any) -> list[tuple[Any, ...]]:
    table = batch.set_column(1, "time", batch.column("time").cast("int64"))
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


class Killed(BaseException):
    """The process is gone."""


class Steps:
    """So many steps on any disk, and nothing happens any more."""

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


class Dying(LocalStore):
    """A disk that takes steps."""

    def __init__(self, root: Path, steps: Steps) -> None:
        super().__init__(root)
        self._steps = steps

    def stage(self, folder: str) -> str:
        self._steps.take()
        return super().stage(folder)

    def commit(self, staged: str, path: str) -> None:
        self._steps.take()
        super().commit(staged, path)
        self._steps.take()

    def remove(self, path: str) -> None:
        self._steps.take()
        super().remove(path)
        self._steps.take()

    def remove_folder(self, folder: str) -> None:
        self._steps.take()
        super().remove_folder(folder)


@pytest.fixture(params=["busy", "quiet"])
def begun(request: Any, tmp_path: Path) -> Iterator[Begun]:
    trades = busy_new_year() if request.param == "busy" else quiet_new_year()
    early = None if request.param == "busy" else Range(0, MIDNIGHT_NS - DAY // 2)
    with serve(tapes.market(trades), clock=Clock(NOW_NS)) as exchange:
        yield Begun(tmp_path, exchange, trades, early)


def test_killed_at_every_step_on_the_disk_an_upgrade_goes_on(
    begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths = 0
    while True:
        folder, steps = begun.copy(f"{deaths}"), Steps(deaths)

        def opened(path: Path, steps: Steps = steps) -> TradeStore:
            archive = TradeStore(path)
            archive.store = Dying(path, steps)
            return archive

        def beside(archive: TradeStore) -> TradeStore:
            return opened(archive.root / "upgrade")

        with monkeypatch.context() as patch:
            patch.setattr(redownload, "aside_of", beside)
            try:
                begun.crawl(folder, upgrade=True, open=opened).only(PAIR)
            except Killed:
                deaths += 1
            else:
                break
        begun.check_between(folder)
        begun.crawl(folder, upgrade=True).only(PAIR)
        begun.check_end(folder)
        assert len(list((folder / "quarantine").rglob("*.parquet"))) == 1
        shutil.rmtree(folder)
    begun.check_end(folder)
    assert deaths > 20


def test_what_a_crash_left_of_a_replacement_any_writer_clears(begun: Begun) -> None:
    """Wherever a killed upgrade left two files of one time, a sweep leaves one of them."""
    doubled = 0
    for left in range(200):
        folder, steps = begun.copy(f"{left}"), Steps(left)

        def opened(path: Path, steps: Steps = steps) -> TradeStore:
            archive = TradeStore(path)
            archive.store = Dying(path, steps)
            return archive

        try:
            begun.crawl(folder, upgrade=True, open=opened).only(PAIR)
        except Killed:
            archive = TradeStore(folder)
            pieces, segments = archive.pieces(PAIR), archive.segments(PAIR)
            doubled += len(pieces) < len(segments)
            with writer(archive, PAIR):
                assert len(archive.pieces(PAIR)) == len(archive.segments(PAIR))
            begun.check_between(folder)
        else:
            break
        shutil.rmtree(folder)
    assert left < 199
    assert bool(doubled) == (len(begun.truth) < 10)


def called(exchange: Exchange, times: int) -> bool:
    return len(exchange.calls) >= times


def test_killed_at_random_moments_an_upgrade_is_exact(begun: Begun) -> None:
    """The real process, by SIGKILL; the run that is left alone comes to the end."""
    chance = random.Random(5)
    victims = Victims(
        begun.copy("killed"),
        begun.exchange.url,
        {"HARVESTER_EXCHANGE_RATE": "0", "HARVESTER_ARCHIVE_FLUSH_ROWS": "30"},
    )
    words = ["backfill", PAIR, "--upgrade", "-q"]
    killed = 0
    for _ in range(6):
        due = partial(called, begun.exchange, len(begun.exchange.calls) + chance.choice((1, 3, 5)))
        end = hunt(victims.start(words), due)
        killed += end.killed
        begun.check_between(victims.folder)
    assert killed
    assert victims.run(words).status in (0, 4)
    begun.check_end(victims.folder)
