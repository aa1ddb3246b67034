"""Of two files that belong together one is replaced: nobody takes that for a whole tape."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import csv_files
import pytest
import sample_trades
from backfills import serve, tape_of
from concurrent_writer import disturbed
from kraken_market import SECOND_NS, Clock
from msgspec.structs import replace
from redownload_damage import without_a_row
from redownload_kills import Begun, Dying, Killed, Steps, busy_new_year
from redownload_torn import NOTE, command, faults, killed, killed_at, volumes
from redownloads import NOW_NS, PAIR, aside, started, years

from harvester.csv_import import redownload
from harvester.csv_import.files import KnownComplete
from harvester.errors import ArchiveDamaged
from harvester.storage import replacement
from harvester.storage.filesystem import LocalStore
from harvester.storage.replacement_staging import ReplacementView, from_files, noted
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import writer
from harvester.times import Range
from harvester.verify.digest import digests
from harvester.verify.integrity import verify_with_digests
from harvester.verify.status import status

__all__ = ["started"]


class Left(NamedTuple):
    """What a killed upgrade left, with its note, at each step on the disk at which it did."""

    begun: Begun
    whole: list[Path]
    torn: list[Path]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Left]:
    trades = busy_new_year()
    with serve(sample_trades.market(trades), clock=Clock(NOW_NS)) as exchange:
        begun = Begun(tmp_path_factory.mktemp("left"), exchange, trades, None)
        found = Left(begun, [], [])
        tapes_whole = sorted(volumes(begun.folder / "begun")), amounts(begun)
        for folder in half_replaced(begun):
            is_whole = sorted(volumes(folder)) in tapes_whole
            (found.whole if is_whole else found.torn).append(folder)
        assert found.whole
        assert found.torn
        yield found


@pytest.fixture
def torn(left: Left, tmp_path: Path) -> Path:
    """One of them, to be changed."""
    return shutil.copytree(left.torn[0], tmp_path / "torn")


def half_replaced(begun: Begun) -> list[Path]:
    """Archives that a killed upgrade left with its note, one for each step at which it did."""
    found: list[Path] = []
    for left in range(200):
        folder = begun.copy(f"{left}")
        if not dies(begun, folder, left, upgrade=True):
            return found
        found += [folder] if (folder / NOTE).exists() else []
    raise AssertionError("it never came to an end")


def dies(begun: Begun, folder: Path, left: int, **fields: Any) -> bool:
    """Backfill until so many steps on the disk are done; whether it was killed for it."""
    steps = Steps(left)

    def opened(path: Path) -> TradeStore:
        archive = TradeStore(path)
        archive.store = Dying(path, steps)
        return archive

    try:
        begun.crawl(folder, open=opened, **fields).only(PAIR)
    except Killed:
        return True
    return False


def amounts(begun: Begun) -> list[Any]:
    """The volumes of the exchange's whole tape."""
    return sorted(row[4] for row in begun.truth)


def test_a_torn_replacement_is_told_by_everyone_who_tells_of_a_tape(left: Left) -> None:
    for folder in left.whole:
        assert (folder, faults(folder)) == (folder, [])
        assert status(TradeStore(folder), [PAIR], NOW_NS)[0].damaged == []
    for folder in left.torn:
        [text] = faults(folder)
        assert "may stand twice, or not at all" in text
        assert f"`harvester backfill {PAIR}` ends it" in text
        assert status(TradeStore(folder), [PAIR], NOW_NS)[0].damaged == [f"{folder / NOTE}: {text}"]


@pytest.mark.parametrize("asked", [("verify",), ("status",), ("status", "--digest")], ids=" ".join)
def test_a_command_that_tells_of_a_tape_fails(torn: Path, asked: tuple[str, ...]) -> None:
    done = command(*asked, PAIR, folder=torn)
    assert done.returncode == 4
    assert "may stand twice" in done.stdout + done.stderr
    assert "digest" not in done.stdout


@pytest.mark.parametrize("is_upgrade", [True, False], ids=["upgrade", "its end"])
def test_a_proof_is_of_the_tape_before_or_behind_a_replacement_and_of_no_other(
    left: Left, tmp_path: Path, is_upgrade: bool
) -> None:
    """Before every third opening of a file, all that is left to be replaced is."""
    begun = left.begun
    found = begun.folder / "begun" if is_upgrade else left.torn[0]
    tapes_whole = [digests(TradeStore(found), PAIR)] if is_upgrade else []
    for at in range(3, 99, 3):
        folder = shutil.copytree(found, tmp_path / f"{at}")
        archive, between = disturbed(
            folder,
            at,
            partial(replaced_now, begun, folder, upgrade=is_upgrade),
        )
        report = verify_with_digests(archive, PAIR)
        after = digests(TradeStore(folder), PAIR)
        assert report.digests in ([], *tapes_whole, after), at
        assert bool(report.digests) == (not report.faults)
        if between.opened < at:
            break
    assert 5 < at < 96


def replaced_now(begun: Begun, folder: Path, **fields: Any) -> None:
    begun.crawl(folder, **fields).only(PAIR)


def test_repair_ends_it(left: Left, torn: Path) -> None:
    url = ["--api-url", left.begun.exchange.url]
    done = command("verify", PAIR, "--repair", "-q", *url, folder=torn)
    assert (faults(torn), (torn / NOTE).exists()) == ([], False), done.stderr
    assert sorted(volumes(torn)) == amounts(left.begun)


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


@pytest.mark.parametrize("end", [by_import, by_compact, by_rollup, by_refresh_of_a_delisted_pair])
def test_any_writer_ends_it(left: Left, torn: Path, end: Callable[[Begun, Path], None]) -> None:
    end(left.begun, torn)
    assert sorted(volumes(torn)) == amounts(left.begun)
    assert faults(torn) == []


def test_wherever_it_was_cut_short_a_backfill_ends_it(left: Left, tmp_path: Path) -> None:
    begun = left.begun
    for number, found in enumerate([*left.whole, *left.torn]):
        folder = shutil.copytree(found, tmp_path / f"{number}")
        begun.crawl(folder).only(PAIR)
        assert sorted(volumes(folder)) == amounts(begun)
        assert not (folder / NOTE).exists()
        begun.check_between(folder)
        begun.crawl(folder, upgrade=True).only(PAIR)
        begun.check_end(folder)


def test_killed_again_where_it_was_cut_short(left: Left, tmp_path: Path) -> None:
    begun = left.begun
    for found in (left.whole[0], left.torn[0]):
        for steps in range(50):
            folder = shutil.copytree(found, tmp_path / f"{found.name}-{steps}")
            is_over = not dies(begun, folder, steps)
            begun.crawl(folder).only(PAIR)
            assert (steps, sorted(volumes(folder))) == (steps, amounts(begun))
            assert (faults(folder), (folder / NOTE).exists()) == ([], False)
            if is_over:
                break
        assert 3 < steps < 49


def test_what_can_not_be_ended_is_told_each_time(left: Left, torn: Path) -> None:
    """A file aside is damaged: a plain backfill sets it aside, and can't fetch what it held."""
    for file in aside(torn):
        without_a_row(file)
    upgrade = f"`harvester backfill {PAIR} --upgrade` fetches"
    for turn in range(2):
        crawl = left.begun.crawl(torn)
        done = crawl.only(PAIR)
        assert (done.exit_status, type(done.error)) == (4, ArchiveDamaged)
        assert "may stand twice, or not at all" in str(done.error)
        assert f"{upgrade} what is lacking" in str(done.error)
        told = [note for note in crawl.notes if "has other rows" in note]
        assert bool(told) == (turn == 0)
        assert all(f"{upgrade} its range anew" in note for note in told)
        [text] = faults(torn)
        assert text in str(done.error)
    table = str(left.begun.folder / "XBTUSD.csv")
    for words in (["compact"], ["rollup"], ["import", table]):
        assert "may stand twice" in command(*words, folder=torn).stderr
    left.begun.crawl(torn, upgrade=True).only(PAIR)
    left.begun.check_end(torn)


def test_what_was_fetched_anew_replaces_nothing_before_it_is_compared(
    left: Left, torn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade is killed once it has fetched again what was lost aside."""
    for file in aside(torn):
        file.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(redownload._Redownload, "_replace", killed)
        with pytest.raises(Killed):
            left.begun.crawl(torn, upgrade=True).only(PAIR)
    assert aside(torn)
    before = tape_of(torn, PAIR)
    assert left.begun.crawl(torn).only(PAIR).exit_status == 4
    assert tape_of(torn, PAIR) == before
    left.begun.crawl(torn, upgrade=True).only(PAIR)
    left.begun.check_end(torn)


@pytest.mark.parametrize("harm", [b"{", b"\xff", b"[[1]]"])
def test_a_note_that_can_not_be_read_is_no_reason_to_believe(
    left: Left, torn: Path, harm: bytes
) -> None:
    (torn / NOTE).write_bytes(harm)
    [text] = faults(torn)
    assert "can't be read" in text
    done = left.begun.crawl(torn).only(PAIR)
    assert (done.exit_status, (torn / NOTE).read_bytes()) == (4, harm)
    assert text in str(done.error)
    left.begun.crawl(torn, upgrade=True).only(PAIR)
    assert not (torn / NOTE).exists()
    left.begun.check_end(torn)


@pytest.fixture
def prepared(started: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Five years from a file, of each of which the exchange's own trades lie aside."""
    trades = years(30, 40, 50, 60, 70)
    one = started(trades)
    one.take_in(
        csv_files.three_columns(trades),
        KnownComplete(0, sample_trades.utc_ns(2021, 1, 1) // SECOND_NS),
    )
    one.fill()
    with monkeypatch.context() as patch:
        patch.setattr(redownload, "splice", killed)
        for year in range(2016, 2021):
            with pytest.raises(Killed):
                one.crawl(upgrade=True).only(PAIR, span=june(year))
    one.parts = [part for _, part in from_files(TradeStore(one.folder), PAIR)]
    assert len(one.parts) == 5
    return one


def test_replacing_something_else_leaves_it_on_record(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The note of one replacement outlives another one, of one file and of several."""
    one, parts = prepared, prepared.parts
    with monkeypatch.context() as patch:
        patch.setattr(replacement, "_put", killed_at(2, replacement._put))
        with pytest.raises(Killed):
            spliced(one.folder, parts[:2])
    [begun_with] = noted(LocalStore(one.folder), PAIR)
    assert len(faults(one.folder)) == 1
    lose_aside(one.folder, 2017)
    assert one.crawl(upgrade=True).only(PAIR, span=june(2018)).exit_status == 4
    spliced(one.folder, parts[3:])
    assert [part for _, part in from_files(TradeStore(one.folder), PAIR)] == [parts[1]]
    # What is fetched for it anew is to be held against the file anew.
    assert noted(LocalStore(one.folder), PAIR) == [replace(begun_with, compared=False)]
    assert len(faults(one.folder)) == 1
    assert one.upgrade().exit_status == 0
    assert not (one.folder / NOTE).exists()
    one.check()


def test_what_was_begun_and_not_done_is_no_part_of_what_is_half_done(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, parts = prepared, prepared.parts
    for at, ranges in ((1, parts[3:]), (2, parts[:2])):
        with monkeypatch.context() as patch:
            patch.setattr(replacement, "_put", killed_at(at, replacement._put))
            with pytest.raises(Killed):
                spliced(one.folder, ranges)
    assert len(faults(one.folder)) == 1
    lose_aside(one.folder, 2020)
    assert one.crawl().only(PAIR).exit_status == 0
    assert (faults(one.folder), (one.folder / NOTE).exists()) == ([], False)
    assert [part for _, part in from_files(TradeStore(one.folder), PAIR)] == parts[2:]


def lose_aside(folder: Path, year: int) -> None:
    [lost] = [file for file in aside(folder) if f"year={year}" in str(file)]
    lost.unlink()


def spliced(folder: Path, parts: list[Range]) -> None:
    archive = TradeStore(folder)
    with writer(archive, PAIR) as one:
        replacement.splice(one, ReplacementView(archive), parts)


def june(year: int) -> Range:
    return Range(sample_trades.utc_ns(year, 6, 1), sample_trades.utc_ns(year, 6, 1) + 1)
