"""What is committed stands whole and for good; merging and sweeping never lose a row."""

from __future__ import annotations

import errno
import os
import random
from contextlib import suppress
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sample_trades
from hypothesis import given, settings
from hypothesis import strategies as st
from kraken_market import Market, expected
from segment_rows import Row, batch, checksum

from harvester.errors import ArchiveDamaged, ArchiveLocked, ArchiveUnwritable
from harvester.schema import PAGE_SCHEMA, SEGMENT_SCHEMA
from harvester.storage.filesystem import LocalStore
from harvester.storage.locks_and_requests import QuarantineNote, store_pairs
from harvester.storage.parquet_files import WRITER_OPTIONS, stage_segment
from harvester.storage.segment import Footer, IdPair, Segment, segment_path
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import Writer, open_writer
from harvester.times import Range, year_of

PAIR = "XBTUSD"
NOTE = Footer(Range(0, 1), '{"altname":"XBTUSD"}')
HISTORY: list[Row] = list(expected(sample_trades.market(sample_trades.xbtusd_like(120, 9))))
YEARS: list[Row] = list(expected(sample_trades.market(sample_trades.new_years())))


@pytest.fixture
def archive(tmp_path: Path) -> TradeStore:
    """An archive that has nothing on disk yet."""
    return TradeStore(tmp_path / "data")


def commit(
    writer: Writer, span: Range, trade_rows: list[Row], footer: Footer = NOTE
) -> list[Segment]:
    """Commit the rows that lie in a range."""
    inside = [row for row in trade_rows if span.after < row[1] <= span.through]
    return writer.commit(span, batch(inside, PAGE_SCHEMA), footer)


def committed(archive: TradeStore, trade_rows: list[Row], spans: list[Range]) -> None:
    """Commit rows range by range."""
    with open_writer(archive, PAIR) as pair_writer:
        for span in spans:
            commit(pair_writer, span, trade_rows)


def cuts(trade_rows: list[Row], number: int) -> list[Range]:
    """Touching ranges that contain all rows, each cut between two times."""
    stamps = sorted({row[1] for row in trade_rows})
    inner = stamps[:: max(len(stamps) // number, 1)][1:number]
    ends = [stamps[0] - 1, *inner, stamps[-1] + 5]
    return [Range(*ends_of) for ends_of in pairwise(ends)]


def held(archive: TradeStore, span: Range | None = None) -> list[Row]:
    """The rows that the archive holds, in the form of `expected`."""
    found: list[Row] = []
    for scanned in archive.scan(PAIR, *([span] if span else [])):
        stamps = [value.value for value in scanned.column("time")]
        for row, stamp in zip(scanned.to_pylist(), stamps, strict=True):
            found.append(tuple({**row, "time": stamp}[name] for name in SEGMENT_SCHEMA.names))
    return found


def parquets(archive: TradeStore) -> list[str]:
    """Paths of all files under trades/."""
    found = (archive.root / "trades").rglob("*")
    return sorted(str(path.relative_to(archive.root)) for path in found if path.is_file())


# Committing.


def test_what_is_committed_is_read_back_digit_by_digit(archive: TradeStore) -> None:
    committed(archive, HISTORY, cuts(HISTORY, 4))
    assert held(archive) == HISTORY


@pytest.mark.parametrize(
    "market",
    [
        sample_trades.tiny_coin(50),
        sample_trades.old_style(50),
        sample_trades.market(sample_trades.zero_ids(50)),
        sample_trades.empty(),
    ],
    ids=["tiny coin", "old", "zero ids", "empty"],
)
def test_markets_of_all_kinds_are_read_back(archive: TradeStore, market: Market) -> None:
    trade_rows: list[Row] = list(expected(market))
    committed(archive, trade_rows, [Range(0, 2**62)])
    assert held(archive) == trade_rows


@settings(deadline=None, max_examples=30)
@given(sample_trades.markets(), st.integers(1, 4))
def test_any_trades_in_any_segments_are_read_back_before_and_after_compaction(
    tmp_path_factory: pytest.TempPathFactory, market: Market, number: int
) -> None:
    trade_rows: list[Row] = list(expected(market))
    archive = TradeStore(tmp_path_factory.mktemp("any"))
    spans = cuts(trade_rows, number) if trade_rows else [Range(0, 10)]
    committed(archive, trade_rows, spans)
    assert held(archive) == trade_rows
    with open_writer(archive, PAIR) as pair_writer:
        pair_writer.compact(merge_all=True)
    assert held(archive) == trade_rows
    assert archive.coverage(PAIR) == [Range(spans[0].after, spans[-1].through)]


def test_a_span_without_trades_is_covered_by_a_segment_of_no_rows(archive: TradeStore) -> None:
    committed(archive, [], [Range(10, 20)])
    (segment,) = archive.segments(PAIR)
    assert (archive.coverage(PAIR), archive.footer(segment).rows) == ([Range(10, 20)], 0)
    assert (archive.stored_pairs(), list(archive.scan(PAIR))) == ([PAIR], [])


def test_a_span_is_cut_between_rows_where_the_year_turns(archive: TradeStore) -> None:
    span = Range(sample_trades.utc_ns(2018, 12, 1), sample_trades.utc_ns(2024, 2, 1))
    committed(archive, YEARS, [span])
    found = archive.segments(PAIR)
    traded = sorted({int(str(pa.scalar(row[1], pa.timestamp("ns")))[:4]) for row in YEARS})
    assert [segment.year for segment in found] == traded
    assert [segment.range.through for segment in found] == [
        *(sample_trades.utc_ns(year + 1, 1, 1) - 1 for year in traded[:-1]),
        span.through,
    ]
    assert archive.coverage(PAIR) == [span]
    assert held(archive) == YEARS


def test_each_row_lies_in_the_folder_of_its_year(archive: TradeStore) -> None:
    committed(archive, YEARS, [Range(0, sample_trades.utc_ns(2024, 2, 1))])
    for path in parquets(archive):
        stamps = pq.read_table(archive.root / path).column("time").to_pylist()
        assert {f"year={stamp.year}" for stamp in stamps} == {path.split("/")[2]}


def test_an_empty_span_over_several_years_is_one_segment(archive: TradeStore) -> None:
    span = Range(sample_trades.utc_ns(2018, 5, 1), sample_trades.utc_ns(2021, 5, 1))
    committed(archive, [], [span])
    assert parquets(archive) == [segment_path(PAIR, span, None)]
    assert "/year=2021/" in parquets(archive)[0]


def test_a_span_that_ends_in_a_later_year_than_its_rows_stays_whole(archive: TradeStore) -> None:
    trade_rows = [row for row in YEARS if row[1] < sample_trades.utc_ns(2019, 12, 1)]
    span = Range(0, sample_trades.utc_ns(2021, 5, 1))
    committed(archive, trade_rows, [span])
    assert parquets(archive) == [segment_path(PAIR, span, sample_trades.utc_ns(2019, 6, 1))]


def test_the_last_nanosecond_of_a_year_is_of_that_year(archive: TradeStore) -> None:
    turn = sample_trades.utc_ns(2020, 1, 1)
    trade_rows: list[Row] = [(1, turn - 1, 0, *HISTORY[0][3:]), (2, turn, 0, *HISTORY[0][3:])]
    committed(archive, trade_rows, [Range(turn - 10, turn + 10)])
    assert [(segment.year, segment.range) for segment in archive.segments(PAIR)] == [
        (2019, Range(turn - 10, turn - 1)),
        (2020, Range(turn - 1, turn + 10)),
    ]


def test_an_id_gap_is_recorded_in_both_segments_beside_it(archive: TradeStore) -> None:
    turn = sample_trades.utc_ns(2020, 1, 1)
    stamps = (turn - 5, turn - 3, turn + 5, turn + 7)
    trade_rows: list[Row] = [
        (number, at, 0, *HISTORY[0][3:]) for number, at in zip((1, 5, 9, 20), stamps, strict=True)
    ]
    id_gaps = (IdPair(1, 5), IdPair(5, 9), IdPair(9, 20))
    with open_writer(archive, PAIR) as pair_writer:
        footer = Footer(Range(0, 1), "{}", confirmed_id_gaps=id_gaps, unconfirmed_id_gaps=3)
        commit(pair_writer, Range(turn - 10, turn + 10), trade_rows, footer)
    footers = [archive.footer(segment) for segment in archive.segments(PAIR)]
    assert [written.confirmed_id_gaps for written in footers] == [id_gaps[:2], id_gaps[1:]]
    assert sum(written.unconfirmed_id_gaps for written in footers) == 3


def test_counted_id_gaps_are_recorded_in_the_segments_that_have_them(
    archive: TradeStore,
) -> None:
    turn = sample_trades.utc_ns(2020, 1, 1)
    stamps = (turn - 5, turn - 3, turn + 5, turn + 7)
    trade_rows: list[Row] = [
        (number, at, 0, *HISTORY[0][3:]) for number, at in zip((1, 5, 9, 20), stamps, strict=True)
    ]
    with open_writer(archive, PAIR) as pair_writer:
        footer = Footer(Range(0, 1), "{}", unconfirmed_id_gaps=4)
        commit(pair_writer, Range(turn - 10, turn + 10), trade_rows, footer)
    footers = [archive.footer(segment) for segment in archive.segments(PAIR)]
    assert [written.unconfirmed_id_gaps for written in footers] == [1, 3]


def test_the_footer_keeps_source_and_cursor_and_counts_the_rows(archive: TradeStore) -> None:
    span = Range(HISTORY[0][1] - 1, HISTORY[-1][1])
    footer = Footer(Range(0, 1), "{}", source="csv", cursor="1705792331777820800", rows=99)
    with open_writer(archive, PAIR) as pair_writer:
        commit(pair_writer, span, HISTORY, footer)
    (segment,) = archive.segments(PAIR)
    found = archive.footer(segment)
    assert (found.range, found.source, found.cursor) == (span, "csv", "1705792331777820800")
    assert (found.rows, found.checksum) == (120, checksum(HISTORY))


@pytest.mark.parametrize(
    ("span", "stamps"),
    [
        (Range(10, 20), [10, 15]),
        (Range(10, 20), [15, 21]),
        (Range(10, 20), [5]),
        (Range(10, 20), [25]),
        (Range(10, 20), [15, 14]),
    ],
)
def test_rows_outside_the_range_or_out_of_order_are_an_error(
    archive: TradeStore, span: Range, stamps: list[int]
) -> None:
    rows: list[Row] = [(at, stamp, 0, *HISTORY[0][3:]) for at, stamp in enumerate(stamps, 1)]
    with (
        open_writer(archive, PAIR) as pair_writer,
        pytest.raises(AssertionError) as caught,
    ):
        pair_writer.commit(span, batch(rows, PAGE_SCHEMA), NOTE)
    assert str(caught.value) == f"rows of {PAIR} are out of order, or lie outside of {span}"
    assert parquets(archive) == []


# All at once, or not at all.


class Crash(BaseException):
    """The process ends here."""


class Fragile(LocalStore):
    """A store on which a segment's commit or removal crashes, the first so many passing."""

    def __init__(self, root: Path, *, commits: int = 99, removals: int = 99) -> None:
        super().__init__(root)
        self.commits, self.removals = commits, removals

    def commit(self, staged: str, path: str) -> None:
        if path.startswith("trades/"):
            self.commits -= 1
            if self.commits < 0:
                raise Crash
        super().commit(staged, path)

    def remove(self, path: str) -> None:
        self.removals -= 1
        if self.removals < 0:
            raise Crash
        super().remove(path)


def crashing(archive: TradeStore, **passing: int) -> Writer:
    """A writer whose store crashes; no lock and no sweep, as after kill -9."""
    archive.store = Fragile(archive.root, **passing)
    return Writer(archive, PAIR)


def test_a_crash_between_staging_and_rename_leaves_nothing_to_see(archive: TradeStore) -> None:
    with pytest.raises(Crash):
        commit(crashing(archive, commits=0), Range(0, 2**62), HISTORY)
    after = TradeStore(archive.root)
    assert (after.stored_pairs(), after.coverage(PAIR), parquets(after)) == ([], [], [])
    assert after.store.files("staging") != []


def test_the_next_run_sweeps_what_a_crash_left_in_staging(archive: TradeStore) -> None:
    with pytest.raises(Crash):
        commit(crashing(archive, commits=0), Range(0, 2**62), HISTORY)
    after = TradeStore(archive.root)
    with open_writer(after, PAIR):
        assert after.store.files("staging") == []


def test_the_sweep_of_one_pair_leaves_the_staging_of_another(archive: TradeStore) -> None:
    with open_writer(archive, "ETHUSD"):
        staged = archive.store.stage("ETHUSD")
        (archive.root / staged).write_bytes(b"x")
        with open_writer(archive, PAIR):
            pass
        assert (archive.root / staged).exists()


def test_a_crash_between_the_years_of_a_commit_keeps_the_first_whole(archive: TradeStore) -> None:
    with pytest.raises(Crash):
        commit(crashing(archive, commits=1), Range(0, sample_trades.utc_ns(2024, 2, 1)), YEARS)
    after = TradeStore(archive.root)
    (covered,) = after.coverage(PAIR)
    assert held(after) == [row for row in YEARS if row[1] <= covered.through]


def test_a_writer_that_fails_leaves_no_staged_file(archive: TradeStore) -> None:
    archive.store = Fragile(archive.root, commits=0)
    with pytest.raises(Crash), open_writer(archive, PAIR) as pair_writer:
        commit(pair_writer, Range(0, 2**62), HISTORY)
    assert archive.store.files("staging") == []


def test_a_full_disk_at_the_commit_is_an_error_and_leaves_no_segment(
    archive: TradeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with open_writer(archive, PAIR) as pair_writer:
        pair_writer.record_requested(Range(0, 10))
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(ArchiveUnwritable) as caught:
            commit(pair_writer, Range(0, 10), [])
    assert str(caught.value) == (
        f"can't write {archive.root}/{segment_path(PAIR, Range(0, 10), None)}: the disk is full: "
        "make room, then run the same command again"
    )
    assert parquets(archive) == []


def test_a_range_that_lacks_trades_becomes_a_gap_though_nothing_was_requested(
    archive: TradeStore,
) -> None:
    with open_writer(archive, PAIR) as pair_writer:
        pair_writer.commit(Range(0, 100), batch([], PAGE_SCHEMA), NOTE)
        assert pair_writer.remove_coverage(Range(90, 100))
        assert archive.coverage(PAIR) == [Range(0, 90)]
    assert archive.gaps(PAIR) == [Range(90, 100)]


def test_only_segments_are_in_the_folder_trades(archive: TradeStore) -> None:
    with open_writer(archive, PAIR) as pair_writer:
        pair_writer.record_requested(Range(0, 2**62))
        commit(pair_writer, Range(0, 2**62), HISTORY)
        pair_writer.compact(merge_all=True)
        assert {Path(path).suffix for path in parquets(archive)} == {".parquet"}


def test_the_root_of_an_archive_has_these_entries(archive: TradeStore) -> None:
    store_pairs(archive.store, b"{}")
    with open_writer(archive, PAIR) as pair_writer:
        pair_writer.record_requested(Range(0, 2**62))
        commit(pair_writer, Range(0, 2**62), HISTORY)
        pair_writer.compact(merge_all=True)
    assert {path.name for path in archive.root.iterdir()} == {
        "archive.json",
        "locks",
        "pairs.json",
        "staging",
        "trades",
        "wanted",
    }


def test_two_writers_of_a_pair_keep_each_other_out(archive: TradeStore) -> None:
    with (
        open_writer(archive, PAIR),
        pytest.raises(ArchiveLocked),
        open_writer(TradeStore(archive.root), PAIR),
    ):
        pass


# Merging.


def test_merging_keeps_rows_checksum_and_range(archive: TradeStore) -> None:
    spans = cuts(HISTORY, 5)
    committed(archive, HISTORY, spans)
    with open_writer(archive, PAIR) as pair_writer:
        assert pair_writer.compact() == (5, 1)
    (segment,) = archive.segments(PAIR)
    footer = archive.footer(segment)
    assert segment.range == footer.range == Range(spans[0].after, spans[-1].through)
    assert (footer.rows, footer.checksum) == (120, checksum(HISTORY))
    assert (footer.first_trade_id, footer.last_trade_id) == (HISTORY[0][0], HISTORY[-1][0])


def test_compaction_keeps_id_gaps_and_the_last_cursor(archive: TradeStore) -> None:
    spans = cuts(HISTORY, 3)
    ids = [[row[0] for row in HISTORY if s.after < row[1] <= s.through] for s in spans]
    given_footers = [
        Footer(spans[0], "old", cursor="1", confirmed_id_gaps=(IdPair(0, ids[0][0]),)),
        Footer(spans[1], "mid", cursor="2", unconfirmed_id_gaps=2),
        Footer(
            spans[2],
            "new",
            confirmed_id_gaps=(IdPair(8, ids[2][1]),),
            unconfirmed_id_gaps=1,
        ),
    ]
    with open_writer(archive, PAIR) as pair_writer:
        for span, footer in zip(spans, given_footers, strict=True):
            commit(pair_writer, span, HISTORY, footer)
        pair_writer.compact(merge_all=True)
    (segment,) = archive.segments(PAIR)
    found = archive.footer(segment)
    assert (found.pair_json, found.source, found.cursor) == ("new", "api", "2")
    assert found.confirmed_id_gaps == (IdPair(0, ids[0][0]), IdPair(8, ids[2][1]))
    assert found.unconfirmed_id_gaps == 3


def test_merging_keeps_imported_and_downloaded_trades_apart(archive: TradeStore) -> None:
    spans = cuts(HISTORY, 6)
    sources = ["csv", "csv", "api", "api", "csv", "csv"]
    with open_writer(archive, PAIR) as pair_writer:
        for span, source in zip(spans, sources, strict=True):
            commit(pair_writer, span, HISTORY, Footer(span, "pair", source=source))
        pair_writer.compact(merge_all=True)
    segments = archive.segments(PAIR)
    assert [segment.path.endswith(".csv.parquet") for segment in segments] == [True, False, True]
    assert [archive.footer(segment).source for segment in segments] == ["csv", "api", "csv"]
    assert held(archive) == HISTORY


def test_merging_stays_within_years(archive: TradeStore) -> None:
    spans = cuts(YEARS, 30)
    committed(archive, YEARS, spans)
    years = {segment.year for segment in archive.segments(PAIR)}
    with open_writer(archive, PAIR) as pair_writer:
        pair_writer.compact(merge_all=True)
    assert sorted(segment.year for segment in archive.segments(PAIR)) == sorted(years)
    assert held(archive) == YEARS


def test_a_gap_is_not_merged_over(archive: TradeStore) -> None:
    spans = cuts(HISTORY, 5)
    committed(archive, HISTORY, [spans[0], spans[1], spans[3], spans[4]])
    with open_writer(archive, PAIR) as pair_writer:
        assert pair_writer.compact(merge_all=True) == (4, 2)
    assert archive.coverage(PAIR) == [
        Range(spans[0].after, spans[1].through),
        Range(spans[3].after, spans[4].through),
    ]


def test_merging_what_is_merged_does_nothing(archive: TradeStore) -> None:
    committed(archive, HISTORY, cuts(HISTORY, 5))
    with open_writer(archive, PAIR) as pair_writer:
        pair_writer.compact(merge_all=True)
        before = parquets(archive)
        assert pair_writer.compact(merge_all=True) == (1, 1)
    assert parquets(archive) == before


def spoil(archive: TradeStore, segment: Segment, rows: list[Row]) -> None:
    """Put other rows into a segment under its old footer."""
    place = archive.root / segment.path
    metadata = {
        key: value
        for key, value in pq.read_metadata(place).metadata.items()
        if key.startswith(b"harvester.")
    }
    table = pa.Table.from_batches([batch(rows)]).replace_schema_metadata(metadata)
    pq.write_table(table, place, store_decimal_as_integer=True)


def test_a_segment_whose_rows_differ_from_its_footer_is_not_merged(archive: TradeStore) -> None:
    spans = cuts(HISTORY, 3)
    committed(archive, HISTORY, spans)
    damaged = archive.segments(PAIR)[1]
    inside = [row for row in HISTORY if spans[1].after < row[1] <= spans[1].through]
    spoil(archive, damaged, [(*inside[0][:3], Decimal("0.1"), *inside[0][4:]), *inside[1:]])
    before = parquets(archive)
    fresh = TradeStore(archive.root)
    with open_writer(fresh, PAIR) as pair_writer, pytest.raises(ArchiveDamaged) as caught:
        pair_writer.compact(merge_all=True)
    assert str(caught.value) == (
        f"{fresh.location(damaged)} has other rows than its footer says: "
        f"`harvester verify {PAIR} --repair` downloads its range again"
    )
    assert parquets(archive) == before


def test_a_segment_renamed_to_a_wider_range_is_not_merged(archive: TradeStore) -> None:
    spans = cuts(HISTORY, 3)
    committed(archive, HISTORY, [spans[0], spans[2]])
    narrow = archive.segments(PAIR)[0]
    renamed = segment_path(PAIR, Range(spans[0].after, spans[1].through), spans[0].through)
    (archive.root / narrow.path).rename(archive.root / renamed)
    with open_writer(archive, PAIR) as pair_writer, pytest.raises(ArchiveDamaged) as caught:
        pair_writer.compact(merge_all=True)
    assert str(caught.value) == (
        f"{archive.root}/{renamed} has other rows than its footer says: "
        f"`harvester verify {PAIR} --repair` downloads its range again"
    )
    assert len(parquets(archive)) == 2


# Crashes of a merger.


@pytest.mark.parametrize("removals", [0, 1, 2, 3])
def test_a_crash_between_merger_and_removal_is_right_to_read_and_healed_by_the_next_run(
    archive: TradeStore, removals: int
) -> None:
    spans = cuts(HISTORY, 4)
    committed(archive, HISTORY, spans)
    with pytest.raises(Crash):
        crashing(archive, removals=removals).compact(merge_all=True)
    after = TradeStore(archive.root)
    assert len(after.segments(PAIR)) == 5 - removals
    assert held(after) == HISTORY
    with open_writer(after, PAIR):
        assert [segment.range for segment in after.segments(PAIR)] == [
            Range(spans[0].after, spans[-1].through)
        ]
    assert held(after) == HISTORY


def test_a_crash_before_the_merger_stands_leaves_all_as_it_was(archive: TradeStore) -> None:
    committed(archive, HISTORY, cuts(HISTORY, 4))
    before = parquets(archive)
    with pytest.raises(Crash):
        crashing(archive, commits=0).compact(merge_all=True)
    assert parquets(archive) == before


def placed(archive: TradeStore, span: Range, rows: list[Row], name: Range | None = None) -> str:
    """Put a segment on disk past the writer, under another name if given."""
    staged, _ = stage_segment(archive.store, PAIR, [batch(rows)] if rows else [], Footer(span, ""))
    path = segment_path(PAIR, name or span, rows[-1][1] if rows else None)
    archive.store.commit(staged, path)
    return path


def small(*stamps: int) -> list[Row]:
    """Rows of these times."""
    return [(at, at, 0, *HISTORY[0][3:]) for at in stamps]


def test_a_sweep_keeps_a_segment_whose_rows_its_wider_neighbour_lacks(archive: TradeStore) -> None:
    wide = placed(archive, Range(0, 40), small(5, 35))
    narrow = placed(archive, Range(10, 20), small(15))
    with open_writer(archive, PAIR):
        assert parquets(archive) == sorted([wide, narrow])


def test_a_sweep_keeps_a_segment_beside_one_renamed_to_cover_it(archive: TradeStore) -> None:
    renamed = placed(archive, Range(0, 10), small(5), name=Range(0, 40))
    narrow = placed(archive, Range(10, 20), small(15))
    with open_writer(archive, PAIR):
        assert parquets(archive) == sorted([renamed, narrow])


def test_a_sweep_keeps_a_segment_that_was_itself_renamed(archive: TradeStore) -> None:
    wide = placed(archive, Range(0, 40), small(5, 15, 35))
    renamed = placed(archive, Range(50, 60), small(), name=Range(20, 30))
    with open_writer(archive, PAIR):
        assert parquets(archive) == sorted([wide, renamed])


def damage(file: Path, other: Path) -> None:
    """Give a segment the rows of another one; its footer stays."""
    footer = pq.ParquetFile(file).metadata.metadata
    wrong = pq.read_table(other).replace_schema_metadata(footer)
    pq.write_table(wrong, file, **WRITER_OPTIONS)


@pytest.mark.parametrize("year", [1969, 1971])
def test_a_sweep_keeps_of_two_copies_the_one_in_the_folder_of_its_year(
    archive: TradeStore, year: int
) -> None:
    right = placed(archive, Range(0, 40), small(5, 15, 35))
    copy = right.replace("year=1970", f"year={year}")
    (archive.root / copy).parent.mkdir()
    (archive.root / copy).write_bytes((archive.root / right).read_bytes())
    with open_writer(archive, PAIR):
        assert parquets(archive) == [right]


def test_a_sweep_keeps_a_sound_copy_of_a_damaged_segment(archive: TradeStore) -> None:
    right = placed(archive, Range(0, 40), small(5, 15, 35))
    sound = (archive.root / right).read_bytes()
    copy = right.replace("year=1970", "year=1969")
    (archive.root / copy).parent.mkdir()
    (archive.root / copy).write_bytes(sound)
    other = placed(archive, Range(0, 40), small(5, 15, 36))
    damage(archive.root / right, archive.root / other)
    with open_writer(archive, PAIR) as pair_writer:
        pair_writer.compact()
    assert parquets(archive) == [right]
    assert [row[1] for row in held(archive)] == [5, 15, 35]


def test_a_segment_in_the_folder_of_another_year_is_moved_and_merged(archive: TradeStore) -> None:
    placed(archive, Range(0, 20), small(5, 15))
    right = placed(archive, Range(20, 40), small(25, 35))
    moved = archive.root / right.replace("year=1970", "year=1969")
    moved.parent.mkdir()
    (archive.root / right).rename(moved)
    with open_writer(archive, PAIR) as pair_writer:
        pair_writer.compact(merge_all=True)
    [merged] = parquets(archive)
    assert "/year=1970/" in merged
    assert [row[1] for row in held(archive)] == [5, 15, 25, 35]


def test_a_segment_without_trades_in_the_folder_of_another_year_is_moved(
    archive: TradeStore,
) -> None:
    right = placed(archive, Range(20, 40), [])
    moved = archive.root / right.replace("year=1970", "year=1969")
    moved.parent.mkdir()
    (archive.root / right).rename(moved)
    with open_writer(archive, PAIR) as pair_writer:
        pair_writer.compact()
    assert parquets(archive) == [right]


def test_a_segment_with_trades_of_two_years_is_split(archive: TradeStore) -> None:
    span = Range(0, YEARS[-1][1])
    placed(archive, span, YEARS)
    with open_writer(archive, PAIR) as pair_writer:
        pair_writer.compact()
    assert held(archive) == YEARS
    assert archive.coverage(PAIR) == [span]
    for segment in archive.segments(PAIR):
        bounds = archive.footer(segment).bounds
        assert bounds is None or {year_of(ns) for ns in bounds} == {segment.year}


def test_a_damaged_segment_in_the_folder_of_another_year_stays_as_it_is(
    archive: TradeStore,
) -> None:
    right = placed(archive, Range(20, 40), small(25, 35))
    other = placed(archive, Range(50, 70), small(55, 65))
    moved = archive.root / right.replace("year=1970", "year=1969")
    moved.parent.mkdir()
    (archive.root / right).rename(moved)
    damage(moved, archive.root / other)
    before = parquets(archive)
    with (
        open_writer(archive, PAIR) as pair_writer,
        pytest.raises(ArchiveDamaged, match="other rows"),
    ):
        pair_writer.compact(merge_all=True)
    assert parquets(archive) == before


def test_a_sweep_keeps_segments_that_overlap_in_part(archive: TradeStore) -> None:
    paths = [
        placed(archive, Range(0, 20), small(5, 15)),
        placed(archive, Range(10, 30), small(15, 25)),
    ]
    with open_writer(archive, PAIR):
        assert parquets(archive) == sorted(paths)


def test_a_sweep_removes_what_lies_in_a_wider_one_row_by_row(archive: TradeStore) -> None:
    wide = placed(archive, Range(0, 40), small(5, 15, 35))
    placed(archive, Range(10, 20), small(15))
    placed(archive, Range(20, 30), small())
    with open_writer(archive, PAIR):
        assert parquets(archive) == [wide]


def test_segments_that_overlap_in_part_are_merged_without_repeating_a_row(
    archive: TradeStore,
) -> None:
    placed(archive, Range(0, 20), small(5, 15))
    placed(archive, Range(10, 30), small(15, 25))
    placed(archive, Range(30, 40), small(35))
    with open_writer(archive, PAIR) as pair_writer:
        pair_writer.compact(merge_all=True)
    assert [row[1] for row in held(archive)] == [5, 15, 25, 35]
    assert archive.coverage(PAIR) == [Range(0, 40)]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6))
def test_trades_survive_any_sequence_of_commits_compactions_and_crashes(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    chance = random.Random(seed)
    archive = TradeStore(tmp_path_factory.mktemp("course"))
    spans = cuts(HISTORY, 6)
    chance.shuffle(spans)
    done: list[Range] = []
    for span in spans:
        with open_writer(archive, PAIR) as pair_writer:
            commit(pair_writer, span, HISTORY)
            done.append(span)
        if chance.random() < 0.5:
            store = archive.store
            worker = crashing(archive, commits=chance.choice((0, 9)), removals=chance.randrange(4))
            with suppress(Crash):
                worker.compact(merge_all=True)
            archive.store = store
        covered = [row for row in HISTORY if any(s.after < row[1] <= s.through for s in done)]
        assert held(TradeStore(archive.root)) == covered


# Names of pairs.


def test_names_are_kept_under_a_lock_of_their_own(archive: TradeStore) -> None:
    with open_writer(archive, PAIR):
        store_pairs(archive.store, b'{"XBTUSD":{}}')
    assert archive.store.files("staging") == []


def test_a_quarantined_segment_is_no_longer_listed(archive: TradeStore) -> None:
    trade_rows = list(expected(sample_trades.market(sample_trades.xbtusd_like(20, 5))))
    committed(archive, trade_rows, [Range(0, trade_rows[-1][1])])
    [segment] = archive.segments("XBTUSD")
    archive.footer(segment)
    with open_writer(archive, "XBTUSD") as pair_writer:
        to = pair_writer.quarantine(QuarantineNote("XBTUSD", segment.path, segment.range, ["odd"]))
    assert to == f"quarantine/XBTUSD/0001/{Path(segment.path).name}"
    assert archive.segments("XBTUSD") == []
    with pytest.raises(FileNotFoundError):
        archive.footer(segment)
