"""Damage that a re-download meets: staged trades are downloaded again, and no damage is hidden."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import csv_files
import pyarrow.parquet as pq
import pytest
from corruption import replace_bytes
from redownload_damage import without_a_row
from redownloads import PAIR, TRADES, aside, imported_paths, started

import harvester
from harvester.csv_import import redownload
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer

__all__ = ["started"]


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def of_other_columns(path: Path) -> None:
    table = pq.ParquetFile(path).read()
    pq.write_table(table.drop_columns(["misc"]), path)


def of_another_side(path: Path) -> None:
    replace_bytes(path, b"sell", b"sel9")


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (without_a_row, "has other rows than its footer says"),
        (cut_off, "can't be read"),
        (of_other_columns, "has other columns than the format's"),
        (of_another_side, "can't be read: side has the unknown value 'sel9'"),
    ],
)
def test_a_damaged_staged_file_is_removed_and_its_range_downloaded_again(
    started: Any, harm: Callable[[Path], None], fault: str
) -> None:
    scenario = started(TRADES)
    scenario.take_in(csv_files.three_columns(TRADES[:4_000]))
    scenario.fill()
    scenario.redownload(stop_after_pages=3)
    [first, *others] = sorted(aside(scenario.folder))
    assert others
    harm(first)
    backfill = scenario.backfill(replace_imported=True)
    assert backfill.only(PAIR).exit_status == 0
    [note] = backfill.notes
    assert note.startswith(f"{first} {fault}")
    assert note.endswith("; it was removed")
    scenario.check()


def test_damage_found_during_a_redownload_is_an_error_that_names_the_repair(
    started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = started(TRADES)
    scenario.take_in(csv_files.three_columns(TRADES[:4_000]))
    scenario.fill()
    harmed: list[Path] = []
    compare = redownload._Redownload._compare

    def late(self: Any, segment: Any, staged: Any) -> Any:
        if not harmed:
            harmed.append(min(aside(scenario.folder)))
            without_a_row(harmed[0])
        return compare(self, segment, staged)

    monkeypatch.setattr(redownload._Redownload, "_compare", late)
    done = scenario.redownload()
    assert (done.exit_status, str(done.error)) == (
        4,
        f"{harmed[0]} has other rows than its footer says: "
        "the same command downloads its range again",
    )
    assert scenario.redownload().exit_status == 0
    scenario.check()


def test_a_repair_leaves_what_a_crash_left_of_a_replacement_to_the_next_writer(
    started: Any,
) -> None:
    """Between renaming and deletion both files are sound: neither is moved nor downloaded again."""
    scenario = started(TRADES)
    scenario.stopped_before_deletion()
    cut_off(rollup := min((scenario.folder / "candles").rglob("*.parquet")))
    settings = {"exchange.url": scenario.exchange.url, "exchange.rate": 0}
    [report] = harvester.open(scenario.folder, settings=settings).verify(PAIR, repair=True)
    assert report.repair is not None
    moved = [scenario.folder / file.path for file in report.repair.moved]
    assert (report.faults, report.repair.trades, moved) == ([], 0, [rollup])
    scenario.check()


@pytest.mark.parametrize("harm", [without_a_row, of_other_columns])
def test_what_a_crash_left_of_a_replacement_is_kept_where_the_downloaded_file_is_damaged(
    started: Any, harm: Callable[[Path], None]
) -> None:
    scenario = started(TRADES)
    path = scenario.stopped_before_deletion()
    imported = path.read_bytes()
    paths = [scenario.folder / s.path for s in TradeStore(scenario.folder).segments(PAIR)]
    [merged] = [other for other in paths if other != path]
    harm(merged)
    with open_writer(TradeStore(scenario.folder), PAIR):
        assert path.read_bytes() == imported


@pytest.mark.parametrize("where", ["imported", "staged"])
def test_a_replacement_hides_no_damage(
    started: Any, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Damage that comes between the comparison and the replacement, too."""
    scenario = started(TRADES)
    scenario.take_in(csv_files.three_columns(TRADES[1_000:4_000]))
    scenario.fill()
    [path] = imported_paths(scenario.folder)
    imported = scenario.folder / path
    if where == "imported":
        without_a_row(imported)
    else:
        compare = redownload._Redownload._compare

        def damaging(self: Any, segment: Any, staged: Any) -> Any:
            days = compare(self, segment, staged)
            without_a_row(min(aside(scenario.folder)))
            return days

        monkeypatch.setattr(redownload._Redownload, "_compare", damaging)
    before = imported.read_bytes()
    done = scenario.redownload()
    assert (done.exit_status, imported.read_bytes()) == (4, before)
    assert "has other rows than its footer says: " in str(done.error)
