"""`doctor` says what each mode of the exchange is, and which assumption does not hold."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import cli_output
import pytest
import sample_trades
from cli_runner import run
from kraken_market import Clock, Market, Trade
from kraken_server import Exchange
from kraken_socket import Reply

import harvester
from harvester.operations.exchange_checks import CHECKS, CheckResult
from harvester.storage.trade_store import TradeStore

HOURS = 14
NOW_NS = time.time_ns()
TRADES = [
    trade
    for trade in sample_trades.xbtusd_like(
        6_000, 5, start_ns=NOW_NS - HOURS * 3600 * 10**9, gap_s=60
    )
    if trade.true_ns < NOW_NS
]
STOCK = Market(
    altname="AAPLxUSD",
    key="AAPLxUSD",
    wsname="AAPLx/USD",
    base="AAPLx",
    aclass_base="tokenized_asset",
)
Change = Callable[[dict[str, Any]], None]


class Kraken(Exchange):
    """The test exchange with a market and a stock, whose answers may be changed."""

    def __init__(self, market: Market, **options: Any) -> None:
        self.moment = Clock(time.time_ns())
        super().__init__([market, STOCK], clock=self.moment, **options)
        self.alter: dict[str, Change] = {}

    def answer(self, path: str, params: dict[str, str], agent: str | None) -> Reply:
        name = path.rpartition("/")[2]
        if name == "Time":
            # A process that has to be started first may ask seconds later.
            self.moment.now_ns = time.time_ns()
        reply = super().answer(path, params, agent)
        if name in self.alter:
            decoded = json.loads(reply.body, parse_float=Number)
            if "result" in decoded:
                self.alter[name](decoded["result"])
                text = json.dumps(decoded, separators=(",", ":"))
                reply = replace(reply, body=text.encode())
        return reply


class Number(float):
    """A float that is written as it was read."""

    def __new__(cls, text: str) -> Self:
        number = super().__new__(cls, text)
        number.text = text  # type: ignore[attr-defined]
        return number

    def __repr__(self) -> str:
        return str(self.text)  # type: ignore[attr-defined]


def examine(exchange: Exchange, folder: Path, **settings: Any) -> dict[str, CheckResult]:
    """The results of the checks of the exchange, by name."""
    with exchange:
        values = {
            "exchange.url": exchange.url,
            "exchange.rate": 0,
            "exchange.retry_wait_s": 0.01,
            **settings,
        }
        archive = harvester.open(folder / "data", settings=values)
        results = {check.name: check for check in archive.doctor(exchange=True)}
        assert not (folder / "data").exists()
        return results


def differing(results: Mapping[str, CheckResult]) -> set[str]:
    return {name for name, check in results.items() if check.status == "differs"}


def rows_of(result: dict[str, Any]) -> list[list[Any]]:
    """The rows of an answer of one market."""
    [rows] = [rows for name, rows in result.items() if name != "last"]
    assert isinstance(rows, list)
    return rows


@pytest.mark.parametrize(("mode", "gzip"), [("inclusive", True), ("exclusive", False)])
def test_an_exchange_as_expected_passes_and_what_it_does_is_named(
    mode: str, gzip: bool, tmp_path: Path
) -> None:
    exchange = Kraken(sample_trades.market(TRADES), since_mode=mode, gzip=gzip)
    results = examine(exchange, tmp_path)
    assert {name: check.status for name, check in results.items()} == dict.fromkeys(results, "ok")
    assert results["since"].seen == mode
    assert ("gzip: " in results["compression"].seen) == gzip
    decimals, _, off = results["times"].seen.partition(" decimals, up to ")
    assert 6 <= int(decimals) <= 7
    assert 0 < int(off.partition(" ns")[0]) <= 238
    assert set(CHECKS) < set(results)
    assert len(exchange.calls) <= 25


def test_fewer_decimals_and_maintenance_are_named_and_no_difference(tmp_path: Path) -> None:
    exchange = Kraken(sample_trades.market(TRADES, decimals=4))
    exchange.status = "maintenance"
    results = examine(exchange, tmp_path)
    assert results["times"].seen.startswith("4 decimals, up to ")
    assert results["system status"].seen == "maintenance"
    assert differing(results) == set()


def test_a_smaller_page_is_named(tmp_path: Path) -> None:
    results = examine(Kraken(sample_trades.market(TRADES), page_size=500), tmp_path)
    assert "500 rows" in results["page size"].seen
    assert differing(results) == {"page size"}


def test_a_history_of_one_page_is_no_difference(tmp_path: Path) -> None:
    few = [replace(trade, trade_id=i + 1) for i, trade in enumerate(TRADES[-300:])]
    results = examine(Kraken(sample_trades.market(few)), tmp_path)
    assert results["page size"].seen == "300 rows: the whole history"
    assert differing(results) == set()


def test_refusals_are_counted(tmp_path: Path) -> None:
    exchange = Kraken(sample_trades.market(TRADES), limit=5, burst=2)
    results = examine(exchange, tmp_path)
    assert "refusals" in differing(results)
    assert len(exchange.calls) <= 25


def ids_as_text(result: dict[str, Any]) -> None:
    for row in rows_of(result):
        row[6] = str(row[6])


def no_ids(result: dict[str, Any]) -> None:
    for row in rows_of(result):
        del row[6:]


def eighth_element(result: dict[str, Any]) -> None:
    for row in rows_of(result):
        row.append("new")


def last_in_seconds(result: dict[str, Any]) -> None:
    result["last"] = result["last"][:10]


def last_as_number(result: dict[str, Any]) -> None:
    result["last"] = int(result["last"])


def price_as_number(result: dict[str, Any]) -> None:
    for row in rows_of(result):
        row[0] = Number(row[0])


def tenth_column(result: dict[str, Any]) -> None:
    for row in rows_of(result):
        row += ["0", 0]


def counts_off(result: dict[str, Any]) -> None:
    for row in rows_of(result):
        row[7] += 1


def minute_missing(result: dict[str, Any]) -> None:
    """Leave out a minute with trades that the newest page shows whole."""
    rows = rows_of(result)
    traded = [i for i, row in enumerate(rows) if row[7]]
    if len(rows) > 100:
        del rows[traded[-3]]


def null_altname(result: dict[str, Any]) -> None:
    result["ODDUSD"] = {"altname": None}


def an_hour_ahead(result: dict[str, Any]) -> None:
    result["unixtime"] += 3600


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"Trades": ids_as_text}, {"trade columns": 'trade_id is "', "trade pages": ""}),
        ({"Trades": no_ids}, {"trade columns": "rows of 6 elements"}),
        ({"Trades": eighth_element}, {"trade columns": "rows of 8 elements"}),
        ({"Trades": price_as_number}, {"trade columns": "price is 4", "trade pages": ""}),
        ({"Trades": last_in_seconds}, {"last": "(10 digits)"}),
        ({"Trades": last_as_number}, {"last": "(19 digits)"}),
        ({"OHLC": counts_off}, {"candles": "candles differ, twice"}),
        ({"OHLC": minute_missing}, {"candle times": "not right after another", "candles": ""}),
        (
            {"OHLC": tenth_column, "AssetPairs": null_altname, "Time": an_hour_ahead},
            {
                "candle columns": "10 elements in place of 8",
                "pairs": "1 rows can't be used: ODDUSD",
                "clock": "s ahead of this machine's",
            },
        ),
    ],
)
def test_a_broken_assumption_is_named(
    changes: dict[str, Change], seen: dict[str, str], tmp_path: Path
) -> None:
    exchange = Kraken(sample_trades.market(TRADES))
    exchange.alter = changes
    results = examine(exchange, tmp_path)
    assert differing(results) == set(seen)
    for name, text in seen.items():
        assert text in results[name].seen
        assert results[name].meaning


def with_ids(change: Callable[[int], int]) -> list[Trade]:
    return [replace(trade, trade_id=change(trade.trade_id or 0)) for trade in TRADES]


def test_ids_that_restart_are_named(tmp_path: Path) -> None:
    restarted = with_ids(lambda trade_id: (trade_id - 1) % 700 + 1)
    results = examine(Kraken(sample_trades.market(restarted)), tmp_path)
    assert "trade id 1 follows 700" in results["trade ids"].seen
    assert "restart" in results["trade ids"].meaning


def test_ids_that_restarted_between_the_pages_are_named(tmp_path: Path) -> None:
    """Neither page shows it, but the newest id is far below the number of trades."""
    restarted = with_ids(lambda trade_id: trade_id if trade_id <= 2_400 else trade_id - 2_400)
    results = examine(Kraken(sample_trades.market(restarted)), tmp_path)
    assert differing(results) == {"weekly counts"}


def test_ids_that_are_missing_are_named(tmp_path: Path) -> None:
    shifted = with_ids(lambda trade_id: trade_id if trade_id < 100 else trade_id + 3)
    results = examine(Kraken(sample_trades.market(shifted)), tmp_path)
    assert differing(results) == {"trade ids"}
    assert results["trade ids"].seen.startswith("3 ids are missing")


def test_old_trades_without_an_id_leave_the_newest_to_be_checked(tmp_path: Path) -> None:
    old = with_ids(lambda trade_id: trade_id if trade_id > 2_000 else 0)
    results = examine(Kraken(sample_trades.market(old)), tmp_path)
    assert differing(results) == set()
    seen = results["trade ids"].seen
    assert "1,000 of 1,000 trades of 'first' have no id" in seen
    assert f"newest page: {len(TRADES) - 999:,} to {len(TRADES):,}" in seen


def test_no_list_of_stocks_is_named(tmp_path: Path) -> None:
    exchange = Exchange([sample_trades.market(TRADES)], clock=Clock(time.time_ns()))
    assert differing(examine(exchange, tmp_path)) == {"xstocks"}


def test_an_exchange_that_is_away_is_not_examined_further(tmp_path: Path) -> None:
    with Exchange() as exchange:
        url = exchange.url
    archive = harvester.open(
        tmp_path, settings={"exchange.url": url, "exchange.retry_wait_s": 0.01}
    )
    results = {check.name: check for check in archive.doctor(exchange=True)}
    assert results["reachable"].status == "differs"
    assert "no connection" in results["reachable"].seen
    assert {results[name].status for name in CHECKS} == {"not checked"}


@pytest.mark.parametrize("endpoint", ["AssetPairs", "Trades"])
def test_an_answer_that_is_cut_off_ends_no_diagnosis(endpoint: str, tmp_path: Path) -> None:
    class Cut(Kraken):
        def answer(self, path: str, params: dict[str, str], agent: str | None) -> Reply:
            reply = super().answer(path, params, agent)
            is_cut = path.endswith(endpoint) and b'"result"' in reply.body
            return replace(reply, body=reply.body[: len(reply.body) // 2]) if is_cut else reply

    results = examine(Cut(sample_trades.market(TRADES)), tmp_path)
    assert results["clock"].status == "ok"
    name = "pairs" if endpoint == "AssetPairs" else "trade pages"
    assert results[name].status == "differs"
    assert "not a complete answer" in results[name].seen


def test_a_market_without_trades_is_not_checked_for_their_form(tmp_path: Path) -> None:
    results = examine(Kraken(sample_trades.market([])), tmp_path)
    for name in ("trade columns", "times"):
        assert results[name] == CheckResult(name, "not checked", "the market has no trades")


# --- the command ----------------------------------------------------------------------------------


def store(folder: Path) -> TradeStore:
    return TradeStore(folder / "data")


def test_the_report_for_an_issue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with Kraken(sample_trades.market(TRADES)) as exchange:
        url = exchange.url.replace("://", "://me:secret@")
        done = cli_output.run(
            *(url, tmp_path, "doctor", "--exchange", "--json", "-d", store(tmp_path).path)
        )
    report = json.loads(done.stdout)
    assert (done.returncode, report["exit_status"], report["url"]) == (0, 0, exchange.url)
    assert {"python", "libraries", "config", "since"} < {
        check["name"] for check in report["checks"]
    }
    for private in ("secret", str(tmp_path)):
        assert private not in done.stdout + done.stderr


def test_a_difference_gives_status_3_and_what_it_means(tmp_path: Path) -> None:
    exchange = Kraken(sample_trades.market(TRADES))
    exchange.alter["Trades"] = last_in_seconds
    with exchange:
        done = cli_output.run(exchange.url, tmp_path, "doctor", "--exchange", "--pair", "btcusd")
    assert done.returncode == 3
    lines = done.stdout.splitlines()
    line = next(i for i, text in enumerate(lines) if text.startswith("differs"))
    assert "harvester goes on from the times of rows" in lines[line + 1]


def test_without_exchange_there_is_no_network(tmp_path: Path) -> None:
    with Exchange() as exchange:
        done = cli_output.run(exchange.url, tmp_path, "doctor")
        assert (done.returncode, exchange.calls, exchange.connections) == (0, [], 0)
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == ["ok"] * 6
    assert not (tmp_path / "data").exists()


def test_a_folder_that_cannot_be_written_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    status, out, _ = run(TradeStore(tmp_path / "data" / "below"), "doctor")
    assert status == 1
    assert "fault        archive writable" in out


@pytest.mark.parametrize("folder", ["quarantine", "cache"])
def test_a_folder_of_the_archive_that_cannot_be_written_is_a_fault(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever runs the tests may be allowed to write anywhere."""
    (tmp_path / folder).mkdir()
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path).name != folder)
    results = {result.name: result for result in harvester.open(tmp_path).doctor()}
    assert results["archive writable"].seen == (
        f"can't write {tmp_path / folder}: no permission to write there: choose another --data or "
        "change its owner"
    )


def test_a_link_that_leads_nowhere_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(tmp_path / "gone")
    status, out, err = run(store(tmp_path), "doctor")
    assert (status, err) == (1, "")
    assert "fault        archive writable" in out
    assert "fault        disk space" in out


def test_a_damaged_file_is_a_fault(tmp_path: Path) -> None:
    file = tmp_path / "data/trades/pair=XBTUSD/year=2024"
    file.mkdir(parents=True)
    start, end = 1_705_792_331_777_820_800, 1_705_792_341_777_820_800
    (file / f"{start:019d}-{end:019d}.parquet").write_bytes(b"PAR1 no more")
    status, out, _ = run(store(tmp_path), "doctor")
    assert status == 1
    assert "1 damaged" in out


def test_a_wrong_setting_is_a_fault_like_any_other(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[exchange]\nrate = -1\n")
    status, out, _ = run(store(tmp_path), "doctor", "--config", str(config), "--json")
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert (status, checks["config"]["status"]) == (1, "fault")
    assert "rate" in checks["config"]["seen"]


def test_a_certificate_file_that_is_missing_is_a_fault(tmp_path: Path) -> None:
    settings = {"exchange.ca_file": str(tmp_path / "absent.pem")}
    archive = harvester.open(tmp_path / "data", settings=settings)
    [found] = [check for check in archive.doctor(exchange=True) if check.exit_status]
    assert (found.name, found.status) == ("exchange settings", "fault")


def test_an_unknown_pair_is_a_usage_error(tmp_path: Path) -> None:
    with Kraken(sample_trades.market(TRADES)) as exchange:
        status, _, err = run(
            store(tmp_path), "doctor", "--exchange", "--pair", "NOPE", "--api-url", exchange.url
        )
    assert (status, "no pair is called 'NOPE'" in err) == (2, True)
