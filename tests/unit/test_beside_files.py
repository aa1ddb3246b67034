"""A gap is filled up to a busy second of a file: no trade stands twice, or not at all, unsaid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import csv_files
import pytest
import sample_trades
from kraken_market import SECOND_NS, Trade
from redownload_damage import without_a_row
from redownload_kills import MIDNIGHT_NS, Killed, busy_new_year, earlier_import
from redownload_torn import command, faults, killed_at, volumes
from redownloads import PAIR, started

from harvester.csv_import.files import KnownComplete
from harvester.download import import_boundary, pair
from harvester.storage.replacement_staging import from_files
from harvester.storage.trade_store import TradeStore
from harvester.times import DAY, Range

__all__ = ["started"]

BUSY = busy_new_year()
TOLD = "a file and the exchange's own trades meet in a busy second: a trade near "


def two_years(started: Any, rounding: str, *, ids: bool, trades: Sequence[Trade] = BUSY) -> Any:
    """A file over a busy New Year, the exchange's own on both sides of it."""
    trades = trades if ids else [sample_trades._renumbered(each, None) for each in trades]
    one = started(trades)
    one.crawl().only(PAIR, span=Range(0, MIDNIGHT_NS - 2 * DAY))
    whole = KnownComplete(0, (MIDNIGHT_NS + DAY + DAY // 2) // SECOND_NS)
    with earlier_import():
        one.take_in(csv_files.three_columns(trades, rounding), whole)
    assert one.crawl().only(PAIR).exit_status == 0
    assert sorted(volumes(one.folder)) == truth(one)
    parts = [part for _, part in from_files(TradeStore(one.folder), PAIR)]
    assert parts[0].through == parts[1].after == MIDNIGHT_NS - 1
    return one


def alike() -> list[Trade]:
    """A trade of the same price and volume in each second: no second shows whose it is."""
    near = [MIDNIGHT_NS + at * SECOND_NS + 700_007_000 for at in range(-30, 30)]
    far = [MIDNIGHT_NS + at * DAY // 3 for at in (-9, -8, -7, 7, 8, 9)]
    same = Trade(0, "40000.0", "0.01000000", "b", "l", "", None)
    return [replace(same, true_ns=stamp) for stamp in sorted([*near, *far])]


def truth(one: Any) -> list[Any]:
    return sorted(row[4] for row in one.truth)


def file_of(one: Any, year: int) -> Path:
    [found] = [each for each, _ in from_files(TradeStore(one.folder), PAIR) if each.year == year]
    return Path(one.folder, found.path)


def damaged(one: Any, year: int) -> None:
    without_a_row(file_of(one, year))
    command("verify", PAIR, "--repair", "-q", "--api-url", one.exchange.url, folder=one.folder)


def removed(one: Any, year: int) -> None:
    file_of(one, year).unlink()
    one.crawl().only(PAIR)


@pytest.mark.parametrize("lose", [damaged, removed])
@pytest.mark.parametrize("ids", [True, False], ids=["ids", "no ids"])
@pytest.mark.parametrize("year", [2023, 2024])
@pytest.mark.parametrize("rounding", csv_files.ROUNDINGS)
def test_what_stands_twice_or_not_at_all_is_told(
    started: Any, rounding: str, year: int, ids: bool, lose: Callable[[Any, int], None]
) -> None:
    one = two_years(started, rounding, ids=ids)
    lose(one, year)
    is_whole = sorted(volumes(one.folder)) == truth(one)
    told = faults(one.folder)
    assert is_whole == (told == [])
    assert is_whole or (rounding != "down" and told[0].startswith(TOLD))
    if not is_whole:
        again = one.crawl().only(PAIR)
        assert (again.exit_status, told[0] in str(again.error)) == (4, True)
        done = one.upgrade()
        if not ids and year == 2023:
            # The file is right about fewer trades, as far as anything proves: so it advises this.
            assert "fewer trades than the file" in str(done.upgrade.left)
            file_of(one, 2024).unlink()
            one.crawl().only(PAIR)
        assert sorted(volumes(one.folder)) == truth(one)
        assert faults(one.folder) == []


@pytest.mark.parametrize("year", [2023, 2024])
@pytest.mark.parametrize("rounding", csv_files.ROUNDINGS)
def test_of_trades_that_look_alike_none_is_lost_unsaid(
    started: Any, rounding: str, year: int
) -> None:
    one = two_years(started, rounding, ids=False, trades=alike())
    removed(one, year)
    is_whole = sorted(volumes(one.folder)) == truth(one)
    assert is_whole == (rounding == "down")
    # Whether the file goes on with the same trade or with another one that looks like it, nobody
    # can tell: so it is told as well.
    assert bool(faults(one.folder)) == (year == 2023 or not is_whole)


def test_what_stands_once_is_on_record_no_more_though_a_run_was_killed(
    started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = two_years(started, "down", ids=True)
    with monkeypatch.context() as patch:
        patch.setattr(
            pair, "clear_resolved_flags", killed_at(1, import_boundary.clear_resolved_flags)
        )
        with pytest.raises(Killed):
            removed(one, 2023)
    assert len(faults(one.folder)) == 1
    assert one.crawl().only(PAIR).exit_status == 0
    assert (faults(one.folder), sorted(volumes(one.folder))) == ([], truth(one))
