"""Candles of an archive against the exchange's own: equal, different or skipped."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
import sample_trades
from backfills import Backfill, serve
from candle_cases import cut, hold
from command_line import HARVESTER
from exchange_comparison import (
    DAY,
    FEW,
    FIELDS,
    HOUR,
    NOW,
    SPARSE,
    Change,
    Rows,
    altering,
    asked,
    compare,
    downloaded_from,
    environment,
    few_intervals,
    interval,
    more,
    serve_sparse,
    shown,
    traded,
    verify,
)
from kraken_faults import Faults
from kraken_market import Clock, Market, Trade, expected

from harvester.errors import ExchangeRefused
from harvester.kraken.ohlc import read_candles
from harvester.pair_selection import known_pairs
from harvester.storage.trade_store import TradeStore
from harvester.times import Range
from harvester.verify.against_kraken import compare_interval
from harvester.verify.candle_comparison import LocalCandles
from harvester.verify.reports import Difference, IntervalReport

__all__ = ["few_intervals"]

CAPTURED = Path(__file__).parents[2] / "shared" / "kraken"
MINUTES = (1, 5, 15, 30, 60, 240, 1440, 10080, 21600)
TODAY = NOW // DAY


def held(folder: Path, *spans: Range, trades: Sequence[Trade] = SPARSE.trades) -> TradeStore:
    """An archive of these spans."""
    rows = expected(sample_trades.market(trades))
    parts = [
        (span, [row for row in rows if span.after < row[1] <= span.through])
        for span in spans or (Range(0, NOW),)
    ]
    return hold(TradeStore(folder), parts)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TradeStore:
    """An archive of all that SPARSE ever traded."""
    with serve_sparse() as exchange:
        return downloaded_from(exchange, tmp_path_factory.mktemp("whole"))


# --- equal ---------------------------------------------------------------------------------------

MARKETS = {
    "mostly empty": SPARSE,
    "tiny coin": sample_trades.tiny_coin(500, 81),
    "stamps at the edges of years": sample_trades.market(sample_trades.new_years(81)),
    "times of four decimals, no ids": sample_trades.old_style(600, 81),
}


@pytest.mark.parametrize("name", MARKETS)
def test_a_whole_archive_is_equal_in_all_nine_intervals(name: str, tmp_path: Path) -> None:
    market = MARKETS[name]
    now_ns = market.trades[-1].true_ns + 40 * DAY
    with serve(market, clock=Clock(now_ns)) as exchange:
        report = compare(exchange, downloaded_from(exchange, tmp_path), market.altname)
    closed = {minutes: len(shown(minutes, market, now_ns)) - 1 for minutes in MINUTES}
    assert {interval.minutes: interval.compared for interval in report.intervals} == closed
    assert [interval_report.skipped for interval_report in report.intervals] == [{"running": 1}] * 9
    assert (report.differing, report.exit_status) == (0, 0)


def test_weekly_counts_are_the_trades_held(whole: TradeStore) -> None:
    weeks = interval(whole, 10080)
    assert (weeks.exchange_trades, weeks.archive_trades, weeks.miscounted) == (150, 150, 0)


def test_empty_candles_that_the_exchange_leaves_out_are_equal(whole: TradeStore) -> None:
    days = interval(whole, 1440, lambda rows: [row for row in rows if row[-1]] + rows[-1:])
    assert (days.differing, days.compared) == (0, len(shown(1440)) - 1)


def test_an_answer_without_candles_compares_nothing(whole: TradeStore) -> None:
    assert interval(whole, 60, lambda _: []) == IntervalReport(60)


# --- prices of more decimals than the pair has ---------------------------------------------------

FINE = sample_trades.market(
    replace(trade, price=f"{669 + i % 7}.{79391 + i % 3:05d}")
    for i, trade in enumerate(SPARSE.trades)
)


def printed(rounding: str) -> Change:
    """Prices as an exchange prints them that keeps to the pair's one decimal."""

    def change(rows: Rows) -> Rows:
        for row in rows:
            row[1:5] = [str(Decimal(p).quantize(Decimal("0.1"), rounding)) for p in row[1:5]]
        return rows

    return change


def test_they_are_compared_in_all_of_their_digits(tmp_path: Path) -> None:
    archive = held(tmp_path, trades=FINE.trades)
    row = traded(10080, FINE)
    assert len(row[1].partition(".")[2]) == 5
    weeks = interval(archive, 10080, market=FINE)
    assert (weeks.differing, weeks.shortened) == (0, 0)
    weeks = interval(archive, 10080, altering(row[0], low=more(row[3])), FINE)
    assert weeks.differences == (
        Difference("XBTUSD", 10080, row[0] * 10**9, "low", row[3], more(row[3])),
    )


@pytest.mark.parametrize("rounding", ["ROUND_DOWN", "ROUND_HALF_UP"])
def test_where_the_exchange_shortens_them_they_are_held_to_what_it_prints(
    rounding: str, tmp_path: Path
) -> None:
    weeks = interval(held(tmp_path, trades=FINE.trades), 10080, printed(rounding), FINE)
    assert (weeks.differing, weeks.shortened) == (0, 4 * weeks.compared)


def test_a_price_shortened_to_what_it_never_was_differs(tmp_path: Path) -> None:
    row = traded(10080, FINE)
    wrong = str(Decimal(row[4]).quantize(Decimal("0.1"), "ROUND_DOWN") - Decimal("0.1"))

    def change(rows: Rows) -> Rows:
        return altering(row[0], close=wrong)(printed("ROUND_DOWN")(rows))

    weeks = interval(held(tmp_path, trades=FINE.trades), 10080, change, FINE)
    assert weeks.differences == (
        Difference("XBTUSD", 10080, row[0] * 10**9, "close", row[4], wrong.rstrip("0").rstrip(".")),
    )


def test_a_vwap_is_never_taken_for_shortened(tmp_path: Path) -> None:
    row = traded(10080, FINE)
    weeks = interval(
        held(tmp_path, trades=FINE.trades), 10080, altering(row[0], vwap=more(row[5])), FINE
    )
    assert [difference.field for difference in weeks.differences] == ["vwap"]


# --- different -----------------------------------------------------------------------------------


@pytest.mark.parametrize("field", FIELDS)
def test_a_changed_digit_is_reported_with_its_candle_and_field(
    field: str, whole: TradeStore
) -> None:
    row = traded(1440)
    value = row[FIELDS.index(field) + 1]
    days = interval(whole, 1440, altering(row[0], **{field: more(value)}))
    [found] = days.differences
    assert (found.pair, found.minutes, found.time_ns) == ("XBTUSD", 1440, row[0] * 10**9)
    assert found.field == field
    assert Decimal(found.archive or "") == Decimal(value)
    assert Decimal(found.exchange or "") == Decimal(more(value))
    assert (days.differing, days.miscounted) == (1, field == "count")


def test_a_difference_is_one_line() -> None:
    difference = Difference("XBTUSD", 60, 1_700_000_000 * 10**9, "close", "1.5", None)
    assert str(difference) == "XBTUSD 60m 2023-11-14T22:13:20Z close: archive 1.5, exchange none"


def test_the_running_candle_is_not_compared(whole: TradeStore) -> None:
    running = shown(1440)[-1][0]
    assert interval(whole, 1440, altering(running, count=7)).differing == 0


def test_a_trade_that_the_archive_lost_is_caught(tmp_path: Path) -> None:
    lost = SPARSE.trades[140]
    archive = held(tmp_path, trades=[trade for trade in SPARSE.trades if trade != lost])
    weeks, days = interval(archive, 10080), interval(archive, 1440)
    assert (weeks.miscounted, weeks.exchange_trades, weeks.archive_trades) == (1, 150, 149)
    opened = lost.true_ns // DAY * DAY
    first = [difference for difference in days.differences if difference.time_ns == opened]
    assert Difference("XBTUSD", 1440, opened, "count", "0", "1") in first
    # The price that the empty days behind it carry is another one, too.
    assert {difference.time_ns for difference in days.differences} - {opened} != set()


def test_a_lost_first_trade_is_a_difference_in_the_first_candle(tmp_path: Path) -> None:
    first, second = SPARSE.trades[:2]
    days = interval(held(tmp_path, trades=SPARSE.trades[1:]), 1440)
    opened = first.true_ns // DAY * DAY
    volume = first.volume.rstrip("0")
    assert days.differences == (
        Difference("XBTUSD", 1440, opened, "volume", None, volume),
        Difference("XBTUSD", 1440, opened, "count", None, "1"),
    )
    # Nothing was held from which the days up to the second trade could carry a price.
    quiet = second.true_ns // DAY - first.true_ns // DAY - 1
    assert days.skipped == {"empty, with no stored trade before it": quiet, "running": 1}


def test_a_candle_of_stored_trades_that_the_exchange_lacks_is_a_difference(
    whole: TradeStore,
) -> None:
    gone = traded(1440)
    days = interval(whole, 1440, lambda rows: [row for row in rows if row[0] != gone[0]])
    opened, volume, count = gone[0] * 10**9, gone[6].rstrip("0"), str(gone[7])
    assert days.differences == (
        Difference("XBTUSD", 1440, opened, "volume", volume, None),
        Difference("XBTUSD", 1440, opened, "count", count, None),
    )


def test_no_more_than_twenty_differences_are_listed(whole: TradeStore) -> None:
    hours = interval(whole, 60, lambda rows: [[*row[:7], row[7] + 1] for row in rows])
    assert (hours.differing, len(hours.differences), hours.unlisted) == (720, 20, 700)


# --- trades at the very edge of an interval ------------------------------------------------------

OPENS = 1_300 * 15 * DAY  # for each of the nine lengths


def edge_market(*offsets_ns: int) -> Market:
    """Trades so long before and after a moment at which intervals open."""
    return sample_trades.market(
        Trade(OPENS + offset, f"{100 + place}.0", f"{place + 1}.50000000", "b", "m", "", place + 1)
        for place, offset in enumerate(offsets_ns)
    )


EDGES = {
    "all of them happened before": (-DAY, -60, -20, HOUR),
    "some of them happened before": (-DAY, -60, -20, 0, HOUR),
    "it was the first trade ever": (-20, 3 * HOUR),
    "it was alone on both sides": (-20 * DAY, -20, 20 * DAY),
}


@pytest.mark.parametrize("name", EDGES)
def test_a_trade_published_at_the_edge_may_count_on_its_other_side(
    name: str, tmp_path: Path
) -> None:
    market = edge_market(*EDGES[name])
    assert {market.literal(1), market.literal(0)} & {f"{OPENS // 10**9}.0"}
    days = interval(held(tmp_path, trades=market.trades), 1440, market=market)
    assert (days.differing, days.at_boundary, days.exchange_trades) == (0, 2, days.archive_trades)


def test_the_last_closed_candle_may_end_with_a_trade_published_as_the_next_one_opens(
    tmp_path: Path,
) -> None:
    market = edge_market(-HOUR, -20, 20)
    archive = held(tmp_path, trades=market.trades)
    days = interval(archive, 1440, market=market, now_ns=OPENS + HOUR)
    assert (days.compared, days.differing, days.at_boundary) == (1, 0, 1)
    assert (days.exchange_trades, days.archive_trades) == (2, 2)


@pytest.mark.parametrize("field", FIELDS)
def test_an_edge_is_no_excuse_for_another_value(field: str, tmp_path: Path) -> None:
    market = edge_market(-DAY, -20, 3 * HOUR)
    row = next(row for row in shown(1440, market) if row[0] == OPENS // 10**9)
    value = row[FIELDS.index(field) + 1]
    days = interval(
        held(tmp_path, trades=market.trades),
        1440,
        altering(row[0], **{field: more(value)}),
        market,
    )
    assert (days.differing, days.at_boundary) == (1, 1)
    assert {difference.time_ns for difference in days.differences} == {OPENS}


@pytest.mark.parametrize("twin", ["2.5", "3.5"])
def test_no_trade_stands_in_for_one_that_is_lost_and_counts_in_its_own_candle_too(
    twin: str, tmp_path: Path
) -> None:
    """Whether the trade that opens the next candle looks like the one that was lost or not."""
    offsets, volumes = (-2 * HOUR, -HOUR, 0, HOUR, DAY), ("1.5", "2.5", twin, "1.5", "1.5")
    market = sample_trades.market(
        Trade(OPENS + offset, "100.0", volume, "b", "m", "", place + 1)
        for place, (offset, volume) in enumerate(zip(offsets, volumes, strict=True))
    )
    lost = market.trades[1]
    archive = held(tmp_path, trades=[trade for trade in market.trades if trade != lost])
    days = interval(archive, 1440, market=market, now_ns=OPENS + 3 * DAY)
    assert (days.differing, days.archive_trades, days.exchange_trades) == (1, 4, 5)
    # A twin takes its place, so that the next day lacks a trade.
    differs = OPENS if twin == "2.5" else OPENS - DAY
    assert {difference.time_ns for difference in days.differences} == {differs}


def test_the_running_candle_may_lack_what_the_last_closed_one_takes(tmp_path: Path) -> None:
    """It is not compared: a trade of its opening may count in the one before, once."""
    market = edge_market(-HOUR, 0, HOUR)
    archive = held(tmp_path, trades=market.trades)
    last = OPENS // 10**9 - 86_400

    def change(rows: Rows) -> Rows:
        row = next(row for row in rows if row[0] == last)
        row[2:] = ["101.0", "100.0", "101.0", "100.6", "4.00000000", 2]
        return rows

    days = interval(archive, 1440, change, market, now_ns=OPENS + HOUR)
    assert (days.compared, days.differing, days.at_boundary) == (1, 0, 1)
    # Were it closed, it would have to lack the trade.
    days = interval(archive, 1440, change, market, now_ns=OPENS + DAY)
    assert (days.compared, days.differing) == (2, 1)


# --- skipped -------------------------------------------------------------------------------------


def test_a_gap_is_skipped_and_counts_neither_as_equal_nor_as_different(tmp_path: Path) -> None:
    gap = Range((TODAY - 45) * DAY - 1, (TODAY - 42) * DAY - 1)
    archive = held(tmp_path, Range(0, gap.after), Range(gap.through, NOW))
    seconds = (gap.after + 1) // 10**9
    days = interval(archive, 1440, altering(seconds, count=5, close="7.0"))
    assert days.skipped["in a gap"] == 3
    assert days.compared + sum(days.skipped.values()) == len(shown(1440))
    assert days.differing == 0


def test_an_interval_that_a_gap_reaches_into_is_in_a_gap(tmp_path: Path) -> None:
    noon = (TODAY - 45) * DAY + 12 * HOUR
    days = interval(held(tmp_path, Range(0, noon), Range(noon + 1, NOW)), 1440)
    assert days.skipped["in a gap"] == 1


def test_after_a_gap_an_empty_candle_has_no_price_to_be_held_against(tmp_path: Path) -> None:
    trades = [SPARSE.trades[0], *(t for t in SPARSE.trades if t.true_ns > NOW - 90 * DAY)]
    begun = (trades[1].true_ns // DAY - 4) * DAY - 1
    archive = held(tmp_path, Range(0, begun - 50 * DAY), Range(begun, NOW), trades=trades)
    days = interval(archive, 1440, market=sample_trades.market(trades))
    assert days.skipped["empty, with no stored trade before it"] == 4
    assert (days.skipped["in a gap"], days.differing) == (50, 0)


def test_what_lies_before_and_after_what_is_held_is_skipped(tmp_path: Path) -> None:
    first = SPARSE.trades[100].true_ns // DAY
    archive = held(tmp_path, Range(first * DAY - 1, (TODAY - 10) * DAY - 1))
    days = interval(archive, 1440)
    rows = shown(1440)
    assert days.skipped == {
        "before the stored trades": first - rows[0][0] * 10**9 // DAY,
        "after the stored trades": 10,
        "running": 1,
    }
    assert (days.compared, days.differing) == (TODAY - 10 - first, 0)


# --- the pair's decimals -------------------------------------------------------------------------


def copied(archive: TradeStore, target: Path, names: str | None = None) -> TradeStore:
    """The archive with other names in it, or with none."""
    folder = Path(shutil.copytree(archive.path, target / "data"))
    if names is None:
        (folder / "pairs.json").unlink()
    else:
        (folder / "pairs.json").write_text(names)
    return TradeStore(folder)


@pytest.mark.usefixtures("few_intervals")
def test_known_pair_names_are_not_requested(whole: TradeStore) -> None:
    with serve_sparse() as exchange:
        assert compare(exchange, whole).exit_status == 0
    assert asked(exchange) == ["OHLC"] * len(FEW)


@pytest.mark.usefixtures("few_intervals")
def test_changed_decimals_are_requested(whole: TradeStore, tmp_path: Path) -> None:
    stale = '{"XBTUSD":{"altname":"XBTUSD","key":"XXBTZUSD","pair_decimals":3}}'
    with serve_sparse() as exchange:
        assert compare(exchange, copied(whole, tmp_path, stale)).exit_status == 0
    assert asked(exchange) == ["OHLC"] * len(FEW) + ["AssetPairs"] * 2


@pytest.mark.usefixtures("few_intervals")
def test_an_archive_without_names_has_them_in_its_files(whole: TradeStore, tmp_path: Path) -> None:
    archive = copied(whole, tmp_path)
    with serve_sparse() as exchange:
        assert compare(exchange, archive).exit_status == 0
    assert asked(exchange) == ["OHLC"] * len(FEW)
    assert known_pairs(archive)["XBTUSD"].pair_decimals == 1


def test_a_pair_that_nobody_lists_is_refused(whole: TradeStore, tmp_path: Path) -> None:
    archive = copied(whole, tmp_path)
    with (
        serve_sparse(sample_trades.tiny_coin(5)) as exchange,
        pytest.raises(ExchangeRefused) as caught,
    ):
        compare(exchange, archive)
    assert str(caught.value) == "XBTUSD: the exchange refused: EQuery:Unknown asset pair"


# --- as a command --------------------------------------------------------------------------------

SOUND = (
    "XBTUSD: sound: 2 files, 150 trades, 150 ids, 1 file boundary, 0 confirmed id gaps, "
    "4 roll-ups\n"
)


def test_the_report_for_people(tmp_path: Path) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(300, 83, gap_s=60))
    hour = market.trades[-1].true_ns // HOUR * HOUR
    now_ns = hour + HOUR
    with serve(market, clock=Clock(now_ns)) as exchange:
        archive = downloaded_from(exchange, tmp_path)
        count = sum(trade.true_ns >= hour for trade in market.trades)
        change = altering(hour // 10**9, count=count + 1)
        exchange.faults.candles = lambda _, minutes, rows: change(rows) if minutes == 60 else rows
        run = verify(exchange.url, archive, "--against-exchange")
    closed = {minutes: len(shown(minutes, market, now_ns)) - 1 for minutes in MINUTES}
    total = sum(closed.values())
    when = f"2024-01-21T{hour // HOUR % 24:02d}:00:00Z"
    lines = run.stdout.splitlines()
    assert lines[1] == f"XBTUSD against the exchange: 1 DIFFER: {total} candles compared, 9 skipped"
    assert lines[6:8] == [
        f"  60m: {closed[60]} compared, 1 differ; skipped 1 running; requested again: the second "
        "answer differs",
        f"    XBTUSD 60m {when} count: archive {count}, exchange {count + 1}",
    ]
    assert lines[-1] == "  trades a week: no week compared; skipped 1 running"
    assert (run.returncode, run.stderr) == (4, "XBTUSD: asking the exchange for its own candles\n")


def test_the_report_as_json(whole: TradeStore) -> None:
    with serve_sparse() as exchange:
        run = verify(exchange.url, whole, "--against-exchange", "--json", "-q", "btc/usd")
    [report] = json.loads(run.stdout)
    found = report["exchange"]
    intervals = found.pop("intervals")
    assert found == {
        "pair": "XBTUSD",
        "compared": sum(len(shown(minutes)) - 1 for minutes in MINUTES),
        "differing": 0,
        "skipped": 9,
        "error": None,
        "exit_status": 0,
    }
    assert [interval["minutes"] for interval in intervals] == list(MINUTES)
    assert intervals[7] == {
        "minutes": 10080,
        "compared": len(shown(10080)) - 1,
        "differing": 0,
        "skipped": {"running": 1},
        "shortened": 0,
        "at_boundary": 0,
        "within_float_rounding": 0,
        "miscounted": 0,
        "exchange_trades": 150,
        "archive_trades": 150,
        "differences": [],
        "unlisted": 0,
        "notes": [],
    }
    assert (run.returncode, run.stderr, report["exit_status"]) == (0, "", 0)


def test_without_the_option_nothing_is_requested(whole: TradeStore) -> None:
    run = verify("http://127.0.0.1:9", whole, "--json")
    assert (run.returncode, "exchange" in json.loads(run.stdout)[0]) == (0, False)


def test_a_comparison_of_nothing_is_reported_and_is_no_success(tmp_path: Path) -> None:
    with serve_sparse() as exchange:
        settled = Backfill(exchange.url, tmp_path).only("XBTUSD", Range(5 * DAY, 6 * DAY))
        assert settled.error is None
        run = verify(exchange.url, TradeStore(tmp_path), "--against-exchange", "-q")
    lines = run.stdout.splitlines()
    rows = sum(len(shown(minutes)) for minutes in MINUTES)
    assert lines[1] == f"XBTUSD against the exchange: nothing compared: {rows:,} candles skipped"
    weeks = len(shown(10080)) - 1
    assert lines[-1] == (
        f"  trades a week: no week compared; skipped 1 running, {weeks} after the stored trades"
    )
    assert run.returncode == 4


def test_for_a_pair_without_stored_trades_nothing_is_requested(tmp_path: Path) -> None:
    (tmp_path / "wanted").mkdir()
    (tmp_path / "wanted/XBTUSD.json").write_text('{"pair":"XBTUSD","spans":[]}')
    run = verify("http://127.0.0.1:9", TradeStore(tmp_path), "--against-exchange")
    assert run.stdout.splitlines()[-1] == (
        "XBTUSD against the exchange: nothing compared: no trades are stored"
    )
    assert run.returncode == 4


def test_an_exchange_that_is_down_is_an_error_with_status_3(whole: TradeStore) -> None:
    run = verify("http://127.0.0.1:9", whole, "--against-exchange")
    assert (run.returncode, run.stdout.partition("  digest")[0]) == (3, SOUND)
    assert run.stderr.splitlines() == [
        "XBTUSD: asking the exchange for its own candles",
        "XBTUSD: waiting: no connection: Connection refused",
        "harvester: XBTUSD: http://127.0.0.1:9 gave no good answer for 1 s (at last: no "
        "connection: Connection refused); nothing that is stored is lost, "
        "run the same command again",
    ]


def test_a_pair_that_fails_does_not_keep_the_others_from_being_compared(
    whole: TradeStore, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(whole.path, tmp_path / "data"))
    coin = sample_trades.tiny_coin(50, 84)
    clock = Clock(coin.trades[-1].true_ns + DAY)
    with serve(coin, clock=clock) as exchange:
        archive = downloaded_from(exchange, folder)
        run = verify(exchange.url, archive, "--against-exchange", "--json", "-q")
    found = {load["pair"]: load["exchange"] for load in json.loads(run.stdout)}
    refusal = "XBTUSD: the exchange refused: EQuery:Unknown asset pair"
    assert (found["XBTUSD"]["error"], found["XBTUSD"]["exit_status"]) == (refusal, 3)
    assert (found["BTTUSD"]["error"], found["BTTUSD"]["exit_status"]) == (None, 0)
    assert (run.returncode, run.stderr) == (3, f"harvester: {refusal}\n")


def test_ctrl_c_ends_it_with_130(whole: TradeStore) -> None:
    hanging = Faults(elsewhere={"OHLC": ["hang"]})
    with serve(SPARSE, clock=Clock(NOW), faults=hanging) as exchange:
        process = subprocess.Popen(
            [*HARVESTER, "verify", "--against-exchange"],
            env=environment(exchange.url, whole.path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        first = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert first == "XBTUSD: asking the exchange for its own candles\n"
    assert (process.returncode, err.strip()) == (130, "harvester: interrupted")
    assert out.partition("  digest")[0] == SOUND


# --- Kraken's own --------------------------------------------------------------------------------


@pytest.mark.skipif(
    not CAPTURED.is_dir(), reason=f"Kraken's captured answers are not at {CAPTURED}"
)
def test_captured_candles_of_kraken_are_equal_where_the_captured_trades_reach(
    tmp_path: Path,
) -> None:
    market = Market.from_bodies((CAPTURED / "trades_XBTUSDT_2025-11-10.json").read_bytes())
    rows = expected(market)
    stamps = [row[1] for row in rows]
    archive = hold(TradeStore(tmp_path), cut(rows, [stamps[0] - 1, stamps[500], stamps[-1]]))
    kraken_candles = read_candles((CAPTURED / "ohlc_XBTUSDT_1m_2025-11-10.json").read_bytes(), 1)
    report = compare_interval(
        LocalCandles(archive, "XBTUSD", 1), archive.coverage("XBTUSD"), 1, kraken_candles
    )
    assert report == IntervalReport(
        minutes=1,
        compared=409,
        skipped={"running": 1, "before the stored trades": 307, "after the stored trades": 4},
        exchange_trades=998,
        archive_trades=998,
    )
