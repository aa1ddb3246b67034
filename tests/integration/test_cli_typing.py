"""What is easily mistyped: folders, the places of options, numbers that are left out."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import sample_trades
from backfills import Backfill, serve
from command_line import own_environment, run_harvester, run_program

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an archive of one pair in `data`."""
    folder = tmp_path_factory.mktemp("made")
    with serve(sample_trades.market(sample_trades.xbtusd_like(2_000, 41))) as exchange:
        Backfill(exchange.url, folder / "data").only("XBTUSD")
    return folder


@pytest.fixture
def run(made: Path) -> Run:
    def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return run_harvester(words, own_environment(COLUMNS="80") | environment, made)

    return command


READING = [
    "status",
    "status --runs",
    "status --digest",
    "ohlc XBT/USD -i 1h",
    "bars XBT/USD --trades 5",
    "trades XBT/USD",
    "chart XBT/USD -i 1h",
    "sql 'SELECT 1'",
    "sql --db views.db",
    "verify",
    "compact",
    "rollup",
    "serve --port 0",
]


@pytest.mark.parametrize("command", READING)
def test_a_folder_that_is_not_there_is_named(run: Run, made: Path, command: str) -> None:
    done = run(*shlex.split(command), "--data", "dta")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "harvester: --data: the folder 'dta' does not exist; give the folder of the archive\n"
    )
    assert sorted(path.name for path in made.iterdir()) == ["data"]


def test_an_error_names_the_variable_or_file_that_names_the_folder(
    run: Run, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[archive]\npath = "dta"\n')
    for named, done in (
        ("HARVESTER_DATA", run("status", HARVESTER_DATA="dta")),
        (str(config), run("status", "--config", str(config))),
    ):
        assert done.returncode == 2
        assert done.stderr.startswith(f"harvester: {named}: the folder 'dta' does not exist")


def test_a_file_is_no_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("status", "--data", str(tmp_path / "file"))
    assert (done.returncode, "file' is not a folder" in done.stderr) == (2, True)


def test_an_option_before_the_command_is_an_error_that_shows_the_right_order(run: Run) -> None:
    done = run("--data", "a b", "status", "XBTUSD", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    right = "harvester status XBTUSD --json --data 'a b'"
    assert done.stderr.splitlines()[0] == (f"harvester: --data goes after the command: `{right}`")


def test_the_words_in_their_right_order_work(run: Run) -> None:
    wrong = run("-d", "data", "status", "--json")
    right = shlex.split(wrong.stderr.split("`")[1])
    done = run(*right[1:])
    assert (right[0], done.returncode) == ("harvester", 0)
    assert json.loads(done.stdout)[0]["pair"] == "XBTUSD"


def test_an_option_that_no_command_has_is_unknown(run: Run) -> None:
    done = run("--dta", "x", "status")
    assert done.stderr.startswith("harvester: No such option '--dta'")


def test_harvester_alone_prints_its_help_once(run: Run) -> None:
    alone, asked = run(), run("--help")
    assert (alone.returncode, alone.stdout) == (2, "")
    assert alone.stderr == asked.stdout
    assert alone.stderr.count("Usage:") == 1


RUNS = [
    ["status", "--runs"],
    ["status", "--runs", "3"],
    ["status", "--runs=3"],
    ["status", "XBTUSD", "--runs"],
    ["status", "--runs", "XBTUSD"],
    ["status", "--runs", "3", "XBTUSD"],
    ["status", "XBTUSD", "--runs", "3"],
    ["status", "--runs", "--data", "data"],
]


@pytest.mark.parametrize("words", RUNS)
def test_the_number_of_runs_may_be_left_out_anywhere(run: Run, words: list[str]) -> None:
    done = run(*words, "--json")
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


@pytest.mark.parametrize(
    ("words", "every_s", "pairs"),
    [
        (["--watch"], 5.0, ()),
        (["--watch", "2"], 2.0, ()),
        (["--watch", "0.5", "XBTUSD"], 0.5, ("XBTUSD",)),
        (["XBTUSD", "--watch"], 5.0, ("XBTUSD",)),
        (["--watch", "XBTUSD"], 5.0, ("XBTUSD",)),
        (["--watch", "XBT/USD", "ETHEUR"], 5.0, ("XBT/USD", "ETHEUR")),
        (["XBTUSD", "--watch", "7"], 7.0, ("XBTUSD",)),
        (["--watch=7", "XBTUSD"], 7.0, ("XBTUSD",)),
        (["--watch", "-q", "XBTUSD"], 5.0, ("XBTUSD",)),
        (["--watch", "--", "7"], 5.0, ("7",)),
    ],
)
def test_the_seconds_of_a_watch_may_be_left_out_anywhere(
    words: list[str],
    every_s: float,
    pairs: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from harvester.cli import status
    from harvester.cli.main import cli

    asked: list[tuple[float, tuple[str, ...]]] = []

    def watch(_archive: object, names: tuple[str, ...], seconds: float, **_: object) -> int:
        asked.append((seconds, names))
        return 0

    monkeypatch.setattr(status, "watch_status", watch)
    cli(["status", *words], prog_name="harvester", standalone_mode=False)
    assert asked == [(every_s, pairs)]


# --- completion ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("harvester oh", ["ohlc"]),
        ("harvester ohlc xb", ["XBT/USD"]),
        ("harvester ohlc XBTU", ["XBTUSD"]),
        ("harvester status --data data x", ["XBT/USD"]),
        ("harvester status --data nowhere x", []),
    ],
)
def test_a_shell_completes_commands_and_pairs(words: str, offered: list[str], run: Run) -> None:
    place = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = run(_HARVESTER_COMPLETE="bash_complete", **place)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.removeprefix("plain,") for line in done.stdout.splitlines() if line] == offered


@pytest.mark.parametrize(
    ("shell", "registers"),
    [
        ("bash", "complete -o nosort -F {function} {program}"),
        ("zsh", "compdef {function} {program}"),
        ("fish", "--command {program} "),
    ],
)
def test_completion_prints_a_script_for_both_names_of_the_program(
    shell: str, registers: str, run: Run
) -> None:
    script = run("completion", shell).stdout
    for program in ("harvester", "kraken-harvester"):
        function = f"_{program.replace('-', '_')}_completion"
        assert registers.format(function=function, program=program) in script
    # The program reads this variable, whatever it was called as.
    assert set(re.findall(r"_[A-Z_]+_COMPLETE", script)) == {"_HARVESTER_COMPLETE"}


def test_bash_takes_the_script(run: Run, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(run("completion", "bash").stdout + "complete -p kraken-harvester\n")
    done = run_program(["bash", str(script)], own_environment())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "complete -o nosort -F _kraken_harvester_completion kraken-harvester\n"
