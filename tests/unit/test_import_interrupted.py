"""An import that ends at any moment, and a file that changes meanwhile, leave nothing unnoticed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import csv_files
import pytest
import sample_trades
from csv_imports import imported

from harvester.csv_import.chain_importer import ImportOptions
from harvester.csv_import.csv_files import CompletePeriod, find
from harvester.csv_import.import_pairs import import_pairs
from harvester.csv_import.pair_matching import PairFiles
from harvester.errors import DamagedFile
from harvester.events import CancelToken
from harvester.kraken.pairs import Pair
from harvester.storage.segment import Segment
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import Writer, open_writer
from harvester.times import Range, missing

PAIR = "XBTUSD"
YEARS = [
    sample_trades.xbtusd_like(400, year, start_ns=sample_trades.utc_ns(year, 6, 1), first_id=1)
    for year in (2018, 2019, 2020)
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of three years, which becomes three segments."""
    path = tmp_path / "XBTUSD.csv"
    path.write_bytes(csv_files.three_columns([trade for year in YEARS for trade in year]))
    return path


def at_each_commit(
    monkeypatch: pytest.MonkeyPatch, before: Callable[[], None], after: Callable[[], None]
) -> None:
    """Call functions while each segment is written, and once it is committed."""
    commit = Writer.commit_stream

    def observed(self: Writer, rows: Any, footer: Any) -> Segment:
        def watched() -> Any:
            yield from rows
            before()

        segment = commit(self, watched(), footer)
        after()
        return segment

    monkeypatch.setattr(Writer, "commit_stream", observed)


def test_what_a_killed_import_leaves_between_its_segments_is_a_gap(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    with open_writer(TradeStore(folder), PAIR) as pair_writer:
        pair_writer.record_requested(Range(0, YEARS[0][0].true_ns // 2))
    seen = []

    def look() -> None:
        archive = TradeStore(folder)
        coverage = archive.coverage(PAIR)
        between = missing([Range(coverage[0].after, coverage[-1].through)], coverage)
        seen.append([gap in archive.gaps(PAIR) for gap in between])

    at_each_commit(monkeypatch, lambda: None, look)
    # A second of trades stands at the end of each year, so that a gap remains there.
    turns = [sample_trades.utc_ns(year, 1, 1) // 10**9 for year in (2019, 2020)]
    lines = file.read_text().splitlines()
    for turn in turns:
        lines += [f"{turn + second},100.5,1.25" for second in (-2, -1, 0, 1)]
    file.write_text("\n".join(sorted(lines)) + "\n")
    imported(folder, file)
    assert seen == [[], [True], [True, True]]


@pytest.mark.parametrize("is_replaced", [False, True])
def test_rows_of_a_file_that_changed_after_its_scan_are_never_committed(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_replaced: bool
) -> None:
    folder, stamp = tmp_path / "data", file.stat().st_mtime_ns
    committed: list[int] = []

    def change() -> None:
        if len(committed) == 1:
            other = file.with_suffix(".other") if is_replaced else file
            other.write_bytes(file.read_bytes())
            os.utime(other, ns=(stamp, stamp + (not is_replaced)))
            other.rename(file)

    at_each_commit(
        monkeypatch, change, lambda: committed.append(len(TradeStore(folder).segments(PAIR)))
    )
    options = ImportOptions(lambda _pair, _size: None, CancelToken())
    files = PairFiles(Pair(altname=PAIR), find([str(file)]), CompletePeriod())
    [report] = import_pairs(TradeStore(folder), [files], options)
    assert isinstance(report.error, DamagedFile)
    assert str(report.error) == "XBTUSD.csv was changed while it was imported"
    assert committed == [1]
    assert TradeStore(folder).segments(PAIR) == []
