"""An archive as its readers see it: each moment once, whoever writes meanwhile."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_trades import PAIR, archive, made_rows, put

from harvester.errors import ArchiveDamaged
from harvester.storage import locks_and_requests
from harvester.storage import parquet_files as segments_module
from harvester.storage import trade_store as module
from harvester.storage.segment import Footer, Segment, segment_path
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import Range

__all__ = ["archive"]
"""A fixture."""


def seen(batches: Iterator[pa.RecordBatch]) -> list[tuple[int, int]]:
    """(time, tie) of the rows that a reader got."""
    return [
        (stamp.value, tie)
        for batch in batches
        for stamp, tie in zip(batch.column("time"), batch.column("tie").to_pylist(), strict=True)
    ]


def places(rows: list[Any], span: Range) -> list[tuple[int, int]]:
    """(time, tie) of the rows that lie in a range."""
    return [(row[1], row[2]) for row in rows if span.after < row[1] <= span.through]


ROWS = made_rows([5, 10, 10, 15, 20, 20, 20, 25, 30, 35])


# What is held.


def test_an_archive_that_is_not_there_holds_nothing(archive: TradeStore) -> None:
    assert (archive.stored_pairs(), archive.segments(PAIR), archive.coverage(PAIR)) == ([], [], [])
    assert (list(archive.scan(PAIR)), archive.gaps(PAIR)) == ([], [])
    assert not archive.root.exists()


def test_a_folder_with_foreign_files_only_is_no_stored_pair(archive: TradeStore) -> None:
    put(archive, Range(0, 10), ROWS)
    for path in ("trades/pair=ETHUSD/year=2019/notes.txt", "trades/pair=/x", "trades/README.md"):
        target = archive.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("x")
    assert archive.stored_pairs() == [PAIR]


def test_coverage_is_read_from_the_file_names_alone(archive: TradeStore) -> None:
    for span in (Range(0, 10), Range(10, 20), Range(25, 30)):
        target = archive.root / segment_path(PAIR, span, span.through)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"no parquet at all")
    assert archive.coverage(PAIR) == [Range(0, 20), Range(25, 30)]


def test_gaps_are_requested_ranges_that_are_not_covered(archive: TradeStore) -> None:
    locks_and_requests.write_requests(
        archive.store, PAIR, locks_and_requests.Requests([Range(0, 40)])
    )
    put(archive, Range(5, 10), ROWS)
    put(archive, Range(20, 30), ROWS)
    assert archive.gaps(PAIR) == [Range(0, 5), Range(10, 20), Range(30, 40)]


@pytest.mark.parametrize("raw", [None, b'{"pair":"XBTUSD","spans":[]}'])
def test_all_between_the_first_segment_and_the_last_is_wanted_where_the_record_is_lost(
    archive: TradeStore, raw: bytes | None
) -> None:
    for span in (Range(5, 10), Range(20, 30), Range(30, 35)):
        put(archive, span, ROWS)
    if raw is not None:
        archive.store.write(f"wanted/{PAIR}.json", raw, PAIR)
    assert (archive.requested(PAIR), archive.gaps(PAIR)) == ([Range(5, 35)], [Range(10, 20)])
    with open_writer(archive, PAIR) as pair_writer:
        pair_writer.record_requested(Range(40, 50))
    assert archive.gaps(PAIR) == [Range(10, 20), Range(40, 50)]


def test_segments_stand_by_after_the_widest_first(archive: TradeStore) -> None:
    for span in (Range(10, 20), Range(0, 10), Range(0, 30)):
        put(archive, span, ROWS)
    assert [segment.range for segment in archive.segments(PAIR)] == [
        Range(0, 30),
        Range(0, 10),
        Range(10, 20),
    ]


# The reader's rule.

SPANS = st.lists(
    st.tuples(st.integers(0, 36), st.integers(1, 20)).map(lambda p: Range(p[0], p[0] + p[1])),
    max_size=6,
)


@settings(deadline=None, max_examples=30)
@given(SPANS, st.tuples(st.integers(0, 40), st.integers(0, 40)).map(sorted))
def test_each_moment_is_read_once_however_segments_overlap(
    tmp_path_factory: pytest.TempPathFactory, spans: list[Range], asked: list[int]
) -> None:
    archive = TradeStore(tmp_path_factory.mktemp("overlap"))
    for span in spans:
        put(archive, span, ROWS)
    span = Range(*asked)
    covered = {at for held in spans for at in range(held.after + 1, held.through + 1)}
    assert seen(archive.scan(PAIR, span)) == [
        place for place in places(ROWS, span) if place[0] in covered
    ]


@settings(deadline=None, max_examples=30)
@given(SPANS)
def test_pieces_are_in_order_and_do_not_overlap(
    tmp_path_factory: pytest.TempPathFactory, spans: list[Range]
) -> None:
    archive = TradeStore(tmp_path_factory.mktemp("pieces"))
    for span in spans:
        put(archive, span, [])
    pieces = archive.pieces(PAIR)
    assert all(piece.within.through <= other.within.after for piece, other in pairwise(pieces))
    assert all(piece.segment.range.after <= piece.within.after for piece in pieces)
    assert all(piece.within.through <= piece.segment.range.through for piece in pieces)


def test_a_span_of_one_moment_gives_its_rows(archive: TradeStore) -> None:
    put(archive, Range(0, 40), ROWS)
    assert seen(archive.scan(PAIR, Range(19, 20))) == [(20, 0), (20, 1), (20, 2)]


# Files that vanish.


def split(archive: TradeStore) -> None:
    """Three segments that touch."""
    for span in (Range(0, 10), Range(10, 20), Range(20, 40)):
        put(archive, span, ROWS)


def test_a_scan_under_way_survives_a_compaction(archive: TradeStore) -> None:
    split(archive)
    reader = archive.scan(PAIR)
    first = seen(iter([next(reader)]))
    with open_writer(TradeStore(archive.root), PAIR) as pair_writer:
        assert pair_writer.compact(merge_all=True) == (3, 1)
    assert first + seen(reader) == places(ROWS, Range(0, 40))


def test_a_scan_that_listed_before_a_compaction_lists_again(
    archive: TradeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    split(archive)
    listed = archive.segments(PAIR)
    with open_writer(TradeStore(archive.root), PAIR) as pair_writer:
        pair_writer.compact(merge_all=True)
    real, listings = archive.segments, [listed]
    monkeypatch.setattr(archive, "segments", lambda pair: (listings or [real(pair)]).pop())
    assert seen(archive.scan(PAIR)) == places(ROWS, Range(0, 40))


def cut_off(monkeypatch: pytest.MonkeyPatch, after_batches: int) -> None:
    """Let the first read of a file end early, as a store far away may."""
    real, left = segments_module.read_batches, [after_batches]

    def read(*args: Any, **more: Any) -> Iterator[pa.RecordBatch]:
        for batch in real(*args, **more):
            if left and left[0] == 0:
                left.clear()
                raise FileNotFoundError(2, "No such file or directory")
            if left:
                left[0] -= 1
            yield batch

    monkeypatch.setattr(module, "read_batches", read)


@pytest.mark.parametrize("batches", [0, 1, 2, 3, 4])
def test_a_file_that_vanishes_half_read_loses_and_repeats_nothing(
    archive: TradeStore, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    # Row groups of two end inside the groups of equal time.
    monkeypatch.setattr(segments_module, "ROW_GROUP_ROWS", 2)
    rows = made_rows([5, 10, 10, 10, 10, 10, 15, 20, 20])
    put(archive, Range(0, 40), rows)
    cut_off(monkeypatch, batches)
    assert seen(archive.scan(PAIR)) == places(rows, Range(0, 40))


def test_imported_trades_that_are_replaced_half_read_are_not_mixed_with_downloaded_trades(
    archive: TradeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has the times 10, 10, 20, 20, which were rounded up."""
    monkeypatch.setattr(segments_module, "ROW_GROUP_ROWS", 2)
    put(archive, Range(0, 40), made_rows([10, 10, 20, 20]), is_imported=True)
    cut_off(monkeypatch, 1)
    reader = archive.scan(PAIR)
    assert seen(iter([next(reader)])) == [(10, 0), (10, 1)]
    put(archive, Range(0, 40), made_rows([4, 6, 14, 16]))
    with pytest.raises(ArchiveDamaged, match="were replaced while they were read: try again"):
        list(reader)


ASKED: dict[str, Callable[[TradeStore], object]] = {
    "the id before": lambda archive: archive.last_id_before(PAIR, 40),
    "the id behind": lambda archive: archive.first_id_after(PAIR, 0),
    "the last time": lambda archive: archive.last_time(PAIR, 40),
    "whether it is imported": lambda archive: archive.is_imported_at(PAIR, 40),
    "imports from the first": lambda archive: archive.imported_from_first(PAIR, 40),
    "imports before an id": lambda archive: archive.is_imported_before_id(PAIR, 0),
}


@pytest.mark.parametrize("name", ASKED)
def test_queries_during_a_compaction_have_the_same_results(
    archive: TradeStore, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As one span of a pair does, at its ends, while the segments of another are merged."""
    split(archive)
    want, listed = ASKED[name](archive), archive.segments(PAIR)
    with open_writer(TradeStore(archive.root), PAIR) as pair_writer:
        pair_writer.compact(merge_all=True)
    archive.forget_pair(PAIR)
    real, listings = archive.segments, [listed]
    monkeypatch.setattr(archive, "segments", lambda pair: (listings or [real(pair)]).pop())
    assert ASKED[name](archive) == want
    assert listings == []


def test_the_cache_of_a_pair_can_be_dropped_while_others_are_listed(
    archive: TradeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one thread a pair has ended, while in another files of the next are being merged."""
    footer = Footer(Range(0, 1), "{}")
    monkeypatch.setattr(module, "read_footer", lambda _store, _path: footer)
    done, faults = threading.Event(), []

    def learn() -> None:
        for place in range(20_000):
            archive.footer(Segment("ONE", 1970, Range(place, place + 1), "", 0))
        done.set()

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=learn)
    thread.start()
    try:
        while not done.is_set():
            archive.forget_pair("TWO")
    except RuntimeError as fault:
        faults.append(fault)
    finally:
        thread.join()
        sys.setswitchinterval(interval_s)
    assert faults == []


def test_files_that_keep_vanishing_end_in_an_error(
    archive: TradeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    split(archive)
    listed = archive.segments(PAIR)
    shutil.rmtree(archive.root / "trades")
    monkeypatch.setattr(archive, "segments", lambda _pair: listed)
    with pytest.raises(ArchiveDamaged) as caught:
        list(archive.scan(PAIR))
    assert str(caught.value) == "files of XBTUSD keep vanishing while they are read: try again"


def test_a_damaged_file_is_an_error_that_names_its_path(archive: TradeStore) -> None:
    split(archive)
    place = archive.location(archive.segments(PAIR)[1])
    Path(place).write_bytes(b"PAR1")
    with pytest.raises(ArchiveDamaged) as caught:
        list(archive.scan(PAIR))
    assert str(caught.value).startswith(f"{place} can't be read: ")


# Neighbouring ids at the ends of ranges.

LOOSE = made_rows([5, 10, 15, 20, 25, 30], [None, 2, None, None, None, 6])


@pytest.fixture
def loose(archive: TradeStore) -> TradeStore:
    for span in (Range(0, 10), Range(10, 15), Range(15, 27), Range(27, 40)):
        put(archive, span, LOOSE)
    return archive


@pytest.mark.parametrize(
    ("moment", "edge"),
    [
        (10, (2, 0, 10)),
        (15, (2, 1, 10)),
        (27, (2, 3, 10)),
        (40, (6, 0, 30)),
        (0, None),
        (12, None),
        (50, None),
    ],
)
def test_the_last_id_before_a_time_comes_with_the_rows_behind_it_and_its_time(
    loose: TradeStore, moment: int, edge: tuple[int, int, int] | None
) -> None:
    assert loose.last_id_before(PAIR, moment) == edge


@pytest.mark.parametrize(("moment", "edge"), [(27, (6, 0)), (15, (6, 2)), (0, (2, 1)), (40, None)])
def test_the_first_id_after_a_time_comes_with_the_rows_before_it(
    loose: TradeStore, moment: int, edge: tuple[int, int] | None
) -> None:
    assert loose.first_id_after(PAIR, moment) == edge


def test_the_time_of_the_last_id_is_its_own_and_not_the_last_rows(archive: TradeStore) -> None:
    put(archive, Range(0, 27), LOOSE)
    assert archive.last_id_before(PAIR, 27) == (2, 3, 10)


def test_the_edge_does_not_reach_over_a_gap(archive: TradeStore) -> None:
    put(archive, Range(0, 10), LOOSE)
    put(archive, Range(12, 27), LOOSE)
    assert archive.last_id_before(PAIR, 27) is None


@pytest.mark.parametrize(
    ("moment", "last"),
    [(40, 35), (35, 35), (34, 30), (20, 20), (19, 15), (5, 5), (4, None), (60, 35)],
)
def test_the_last_time_is_that_of_the_last_trade_at_or_before_a_moment(
    archive: TradeStore, moment: int, last: int | None
) -> None:
    put(archive, Range(0, 22), ROWS)
    put(archive, Range(22, 40), ROWS)
    put(archive, Range(40, 50), ROWS)
    assert archive.last_time(PAIR, moment) == last


def test_bounds_are_the_first_and_the_last_time(archive: TradeStore) -> None:
    put(archive, Range(0, 40), ROWS)
    put(archive, Range(40, 50), ROWS)
    assert [archive.footer(segment).bounds for segment in archive.segments(PAIR)] == [(5, 35), None]
