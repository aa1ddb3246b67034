"""Roll-ups: the same answer as from trades, and never from other rows."""

from __future__ import annotations

import shutil
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import candle_oracle
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sample_trades
from candle_cases import (
    MADE_HISTORIES,
    MINUTE,
    PAIR,
    SECOND,
    START,
    answer,
    ask,
    candle_batches,
    cut,
    hold,
    is_equal,
    ohlc,
    trade,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from kraken_market import Market, expected
from rollup_cases import LEVELS, busy_archive, rolled

from harvester.errors import ArchiveDamaged, BadInterval
from harvester.query.plan import FILLS, plan_query, split_query
from harvester.query.rollups import RollupResult, parse_levels
from harvester.storage import parquet_files
from harvester.storage.trade_store import EVERYTHING, TradeStore
from harvester.storage.writer import open_writer
from harvester.times import END_OF_TIME, Range, parse_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERVALS = ("1m", "7m", "1h", "4h", "1d", "10080", "90s", "1s")
HUGE = Decimal("99999999.9999999999")


def read_from(archive: TradeStore, **question: Any) -> list[str]:
    """What each piece of an answer is read from, in order."""
    return [
        "trades" if source.rollup is None else source.rollup.interval
        for source in plan_query(archive, ask(**question)).sources
    ]


def table(archive: TradeStore, **question: Any) -> pa.Table:
    return pa.Table.from_batches(candle_batches(archive, ask(**question)))


def spans_of(rows: Sequence[candle_oracle.Row]) -> list[Range]:
    """Some that begin and end inside of minutes and hours, and all."""
    first, last = rows[0][1], rows[-1][1]
    third = (last - first) // 3
    return [EVERYTHING, Range(first + third + 17, last - third - 13), Range(first, last)]


@pytest.fixture(scope="module")
def pairs_of_archives(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[TradeStore, ...]]:
    """Of each made history an archive without roll-ups, and its copy with roll-ups."""
    made: dict[str, tuple[TradeStore, ...]] = {}
    for name, rows in MADE_HISTORIES.items():
        stamps = [row[1] for row in rows]
        bounds = sorted({0, *stamps[:: len(stamps) // 5], stamps[-1] + 1})
        plain = hold(TradeStore(tmp_path_factory.mktemp("plain")), cut(rows, bounds))
        path = tmp_path_factory.mktemp("rolled") / "data"
        shutil.copytree(plain.path, path)
        with_rollups = TradeStore(path)
        rolled(with_rollups)
        made[name] = (plain, with_rollups)
    return made


# --- the same answer -----------------------------------------------------------------------------


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("name", MADE_HISTORIES)
def test_every_column_equals_the_oracles(
    pairs_of_archives: dict[str, tuple[TradeStore, ...]], name: str, interval: str
) -> None:
    _, archive = pairs_of_archives[name]
    made = answer(ohlc(archive, ask(interval, all_columns=True)))
    width = parse_interval(interval).width_ns
    assert width is not None
    assert is_equal(made, candle_oracle.candles(MADE_HISTORIES[name], width), candle_oracle.COLUMNS)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("name", ["busy", "zero ids", "one stamp"])
def test_candles_from_trades_and_from_rollups_have_the_same_bytes(
    pairs_of_archives: dict[str, tuple[TradeStore, ...]], name: str, fill: str
) -> None:
    plain, archive = pairs_of_archives[name]
    # Each kind of filling begins with another interval, so every span is asked in all of them.
    turn = FILLS.index(fill) % 3
    intervals = [*("1m", "7m", "1h")[turn:], *("1m", "7m", "1h")[:turn]]
    for span, interval in zip(spans_of(MADE_HISTORIES[name]), intervals, strict=True):
        question = {"interval": interval, "span": span, "fill": fill, "all_columns": True}
        assert table(archive, **question).equals(table(plain, **question))
    short = {**question, "all_columns": False, "pair_decimals": 1}
    assert table(archive, **short).equals(table(plain, **short))


def test_every_run_on_one_or_two_threads_gives_the_same_bytes(
    pairs_of_archives: dict[str, tuple[TradeStore, ...]],
) -> None:
    _, archive = pairs_of_archives["busy"]
    question = ask("4h", span=spans_of(MADE_HISTORIES["busy"])[1], all_columns=True)
    found = [
        pa.Table.from_batches(candle_batches(archive, question, threads=threads))
        for threads in [1, 2] * 10
    ]
    assert all(made.equals(found[0]) for made in found)


@pytest.mark.parametrize("tz", [None, "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe"])
@pytest.mark.parametrize("interval", ["4h", "1d", "1w", "1mo", "1q", "1y"])
def test_calendar_candles_from_trades_and_from_rollups_are_equal(
    pairs_of_archives: dict[str, tuple[TradeStore, ...]], interval: str, tz: str | None
) -> None:
    plain, archive = pairs_of_archives["sparse"]
    question = {"interval": interval, "tz": tz, "all_columns": True}
    assert {"1h", "1m"} & set(read_from(archive, interval=interval, tz=tz))
    assert table(archive, **question).equals(table(plain, **question))


@given(
    sample_trades.markets(min_size=1),
    st.lists(st.integers(0, 60), max_size=3),
    st.tuples(st.sampled_from(["1m", "3m", "1h"]), st.sampled_from(FILLS)),
    st.integers(-90, 90),
    st.integers(1, 7),
)
@settings(max_examples=15, deadline=None)
def test_candles_from_rollups_of_any_trades_equal_those_from_trades(
    tmp_path_factory: pytest.TempPathFactory,
    market: Market,
    cuts: list[int],
    asked: tuple[str, str],
    shift_s: int,
    parts: int,
) -> None:
    rows, (interval, fill) = expected(market), asked
    # Empty minutes are shown: not those of years.
    first, last = rows[0][1], rows[-1][1]
    span = Range(max(0, first + shift_s * SECOND), min(last, first + 3600 * SECOND) + 100 * SECOND)
    bounds = sorted({0, last, *(first + (last - first) * place // 60 for place in cuts)})
    plain = hold(TradeStore(tmp_path_factory.mktemp("plain")), cut(rows, bounds))
    path = tmp_path_factory.mktemp("rolled") / "data"
    shutil.copytree(plain.path, path)
    archive = TradeStore(path)
    rolled(archive, ["1m"])
    question = ask(interval, span, fill=fill, all_columns=True)
    truth = ohlc(plain, question).to_arrow_table()
    assert ohlc(archive, question).to_arrow_table().equals(truth)
    most = 1 + truth.num_rows // parts
    chunked = [
        ohlc(archive, chunk) for chunk in split_query(archive, plan_query(archive, question), most)
    ]
    assert pa.concat_tables([result.to_arrow_table() for result in chunked]).equals(truth)


# --- what answers --------------------------------------------------------------------------------


def test_the_coarsest_level_that_divides_the_question_answers(tmp_path: Path) -> None:
    archive = busy_archive(tmp_path)
    rolled(archive)
    assert read_from(archive, interval="1d") == ["1h", "1h"]
    assert read_from(archive, interval="90m") == ["1m", "1m"]
    assert read_from(archive, interval="90s") == ["trades", "trades"]
    assert read_from(archive, interval="1h", offset_ns=60 * SECOND) == ["1m", "1m"]
    assert read_from(archive, interval="1h", offset_ns=1) == ["trades", "trades"]
    assert read_from(archive, interval="1mo", tz="Europe/Berlin") == ["1h", "1h"]
    assert read_from(archive, interval="1d", tz="Asia/Kolkata") == ["1m", "1m"]


def test_where_the_range_cuts_a_rollup_candle_trades_are_read(tmp_path: Path) -> None:
    archive = busy_archive(tmp_path)
    rolled(archive)
    first = archive.footer(archive.segments(PAIR)[0]).bounds
    assert first is not None
    span = Range(first[0] + 90 * MINUTE, first[0] + 100 * MINUTE)
    assert read_from(archive, interval="1m", span=span) == ["trades", "1m", "trades"]
    # No hour lies in it whole, but minutes do.
    assert read_from(archive, interval="1h", span=span) == ["trades", "1m", "trades"]


def test_only_segments_without_a_rollup_are_read_from_trades(
    tmp_path: Path,
) -> None:
    archive = busy_archive(tmp_path)
    truth = table(archive, interval="1h", all_columns=True)
    rolled(archive)
    (archive.root / archive.rollups(PAIR)[0].path).unlink()
    assert sorted(read_from(archive, interval="1h")) == ["1h", "1m"]
    shutil.rmtree(archive.root / "candles/interval=1m")
    assert sorted(read_from(archive, interval="1h")) == ["1h", "trades"]
    assert table(archive, interval="1h", all_columns=True).equals(truth)


def test_a_rollup_of_other_rows_never_serves(tmp_path: Path) -> None:
    archive = hold(TradeStore(tmp_path / "a"), [(Range(0, START), [trade(-1, "5")])])
    rolled(archive)
    other = hold(TradeStore(tmp_path / "b"), [(Range(0, START), [trade(-1, "6")])])
    shutil.copytree(tmp_path / "a/candles", tmp_path / "b/candles")
    assert read_from(other, interval="1h") == ["trades"]
    assert rolled(other) == RollupResult(PAIR, 2, 0, [])
    assert read_from(other, interval="1h") == ["1h"]
    assert table(other, interval="1h").column("open").to_pylist() == [Decimal(6)]


def test_a_file_that_is_no_rollup_never_serves(tmp_path: Path) -> None:
    archive = hold(TradeStore(tmp_path), [(Range(0, START), [trade(-1, "5")])])
    rolled(archive)
    for rollup in archive.rollups(PAIR):
        (archive.root / rollup.path).write_bytes(b"no parquet")
    assert read_from(TradeStore(tmp_path), interval="1h") == ["trades"]


def test_rollups_that_vanish_meanwhile_are_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = busy_archive(tmp_path)
    rolled(archive)
    truth = table(archive, interval="1h")
    serves = TradeStore.is_rollup_valid

    def serves_and_goes(self: TradeStore, *of: Any) -> bool:
        known = serves(self, *of)
        shutil.rmtree(tmp_path / "candles", ignore_errors=True)
        return known

    monkeypatch.setattr(TradeStore, "is_rollup_valid", serves_and_goes)
    assert table(TradeStore(tmp_path), interval="1h").equals(truth)


# --- making them ---------------------------------------------------------------------------------


def test_each_segment_has_one_of_its_own_name_and_year(tmp_path: Path) -> None:
    archive = busy_archive(tmp_path)
    assert rolled(archive) == RollupResult(PAIR, 4, 0, [])
    assert rolled(archive) == RollupResult(PAIR, 0, 4, [])
    names = {segment.path.removeprefix("trades/") for segment in archive.segments(PAIR)}
    found = {
        path.relative_to(tmp_path / "candles") for path in tmp_path.glob("candles/**/*.parquet")
    }
    assert found == {Path(f"interval={level}") / name for level in LEVELS for name in names}


def test_a_length_that_is_given_twice_is_one_level() -> None:
    assert parse_levels(["60m", "1h", "1m"]) == {"1m": 60 * SECOND, "60m": 3_600 * SECOND}


def test_an_empty_segment_has_none(tmp_path: Path) -> None:
    archive = hold(TradeStore(tmp_path), [(Range(0, START), [])])
    assert rolled(archive) == RollupResult(PAIR, 0, 0, [])


def test_a_bucket_that_two_segments_share_is_in_both(tmp_path: Path) -> None:
    archive = busy_archive(tmp_path)
    rolled(archive, ["1h"])
    files = sorted(tmp_path.glob("candles/interval=1h/**/*.parquet"))
    counts = [pq.read_table(path, partitioning=None).column("count").to_pylist() for path in files]
    assert counts == [[360, 360, 183], [177, 360, 360]]


def test_compaction_takes_the_rollups_of_what_it_merged(tmp_path: Path) -> None:
    archive = busy_archive(tmp_path)
    rolled(archive)
    with open_writer(archive, PAIR) as pair_writer:
        pair_writer.compact(merge_all=True)
    assert archive.rollups(PAIR) == []
    assert list(tmp_path.glob("candles/**/*.parquet")) == []


def test_what_a_crash_left_without_a_segment_is_swept(tmp_path: Path) -> None:
    archive = busy_archive(tmp_path)
    rolled(archive)
    (archive.root / archive.segments(PAIR)[0].path).unlink()
    with open_writer(archive, PAIR):
        pass
    assert [rollup.interval for rollup in archive.rollups(PAIR)] == ["1h", "1m"]


def test_nothing_is_made_from_rows_that_are_not_the_footers(tmp_path: Path) -> None:
    archive = hold(TradeStore(tmp_path), [(Range(0, START), [trade(-1, "5")])])
    path = archive.root / archive.segments(PAIR)[0].path
    with pq.ParquetFile(path) as file:
        rows, kept = file.read(), file.metadata.metadata
    price = rows.schema.get_field_index("price")
    changed = pa.array([Decimal(6)], rows.schema.field("price").type)
    altered = rows.set_column(price, rows.schema.field(price), changed)
    pq.write_table(altered.replace_schema_metadata(kept), path)
    with pytest.raises(ArchiveDamaged) as caught:
        rolled(TradeStore(tmp_path))
    assert str(caught.value) == (
        f"the rows of {path} differ from its footer: it was not rolled up. "
        "`harvester verify XBTUSD` shows the details"
    )
    assert list(tmp_path.glob("candles/**/*.parquet")) == []


def test_a_sum_that_does_not_fit_leaves_that_segment_without(tmp_path: Path) -> None:
    huge = (None, START, 0, HUGE, Decimal(10) ** 13, "buy", "market", "")
    archive = hold(TradeStore(tmp_path), [(Range(0, START), [huge]), (Range(START, START + 1), [])])
    done = rolled(archive)
    assert done.built == 0
    assert len(done.notes) == 1
    assert done.notes[0].startswith(
        f"roll-ups of {archive.segments(PAIR)[0].path}: the sum of price x volume from 2020-09-13"
    )


def test_a_level_of_the_calendar_is_refused() -> None:
    with pytest.raises(BadInterval) as caught:
        parse_levels(["1m", "1mo"])
    assert str(caught.value) == (
        "rollups contains '1mo', which follows the calendar: give fixed lengths such as 1m or 1h"
    )


def test_chunks_of_trades_are_cut_between_rollup_candles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = busy_archive(tmp_path)
    truth = table(archive, interval="1h", all_columns=True)
    monkeypatch.setattr(parquet_files, "READ_ROWS", 7)
    rolled(archive)
    files = sorted(tmp_path.glob("candles/interval=1m/**/*.parquet"))
    times = [pq.read_table(path, partitioning=None).column("time").to_pylist() for path in files]
    assert all(time == sorted(set(time)) for time in times)
    assert table(archive, interval="1h", all_columns=True).equals(truth)


def test_a_rollup_has_few_row_groups_however_its_rows_were_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve years of hours had 1,900, and a query over them took three times as long."""
    archive = busy_archive(tmp_path)
    monkeypatch.setattr(parquet_files, "READ_ROWS", 7)
    rolled(archive)
    files = list(tmp_path.glob("candles/**/*.parquet"))
    assert [pq.read_metadata(path).num_row_groups for path in files] == [1, 1, 1, 1]


def test_levels_that_do_not_divide_each_other_are_made_from_trades(tmp_path: Path) -> None:
    archive = busy_archive(tmp_path)
    truth = {text: table(archive, interval=text, all_columns=True) for text in ("7m", "1h")}
    rolled(archive, ["7m", "1h"])
    for text, expected_table in truth.items():
        assert read_from(archive, interval=text) == [text, text]
        assert table(archive, interval=text, all_columns=True).equals(expected_table)


# --- long questions ------------------------------------------------------------------------------


def test_a_long_question_is_cut_where_intervals_open(tmp_path: Path) -> None:
    archive = busy_archive(tmp_path)
    cut_up = split_query(archive, plan_query(archive, ask("1m")), 100)
    assert len(cut_up) > 2
    assert cut_up[0].range.after == 0
    assert cut_up[-1].range.through == END_OF_TIME
    inner = [part.range.through + 1 for part in cut_up[:-1]]
    assert all(edge % MINUTE == 0 for edge in inner)
    assert [part.range.after + 1 for part in cut_up[1:]] == inner


def test_a_question_of_few_candles_is_not_cut(tmp_path: Path) -> None:
    archive = busy_archive(tmp_path)
    assert split_query(archive, plan_query(archive, ask("1h")), 100) == [ask("1h")]
