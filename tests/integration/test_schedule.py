"""Units for the nightly run: their whole text, and names that are hard to write down."""

from __future__ import annotations

import os
import plistlib
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harvester.errors import (
    ArchiveIncomplete,
    ArchiveLocked,
    BadTime,
    ExchangeError,
    HarvesterError,
    Interrupted,
    UsageError,
)
from harvester.operations.schedulers import ScheduledJob, cron, launchd, parse_clock, systemd

DATA = "/srv/market data"
PLAIN = ScheduledJob(
    command=("/opt/h/bin/harvester", "refresh", "--data", DATA, "--config", "/srv/config.toml"),
    folder="/srv",
    data=DATA,
    hour=4,
    minute=7,
)
LOGGED = replace(PLAIN, log="/var/log/harvester.log")

CRON = """\
# harvester, every night. To install, write the line below into what `crontab -e` opens.
# It retries if the exchange failed. If it ends with another status than 0, it prints the status,
# which cron mails.
# The list of exit statuses, and what to do on each: docs/nightly.md
7 4 * * * cd /srv || exit; for wait in 600 600 600 600 600 0; do nice -n 10 \
/opt/h/bin/harvester refresh --data '/srv/market data' --config /srv/config.toml \
>> /var/log/harvester.log 2>&1; s=$?; test $s -eq 3 || break; sleep $wait; done; \
test $s -eq 0 || echo harvester refresh ended with status $s, see /var/log/harvester.log
"""

USER_SERVICE = """\
# harvester, every night. To install, put harvester.service and harvester.timer into
# ~/.config/systemd/user (`-o DIR` writes them), then:
#   systemctl --user daemon-reload
#   systemctl --user enable --now harvester.timer
#   loginctl enable-linger   (so that it runs while nobody is logged in)
# To run it now: systemctl --user start harvester.service
# When it runs next: systemctl --user list-timers harvester.timer
# Its output: journalctl --user -u harvester.service
# The list of exit statuses, and what to do on each: docs/nightly.md

[Unit]
Description=harvester brings the archive up to date
RequiresMountsFor="/srv/market data"
StartLimitIntervalSec=21600
StartLimitBurst=6

[Service]
Type=exec
WorkingDirectory=/srv
ExecStart=/opt/h/bin/harvester refresh --data "/srv/market data" --config /srv/config.toml
# Retried: 3 (the exchange failed) and a kill. Not: 1 (system error), 2 (usage error),
# 4 (gaps or damage), 5 (another run holds the lock). 130: it was interrupted.
Restart=on-failure
RestartSec=600
RestartPreventExitStatus=1 2 4 5
SuccessExitStatus=130
TimeoutStopSec=120

Nice=10
IOSchedulingClass=idle

NoNewPrivileges=true
LockPersonality=true
RestrictNamespaces=true
RestrictRealtime=true
RestrictSUIDSGID=true
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
SystemCallArchitectures=native
# A user's unit can be kept away from the disk only if the kernel lets users create
# namespaces, and many do not: `harvester schedule systemd --system` works everywhere.
"""

SYSTEM_SERVICE = """\
# harvester, every night. To install, put harvester.service and harvester.timer into
# /etc/systemd/system (`-o DIR` writes them), then:
#   mkdir -p '/srv/market data'
#   sudo systemctl daemon-reload
#   sudo systemctl enable --now harvester.timer
# To run it now: sudo systemctl start harvester.service
# When it runs next: sudo systemctl list-timers harvester.timer
# The list of exit statuses, and what to do on each: docs/nightly.md

[Unit]
Description=harvester brings the archive up to date
Wants=network-online.target
After=network-online.target
RequiresMountsFor="/srv/market data"
StartLimitIntervalSec=21600
StartLimitBurst=6

[Service]
Type=exec
User=ann
WorkingDirectory=/srv
ExecStart=/opt/h/bin/harvester refresh --data "/srv/market data" --config /srv/config.toml
StandardOutput=append:/var/log/harvester.log
StandardError=append:/var/log/harvester.log
# Retried: 3 (the exchange failed) and a kill. Not: 1 (system error), 2 (usage error),
# 4 (gaps or damage), 5 (another run holds the lock). 130: it was interrupted.
Restart=on-failure
RestartSec=600
RestartPreventExitStatus=1 2 4 5
SuccessExitStatus=130
TimeoutStopSec=120

Nice=10
IOSchedulingClass=idle

NoNewPrivileges=true
LockPersonality=true
RestrictNamespaces=true
RestrictRealtime=true
RestrictSUIDSGID=true
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
SystemCallArchitectures=native
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths="/srv/market data"
PrivateTmp=true
PrivateDevices=true
ProtectClock=true
ProtectControlGroups=true
ProtectKernelLogs=true
ProtectKernelModules=true
ProtectKernelTunables=true
"""

TIMER = """\
[Unit]
Description=harvester, every night

[Timer]
OnCalendar=*-*-* 04:07:00
RandomizedDelaySec=300
# If the machine was asleep or off at that time, the run starts later.
Persistent=true

[Install]
WantedBy=timers.target
"""

PLIST = """\
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" \
"http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<!--
  harvester, every night. To install:
    harvester schedule launchd -o ~/Library/LaunchAgents
    launchctl bootstrap gui/$(id -u) ~/Library/LaunchAgents/kraken-harvester.refresh.plist
  To run it now: launchctl kickstart gui/$(id -u)/kraken-harvester.refresh
  To remove it: launchctl bootout gui/$(id -u)/kraken-harvester.refresh
  It retries if the exchange failed.
  The list of exit statuses, and what to do on each: docs/nightly.md
-->
<plist version="1.0">
<dict>
	<key>Label</key>
	<string>kraken-harvester.refresh</string>
	<key>ProgramArguments</key>
	<array>
		<string>/bin/sh</string>
		<string>-c</string>
		<string>for wait in 600 600 600 600 600 0; do "$@"; s=$?; \
test $s -eq 3 || break; sleep $wait; done; exit $s</string>
		<string>harvester</string>
		<string>/opt/h/bin/harvester</string>
		<string>refresh</string>
		<string>--data</string>
		<string>/srv/market data</string>
		<string>--config</string>
		<string>/srv/config.toml</string>
	</array>
	<key>WorkingDirectory</key>
	<string>/srv</string>
	<key>StartCalendarInterval</key>
	<dict>
		<key>Hour</key>
		<integer>4</integer>
		<key>Minute</key>
		<integer>7</integer>
	</dict>
	<key>StandardOutPath</key>
	<string>/var/log/harvester.log</string>
	<key>StandardErrorPath</key>
	<string>/var/log/harvester.log</string>
	<key>ProcessType</key>
	<string>Background</string>
	<key>LowPriorityIO</key>
	<true/>
	<key>Nice</key>
	<integer>10</integer>
</dict>
</plist>
"""


def test_the_line_for_cron() -> None:
    assert cron(LOGGED) == {"harvester.cron": CRON}


def test_the_units_of_a_user() -> None:
    assert systemd(PLAIN) == {"harvester.service": USER_SERVICE, "harvester.timer": TIMER}


def test_the_units_of_the_system() -> None:
    units = systemd(replace(LOGGED, user="ann"))
    assert units == {"harvester.service": SYSTEM_SERVICE, "harvester.timer": TIMER}


def test_the_agent_of_launchd() -> None:
    assert launchd(LOGGED) == {"kraken-harvester.refresh.plist": PLIST}


def test_what_lies_among_temporary_files_is_not_hidden_from_the_run() -> None:
    night = replace(PLAIN, data="/var/tmp/data", user="ann")  # noqa: S108
    service = systemd(night)["harvester.service"]
    assert "ReadWritePaths=/var/tmp/data /tmp /var/tmp\nPrivateTmp=false\n" in service


@pytest.mark.parametrize("make", [cron, launchd])
def test_schedulers_that_keep_no_output_need_a_log(make: Callable[[ScheduledJob], object]) -> None:
    with pytest.raises(UsageError) as caught:
        make(PLAIN)
    assert str(caught.value) == f"{make.__name__} keeps no output: name a file with --log"


# The shell of it does what it says: run by a real sh, with a program that ends with given statuses.


def _ended(tmp_path: Path, statuses: str, command: list[str]) -> tuple[int, str, int]:
    """Run a shell's command on a PATH where nobody sleeps; status, output, number of tries."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sleep").write_text("#!/bin/sh\nexit 0\n")
    (tools / "sleep").chmod(0o755)
    (tmp_path / "statuses").write_text(statuses)
    done = subprocess.run(
        command,
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout, len((tmp_path / "tries").read_text())


def _program(tmp_path: Path) -> ScheduledJob:
    """A night whose program, in a folder with a hard name, ends with the statuses it finds."""
    folder = tmp_path / "it's 100% \u00e9 $HOME"
    folder.mkdir()
    program = folder / "harvester"
    program.write_text(
        f"#!/bin/sh\nprintf x >> {tmp_path}/tries\n"
        f"n=$(wc -c < {tmp_path}/tries)\nprintf '%s|' \"$@\"\n"
        f"exit $(cut -d' ' -f$n {tmp_path}/statuses)\n"
    )
    program.chmod(0o755)
    data = str(folder / "data")
    command = (str(program), "refresh", "--data", data)
    return replace(
        PLAIN, command=command, folder=str(folder), data=data, log=str(folder / "the log")
    )


ENDS = [("0", 0, 1), ("1", 1, 1), ("4", 4, 1), ("5", 5, 1), ("3 3 0", 0, 3), ("3 4", 4, 2)]
ENDS.append(("3 3 3 3 3 3 0", 3, 6))


@pytest.mark.parametrize(("statuses", "last", "tries"), ENDS)
def test_cron_tries_again_after_status_3_only_and_reports_a_failure(
    statuses: str, last: int, tries: int, tmp_path: Path
) -> None:
    night = _program(tmp_path)
    [text] = cron(night).values()
    [line] = [splitline for splitline in text.splitlines() if not splitline.startswith("#")]
    minute, hour, *rest, command = line.split(" ", 5)
    assert (minute, hour, rest) == ("7", "4", ["*", "*", "*"])
    # As cron reads it: a bare % would end the line, and \% is one.
    assert re.search(r"(?<!\\)%", command) is None
    command = command.replace("\\%", "%")
    _, said, count = _ended(tmp_path, statuses, ["/bin/sh", "-c", command])
    bad = f"harvester refresh ended with status {last}, see {night.log}\n"
    assert (said, count) == (bad if last else "", tries)
    assert Path(str(night.log)).read_text() == f"refresh|--data|{night.data}|" * tries


@pytest.mark.parametrize(("statuses", "last", "tries"), ENDS)
def test_launchd_tries_again_after_status_3_alone(
    statuses: str, last: int, tries: int, tmp_path: Path
) -> None:
    night = _program(tmp_path)
    [text] = launchd(night).values()
    agent = plistlib.loads(text.encode())
    assert agent["WorkingDirectory"] == night.folder
    assert agent["StandardErrorPath"] == night.log
    ended = _ended(tmp_path, statuses, agent["ProgramArguments"])
    assert ended == (last, f"refresh|--data|{night.data}|" * tries, tries)


def test_launchd_reads_the_names_that_were_meant() -> None:
    odd = "/a&b <c>\"'{}]]>"
    night = replace(PLAIN, command=(odd, "refresh"), folder=odd, data=odd, log=odd)
    [text] = launchd(night).values()
    agent = plistlib.loads(text.encode())
    assert agent["ProgramArguments"][-2:] == [odd, "refresh"]
    assert [agent["WorkingDirectory"], agent["StandardOutPath"]] == [odd, odd]


def test_the_statuses_that_are_tried_again_are_those_of_the_exchange() -> None:
    errors = (HarvesterError, UsageError, ArchiveIncomplete, ArchiveLocked)
    final = " ".join(str(error.exit_status) for error in errors)
    service = systemd(PLAIN)["harvester.service"]
    assert f"RestartPreventExitStatus={final}\n" in service
    assert f"SuccessExitStatus={Interrupted.exit_status}\n" in service
    for text in (*cron(LOGGED).values(), *launchd(LOGGED).values()):
        assert f"test $s -eq {ExchangeError.exit_status} || break" in text


def test_cron_does_nothing_if_its_folder_is_missing(tmp_path: Path) -> None:
    night = replace(LOGGED, folder=str(tmp_path / "gone"), log=str(tmp_path / "log"))
    command = cron(night)["harvester.cron"].splitlines()[-1].split(" ", 5)[-1]
    done = subprocess.run(["/bin/sh", "-c", command], check=False, capture_output=True, timeout=60)
    assert done.returncode != 0
    assert not (tmp_path / "log").exists()


# Names that are hard to write down.


def test_systemd_reads_the_names_that_were_meant(tmp_path: Path) -> None:
    odd = tmp_path / "it's 100%n \u00e9 $HOME \\x"
    night = replace(
        PLAIN,
        command=("/opt/a b/100%/harvester", "refresh", "--data", str(odd), "--config", 'a"b'),
        folder=str(odd),
        data=str(odd),
        log=f"{odd}/log",
        user="ann",
    )
    service = systemd(night)["harvester.service"]
    settings = dict(
        line.split("=", 1) for line in service.splitlines() if "=" in line and line[0] != "#"
    )
    whole = str(odd).replace("%", "%%")
    escaped = whole.replace("\\", "\\\\")
    assert settings["ExecStart"] == (
        f'":/opt/a b/100%%/harvester" refresh --data "{escaped}" --config "a\\"b"'
    )
    assert settings["WorkingDirectory"] == whole
    assert settings["StandardOutput"] == f"append:{whole}/log"
    assert settings["RequiresMountsFor"] == f'"{whole}"'
    assert settings["ReadWritePaths"].startswith(f'"{whole}"')


def _said(make: Callable[[ScheduledJob], object], night: ScheduledJob) -> str:
    with pytest.raises(UsageError) as caught:
        make(night)
    return str(caught.value)


@pytest.mark.parametrize("make", [cron, systemd, launchd])
def test_no_unit_holds_a_line_break_of_a_name(make: Callable[[ScheduledJob], object]) -> None:
    assert _said(make, replace(LOGGED, folder="/a\nb")) == (
        f"'/a\\nb' contains '\\n', which can't be written for {make.__name__}: choose another name"
    )


def test_cron_is_given_no_backslash() -> None:
    assert _said(cron, replace(LOGGED, folder="/a\\b")) == (
        "'/a\\\\b' contains '\\\\', which can't be written for cron: choose another name"
    )


def test_cron_is_given_no_line_that_it_would_refuse() -> None:
    # 801 bytes in two quotes, where there were 4.
    night = replace(LOGGED, folder="/" + "\u00e9" * 400)
    length = len(cron(LOGGED)["harvester.cron"].splitlines()[-1].split(" ", 5)[-1])
    length += len("'/'") + 800 - len("/srv")
    assert _said(cron, night) == (
        f"the line is {length} bytes long, and cron allows 998: use shorter names of folders, "
        "or systemd"
    )


def test_systemd_is_given_no_program_that_it_would_refuse() -> None:
    assert _said(systemd, replace(PLAIN, command=("/it's/harvester", "refresh"))) == (
        "systemd starts no program whose path contains a quote or a backslash, as "
        '"/it\'s/harvester" does: install harvester elsewhere'
    )


def test_systemd_is_given_no_folder_with_both_kinds_of_quotes() -> None:
    assert _said(systemd, replace(PLAIN, data='/it\'s "a"')) == (
        "'/it\\'s \"a\"' contains both kinds of quotes, which can't be written for systemd: "
        "choose another name"
    )


def test_systemd_is_given_no_folder_whose_end_it_would_cut_off() -> None:
    assert _said(systemd, replace(PLAIN, folder="/srv ")) == (
        "'/srv ' ends with ' ', which can't be written for systemd: choose another name"
    )


@pytest.mark.parametrize("name", ["plain", "a b", "100%n", "\u00e9 $HOME", "%h"])
@pytest.mark.parametrize("user", ["", "root"])
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_accepts_the_units(name: str, user: str, tmp_path: Path) -> None:
    odd = tmp_path / name
    odd.mkdir()
    program = odd / "harvester"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    command = (str(program), "refresh", "--data", str(odd))
    night = replace(
        PLAIN, command=command, folder=str(odd), data=str(odd), log=f"{odd}/log", user=user
    )
    units = tmp_path / "units"
    units.mkdir()
    for file, text in systemd(night).items():
        (units / file).write_text(text)
    assert _verified(units, user) == (0, "")
    # It is the program itself that was looked for, so its name was read as it is.
    program.unlink()
    status, said = _verified(units, user)
    assert (status == 0, str(program) in said) == (False, True)


ANALYZE = shutil.which("systemd-analyze")


def _verified(units: Path, user: str) -> tuple[int, str]:
    mode = "--system" if user else "--user"
    # The addresses of sockets in it have at most 107 bytes.
    with tempfile.TemporaryDirectory() as runtime:
        done = subprocess.run(
            [str(ANALYZE), mode, "--man=no", "verify", *map(str, sorted(units.iterdir()))],
            env={**os.environ, "XDG_RUNTIME_DIR": runtime},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    return done.returncode, done.stderr


# Times of day.


@pytest.mark.parametrize(
    ("text", "clock"),
    [("04:17", (4, 17)), ("0:00", (0, 0)), ("23:59", (23, 59)), (" 4:05 ", (4, 5))],
)
def test_a_time_of_day_is_read(text: str, clock: tuple[int, int]) -> None:
    assert parse_clock(text) == clock


@pytest.mark.parametrize("text", ["24:00", "4", "4:5", "04:60", "4pm", "", "04:17:00", "\u0664:10"])
def test_an_invalid_time_of_day_is_an_error(text: str) -> None:
    with pytest.raises(BadTime) as caught:
        parse_clock(text)
    assert str(caught.value) == (
        f"{text!r} is not a time of day: give hours and minutes, such as 04:17"
    )


def test_words_of_a_command_survive_a_shell() -> None:
    command = cron(LOGGED)["harvester.cron"].splitlines()[-1]
    words = shlex.split(command)
    start = words.index(PLAIN.command[0])
    assert tuple(words[start : start + len(PLAIN.command)]) == PLAIN.command
