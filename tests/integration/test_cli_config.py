"""`harvester config` and `harvester schedule`, as a user meets them."""

from __future__ import annotations

import errno
import json
import os
import plistlib
import pwd
import re
import signal
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from command_line import own_environment, run_harvester

from harvester.cli import config, output
from harvester.config import KEYS, default_file_text
from harvester.errors import HarvesterError, UsageError

PROGRAM = str(Path(sys.executable).parent / "harvester")


class Run(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def harvester(tmp_path: Path) -> Callable[..., Run]:
    def run(*arguments: str, **environment: str) -> Run:
        variables = own_environment(HOME=str(tmp_path)) | environment
        done = run_harvester(arguments, variables, tmp_path)
        return Run(done.returncode, done.stdout, done.stderr)

    return run


# harvester config


def test_config_shows_each_value_and_its_origin(
    harvester: Callable[..., Run], tmp_path: Path
) -> None:
    (tmp_path / "mine.toml").write_text(
        '[refresh]\npairs = ["A/B", "C/D", "E/F", "G/H", "I/J", "K/L"]\n[candles]\nrollups = []\n'
    )
    run = harvester(
        *("config", "--config", "mine.toml", "--data", "/srv/data"),
        HARVESTER_EXCHANGE_RATE="0.25",
        HARVESTER_API_URL="http://127.0.0.1:1",
    )
    assert (run.status, run.err) == (0, "")
    lines = [re.split(r"  +", line) for line in run.out.splitlines()]
    assert lines[0] == ["key", "value", "from", "what it is for"]
    found = {line[0]: tuple(line[1:3]) for line in lines[1:]}
    assert found == {
        "archive.path": ("/srv/data", "option"),
        "archive.flush_s": ("30", "default"),
        "archive.flush_rows": ("250000", "default"),
        "exchange.url": ("http://127.0.0.1:1", "HARVESTER_API_URL"),
        "exchange.user_agent": ("kraken-harvester", "default"),
        "exchange.rate": ("0.25", "HARVESTER_EXCHANGE_RATE"),
        "exchange.jobs": ("8", "default"),
        "exchange.timeout_s": ("30", "default"),
        "exchange.retry_wait_s": ("5", "default"),
        "exchange.give_up_s": ("600", "default"),
        "exchange.ca_file": ("none", "default"),
        "refresh.pairs": ("A/B, C/D, E/F, G/H, and 2 more", "mine.toml"),
        "refresh.settle_s": ("60", "default"),
        "refresh.notify_command": ("none", "default"),
        "candles.rollups": ("none", "mine.toml"),
        "candles.memory_limit": ("2GB", "default"),
    }
    assert {line[0]: line[3] for line in lines[1:]} == {key.name: key.help for key in KEYS}


def test_config_as_json_has_all_settings(harvester: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[exchange]\njobs = 3\n")
    shown = json.loads(harvester("config", "--json").out)
    assert shown["file"] == str(tmp_path / "config.toml")
    assert [setting["key"] for setting in shown["settings"]] == [key.name for key in KEYS]
    [jobs] = [setting for setting in shown["settings"] if setting["key"] == "exchange.jobs"]
    assert jobs == {
        "key": "exchange.jobs",
        "value": 3,
        "origin": "config.toml",
        "default": 8,
        "allowed": "a whole number, 1 or more",
        "variables": ["HARVESTER_EXCHANGE_JOBS"],
        "why": "Number of pairs that are downloaded in parallel. Each has its own rate limit.",
    }


def test_config_without_a_file_says_so_in_json(harvester: Callable[..., Run]) -> None:
    assert json.loads(harvester("config", "--json").out)["file"] is None


def test_on_a_terminal_the_last_cells_stand_in_their_column(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "59")
    text = (
        "key    value  from     what it is for\n"
        "a.one  1      default  seconds before asking again, doubling to 60 with jitter\n"
        "a.two  2      option   short"
    )
    assert config._fold_last_column(text) == (
        "key    value  from     what it is for\n"
        "a.one  1      default  seconds before asking again,\n"
        "                       doubling to 60 with jitter\n"
        "a.two  2      option   short"
    )


def test_a_misspelt_variable_ends_a_command(harvester: Callable[..., Run]) -> None:
    run = harvester("config", HARVESTER_ARCHIV_PATH="data")
    assert run == Run(
        2,
        "",
        "harvester: HARVESTER_ARCHIV_PATH is not a setting; is HARVESTER_ARCHIVE_PATH meant? there "
        "are HARVESTER_CONFIG, HARVESTER_DATA, HARVESTER_API_URL, and "
        "HARVESTER_<SECTION>_<KEY> for each key of config.toml\n",
    )


def test_a_wrong_variable_of_an_option_is_named_itself(harvester: Callable[..., Run]) -> None:
    run = harvester("status", HARVESTER_DATA=" ")
    assert run == Run(
        2,
        "",
        "harvester: HARVESTER_DATA is ' ': it must be a text that is not empty "
        "and has no NUL character\n",
    )


def test_a_rollup_of_the_calendar_is_refused_before_anything_is_done(
    harvester: Callable[..., Run], tmp_path: Path
) -> None:
    (tmp_path / "config.toml").write_text('[candles]\nrollups = ["1mo"]\n')
    run = harvester("backfill", "XBT/USD")
    assert run == Run(
        2,
        "",
        "harvester: config.toml: [candles] rollups is ['1mo']: it must be a list of lengths in "
        'ms, s, m, h, d or w, such as ["1m", "1h"], or an empty one\n',
    )


# harvester config --init


@pytest.mark.parametrize(
    ("arguments", "environment", "file"),
    [
        ([], {}, "config.toml"),
        (["mine.toml"], {}, "mine.toml"),
        (["--config", "other.toml"], {}, "other.toml"),
        ([], {"HARVESTER_CONFIG": "third.toml"}, "third.toml"),
    ],
)
def test_init_writes_a_file_that_changes_nothing(
    arguments: list[str],
    environment: dict[str, str],
    file: str,
    harvester: Callable[..., Run],
    tmp_path: Path,
) -> None:
    run = harvester("config", "--init", *arguments, **environment)
    assert run == Run(0, "", f"{file} is written: every key with its default\n")
    assert [path.name for path in tmp_path.iterdir()] == [file]
    assert (tmp_path / file).read_text() == default_file_text()
    shown = json.loads(harvester("config", "--config", file, "--json").out)["settings"]
    assert all(setting["value"] == setting["default"] for setting in shown)
    assert {setting["origin"] for setting in shown} == {file}


def test_init_never_writes_over_a_file(harvester: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("not even TOML")
    run = harvester("config", "--init")
    assert run == Run(
        2,
        "",
        "harvester: config.toml already exists and is not overwritten: remove it, "
        "or give another name\n",
    )
    assert (tmp_path / "config.toml").read_text() == "not even TOML"


def test_init_never_writes_over_a_link_that_leads_nowhere(
    harvester: Callable[..., Run], tmp_path: Path
) -> None:
    (tmp_path / "config.toml").symlink_to("elsewhere.toml")
    assert harvester("config", "--init").status == 2
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


def test_init_in_a_missing_folder_is_an_error(harvester: Callable[..., Run]) -> None:
    run = harvester("config", "--init", "no/config.toml")
    assert run == Run(1, "", "harvester: can't write no/config.toml: No such file or directory\n")


def test_a_file_that_appears_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "config.toml"
    put = output._publish

    def late(temporary: Path, path: Path) -> None:
        target.write_text("theirs")
        put(temporary, path)

    monkeypatch.setattr(output, "_publish", late)
    with pytest.raises(UsageError):
        output.write_new(target, "ours")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [
        ("config.toml", "theirs")
    ]


def test_a_disk_without_links_gets_the_file_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    output.write_new(tmp_path / "one", "text")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("one", "text")]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HarvesterError) as caught:
        output.write_new(tmp_path / "one", "text")
    assert str(caught.value) == f"can't write {tmp_path}/one: No space left on device"
    assert list(tmp_path.iterdir()) == []


def test_a_kill_before_the_name_is_given_leaves_no_part_of_the_file(tmp_path: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from harvester.cli.output import write_new\n"
        "os.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"write_new(Path({str(tmp_path / 'config.toml')!r}), 'text')"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "config.toml").exists()


def test_its_mode_is_that_of_any_new_file(tmp_path: Path) -> None:
    output.write_new(tmp_path / "one", "text")
    (tmp_path / "two").touch()
    assert (tmp_path / "one").stat().st_mode == (tmp_path / "two").stat().st_mode


# harvester schedule


EMPTY = (
    "nothing is stored in {}: refresh ends with status 2 until backfill has run, or [refresh] "
    "pairs names some\n"
)


def test_the_unit_runs_this_installation_on_this_archive(
    harvester: Callable[..., Run], tmp_path: Path
) -> None:
    (tmp_path / "config.toml").write_text('[archive]\npath = "kept/here"\n')
    run = harvester("schedule", "systemd", "--at", "23:05")
    assert (run.status, run.err) == (0, EMPTY.format(tmp_path / "kept" / "here"))
    assert run.out.startswith("# harvester.service\n")
    assert (
        f"\nExecStart={PROGRAM} refresh --data {tmp_path}/kept/here "
        f"--config {tmp_path}/config.toml\n"
    ) in run.out
    assert f"\nWorkingDirectory={tmp_path}\n" in run.out
    assert "\nOnCalendar=*-*-* 23:05:00\n" in run.out


def test_options_and_their_variables_are_taken_along_and_others_are_named(
    harvester: Callable[..., Run], tmp_path: Path
) -> None:
    run = harvester(
        *("schedule", "launchd", "-d", "../x/data"),
        HARVESTER_API_URL="http://127.0.0.1:1",
        HARVESTER_CONFIG="mine.toml",
        HARVESTER_EXCHANGE_RATE="0",
        HARVESTER_CANDLES_ROLLUPS="",
    )
    assert (run.status, run.out) == (2, "")
    (tmp_path / "mine.toml").touch()
    run = harvester(
        *("schedule", "launchd", "-d", "../x/data"),
        HARVESTER_API_URL="http://127.0.0.1:1",
        HARVESTER_CONFIG="mine.toml",
        HARVESTER_EXCHANGE_RATE="0",
        HARVESTER_CANDLES_ROLLUPS="",
    )
    assert (run.status, run.err) == (
        0,
        "HARVESTER_CANDLES_ROLLUPS, HARVESTER_EXCHANGE_RATE: set here, but not at night; write "
        "it into config.toml\n" + EMPTY.format(tmp_path.parent / "x" / "data"),
    )
    agent = plistlib.loads(run.out.encode())
    assert agent["ProgramArguments"][4:] == [
        *(PROGRAM, "refresh", "--data", str(tmp_path.parent.resolve() / "x" / "data")),
        *("--config", str(tmp_path / "mine.toml"), "--api-url", "http://127.0.0.1:1"),
    ]
    assert agent["StandardOutPath"] == str(tmp_path / "Library" / "Logs" / "harvester.log")


def test_without_a_time_some_minute_after_four_is_taken(harvester: Callable[..., Run]) -> None:
    agent = plistlib.loads(harvester("schedule", "launchd").out.encode())
    at = agent["StartCalendarInterval"]
    assert (at["Hour"], at["Minute"] in range(60)) == (4, True)


def test_the_system_runs_it_as_whoever_printed_it(harvester: Callable[..., Run]) -> None:
    run = harvester("schedule", "systemd", "--system")
    assert f"\nUser={pwd.getpwuid(os.geteuid()).pw_name}\n" in run.out


def test_units_are_written_into_a_folder_and_never_over_others(
    harvester: Callable[..., Run], tmp_path: Path
) -> None:
    run = harvester("schedule", "systemd", "--at", "4:07", "-o", "new/units")
    assert run == Run(
        0,
        "",
        "new/units/harvester.service is written; its first lines say how to install it\n"
        "new/units/harvester.timer is written\n" + EMPTY.format(tmp_path / "data"),
    )
    timer = tmp_path / "new" / "units" / "harvester.timer"
    assert "OnCalendar=*-*-* 04:07:00\n" in timer.read_text()
    (tmp_path / "new" / "units" / "harvester.service").unlink()
    run = harvester("schedule", "systemd", "--at", "5:07", "-o", "new/units")
    assert run == Run(
        2,
        "",
        "harvester: new/units/harvester.timer already exists and is not overwritten: "
        "remove it, or give another name\n",
    )
    assert [path.name for path in (tmp_path / "new" / "units").iterdir()] == ["harvester.timer"]


def test_units_of_which_one_can_not_be_written_leave_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = output._publish

    def full(staged: Path, path: Path) -> None:
        if path.name == "harvester.timer":
            raise OSError(errno.ENOSPC, "No space left on device")
        publish(staged, path)

    units = {"harvester.service": "[Service]", "harvester.timer": "[Timer]"}
    with monkeypatch.context() as patch:
        patch.setattr(output, "_publish", full)
        with pytest.raises(HarvesterError, match="No space left"):
            config._write_units(tmp_path, units)
    assert list(tmp_path.iterdir()) == []
    assert len(config._write_units(tmp_path, units)) == 2


WRONG: list[tuple[list[str], str]] = [
    (["cron", "--system"], "--system is for systemd, not for cron: leave it out"),
    (
        ["cron", "--at", "noon"],
        "'noon' is not a time of day: give hours and minutes, such as 04:17",
    ),
    (
        ["anacron"],
        "Invalid value for 'cron|systemd|launchd': 'anacron' is not one of 'cron', 'systemd', "
        "'launchd'.\nTry `harvester schedule --help`.",
    ),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG)
def test_arguments_that_make_no_sense_are_refused(
    arguments: list[str], said: str, harvester: Callable[..., Run]
) -> None:
    assert harvester("schedule", *arguments) == Run(2, "", f"harvester: {said}\n")


def test_a_folder_that_can_not_be_made_is_an_error(
    harvester: Callable[..., Run], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    run = harvester("schedule", "cron", "-o", "file/units")
    assert run == Run(1, "", "harvester: can't make file/units: Not a directory\n")


# How this installation is started.


def _program(path: Path, monkeypatch: pytest.MonkeyPatch, *, mode: int = 0o755) -> tuple[str, ...]:
    path.parent.mkdir(exist_ok=True)
    path.touch()
    path.chmod(mode)
    monkeypatch.setattr(sys, "argv", [str(path)])
    return config.program()


def test_the_command_that_was_typed_is_the_one_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bin" / "harvester"
    assert _program(path, monkeypatch) == (str(path),)


@pytest.mark.parametrize("name", ["pytest", "__main__.py"])
def test_another_program_is_not_taken_for_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _program(tmp_path / name, monkeypatch) == (PROGRAM,)


def test_without_an_installed_command_python_runs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    found = _program(tmp_path / "x.py", monkeypatch)
    assert found == (sys.executable, "-m", "harvester")
    done = subprocess.run([*found, "--version"], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout[:10]) == (0, b"harvester ")


def test_the_file_that_init_writes_is_toml() -> None:
    tables: dict[str, Any] = tomllib.loads(default_file_text())
    assert list(tables) == ["archive", "exchange", "refresh", "candles"]
