"""What answers say of gaps in the requested range: on stderr, in Python, in files; and --strict."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import candle_oracle
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from candle_cases import MINUTE, SECOND, START, hold, trade
from cli_runner import run

import harvester
from harvester.errors import ArchiveDamaged, ArchiveHasGaps
from harvester.kraken.pairs import Pair
from harvester.query.plan import gaps_in
from harvester.storage.locks_and_requests import store_pairs
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import DAY, END_OF_TIME, Range, gap_note

if TYPE_CHECKING:
    from collections.abc import Sequence

DAY_ONE = 1_600_041_600 * SECOND
"""2020-09-14T00:00Z."""
EVER = Range(0, END_OF_TIME)
NOW = DAY_ONE + 30 * DAY
GAP = "not downloaded: 2020-09-15 to 2020-09-17"


def at(hours: float, price: str = "10") -> candle_oracle.Row:
    """A trade some hours after the first day began."""
    return trade((DAY_ONE - START) / SECOND + hours * 3600, price)


def days(first: float, last: float) -> Range:
    """From one day through the nanosecond before another, counted from the first."""
    return Range(DAY_ONE + int(first * DAY) - 1, DAY_ONE + int(last * DAY) - 1)


def made(path: Path, parts: Sequence[tuple[Range, list[candle_oracle.Row]]]) -> TradeStore:
    archive = TradeStore(path)
    pair = Pair(altname="XBTUSD", wsname="XBT/USD", pair_decimals=1)
    store_pairs(archive.store, msgspec.json.encode({"XBTUSD": pair}))
    return hold(archive, parts)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> TradeStore:
    """Two downloads, 14 September and 17 September, that nobody asked to be joined.

    The last candle of an hour of the first day is cut by the gap, the very last one runs.
    """
    first = Range(days(0, 1).after, days(0, 1).through)
    second = Range(days(3, 4).after, days(3, 4).through - 30 * MINUTE)
    return made(
        tmp_path_factory.mktemp("gap"),
        [(first, [at(5), at(6), at(23.2)]), (second, [at(72.5), at(95.2)])],
    )


ASKED: dict[str, list[str]] = {
    "ohlc": ["ohlc", "XBTUSD", "-i", "1h"],
    "trades": ["trades", "XBTUSD"],
    "bars": ["bars", "XBTUSD", "--trades", "2"],
}


# --- the command line ----------------------------------------------------------------------------


@pytest.mark.parametrize("what", ASKED)
def test_an_answer_over_a_gap_names_it_on_one_line(archive: TradeStore, what: str) -> None:
    status, out, err = run(archive, *ASKED[what], "-f", "csv")
    assert (status, err) == (0, f"{GAP}\n")
    assert len(out.splitlines()) > 2


@pytest.mark.parametrize("what", ASKED)
def test_strict_ends_with_4_and_writes_nothing(
    archive: TradeStore, what: str, tmp_path: Path
) -> None:
    file = tmp_path / "x.csv"
    assert run(archive, *ASKED[what], "--strict", "-o", str(file)) == (
        4,
        "",
        f"harvester: XBTUSD: {GAP}: `harvester backfill XBTUSD --since 2020-09-15T00:00:00Z "
        f"--until 2020-09-17T00:00:00Z --data {archive.path}` downloads it; "
        "without `strict` the answer leaves it out\n",
    )
    assert not file.exists()


@pytest.mark.parametrize("what", ASKED)
@pytest.mark.parametrize(
    "span",
    [["--until", "2020-09-15"], ["--since", "2020-09-17"], ["--until", "2020-09-14T12:00"]],
)
def test_a_range_without_a_gap_has_no_note(archive: TradeStore, what: str, span: list[str]) -> None:
    # Bars behind a gap depend on it unless they are counted from behind it.
    anchor = ["--anchor", "2020-09-17"] if what == "bars" and "--since" in span else []
    status, _, err = run(archive, *ASKED[what], *span, *anchor, "--strict", "-f", "csv")
    assert (status, err) == (0, "")


def test_bars_behind_a_gap_name_it_as_it_moves_them(archive: TradeStore) -> None:
    status, _, err = run(archive, *ASKED["bars"], "--since", "2020-09-17", "-f", "csv")
    assert (status, err) == (0, f"{GAP}\n")


@pytest.mark.parametrize(
    ("span", "gaps"),
    [
        (["--since", "2020-09-13"], "2020-09-13 to 2020-09-14, 2020-09-15 to 2020-09-17"),
        (["--until", "2020-09-19"], "2020-09-15 to 2020-09-17, 2020-09-17 23:30 to 2020-09-19"),
        (
            ["--since", "2020-09-16", "--until", "2020-09-16T12:30"],
            "2020-09-16 to 2020-09-16 12:30",
        ),
        (["--since", "2012-01-01", "--until", "2013-01-01"], "2012-01-01 to 2013-01-01"),
    ],
)
def test_only_what_is_requested_is_named(archive: TradeStore, span: list[str], gaps: str) -> None:
    for what in ("ohlc", "trades"):
        status, _, err = run(archive, *ASKED[what], *span, "-f", "csv")
        assert (status, err.splitlines()[0]) == (0, f"not downloaded: {gaps}")


def test_quiet_prints_no_note_and_strict_still_refuses(archive: TradeStore) -> None:
    assert run(archive, *ASKED["ohlc"], "-q", "-f", "csv")[2] == ""
    assert run(archive, *ASKED["ohlc"], "-q", "--strict")[0] == 4


@pytest.mark.parametrize("what", ["ohlc", "trades"])
def test_exports_for_other_programs_name_it_too(
    archive: TradeStore, what: str, tmp_path: Path
) -> None:
    status, _, err = run(archive, *ASKED[what], "-f", "freqtrade", "-o", str(tmp_path))
    assert (status, err.splitlines()[0]) == (0, GAP)
    asked = [*ASKED[what], "-f", "freqtrade", "-o", str(tmp_path / "strict"), "--strict"]
    assert run(archive, *asked)[0] == 4
    assert not (tmp_path / "strict").exists()


def test_lean_names_it_too(archive: TradeStore, tmp_path: Path) -> None:
    status, _, err = run(archive, *ASKED["ohlc"], "-f", "lean", "-o", str(tmp_path))
    assert (status, err.splitlines()[0]) == (0, GAP)


@pytest.mark.parametrize("what", ASKED)
def test_typed_files_keep_it_in_their_metadata(
    archive: TradeStore, what: str, tmp_path: Path
) -> None:
    table, file = tmp_path / "x.parquet", tmp_path / "x.arrow"
    assert run(archive, *ASKED[what], "-o", str(table))[0] == 0
    assert run(archive, *ASKED[what], "-o", str(file))[0] == 0
    with pa.ipc.open_file(file) as reader:
        schemas = [pq.read_schema(table), reader.schema]
    assert [json.loads(schema.metadata[b"harvester.notes"]) for schema in schemas] == [[GAP]] * 2


def test_of_several_pairs_each_is_named(tmp_path: Path) -> None:
    archive = made(tmp_path / "data", [(days(0, 1), [at(5)]), (days(3, 4), [at(80)])])
    names = {
        name: Pair(altname=name, wsname=f"{name[:3]}/USD", pair_decimals=1)
        for name in ("XBTUSD", "ETHUSD")
    }
    store_pairs(archive.store, msgspec.json.encode(names))
    hold(archive, [(days(0, 1), [at(5)])], "ETHUSD")
    asked = ["ohlc", "XBTUSD", "ETHUSD", "-i", "1h", "-i", "1d", "-o", str(tmp_path / "candles")]
    status, _, err = run(archive, *asked)
    assert status == 0
    assert [line for line in err.splitlines() if "not downloaded" in line] == [f"XBTUSD: {GAP}"]
    assert run(archive, *asked, "--strict")[0] == 4


def test_a_chart_has_the_same_note(archive: TradeStore, tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="the extra `notebook` is not installed")
    file = tmp_path / "chart.html"
    status, _, err = run(archive, "chart", "XBTUSD", "-i", "1h", "-o", str(file))
    assert (status, err.splitlines()[0]) == (0, GAP)
    file.unlink()
    assert run(archive, "chart", "XBTUSD", "-i", "1h", "-o", str(file), "--strict")[0] == 4
    assert not file.exists()
    with pytest.raises(ArchiveHasGaps):
        harvester.open(archive.path).chart("XBTUSD", "1h", strict=True)


# --- complete only -------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", ["none", "previous", "null", "kraken"])
@pytest.mark.parametrize("interval", ["1h", "2h", "1d", "1w"])
def test_complete_only_leaves_out_what_is_not_complete(
    archive: TradeStore, fill: Any, interval: str
) -> None:
    opened = harvester.open(archive.path)
    span = {"since": "2020-09-14T00:30", "until": "2020-09-18", "fill": fill, "all_columns": True}
    every = opened.ohlc("XBTUSD", interval, **span).to_arrow_table()
    kept = opened.ohlc("XBTUSD", interval, **span, complete_only=True)
    assert kept.to_arrow_table().to_pylist() == [
        row for row in every.to_pylist() if row["is_complete"]
    ]
    streamed = [row for batch in kept.to_arrow_reader() for row in batch.to_pylist()]
    assert streamed == kept.to_arrow_table().to_pylist()


def test_complete_only_on_the_command_line(archive: TradeStore) -> None:
    asked = ["ohlc", "XBTUSD", "-i", "1d", "--since", "2020-09-14", "-f", "csv"]
    assert len(run(archive, *asked)[1].splitlines()) == 3
    # The 17th is still running half an hour before midnight.
    assert run(archive, *asked, "--complete-only")[1].splitlines()[1:] == [
        "2020-09-14T00:00:00Z,10,10,10,10,10,3,3"
    ]


def test_bars_that_did_not_reach_their_size_are_left_out(archive: TradeStore) -> None:
    opened = harvester.open(archive.path)
    every = opened.bars("XBTUSD", trades=2).to_arrow_table()
    assert every["count"].to_pylist() == [2, 1, 2]
    kept = opened.bars("XBTUSD", trades=2, complete_only=True).to_arrow_table()
    assert kept["count"].to_pylist() == [2, 2]
    plain = run(archive, *ASKED["bars"], "-f", "csv", "--complete-only")[1]
    assert [line.split(",")[7] for line in plain.splitlines()] == ["count", "2", "2"]


# --- Python --------------------------------------------------------------------------------------


def test_a_frame_comes_with_a_warning_about_what_was_not_downloaded(archive: TradeStore) -> None:
    """A frame has no notes: whoever writes `.df()` behind the question would never see them."""
    opened = harvester.open(archive.path)
    candles = opened.ohlc("XBTUSD", "1d")
    for frame_of in (
        candles.df,
        candles.limit(3).df,
        candles.pl,
        lambda: candles["close"],
        lambda: candles.close,
    ):
        with pytest.warns(harvester.ResultWarning, match=GAP) as caught:
            frame_of()
        assert len(caught) == 1
        assert caught[0].filename == __file__
    with pytest.warns(harvester.ResultWarning) as caught:
        opened.ohlc(["XBTUSD"], "1d").pivot("close")
    assert caught[0].filename == __file__
    opened.ohlc("XBTUSD", "1d", until="2020-09-15").df()


def test_results_have_notes_and_strict_raises(archive: TradeStore) -> None:
    opened = harvester.open(archive.path)
    asked: list[Any] = [
        lambda **more: opened.ohlc("XBTUSD", "1h", **more),
        lambda **more: opened.trades("XBTUSD", **more),
        lambda **more: opened.bars("XBTUSD", trades=2, **more),
    ]
    for ask in asked:
        assert ask().notes == (GAP,)
        assert ask().limit(1).notes == (GAP,)
        assert ask(until="2020-09-15").notes == ()
        with pytest.raises(ArchiveHasGaps, match="2020-09-15 to 2020-09-17"):
            ask(strict=True)
    assert opened.sql("SELECT 1").notes == ()


# --- which gaps count ----------------------------------------------------------------------------


def test_what_was_requested_and_is_not_there_counts_without_bounds(tmp_path: Path) -> None:
    archive = made(tmp_path, [(days(1, 2), [at(30)])])
    assert gaps_in(archive, "XBTUSD", EVER, NOW) == []
    with open_writer(archive, "XBTUSD") as pair_writer:
        pair_writer.record_requested(days(0, 3))
    assert gaps_in(archive, "XBTUSD", EVER, NOW) == [days(0, 1), days(2, 3)]
    assert gaps_in(archive, "XBTUSD", days(0, 1.5), NOW) == [days(0, 1)]


def test_the_future_is_no_gap(tmp_path: Path) -> None:
    archive = made(tmp_path, [(days(0, 1), [at(5)])])
    up_to_now = [Range(days(0, 1).through, NOW)]
    assert gaps_in(archive, "XBTUSD", Range(0, NOW), NOW) == up_to_now
    assert gaps_in(archive, "XBTUSD", Range(0, NOW + DAY), NOW) == up_to_now
    assert gaps_in(archive, "XBTUSD", Range(0, END_OF_TIME), NOW) == []


def test_the_minutes_that_are_not_settled_yet_are_no_gap_before_the_future(tmp_path: Path) -> None:
    archive = made(tmp_path, [(days(0, 1), [at(5)])])
    reached = days(0, 1).through
    for minutes, expected in ((5, []), (15, [Range(reached, reached + 15 * 60 * SECOND)])):
        now_ns = reached + minutes * 60 * SECOND
        assert gaps_in(archive, "XBTUSD", Range(0, now_ns + DAY), now_ns) == expected
        assert gaps_in(archive, "XBTUSD", Range(0, now_ns), now_ns) == [Range(reached, now_ns)]


def test_a_range_wholly_behind_the_coverage_is_a_gap_up_to_now(tmp_path: Path) -> None:
    archive = made(tmp_path, [(days(0, 1), [at(5)])])
    later = days(2, 3).after
    assert gaps_in(archive, "XBTUSD", Range(later, END_OF_TIME), NOW) == [Range(later, NOW)]
    assert gaps_in(archive, "XBTUSD", Range(NOW + DAY, END_OF_TIME), NOW) == []


def test_a_pair_without_coverage_has_no_gaps(tmp_path: Path) -> None:
    assert gaps_in(TradeStore(tmp_path), "XBTUSD", EVER, NOW) == []


def test_a_note_names_five_gaps_and_sums_up_the_others() -> None:
    gaps = [days(day, day + 0.5) for day in range(1_000)]
    assert gap_note(gaps) == (
        "not downloaded: 2020-09-14 to 2020-09-14 12:00, 2020-09-15 to 2020-09-15 12:00, "
        "2020-09-16 to 2020-09-16 12:00, 2020-09-17 to 2020-09-17 12:00, "
        "2020-09-18 to 2020-09-18 12:00 and 995 more; 1,000 gaps, 500.0 days in total"
    )
    short = [Range(gap.after, gap.after + SECOND // 2) for gap in gaps[:6]]
    assert gap_note(short).endswith(" and 1 more; 6 gaps, 3 seconds in total")


# --- files that are moved away while an answer is read --------------------------------------------


READS: dict[str, Callable[[harvester.Archive], Callable[[], object]]] = {
    "trades": lambda archive: archive.trades("XBT/USD", strict=True).fetchall,
    "batches of trades": lambda archive: partial(
        list, archive.trades("XBT/USD", strict=True).to_arrow_reader(1)
    ),
    "candles": lambda archive: archive.ohlc("XBT/USD", "1h", strict=True).fetchall,
    "candles of a panel": lambda archive: archive.ohlc(["XBT/USD"], "1h", strict=True).fetchall,
    "bars": lambda archive: archive.bars("XBT/USD", trades=2, strict=True).fetchall,
}


@pytest.mark.parametrize("what", READS)
def test_no_answer_leaves_out_what_is_moved_away_after_its_gaps_were_named(
    tmp_path: Path, what: str
) -> None:
    """As `verify --repair` moves a damaged file: the gaps were named before the rows are read."""
    store = made(tmp_path, [(days(n, n + 1), [at(24 * n + 1)]) for n in range(3)])
    with harvester.open(tmp_path) as archive:
        read = READS[what](archive)
        Path(store.location(store.segments("XBTUSD")[1])).unlink()
        with pytest.raises(ArchiveDamaged, match="2020-09-15 to 2020-09-16 is not covered any"):
            read()
        with pytest.raises(ArchiveHasGaps):
            READS[what](archive)


@pytest.mark.parametrize("what", READS)
def test_no_answer_shows_what_is_stored_behind_a_new_gap_after_it_was_begun(
    tmp_path: Path, what: str
) -> None:
    """As `backfill --newest-first` stores the newest month before the others."""
    before, behind = (days(0, 1), [at(1), at(2)]), (days(3, 4), [at(73), at(74)])
    with harvester.open(tmp_path) as archive:
        made(tmp_path, [before])
        rows = READS[what](archive)()
        read = READS[what](archive)
        hold(TradeStore(tmp_path), [behind])
        assert read() == rows
        with pytest.raises(ArchiveHasGaps):
            READS[what](archive)
