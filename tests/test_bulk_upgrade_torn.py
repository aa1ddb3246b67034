"""Of two files that belong together one is replaced: nobody takes that for a whole tape."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import csvs
import pytest
import tapes
from exchange import SECOND_NS
from test_bulk_upgrade import PAIR, aside, started, years
from test_bulk_upgrade_damage import NOTE, command, half_replaced, volumes, without_a_row
from test_bulk_upgrade_kills import Begun, Killed, begun

from harvester.archive import splicing
from harvester.archive.archive import Archive
from harvester.archive.aside import Upgraded, from_files
from harvester.archive.writer import writer
from harvester.bulk import upgrading
from harvester.bulk.sources import Whole
from harvester.checks.proof import prove
from harvester.checks.status import status
from harvester.errors import ArchiveDamaged
from harvester.times import Range

__all__ = ["begun", "started"]


class Left(NamedTuple):
    """What a killed upgrade left, with its note."""

    whole: list[Path]
    torn: list[Path]


@pytest.fixture
def left(begun: Begun) -> Left:
    kept = sorted(volumes(begun.folder / "begun")), sorted(row[4] for row in begun.truth)
    found = Left([], [])
    for folder in half_replaced(begun):
        (found.whole if sorted(volumes(folder)) in kept else found.torn).append(folder)
    return found


def faults(folder: Path) -> list[str]:
    """What `verify` finds of a replacement."""
    report = prove(Archive(folder), PAIR)
    assert bool(report.digests) == (not report.faults)
    return [one.text for one in report.faults if one.path == NOTE]


@pytest.mark.parametrize("begun", ["busy"], indirect=True)
def test_a_torn_replacement_is_told_by_everyone_who_tells_of_a_tape(left: Left) -> None:
    assert left.whole
    assert left.torn
    for folder in left.whole:
        assert (folder, faults(folder)) == (folder, [])
        assert status(Archive(folder), [PAIR], 0)[0].damaged == []
    for folder in left.torn:
        [text] = faults(folder)
        assert "may stand twice, or not at all" in text
        assert f"`harvester backfill {PAIR}` ends it" in text
        assert status(Archive(folder), [PAIR], 0)[0].damaged == [f"{folder / NOTE}: {text}"]
    for words in (["verify", PAIR], ["status", PAIR], ["status", PAIR, "--digest"]):
        done = command(*words, folder=left.torn[0])
        assert (words, done.returncode) == (words, 4)
        assert "may stand twice" in done.stdout + done.stderr
        assert "digest" not in done.stdout


@pytest.mark.parametrize("begun", ["busy"], indirect=True)
def test_repair_ends_a_torn_replacement(begun: Begun, left: Left) -> None:
    folder, url = left.torn[0], ["--api-url", begun.exchange.url]
    done = command("verify", PAIR, "--repair", "-q", *url, folder=folder)
    assert (faults(folder), (folder / NOTE).exists()) == ([], False), done.stderr
    assert sorted(volumes(folder)) == sorted(row[4] for row in begun.truth)


@pytest.mark.parametrize("begun", ["busy"], indirect=True)
def test_what_can_not_be_ended_is_told_each_time(begun: Begun, left: Left) -> None:
    """A file aside is damaged: a plain backfill sets it aside, and can't fetch what it held."""
    folder = left.torn[0]
    for file in aside(folder):
        without_a_row(file)
    upgrade = f"`harvester backfill {PAIR} --upgrade` fetches"
    for turn in range(2):
        crawl = begun.crawl(folder)
        done = crawl.only(PAIR)
        assert (done.exit_status, type(done.error)) == (4, ArchiveDamaged)
        assert "may stand twice, or not at all" in str(done.error)
        assert f"{upgrade} what is lacking" in str(done.error)
        told = [note for note in crawl.notes if "holds other rows" in note]
        assert bool(told) == (turn == 0)
        assert all(f"{upgrade} its range anew" in note for note in told)
        [text] = faults(folder)
        assert text in str(done.error)
    for words in (["compact"], ["rollup"], ["import", str(begun.folder / "XBTUSD.csv")]):
        assert "may stand twice" in command(*words, folder=folder).stderr
    begun.crawl(folder, upgrade=True).only(PAIR)
    begun.check_end(folder)


@pytest.mark.parametrize("begun", ["busy"], indirect=True)
@pytest.mark.parametrize("harm", [b"{", b"\xff", b"[" * 100_000])
def test_a_note_that_can_not_be_read_is_no_reason_to_believe(
    begun: Begun, left: Left, harm: bytes
) -> None:
    folder = left.torn[0]
    (folder / NOTE).write_bytes(harm)
    [text] = faults(folder)
    assert "can't be read" in text
    done = begun.crawl(folder).only(PAIR)
    assert (done.exit_status, (folder / NOTE).read_bytes()) == (4, harm)
    assert text in str(done.error)
    begun.crawl(folder, upgrade=True).only(PAIR)
    assert not (folder / NOTE).exists()
    begun.check_end(folder)


def test_replacing_something_else_leaves_it_on_record(
    started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The note of one replacement outlives another one, of one file and of several."""
    trades = years(30, 40, 50, 60, 70)
    one = started(trades)
    one.take_in(csvs.three_columns(trades), Whole(0, tapes.utc_ns(2021, 1, 1) // SECOND_NS))
    one.fill()
    with monkeypatch.context() as patch:
        patch.setattr(upgrading, "splice", killed)
        for year in range(2016, 2021):
            with pytest.raises(Killed):
                one.crawl(upgrade=True).only(PAIR, span=june(year))
    parts = [part for _, part in from_files(Archive(one.folder), PAIR)]
    assert len(parts) == 5
    with monkeypatch.context() as patch:
        patch.setattr(splicing, "_put", killed_at(2, splicing._put))
        with pytest.raises(Killed):
            spliced(one.folder, parts[:2])
    begun_with = (one.folder / NOTE).read_bytes()
    assert len(faults(one.folder)) == 1
    [lies_aside] = [file for file in aside(one.folder) if "year=2017" in str(file)]
    lies_aside.unlink()
    assert one.crawl(upgrade=True).only(PAIR, span=june(2018)).exit_status == 4
    spliced(one.folder, parts[3:])
    assert [part for _, part in from_files(Archive(one.folder), PAIR)] == [parts[1]]
    assert (one.folder / NOTE).read_bytes() == begun_with
    assert len(faults(one.folder)) == 1
    assert one.upgrade().exit_status == 0
    assert not (one.folder / NOTE).exists()
    one.check()


def killed(*_: Any) -> None:
    raise Killed


def killed_at(turn: int, done: Any) -> Any:
    """Do it, and die at one turn."""
    turns = iter(range(1, turn + 1))

    def doing(*given: Any) -> Any:
        return killed() if next(turns) == turn else done(*given)

    return doing


def spliced(folder: Path, parts: list[Range]) -> None:
    archive = Archive(folder)
    with writer(archive, PAIR) as one:
        splicing.splice(one, Upgraded(archive), parts)


def june(year: int) -> Range:
    return Range(tapes.utc_ns(year, 6, 1), tapes.utc_ns(year, 6, 1) + 1)
