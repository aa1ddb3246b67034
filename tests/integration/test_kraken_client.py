"""The client over real sockets: patient where waiting helps, plain where it does not."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from decimal import Decimal

import pytest
import sample_trades
from client_runs import GOOD, MARKET, PAIR, ClientLog, Odd, newest, run, settings
from kraken_faults import REFUSALS, Faults
from kraken_market import Clock, Market, expected
from kraken_server import Exchange
from kraken_socket import Reply

from harvester import config
from harvester.errors import (
    BadSetting,
    ExchangeRefused,
    ExchangeUnreachable,
    HarvesterError,
    UnreadableAnswer,
)
from harvester.kraken import client as module
from harvester.kraken.client import Client
from harvester.kraken.pairs import Pair
from harvester.kraken.rate_limit import PaceState

PLAINLY_NAMED = sample_trades.market(sample_trades.xbtusd_like(60, 3), key="XBTUSD")


@pytest.fixture(autouse=True)
def _straight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback is reached directly, and jitter comes from a seed."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    random.seed(5)


def faulty(script: Iterable[str | None], **more: float) -> Exchange:
    """An exchange whose Trades calls go wrong by script."""
    return Exchange([MARKET], faults=Faults(script=script, **more))  # type: ignore[arg-type]


# Good answers.


def test_a_page_holds_the_rows_of_the_exchange_to_the_last_digit() -> None:
    with Exchange([MARKET]) as exchange:
        page = run(exchange.url, lambda client: client.page(PAIR, 0))
    got = [
        (r["trade_id"], t.value, r["price"], r["volume"], r["side"], r["order_type"], r["misc"])
        for r, t in zip(page.rows.to_pylist(), page.rows.column("time"), strict=True)
    ]
    assert got == [row[:2] + row[3:] for row in expected(MARKET)]


def test_since_is_sent_as_whole_nanoseconds_and_the_key_as_pair() -> None:
    with Exchange([MARKET]) as exchange:
        run(exchange.url, lambda client: client.page(PAIR, 1_705_792_331_777_820_801))
    assert [call.params for call in exchange.calls] == [
        {"pair": "XXBTZUSD", "since": "1705792331777820801"}
    ]


def test_the_newest_page_is_requested_without_since() -> None:
    with Exchange([MARKET]) as exchange:
        run(exchange.url, newest)
    assert [call.params for call in exchange.calls] == [{"pair": "XXBTZUSD"}]


def test_a_pair_without_a_key_is_requested_by_its_altname() -> None:
    with Exchange([PLAINLY_NAMED]) as exchange:
        run(exchange.url, lambda client: client.page(Pair(altname="XBTUSD"), None))
    assert [call.params for call in exchange.calls] == [{"pair": "XBTUSD"}]


def test_a_tokenized_stock_is_requested_with_its_class() -> None:
    pair = Pair(altname="XBTUSD", aclass_base="tokenized_asset")
    with Exchange([replace(PLAINLY_NAMED, aclass_base="tokenized_asset")]) as exchange:
        run(exchange.url, lambda client: client.page(pair, None))
    assert exchange.calls[0].params == {"pair": "XBTUSD", "asset_class": "tokenized_asset"}


def test_every_request_has_the_configured_user_agent() -> None:
    with Odd() as exchange:
        run(exchange.url, newest, user_agent="mine/2.0")
    assert exchange.agents == ["mine/2.0"]


def test_bodies_come_gzipped(monkeypatch: pytest.MonkeyPatch) -> None:
    zipped: list[bytes] = []
    with Exchange([MARKET]) as exchange:
        pack = exchange.zipped

        def spy(body: bytes) -> bytes:
            zipped.append(body)
            return pack(body)

        monkeypatch.setattr(exchange, "zipped", spy)
        assert run(exchange.url, newest) == 60
    assert len(zipped) == 1


def test_requests_share_one_connection() -> None:
    async def thrice(client: Client) -> None:
        for _ in range(3):
            await client.page(PAIR, 0)

    with Exchange([MARKET]) as exchange:
        run(exchange.url, thrice)
        assert exchange.connections == 1


def test_the_markets_are_read_by_altname() -> None:
    with Exchange([MARKET]) as exchange:
        pairs = run(exchange.url, lambda client: client.pairs())
    assert [(name, pair.key, pair.wsname) for name, pair in pairs.items()] == [
        ("XBTUSD", "XXBTZUSD", "XBT/USD")
    ]


def test_the_clock_is_whole_seconds_in_nanoseconds() -> None:
    with Exchange([MARKET], clock=Clock(1_700_000_000_999_999_999)) as exchange:
        assert run(exchange.url, lambda client: client.clock_ns()) == 1_700_000_000_000_000_000


def test_weekly_counts_add_up_to_all_trades() -> None:
    market = sample_trades.market(sample_trades.sparse(40))
    with Exchange([market], clock=Clock(sample_trades.utc_ns(2024, 6, 1))) as exchange:
        weeks = run(exchange.url, lambda client: client.weekly_counts(PAIR))
    assert sum(count for _, count in weeks) == 40
    assert {opens % (7 * 86_400 * 10**9) for opens, _ in weeks} == {0}


def test_candles_are_the_closed_ones_and_the_running_one() -> None:
    trades = MARKET.trades
    with Exchange([MARKET], clock=Clock(trades[-1].true_ns)) as exchange:
        candles = run(exchange.url, lambda client: client.candles(PAIR, 21600))
        assert exchange.calls[-1].params == {"pair": "XXBTZUSD", "interval": "21600"}
    assert [(candle.count, candle.open, candle.close) for candle in candles] == [
        (60, Decimal(trades[0].price), Decimal(trades[-1].price))
    ]


def test_candles_are_retried_as_pages_are() -> None:
    log = ClientLog()
    with Exchange([MARKET], faults=Faults(elsewhere={"OHLC": ["busy"]})) as exchange:
        candles = run(exchange.url, lambda client: client.candles(PAIR, 21600), log)
    assert (log.waits, sum(candle.count for candle in candles)) == (
        [("XBTUSD", "EService:Busy")],
        60,
    )


@pytest.mark.parametrize("call", ["candles", "weekly_counts"])
def test_candles_of_a_tokenized_stock_are_requested_with_its_class(call: str) -> None:
    stock = Pair(altname="XBTUSD", key="XXBTZUSD", aclass_base="tokenized_asset")
    asks: dict[str, Callable[[Client], Awaitable[object]]] = {
        "candles": lambda client: client.candles(stock, 10080),
        "weekly_counts": lambda client: client.weekly_counts(stock),
    }
    with Exchange([replace(MARKET, aclass_base="tokenized_asset")]) as exchange:
        run(exchange.url, asks[call])
        assert exchange.calls[-1].params["asset_class"] == "tokenized_asset"


# What is waited out: exactly what the exchange calls passing, and what the wire does.

WAITED_OUT = {
    "rate_limit": REFUSALS["rate_limit"],
    "too_many": REFUSALS["too_many"],
    "unavailable": REFUSALS["unavailable"],
    "busy": REFUSALS["busy"],
    "deadline": REFUSALS["deadline"],
    "internal": REFUSALS["internal"],
    "http:429": "HTTP 429",
    "http:500": "HTTP 500",
    "http:502": "HTTP 502",
    "http:503": "HTTP 503",
    "http:504": "HTTP 504",
    "http:520": "HTTP 520",
    "http:522": "HTTP 522",
    "http:527": "HTTP 527",
    "close": "no complete HTTP answer: Server disconnected without sending a response.",
    "not_json": (
        "the body is not an answer of the API (JSON is malformed: invalid character (byte 0))"
    ),
    "bad_json": "the body is not a complete answer (Input data was truncated)",
    "big:34000000": "the body has more than 32 MB",
}


@pytest.mark.parametrize(("fault", "reason"), WAITED_OUT.items())
def test_a_passing_fault_is_waited_out_with_the_same_request(fault: str, reason: str) -> None:
    log = ClientLog()
    with faulty([fault, fault]) as exchange:
        page = run(exchange.url, lambda client: client.page(PAIR, 5), log)
    assert page.rows.num_rows == 60
    assert log.waits == [("XBTUSD", reason)] * 2
    assert [call.params for call in exchange.calls] == [{"pair": "XXBTZUSD", "since": "5"}] * 3


@pytest.mark.parametrize("fault", ["cut", "reset", "drop_after"])
def test_a_broken_connection_is_waited_out(fault: str) -> None:
    with faulty([fault, None, fault]) as exchange:
        assert [run(exchange.url, newest) for _ in range(2)] == [60, 60]


def test_a_body_of_spoilt_bytes_is_waited_out() -> None:
    log = ClientLog()
    with Odd(GOOD.replace(b"XXBTZUSD", b"XXBTZ\xffSD")) as exchange:
        assert run(exchange.url, newest, log) == 60
    assert log.waits == [
        (
            "XBTUSD",
            "the body is not a complete answer ('utf-8' codec can't decode byte 0xff in position "
            "28: invalid start byte)",
        )
    ]


@pytest.mark.parametrize("place", ["x", "result"])
@pytest.mark.parametrize("depth", [5, 100_000])
def test_a_body_that_is_nested_without_end_is_waited_out(place: str, depth: int) -> None:
    log, nested = ClientLog(), f'{{"error":[],"{place}":{{"XXBTZUSD":{"[" * depth}'.encode()
    with Odd(nested) as exchange:
        assert run(exchange.url, newest, log) == 60
    [(_, reason)] = log.waits
    # Python 3.14 has room for the depth, and finds that the end is missing.
    assert re.search(r"^the body is not .*\((maximum recursion depth|Input data was trunc)", reason)


def test_a_body_with_a_wrong_gzip_header_is_retried() -> None:
    log = ClientLog()
    with Odd(Reply(GOOD, headers="Content-Encoding: gzip\r\n")) as exchange:
        assert run(exchange.url, newest, log) == 60
    assert log.waits == [
        (
            "XBTUSD",
            "the body can't be decompressed: "
            "Error -3 while decompressing data: incorrect header check",
        ),
    ]


@pytest.mark.parametrize("fault", ["hang:20", "dribble:20"])
def test_silence_and_dribble_end_within_the_time_limit(fault: str) -> None:
    log = ClientLog()
    began = time.monotonic()
    with faulty([fault]) as exchange:
        assert run(exchange.url, newest, log, timeout_s=0.5) == 60
    assert log.waits == [("XBTUSD", "no answer within 0.5 s")]
    assert 0.5 <= time.monotonic() - began < 3


def test_nobody_at_the_address_is_waited_for() -> None:
    with Exchange([MARKET]) as exchange:
        exchange.stop()
        log = ClientLog()
        with pytest.raises(ExchangeUnreachable) as caught:
            run(exchange.url, newest, log, give_up_s=0.1)
    assert str(caught.value) == (
        f"XBTUSD: {exchange.url} gave no good answer for 0.1 s (at last: no connection: "
        "Connection refused); nothing that is stored is lost, run the same command again"
    )
    assert set(log.waits) <= {("XBTUSD", "no connection: Connection refused")}


def test_a_throttling_error_is_waited_out_until_the_time_in_it() -> None:
    log = ClientLog()
    with faulty(["throttled:2"]) as exchange:
        assert run(exchange.url, newest, log) == 60
    ((_, reason),) = log.waits
    assert reason.startswith("EService: Throttled: ")
    # The loop's clock may wake it some microseconds early.
    assert time.time() >= int(reason.rpartition(" ")[2]) - 0.01


def test_a_throttling_error_with_a_past_time_still_waits() -> None:
    throttled = json.dumps({"error": ["EService: Throttled: 1600000000"]}).encode()
    began = time.monotonic()
    with Odd(throttled) as exchange:
        run(exchange.url, lambda client: client.pairs(), retry_wait_s=0.2)
    assert time.monotonic() - began >= 0.2


def test_waits_grow() -> None:
    began = time.monotonic()
    with faulty(["busy"] * 5) as exchange:
        run(exchange.url, newest, retry_wait_s=0.02)
    assert exchange.calls[-1].at_s - began >= 0.02 + 0.04 + 0.08 + 0.16 + 0.32 - 0.001


@pytest.mark.parametrize("fault", ["rate_limit", "too_many", "http:429"])
def test_a_refusal_is_counted_and_slows_the_pair_down(fault: str) -> None:
    log = ClientLog()

    async def ask(client: Client) -> bool:
        await client.page(PAIR, None)
        return client.pace(PAIR).is_slowed

    with faulty([fault]) as exchange:
        assert run(exchange.url, ask, log, rate=50)
    assert log.client is not None
    assert (log.client.refusals, log.client.calls) == (1, 2)


def test_a_throttle_lowers_the_calls_in_flight_and_no_rate() -> None:
    other = sample_trades.market(
        sample_trades.xbtusd_like(9, 4), altname="ETHUSD", key="XETHZUSD", wsname=""
    )

    async def both(client: Client) -> list[PaceState]:
        pairs = (PAIR, Pair(altname="ETHUSD", key="XETHZUSD"))
        await asyncio.gather(*(client.page(pair, None) for pair in pairs))
        return [client.pace(pair) for pair in pairs]

    faults = Faults(script={"XBTUSD": ["throttled:2"]})
    with Exchange([MARKET, other], faults=faults) as exchange:
        states = run(exchange.url, both, rate=50)
    assert [(state.rate, state.refusals) for state in states] == [(50, 1), (50, 0)]
    # Two might be and were, so one may be; each answer that is good then brings a part back.
    assert [state.most_in_flight for state in states] == [2, 2]


@pytest.mark.parametrize(
    "entry",
    [
        "EDatabase:Internal error",
        "EGeneral:No data",
        "EService:Market in cancel_only mode",
        "EFuture:Of a kind that nobody knows",
    ],
)
def test_a_transient_error_on_the_second_page_is_retried(entry: str) -> None:
    async def twice(client: Client) -> int:
        return await newest(client) + await newest(client)

    log = ClientLog()
    with Odd(GOOD, json.dumps({"error": [entry]}).encode()) as exchange:
        assert run(exchange.url, twice, log) == 60
    assert log.waits == [("XBTUSD", entry)]


def test_a_refused_call_holds_the_other_calls_of_its_pair_back() -> None:
    async def both(client: Client) -> None:
        await asyncio.gather(client.page(PAIR, None), client.page(PAIR, 5))

    with faulty(["rate_limit"]) as exchange:
        run(exchange.url, both, rate=20, retry_wait_s=0.3)
    refused, *later = [call.at_s for call in exchange.calls]
    assert len(later) == 2
    assert all(at - refused >= 0.3 - 0.01 for at in later)


def test_weekly_counts_take_their_turn_among_the_pages() -> None:
    async def ask(client: Client) -> None:
        await client.weekly_counts(PAIR)
        await client.page(PAIR, None)

    with Exchange([MARKET]) as exchange:
        run(exchange.url, ask, rate=5)
    first, second = [call.at_s for call in exchange.calls]
    # The first comes later by what its connection takes.
    assert second - first >= 1 / 5 - 0.1


def test_the_pace_of_a_pair_is_reported() -> None:
    log: list[PaceState] = []

    async def session(url: str) -> PaceState:
        async with Client(settings(url, rate=20), on_pace=log.append) as client:
            await client.page(PAIR, None)
            return client.pace(PAIR)

    with faulty(["rate_limit"]) as exchange:
        state = asyncio.run(session(exchange.url))
    assert state == PaceState("XBTUSD", state.rate, 20, 2, 1, "", 0, 2)
    assert [pace_state.waiting for pace_state in log] == ["EAPI:Rate limit exceeded"]
    assert [pace_state.rate for pace_state in [*log, state]] == pytest.approx([10] * 2, rel=0.01)


def test_daily_counts_are_by_market_and_odd_rows_are_left_out() -> None:
    rows = b'"XXBTZUSD":{"a":["1"],"t":[3,17]},"NEW":{},"ODD":{"t":["x",1]},"FOO":{"t":[0,2]}'
    with Odd(b'{"error":[],"result":{%b}}' % rows) as exchange:
        counts = run(exchange.url, lambda client: client.daily_trade_counts())
    assert counts == {"XXBTZUSD": 17, "FOO": 2}


def test_daily_counts_are_not_retried() -> None:
    with Exchange([MARKET], faults=Faults(elsewhere={"Ticker": ["busy"]})) as exchange:
        with pytest.raises(ExchangeUnreachable) as caught:
            run(exchange.url, lambda client: client.daily_trade_counts())
        assert len(exchange.calls) == 1
    assert str(caught.value) == "no trade counts: EService:Busy"


def test_no_more_calls_are_in_flight_than_places() -> None:
    names = [f"C{number}USD" for number in range(5)]
    markets = [
        sample_trades.market(sample_trades.xbtusd_like(9, 4), altname=n, key=n, wsname="")
        for n in names
    ]

    async def all_of_them(client: Client) -> int:
        asked = [client.page(Pair(altname=name), None) for name in names]
        tasks = [asyncio.create_task(call) for call in asked]
        most = 0
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
            most = max(most, sum(client.pace(Pair(altname=n)).in_flight for n in names))
        return most

    with Exchange(markets, latency_s=0.02) as exchange:
        assert run(exchange.url, all_of_them, jobs=2) == 2
        assert exchange.pages() == 5


def test_a_fault_that_is_no_refusal_does_not_slow_the_pair_down() -> None:
    async def ask(client: Client) -> tuple[bool, int]:
        await client.page(PAIR, None)
        return client.pace(PAIR).is_slowed, client.refusals

    with faulty(["busy"]) as exchange:
        assert run(exchange.url, ask, rate=50) == (False, 0)


def test_pages_keep_to_the_set_rate() -> None:
    async def four(client: Client) -> None:
        for _ in range(4):
            await client.page(PAIR, None)

    began = time.monotonic()
    with Exchange([MARKET]) as exchange:
        run(exchange.url, four, rate=20)
    assert exchange.calls[-1].at_s - began >= 3 / 20 - 0.001


def test_the_markets_and_the_clock_are_retried() -> None:
    faults = Faults(elsewhere={"AssetPairs": ["busy"], "Time": ["http:502"]})
    log = ClientLog()

    async def both(client: Client) -> None:
        await client.pairs()
        await client.clock_ns()

    with Exchange([MARKET], faults=faults) as exchange:
        run(exchange.url, both, log)
    assert log.waits == [("AssetPairs", "EService:Busy"), ("Time", "HTTP 502")]


# How long.


def test_the_error_after_the_last_retry_has_the_last_reason() -> None:
    async def twice(client: Client) -> None:
        await client.page(PAIR, None)
        await client.page(PAIR, None)

    with (
        faulty([None, *["busy"] * 500]) as exchange,
        pytest.raises(ExchangeUnreachable) as caught,
    ):
        run(exchange.url, twice, give_up_s=0.15)
    assert str(caught.value) == (
        f"XBTUSD: {exchange.url} gave no good answer for 0.15 s (at last: EService:Busy); "
        "nothing that is stored is lost, run the same command again"
    )


def test_patience_is_shorter_while_there_never_was_a_good_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "NEVER_ANSWERED_GIVE_UP_S", 0.1)
    with (
        faulty(["busy"] * 500) as exchange,
        pytest.raises(ExchangeUnreachable) as caught,
    ):
        run(exchange.url, newest, give_up_s=600)
    assert str(caught.value) == (
        f"XBTUSD: {exchange.url} gave no good answer for 0.1 s (at last: EService:Busy); "
        "nothing that is stored is lost, run the same command again"
    )


def test_one_good_answer_makes_it_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NEVER_ANSWERED_GIVE_UP_S", 0.05)

    async def twice(client: Client) -> int:
        await client.clock_ns()
        return await newest(client)

    with faulty(["busy"] * 5) as exchange:
        assert run(exchange.url, twice, give_up_s=600, retry_wait_s=0.02) == 60


def test_a_good_answer_of_another_pair_makes_a_call_under_way_patient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "NEVER_ANSWERED_GIVE_UP_S", 0.05)
    other = sample_trades.market(
        sample_trades.xbtusd_like(9, 4), altname="ETHUSD", key="XETHZUSD", wsname=""
    )

    async def both(client: Client) -> list[int]:
        pages = (client.page(pair, None) for pair in (PAIR, Pair(altname="ETHUSD", key="XETHZUSD")))
        return [page.rows.num_rows for page in await asyncio.gather(*pages)]

    faults = Faults(script={"ETHUSD": ["busy"] * 5})
    with Exchange([MARKET, other], faults=faults) as exchange:
        assert run(exchange.url, both, give_up_s=600, retry_wait_s=0.02) == [60, 9]


def test_fifteen_seconds_are_allowed_to_an_exchange_that_never_answered() -> None:
    assert module.NEVER_ANSWERED_GIVE_UP_S == 15


def test_a_shorter_patience_is_kept_though_there_never_was_an_answer() -> None:
    began = time.monotonic()
    with faulty(["busy"] * 500) as exchange, pytest.raises(ExchangeUnreachable):
        run(exchange.url, newest, give_up_s=0.1)
    assert time.monotonic() - began < 5


def test_waiting_can_be_cancelled() -> None:
    async def cancelled(client: Client) -> None:
        async with asyncio.timeout(0.1):
            await client.page(PAIR, None)

    with faulty(["hang:20"]) as exchange, pytest.raises(TimeoutError):
        run(exchange.url, cancelled)


# What is stopped at.

STOPPED_AT = {
    "unknown_pair": "XBTUSD: the exchange refused: EQuery:Unknown asset pair",
    "invalid": "XBTUSD: the exchange refused: EGeneral:Invalid arguments",
    "denied": "XBTUSD: the exchange refused: EGeneral:Permission denied",
    "lockout": "XBTUSD: the exchange refused: EGeneral:Temporary lockout",
    "http:403": (
        "{url}/0/public/Trades answered HTTP 403: its browser check refused the request; "
        "set [exchange] user_agent to a name of your own"
    ),
    "http:404": (
        '{url}/0/public/Trades answered HTTP 404: \'<!DOCTYPE html>\\n<html lang="en-US">'
        "<head><title>api.kraken.com | 404: Not Found<'; is [exchange] url right?"
    ),
}


@pytest.mark.parametrize(("fault", "message"), STOPPED_AT.items())
def test_a_lasting_error_is_not_retried(fault: str, message: str) -> None:
    log = ClientLog()
    with faulty([fault]) as exchange, pytest.raises(ExchangeRefused) as caught:
        run(exchange.url, newest, log)
    assert str(caught.value) == message.replace("{url}", exchange.url)
    assert (log.waits, len(exchange.calls)) == ([], 1)


def test_a_refused_user_agent_is_an_error_that_names_the_setting() -> None:
    with Exchange([MARKET]) as exchange, pytest.raises(ExchangeRefused) as caught:
        run(exchange.url, newest, user_agent="python-httpx/0.28")
    assert str(caught.value) == STOPPED_AT["http:403"].replace("{url}", exchange.url)


def test_a_row_that_cannot_be_read_stops_at_once() -> None:
    body = b'{"error":[],"result":{"XXBTZUSD":[["x","1",1700000000,"b","m",""]],"last":"5"}}'
    with Odd(body) as exchange, pytest.raises(UnreadableAnswer) as caught:
        run(exchange.url, newest)
    assert str(caught.value) == (
        'the exchange sent a trade that can\'t be read: ["x","1",1700000000,"b","m","",null] '
        "('x' is not a number); nothing of this page was stored"
    )
    assert len(exchange.agents) == 1


def test_a_warning_is_logged_and_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    with (
        faulty(["warning"]) as exchange,
        caplog.at_level(logging.WARNING, logger="harvester.kraken"),
    ):
        assert run(exchange.url, newest) == 60
    assert caplog.messages == ["XBTUSD: the exchange warns: WSomething: odd"]


def test_an_unknown_column_is_warned_of_once_a_run(caplog: pytest.LogCaptureFixture) -> None:
    row = b'["1.5","2.5",1700000000.5,"b","m","",%d,"new"]'
    body = b'{"error":[],"result":{"XXBTZUSD":[%b,%b],"last":"5"}}' % (row % 1, row % 2)

    async def thrice(client: Client) -> list[int]:
        return [await newest(client) for _ in range(3)]

    with Odd(body, body, body) as exchange:
        assert run(exchange.url, thrice) == [2, 2, 2]
    assert caplog.messages == [
        "XBTUSD: the exchange sends a column of trades that this version does not know, such as "
        '"new": it is not kept; all others are'
    ]


def test_weekly_counts_are_not_retried() -> None:
    with Exchange([MARKET], faults=Faults(elsewhere={"OHLC": ["busy"]})) as exchange:
        with pytest.raises(ExchangeUnreachable) as caught:
            run(exchange.url, lambda client: client.weekly_counts(PAIR))
        assert len(exchange.calls) == 1
    assert str(caught.value) == "no weekly counts: EService:Busy"


@pytest.mark.parametrize(
    "result",
    [b"{}", b'{"A":5}', b'{"A":[[1]]}', b'{"A":[["x",1,1,1,1,1,1,1]]}', b'{"A":[[1,{}]]}'],
)
def test_candles_of_another_shape_are_no_estimate(result: bytes) -> None:
    with Odd(b'{"error":[],"result":%b}' % result) as exchange, pytest.raises(ExchangeUnreachable):
        run(exchange.url, lambda client: client.weekly_counts(PAIR))


@pytest.mark.parametrize("digits", [65, 5_000_000])
def test_a_candle_of_many_digits_is_shown_short(digits: int) -> None:
    row = b'[0,"%b","1","1","1","1","1",1]' % (b"1" * digits)
    with (
        Odd(b'{"error":[],"result":{"XXBTZUSD":[%b],"last":0}}' % row) as exchange,
        pytest.raises(UnreadableAnswer) as caught,
    ):
        run(exchange.url, lambda client: client.candles(PAIR, 10080))
    assert "(one of its numbers has too many digits)" in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("result", [b"{}", b'{"unixtime":"x"}', b'{"unixtime":1.5}'])
def test_an_unreadable_clock_is_retried(result: bytes) -> None:
    with Odd(b'{"error":[],"result":%b}' % result) as exchange:
        assert run(exchange.url, lambda client: client.clock_ns()) > 0
    assert len(exchange.agents) == 2


# Settings that cannot work are an error at once, without a retry.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"ca_file": "/nowhere/ca.pem"},
            "[exchange] ca_file '/nowhere/ca.pem' can't be used: "
            "[Errno 2] No such file or directory",
        ),
    ],
)
def test_a_missing_certificate_file_is_an_error(changes: dict[str, str], message: str) -> None:
    with pytest.raises(BadSetting) as caught:
        Client(settings("https://api.kraken.com", **changes))
    assert str(caught.value) == message


@pytest.mark.parametrize("host", ["api..kraken.com", "a" * 64 + ".com"])
def test_an_address_with_an_invalid_host_is_an_error(host: str) -> None:
    with pytest.raises(BadSetting) as caught:
        config.load({"exchange.url": f"https://{host}"}, environment={})
    assert f"'https://{host}': it must be an http:// or https:// address: " in str(caught.value)


def test_every_network_error_becomes_an_error_of_harvester() -> None:
    kinds = ["cut", "reset", "close", "hang:9", "dribble:9", "bad_json", "not_json", "http:520"]
    with faulty(kinds * 3) as exchange, pytest.raises(HarvesterError):
        run(exchange.url, newest, timeout_s=0.05, give_up_s=0.2)


def test_the_market_of_these_tests_fits_a_page() -> None:
    assert isinstance(MARKET, Market)
    assert len(MARKET.trades) == 60


# Answers about another market.

OTHER_PAGE = GOOD.replace(b"XXBTZUSD", b"XETHZUSD")
OTHER_ROWS = (
    b'{"error":[],"result":{"XETHZUSD":[["1.0","2.00000000",1700000000.5,"b","m","",7]],'
    b'"last":"1700000000500000000"}}'
)
OTHER_CANDLES = (
    b'{"error":[],"result":{"XETHZUSD":[[1699056000,"1","1","1","1","1","1",1]],"last":1}}'
)


@pytest.mark.parametrize("body", [OTHER_PAGE, OTHER_ROWS])
def test_a_page_of_another_market_is_retried(body: bytes) -> None:
    log = ClientLog()
    with Odd(body, body) as exchange:
        assert run(exchange.url, newest, log) == 60
    why = "the answer is about the market 'XETHZUSD', but XXBTZUSD was requested"
    assert log.waits == [("XBTUSD", why)] * 2


def test_candles_of_another_market_are_retried() -> None:
    log = ClientLog()
    with Odd(OTHER_CANDLES) as exchange:
        candles = run(exchange.url, lambda client: client.candles(PAIR, 21600), log)
    assert sum(candle.count for candle in candles) == 60
    assert [what for what, _ in log.waits] == ["XBTUSD"]


def test_weekly_counts_of_another_market_count_nothing() -> None:
    weekly = OTHER_CANDLES.replace(b"1699056000", b"1699488000")
    with Odd(weekly) as exchange, pytest.raises(ExchangeUnreachable, match="'XETHZUSD'"):
        run(exchange.url, lambda client: client.weekly_counts(PAIR))


def test_an_exchange_that_keeps_answering_about_another_market_ends_with_status_3() -> None:
    with Odd(*[OTHER_PAGE] * 1000) as exchange, pytest.raises(ExchangeUnreachable) as caught:
        run(exchange.url, newest, give_up_s=0.05)
    assert caught.value.exit_status == 3
    assert "(at last: the answer is about the market 'XETHZUSD', but" in str(caught.value)


@pytest.mark.parametrize("name", ["XBTUSD", "XXBTZUSD", "XBT/USD"])
def test_an_answer_may_name_the_market_in_any_spelling_of_the_exchange(name: str) -> None:
    pair = Pair(altname="XBTUSD", key="XXBTZUSD", wsname="XBT/USD")
    log = ClientLog()
    with Odd(OTHER_ROWS.replace(b"XETHZUSD", name.encode())) as exchange:
        page = run(exchange.url, lambda client: client.page(pair, 0), log)
    assert (page.rows.num_rows, log.waits) == (1, [])


def test_names_that_differ_by_case_are_two_markets_in_answers() -> None:
    pair = Pair(altname="AAPLxUSD", key="AAPLxUSD")
    bodies = [OTHER_ROWS.replace(b"XETHZUSD", name) for name in (b"AAPLXUSD", b"AAPLxUSD")]
    log = ClientLog()
    with Odd(*bodies) as exchange:
        assert run(exchange.url, lambda client: client.page(pair, 0), log).rows.num_rows == 1
    assert len(log.waits) == 1
