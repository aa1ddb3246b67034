"""`Archive.import_csv`, `plan_import`, `compact` and `rollup`, as a program calls them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import harvester
from harvester.errors import BadFile
from harvester.events import Begun, Imported, Step
from harvester.operations.run_log import latest_runs
from harvester.storage.filesystem import LocalStore
from harvester.storage.locks_and_requests import locked
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import Writer

ROWS = "".join(f"{1_704_067_200 + 10 * n},{100 + n},0.5\n" for n in range(100))


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[harvester.Archive]:
    (tmp_path / "XBTUSD.csv").write_text(ROWS)
    (tmp_path / "OLDUSD.csv").write_text(ROWS)
    with harvester.sample_exchange(100) as exchange:
        yield harvester.open(tmp_path / "data", settings=exchange.settings)


def test_an_import_returns_a_report_and_reports_its_progress(
    archive: harvester.Archive, tmp_path: Path
) -> None:
    events: list[object] = []
    result = archive.import_csv(tmp_path / "XBTUSD.csv", pairs=["XBT/USD"], progress=events.append)
    [report] = result.reports
    assert (report.pair, report.read.rows, result.unknown, result.exit_status) == (
        "XBTUSD",
        100,
        [],
        0,
    )
    assert report.imported.rows == len(archive.trades("XBT/USD")) > 90
    assert {type(event) for event in events} == {Begun, Step, Imported}


def test_an_import_is_in_the_run_log(archive: harvester.Archive, tmp_path: Path) -> None:
    result = archive.import_csv(tmp_path / "XBTUSD.csv", pair="btc/usd", whole_since="2024-01-01")
    [run] = latest_runs(TradeStore(archive.path), 9)
    assert (run.command, run.exit_status) == ("import", 0)
    assert (run.asked["pair"], run.asked["whole_since"]) == ("btc/usd", 1_704_067_200)
    assert [pair.trades for pair in run.pairs] == [result.reports[0].imported.rows]


def test_an_import_that_a_full_disk_ends_claims_no_rows(
    archive: harvester.Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = LocalStore.commit

    def fail_for_trades(store: LocalStore, staged: str, path: str) -> None:
        if path.startswith("trades/"):
            raise harvester.ArchiveUnwritable("the disk is full")
        commit(store, staged, path)

    monkeypatch.setattr(LocalStore, "commit", fail_for_trades)
    [report] = archive.import_csv(tmp_path / "XBTUSD.csv", check=False).reports
    assert (str(report.error), report.read.rows, report.imported.rows, report.ranges) == (
        "the disk is full",
        100,
        0,
        [],
    )
    assert archive.stored_pairs() == []


def test_an_import_whose_files_can_not_be_merged_has_its_rows_all_the_same(
    archive: harvester.Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_writer: Writer, **_options: object) -> None:
        raise harvester.ArchiveUnwritable("the disk is full")

    monkeypatch.setattr(Writer, "compact", fail)
    [report] = archive.import_csv(tmp_path / "XBTUSD.csv", check=False).reports
    assert (str(report.error), report.exit_status) == ("the disk is full", 1)
    assert report.imported.rows == len(archive.trades("XBT/USD")) > 90


def test_an_import_beside_a_running_one_claims_no_count(
    archive: harvester.Archive, tmp_path: Path
) -> None:
    with locked(Path(archive.path) / "locks", "XBTUSD"):
        [report] = archive.import_csv(tmp_path / "XBTUSD.csv", check=False).reports
    assert (report.exit_status, report.summary()) == (5, "nothing was imported")


def test_a_file_of_an_unknown_pair_is_an_error_and_ends_no_other(
    archive: harvester.Archive, tmp_path: Path
) -> None:
    with pytest.raises(harvester.UnknownPair, match=r"1 file skipped.*OLDUSD.csv"):
        archive.import_csv(tmp_path)
    assert archive.stored_pairs() == ["XBTUSD"]
    result = archive.import_csv(tmp_path, check=False)
    assert (result.unknown, result.exit_status) == (["OLDUSD.csv"], 2)
    archive.import_csv(tmp_path, delisted=True)
    assert archive.stored_pairs() == ["OLDUSD", "XBTUSD"]


def test_a_cancelled_import_is_interrupted(archive: harvester.Archive, tmp_path: Path) -> None:
    cancel = harvester.CancelToken()
    cancel.cancel()
    with pytest.raises(harvester.Interrupted):
        archive.import_csv(tmp_path / "XBTUSD.csv", cancel=cancel)
    assert archive.stored_pairs() == []


def test_no_file_and_a_fraction_of_a_second_are_refused(archive: harvester.Archive) -> None:
    with pytest.raises(harvester.UsageError, match="no file to import"):
        archive.import_csv()
    with pytest.raises(harvester.UsageError, match=r"--whole-until .* give a whole second"):
        archive.plan_import("XBTUSD.csv", whole_until="2024-01-01T00:00:00.5")


def test_a_plan_writes_nothing(archive: harvester.Archive, tmp_path: Path) -> None:
    plan = archive.plan_import(tmp_path)
    assert [(file.file, file.pair, file.rows) for file in plan.files] == [
        ("XBTUSD.csv", "XBTUSD", 100)
    ]
    assert (plan.unknown, plan.exit_status) == (["OLDUSD.csv"], 2)
    assert archive.stored_pairs() == []


def test_maintenance_returns_a_result_for_each_pair(
    archive: harvester.Archive, tmp_path: Path
) -> None:
    archive.import_csv(tmp_path / "XBTUSD.csv")
    events: list[object] = []
    [built] = archive.rollup(progress=events.append)
    assert (built.pair, built.built, built.up_to_date, built.notes) == ("XBTUSD", 2, 0, [])
    assert {type(event) for event in events} == {Begun, Step}
    [merged] = archive.compact("btc-usd")
    assert (merged.pair, merged.files_before, merged.files_after) == ("XBTUSD", 1, 1)
    with pytest.raises(harvester.NothingStored):
        archive.rollup("ETH/USD")


def test_a_file_that_is_not_there_begins_no_archive(tmp_path: Path) -> None:
    folder = tmp_path / "mistyped"
    with pytest.raises(BadFile, match="No such file"):
        harvester.open(folder).import_csv(tmp_path / "missing.csv")
    assert not folder.exists()
