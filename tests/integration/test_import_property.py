"""No import loses or leaves out a row without saying so: what is not stored is named, or a gap."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
from backfills import rows_on_disk
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harvester.csv_import.chain_importer import ImportOptions, ImportReport
from harvester.csv_import.csv_files import CompletePeriod, find
from harvester.csv_import.import_pairs import import_pairs
from harvester.csv_import.pair_matching import PairFiles
from harvester.csv_import.rounding import KeyedRows, match_rows
from harvester.errors import ArchiveDamaged, BadFile
from harvester.events import CancelToken
from harvester.kraken.pairs import Pair
from harvester.storage.trade_store import TradeStore
from harvester.times import SECOND, Range, covers

PAIR = Pair(altname="XBTUSD")


def is_covered(folder: Path, second: int) -> bool:
    moment = second * SECOND
    return covers(TradeStore(folder).coverage("XBTUSD"), Range(moment - 1, moment))


# --- anything at all ------------------------------------------------------------------------------


class File(NamedTuple):
    """A made file: which rows of a history it has, in which order, and what is broken."""

    first: int
    length: int
    lacks: int | None
    order: str
    broken: dict[int, str]
    knows: str


FILES = st.builds(
    File,
    st.integers(0, 30),
    st.integers(0, 30),
    st.one_of(st.none(), st.none(), st.integers(0, 29)),
    st.sampled_from(("by time", "by time", "by time", "swapped")),
    st.one_of(
        st.just({}), st.dictionaries(st.integers(0, 29), st.sampled_from("ptac"), max_size=2)
    ),
    st.sampled_from(("nothing", "nothing", "its ends", "more")),
)
GAPS_S = st.one_of(st.integers(0, 2), st.integers(0, 5), st.sampled_from((70, 600, 40_000_000)))
BOUNDS = st.sampled_from((None, None, -100, 0, 1, 50, 1_000_000_000))
BREAKS = {"p": "{0},oops,{1}", "t": "oops,1.5,{1}", "a": "{0}", "c": "14,oops,{1}"}


@settings(deadline=None, max_examples=60)
@given(
    st.lists(GAPS_S, min_size=5, max_size=40),
    st.lists(st.lists(FILES, min_size=1, max_size=3), min_size=1, max_size=2),
    BOUNDS,
    BOUNDS,
    st.booleans(),
)
@example(
    # The unreadable row is out of order by more than a minute, and its time can be read.
    [0, 0, 0, 70, 0],
    [[File(0, 0, None, "by time", {}, "nothing"), File(1, 3, None, "swapped", {1: "p"}, "more")]],
    None,
    None,
    True,
)
def test_every_row_is_stored_or_reported_as_missing(
    gaps: list[int],
    commands: list[list[File]],
    since: int | None,
    until: int | None,
    skip: bool,
) -> None:
    history, at = [], 1_400_000_000
    for number, gap in enumerate(gaps, 1):
        at += gap
        # Rows differ in their volumes.
        history.append((at, number))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "data"
        for number, files in enumerate(commands):
            place = Path(made) / str(number)
            check_import(folder, place, history, files, (since, until), skip)


def check_import(
    folder: Path,
    place: Path,
    history: list[tuple[int, int]],
    files: list[File],
    bounds: tuple[int | None, int | None],
    skip: bool,
) -> None:
    before = volumes(folder)
    was_covered = [is_covered(folder, at) for at, _ in history]
    members, sound, broken = [], Counter[int](), set[int]()
    is_consistent = is_in_order = True
    for number, file in enumerate(files):
        first = file.first % len(history)
        rows = history[first : first + file.length]
        beside = history[max(first - 1, 0) : first] + history[first + len(rows) :][:1]
        cut_s = {at for at, _ in beside}
        if bounds != (None, None) and rows and cut_s & {rows[0][0], rows[-1][0]}:
            # Of files that are cut within a second, nothing shows which has all trades of it.
            is_consistent = False
        if file.lacks is not None and rows:
            del rows[file.lacks % len(rows)]
            is_consistent = False
        texts = []
        breaks = {index % len(rows): how for index, how in file.broken.items() if rows}
        for index, (at, volume) in enumerate(rows):
            how = breaks.get(index)
            texts.append(BREAKS[how].format(at, volume) if how else f"{at},1.5,{volume}")
            if how:
                broken.add(volume)
            else:
                sound[volume] += 1
        by_time = [*texts]
        if file.order == "swapped":
            texts[1:3] = texts[1:3][::-1]
        readable = [int(text.split(",")[0]) for text in texts if re.match(r"\d+,", text)]
        is_sorted = len(readable) < len(texts) and readable == sorted(readable)
        if is_sorted or "c" in file.broken.values():
            # A row without a readable time, or with a wrong one, is placed by its neighbours: where
            # it is the very one that is out of order, nothing in the file shows that.
            texts = by_time
        whole_rows = [int(text.split(",")[0]) for text in texts if re.match(r"\d+,1.5,", text)]
        tops = accumulate(whole_rows, max)
        is_in_order &= all(at >= top - 60 for top, at in zip(tops, whole_rows, strict=True))
        path = place / str(number) / "XBTUSD.csv"
        path.parent.mkdir(parents=True)
        path.write_text("".join(text + "\n" for text in texts))
        whole = CompletePeriod()
        if rows and file.knows != "nothing":
            more = 0 if file.knows == "its ends" else 5_000
            is_consistent &= not more
            whole = CompletePeriod(rows[0][0] - more, rows[-1][0] + 1 + more)
        members += [member._replace(complete=whole) for member in find([str(path)])]
    ends = (history[0][0], history[-1][0])
    said = CompletePeriod(
        *(None if by is None else end + by for end, by in zip(ends, bounds, strict=True))
    )
    watch = ImportOptions(lambda _pair, _size: None, CancelToken(), skip)
    reports = import_pairs(TradeStore(folder), [PairFiles(PAIR, members, said)], watch)
    given_ = Given(history, sound, broken, is_consistent, is_in_order, skip)
    judge(folder, given_, reports, before, was_covered)


def volumes(folder: Path) -> Counter[int]:
    return Counter(int(row[4]) for row in rows_on_disk(folder, "XBTUSD"))


class Given(NamedTuple):
    """What an import is given: a history, and the volumes of the rows that its files have of it."""

    history: list[tuple[int, int]]
    sound: Counter[int]
    broken: set[int]
    is_consistent: bool
    is_in_order: bool
    skip: bool


def judge(
    folder: Path,
    given_: Given,
    reports: list[ImportReport],
    before: Counter[int],
    was_covered: list[bool],
) -> None:
    history, sound, broken, is_consistent, is_in_order, skip = given_
    after = volumes(folder)
    # What was stored stays, nothing is there twice, and nothing that was not given.
    assert before <= after
    assert max(after.values(), default=1) == 1
    assert (after - before).keys() <= sound.keys()
    assert sum(report.imported.rows for report in reports) == (after - before).total()
    errors = [report.error for report in reports if report.error]
    is_unknown = type(errors[0] if errors else None) is BadFile
    if not is_in_order or (broken and (not skip or is_unknown)):
        # Of a file that has few rows but broken ones, nobody can say what its columns are.
        assert after == before
        assert [report.exit_status for report in reports] == [2]
        return
    assert all(type(error) is ArchiveDamaged for error in errors)
    for report in reports:
        parts = (report.imported, report.already_covered, report.at_boundaries, report.repeats)
        assert report.read.rows == sum(part.rows for part in parts)
        assert report.error or (report.exit_status == 4) >= bool(report.bad)
    assert sum(report.read.rows for report in reports) == sound.total()
    silent = [
        volume
        for at, volume in history
        if volume in sound and volume not in after and is_covered(folder, at)
    ]
    assert bool(silent) == bool(errors)
    for (at, volume), was in zip(history, was_covered, strict=True):
        if volume in broken and volume not in after and not was:
            assert not is_covered(folder, at)
    if is_consistent and not any(was_covered):
        assert not errors


# --- what it is made of ----


POINTS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2)), max_size=12).map(sorted)


@given(POINTS, POINTS, st.integers(0, 3))
def test_as_many_rows_find_a_trade_as_can(
    rows: list[tuple[int, int]], trades: list[tuple[int, int]], tolerance: int
) -> None:
    def packed(points: list[tuple[int, int]]) -> KeyedRows:
        stamps, marks = np.array([(0, 0), *points])[1:].T
        return KeyedRows(stamps.astype(np.int64), marks.astype(np.uint64))

    is_found, is_used = match_rows(packed(rows), packed(trades), tolerance)
    assert is_found.sum() == is_used.sum() == most_pairs(rows, trades, tolerance)


def most_pairs(rows: list[tuple[int, int]], trades: list[tuple[int, int]], tolerance: int) -> int:
    """The largest matching there is, by augmenting paths."""
    taken: dict[int, int] = {}

    def place(row: int, seen: set[int]) -> bool:
        for trade, (stamp, mark) in enumerate(trades):
            fits = mark == rows[row][1] and abs(stamp - rows[row][0]) <= tolerance
            if fits and trade not in seen:
                seen.add(trade)
                if trade not in taken or place(taken[trade], seen):
                    taken[trade] = row
                    return True
        return False

    return sum(place(row, set()) for row in range(len(rows)))
