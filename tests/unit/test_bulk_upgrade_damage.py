"""Damage that an upgrade meets: what lies aside is fetched anew, and nothing is laundered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import csv_files
import pyarrow.parquet as pq
import pytest
from redownload_damage import without_a_row
from redownload_kills import Killed
from redownloads import PAIR, TRADES, aside, started

from harvester.csv_import import redownload
from harvester.errors import ArchiveDamaged
from harvester.storage.replacement import splice
from harvester.storage.replacement_staging import ReplacementView, from_files
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import writer

__all__ = ["started"]


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def of_other_columns(path: Path) -> None:
    table = pq.ParquetFile(path).read()
    pq.write_table(table.drop_columns(["misc"]), path)


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (without_a_row, "has other rows than its footer says"),
        (cut_off, "can't be read"),
        (of_other_columns, "has other columns than the format's"),
    ],
)
def test_a_damaged_file_aside_is_set_aside_and_its_range_fetched_anew(
    started: Any, harm: Callable[[Path], None], fault: str
) -> None:
    one = started(TRADES)
    one.take_in(csv_files.three_columns(TRADES[:4_000]))
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
    one.take_in(csv_files.three_columns(TRADES[:4_000]))
    one.fill()
    harmed: list[Path] = []
    compare = redownload._Redownload._compare

    def late(self: Any, unit: Any) -> Any:
        if not harmed:
            harmed.append(min(aside(one.folder)))
            without_a_row(harmed[0])
        return compare(self, unit)

    monkeypatch.setattr(redownload._Redownload, "_compare", late)
    done = one.upgrade()
    assert (done.exit_status, str(done.error)) == (
        4,
        f"{harmed[0]} has other rows than its footer says: the same command fetches its range anew",
    )
    assert one.upgrade().exit_status == 0
    one.check()


@pytest.mark.parametrize("where", ["held", "aside"])
def test_a_replacement_launders_no_damage(
    started: Any, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Whoever splices: also the run that ends what a crash left, which compares nothing."""
    one = started(TRADES)
    one.take_in(csv_files.three_columns(TRADES[1_000:4_000]))
    one.fill()

    def killed(*_: Any) -> None:
        raise Killed

    with writer(TradeStore(one.folder), PAIR) as writing:
        writing.compact(every=True)
    with monkeypatch.context() as patch:
        patch.setattr(redownload, "splice", killed)
        with pytest.raises(Killed):
            one.upgrade()
    archive = TradeStore(one.folder)
    [segment] = archive.segments(PAIR)
    held = one.folder / segment.path
    parts = [part for _, part in from_files(archive, PAIR)]
    harmed = held if where == "held" else min(aside(one.folder))
    without_a_row(harmed)
    before = held.read_bytes()
    archive = TradeStore(one.folder)
    mends = (
        f"it was not upgraded. `harvester verify {PAIR} --repair` mends it"
        if where == "held"
        else "the same command fetches its range anew"
    )
    with writer(archive, PAIR) as writing, pytest.raises(ArchiveDamaged) as told:
        splice(writing, ReplacementView(archive), parts)
    assert str(told.value) == f"{harmed} has other rows than its footer says: {mends}"
    assert held.read_bytes() == before
