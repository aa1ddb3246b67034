"""`[refresh] notify_command`: a night that fails is reported once, whatever failed."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kraken_market import Clock
from kraken_server import Exchange
from nightly_runs import DAY_NS, FIRST_NS, Nights, daily
from process import Ended, ended, wait_for

from harvester.cli.refresh import run_notify_command
from harvester.storage.locks_and_requests import locked

NIGHTLY = Path(__file__).parents[2] / "docs" / "nightly.md"
SAVE = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read() + '\\n\\n')"
UNREACHABLE = "http://me:secret@127.0.0.1:9"


@pytest.fixture
def nights(tmp_path: Path) -> Iterator[Nights]:
    """Ten days have passed, nothing is stored."""
    clock = Clock(FIRST_NS + 10 * DAY_NS)
    with Exchange([daily("XBTUSD", 20, 12)], clock=clock, page_size=100) as exchange:
        yield Nights(tmp_path / "data", exchange, clock)


class Notified:
    """A notify_command that saves its stdin, and what it received."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.command = [sys.executable, "-c", SAVE, str(file)]

    @property
    def messages(self) -> list[Any]:
        text = self.file.read_text() if self.file.exists() else ""
        return [json.loads(message) for message in text.split("\n\n") if message]


@pytest.fixture
def notified(tmp_path: Path) -> Notified:
    return Notified(tmp_path / "notified.json")


@pytest.fixture
def refresh(nights: Nights, notified: Notified) -> Callable[..., Ended]:
    """Runs `harvester refresh`; environment variables are passed by name."""

    def run(*words: str, command: list[str] | None = None, **environment: str) -> Ended:
        machine = nights.machine
        variables = {"HARVESTER_REFRESH_NOTIFY_COMMAND": shlex.join(command or notified.command)}
        machine.settings |= variables | {"HARVESTER_EXCHANGE_GIVE_UP_S": "0.2"} | environment
        return machine.run(["refresh", *words])

    return run


Refresh = Callable[..., Ended]


def test_a_night_that_ends_well_notifies_nobody(refresh: Refresh, notified: Notified) -> None:
    assert refresh("XBTUSD").status == 0
    assert notified.messages == []


def test_a_night_whose_time_is_up_notifies_nobody(refresh: Refresh, notified: Notified) -> None:
    assert refresh("XBTUSD", "--max-minutes", "0.0000001").status == 0
    assert notified.messages == []


def test_the_command_receives_what_json_prints(
    refresh: Refresh, notified: Notified, nights: Nights
) -> None:
    done = refresh("XBTUSD", "FOO/USD", "--json", "-q")
    assert done.status == 2
    [message] = notified.messages
    assert message.pop("archive") == str(nights.folder)
    assert message.pop("host") == os.uname().nodename
    text = message.pop("text")
    assert message == json.loads(done.out)
    where = f"on {os.uname().nodename} of {nights.folder}"
    assert text == (
        f"harvester: the refresh {where} ended with status 2\n"
        "FOO/USD: failed: 0 trades in 0 pages; no pair is called 'FOO/USD'. "
        "`harvester pairs` lists the markets"
    )


def test_an_unreachable_exchange_is_notified_without_its_password(
    refresh: Refresh, notified: Notified
) -> None:
    assert refresh("XBTUSD").status == 0
    done = refresh(HARVESTER_API_URL=UNREACHABLE)
    [message] = notified.messages
    assert done.status == message["exit_status"] == message["pairs"][0]["exit_status"] == 3
    assert "127.0.0.1:9" in message["text"]
    assert "secret" not in json.dumps(message)


def test_another_running_refresh_is_notified(
    refresh: Refresh, notified: Notified, nights: Nights
) -> None:
    with locked(nights.folder / "locks", "_refresh", doing="testing"):
        assert refresh("XBTUSD").status == 5
    [message] = notified.messages
    assert (message["exit_status"], message["pairs"]) == (5, [])
    assert message["error"] in message["text"]


def test_a_run_ended_by_a_signal_is_notified(nights: Nights, notified: Notified) -> None:
    nights.exchange.faults.push(None, None, None, "hang:60", pair="XBTUSD")
    machine = nights.machine
    machine.settings["HARVESTER_REFRESH_NOTIFY_COMMAND"] = shlex.join(notified.command)
    process = machine.fork(["refresh", "XBTUSD"])
    wait_for(lambda: nights.exchange.faults.done["hang"] > 0)
    process.send_signal(signal.SIGTERM)
    assert ended(process).status == 130
    [message] = notified.messages
    assert message["pairs"][0]["state"] == "interrupted"


def test_a_run_without_anything_to_do_is_notified(refresh: Refresh, notified: Notified) -> None:
    done = refresh()
    assert done.status == 2
    [message] = notified.messages
    assert (message["exit_status"], message["pairs"]) == (2, [])
    assert message["error"].startswith("nothing to refresh: the archive at ")
    assert done.err.count("nothing to refresh") == 1


def written(folder: Path, text: str) -> str:
    """Write a configuration file; returns its path."""
    file = folder / "mine.toml"
    file.write_text(text)
    return str(file)


@pytest.mark.parametrize(
    "wrong", ["[exchange]\njobs = 'many'\n", "[exchange]\nspeed = 1\n", "[refresher]\n"]
)
def test_another_wrong_setting_is_notified(
    wrong: str, nights: Nights, notified: Notified, tmp_path: Path
) -> None:
    setting = f"[refresh]\nnotify_command = {json.dumps(notified.command)}\n"
    done = nights.machine.run(["refresh", "--config", written(tmp_path, wrong + setting)])
    assert done.status == 2
    [message] = notified.messages
    assert (message["exit_status"], message["archive"]) == (2, None)
    assert "mine.toml" in message["text"]


@pytest.mark.parametrize(
    "text", ["[refresh\n", "refresh = 5\n", "[refresh]\nnotify_command = 5\nnotify = 1\n"]
)
def test_a_file_that_names_no_command_is_the_only_error(
    text: str, nights: Nights, tmp_path: Path
) -> None:
    done = nights.machine.run(["refresh", "--config", written(tmp_path, text)])
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("harvester: ")
    assert len(done.err.splitlines()) == 1


# --- a command that fails -------------------------------------------------------------------------


WARNING = "nobody was notified: [refresh] notify_command ("


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["/nowhere/notify"], "/nowhere/notify) can't be run: No such file or directory"),
        (["/"], "/) can't be run: Permission denied"),
        (["sh", "-c", "exit 7"], "sh) ended with status 7"),
        (
            ["sh", "-c", "echo first >&2; printf 'no \\033[31mroute' >&2; echo out; exit 1"],
            r"sh) ended with status 1: no \x1b[31mroute",
        ),
    ],
)
def test_a_command_that_fails_is_one_line_and_changes_no_status(
    command: list[str], why: str, refresh: Refresh
) -> None:
    done = refresh("FOO/USD", "--json", "-q", command=command)
    assert done.status == 2
    assert json.loads(done.out)["exit_status"] == 2
    warnings = [line for line in done.err.splitlines() if "FOO/USD" not in line]
    assert warnings == [WARNING + why]


def test_a_command_may_leave_its_input_unread() -> None:
    assert run_notify_command(["true"], "x" * 1_000_000) is None


def test_a_command_that_does_not_end_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        script = f"sh -c 'exec tail -f /dev/null > {pipe}' & wait"
        failure = run_notify_command(["sh", "-c", script], "x" * 1_000_000, limit_s=1)
        assert failure == "did not end within 1 s and was killed"

        def has_no_writer() -> bool:
            try:
                return os.read(reader, 1) == b""
            except BlockingIOError:
                return False

        wait_for(has_no_writer)
    finally:
        os.close(reader)


def test_what_a_command_starts_may_live_on_and_is_not_waited_for(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"tail -f /dev/null & echo $! > {pid}"
    try:
        assert run_notify_command(["sh", "-c", script], "{}", limit_s=60) is None
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)


# --- texts from outside ---------------------------------------------------------------------------


def test_no_shell_reads_the_command_or_the_message(
    refresh: Refresh, notified: Notified, tmp_path: Path
) -> None:
    odd = f"$(touch {tmp_path}/made); `touch {tmp_path}/made`"
    command = [*notified.command, odd]
    assert refresh(odd, "XBTUSD", command=command).status == 2
    assert len(notified.messages) == 1
    assert not (tmp_path / "made").exists()


def test_marks_that_are_not_printable_are_escaped(refresh: Refresh, notified: Notified) -> None:
    assert refresh("FOO\x1b[31m\u202e/USD").status == 2
    [message] = notified.messages
    assert all(line.isprintable() for line in message["text"].split("\n"))
    assert notified.file.read_text().replace("\n", "").isprintable()


def test_a_name_that_is_no_utf8_is_notified(refresh: Refresh, notified: Notified) -> None:
    folder = os.fsdecode(b"/nowhere/\xff")
    assert refresh("XBTUSD", HARVESTER_DATA=folder, HARVESTER_EXCHANGE_URL=UNREACHABLE).status != 0
    [message] = notified.messages
    assert message["archive"] == "/nowhere/?"


def test_the_arguments_of_the_command_are_not_shown(nights: Nights) -> None:
    machine = nights.machine
    machine.settings["HARVESTER_REFRESH_NOTIFY_COMMAND"] = "curl -H 'Authorization: secret'"
    shown = machine.run(["config"]).out + machine.run(["config", "--json"]).out
    assert "curl, ..." in shown
    assert "secret" not in shown
    machine.settings["HARVESTER_REFRESH_NOTIFY_COMMAND"] = "curl 'secret"
    refused = machine.run(["config"])
    assert (refused.status, refused.err) == (
        2,
        "harvester: HARVESTER_REFRESH_NOTIFY_COMMAND is no command: it must be a program and its "
        'arguments, such as ["/home/me/notify", "ops"], or an empty list\n',
    )


# --- the examples of docs/nightly.md --------------------------------------------------------------


def examples(language: str) -> list[str]:
    section = NIGHTLY.read_text().split("## When a night fails")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def example(title: str) -> list[str]:
    """The command that an example for a service configures."""
    [text] = [text for text in examples("toml") if title in text]
    command: list[str] = tomllib.loads(text)["refresh"]["notify_command"]
    return command


MESSAGE = json.dumps({"text": "ended with status 3\nXBTUSD: <none> & more", "exit_status": 3})


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`mail` and `curl` that save their arguments and their input in this folder."""
    if shutil.which("jq") is None:
        pytest.skip("jq, which the examples use, is not installed")
    for name in ("mail", "curl"):
        tool = tmp_path / "bin" / name
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/{name}\ncat > {tmp_path}/sent\n'
        )
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=os.pathsep)
    return tmp_path


def test_the_example_for_mail_sends_the_text(tools: Path) -> None:
    assert run_notify_command(example("mail"), MESSAGE) is None
    assert (tools / "sent").read_text() == "ended with status 3\nXBTUSD: <none> & more\n"
    assert (tools / "mail").read_text() == "-s\nharvester refresh failed\nme@example.org\n"


def test_the_example_for_ntfy_sends_the_text(tools: Path) -> None:
    assert run_notify_command(example("ntfy"), MESSAGE) is None
    assert (tools / "sent").read_text() == "ended with status 3\nXBTUSD: <none> & more\n"
    assert (tools / "curl").read_text().splitlines()[-1] == "https://ntfy.sh/my-topic"


def test_the_example_for_slack_sends_its_json(tools: Path) -> None:
    [script] = examples("sh")
    program = tools / "harvester-to-slack"
    program.write_text(script)
    program.chmod(0o755)
    assert Path(example("slack")[0]).name == program.name
    assert run_notify_command([str(program)], MESSAGE) is None
    assert json.loads((tools / "sent").read_text()) == {
        "text": "ended with status 3\nXBTUSD: &lt;none&gt; &amp; more"
    }


def test_the_example_of_the_message_has_the_keys_of_a_message(
    refresh: Refresh, notified: Notified
) -> None:
    refresh("FOO/USD")
    [shown] = map(json.loads, examples("json"))
    assert set(shown) <= set(notified.messages[0])
