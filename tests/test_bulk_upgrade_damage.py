"""Damage that an upgrade meets: what lies aside is fetched anew, and nothing is laundered."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import csvs
import pyarrow.parquet as pq
import pytest
from test_bulk_upgrade import PAIR, TRADES, aside, started
from test_bulk_upgrade_kills import Begun, Dying, Killed, Steps, begun

from harvester.archive.archive import Archive
from harvester.archive.aside import Upgraded, from_files
from harvester.archive.splicing import splice
from harvester.archive.writer import writer
from harvester.bulk import upgrading
from harvester.errors import ArchiveDamaged

__all__ = ["begun", "started"]

NOTE = f"upgrade/replacing/{PAIR}.json"


def without_a_row(path: Path) -> None:
    """Take the last row, and leave the footer as it was but for the number of rows."""
    table = pq.ParquetFile(path).read()
    told = dict(pq.read_metadata(path).metadata)
    told[b"harvester.rows"] = str(table.num_rows - 1).encode()
    pq.write_table(table.slice(0, table.num_rows - 1).replace_schema_metadata(told), path)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def of_other_columns(path: Path) -> None:
    table = pq.ParquetFile(path).read()
    pq.write_table(table.drop_columns(["misc"]), path)


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (without_a_row, "holds other rows than its footer tells"),
        (cut_off, "can't be read"),
        (of_other_columns, "has other columns than the format's"),
    ],
)
def test_a_damaged_file_aside_is_set_aside_and_its_range_fetched_anew(
    started: Any, harm: Callable[[Path], None], fault: str
) -> None:
    one = started(TRADES)
    one.take_in(csvs.three_columns(TRADES[:4_000]))
    one.fill()
    one.upgrade(stop_after_pages=3)
    [first, *others] = sorted(aside(one.folder))
    assert others
    harm(first)
    harmed = first.read_bytes()
    crawl = one.crawl(upgrade=True)
    assert crawl.only(PAIR).exit_status == 0
    path, to = str(first.relative_to(one.folder)), f"quarantine/{PAIR}/0001/{first.name}"
    assert crawl.notes == [
        f"{path} {fault}: it is in {to} now, and its range is fetched anew",
    ]
    assert (one.folder / to).read_bytes() == harmed
    note = json.loads((one.folder / to).with_name("note.json").read_text())
    assert (note["path"], note["faults"]) == (path, [fault])
    one.check()


def test_damage_found_on_the_way_tells_what_mends_it(
    started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = started(TRADES)
    one.take_in(csvs.three_columns(TRADES[:4_000]))
    one.fill()
    harmed: list[Path] = []
    compare = upgrading._Upgrading._compare

    def late(self: Any, unit: Any) -> Any:
        if not harmed:
            harmed.append(min(aside(one.folder)))
            without_a_row(harmed[0])
        return compare(self, unit)

    monkeypatch.setattr(upgrading._Upgrading, "_compare", late)
    done = one.upgrade()
    assert (done.exit_status, str(done.error)) == (
        4,
        f"{harmed[0]} holds other rows than its footer tells: the same command fetches its range "
        "anew",
    )
    assert one.upgrade().exit_status == 0
    one.check()


@pytest.mark.parametrize("where", ["held", "aside"])
def test_a_replacement_launders_no_damage(
    started: Any, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Whoever splices: also the run that ends what a crash left, which compares nothing."""
    one = started(TRADES)
    one.take_in(csvs.three_columns(TRADES[1_000:4_000]))
    one.fill()

    def killed(*_: Any) -> None:
        raise Killed

    with writer(Archive(one.folder), PAIR) as writing:
        writing.compact(every=True)
    with monkeypatch.context() as patch:
        patch.setattr(upgrading, "splice", killed)
        with pytest.raises(Killed):
            one.upgrade()
    archive = Archive(one.folder)
    [segment] = archive.segments(PAIR)
    held = one.folder / segment.path
    parts = [part for _, part in from_files(archive, PAIR)]
    harmed = held if where == "held" else min(aside(one.folder))
    without_a_row(harmed)
    before = held.read_bytes()
    archive = Archive(one.folder)
    mends = (
        f"it was not upgraded. `harvester verify {PAIR} --repair` mends it"
        if where == "held"
        else "the same command fetches its range anew"
    )
    with writer(archive, PAIR) as writing, pytest.raises(ArchiveDamaged) as told:
        splice(writing, Upgraded(archive), parts)
    assert str(told.value) == f"{harmed} holds other rows than its footer tells: {mends}"
    assert held.read_bytes() == before


# --- what a crash left between two renames --------------------------------------------------------


def half_replaced(begun: Begun) -> list[Path]:
    """Archives that a killed upgrade left with its note, one for each step at which it did."""
    found = []
    for left in range(200):
        folder, steps = begun.copy(f"{left}"), Steps(left)

        def opened(path: Path, steps: Steps = steps) -> Archive:
            archive = Archive(path)
            archive.store = Dying(path, steps)
            return archive

        try:
            begun.crawl(folder, upgrade=True, open=opened).only(PAIR)
        except Killed:
            found += [folder] if (folder / NOTE).exists() else []
        else:
            return found
    raise AssertionError("it never came to an end")


def volumes(folder: Path) -> list[Any]:
    batches = Archive(folder).scan(PAIR)
    return [each for batch in batches for each in batch.column("volume").to_pylist()]


def by_import(begun: Begun, folder: Path) -> None:
    done = command("import", str(begun.folder / "XBTUSD.csv"), folder=folder)
    assert (done.returncode, done.stdout) == (0, "")


def by_compact(_: Begun, folder: Path) -> None:
    assert command("compact", "-q", folder=folder).returncode == 0


def by_rollup(_: Begun, folder: Path) -> None:
    assert command("rollup", "-q", folder=folder).returncode == 0


def by_refresh_of_a_delisted_pair(begun: Begun, folder: Path) -> None:
    begun.exchange.delist(PAIR)
    url = ["--api-url", begun.exchange.url]
    done = command("refresh", "XBT/USD", "-q", *url, folder=folder)
    begun.exchange.add(begun.market)
    assert done.returncode in (0, 4)


def command(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run it as a user would."""
    program = [sys.executable, "-m", "harvester", *words, "-d", str(folder)]
    return subprocess.run(program, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("begun", ["busy"], indirect=True)
def test_any_writer_ends_what_a_crash_left_of_a_replacement(begun: Begun) -> None:
    folders = half_replaced(begun)
    truth = sorted(row[4] for row in begun.truth)
    harmed = [folder for folder in folders if sorted(volumes(folder)) != truth]
    assert harmed
    for end in (by_import, by_compact, by_rollup, by_refresh_of_a_delisted_pair):
        folder = shutil.copytree(harmed[0], harmed[0].with_name(end.__name__))
        end(begun, folder)
        assert (end, sorted(volumes(folder))) == (end, truth)
        folders.append(folder)
    for folder in folders:
        begun.crawl(folder).only(PAIR)
        assert sorted(volumes(folder)) == truth
        assert not (folder / NOTE).exists()
        begun.check_between(folder)
        begun.crawl(folder, upgrade=True).only(PAIR)
        begun.check_end(folder)


@pytest.mark.parametrize("begun", ["busy"], indirect=True)
def test_what_cannot_be_ended_yet_stays_on_record_and_stops_nothing(begun: Begun) -> None:
    folder = half_replaced(begun)[0]
    harmed = [file for file in aside(folder) if pq.read_metadata(file).num_rows > 1]
    for file in harmed:
        without_a_row(file)
    crawl = begun.crawl(folder)
    assert crawl.only(PAIR).exit_status in (0, 4)
    assert len([note for note in crawl.notes if "holds other rows" in note]) == len(harmed)
    assert (folder / NOTE).exists()
    begun.crawl(folder, upgrade=True).only(PAIR)
    begun.check_end(folder)
