"""A trade that an answer withheld is downloaded later, or its range is a gap on record."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
import sample_trades
from backfills import ALL, Backfill, rows_on_disk, serve, serve_100, set_page_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from kraken_faults import Faults
from kraken_market import Clock, Market, Trade, expected
from kraken_server import Exchange

import harvester
from harvester.download import completeness, page_merge
from harvester.events import BackfillResult
from harvester.schema import NO_ROWS, PAGE_SCHEMA
from harvester.storage.segment import Footer
from harvester.storage.trade_store import TradeStore
from harvester.storage.writer import open_writer
from harvester.times import END_OF_TIME, Range
from harvester.verify.integrity import verify
from harvester.verify.status import status

__all__ = ["serve_100"]

LIES = ["first_rows", "last_rows", "later", "newest", "empty", "stale", "older"]
SECOND_NS = 1_000_000_000
START_NS = 1_700_000_000_123_456_700
"""Not a whole second: a first page of coarse times is requested once more, whatever is in it."""


def every(seconds: int, trades: int, first_id: int | None = 1) -> Market:
    """A market with a trade every so many seconds; ids from `first_id` on, or none."""
    return sample_trades.market(
        [
            Trade(
                START_NS + place * seconds * SECOND_NS,
                "1.5",
                f"{place + 1}.00000000",
                "b",
                "l",
                "",
                None if first_id is None else first_id + place,
            )
            for place in range(trades)
        ]
    )


def claims(folder: Path, market: Market) -> list[tuple[object, ...]]:
    """The trades of a market in the ranges that an archive says it covers."""
    coverage = TradeStore(folder).coverage(market.altname)
    return [row for row in expected(market) if any(r.after < row[1] <= r.through for r in coverage)]


def is_called_complete(folder: Path, market: Market, outcome: BackfillResult) -> bool:
    """Whether a run, `verify` and `status` all say that nothing is missing."""
    archive = TradeStore(folder)
    return (
        outcome.exit_status == 0
        and verify(archive, market.altname).faults == []
        and status(archive, [market.altname], END_OF_TIME)[0].exit_status == 0
    )


def with_ids_and_without(*products: tuple[object, ...]) -> list[tuple[object, ...]]:
    """Cases with a first id in front: of every two that follow one another, one has ids."""
    return [((1, None)[at % 2], *case) for at, case in enumerate(products)]


@pytest.mark.parametrize(
    ("first_id", "lie", "since_s"),
    with_ids_and_without(
        # All trades, from days before the first one, and from the middle.
        *itertools.product(
            [*LIES, "first_rows:30", "last_rows:30", "later:30"], [None, -500_000, 6_000]
        )
    ),
)
def test_a_lie_in_the_first_answer_costs_no_trade(
    first_id: int | None,
    lie: str,
    since_s: int | None,
    serve_100: Callable[..., Exchange],
    tmp_path: Path,
) -> None:
    market = every(50, 350, first_id)
    after = 0 if since_s is None else START_NS + since_s * SECOND_NS
    faults = Faults(script=[lie], seed=3)
    with serve_100(market, faults=faults) as exchange:
        outcome = Backfill(exchange.url, tmp_path).only(market.altname, Range(after, END_OF_TIME))
    assert (outcome.error, rows_on_disk(tmp_path, market.altname)) == (
        None,
        [row for row in expected(market) if row[1] > after],
    )


@pytest.mark.parametrize(
    ("first_id", "lie", "span_s"),
    with_ids_and_without(
        *itertools.product(
            ["later:30", "newest", "empty", "first_rows:30", "last_rows:30"],
            [(6_001, 7_001), (-1, 3_001), (6_001, 10_999)],
        )
    ),
    ids=str,
)
def test_a_lie_in_an_early_answer_of_a_range_with_an_end_costs_no_trade(
    first_id: int | None,
    lie: str,
    span_s: tuple[int, int],
    serve_100: Callable[..., Exchange],
    tmp_path: Path,
) -> None:
    market = every(50, 350, first_id)
    span = Range(*(START_NS + end_s * SECOND_NS for end_s in span_s))
    for answer in range(6):
        folder = tmp_path / str(answer)
        faults = Faults(script=[*[None] * answer, lie], seed=3)
        with serve_100(market, faults=faults) as exchange:
            Backfill(exchange.url, folder).only(market.altname, span)
        assert rows_on_disk(folder, market.altname) == claims(folder, market)


def test_two_answers_that_begin_later_do_not_outvote_an_earlier_beginning(tmp_path: Path) -> None:
    market = every(5, 3_500, None)
    with serve(market, faults=Faults(script=[None, "later:50", "later:50"])) as exchange:
        outcome = Backfill(exchange.url, tmp_path).only(market.altname)
    assert (outcome.error, rows_on_disk(tmp_path, market.altname)) == (None, expected(market))


def test_of_two_first_trades_at_one_time_the_lower_number_is_the_earlier_one(
    tmp_path: Path,
) -> None:
    trades = [
        Trade(START_NS + max(0, trade_id - 10) * SECOND_NS, "1.5", "1.0", "b", "l", "", trade_id)
        for trade_id in range(9, 40)
    ]
    market = sample_trades.market(trades)
    with serve(market, faults=Faults(script=["first_rows:1"])) as exchange:
        outcome = Backfill(exchange.url, tmp_path).only(market.altname)
    assert (outcome.error, rows_on_disk(tmp_path, market.altname)) == (None, expected(market))


def test_answers_that_each_begin_elsewhere_end_the_pair_with_nothing_covered(
    tmp_path: Path,
) -> None:
    market = every(5, 3_500, None)
    with serve(market, faults=Faults(script=[f"later:{n}" for n in range(40)])) as exchange:
        outcome = Backfill(exchange.url, tmp_path).only(market.altname)
    assert (outcome.exit_status, TradeStore(tmp_path).coverage(market.altname)) == (3, [])
    assert "contradict one another" in str(outcome.error)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_rows_withheld_directly_behind_the_beginning_of_a_range_are_found(
    times: int, tmp_path: Path
) -> None:
    market = every(5, 3_500)
    after = START_NS + (5 * 1_200 + 1) * SECOND_NS
    hidden = {market.altname: dict.fromkeys(range(1_201, 1_206), times)}
    with serve(market, faults=Faults(hide=hidden)) as exchange:
        outcome = Backfill(exchange.url, tmp_path).only(market.altname, Range(after, END_OF_TIME))
    rows = [row for row in expected(market) if row[1] > after]
    assert (outcome.error, rows_on_disk(tmp_path, market.altname)) == (None, rows)


@pytest.mark.parametrize("lie", ["first_rows:20", "later:20"])
def test_a_lie_behind_a_time_that_no_page_can_show_costs_no_trade(
    lie: str, serve_100: Callable[..., Exchange], tmp_path: Path
) -> None:
    market = sample_trades.market(sample_trades.one_stamp(150, 19, before=30, after=30))
    for calls in range(14):
        folder = tmp_path / str(calls)
        faults = Faults(script=[*[None] * calls, lie], seed=3)
        with serve_100(market, faults=faults) as exchange:
            Backfill(exchange.url, folder).only(market.altname)
        stored = rows_on_disk(folder, market.altname)
        assert stored == claims(folder, market)
        assert stored[-1] == expected(market)[-1]


@pytest.mark.parametrize("lie", ["first_rows:50", "later:249", "newest"])
def test_a_lie_at_the_next_answer_behind_covered_time_costs_no_trade(
    lie: str, serve_100: Callable[..., Exchange], tmp_path: Path
) -> None:
    """The next id is known here, and many more trades than a page shows are withheld."""
    market = every(50, 2_000)
    with serve_100(market, faults=Faults(seed=3)) as exchange:
        backfill = Backfill(exchange.url, tmp_path)
        backfill.only(market.altname, Range(0, START_NS + 500 * SECOND_NS))
        exchange.faults.push(lie)
        outcome = backfill.only(market.altname)
    assert (outcome.error, rows_on_disk(tmp_path, market.altname)) == (None, expected(market))
    report = verify(TradeStore(tmp_path), market.altname)
    assert (report.faults, report.unconfirmed_id_gaps) == ([], 0)


@pytest.mark.parametrize("lie", ["first_rows:1", "first_rows:2"])
def test_equal_rows_without_ids_are_all_kept_if_an_answer_lacks_its_first_rows(
    lie: str, tmp_path: Path
) -> None:
    """The last group of a page and the first of the next would look complete."""
    market = sample_trades.market(sample_trades.look_alikes(120, 7, first_id=None))
    for answer in range(4, 10):
        faults = Faults(script=[*[None] * answer, lie])
        with serve(market, faults=faults, page_size=20) as exchange:
            outcome = Backfill(exchange.url, tmp_path / str(answer)).only(market.altname)
        rows = rows_on_disk(tmp_path / str(answer), market.altname)
        assert (answer, outcome.error, rows) == (answer, None, expected(market))


@pytest.mark.parametrize("answers", [1, 2])
@pytest.mark.parametrize("also", [(), ("skip:2",)])
def test_pages_without_ids_among_others_cost_no_trade_and_no_id(
    also: tuple[str, ...], answers: int, serve_100: Callable[..., Exchange], tmp_path: Path
) -> None:
    market = every(50, 450)
    # Two first answers without ids are those of a market without ids.
    for call in range(answers - 1, 9):
        folder = tmp_path / str(call)
        lie = ("no_ids", *also)
        faults = Faults(script=[*[None] * call, *[lie] * answers], seed=call)
        with serve_100(market, faults=faults) as exchange:
            outcome = Backfill(exchange.url, folder).only(market.altname)
        assert (outcome.exit_status, rows_on_disk(folder, market.altname)) == (0, expected(market))


def test_newest_pages_that_never_have_ids_repeat_no_trade(
    serve_100: Callable[..., Exchange], tmp_path: Path
) -> None:
    """Each run asks for the newest page at its end, which shows the last trade again."""
    market = every(3_600, 8)
    clock = Clock(market.trades[0].true_ns + 100 * SECOND_NS)
    with serve_100(market, clock=clock) as exchange:
        for trade in market.trades:
            clock.now_ns = trade.true_ns + 100 * SECOND_NS
            # The page from `since`, then the newest one; the first of all is asked for again.
            exchange.faults = Faults(script=[*[None] * (1 + (trade == market.trades[0])), "no_ids"])
            assert Backfill(exchange.url, tmp_path).only(market.altname).exit_status == 0
    assert rows_on_disk(tmp_path, market.altname) == expected(market)


@pytest.mark.parametrize("first_id", [1, None])
@pytest.mark.parametrize(
    ("spacing_ns", "offset_ns", "since_mode"),
    [(20, 4_548, "inclusive"), (40, 4_548, "inclusive"), (100, 20_906, "exclusive")],
)
def test_the_gap_of_a_busy_time_includes_all_that_is_left_out(
    spacing_ns: int, offset_ns: int, since_mode: str, first_id: int | None, tmp_path: Path
) -> None:
    """Thousands of trades within some printed times of four decimals."""
    quiet = every(1, 40, first_id).trades
    middle_ns = quiet[20].true_ns // SECOND_NS * SECOND_NS + SECOND_NS // 2
    busy = [
        replace(quiet[0], true_ns=middle_ns + offset_ns + at * spacing_ns, volume=f"{at + 50}.0")
        for at in range(3_001)
    ]
    later = [replace(trade, true_ns=trade.true_ns + SECOND_NS) for trade in quiet[21:]]
    trades = [*quiet[:21], *busy, *later]
    if first_id is not None:
        trades = [replace(trade, trade_id=at + 1) for at, trade in enumerate(trades)]
    market = replace(sample_trades.market(trades), decimals=4)
    with serve(market, since_mode=since_mode) as exchange:
        for _ in range(2):
            outcome = Backfill(exchange.url, tmp_path).only(market.altname)
            rows = rows_on_disk(tmp_path, market.altname)
            assert rows == claims(tmp_path, market)
            assert (outcome.gaps != []) == (len(rows) < len(trades))


@pytest.mark.parametrize(
    ("spacing_ns", "offset_ns", "since_mode"),
    [(20, 27_483, "exclusive"), (20, 5_327, "inclusive"), (40, -33_527, "inclusive")],
)
def test_busy_times_with_ids_are_complete(
    spacing_ns: int, offset_ns: int, since_mode: str, tmp_path: Path
) -> None:
    """A page that is requested from a printed time earlier ends before the last trade so far."""
    start_ns = START_NS // SECOND_NS * SECOND_NS
    busy_ns = [start_ns + 100 * SECOND_NS + offset_ns + at * spacing_ns for at in range(3_001)]
    quiet_ns = [start_ns + at * SECOND_NS for at in range(20)]
    later_ns = [start_ns + (110 + at) * SECOND_NS for at in range(1_500)]
    trades = [
        Trade(true_ns, "1.5", f"{at + 1}.00000000", "b", "l", "", at + 1)
        for at, true_ns in enumerate([*quiet_ns, *busy_ns, *later_ns])
    ]
    market = replace(sample_trades.market(trades), decimals=4)
    with serve(market, since_mode=since_mode) as exchange:
        outcome = Backfill(exchange.url, tmp_path).only(market.altname)
    assert (outcome.exit_status, rows_on_disk(tmp_path, market.altname)) == (0, expected(market))


# --- more trades are missing than are requested at once -------------------------------------------

HIDDEN = 1_400
"""More than the pages of an id gap that are requested again, each of 100 trades."""


def test_a_long_range_that_the_exchange_showed_late_is_downloaded(
    serve_100: Callable[..., Exchange], tmp_path: Path
) -> None:
    """At first its newest page and all others ended early, as those of a copy that lags."""
    market = every(5, 300 + HIDDEN)
    shown = replace(market, trades=market.trades[:300])
    clock = Clock(market.trades[-1].true_ns + 3_600 * SECOND_NS)
    with serve_100(shown, clock=clock) as exchange:
        assert Backfill(exchange.url, tmp_path).only(market.altname).exit_status == 0
        newer = [
            replace(trade, true_ns=clock.now_ns + place * SECOND_NS, trade_id=301 + HIDDEN + place)
            for place, trade in enumerate(market.trades[:50])
        ]
        exchange.extend(market.altname, [*market.trades[300:], *newer])
        clock.advance(3_600)
        outcome = Backfill(exchange.url, tmp_path).only(market.altname)
    whole = replace(market, trades=[*market.trades, *newer])
    assert (outcome.exit_status, rows_on_disk(tmp_path, market.altname)) == (0, expected(whole))


def test_two_newest_pages_at_the_start_of_a_long_range_cost_no_trade(
    serve_100: Callable[..., Exchange], tmp_path: Path
) -> None:
    market, shown = every(5, 2_000), replace(every(5, 2_000), trades=every(5, 300).trades)
    clock = Clock(shown.trades[-1].true_ns + 60 * SECOND_NS)
    with serve_100(shown, clock=clock) as exchange:
        assert Backfill(exchange.url, tmp_path).only(market.altname).exit_status == 0
        exchange.change(market.altname, trades=market.trades)
        clock.now_ns = market.trades[-1].true_ns + 3_600 * SECOND_NS
        exchange.faults = Faults(script=["newest", "newest"])
        outcome = Backfill(exchange.url, tmp_path).only(market.altname)
    assert (outcome.exit_status, rows_on_disk(tmp_path, market.altname)) == (0, expected(market))


@pytest.mark.parametrize("first_id", [1, None])
@pytest.mark.parametrize("after_s", [-1, 4_000])
@pytest.mark.parametrize("lies", [2, 3])
def test_newest_pages_at_the_start_of_a_new_pair_cost_no_trade(
    lies: int,
    after_s: int,
    first_id: int | None,
    serve_100: Callable[..., Exchange],
    tmp_path: Path,
) -> None:
    market = every(5, 2_000, first_id)
    after = 0 if after_s < 0 else START_NS + after_s * SECOND_NS
    with serve_100(market, faults=Faults(script=["newest"] * lies)) as exchange:
        outcome = Backfill(exchange.url, tmp_path).only(market.altname, Range(after, END_OF_TIME))
    stored = rows_on_disk(tmp_path, market.altname)
    wanted = [row for row in expected(market) if row[1] > after]
    assert (outcome.exit_status, stored) == (0, wanted)


def test_a_stored_trade_that_the_exchange_took_back_leaves_no_gap_before_it(
    serve_100: Callable[..., Exchange], tmp_path: Path
) -> None:
    market = every(5, 40)
    taken_ns = market.trades[20].true_ns
    with serve_100(market) as exchange:
        later = Range(taken_ns - 1, END_OF_TIME)
        assert Backfill(exchange.url, tmp_path).only(market.altname, later).exit_status == 0
        kept = [trade for trade in market.trades if trade.true_ns != taken_ns]
        exchange.change(market.altname, trades=kept)
        outcome = Backfill(exchange.url, tmp_path).only(market.altname, Range(0, taken_ns - 1))
    assert (outcome.exit_status, rows_on_disk(tmp_path, market.altname)) == (0, expected(market))


def test_two_newest_pages_do_not_cover_an_earlier_range(
    serve_100: Callable[..., Exchange], tmp_path: Path
) -> None:
    market = every(5, 2_000)
    turn_ns = START_NS + 5_000 * SECOND_NS
    with serve_100(market) as exchange:
        later = Range(turn_ns, END_OF_TIME)
        assert Backfill(exchange.url, tmp_path).only(market.altname, later).exit_status == 0
        exchange.faults = Faults(script=["newest", "newest"])
        outcome = Backfill(exchange.url, tmp_path).only(market.altname, Range(0, turn_ns))
    assert (outcome.exit_status, rows_on_disk(tmp_path, market.altname)) == (0, expected(market))


@pytest.mark.parametrize("first_id", [1, None])
@pytest.mark.parametrize("asked_through_s", [None, 5_000])
def test_an_exchange_that_lags_behind_stored_trades_covers_nothing_before_them(
    asked_through_s: int | None,
    first_id: int | None,
    serve_100: Callable[..., Exchange],
    tmp_path: Path,
) -> None:
    """All its answers end before trades that it showed earlier, as those of a copy that lags."""
    market, turn_ns = every(5, 1_300, first_id), START_NS + 5_500 * SECOND_NS
    through = END_OF_TIME if asked_through_s is None else START_NS + asked_through_s * SECOND_NS
    earlier = Range(0, through)
    with serve_100(market) as exchange:
        backfill = Backfill(exchange.url, tmp_path)
        assert backfill.only(market.altname, Range(turn_ns, END_OF_TIME)).exit_status == 0
        exchange.change(market.altname, trades=market.trades[:900])
        lagging = backfill.only(market.altname, earlier)
        assert lagging.exit_status == 3
        assert "the newest page ends before stored trades" in str(lagging.error)
        assert rows_on_disk(tmp_path, market.altname) == claims(tmp_path, market)
        exchange.change(market.altname, trades=market.trades)
        outcome = backfill.only(market.altname, earlier)
    wanted = [row for row in expected(market) if row[1] <= through or row[1] > turn_ns]
    assert (outcome.exit_status, rows_on_disk(tmp_path, market.altname)) == (0, wanted)


@pytest.mark.parametrize("first_id", [1, None])
@pytest.mark.parametrize("of_one_time", [1, 3])
def test_one_stored_time_shows_that_an_exchange_lags(
    of_one_time: int, first_id: int | None, serve_100: Callable[..., Exchange], tmp_path: Path
) -> None:
    market = every(5, 400, first_id)
    last_ns = market.trades[-1].true_ns
    ends = [replace(trade, true_ns=last_ns) for trade in market.trades[-of_one_time:]]
    market = replace(market, trades=[*market.trades[:-of_one_time], *ends])
    with serve_100(market) as exchange:
        backfill = Backfill(exchange.url, tmp_path)
        assert backfill.only(market.altname, Range(last_ns - 1, END_OF_TIME)).exit_status == 0
        exchange.change(market.altname, trades=market.trades[:350])
        assert backfill.only(market.altname).exit_status == 3
        exchange.change(market.altname, trades=market.trades)
        assert backfill.only(market.altname).exit_status == 0
    assert rows_on_disk(tmp_path, market.altname) == expected(market)


@pytest.mark.parametrize("taken", [1, 3])
def test_newest_trades_that_the_exchange_took_back_end_no_download_before_them(
    taken: int, serve_100: Callable[..., Exchange], tmp_path: Path
) -> None:
    market = every(5, 60)
    first_ns = market.trades[-taken].true_ns
    with serve_100(market) as exchange:
        backfill = Backfill(exchange.url, tmp_path)
        assert backfill.only(market.altname, Range(first_ns - 1, END_OF_TIME)).exit_status == 0
        exchange.change(market.altname, trades=market.trades[:-taken])
        assert backfill.only(market.altname, Range(0, first_ns - 1)).exit_status == 0
    assert rows_on_disk(tmp_path, market.altname) == expected(market)


@pytest.mark.parametrize("first_id", [1, None])
def test_an_empty_market_with_stored_trades_covers_nothing_before_them(
    first_id: int | None, serve_100: Callable[..., Exchange], tmp_path: Path
) -> None:
    market, turn_ns = every(5, 400, first_id), START_NS + 1_000 * SECOND_NS
    with serve_100(market) as exchange:
        backfill = Backfill(exchange.url, tmp_path)
        assert backfill.only(market.altname, Range(turn_ns, END_OF_TIME)).exit_status == 0
        exchange.change(market.altname, trades=[])
        assert backfill.only(market.altname).exit_status == 3
        exchange.change(market.altname, trades=market.trades)
        assert backfill.only(market.altname).exit_status == 0
    assert rows_on_disk(tmp_path, market.altname) == expected(market)


@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_any_trades_with_false_answers_are_exact_or_have_a_gap_on_record(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    market = data.draw(sample_trades.markets(min_size=1))
    folder = tmp_path_factory.mktemp("archive")
    stamps = sorted({row[1] for row in expected(market)})
    bound = st.sampled_from([0, *stamps, *(stamp - 1 for stamp in stamps), stamps[-1] + 1])
    spans = [
        Range(min(pair), max(pair))
        for pair in data.draw(st.lists(st.tuples(bound, bound), max_size=2))
        if min(pair) < max(pair)
    ]
    calls = data.draw(st.integers(0, 6))
    faults = Faults(
        seed=data.draw(st.integers(0, 99)),
        script=[None] * calls + [data.draw(st.sampled_from(LIES))],
    )
    size = data.draw(st.sampled_from([5, 11, 1000]))
    with (
        pytest.MonkeyPatch.context() as patch,
        serve(market, faults=faults, page_size=size) as exchange,
    ):
        set_page_rows(size, patch)
        for span in [*spans, ALL, ALL, ALL]:
            outcome = Backfill(exchange.url, folder).only(market.altname, span)
            if is_called_complete(folder, market, outcome):
                assert rows_on_disk(folder, market.altname) == claims(folder, market)
    held = TradeStore(folder)
    # Trades within a millisecond that fill a page can not be shown whole: that is an error, too.
    times = [row[1] for row in expected(market)]
    is_crowded = any(
        last - first < 1_000_000 for first, last in zip(times, times[size - 1 :], strict=False)
    )
    assert (outcome.exit_status, claims(folder, market)) == (0, list(expected(market))) or (
        outcome.exit_status in ((3, 4) if is_crowded else (4,)) and held.gaps(market.altname)
    )


def test_trades_a_nanosecond_apart_that_fill_a_page_do_not_hold_a_backfill_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamps = [START_NS] * 4 + [START_NS + 1, START_NS + SECOND_NS]
    trades = [
        Trade(stamp, "41450.0", "0.0001", "b", "m", "", number)
        for number, stamp in enumerate(stamps, 1)
    ]
    market = sample_trades.market(trades)
    set_page_rows(5, monkeypatch)
    faults = Faults(script=["first_rows"], seed=0)
    with serve(market, faults=faults, page_size=5) as exchange:
        outcome = Backfill(exchange.url, tmp_path).only(market.altname)
        assert len(exchange.calls) < 100
    assert outcome.exit_status in (3, 4)
    assert TradeStore(tmp_path).gaps(market.altname)


def test_the_newest_page_must_show_no_more_trades_of_the_last_time_than_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trades = [Trade(START_NS, "41450.0", "0.0001", "b", "m", "", number) for number in range(1, 7)]
    market = sample_trades.market(trades)
    set_page_rows(5, monkeypatch)
    faults = Faults(script=[None, "first_rows"], seed=0)
    with serve(market, faults=faults, page_size=5) as exchange:
        outcome = Backfill(exchange.url, tmp_path).only(market.altname)
    stored = rows_on_disk(tmp_path, market.altname)
    assert stored == expected(market) or TradeStore(tmp_path).gaps(market.altname)
    assert outcome.exit_status in ((0,) if stored == expected(market) else (3, 4))


@pytest.mark.parametrize(
    ("first_id", "until", "page"),
    [
        (1, START_NS + 4_000 * SECOND_NS, 1),
        (None, START_NS + 4_000 * SECOND_NS, 1),
        (1, START_NS + 6_000 * SECOND_NS, 4),
        (1, END_OF_TIME, 1),
        (None, END_OF_TIME, 0),
        (None, END_OF_TIME, 1),
        (None, END_OF_TIME, 6),
        (None, START_NS + 4_500 * SECOND_NS, 6),
        (None, START_NS + 4_990 * SECOND_NS, 6),
        (1, START_NS + 4_990 * SECOND_NS, 5),
    ],
)
def test_rows_printed_later_than_they_were_end_neither_a_range_nor_a_page(
    first_id: int | None, until: int, page: int, serve_100: Callable[..., Exchange], tmp_path: Path
) -> None:
    market = every(10, 500, first_id)
    for seed in range(4):
        folder = tmp_path / str(seed)
        late_row = f"late_row:{(300, 6_000)[seed % 2]}"
        faults = Faults(script=[*[None] * page, late_row], seed=seed)
        with serve_100(market, faults=faults) as exchange:
            outcome = Backfill(exchange.url, folder).only(market.altname, Range(0, until))
        rows = [row for row in expected(market) if row[1] <= until]
        assert (outcome.exit_status, rows_on_disk(folder, market.altname)) == (0, rows)


@pytest.mark.parametrize(
    ("first_id", "also", "until_s"),
    with_ids_and_without(*itertools.product([(), ("last_missing",)], [650, 1_000, None])),
)
def test_a_last_row_printed_later_does_not_hide_the_trades_between_two_pages(
    first_id: int | None,
    also: tuple[str, ...],
    until_s: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_page_rows(5, monkeypatch)
    market = every(60, 20, first_id)
    until = END_OF_TIME if until_s is None else START_NS + until_s * SECOND_NS
    rows = [row for row in expected(market) if row[1] <= until]
    for page in range(6):
        folder, seed = tmp_path / str(page), (3, 5)[page % 2]
        faults = Faults(script=[*[None] * page, ("late_row:100", *also)], seed=seed)
        with serve(market, faults=faults, page_size=5) as exchange:
            outcome = Backfill(exchange.url, folder).only(market.altname, Range(0, until))
        assert outcome.exit_status == 3 or rows_on_disk(folder, market.altname) == rows


def test_a_page_whose_last_row_alone_is_far_behind_the_end_is_requested_again() -> None:
    """Its id goes on by one, but its time may be printed later than it was."""
    page = pa.RecordBatch.from_pylist(
        [
            {
                "trade_id": place + 1,
                "time": START_NS + place * SECOND_NS + (9_000 * SECOND_NS if place == 999 else 0),
                "price": Decimal(1),
                "volume": Decimal(1),
                "side": "buy",
                "order_type": "limit",
                "misc": "",
            }
            for place in range(1_000)
        ],
        schema=PAGE_SCHEMA,
    )
    until = START_NS + 4_000 * SECOND_NS
    merger = page_merge.PageMerger(0)
    for size in (1_000, 999):
        step = merger.join(page.slice(1_000 - size), None, 100, until)
        assert step.result is page_merge.JoinResult.UNPROVEN_END
    step = merger.join(page.slice(1), None, 100, until)
    assert (step.result, step.rows.num_rows) == (page_merge.JoinResult.REACHED_END, 998)


def test_a_market_whose_first_id_is_not_1_has_that_confirmed_and_on_record(tmp_path: Path) -> None:
    market = every(60, 50, first_id=7)
    with serve(market) as exchange:
        outcome = Backfill(exchange.url, tmp_path).only(market.altname)
        # The page, two more that begin alike, the page behind the last trade, and the newest one.
        assert exchange.pages(market.altname) == 5
    report = verify(TradeStore(tmp_path), market.altname)
    assert (outcome.exit_status, report.faults, report.confirmed_id_gaps) == (0, [], 1)


def test_verify_reports_a_first_id_above_1_that_is_not_confirmed(tmp_path: Path) -> None:
    market = every(60, 50)
    with serve(market) as exchange:
        backfill = Backfill(exchange.url, tmp_path)
        backfill.only(market.altname, Range(START_NS + 179 * SECOND_NS, END_OF_TIME))
        [file] = (tmp_path / "trades").rglob("*.parquet")
        claim_from_the_beginning(file)
        [fault] = verify(TradeStore(tmp_path), market.altname).faults
    assert fault.text == "its first trade id is 4, not 1, and no confirmed id gap explains it"


def test_verify_reports_a_first_id_above_1_behind_empty_coverage(tmp_path: Path) -> None:
    market, begin_ns = every(60, 50), START_NS + 179 * SECOND_NS
    with serve(market) as exchange:
        Backfill(exchange.url, tmp_path).only(market.altname, Range(begin_ns, END_OF_TIME))
    with open_writer(TradeStore(tmp_path), market.altname) as pair_writer:
        pair_writer.record_requested(Range(0, begin_ns))
        footer = Footer(Range(0, begin_ns), '{"altname":"XBTUSD"}')
        pair_writer.commit(footer.range, NO_ROWS, footer)
    [fault] = verify(TradeStore(tmp_path), market.altname).faults
    assert fault.text == "its first trade id is 4, not 1, and no confirmed id gap explains it"


def claim_from_the_beginning(file: Path) -> None:
    """Have a segment say that it contains every trade from 0 on."""
    import pyarrow.parquet as pq

    from harvester.storage.parquet_files import WRITER_OPTIONS

    table = pq.ParquetFile(file).read()
    footer_metadata = pq.read_metadata(file).metadata
    footer = {key: text for key, text in footer_metadata.items() if key.startswith(b"harvester.")}
    through = file.stem.partition("-")[2]
    footer[b"harvester.range"] = f"{0:019d}-{through}".encode()
    wide = file.with_name(f"{0:019d}-{through}.parquet")
    pq.write_table(table.replace_schema_metadata(footer), wide, **WRITER_OPTIONS)
    file.unlink()


def test_trades_behind_empty_coverage_must_begin_with_id_1(tmp_path: Path) -> None:
    """An outage was once taken for an empty history: the first id shows it, the gap is filled."""
    market = every(60, 50)
    covered = Range(0, START_NS + 601 * SECOND_NS)
    with open_writer(TradeStore(tmp_path), market.altname) as pair_writer:
        pair_writer.record_requested(covered)
        pair_writer.commit(
            covered, NO_ROWS, Footer(covered, '{"altname":"XBTUSD","key":"XXBTZUSD"}')
        )
    with serve(market) as exchange:
        outcome = Backfill(exchange.url, tmp_path).only(market.altname)
    assert (outcome.exit_status, rows_on_disk(tmp_path, market.altname)) == (0, expected(market))


def test_a_loss_that_can_not_be_filled_stays_a_gap_and_on_record(tmp_path: Path) -> None:
    """The exchange shows the trades once and then never again."""
    market = every(60, 2_000)
    lost = range(1_000, 1_010)
    clock = Clock(START_NS + (60 * 1_009 + 1) * SECOND_NS)
    hidden = dict.fromkeys(lost, 1_000)
    options = {"refresh.settle_s": 0}
    with serve(market, clock=clock, faults=Faults(hide={market.altname: hidden})) as exchange:
        Backfill(exchange.url, tmp_path, options).only(market.altname)
        clock.advance(60 * 500)
        # Behind covered time the ids skip; asked again, the exchange shows what it withheld ...
        exchange.faults = Faults(script=[None, None, None, *["denied"] * 5])
        later = Range(START_NS + 60 * 1_008 * SECOND_NS, END_OF_TIME)
        first = Backfill(exchange.url, tmp_path, options).only(market.altname, later)
        assert first.exit_status in {3, 4}
        [gap] = TradeStore(tmp_path).gaps(market.altname)[:1]
        assert first.gaps[0] == gap
        assert gap.after < START_NS + 60 * 1_001 * SECOND_NS < gap.through
        report = verify(TradeStore(tmp_path), market.altname)
        assert [fault.text for fault in report.faults][:1] == [
            "missing: requested, but no file has it"
        ]
        # ... and the next run fills it.
        exchange.faults = Faults()
        last = Backfill(exchange.url, tmp_path, options).only(market.altname)
    assert (last.exit_status, rows_on_disk(tmp_path, market.altname)) == (
        0,
        [row for row in expected(market) if row[1] <= clock.now_ns],
    )


def test_no_more_than_two_calls_more_for_a_new_pair(tmp_path: Path) -> None:
    market = every(5, 2_500)
    counts = []
    for span in (ALL, Range(START_NS + 2_002 * SECOND_NS, END_OF_TIME)):
        folder = tmp_path / str(span.after)
        with serve(market) as exchange:
            Backfill(exchange.url, folder).only(market.altname, span)
            counts.append(exchange.pages(market.altname))
    # Three pages and three, with the look behind the last trade and at the newest page.
    assert counts[0] == 5
    assert counts[1] <= 7


def test_a_trade_withheld_far_behind_the_last_id_is_reported_and_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows without ids behind it are many: they are stored before the next id shows a loss."""
    set_page_rows(8, monkeypatch)
    monkeypatch.setattr(completeness, "MAX_KEPT_BACK", 10)
    market = sample_trades.market(
        [
            replace(trade, trade_id=None) if 10 <= place < 40 else trade
            for place, trade in enumerate(every(5, 60).trades)
        ]
    )
    faults = Faults(hide={market.altname: {20: 1}})
    with serve(market, faults=faults, page_size=8) as exchange:
        outcome = Backfill(exchange.url, tmp_path).only(market.altname)
        assert outcome.exit_status == 4
        assert str(outcome.error).endswith(
            f"`harvester verify {market.altname} --repair` downloads them"
        )
        settings = {"exchange.url": exchange.url, "exchange.rate": 0}
        with harvester.open(tmp_path, settings=settings) as archive:
            archive.verify(market.altname, repair=True)
    assert rows_on_disk(tmp_path, market.altname) == expected(market)
