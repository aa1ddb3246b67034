"""The test exchange behaves as the exchange does: all tests that use it depend on this."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import candle_oracle
import kraken_server
import pytest
import sample_trades
from hypothesis import given, settings
from kraken_faults import KINDS, REFUSALS, Bucket, Fault, Faults
from kraken_market import SECOND_NS, Clock, Market, Trade, expected, literal_ns, time_literal
from kraken_server import Exchange, Shelf, ohlc_rows

AGENT = {"User-Agent": "tests/1.0"}
CAPTURES = Path(__file__).parents[2] / "shared" / "kraken"


class Client:
    """A keep-alive connection that returns all answers."""

    def __init__(self, exchange: Exchange, headers: dict[str, str] | None = None) -> None:
        parts = urlsplit(exchange.url)
        self.wire = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5)
        self.headers = AGENT if headers is None else headers

    def raw(self, endpoint: str, **params: object) -> tuple[int, bytes]:
        """Give status and body."""
        path = f"/0/public/{endpoint}"
        self.wire.request("GET", f"{path}?{urlencode(params)}", headers=self.headers)
        with self.wire.getresponse() as response:
            return response.status, response.read()

    def get(self, endpoint: str, **params: object) -> dict[str, Any]:
        """Give the JSON of an answer."""
        status, body = self.raw(endpoint, **params)
        assert status == 200
        answer: dict[str, Any] = json.loads(body)
        return answer

    def page(self, **params: object) -> tuple[list[list[Any]], str | None]:
        """Give rows and cursor of a Trades page of XBTUSD."""
        result = self.get("Trades", pair="XBTUSD", **params)["result"]
        return result["XXBTZUSD"], result.get("last")

    def ids(self, **params: object) -> list[int]:
        """Give the trade ids of a page."""
        return [row[6] for row in self.page(**params)[0]]

    def close(self) -> None:
        """Hang up."""
        self.wire.close()


def ask(exchange: Exchange, endpoint: str = "Trades", /, **params: object) -> dict[str, Any]:
    """Ask once, on a connection of its own."""
    with closing(Client(exchange)) as client:
        return client.get(endpoint, **params)


def ids(exchange: Exchange, **params: object) -> list[int]:
    """Give the trade ids of one page."""
    with closing(Client(exchange)) as client:
        return client.ids(**params)


def spaced(
    n: int, *, step_ns: int = SECOND_NS, first_ns: int = sample_trades.BUSY_NS
) -> list[Trade]:
    """Make trades with ids from 1 at even distances."""
    return [
        Trade(first_ns + i * step_ns, f"{41450 + i % 7}.00000", "0.50000000", "b", "l", "", i + 1)
        for i in range(n)
    ]


def stamp(trade_id: int) -> int:
    """Give the true stamp of a trade of `spaced`."""
    return sample_trades.BUSY_NS + (trade_id - 1) * SECOND_NS


def shop(n: int = 30, faults: Faults | None = None, **options: Any) -> Exchange:
    """Make an exchange of one pair with `spaced` trades and pages of ten."""
    options.setdefault("page_size", 10)
    return Exchange([sample_trades.market(spaced(n))], faults=faults, **options)


# --- Trades --------------------------------------------------------------------------------------


def test_a_body_is_printed_as_kraken_prints_it() -> None:
    """Key, strings, float time, integer id, cursor as a string of nanoseconds."""
    trade = Trade(1762795433971744512, "105433.60000", "0.00027625", "b", "l", "", 10218208)
    with shop(0) as exchange, closing(Client(exchange)) as client:
        exchange.extend("XBTUSD", [trade])
        answer = client.raw("Trades", pair="XBTUSD", since=0)
    body = (
        b'{"error":[],"result":{"XXBTZUSD":[["105433.60000","0.00027625",1762795433.9717445,'
        b'"b","l","",10218208]],"last":"1762795433971744512"}}'
    )
    assert answer == (200, body)


def test_a_row_without_an_id_has_six_elements() -> None:
    """As before late 2022, times of four decimals with it."""
    market = sample_trades.market(
        [Trade(1616889746908000001, "1.5", "2.0", "s", "m", "", None)], decimals=4
    )
    with Exchange([market]) as exchange:
        row = ask(exchange, pair="XBTUSD", since=0)["result"]["XXBTZUSD"][0]
    assert row == ["1.5", "2.0", 1616889746.908, "s", "m", ""]


def test_id_zero_is_printed_as_zero() -> None:
    """Runs of id 0 were reported until June 2024."""
    market = sample_trades.market([Trade(sample_trades.BUSY_NS, "1.5", "2.0", "s", "m", "", 0)])
    with Exchange([market]) as exchange:
        assert ids(exchange, since=0) == [0]
    assert expected(market)[0][0] is None


@pytest.mark.parametrize(("mode", "first"), [("inclusive", 5), ("exclusive", 6)])
def test_since_is_inclusive_or_exclusive_by_true_times(mode: str, first: int) -> None:
    """Both are reported of Kraken, so both are supported."""
    with shop(since_mode=mode) as exchange:
        assert ids(exchange, since=stamp(5)) == list(range(first, first + 10))


def test_since_compares_true_times_and_not_printed_times() -> None:
    """Printed times of stamps 100 ns apart are equal, the stamps are not."""
    trades = spaced(20, step_ns=100)
    with Exchange([sample_trades.market(trades)]) as exchange:
        assert ids(exchange, since=trades[9].true_ns) == list(range(10, 21))
        assert ids(exchange, since=trades[9].true_ns + 1) == list(range(11, 21))


@pytest.mark.parametrize("since", [0, 66432458, 1705792331, 1705792331777820800])
def test_since_may_be_seconds_and_a_small_number_is_1970(since: int) -> None:
    """A trade id given as `since` restarts the whole history."""
    with shop() as exchange:
        assert ids(exchange, since=since) == list(range(1, 11))


def test_fractional_seconds_return_earlier_rows() -> None:
    """Seen on XBTUSD in 2021."""
    trades = spaced(20, step_ns=1_000_000)
    with Exchange([sample_trades.market(trades)]) as exchange:
        assert ids(exchange, since="1705792331.787820800")[0] == 1


def test_without_since_the_newest_page_is_given() -> None:
    """The way to ask where the head is."""
    with shop() as exchange:
        assert ids(exchange) == list(range(21, 31))
        assert ids(exchange, count=3) == [28, 29, 30]


def test_last_is_the_true_time_of_the_last_row() -> None:
    """The printed time has lost it."""
    market = sample_trades.market(sample_trades.xbtusd_like(50))
    with Exchange([market]) as exchange, closing(Client(exchange)) as client:
        _, last = client.page(since=0)
    assert last == str(market.trades[-1].true_ns)


def test_an_empty_page_echoes_since() -> None:
    """Beyond the head of an exclusive exchange."""
    with shop(since_mode="exclusive") as exchange, closing(Client(exchange)) as client:
        assert client.page(since=stamp(30)) == ([], str(stamp(30)))


def test_an_inclusive_head_gives_the_last_row_again() -> None:
    """The same question on an inclusive exchange."""
    with shop() as exchange:
        assert ids(exchange, since=stamp(30)) == [30]


@pytest.mark.parametrize("params", [{"count": 0}, {"count": 1001}, {"since": -1}, {"since": "x"}])
def test_odd_parameters_are_invalid(params: dict[str, object]) -> None:
    """A client that sends them has a fault of its own."""
    with shop() as exchange:
        answer = ask(exchange, pair="XBTUSD", **params)
    assert answer == {"error": ["EGeneral:Invalid arguments"]}


def test_an_unknown_pair_is_an_error_with_status_200_and_no_result() -> None:
    """Kraken's shape of an error."""
    with shop() as exchange:
        assert ask(exchange, pair="NOPE") == {"error": ["EQuery:Unknown asset pair"]}
        exchange.delist("XBTUSD")
        assert ask(exchange, pair="XBTUSD") == {"error": ["EQuery:Unknown asset pair"]}


def test_trades_after_the_clock_are_not_shown_yet() -> None:
    """The clock is the test's to move."""
    clock = Clock(stamp(4))
    with shop(clock=clock) as exchange:
        assert ids(exchange, since=0) == [1, 2, 3, 4]
        clock.advance(2)
        assert ids(exchange, since=0) == [1, 2, 3, 4, 5, 6]


# --- the expected rows ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("true_ns", "decimals", "literal"),
    [
        (1705792331777820800, None, "1705792331.7778208"),
        (1705792331777820955, None, "1705792331.777821"),
        (1705792331000000000, None, "1705792331.0"),
        (1546300799999999999, None, "1546300800.0"),
        (1616889746905849999, 4, "1616889746.9058"),
        (1616889746905850000, 4, "1616889746.9059"),
        (1616889746908000000, 4, "1616889746.908"),
        (1616889746999999999, 4, "1616889747"),
    ],
)
def test_times_are_printed_as_the_nearest_float_or_rounded(
    true_ns: int, decimals: int | None, literal: str
) -> None:
    """Up to seven decimals today, up to four in 2021."""
    assert time_literal(true_ns, decimals) == literal


def test_a_literal_is_read_back_exactly() -> None:
    """By text: a float would not do."""
    assert literal_ns("1705792331.7778208") == 1705792331777820800
    assert literal_ns("1616889747") == 1616889747000000000


def test_expected_trades_count_ties_by_printed_time() -> None:
    """Stamps that differ may print alike."""
    expected_rows = expected(sample_trades.market(spaced(4, step_ns=150)))
    assert [(row[1], row[2]) for row in expected_rows] == [
        (1705792331777820800, 0),
        (1705792331777821000, 0),
        (1705792331777821000, 1),
        (1705792331777821300, 0),
    ]


def test_a_history_out_of_order_is_refused() -> None:
    """The test exchange finds rows by bisection."""
    with pytest.raises(ValueError, match=r"^XBTUSD: trades must ascend by true_ns$"):
        sample_trades.market(reversed(spaced(2)))


def test_rows_may_be_given_with_their_times_verbatim() -> None:
    """Captured pages are shown as they were."""
    body = (
        b'{"error":[],"result":{"ABC":[["2","1",1.50,"b","l",""],["3","1",1.25,"s","m",""]],'
        b'"last":"1"}}'
    )
    market = Market.from_bodies(body)
    with Exchange([market]) as exchange, closing(Client(exchange)) as client:
        assert client.raw("Trades", pair="abc", since=0)[1] == (
            b'{"error":[],"result":{"ABC":[["3","1",1.25,"s","m",""],["2","1",1.50,"b","l",""]],'
            b'"last":"1500000000"}}'
        )
    assert [row[1] for row in expected(market)] == [1_250_000_000, 1_500_000_000]


@settings(max_examples=60, deadline=None)
@given(market=sample_trades.markets())
def test_printed_times_never_run_backwards(market: Market) -> None:
    """Whatever trades are drawn, the exchange's order is the order of its printed times."""
    expected_rows = expected(market)
    assert [row[1:3] for row in expected_rows] == sorted(row[1:3] for row in expected_rows)


@pytest.mark.parametrize("place", [1000, 2000, 3000])
def test_made_pages_end_between_trades_of_one_time(place: int) -> None:
    """The trap that `inside_stamps` is for."""
    trades = sample_trades.inside_stamps(3100)
    assert trades[place - 1].true_ns == trades[place].true_ns


def test_a_year_may_pass_without_a_trade() -> None:
    """The trap that `new_years` is for, and the last nanosecond prints as the next year."""
    expected_rows = expected(sample_trades.market(sample_trades.new_years()))
    years = {datetime.fromtimestamp(row[1] // SECOND_NS, UTC).year for row in expected_rows}
    assert years == {2019, 2020, 2022, 2023, 2024}


# --- the other endpoints -------------------------------------------------------------------------


def test_time_and_status_follow_the_clock() -> None:
    """The exchange's clock is what coverage ends by."""
    with shop(clock=Clock(1762820224 * SECOND_NS)) as exchange:
        exchange.status = "maintenance"
        assert ask(exchange, "Time")["result"] == {
            "unixtime": 1762820224,
            "rfc1123": "Tue, 11 Nov 25 00:17:04 +0000",
        }
        assert ask(exchange, "SystemStatus")["result"] == {
            "status": "maintenance",
            "timestamp": "2025-11-11T00:17:04Z",
        }


def test_ohlc_cuts_vwap_and_fills_what_is_empty() -> None:
    """The three habits of Kraken's candles: truncated vwap, filling, the running candle."""
    minute = 1705792320
    trades = [
        Trade((minute + 1) * SECOND_NS, "10.00000", "1.00000000", "b", "l", "", 1),
        Trade((minute + 2) * SECOND_NS, "10.20000", "2.00000000", "b", "l", "", 2),
        Trade((minute + 125) * SECOND_NS, "9.90000", "0.10000000", "b", "l", "", 3),
    ]
    with Exchange(
        [sample_trades.market(trades)], clock=Clock((minute + 130) * SECOND_NS)
    ) as exchange:
        result = ask(exchange, "OHLC", pair="XBTUSD")["result"]
    assert result == {
        "XXBTZUSD": [
            [minute, "10.0", "10.2", "10.0", "10.2", "10.1", "3.00000000", 2],
            [minute + 60, "10.2", "10.2", "10.2", "10.2", "0.0", "0.00000000", 0],
            [minute + 120, "9.9", "9.9", "9.9", "9.9", "9.9", "0.10000000", 1],
        ],
        "last": minute + 60,
    }


def test_ohlc_gives_no_more_than_720_closed_candles_and_the_running_one() -> None:
    """Whatever `since` says."""
    clock = Clock(sample_trades.BUSY_NS + 5 * 86400 * SECOND_NS)
    with shop(clock=clock) as exchange:
        rows = ask(exchange, "OHLC", pair="XBTUSD", since=0)["result"]["XXBTZUSD"]
        assert len(rows) == 721
        newer = ask(exchange, "OHLC", pair="XBTUSD", since=rows[-2][0])["result"]["XXBTZUSD"]
        assert newer == rows[-1:]


def test_ohlc_refuses_an_interval_that_kraken_does_not_have() -> None:
    """There are nine."""
    with shop() as exchange:
        answer = ask(exchange, "OHLC", pair="XBTUSD", interval=7)
    assert answer == {"error": ["EGeneral:Invalid arguments"]}


@pytest.mark.parametrize("minutes", [1, 60, 10080])
def test_ohlc_and_the_oracle_agree(minutes: int) -> None:
    """Two programs that share no code."""
    market = sample_trades.market(sample_trades.xbtusd_like(2000))
    step = minutes * 60 * SECOND_NS
    made = candle_oracle.filled_fixed(candle_oracle.candles(expected(market), step), step, "kraken")
    rows = ohlc_rows(Shelf(market), minutes, market.trades[-1].true_ns)
    shown = [[row[0], *map(Decimal, map(str, row[1:7])), row[7]] for row in rows]
    assert [_kraken_form(candle) for candle in made[-721:]] == shown


def _kraken_form(candle: candle_oracle.Candle) -> list[object]:
    prices = [candle[name] for name in ("open", "high", "low", "close")]
    vwap = candle_oracle.truncated(candle["vwap"], 1)
    return [candle["time"] // SECOND_NS, *prices, vwap, candle["volume"], candle["count"]]


@pytest.mark.parametrize(
    ("unit", "tz", "opens"),
    [
        ("d", "UTC", "2024-03-10T00:00:00Z"),
        ("d", "America/New_York", "2024-03-10T05:00:00Z"),
        ("w", "UTC", "2024-03-04T00:00:00Z"),
        ("mo", "America/New_York", "2024-03-01T05:00:00Z"),
        ("q", "Asia/Tokyo", "2023-12-31T15:00:00Z"),
        ("y", "UTC", "2024-01-01T00:00:00Z"),
    ],
)
def test_the_oracle_knows_the_calendar(unit: str, tz: str, opens: str) -> None:
    """A Sunday on which New York's clocks went forward."""
    stamp_ns = sample_trades.utc_ns(2024, 3, 10, 12)
    shown = datetime.fromtimestamp(
        candle_oracle.floor_calendar(stamp_ns, unit, tz) // SECOND_NS, UTC
    )
    assert shown == datetime.fromisoformat(opens)


def test_the_oracle_sums_by_side_and_to_the_last_digit() -> None:
    """Reckoned by hand."""
    rows: list[candle_oracle.Row] = [
        (None, 7, 0, Decimal(2), Decimal("1E+12"), "buy", "limit", ""),
        (5, 8, 0, Decimal("3.0000000001"), Decimal("0.00000001"), "sell", "market", ""),
    ]
    (candle,) = candle_oracle.candles(rows, 10)
    assert (candle["time"], candle["open"], candle["close"], candle["count"]) == (
        0,
        2,
        rows[1][3],
        2,
    )
    assert candle["volume"] == Decimal("1000000000000.00000001")
    assert candle["value"] == Decimal("2000000000000.000000030000000001")
    assert (candle["buy_value"], candle["sell_count"]) == (Decimal("2E+12"), 1)
    assert (candle["first_trade_id"], candle["first_time"], candle["last_time"]) == (5, 7, 8)


# --- HTTP ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "agent",
    [
        None,
        "python-httpx/0.28.1",
        "python-requests/2.32",
        "Python-urllib/3.11",
        "curl/8.5",
        "aiohttp/3",
    ],
)
def test_a_missing_or_stock_user_agent_is_refused_with_html(agent: str | None) -> None:
    """The browser check."""
    headers = {} if agent is None else {"User-Agent": agent}
    with shop() as exchange, closing(Client(exchange, headers)) as client:
        status, body = client.raw("Time")
    assert status == 403
    assert body.startswith(b"<!DOCTYPE html>")


def test_a_connection_is_kept_alive() -> None:
    """Benchmarks measure calls and not handshakes."""
    with shop() as exchange, closing(Client(exchange)) as client:
        for _ in range(5):
            client.get("Time")
        assert exchange.connections == 1


@pytest.mark.parametrize(("served", "encoding"), [(True, "gzip"), (False, None)])
def test_a_body_is_gzipped_where_both_sides_want_it(served: bool, encoding: str | None) -> None:
    """As Kraken does when asked."""
    with shop(gzip=served) as exchange:
        request = urllib.request.Request(  # noqa: S310
            f"{exchange.url}/0/public/Trades?pair=XBTUSD&since=0",
            headers={**AGENT, "Accept-Encoding": "gzip"},
        )
        with urllib.request.urlopen(request, timeout=5) as response:  # noqa: S310
            body = response.read()
            assert response.headers["Content-Encoding"] == encoding
    assert len(json.loads(gzip.decompress(body) if served else body)["result"]["XXBTZUSD"]) == 10


def test_latency_holds_an_answer_back() -> None:
    """A wire has a length."""
    with shop(latency_s=0.1) as exchange:
        began = time.monotonic()
        ask(exchange, "Time")
        assert time.monotonic() - began >= 0.1


def test_many_connections_are_served_side_by_side() -> None:
    """One slow pair holds up nobody."""
    with shop(latency_s=0.2) as exchange:
        threads = [threading.Thread(target=ask, args=(exchange, "Time")) for _ in range(20)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert time.monotonic() - began < 2
        assert [call.outcome for call in exchange.calls] == ["ok"] * 20


# --- limits --------------------------------------------------------------------------------------


def test_a_pair_is_refused_beyond_its_limit_and_others_are_not() -> None:
    """The limit is by pair, and only of Trades and OHLC."""
    markets = [
        sample_trades.market(spaced(1)),
        Market("SOLUSD", "SOLUSD", "SOL/USD", trades=spaced(1)),
    ]
    refused = {"error": ["EAPI:Rate limit exceeded"]}
    with Exchange(markets, limit=0.01, burst=1) as exchange:
        assert ask(exchange, pair="XBTUSD")["error"] == []
        assert ask(exchange, pair="XBTUSD") == refused
        assert ask(exchange, "OHLC", pair="XBTUSD") == refused
        assert ask(exchange, pair="SOLUSD")["error"] == []
        assert ask(exchange, "Time")["error"] == []
        exchange.limit = None
        assert ask(exchange, pair="XBTUSD")["error"] == []
    assert [call.outcome for call in exchange.calls[:3]] == ["ok", "limited", "limited"]


def test_a_limit_over_all_pairs_counts_every_call() -> None:
    """How far it goes at Kraken is open."""
    with shop(limit_total=0.01, burst=2) as exchange:
        answers = [ask(exchange, "Time")["error"] for _ in range(3)]
    assert answers == [[], [], ["EAPI:Rate limit exceeded"]]


def test_pestering_prolongs_the_wait() -> None:
    """A refused call costs a quarter of an allowed one."""
    patient, pest = Bucket(tokens=0.0), Bucket(tokens=0.0)
    assert not any(pest.take(1.0, 0.1 * i) for i in range(9))
    assert patient.take(1.0, 1.0)
    assert not pest.take(1.0, 1.0)


# --- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in REFUSALS if kind != "throttled"])
def test_a_refusal_comes_once_for_each_item_of_a_script(kind: str) -> None:
    """Status 200, no result; then all is well again."""
    with shop(faults=Faults(script=[kind])) as exchange:
        assert ask(exchange, pair="XBTUSD", since=0) == {"error": [REFUSALS[kind]]}
        assert ids(exchange, since=0) == list(range(1, 11))
    assert exchange.faults.done[kind] == 1


def test_a_throttling_error_has_its_end() -> None:
    """A UNIX stamp in whole seconds."""
    with shop(faults=Faults(script=["throttled:100"])) as exchange:
        (entry,) = ask(exchange, pair="XBTUSD")["error"]
    found = re.fullmatch(r"EService: Throttled: (\d{10})", entry)
    assert found is not None
    assert 90 < int(found[1]) - time.time() <= 100


@pytest.mark.parametrize("status", [429, 500, 502, 503, 520, 522])
def test_http_errors_are_html(status: int) -> None:
    """Cloudflare answers in the exchange's place."""
    faults = Faults(script=[f"http:{status}"])
    with shop(faults=faults) as exchange, closing(Client(exchange)) as client:
        answered, body = client.raw("Trades", pair="XBTUSD")
        assert (answered, body[:15]) == (status, b"<!DOCTYPE html>")
        assert client.ids(since=0) == list(range(1, 11))


def test_a_cut_body_is_shorter_than_it_says() -> None:
    """The connection closes in the middle."""
    with shop(faults=Faults(script=["cut"])) as exchange, pytest.raises(http.client.IncompleteRead):
        ask(exchange, pair="XBTUSD", since=0)


@pytest.mark.parametrize("kind", ["bad_json", "not_json"])
def test_a_body_may_be_whole_and_yet_no_json(kind: str) -> None:
    """The length is right, the text is not."""
    with shop(faults=Faults(script=[kind])) as exchange, pytest.raises(json.JSONDecodeError):
        ask(exchange, pair="XBTUSD", since=0)


def test_a_reset_is_a_reset() -> None:
    """And no ordinary end of a connection."""
    with (
        shop(faults=Faults(script=["reset"])) as exchange,
        pytest.raises(ConnectionResetError) as seen,
    ):
        ask(exchange, pair="XBTUSD")
    assert not isinstance(seen.value, http.client.RemoteDisconnected)


def test_a_connection_may_close_without_an_answer() -> None:
    """The other way to get nothing."""
    faults = Faults(script=["close", "hang:0.05"])
    with shop(faults=faults) as exchange:
        for _ in range(2):
            with pytest.raises(http.client.RemoteDisconnected):
                ask(exchange, pair="XBTUSD")
    assert [call.outcome for call in exchange.calls] == ["close", "hang"]


def test_a_hang_ends_when_the_exchange_stops() -> None:
    """No test waits for a hang that it has forgotten."""
    exchange = shop(faults=Faults(script=["hang:60"])).start()
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            ask(exchange, pair="XBTUSD")
        except OSError as error:
            ended.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    while not exchange.calls:
        time.sleep(0.005)
    began = time.monotonic()
    exchange.stop()
    waiter.join(timeout=5)
    assert time.monotonic() - began < 1
    assert len(ended) == 1


def test_a_dribble_gives_up_before_the_body_is_whole() -> None:
    """Each byte comes in time, the body does not."""
    with (
        shop(faults=Faults(script=["dribble:0.2"])) as exchange,
        pytest.raises(http.client.IncompleteRead),
    ):
        ask(exchange, pair="XBTUSD", since=0)


def test_a_kept_connection_may_be_dropped_after_a_good_answer() -> None:
    """The next call on it finds it closed."""
    with (
        shop(faults=Faults(script=["drop_after"])) as exchange,
        closing(Client(exchange)) as client,
    ):
        assert client.ids(since=0) == list(range(1, 11))
        time.sleep(0.05)
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
            client.ids(since=0)


def test_a_warning_aborts_nothing() -> None:
    """Entries beginning with W stand beside a good result."""
    with shop(faults=Faults(script=["warning"])) as exchange:
        answer = ask(exchange, pair="XBTUSD", since=0)
    assert answer["error"] == ["WSomething: odd"]
    assert len(answer["result"]["XXBTZUSD"]) == 10


def test_a_big_body_has_the_requested_size() -> None:
    """Valid JSON all the same."""
    with (
        shop(faults=Faults(script=["big:300000"])) as exchange,
        closing(Client(exchange)) as client,
    ):
        _, body = client.raw("Trades", pair="XBTUSD", since=0)
    assert len(body) == 300_000
    assert json.loads(body)["error"] == []


def test_an_empty_page_may_lie() -> None:
    """Once, though there are trades."""
    with shop(faults=Faults(script=["empty"])) as exchange, closing(Client(exchange)) as client:
        assert client.page(since=stamp(3)) == ([], str(stamp(3)))
        assert client.ids(since=stamp(3))[0] == 3


@pytest.mark.parametrize(
    ("kind", "last"),
    [
        ("last_missing", None),
        ("last_short", str(stamp(19))[:16]),
        ("last_short:10", str(stamp(19))[:10]),
        ("last_stuck", str(stamp(10))),
        ("last_garbage", "not-a-cursor"),
    ],
)
def test_the_cursor_may_be_spoilt(kind: str, last: str | None) -> None:
    """The rows are good nevertheless."""
    with shop(faults=Faults(script=[None, kind])) as exchange, closing(Client(exchange)) as client:
        client.page(since=0)
        rows, shown = client.page(since=stamp(10))
    assert ([row[6] for row in rows], shown) == (list(range(10, 20)), last)


def test_shuffled_rows_are_the_same_rows() -> None:
    """And the cursor is that of the latest of them."""
    with shop(faults=Faults(script=["shuffle"])) as exchange, closing(Client(exchange)) as client:
        rows, last = client.page(since=0)
    numbers = [row[6] for row in rows]
    assert sorted(numbers) == list(range(1, 11))
    assert numbers != sorted(numbers)
    assert last == str(stamp(10))


def test_shuffling_keeps_what_nobody_could_put_back() -> None:
    """Rows of one printed time without ids stay in their order among themselves."""
    market = sample_trades.market(
        sample_trades.ids_unknown(sample_trades.one_stamp(8, before=6, after=6))
    )
    with Exchange([market], faults=Faults(script=["shuffle"])) as exchange:
        rows = ask(exchange, pair="XBTUSD", since=0)["result"]["XXBTZUSD"]
    assert rows != sorted(rows, key=lambda row: row[2])
    same = [(row[0], row[1]) for row in rows if row[2] == 1705792331.7778208]
    assert same == [(trade.price, trade.volume) for trade in market.trades[6:14]]


def test_repeated_rows_push_others_off_the_page() -> None:
    """A page is never longer than a page; the cursor is that of its last row."""
    with shop(faults=Faults(script=["repeat:3"])) as exchange, closing(Client(exchange)) as client:
        rows, last = client.page(since=0)
    numbers = [row[6] for row in rows]
    assert len(numbers) == 10
    assert numbers == sorted(numbers)
    assert len(set(numbers)) < 10
    assert last == str(stamp(numbers[-1]))


def test_rows_without_ids_are_never_repeated() -> None:
    """A true repeat and a false repeat would look the same."""
    market = sample_trades.market(sample_trades.ids_unknown(spaced(10)))
    with Exchange([market], faults=Faults(script=["repeat:3"])) as exchange:
        assert len(ask(exchange, pair="XBTUSD", since=0)["result"]["XXBTZUSD"]) == 10
    assert exchange.calls[0].outcome == "ok"


def test_older_rows_may_come_first() -> None:
    """As if `since` had been earlier."""
    with shop(faults=Faults(script=["older:4"])) as exchange:
        assert ids(exchange, since=stamp(10)) == list(range(6, 16))


def test_a_stale_page_answers_the_call_before() -> None:
    """The answer of an earlier `since`, cursor included."""
    with (
        shop(faults=Faults(script=[None, "stale"])) as exchange,
        closing(Client(exchange)) as client,
    ):
        first = client.page(since=0)
        assert client.page(since=stamp(10)) == first
        assert client.ids(since=stamp(10))[0] == 10


def test_skipped_rows_lie_inside_a_page_and_come_with_another_request() -> None:
    """Never the first or the last row, and each place once at most."""
    with shop(faults=Faults(chances={"skip:2": 1.0})) as exchange:
        shown = [ids(exchange, since=0) for _ in range(12)]
    assert len(shown[0]) < 10
    assert all(page[0] == 1 and page[-1] == 10 for page in shown)
    assert shown[-1] == list(range(1, 11))


def test_rows_can_be_hidden_by_name_a_number_of_times() -> None:
    """The page is filled up with what follows."""
    faults = Faults(hide={"XBTUSD": {4: 2, 5: 1}})
    with shop(faults=faults) as exchange:
        pages = [ids(exchange, since=0) for _ in range(3)]
    assert pages == [
        [1, 2, 3, 4, 7, 8, 9, 10, 11, 12],
        [1, 2, 3, 4, 6, 7, 8, 9, 10, 11],
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
    ]


def test_several_faults_may_meet_in_one_call() -> None:
    """A tuple in the script."""
    faults = Faults(script=[("older:2", "last_missing", "warning")])
    with shop(faults=faults) as exchange, closing(Client(exchange)) as client:
        rows, last = client.page(since=stamp(5))
    assert (rows[0][6], last) == (3, None)
    assert exchange.calls[0].outcome == "ok+older+last_missing+warning"


def test_scripts_may_be_per_pair_and_of_other_endpoints() -> None:
    """The others go on undisturbed."""
    faults = Faults(script={"SOLUSD": ["busy"]}, elsewhere={"AssetPairs": ["http:502"]})
    markets = [
        sample_trades.market(spaced(1)),
        Market("SOLUSD", "SOLUSD", "SOL/USD", trades=spaced(1)),
    ]
    with Exchange(markets, faults=faults) as exchange, closing(Client(exchange)) as client:
        assert client.get("Trades", pair="XBTUSD")["error"] == []
        assert client.get("Trades", pair="SOLUSD")["error"] == ["EService:Busy"]
        assert client.raw("AssetPairs")[0] == 502
        assert client.raw("AssetPairs")[0] == 200


def test_chances_repeat_themselves_from_the_seed() -> None:
    """A failure that was found once can be found again."""
    runs = []
    for _ in range(2):
        with shop(faults=Faults(seed=3, chances={"busy": 0.3, "shuffle": 0.3})) as exchange:
            for _ in range(30):
                ask(exchange, pair="XBTUSD", since=0)
            runs.append([call.outcome for call in exchange.calls])
    assert runs[0] == runs[1]
    assert {"ok", "busy", "ok+shuffle"} <= set(runs[0])


def test_chance_leaves_the_newest_page_alone() -> None:
    """A client that checks the head there must be able to trust it."""
    chances = {"empty": 1.0, "older": 1.0, "stale": 1.0}
    with shop(faults=Faults(chances=chances)) as exchange:
        assert ids(exchange) == list(range(21, 31))


def test_an_unknown_fault_is_refused() -> None:
    """A script with a slip in it would test nothing."""
    message = f"unknown fault 'busi'; known are {', '.join(KINDS)}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Fault.parse("busi")


# --- a process of its own ------------------------------------------------------------------------


def test_it_runs_as_a_process_and_ends_on_terminate() -> None:
    """As benchmarks start it."""
    program = Path(kraken_server.__file__)
    command = [sys.executable, str(program), "--trades", "50", "--pairs", "2", "--seconds", "20"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        request = urllib.request.Request(f"{url}/0/public/AssetPairs", headers=AGENT)  # noqa: S310
        with urllib.request.urlopen(request, timeout=5) as response:  # noqa: S310
            assert list(json.load(response)["result"]) == ["XXBTZUSD", "XETHZUSD"]
        process.terminate()
        assert process.wait(timeout=5) == 0


# --- captured answers ----------------------------------------------------------------------------


def captured(name: str) -> str:
    """Read a captured body, where they are to be had."""
    path = CAPTURES / name
    if not path.exists():
        pytest.skip(f"captured bodies are absent: {path}")
    return path.read_text()


def test_a_captured_page_is_served_row_for_row() -> None:
    """Digits of times included: compared as text."""
    body = captured("trades_XBTUSDT_2025-11-10.json")
    seen = json.loads(body, parse_float=str)["result"]["XBTUSDT"]
    with Exchange([Market.from_bodies(body)]) as exchange, closing(Client(exchange)) as client:
        _, served = client.raw("Trades", pair="XBTUSDT", since=0)
    assert json.loads(served, parse_float=str)["result"]["XBTUSDT"] == seen


def test_the_candles_of_a_captured_page_are_kraken_s_own() -> None:
    """Every minute that the page covers whole, every field as printed."""
    captured_rows = json.loads(captured("ohlc_XBTUSDT_1m_2025-11-10.json"))["result"]["XBTUSDT"]
    market = Market.from_bodies(captured("trades_XBTUSDT_2025-11-10.json"))
    made_candles = ohlc_rows(Shelf(market), 1, 1762820224 * SECOND_NS)
    whole = [row for row in made_candles if 1762795440 <= int(str(row[0])) <= 1762819920]
    known = {row[0]: row for row in captured_rows}
    assert len(whole) == 409
    assert whole == [known[row[0]] for row in whole]


def test_captured_pages_without_ids_follow_one_another() -> None:
    """Six pages of 2021."""
    bodies = [captured(f"trades_GRTETH_2021_page{i}.json") for i in range(6)]
    market = Market.from_bodies(*bodies)
    assert len(market.trades) == 6000
    assert market.literal(0) == "1616889746.9058"
