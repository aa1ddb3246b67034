"""Whatever is held, however files round their times: each trade comes out once, in order."""

from __future__ import annotations

import contextlib
import tempfile
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import csv_files
import pyarrow.parquet as pq
import pytest
import sample_trades
from backfills import Backfill, rows_on_disk, serve
from csv_imports import PAIR, imported
from hypothesis import given, settings
from hypothesis import strategies as st
from kraken_market import SECOND_NS, Clock, Market, Trade, expected
from segment_rows import batch

from harvester.csv_import import boundaries
from harvester.csv_import.chain_importer import ChainImporter, ImportOptions
from harvester.csv_import.csv_files import CompletePeriod, find, iterate_ahead
from harvester.csv_import.file_chains import chains
from harvester.csv_import.file_scan import scan_file
from harvester.events import CancelToken
from harvester.schema import PAGE_SCHEMA
from harvester.storage.segment import Footer
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import Writer, open_writer
from harvester.times import END_OF_TIME, Range, missing

START_NS = sample_trades.utc_ns(2023, 12, 31, 23, 59, 30)
MIDNIGHT_S = START_NS // SECOND_NS + 30


def market_of(gaps_ms: list[int]) -> Market:
    """Trades so many milliseconds after one another, each of a volume of its own."""
    trades, stamp = [], START_NS
    for number, gap in enumerate(gaps_ms, 1):
        stamp += gap * 1_000_000 + 137
        volume = f"{number}.00000000"
        trades.append(Trade(stamp, "41450.1", volume, "b", "m", "", number))
    return sample_trades.market(trades)


def hold(folder: Path, market: Market, spans: list[Range]) -> None:
    """Let the archive have spans as the exchange shows them."""
    rows = expected(market)
    with open_writer(TradeStore(folder), "XBTUSD") as pair_writer:
        for span in spans:
            inside = [row for row in rows if span.after < row[1] <= span.through]
            pair_writer.commit(
                span, batch(inside, PAGE_SCHEMA), Footer(span, '{"altname":"XBTUSD"}')
            )


def volumes(folder: Path) -> list[int]:
    """What identifies trades, in the order of the archive."""
    return [int(row[4]) for row in rows_on_disk(folder, "XBTUSD")]


def fill(folder: Path, market: Market) -> None:
    """Fetch what is missing, as a perfect backfill does."""
    gaps = missing([Range(0, END_OF_TIME)], TradeStore(folder).coverage("XBTUSD"))
    hold(folder, market, gaps)


GAPS_MS = st.one_of(
    st.sampled_from((0, 0, 1, 499, 500, 501, 999, 1000, 1001)),
    st.integers(0, 4_000),
    st.sampled_from((2_999, 3_000, 3_001, 5_000, 60_000)),
)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(GAPS_MS, min_size=1, max_size=60),
    st.lists(st.integers(-2_000, 120_000), max_size=8, unique=True),
    st.sampled_from(csv_files.ROUNDINGS),
    st.booleans(),
    st.sampled_from((1, 5, 1000)),
)
def test_an_import_and_downloads_together_are_the_whole_history(
    gaps: list[int], ends_ms: list[int], rounding: str, whole: bool, segment_rows: int
) -> None:
    """Boundaries anywhere, inside of busy seconds too; the file's rounding is not stated."""
    market = market_of(gaps)
    ends = sorted(START_NS + end * 1_000_000 for end in ends_ms)
    spans = [Range(*pair) for pair in list(pairwise(ends))[::2]]
    last_s = csv_files.second(market.trades[-1], "up")
    known = CompletePeriod(0, last_s + 5) if whole else CompletePeriod()
    with tempfile.TemporaryDirectory() as made, pytest.MonkeyPatch.context() as patch:
        patch.setattr(boundaries, "SEGMENT_ROWS", segment_rows)
        folder, file = Path(made) / "data", Path(made) / "XBTUSD.csv"
        file.write_bytes(csv_files.three_columns(market.trades, rounding))
        hold(folder, market, spans)
        [report] = imported(folder, file, whole=known)
        counts = (report.imported, report.already_covered, report.at_boundaries)
        assert sum(count.rows for count in counts) == len(market.trades)
        fill(folder, market)
        assert volumes(folder) == [number for number, _ in enumerate(gaps, 1)]
        ranges = [segment.range for segment in TradeStore(folder).segments("XBTUSD")]
        assert all(span.through <= other.after for span, other in pairwise(ranges))
        seconds = {csv_files.second(trade, rounding) - MIDNIGHT_S for trade in market.trades}
        if whole and not spans and seconds.isdisjoint((-2, -1, 0, 1)):
            assert report.imported.rows == len(gaps)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(GAPS_MS, min_size=1, max_size=60),
    st.tuples(st.integers(-4_000, 120_000), st.integers(1, 90_000)),
    st.sampled_from(csv_files.ROUNDINGS),
    st.sampled_from((1, 5, 1000)),
)
def test_a_range_that_an_import_turns_out_to_lack_joins_what_stays_imported(
    gaps: list[int], lost_ms: tuple[int, int], rounding: str, segment_rows: int
) -> None:
    """A range becomes a gap between any two moments, inside of busy seconds too."""
    market, first_ns = market_of(gaps), START_NS + lost_ms[0] * 1_000_000
    with tempfile.TemporaryDirectory() as made, pytest.MonkeyPatch.context() as patch:
        patch.setattr(boundaries, "SEGMENT_ROWS", segment_rows)
        folder, file = Path(made) / "data", Path(made) / "XBTUSD.csv"
        file.write_bytes(csv_files.three_columns(market.trades, rounding))
        imported(folder, file, whole=CompletePeriod(0, MIDNIGHT_S + 600))
        lost = Range(first_ns, first_ns + lost_ms[1] * 1_000_000)
        archive = TradeStore(folder)
        coverage, before = archive.coverage("XBTUSD"), volumes(folder)
        with open_writer(archive, "XBTUSD") as pair_writer:
            removed = [gap.range for gap in pair_writer.remove_coverage(lost)]
        assert archive.coverage("XBTUSD") == missing(coverage, removed)
        assert missing([lost], removed) == missing([lost], coverage)
        # The rows that are imported no more are in quarantine.
        copies = [
            pq.ParquetFile(path).read() for path in (folder / "quarantine").rglob("*.parquet")
        ]
        kept = [volume for copy in copies for volume in copy.column("volume").to_pylist()]
        assert sorted([*volumes(folder), *kept]) == before
        fill(folder, market)
        assert volumes(folder) == [number for number, _ in enumerate(gaps, 1)]


class Killed(BaseException):
    """The program ends here; nothing of ours goes on."""


@settings(deadline=None, max_examples=30)
@given(
    st.integers(29_400, 30_100),
    st.lists(GAPS_MS, min_size=5, max_size=40),
    st.sampled_from(csv_files.ROUNDINGS),
    st.integers(0, 2),
    st.booleans(),
    st.sampled_from((1, 5, 1000)),
)
def test_what_an_import_committed_before_it_was_killed_joins_the_api(
    first: int, more: list[int], rounding: str, commits: int, goes_on: bool, segment_rows: int
) -> None:
    """Whether the import is run again or not, and where the year turns among trades, too."""
    market = market_of([0, first, *more])
    left = commits

    def commit_stream(self: Writer, *asked: Any) -> Any:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        return whole_commit(self, *asked)

    whole_commit = Writer.commit_stream
    with tempfile.TemporaryDirectory() as made, pytest.MonkeyPatch.context() as patch:
        patch.setattr(boundaries, "SEGMENT_ROWS", segment_rows)
        folder, file = Path(made) / "data", Path(made) / "XBTUSD.csv"
        file.write_bytes(csv_files.three_columns(market.trades, rounding))
        patch.setattr(Writer, "commit_stream", commit_stream)
        with contextlib.suppress(Killed):
            imported(folder, file, whole=CompletePeriod(0, None))
        patch.setattr(Writer, "commit_stream", whole_commit)
        if goes_on:
            imported(folder, file, whole=CompletePeriod(0, None))
        fill(folder, market)
        assert volumes(folder) == list(range(1, len(more) + 3))


def test_where_the_year_turns_among_trades_a_gap_is_left(tmp_path: Path) -> None:
    market = market_of([0, 10_000, 10_000, 9_500, 300, 300, 10_000, 10_000])
    file = tmp_path / "XBTUSD.csv"
    file.write_bytes(csv_files.three_columns(market.trades))
    [report] = imported(tmp_path / "data", file, whole=CompletePeriod(0, None))
    assert (report.imported.rows, report.at_boundaries.rows, report.exit_status) == (4, 4, 0)
    [note] = report.notes
    assert note.startswith("there are trades at the end of 2023")
    covered = TradeStore(tmp_path / "data").coverage("XBTUSD")
    assert missing([Range(0, covered[-1].through)], covered) == [
        Range((MIDNIGHT_S - 2) * SECOND_NS - 1, (MIDNIGHT_S + 2) * SECOND_NS - 1)
    ]
    fill(tmp_path / "data", market)
    assert volumes(tmp_path / "data") == list(range(1, 9))


def test_a_trade_that_the_api_prints_a_second_later_is_there_once(tmp_path: Path) -> None:
    """The float nearest to its stamp is the next whole second; the file has the second before."""
    second = START_NS // SECOND_NS
    stamps = [second - 9, second + 1, second + 9]
    trades = [
        Trade(at * SECOND_NS - back, "41450.1", f"{number}.00000000", "b", "m", "", number)
        for number, (at, back) in enumerate(zip(stamps, (0, 50, 0), strict=True), 1)
    ]
    market = sample_trades.market(trades)
    assert expected(market)[1][1] == (second + 1) * SECOND_NS
    (tmp_path / "XBTUSD.csv").write_bytes(csv_files.three_columns(trades))
    held = Range((second + 1) * SECOND_NS + 10, (second + 20) * SECOND_NS)
    hold(tmp_path / "data", market, [held])
    imported(tmp_path / "data", tmp_path / "XBTUSD.csv", whole=CompletePeriod(0, None))
    fill(tmp_path / "data", market)
    assert volumes(tmp_path / "data") == [1, 2, 3]


@settings(deadline=None, max_examples=30)
@given(st.lists(GAPS_MS, min_size=4, max_size=60), st.integers(1, 59))
def test_consecutive_quarters_leave_no_gap(gaps: list[int], at: int) -> None:
    """Two files, the second known to begin where the first one ends."""
    market = market_of(gaps)
    cut_s = csv_files.second(market.trades[min(at, len(gaps) - 1)])
    parts = [
        [trade for trade in market.trades if csv_files.second(trade) < cut_s],
        [trade for trade in market.trades if csv_files.second(trade) >= cut_s],
    ]
    with tempfile.TemporaryDirectory() as made:
        folder, files = Path(made) / "data", []
        for name, trades in zip("ab", parts, strict=True):
            if trades:
                files.append(Path(made) / name / "XBTUSD.csv")
                files[-1].parent.mkdir()
                files[-1].write_bytes(csv_files.three_columns(trades))
        members = [
            find([str(file)])[0]._replace(complete=whole)
            for file, whole in zip(
                files[-2:], [CompletePeriod(0, cut_s), CompletePeriod(cut_s, None)], strict=False
            )
        ]
        looked = [scan_file(member) for member in members]
        assert [len(chain) for chain in chains(looked)] == [len(files)]
        archive = TradeStore(folder)
        with open_writer(archive, "XBTUSD") as pair_writer:
            chain = ChainImporter(
                archive, PAIR, looked, ImportOptions(lambda _pair, _size: None, CancelToken())
            )
            chain.run(pair_writer)
        fill(folder, market)
        assert volumes(folder) == [number for number, _ in enumerate(gaps, 1)]


def test_what_is_held_from_the_api_stays_as_it_is(tmp_path: Path) -> None:
    market = market_of([0, 5_000, 10, 5_000, 5_000, 10, 5_000])
    file = tmp_path / "XBTUSD.csv"
    file.write_bytes(csv_files.three_columns(market.trades))
    span = Range(market.trades[2].true_ns + 1_000, market.trades[4].true_ns + 1_000)
    hold(tmp_path / "data", market, [span])
    [report] = imported(tmp_path / "data", file, whole=CompletePeriod(0, None))
    sides = {int(row[4]): row[5] for row in rows_on_disk(tmp_path / "data", "XBTUSD")}
    assert {4: "buy", 5: "buy"}.items() <= sides.items()
    assert {side for number, side in sides.items() if number not in (4, 5)} == {None}
    assert report.already_covered.rows >= 1


def test_an_import_done_twice_keeps_nothing_twice(tmp_path: Path) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(3_000, 5))
    file = tmp_path / "XBTUSD.csv"
    file.write_bytes(csv_files.three_columns(market.trades))
    [first] = imported(tmp_path / "data", file)
    before = rows_on_disk(tmp_path / "data", "XBTUSD")
    [again] = imported(tmp_path / "data", file)
    assert (again.imported.rows, again.already_covered.rows, again.at_boundaries.rows) == (
        0,
        first.imported.rows,
        first.at_boundaries.rows,
    )
    assert rows_on_disk(tmp_path / "data", "XBTUSD") == before


def test_a_long_range_without_a_quiet_moment_is_left_out_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boundaries, "MAX_WAITING_ROWS", 50)
    monkeypatch.setattr("harvester.csv_import.csv_files.BLOCK_BYTES", 2_000)
    market = market_of([0, 60_000, *([500] * 400), 60_000, 60_000])
    file = tmp_path / "XBTUSD.csv"
    file.write_bytes(csv_files.three_columns(market.trades))
    [report] = imported(tmp_path / "data", file, whole=CompletePeriod(0, None))
    assert report.imported.rows == 2
    [note] = report.notes
    assert note.startswith("1 time, too many trades to keep in memory follow each other")
    # The stretch is a gap between two imported segments.
    assert len(TradeStore(tmp_path / "data").coverage("XBTUSD")) == 2
    fill(tmp_path / "data", market)
    assert volumes(tmp_path / "data") == list(range(1, 405))


def test_rows_equal_in_every_field_stay(tmp_path: Path) -> None:
    file = tmp_path / "XBTUSD.csv"
    file.write_bytes(b"1588888888,9000.1,0.5\n" * 17 + b"1588888899,9000.1,0.5\n")
    imported(tmp_path / "data", file, whole=CompletePeriod(0, 1_588_888_999))
    rows = rows_on_disk(tmp_path / "data", "XBTUSD")
    assert [(row[1] // SECOND_NS, row[2]) for row in rows] == [
        *((1_588_888_888, tie) for tie in range(17)),
        (1_588_888_899, 0),
    ]


def test_seven_columns_come_out_as_the_exchange_has_them(tmp_path: Path) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(2_000, 6))
    file = tmp_path / "XBTUSD.csv"
    file.write_bytes(csv_files.seven_columns(market.trades))
    last_s = csv_files.second(market.trades[-1])
    imported(tmp_path / "data", file, whole=CompletePeriod(0, last_s + 3))
    assert rows_on_disk(tmp_path / "data", "XBTUSD") == expected(market)


def test_rows_of_one_time_stand_by_their_ids(tmp_path: Path) -> None:
    lines = [b"9000.1,0.5,1588888888.5,b,m,,%d\n" % number for number in (3, 1, 2, 2)]
    file = tmp_path / "XBTUSD.csv"
    file.write_bytes(b"".join(lines))
    [report] = imported(tmp_path / "data", file, whole=CompletePeriod(0, 1_588_888_999))
    assert [row[0] for row in rows_on_disk(tmp_path / "data", "XBTUSD")] == [1, 2, 3]
    assert report.repeats.rows == 1
    assert report.notes == [
        "1 row left out, equal to another row in every field, trade id included: each trade was "
        "imported once"
    ]


def test_rows_of_one_time_and_id_that_differ_are_trades_of_their_own(tmp_path: Path) -> None:
    rows = ["9000.1,0.5,1588888888.5,b,m,,1", "9000.2,0.5,1588888888.5,b,m,,1"]
    file = tmp_path / "XBTUSD.csv"
    file.write_text("".join(f"{row}\n" for row in [*rows, *rows]))
    [report] = imported(tmp_path / "data", file, whole=CompletePeriod(0, 1_588_888_999))
    kept = rows_on_disk(tmp_path / "data", "XBTUSD")
    assert [(row[0], str(row[3])) for row in kept] == [
        (1, "9000.1000000000"),
        (1, "9000.2000000000"),
    ]
    assert report.repeats.rows == 2


def test_provenance_is_in_the_footer_and_outlives_a_merger(tmp_path: Path) -> None:
    market = market_of([0, 5_000, 60_000, 5_000])
    file = tmp_path / "XBTUSD.csv"
    file.write_bytes(csv_files.three_columns(market.trades))
    imported(tmp_path / "data", file, whole=CompletePeriod(0, None))
    fill(tmp_path / "data", market)
    archive = TradeStore(tmp_path / "data")
    crc = f"crc32:{zlib.crc32(file.read_bytes()):08x}"
    first, *_ = archive.segments("XBTUSD")
    footer = archive.footer(first)
    assert (footer.source, [provenance[2:] for provenance in footer.imported]) == (
        "csv",
        [("XBTUSD.csv", crc)],
    )
    spans = [
        provenance
        for seg in archive.segments("XBTUSD")
        for provenance in archive.footer(seg).imported
    ]
    with open_writer(archive, "XBTUSD") as pair_writer:
        pair_writer.compact(merge_all=True)
    merged = [
        provenance
        for seg in archive.segments("XBTUSD")
        for provenance in archive.footer(seg).imported
    ]
    assert merged[0].after == spans[0].after
    assert merged[-1].through == spans[-1].through
    assert [archive.footer(seg).source for seg in archive.segments("XBTUSD")] == [
        "csv",
        "csv",
        "api",
    ]


def test_items_are_read_ahead_in_order_and_errors_come_through() -> None:
    def items() -> Any:
        yield from range(20)
        raise ValueError("the end")

    taken: list[int] = []
    with pytest.raises(ValueError, match="the end"):
        taken.extend(iterate_ahead(items()))
    assert taken == list(range(20))


@pytest.mark.parametrize("first_id", [1, None])
def test_a_trade_within_a_file_without_rows_is_downloaded(
    first_id: int | None, tmp_path: Path
) -> None:
    """The file says that a quarter has no trades; the exchange's newest one lies in it."""
    start_s = 1_640_000_000
    seconds = [*range(0, 10_000, 1_000), 15_000]
    trades = [
        Trade(
            (start_s + at) * SECOND_NS + 1,
            "400.1",
            f"{place + 1}.00000000",
            "b",
            "m",
            "",
            first_id and place + 1,
        )
        for place, at in enumerate(seconds)
    ]
    market, now_ns = sample_trades.market(trades), (start_s + 10**7) * SECOND_NS
    folder, file = tmp_path / "data", tmp_path / "XBTUSD.csv"
    file.write_bytes(b"")
    imported(folder, file, whole=CompletePeriod(start_s + 12_000, start_s + 20_500))
    with serve(market, clock=Clock(now_ns)) as exchange:
        for _ in range(2):
            outcome = Backfill(exchange.url, folder, now_ns=lambda: now_ns).only("XBTUSD")
    assert (outcome.exit_status, rows_on_disk(folder, "XBTUSD")) == (0, expected(market))
