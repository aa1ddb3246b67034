"""`harvester bars` as a user meets it: a real process over a made archive."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from command_line import own_environment, run_harvester

from harvester.server.sample_data import create_sample_archive


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "data"
    create_sample_archive(folder, 3_000, 7)
    return folder


@pytest.fixture
def harvester(data: Path, tmp_path: Path) -> Any:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_harvester(arguments, own_environment(HARVESTER_DATA=str(data)), tmp_path)

    return run


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize(
    ("option", "size"), [("--trades", "250"), ("--volume", "9.5"), ("--value", "1000000.0001")]
)
def test_bars_are_counted_from_the_trades_that_are_shown(
    harvester: Any, option: str, size: str
) -> None:
    run = harvester("bars", "BTC/USD", option, size, "-f", "csv")
    assert (run.returncode, run.stderr) == (0, "")
    ends, total, at = [], Decimal(0), ""
    for trade in rows(harvester("trades", "XBTUSD", "-f", "csv").stdout):
        price, volume = Decimal(trade["price"]), Decimal(trade["volume"])
        total += {"--trades": Decimal(1), "--volume": volume}.get(option, price * volume)
        at = trade["time"]
        if total >= Decimal(size):
            ends.append((at, "true"))
            total = Decimal(0)
    ends += [(at, "false")] if total else []
    assert [(bar["last_time"], bar["is_complete"]) for bar in rows(run.stdout)] == ends


def test_the_columns_shown_are_a_candles_and_where_the_bar_ends(harvester: Any) -> None:
    plain = harvester("bars", "XBTUSD", "--trades", "3000", "-f", "csv").stdout.splitlines()
    full = harvester("bars", "XBTUSD", "--trades", "3000", "-f", "json", "--all-columns").stdout
    assert plain[0] == ("time,open,high,low,close,vwap,volume,count,last_time,is_complete")
    [bar] = json.loads(full)
    assert (bar["count"], bar["first_trade_id"], bar["last_trade_id"]) == (3_000, 1, 3_000)
    assert (bar["first_time"], bar["is_complete"]) == (bar["time"], True)


def test_since_until_and_anchor_do_as_they_say(harvester: Any) -> None:
    def asked(*more: str) -> list[dict[str, str]]:
        return rows(harvester("bars", "XBTUSD", "--trades", "100", "-f", "csv", *more).stdout)

    every = asked()
    # One that begins with the first trade of its time: no anchor can name a later one.
    apart = next(i for i in range(4, 30) if every[i - 1]["last_time"] < every[i]["time"])
    since, until = every[apart]["time"], every[-2]["time"]
    assert asked("--since", since, "--until", until) == every[apart:-2]
    assert asked("--anchor", since) == every[apart:]


def test_a_written_file_is_reported(harvester: Any, tmp_path: Path) -> None:
    file = tmp_path / "bars.parquet"
    run = harvester("bars", "XBTUSD", "--trades", "1000", "-o", str(file))
    assert (run.returncode, run.stdout, run.stderr) == (0, "", f"3 bars in {file}\n")


@pytest.mark.parametrize("option", ["--since", "--anchor"])
def test_where_there_are_no_bars_a_hint_says_so(harvester: Any, option: str) -> None:
    run = harvester("bars", "XBTUSD", "--trades", "5", option, "2030-01-01", "-f", "jsonl")
    assert (run.returncode, run.stdout, run.stderr) == (
        0,
        "",
        "no bars there; `harvester status` shows what is covered\n",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["XBTUSD"],
            "a bar has one size: give one of --trades N, --volume X and --value X",
        ),
        (
            ["XBTUSD", "--trades", "5", "--value", "5"],
            "a bar has one size: give one of --trades N, --volume X and --value X",
        ),
        (
            ["XBTUSD", "--volume", "0"],
            "volume '0' would never end a bar: give more than 0",
        ),
    ],
)
def test_bad_input_is_one_clear_line(harvester: Any, arguments: list[str], message: str) -> None:
    run = harvester("bars", *arguments)
    assert (run.returncode, run.stdout, run.stderr) == (2, "", f"harvester: {message}\n")


def test_a_pair_that_is_not_held_names_those_that_are(harvester: Any, data: Path) -> None:
    run = harvester("bars", "ETHUSD", "--trades", "5")
    assert (run.returncode, run.stderr) == (
        2,
        f"harvester: the archive at {data} holds no trades of 'ETHUSD'; it holds XBTUSD. "
        "`harvester pairs --update` lists the markets\n",
    )


def test_its_help_shows_an_example(harvester: Any) -> None:
    run = harvester("bars", "--help")
    assert run.returncode == 0
    assert "Example: harvester bars" in " ".join(run.stdout.split())
