"""The commands as a user meets them: real processes, their words and their exit statuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sample_trades
from backfills import rows_on_disk, serve
from cli_output import Answer, answer_of
from command_line import HARVESTER, own_environment, run_harvester
from kraken_faults import Faults
from kraken_market import Clock, expected
from kraken_server import Exchange
from kraken_socket import Reply

from harvester.operations.run_log import RunRecord, append
from harvester.storage.trade_store import TradeStore

FAST = {
    "HARVESTER_EXCHANGE_RETRY_WAIT_S": "0.01",
    "HARVESTER_EXCHANGE_RATE": "0",
    "HARVESTER_EXCHANGE_GIVE_UP_S": "1",
}


@pytest.fixture(scope="module")
def exchange() -> Iterator[Exchange]:
    with serve(
        sample_trades.market(sample_trades.xbtusd_like(5_000, 41)),
        sample_trades.tiny_coin(500, 41),
        sample_trades.thirteen_decimals(5, 41),
    ) as server:
        yield server


@pytest.fixture
def harvester(exchange: Exchange, tmp_path: Path) -> Any:
    def run(*arguments: str, **environment: str) -> Answer:
        given = {"HARVESTER_API_URL": exchange.url, "HARVESTER_DATA": str(tmp_path / "data")}
        variables = own_environment() | FAST | given | environment
        return answer_of(run_harvester(arguments, variables, tmp_path))

    return run


def test_backfill_stores_the_history_and_prints_its_counts(harvester: Any, tmp_path: Path) -> None:
    run = harvester("backfill", "btc/usd", "--until", "2024-06-01")
    assert (run.status, run.out) == (0, "")
    assert run.err == (
        "XBTUSD: downloading from the beginning to 2024-06-01\n"
        "XBTUSD: 5,000 trades in 8 pages, complete through 2024-05-31T23:59:59Z\n"
    )
    market = sample_trades.market(sample_trades.xbtusd_like(5_000, 41))
    assert rows_on_disk(tmp_path / "data", "XBTUSD") == list(expected(market))


def test_a_backfill_with_nothing_to_do_says_that_it_is_up_to_date(harvester: Any) -> None:
    asked = ["backfill", "btc/usd", "--since", "2024-01-01", "--until", "2024-06-01"]
    harvester(*asked)
    run = harvester(*asked)
    assert (run.status, run.out) == (0, "")
    assert run.err == "XBTUSD: up to date, complete through 2024-05-31T23:59:59Z\n"


def test_backfill_reports_as_json(harvester: Any) -> None:
    run = harvester(
        "backfill", "XBTUSD", "--since", "2024-01-01", "--until", "2024-06-01", "--json", "-q"
    )
    assert (run.status, run.err) == (0, "")
    assert json.loads(run.out) == {
        "exit_status": 0,
        "notes": [],
        "pairs": [
            {
                "pair": "XBTUSD",
                "exit_status": 0,
                "trades": 5000,
                "pages": 10,
                "covered_through_ns": 1717199999999999999,
                "gaps": [],
                "error": None,
                "pace": {
                    "rate": None,
                    "set_rate": None,
                    "calls": 10,
                    "refusals": 0,
                    "waiting": "",
                    "in_flight": 0,
                    "most_in_flight": 8,
                },
                "replacement": None,
            }
        ],
    }


class WithAnotherColumn(Exchange):
    """An exchange whose rows of trades have an eighth element."""

    def answer(self, path: str, params: dict[str, str], agent: str | None) -> Reply:
        reply = super().answer(path, params, agent)
        if path.endswith("/Trades"):
            reply = replace(reply, body=re.sub(rb",(\d+)\](?=[,\]])", rb',\1,"new"]', reply.body))
        return reply


@pytest.mark.parametrize("command", ["backfill", "refresh"])
def test_an_unknown_column_is_reported_once_and_in_the_notes(
    harvester: Any, command: str, tmp_path: Path
) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(2_500, 41))
    with WithAnotherColumn([market], clock=Clock(market.trades[-1].true_ns + 10**12)) as exchange:
        run = harvester(command, "XBTUSD", "--json", HARVESTER_API_URL=exchange.url)
    assert run.status == 0
    [shown] = [line for line in run.err.splitlines() if "column" in line]
    assert shown == (
        "XBTUSD: the exchange sends a column of trades that this version does not know, such as "
        '"new": it is not kept; all others are'
    )
    assert json.loads(run.out)["notes"] == [shown]
    assert rows_on_disk(tmp_path / "data", "XBTUSD") == list(expected(market))


def test_a_changed_pace_is_printed_with_v_and_reported(harvester: Any) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(2_500, 41))
    given = ("backfill", "XBTUSD", "--rate", "50", "--json")
    for option, shown in (("-v", True), ("-q", False)):
        with serve(market, faults=Faults(script=[None, "rate_limit"])) as exchange:
            run = harvester(*given, option, "-d", f"data{option}", HARVESTER_API_URL=exchange.url)
        line = (
            "XBTUSD: requested at 25.00 calls a second, EAPI:Rate limit exceeded "
            "(1 of 2 calls refused)"
        )
        assert (line in run.err.splitlines()) is shown
        pace = json.loads(run.out)["pairs"][0]["pace"]
        assert pace["rate"] == pytest.approx(25, rel=0.1)
        assert (pace["set_rate"], pace["refusals"]) == (50, 1)


def test_progress_shows_the_lowered_rate_of_a_pair() -> None:

    from harvester.events import Paced, Started
    from harvester.kraken.rate_limit import PaceState
    from harvester.progress import RunProgress

    run = RunProgress()
    run.add(Started("XBTUSD", [], None))
    run.add(Paced("XBTUSD", PaceState("XBTUSD", 0.8, 1, 9, 1, "", 0, 16)))
    assert run.running["XBTUSD"].slowed == "slowed to 0.8/s"
    run.add(Paced("XBTUSD", PaceState("XBTUSD", 1, 1, 19, 1, "", 0, 16)))
    assert run.running["XBTUSD"].slowed == ""


def test_status_reports_the_stored_trades(harvester: Any) -> None:
    harvester("backfill", "XBTUSD", "-q", "--since", "2024-01-01", "--until", "2024-06-01")
    [held] = json.loads(harvester("status", "--json").out)
    size, a_trade = held.pop("bytes"), held.pop("bytes_per_trade")
    # These two grow with the time that has passed since.
    assert held.pop("age_s") > 0
    assert held.pop("calls_to_now") > 0
    market = sample_trades.market(sample_trades.xbtusd_like(5_000, 41))
    rows = list(expected(market))
    assert held == {
        "pair": "XBTUSD",
        "wsname": "XBT/USD",
        "trades": 5000,
        "first_ns": rows[0][1],
        "last_ns": rows[-1][1],
        "coverage": [[1704067199999999999, 1717199999999999999]],
        "wanted": [[1704067199999999999, 1717199999999999999]],
        "gaps": [],
        "never_requested": [],
        "files": 1,
        "rollups": {"1h": 1, "1m": 1},
        "rollups_wanted": 1,
        "calls_for_gaps": 0,
        "damaged": [],
        "exit_status": 0,
    }
    assert a_trade == pytest.approx(size / 5000, abs=0.001)
    assert a_trade < 20


@pytest.mark.parametrize("command", [["refresh"], ["backfill", "XBT/USD"], ["pairs", "--update"]])
def test_a_damaged_list_of_pairs_is_written_again_by_what_asks_the_exchange(
    command: list[str], harvester: Any, tmp_path: Path
) -> None:
    harvester("backfill", "btc/usd", "-q", "--since", "2024-01-01", "--until", "2024-06-01")
    file = tmp_path / "data/pairs.json"
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    run = harvester("ohlc", "XBT/USD", "-i", "1d")
    assert run.status == 4
    assert "`harvester pairs --update" in run.err
    run = harvester(*command)
    assert run.status == 0, run.err
    assert "pairs.json could not be read, and is written again" in run.err
    assert file.read_bytes() == whole
    assert harvester("ohlc", "XBT/USD", "-i", "1d").status == 0


def test_runs_are_on_record_with_what_they_came_to(harvester: Any) -> None:
    harvester("backfill", "btc/usd", "-q", "--since", "2024-01-01", "--until", "2024-06-01")
    harvester("backfill", "XBTUSD", "-q", HARVESTER_API_URL="http://127.0.0.1:9")
    harvester("verify", "--repair", "-q")
    run = harvester("status", "--runs", "--json")
    shown = [
        (load["command"], load["state"], load["exit_status"], load["trades"], load["calls"])
        for load in json.loads(run.out)
    ]
    # A repair that finds no fault is no run; calls: nine pages, the clock, two for pairs.
    assert [line[:4] for line in shown] == [
        ("backfill", "ended", 3, 0),
        ("backfill", "ended", 0, 5000),
    ]
    assert (run.status, shown[1][4]) == (0, 13)


def test_the_runs_of_a_pair_are_shown_alone(harvester: Any, tmp_path: Path) -> None:
    harvester("backfill", "btc/usd", "-q", "--since", "2024-01-01", "--until", "2024-06-01")
    later = RunRecord("9", "backfill", "2030-01-01T00:00:00Z", asked={"pairs": ["ETH/USD"]})
    append(TradeStore(tmp_path / "data"), later)
    run = harvester("status", "--runs", "1", "XBT/USD", "--json")
    [record] = json.loads(run.out)
    assert [pair["pair"] for pair in record["pairs"]] == ["XBTUSD"]
    assert len(json.loads(harvester("status", "--runs", "--json").out)) == 2
    unknown = harvester("status", "--runs", "SOL/USD")
    assert unknown.status == 2
    assert "holds no trades of 'SOL/USD'" in unknown.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--runs", "--watch"], "give one of --digest, --runs and --watch"),
        (["--since", "2024"], "--since and --until are for --digest: leave them out"),
        (["--until", "2024"], "--since and --until are for --digest: leave them out"),
    ],
)
def test_forms_of_status_that_do_not_go_together_are_refused(
    harvester: Any, options: list[str], message: str
) -> None:
    run = harvester("status", *options)
    expected_err = f"harvester: {message}\nTry `harvester status --help`.\n"
    assert (run.status, run.out, run.err) == (2, "", expected_err)


def test_candles_and_trades_need_no_network(harvester: Any) -> None:
    harvester("backfill", "XBTUSD", "-q")
    nowhere = {"HARVESTER_API_URL": "http://127.0.0.1:9"}
    candles = harvester("ohlc", "BTC/USD", "-i", "7m", "-f", "jsonl", **nowhere)
    trades = harvester("trades", "btcusd", "-f", "csv", **nowhere)
    assert (candles.status, trades.status) == (0, 0)
    assert sum(json.loads(line)["count"] for line in candles.out.splitlines()) == 5_000
    assert len(trades.out.splitlines()) == 5_001


def test_candles_follow_a_zone_and_an_offset(harvester: Any) -> None:
    """New York's days of trading, from 17:00: the clocks there went forward on March the 10th."""
    harvester("backfill", "XBTUSD", "-q")
    options = ("--tz", "America/New_York", "--offset", "-7h", "--fill", "null", "-f", "jsonl")
    span = ("--since", "2024-03-08T12:00", "--until", "2024-03-12T12:00")
    run = harvester("ohlc", "XBTUSD", "-i", "1d", *options, *span)
    assert [json.loads(line)["time"] for line in run.out.splitlines()] == [
        "2024-03-08T22:00:00Z",
        "2024-03-09T22:00:00Z",
        "2024-03-10T21:00:00Z",
    ]


def test_trades_as_csv_are_exact(harvester: Any) -> None:
    harvester("backfill", "XBTUSD", "-q")
    first = harvester("trades", "XBTUSD", "-f", "csv").out.splitlines()[1]
    trade = sample_trades.xbtusd_like(5_000, 41)[0]
    market = sample_trades.market([trade])
    number, time, tie, price, volume, side, kind, misc = first.split(",")
    assert (int(number), int(tie), misc) == (trade.trade_id, 0, "")
    assert (price, volume) == (trade.price.rstrip("0").rstrip("."), trade.volume.rstrip("0"))
    assert time.endswith(market.literal(0).split(".")[1] + "Z")
    assert (side[0], kind[0]) == (trade.side, trade.order_type)


@pytest.mark.parametrize("form", ["table", "csv", "json", "jsonl", "parquet", "arrow"])
def test_every_format_holds_every_candle(form: str, harvester: Any, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    harvester("backfill", "XBTUSD", "-q")
    file = tmp_path / "candles"
    run = harvester("ohlc", "XBTUSD", "-i", "1h", "-f", form, "-o", str(file))
    assert (run.status, run.out) == (0, "")
    want = len(harvester("ohlc", "XBTUSD", "-i", "1h", "-f", "jsonl").out.splitlines())
    counts: dict[str, Callable[[], int]] = {
        "table": lambda: len(file.read_text().splitlines()) - 1,
        "csv": lambda: len(file.read_text().splitlines()) - 1,
        "json": lambda: len(json.loads(file.read_text())),
        "jsonl": lambda: len(file.read_text().splitlines()),
        "parquet": lambda: int(pq.read_metadata(file).num_rows),
        "arrow": lambda: int(pa.ipc.open_file(file).read_all().num_rows),
    }
    assert counts[form]() == want
    assert run.err == f"{want:,} candles in {file}\n"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (
            ["backfill", "XBTUSX"],
            2,
            (
                "no pair is called 'XBTUSX'; similar names: XBTUSD, BTTUSD. "
                "`harvester pairs` lists the markets"
            ),
        ),
        (
            ["backfill", "XBTUSD", "--since", "soon"],
            2,
            (
                "'soon' is not a time: give a date or time (2024, 2024-06, 2024-01-31, "
                "2024-01-31T12:00Z), a UNIX time (10, 13 or 19 digits), 7d, 12h or 6mo (that long "
                "ago), today, yesterday, now or start"
            ),
        ),
        (
            ["backfill", "XBTUSD", "--since", "2024-02-01", "--until", "2024-01-01"],
            2,
            (
                "since 2024-02-01 is not before until 2024-01-01: "
                "since is inclusive, until exclusive"
            ),
        ),
        (
            ["backfill", "XBTUSD", "--rate", "-1"],
            2,
            "--rate is -1.0: it must be a number, 0 or more",
        ),
        (
            ["ohlc", "XBTUSD", "-i", "0m"],
            2,
            "interval '0m' has no length: give 1 or more",
        ),
        (
            ["ohlc", "XBTUSD", "-i", "5x"],
            2,
            (
                "'5x' is no interval: give a number and one of ms, s, m, h, d, w, mo, q, y, "
                "such as 7m or 4h; a bare number is minutes"
            ),
        ),
        (
            ["ohlc", "XBTUSD", "-i", "1M"],
            2,
            "interval '1M': is 1m (minutes) meant, or 1mo (months)?",
        ),
        (
            ["ohlc", "XBTUSD", "-i", "1d", "--tz", "Berlin"],
            2,
            "tz is 'Berlin', which is no time zone of the tz database: give Europe/Berlin",
        ),
        (
            ["ohlc", "XBTUSD", "-i", "1d", "--offset", "17"],
            2,
            (
                "'17' is no offset: give a number and one of ms, s, m, h, d, w, such as 30m, "
                "or -7h to move it back"
            ),
        ),
        (
            ["backfill"],
            2,
            (
                "which pairs? Give names, patterns, --pairs-file, or --all for every pair\n"
                "Try `harvester backfill --help`."
            ),
        ),
    ],
)
def test_bad_input_is_one_clear_line(
    arguments: list[str], status: int, message: str, harvester: Any, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    run = harvester(*arguments)
    assert (run.status, run.out, run.err) == (status, "", f"harvester: {message}\n")
    assert not (tmp_path / "data" / "trades").exists()


def test_a_pair_that_is_not_held_names_those_that_are(harvester: Any, tmp_path: Path) -> None:
    harvester("backfill", "XBTUSD", "-q")
    run = harvester("ohlc", "ETHUSD", "-i", "5m")
    assert (run.status, run.err) == (
        2,
        (
            f"harvester: the archive at {tmp_path}/data holds no trades of 'ETHUSD'; it holds "
            "XBTUSD. `harvester pairs --update` lists the markets\n"
        ),
    )


def test_an_unreachable_exchange_is_an_error_with_status_3(harvester: Any) -> None:
    run = harvester("backfill", "XBTUSD", "-q", "--api-url", "http://127.0.0.1:9")
    assert (run.status, run.out) == (3, "")
    assert run.err == (
        "harvester: AssetPairs: http://127.0.0.1:9 gave no good answer for 1 s (at last: no "
        "connection: Connection refused); nothing that is stored is lost, "
        "run the same command again\n"
    )


def test_a_folder_that_is_a_file_is_an_error_with_status_1(harvester: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = harvester("backfill", "XBTUSD", "-q", "-d", str(tmp_path / "file"))
    assert run.status == 1
    assert run.err == f"harvester: can't write {tmp_path}/file/locks: Not a directory\n"


def test_quiet_still_says_what_went_wrong(harvester: Any) -> None:
    run = harvester("backfill", "PEPEXBT", "-q")
    assert run.status == 1
    assert run.err.startswith("harvester: PEPEXBT: 0 trades in 1 page; trade [")
    assert run.err.endswith("values are never rounded, so this pair stops here\n")


def test_the_gravest_status_of_several_pairs_wins(harvester: Any, tmp_path: Path) -> None:
    run = harvester("backfill", "XBTUSD", "PEPEXBT", "-q", "--json")
    report = json.loads(run.out)
    assert run.status == report["exit_status"] == 1
    assert [outcome["exit_status"] for outcome in report["pairs"]] == [0, 1]
    assert len(rows_on_disk(tmp_path / "data", "XBTUSD")) == 5_000


def test_a_second_run_meanwhile_ends_with_5(harvester: Any, tmp_path: Path) -> None:
    from harvester.storage.trade_store import TradeStore
    from harvester.storage.writer import open_writer

    with open_writer(TradeStore(tmp_path / "data"), "XBTUSD"):
        run = harvester("backfill", "XBTUSD")
    assert run.status == 5
    assert f"is being written by another run (process {os.getpid()} on " in run.err


def test_a_reader_that_has_had_enough_ends_it_cleanly(
    harvester: Any, tmp_path: Path, exchange: Exchange
) -> None:
    harvester("backfill", "XBTUSD", "-q")
    process = _start(exchange.url, tmp_path / "data", "trades", "XBTUSD", "-f", "csv")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert (process.stderr.read(), process.wait(timeout=30)) == ("", 0)
    process.stderr.close()


def test_warnings_of_the_exchange_are_shown_once(tmp_path: Path) -> None:
    market = sample_trades.market(sample_trades.xbtusd_like(3_000, 44))
    with serve(market, faults=Faults(chances={"warning": 1.0})) as exchange:
        process = _start(exchange.url, tmp_path, "backfill", "XBTUSD")
        _, err = process.communicate(timeout=30)
    assert err.count("the exchange warns") == 1


@pytest.mark.parametrize(
    "command",
    [
        "backfill",
        "ohlc",
        "trades",
        "sql",
        "bars",
        "status",
        "pairs",
        "compact",
        "rollup",
        "demo",
        "serve",
    ],
)
def test_every_command_shows_an_example(command: str, harvester: Any) -> None:
    run = harvester(command, "--help")
    assert run.status == 0
    assert f"Example: harvester {command}" in " ".join(run.out.split())


def test_a_folder_without_an_archive_has_a_message(harvester: Any, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    run = harvester("status")
    assert (run.status, run.err) == (
        0,
        f"the archive at {tmp_path}/data is empty; `harvester backfill XBT/USD` creates it\n",
    )


def test_compact_merges_and_changes_no_row(harvester: Any, tmp_path: Path) -> None:
    small = {"HARVESTER_ARCHIVE_FLUSH_ROWS": "400"}
    harvester("backfill", "XBTUSD", "-q", "--until", "2024-01-21", **small)
    harvester("backfill", "XBTUSD", "-q", **small)
    before = rows_on_disk(tmp_path / "data", "XBTUSD")
    [merged] = json.loads(harvester("compact", "--json").out)
    assert merged["files_after"] <= 2
    assert rows_on_disk(tmp_path / "data", "XBTUSD") == before


def _start(url: str, folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    known = {k: v for k, v in os.environ.items() if not k.startswith("HARVESTER_")}
    given = {"HARVESTER_API_URL": url, "HARVESTER_DATA": str(folder)}
    return subprocess.Popen(
        [*HARVESTER, *arguments],
        env=known | FAST | given | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
