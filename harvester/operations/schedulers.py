"""Templates for cron, systemd and launchd that run `harvester refresh` every night."""

from __future__ import annotations

import plistlib
import re
import shlex
import unicodedata
from dataclasses import dataclass

from harvester.errors import (
    ArchiveIncomplete,
    ArchiveLocked,
    BadTime,
    ExchangeError,
    HarvesterError,
    Interrupted,
    UsageError,
)

# --- schedule -------------------------------------------------------------------------------------

HOUR = 4
"""Local time. Clocks are put forward and back before it, so it comes once each day."""
NICE = 10
TRIES = 6
"""So many, where the exchange was the reason each time."""
AGAIN_AFTER_S = 600
"""Waited before another try."""
AGAIN_STATUS = ExchangeError.exit_status

_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", re.ASCII)


@dataclass(frozen=True, slots=True)
class ScheduledJob:
    """A run of one installation, each night at the same time.

    Attributes:
        command: `harvester refresh` with its options; the program by its whole path.
        folder: where it runs, absolute: relative names in config.toml count from there.
        data: the archive, absolute.
        hour: by the machine's clock.
        minute: of that hour.
        log: the file that its output is added to, absolute; None: wherever the scheduler keeps it.
        user: whom it runs as, where the system starts it; None: the user's own scheduler does.
    """

    command: tuple[str, ...]
    folder: str
    data: str
    hour: int
    minute: int
    log: str | None = None
    user: str | None = None

    @property
    def clock(self) -> str:
        """Such as 04:17."""
        return f"{self.hour:02d}:{self.minute:02d}"

    @property
    def paths(self) -> tuple[str, ...]:
        """All that must be written down exactly."""
        log = () if self.log is None else (self.log,)
        return (*self.command, self.folder, self.data, *log)


def parse_clock(text: str) -> tuple[int, int]:
    """Hour and minute of a time of day such as 04:17.

    Raises:
        BadTime: it is none.
    """
    match = _CLOCK.fullmatch(text.strip())
    if match is None:
        raise BadTime(f"{text!r} is no time of day: give hours and minutes, such as 04:17")
    return int(match[1]), int(match[2])


def check_written(night: ScheduledJob, kind: str, never: str) -> None:
    """See that all names can be written down for a scheduler.

    Args:
        night: the run.
        kind: the scheduler's name, for the message.
        never: characters that it has no way to write.

    Raises:
        UsageError: a name holds one of them, or a control character.
    """
    for path in night.paths:
        for one in path:
            # Control characters, and halves of characters: names that are no UTF-8.
            if one in never or unicodedata.category(one) in ("Cc", "Cs"):
                raise UsageError(
                    f"{path!r} holds {one!r}, which can't be written down for {kind}: "
                    "choose another name"
                )


def trying(command: str) -> str:
    """Shell that runs a command, and again where the exchange was the reason; `$s`: its status."""
    waits = " ".join(str(wait) for wait in [AGAIN_AFTER_S] * (TRIES - 1) + [0])
    return (
        f"for wait in {waits}; do {command}; s=$?; "
        f"test $s -eq {AGAIN_STATUS} || break; sleep $wait; done"
    )


# --- systemd --------------------------------------------------------------------------------------

# How names are written differs from setting to setting; by systemd.exec(5), systemd.service(5)
# and `systemd-analyze verify`: a command takes quotes and escapes, a list of paths quotes alone,
# a single path neither. `%` begins a specifier in each of them.

SERVICE = "harvester.service"
TIMER = "harvester.timer"
# A run that gives up may itself have taken a while.
TRIES_WITHIN_S = 6 * 3600
SPREAD_S = 300

NEVER_AGAIN = sorted(
    error.exit_status for error in (HarvesterError, UsageError, ArchiveIncomplete, ArchiveLocked)
)
"""Statuses that another try would not change."""

_PLAIN = re.compile(r"[\w./:=@+,-]+", re.ASCII)
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - where others may look is what is asked here


def systemd(night: ScheduledJob) -> dict[str, str]:
    """Service and timer, with how to put them in, by the names of their files.

    Raises:
        UsageError: a name can't be written into a unit.
    """
    check_written(night, "systemd", "")
    _check_program(night.command[0])
    for path in (night.folder, night.log or ""):
        if path.endswith(("\\", " ")):
            raise UsageError(
                f"{path!r} ends with {path[-1]!r}, which can't be written down for systemd: "
                "choose another name"
            )
    return {SERVICE: _service(night), TIMER: _timer(night)}


def _check_program(path: str) -> None:
    if set(path) & set("\"'\\"):
        raise UsageError(
            f"systemd starts no program whose path holds a quote or a backslash, as {path!r} "
            "does: install harvester elsewhere"
        )


def _service(night: ScheduledJob) -> str:
    lines = [
        *_head(night),
        "[Unit]",
        "Description=harvester brings the archive up to date",
        *([] if night.user is None else _NETWORK),
        f"RequiresMountsFor={_path(night.data)}",
        f"StartLimitIntervalSec={TRIES_WITHIN_S}",
        f"StartLimitBurst={TRIES}",
        "",
        "[Service]",
        "Type=exec",
        *([] if night.user is None else [f"User={_single(night.user)}"]),
        f"WorkingDirectory={_single(night.folder)}",
        f"ExecStart={_command(night.command)}",
        *_output(night),
        "# Tried again: 3 (the exchange) and a kill. Not: 1 (this machine), 2 (wrong use),",
        "# 4 (gaps or damage), 5 (another run is at it). 130: it was told to stop.",
        "Restart=on-failure",
        f"RestartSec={AGAIN_AFTER_S}",
        f"RestartPreventExitStatus={' '.join(map(str, NEVER_AGAIN))}",
        f"SuccessExitStatus={Interrupted.exit_status}",
        "TimeoutStopSec=120",
        "",
        f"Nice={NICE}",
        "IOSchedulingClass=idle",
        "",
        *_HARDENED,
        *(_USER_NOTE if night.user is None else _fenced(night)),
    ]
    return "\n".join(lines) + "\n"


def _timer(night: ScheduledJob) -> str:
    return f"""\
[Unit]
Description=harvester, every night

[Timer]
OnCalendar=*-*-* {night.clock}:00
RandomizedDelaySec={SPREAD_S}
# A night that the machine slept or was off is made up for.
Persistent=true

[Install]
WantedBy=timers.target
"""


def _head(night: ScheduledJob) -> list[str]:
    mine = night.user is None
    control = "systemctl --user" if mine else "sudo systemctl"
    journal = "journalctl --user" if mine else "journalctl"
    place = "~/.config/systemd/user" if mine else "/etc/systemd/system"
    # A folder that is to be written to must be there before the unit starts.
    make = [] if mine else [f"#   mkdir -p {shlex.quote(night.data)}"]
    linger = ["#   loginctl enable-linger   (so that it runs while nobody is logged in)"]
    return [
        f"# harvester, every night. To install, put {SERVICE} and {TIMER} into",
        f"# {place} (`-o DIR` writes them), then:",
        *make,
        f"#   {control} daemon-reload",
        f"#   {control} enable --now {TIMER}",
        *(linger if mine else []),
        f"# To run it now: {control} start {SERVICE}",
        f"# When it runs next: {control} list-timers {TIMER}",
        *([f"# What it said: {journal} -u {SERVICE}"] if night.log is None else []),
        "# The list of exit statuses, and what to do on each: docs/nightly.md",
        "",
    ]


def _output(night: ScheduledJob) -> list[str]:
    if night.log is None:
        return []
    target = f"append:{_single(night.log)}"
    return [f"StandardOutput={target}", f"StandardError={target}"]


_NETWORK = ["Wants=network-online.target", "After=network-online.target"]

# What needs no right of its own, so that a user's own units can have it, too.
_HARDENED = [
    "NoNewPrivileges=true",
    "LockPersonality=true",
    "RestrictNamespaces=true",
    "RestrictRealtime=true",
    "RestrictSUIDSGID=true",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK",
    "SystemCallArchitectures=native",
]
_USER_NOTE = [
    "# Of the disk, a user's unit can be kept away only where the kernel lets users make",
    "# namespaces, and many do not: `harvester schedule systemd --system` does it everywhere.",
]


def _fenced(night: ScheduledJob) -> list[str]:
    """The disk is there to be read; what is written is the archive, and the log."""
    private = not any(_lies_in(path, _TEMPORARY) for path in night.paths)
    # DuckDB spills there.
    temporary = () if private else _TEMPORARY
    # A log is opened by systemd itself.
    written = " ".join(_path(one) for one in (night.data, *temporary))
    return [
        "CapabilityBoundingSet=",
        "ProtectSystem=strict",
        "ProtectHome=read-only",
        f"ReadWritePaths={written}",
        f"PrivateTmp={'true' if private else 'false'}",
        "PrivateDevices=true",
        "ProtectClock=true",
        "ProtectControlGroups=true",
        "ProtectKernelLogs=true",
        "ProtectKernelModules=true",
        "ProtectKernelTunables=true",
    ]


def _lies_in(path: str, folders: tuple[str, ...]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def _command(words: tuple[str, ...]) -> str:
    # The colon keeps systemd from taking `$` for a variable; versions before 244 do not know it.
    colon = ":" if any("$" in word for word in words) else ""
    return " ".join(_word(word) for word in (colon + words[0], *words[1:]))


def _word(text: str) -> str:
    text = text.replace("%", "%%")
    if _PLAIN.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _path(text: str) -> str:
    """One of a list of paths.

    Raises:
        UsageError: it holds both kinds of quotes.
    """
    if '"' in text and "'" in text:
        raise UsageError(
            f"{text!r} holds both kinds of quotes, which can't be written down for systemd: "
            "choose another name"
        )
    text = text.replace("%", "%%")
    if _PLAIN.fullmatch(text):
        return text
    return f"'{text}'" if '"' in text else f'"{text}"'


def _single(text: str) -> str:
    return text.replace("%", "%%")


# --- cron -----------------------------------------------------------------------------------------

FILE = "harvester.cron"
LONGEST = 998
"""Bytes: Debian's cron refuses a longer command."""


def cron(night: ScheduledJob) -> dict[str, str]:
    """The line, with how to put it in, by the name of its file.

    cron mails what a command prints, where mail works: that is only how a run ended, and only
    where it did not end well. All else goes to the log.

    Raises:
        UsageError: a name can't be written into such a line, or the line gets too long.
    """
    if night.log is None:
        raise UsageError("cron keeps no output: name a file with --log")
    # cron itself takes backslashes away, and not everywhere by the same rule.
    check_written(night, "cron", "\\")
    folder, log = shlex.quote(night.folder), shlex.quote(night.log)
    run = f"nice -n {NICE} {shlex.join(night.command)} >> {log} 2>&1"
    line = (
        f"cd {folder} || exit; {trying(run)}; "
        f"test $s -eq 0 || echo harvester refresh ended with status $s, see {log}"
    ).replace("%", "\\%")
    if len(line.encode()) > LONGEST:
        raise UsageError(
            f"the line is {len(line.encode())} bytes long, and cron takes {LONGEST}: "
            "use shorter names of folders, or systemd"
        )
    return {FILE: f"{HEAD}{night.minute} {night.hour} * * * {line}\n"}


HEAD = """\
# harvester, every night. To install, write the line below into what `crontab -e` opens.
# It tries again where the exchange was the reason, and mails how it ended if not well.
# The list of exit statuses, and what to do on each: docs/nightly.md
"""


# --- launchd --------------------------------------------------------------------------------------

LABEL = "kraken-harvester.refresh"
LAUNCHD_FILE = f"{LABEL}.plist"


def launchd(night: ScheduledJob) -> dict[str, str]:
    """The agent, with how to put it in, by the name of its file.

    Raises:
        UsageError: a name holds a control character, or there is no log.
    """
    if night.log is None:
        raise UsageError("launchd keeps no output: name a file with --log")
    check_written(night, "launchd", "")
    agent = {
        "Label": LABEL,
        # launchd's own KeepAlive can't tell one exit status from another.
        "ProgramArguments": ["/bin/sh", "-c", f"{trying(_RUN)}; exit $s", *_named(night)],
        "WorkingDirectory": night.folder,
        "StartCalendarInterval": {"Hour": night.hour, "Minute": night.minute},
        "StandardOutPath": night.log,
        "StandardErrorPath": night.log,
        "ProcessType": "Background",
        "LowPriorityIO": True,
        "Nice": NICE,
    }
    first, second, rest = plistlib.dumps(agent, sort_keys=False).decode().split("\n", 2)
    return {LAUNCHD_FILE: f"{first}\n{second}\n{LAUNCHD_HEAD}{rest}"}


_RUN = '"$@"'


def _named(night: ScheduledJob) -> tuple[str, ...]:
    """What the shell is called, and then what it runs."""
    return ("harvester", *night.command)


# Two hyphens must not stand in a comment of XML.
LAUNCHD_HEAD = f"""\
<!--
  harvester, every night. To install:
    harvester schedule launchd -o ~/Library/LaunchAgents
    launchctl bootstrap gui/$(id -u) ~/Library/LaunchAgents/{LAUNCHD_FILE}
  To run it now: launchctl kickstart gui/$(id -u)/{LABEL}
  To take it out: launchctl bootout gui/$(id -u)/{LABEL}
  It tries again where the exchange was the reason.
  The list of exit statuses, and what to do on each: docs/nightly.md
-->
"""
