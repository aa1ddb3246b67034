"""Many pairs at the command line: which, in what order, and what is said at the end."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sample_trades
from backfills import rows_on_disk, serve
from command_line import HARVESTER, own_environment, run_harvester, run_program
from kraken_faults import Faults
from kraken_market import expected, named
from kraken_server import Exchange

SIZES = (1_200, 10, 30, 20, 40)
NAMES = ("XBTUSD", "ETHUSD", "XBTEUR", "XDGUSD", "SOLUSD")
SHORT = ("--since", "2024-01-01", "--until", "2024-06-01")


@pytest.fixture(scope="module")
def exchange() -> Iterator[Exchange]:
    with serve(
        *(named(n, sample_trades.xbtusd_like(size, n)) for n, size in enumerate(SIZES))
    ) as server:
        yield server


@pytest.fixture
def harvester(exchange: Exchange, tmp_path: Path) -> Any:
    def run(
        *arguments: str, typed: str = "", files: int | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        given = {
            "HARVESTER_API_URL": exchange.url,
            "HARVESTER_DATA": "data",
            "HARVESTER_EXCHANGE_RATE": "0",
            "HARVESTER_EXCHANGE_RETRY_WAIT_S": "0.01",
            "HARVESTER_EXCHANGE_GIVE_UP_S": "1",
            "HARVESTER_CANDLES_ROLLUPS": "",
        }
        variables = own_environment() | given | environment
        if files is None:
            return run_harvester(arguments, variables, tmp_path, typed)
        few = ["sh", "-c", f'ulimit -Sn {files}; exec "$@"', "sh"]
        return run_program([*few, *HARVESTER, *arguments], variables, tmp_path, typed)

    return run


def held(folder: Path) -> set[str]:
    return {path.name.removeprefix("pair=") for path in (folder / "data/trades").iterdir()}


def test_all_is_every_pair_that_is_listed(harvester: Any, tmp_path: Path) -> None:
    run = harvester("backfill", "--all", *SHORT)
    assert (run.returncode, run.stdout) == (0, "")
    assert run.stderr.endswith(
        "\n"
        "      pairs  trades  pages\n"
        "done      5   1,300     22\n"
    )  # fmt: skip
    for n, (name, size) in enumerate(zip(NAMES, SIZES, strict=True)):
        want = list(expected(named(n, sample_trades.xbtusd_like(size, n))))
        assert rows_on_disk(tmp_path / "data", name) == want


def test_all_of_one_quote(harvester: Any, tmp_path: Path) -> None:
    run = harvester("backfill", "--all", "--quote", "eur", "-q", *SHORT)
    assert (run.returncode, run.stderr, held(tmp_path)) == (0, "", {"XBTEUR"})


def test_patterns_names_and_a_file_add_up(harvester: Any, tmp_path: Path) -> None:
    text = "\ufeff# what we like\r\n\r\n  doge/usd  # the dog\r\nSOL*\r\n"
    (tmp_path / "pairs.txt").write_bytes(text.encode())
    run = harvester("backfill", "btc/*", "--pairs-file", "pairs.txt", "-q", *SHORT)
    assert (run.returncode, run.stderr) == (0, "")
    assert held(tmp_path) == {"XBTUSD", "XBTEUR", "XDGUSD", "SOLUSD"}


def test_names_are_read_from_stdin(harvester: Any, tmp_path: Path) -> None:
    run = harvester("backfill", "--pairs-file", "-", "-q", *SHORT, typed="ETHUSD\n*/EUR\n")
    assert (run.returncode, run.stderr, held(tmp_path)) == (0, "", {"ETHUSD", "XBTEUR"})


@pytest.mark.parametrize(
    ("arguments", "typed", "message"),
    [
        (
            ["--all", "XBTUSD"],
            "",
            (
                "--all is every pair already: give no names with it\n"
                "Try `harvester backfill --help`."
            ),
        ),
        (
            ["--all", "--pairs-file", "-"],
            "XBTUSD\n",
            (
                "--all is every pair already: give no names with it\n"
                "Try `harvester backfill --help`."
            ),
        ),
        (
            ["--quote", "USD"],
            "",
            (
                "which pairs? Give names, patterns, --pairs-file, or --all --quote USD\n"
                "Try `harvester backfill --help`."
            ),
        ),
        (["*/JPY"], "", "no pair matches '*/JPY': `harvester pairs` lists the markets"),
        (
            ["--pairs-file", "-"],
            "XBTUSD\n# none\nXBTUSX\n",
            (
                "stdin, line 3: no pair is called 'XBTUSX'; similar names: XBTUSD, XBTEUR. "
                "`harvester pairs` lists the markets"
            ),
        ),
        (
            ["--pairs-file", "-"],
            "XBTUSD\n*/JPY # yen\n",
            ("stdin, line 2: no pair matches '*/JPY': `harvester pairs` lists the markets"),
        ),
        (
            ["--pairs-file", "-"],
            "# nothing\n\n",
            "--pairs-file -: it names no pair: give one a line",
        ),
        (
            ["--pairs-file", "none.txt"],
            "",
            "--pairs-file none.txt: can't be read: No such file or directory",
        ),
        (["--pairs-file", "."], "", "--pairs-file .: can't be read: Is a directory"),
    ],
)
def test_what_names_no_pair_is_one_clear_line(
    arguments: list[str], typed: str, message: str, harvester: Any, tmp_path: Path
) -> None:
    run = harvester("backfill", *arguments, typed=typed)
    assert (run.returncode, run.stdout, run.stderr) == (2, "", f"harvester: {message}\n")
    assert not (tmp_path / "data" / "trades").exists()


def test_a_file_that_is_no_text_is_one_clear_line(harvester: Any, tmp_path: Path) -> None:
    (tmp_path / "pairs.bin").write_bytes(b"XBT\xff\xfe")
    run = harvester("backfill", "--pairs-file", "pairs.bin")
    message = "harvester: --pairs-file pairs.bin: can't be read: it is no UTF-8 text\n"
    assert (run.returncode, run.stderr) == (2, message)


def test_a_failed_pair_of_many_is_reported_at_the_end(harvester: Any, tmp_path: Path) -> None:
    several = [named(n, sample_trades.xbtusd_like(20, n)) for n in range(4)]
    several.append(sample_trades.thirteen_decimals(5, 41))
    faults = Faults(script={"ETHUSD": ["denied"]})
    with serve(*several, faults=faults) as exchange:
        run = harvester("backfill", "--all", *SHORT, "--json", HARVESTER_API_URL=exchange.url)
    report = json.loads(run.stdout)
    assert run.returncode == report["exit_status"] == 1
    assert [pair["exit_status"] for pair in report["pairs"]] == [0, 3, 0, 0, 1]
    table, denied, wide = run.stderr[run.stderr.index("        pairs") :].split("failed: ")
    assert table == (
        "        pairs  trades  pages\n"
        "done        3      60     12\n"
        "failed      2       0      2\n"
    )  # fmt: skip
    assert denied == "ETHUSD: the exchange refused: EGeneral:Permission denied\n"
    assert wide.startswith("PEPEXBT: trade [")
    for n in (0, 2, 3):
        want = list(expected(several[n]))
        assert rows_on_disk(tmp_path / "data", several[n].altname) == want


def test_of_many_failures_some_are_listed(harvester: Any) -> None:
    several = [named(n, sample_trades.xbtusd_like(5, n)) for n in range(25)]
    faults = Faults(script={market.altname: ["denied"] for market in several})
    with serve(*several, faults=faults) as exchange:
        run = harvester("backfill", "--all", *SHORT, HARVESTER_API_URL=exchange.url)
    lines = run.stderr.splitlines()
    assert run.returncode == 3
    assert lines[-23:-20] == [
        "        pairs  trades  pages",
        "failed     25       0     25",
        "failed: XBTUSD: the exchange refused: EGeneral:Permission denied",
    ]
    assert lines[-1] == "failed: and 5 more; --json lists all"


def test_hundreds_of_pairs_find_files_enough(harvester: Any) -> None:
    """A connection and a lock are an open file each, and systems begin with few."""
    trades = sample_trades.xbtusd_like(5, 1)
    with serve(*(named(n, trades) for n in range(40)), latency_s=0.1) as exchange:
        jobs = ("--jobs", "40")
        run = harvester(
            "backfill", "--all", *jobs, *SHORT, files=64, HARVESTER_API_URL=exchange.url
        )
    assert run.returncode == 0, run.stderr
    assert "done     40     200" in run.stderr


def test_a_dry_run_shows_each_pair_and_the_total(harvester: Any, tmp_path: Path) -> None:
    options = ("--rate", "0.01", "--jobs", "5", "--dry-run")
    run = harvester("backfill", "--all", *options, *SHORT)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == (
        "pair     ranges  trades  calls  hours   MB\n"
        "XBTUSD        1   1,200      4   0.11  0.0\n"
        "SOLUSD        1      40      3   0.08  0.0\n"
        "XBTEUR        1      30      3   0.08  0.0\n"
        "XDGUSD        1      20      3   0.08  0.0\n"
        "ETHUSD        1      10      3   0.08  0.0\n"
        "5 pairs       5   1,300     16   0.11  0.0\n"
    )
    assert not (tmp_path / "data" / "trades").exists()


def test_a_dry_run_shows_the_shortest_time_with_more_jobs(harvester: Any) -> None:
    options = ("--rate", "100", "--jobs", "1", "--dry-run", "--json")
    run = harvester("backfill", "--all", *options, *SHORT)
    plans = json.loads(run.stdout)
    total = plans["total"]
    hours, best = total.pop("hours"), total.pop("shortest_hours")
    assert (hours, best) == (pytest.approx(16 / 100 / 3600), pytest.approx(4 / 100 / 3600))
    assert total == {
        "pairs": 5,
        "unknown": 0,
        "ranges": 5,
        "trades": 1300,
        "calls": 16,
        "bytes": 14300,
        "jobs": 1,
        "useful_jobs": 4,
    }
    assert plans["pairs"][0] == {
        "pair": "XBTUSD",
        "ranges": 1,
        "trades": 1200,
        "calls": 4,
        "hours": pytest.approx(4 / 100 / 3600),
        "bytes": 13200,
        "redownload_trades": 0,
    }
    assert run.stderr == (
        "0.00 hours with 1 pair at a time; 0.00 with --jobs 4 or more, if the exchange allows "
        "that many requests\n"
    )


def test_a_dry_run_counts_what_it_knows(harvester: Any) -> None:
    several = [named(n, sample_trades.xbtusd_like(20, n)) for n in range(3)]
    faults = Faults(elsewhere={"OHLC": ["denied"]})
    with serve(*several, faults=faults) as exchange:
        options = ("--jobs", "1", "--dry-run", *SHORT)
        run = harvester("backfill", "--all", *options, HARVESTER_API_URL=exchange.url)
    assert run.stdout == (
        "pair                ranges  trades  calls  hours   MB\n"
        "ETHUSD                   1      20      3   0.00  0.0\n"
        "XBTEUR                   1      20      3   0.00  0.0\n"
        "XBTUSD                   1       ?      ?      ?    ?\n"
        "3 pairs, 1 unknown       3      40      6   0.00  0.0\n"
    )


def test_a_dry_run_of_stored_ranges_requests_only_the_clock(
    harvester: Any, exchange: Exchange
) -> None:
    harvester("backfill", "ETHUSD", "-q", *SHORT)
    calls = len(exchange.calls)
    run = harvester("backfill", "ETHUSD", "--dry-run", *SHORT)
    assert run.stdout == (
        "pair    ranges  trades  calls  hours   MB\n"
        "ETHUSD       0       0      0   0.00  0.0\n"
    )  # fmt: skip
    assert {call.path for call in exchange.calls[calls:]} == {"/0/public/Time"}
