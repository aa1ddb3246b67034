"""How a file rounds its times is found from what the API printed for the same trades."""

from __future__ import annotations

from decimal import Decimal
from itertools import product
from pathlib import Path

import pytest
import sample_trades
from csv_files import ROUNDINGS, second, three_columns
from csv_imports import imported
from hypothesis import given
from hypothesis import strategies as st
from kraken_market import SECOND_NS, Trade, expected
from segment_rows import batch

from harvester.csv_import import stored_check
from harvester.csv_import.rounding import KeyedRows, Rounding, RoundingCounts, keyed_rows
from harvester.schema import PAGE_SCHEMA
from harvester.storage.segment import Footer
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import Range

START_S = 1_600_000_000


def api_rows(trades: list[Trade]) -> KeyedRows:
    return keyed_rows(batch(expected(sample_trades.market(trades)), PAGE_SCHEMA))


def file_rows(trades: list[Trade], rounding: str) -> KeyedRows:
    """What a file of whole seconds prints, as rows."""
    lines = [
        (None, second(trade, rounding) * SECOND_NS, 0, Decimal(trade.price), Decimal(trade.volume))
        for trade in trades
    ]
    return keyed_rows(batch([(*line, None, None, None) for line in lines], PAGE_SCHEMA))


def measured(file: KeyedRows, api: KeyedRows) -> Rounding | None:
    tally = RoundingCounts()
    tally.compare(file, api)
    return tally.rounding()


GAPS_NS = st.integers(1_000, 4 * SECOND_NS)


@given(st.lists(GAPS_NS, min_size=1, max_size=80), st.sampled_from(ROUNDINGS))
def test_the_rounding_of_a_file_is_found_from_its_trades(gaps: list[int], rounding: str) -> None:
    stamp, trades = sample_trades.BUSY_NS, []
    for number, gap in enumerate(gaps, 1):
        # No trade lies within what the API's own times are off by of a second, or of half of one.
        stamp = (stamp + gap) // 1_000_000 * 1_000_000 + 7_000
        trades.append(Trade(stamp, "41450.10000", f"{number}.00000000", "b", "m", "", number))
    # One in the first half of its second, one in the second.
    for late in (200_000_000, 700_000_000):
        stamp = (stamp // SECOND_NS + 2) * SECOND_NS + late
        trades.append(Trade(stamp, "41450.10000", "0.5", "b", "m", "", len(trades) + 1))
    found = measured(file_rows(trades, rounding), api_rows(trades))
    assert found == Rounding(rounding, len(trades), len(trades))


def test_trades_on_whole_seconds_leave_the_rounding_open() -> None:
    trades = [
        Trade((1_600_000_000 + at) * SECOND_NS, "1.0", f"{at}.0", "b", "m", "", at)
        for at in range(1, 40)
    ]
    for rounding in ROUNDINGS:
        found = measured(file_rows(trades, rounding), api_rows(trades))
        assert found == Rounding("ambiguous", 39, 39)


def test_times_of_whole_minutes_are_rounded_in_none_of_the_ways() -> None:
    trades = sample_trades.xbtusd_like(500, 3)
    file = file_rows(trades, "down")
    found = measured(
        file._replace(stamps=file.stamps // (60 * SECOND_NS) * 60 * SECOND_NS), api_rows(trades)
    )
    assert found is not None
    assert (found.way, found.of) == ("none", 500)


def test_finer_times_were_not_rounded_to_seconds() -> None:
    rows = api_rows(sample_trades.xbtusd_like(50, 3))
    assert measured(rows, rows) is None


def test_without_compared_trades_no_rounding_is_reported() -> None:
    assert RoundingCounts().rounding() is None


def test_rows_missing_from_the_api_do_not_hide_the_rounding() -> None:
    trades = sample_trades.xbtusd_like(500, 4)
    found = measured(file_rows(trades, "up"), api_rows([*trades[:100], *trades[120:]]))
    assert found is not None
    assert (found.way, found.of) == ("up", 500)
    assert 480 <= found.agree < 500


def test_equal_rows_are_counted_as_often_as_both_have_them() -> None:
    half = SECOND_NS // 4
    trades = [
        Trade(1_600_000_000 * SECOND_NS + half + at, "1.0", "1.0", "b", "m", "", at)
        for at in range(1, 8)
    ]
    found = measured(file_rows(trades, "down"), api_rows(trades[:5]))
    assert found is not None
    assert found.agree == 5


def test_what_is_measured_lies_well_inside_of_what_is_held_and_is_no_more_than_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_check, "MAX_SAMPLED_ROWS", 15)
    rows = [
        (None, at * SECOND_NS, 0, Decimal(1), Decimal(at), None, None, None)
        for at in range(START_S, START_S + 100)
    ]
    archive = TradeStore(tmp_path)
    with open_writer(archive, "XBTUSD") as pair_writer:
        for first, last in ((10, 20), (50, 90)):
            held = Range((START_S + first) * SECOND_NS, (START_S + last) * SECOND_NS)
            inside = [row for row in rows if held.after < row[1] <= held.through]
            pair_writer.commit(
                held, batch(inside, PAGE_SCHEMA), Footer(held, '{"altname":"XBTUSD"}')
            )
    found = {}
    for taken in (range(11, 14), range(18, 21), range(11, 80)):
        check = stored_check.StoredCheck(archive, "XBTUSD")
        check.push(batch([rows[at] for at in taken], PAGE_SCHEMA))
        check.finish()
        found[taken] = check.rounding.compared
    assert list(found.values()) == [1, 1, 15]


def test_the_text_of_a_rounding_has_the_counts() -> None:
    said = [Rounding(way, 12_344, 12_345).words() for way in ("down", "none")]
    assert said == [
        "rounded down: 12,344 of 12,345 trades stored already agree",
        "rounded neither down, nor to the nearest, nor up: at best 12,344 of 12,345 trades stored "
        "already agree",
    ]
    assert Rounding("ambiguous", 7, 7).words() == (
        "and 7 trades stored already fit several ways of rounding"
    )


@pytest.mark.parametrize("ways", list(product(ROUNDINGS, repeat=2)))
def test_a_second_file_may_round_the_times_in_another_way(
    tmp_path: Path, ways: tuple[str, str]
) -> None:
    trades = sample_trades.xbtusd_like(3_000, 4, gap_s=6.0, first_id=1)
    for name, part, rounding in (("a", trades[:2_000], ways[0]), ("b", trades[500:], ways[1])):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "XBTUSD.csv"
        path.write_bytes(three_columns(part, rounding))
        [report] = imported(tmp_path / "data", path)
    assert report.already_covered.rows > 1_400
