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

HOUR = 4
"""Default hour, local time. Clocks change at earlier hours, so it comes exactly once a day."""
NICE = 10
TRIES = 6
"""How often a run is tried, if the exchange was the reason each time that it failed."""
RETRY_AFTER_S = 600
"""Wait before another try, in seconds."""
RETRY_STATUS = ExchangeError.exit_status

_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", re.ASCII)


@dataclass(frozen=True, slots=True)
class ScheduledJob:
    """A nightly run of harvester, as a scheduler is to start it.

    Attributes:
        command: `harvester refresh` with its options; the program by its absolute path.
        folder: where it runs, absolute: relative paths in config.toml start there.
        data: the archive, absolute.
        hour: local time.
        minute: of that hour.
        log: the file that its output is appended to, absolute; None: the scheduler keeps it.
        user: the account that it runs as, if the system starts it; None: the user's own scheduler.
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
        """The time of day, such as 04:17."""
        return f"{self.hour:02d}:{self.minute:02d}"

    @property
    def paths(self) -> tuple[str, ...]:
        """All texts of the job that a scheduler's file must contain exactly."""
        log = () if self.log is None else (self.log,)
        return (*self.command, self.folder, self.data, *log)


def parse_clock(text: str) -> tuple[int, int]:
    """Parse a time of day such as 04:17 into hour and minute.

    Raises:
        BadTime: the text is no time of day.
    """
    match = _CLOCK.fullmatch(text.strip())
    if match is None:
        raise BadTime(f"{text!r} is no time of day: give hours and minutes, such as 04:17")
    return int(match[1]), int(match[2])


def check_writable(job: ScheduledJob, scheduler: str, forbidden: str) -> None:
    """Refuse names that can't be written into a scheduler's file.

    Args:
        job: whose names.
        scheduler: its name, for the message.
        forbidden: characters that the scheduler has no escape for.

    Raises:
        UsageError: a name contains one of them, or a control character.
    """
    for path in job.paths:
        for character in path:
            # Control characters, and lone surrogates: file names that are no UTF-8.
            if character in forbidden or unicodedata.category(character) in ("Cc", "Cs"):
                raise UsageError(
                    f"{path!r} contains {character!r}, which can't be written for {scheduler}: "
                    "choose another name"
                )


def shell_with_retries(command: str) -> str:
    """Shell code that runs a command, and retries it if the exchange failed; `$s` is its status."""
    waits = " ".join(str(wait) for wait in [RETRY_AFTER_S] * (TRIES - 1) + [0])
    return (
        f"for wait in {waits}; do {command}; s=$?; "
        f"test $s -eq {RETRY_STATUS} || break; sleep $wait; done"
    )


# systemd. The quoting of names differs between settings, by systemd.exec(5), systemd.service(5)
# and `systemd-analyze verify`: a command allows quotes and escapes, a list of paths only quotes,
# a single path neither. `%` begins a specifier in each of them.

SERVICE = "harvester.service"
TIMER = "harvester.timer"
# A run may take a while itself before it gives up.
TRIES_WITHIN_S = 6 * 3600
RANDOM_DELAY_S = 300

NO_RETRY_STATUSES = sorted(
    error.exit_status for error in (HarvesterError, UsageError, ArchiveIncomplete, ArchiveLocked)
)
"""Exit statuses that another try would not change."""

_NEEDS_NO_QUOTES = re.compile(r"[\w./:=@+,-]+", re.ASCII)
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - nothing is written there; paths are compared with it


def systemd(job: ScheduledJob) -> dict[str, str]:
    """Generate a systemd service and timer, with instructions in comments; texts by file name.

    Raises:
        UsageError: a name can't be written into a unit.
    """
    check_writable(job, "systemd", "")
    _check_program(job.command[0])
    for path in (job.folder, job.log or ""):
        if path.endswith(("\\", " ")):
            raise UsageError(
                f"{path!r} ends with {path[-1]!r}, which can't be written for systemd: "
                "choose another name"
            )
    return {SERVICE: _service(job), TIMER: _timer(job)}


def _check_program(path: str) -> None:
    if set(path) & set("\"'\\"):
        raise UsageError(
            f"systemd starts no program whose path contains a quote or a backslash, as {path!r} "
            "does: install harvester elsewhere"
        )


def _service(job: ScheduledJob) -> str:
    lines = [
        *_instructions(job),
        "[Unit]",
        "Description=harvester brings the archive up to date",
        *([] if job.user is None else _NETWORK),
        f"RequiresMountsFor={_path(job.data)}",
        f"StartLimitIntervalSec={TRIES_WITHIN_S}",
        f"StartLimitBurst={TRIES}",
        "",
        "[Service]",
        "Type=exec",
        *([] if job.user is None else [f"User={_single(job.user)}"]),
        f"WorkingDirectory={_single(job.folder)}",
        f"ExecStart={_command(job.command)}",
        *_output(job),
        "# Retried: 3 (the exchange failed) and a kill. Not: 1 (system error), 2 (usage error),",
        "# 4 (gaps or damage), 5 (another run holds the lock). 130: it was interrupted.",
        "Restart=on-failure",
        f"RestartSec={RETRY_AFTER_S}",
        f"RestartPreventExitStatus={' '.join(map(str, NO_RETRY_STATUSES))}",
        f"SuccessExitStatus={Interrupted.exit_status}",
        "TimeoutStopSec=120",
        "",
        f"Nice={NICE}",
        "IOSchedulingClass=idle",
        "",
        *_HARDENED,
        *(_USER_NOTE if job.user is None else _system_restrictions(job)),
    ]
    return "\n".join(lines) + "\n"


def _timer(job: ScheduledJob) -> str:
    return f"""\
[Unit]
Description=harvester, every night

[Timer]
OnCalendar=*-*-* {job.clock}:00
RandomizedDelaySec={RANDOM_DELAY_S}
# If the machine was asleep or off at that time, the run starts later.
Persistent=true

[Install]
WantedBy=timers.target
"""


def _instructions(job: ScheduledJob) -> list[str]:
    """Comments at the top of the service: how to install, start and check it."""
    is_user_unit = job.user is None
    control = "systemctl --user" if is_user_unit else "sudo systemctl"
    journal = "journalctl --user" if is_user_unit else "journalctl"
    folder = "~/.config/systemd/user" if is_user_unit else "/etc/systemd/system"
    # A folder that the unit may write to must exist before the unit starts.
    make = [] if is_user_unit else [f"#   mkdir -p {shlex.quote(job.data)}"]
    linger = ["#   loginctl enable-linger   (so that it runs while nobody is logged in)"]
    return [
        f"# harvester, every night. To install, put {SERVICE} and {TIMER} into",
        f"# {folder} (`-o DIR` writes them), then:",
        *make,
        f"#   {control} daemon-reload",
        f"#   {control} enable --now {TIMER}",
        *(linger if is_user_unit else []),
        f"# To run it now: {control} start {SERVICE}",
        f"# When it runs next: {control} list-timers {TIMER}",
        *([f"# Its output: {journal} -u {SERVICE}"] if job.log is None else []),
        "# The list of exit statuses, and what to do on each: docs/nightly.md",
        "",
    ]


def _output(job: ScheduledJob) -> list[str]:
    if job.log is None:
        return []
    target = f"append:{_single(job.log)}"
    return [f"StandardOutput={target}", f"StandardError={target}"]


_NETWORK = ["Wants=network-online.target", "After=network-online.target"]

# Restrictions that need no privileges, so that a user's own units can have them, too.
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
    "# A user's unit can be kept away from the disk only if the kernel lets users create",
    "# namespaces, and many do not: `harvester schedule systemd --system` works everywhere.",
]


def _system_restrictions(job: ScheduledJob) -> list[str]:
    """Restrictions of a system unit: the disk is read-only except for the archive."""
    is_tmp_private = not any(_is_inside(path, _TEMPORARY) for path in job.paths)
    # DuckDB writes its temporary files there.
    temporary = () if is_tmp_private else _TEMPORARY
    # The log is opened by systemd itself, so it is not listed.
    writable = " ".join(_path(path) for path in (job.data, *temporary))
    return [
        "CapabilityBoundingSet=",
        "ProtectSystem=strict",
        "ProtectHome=read-only",
        f"ReadWritePaths={writable}",
        f"PrivateTmp={'true' if is_tmp_private else 'false'}",
        "PrivateDevices=true",
        "ProtectClock=true",
        "ProtectControlGroups=true",
        "ProtectKernelLogs=true",
        "ProtectKernelModules=true",
        "ProtectKernelTunables=true",
    ]


def _is_inside(path: str, folders: tuple[str, ...]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def _command(words: tuple[str, ...]) -> str:
    # The colon keeps systemd from expanding `$`; versions before 244 do not support it.
    colon = ":" if any("$" in word for word in words) else ""
    return " ".join(_word(word) for word in (colon + words[0], *words[1:]))


def _word(text: str) -> str:
    text = text.replace("%", "%%")
    if _NEEDS_NO_QUOTES.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _path(text: str) -> str:
    """Quote one of a list of paths.

    Raises:
        UsageError: it contains both kinds of quotes.
    """
    if '"' in text and "'" in text:
        raise UsageError(
            f"{text!r} contains both kinds of quotes, which can't be written for systemd: "
            "choose another name"
        )
    text = text.replace("%", "%%")
    if _NEEDS_NO_QUOTES.fullmatch(text):
        return text
    return f"'{text}'" if '"' in text else f'"{text}"'


def _single(text: str) -> str:
    return text.replace("%", "%%")


CRON_FILE = "harvester.cron"
MAX_CRON_BYTES = 998
"""Debian's cron refuses a longer command."""


def cron(job: ScheduledJob) -> dict[str, str]:
    """Generate a crontab line, with instructions in comments; text by file name.

    cron mails what a command prints, if mail works. So the line prints only how a run ended, and
    only if it failed; everything else is written to the log.

    Raises:
        UsageError: there is no log, a name can't be written into a crontab, or the line is too
            long.
    """
    if job.log is None:
        raise UsageError("cron keeps no output: name a file with --log")
    # cron itself removes backslashes, by rules that differ between its versions.
    check_writable(job, "cron", "\\")
    folder, log = shlex.quote(job.folder), shlex.quote(job.log)
    run = f"nice -n {NICE} {shlex.join(job.command)} >> {log} 2>&1"
    line = (
        f"cd {folder} || exit; {shell_with_retries(run)}; "
        f"test $s -eq 0 || echo harvester refresh ended with status $s, see {log}"
    ).replace("%", "\\%")
    if len(line.encode()) > MAX_CRON_BYTES:
        raise UsageError(
            f"the line is {len(line.encode())} bytes long, and cron allows {MAX_CRON_BYTES}: "
            "use shorter names of folders, or systemd"
        )
    return {CRON_FILE: f"{CRON_HEAD}{job.minute} {job.hour} * * * {line}\n"}


CRON_HEAD = """\
# harvester, every night. To install, write the line below into what `crontab -e` opens.
# It retries if the exchange failed, and mails how it ended if not well.
# The list of exit statuses, and what to do on each: docs/nightly.md
"""


LABEL = "kraken-harvester.refresh"
LAUNCHD_FILE = f"{LABEL}.plist"


def launchd(job: ScheduledJob) -> dict[str, str]:
    """Generate a launchd agent, with instructions in a comment; text by file name.

    Raises:
        UsageError: a name contains a control character, or there is no log.
    """
    if job.log is None:
        raise UsageError("launchd keeps no output: name a file with --log")
    check_writable(job, "launchd", "")
    agent = {
        "Label": LABEL,
        # launchd's own KeepAlive can't distinguish exit statuses.
        "ProgramArguments": [
            "/bin/sh",
            "-c",
            f"{shell_with_retries(_RUN)}; exit $s",
            "harvester",  # the shell's $0
            *job.command,
        ],
        "WorkingDirectory": job.folder,
        "StartCalendarInterval": {"Hour": job.hour, "Minute": job.minute},
        "StandardOutPath": job.log,
        "StandardErrorPath": job.log,
        "ProcessType": "Background",
        "LowPriorityIO": True,
        "Nice": NICE,
    }
    first, second, rest = plistlib.dumps(agent, sort_keys=False).decode().split("\n", 2)
    return {LAUNCHD_FILE: f"{first}\n{second}\n{LAUNCHD_HEAD}{rest}"}


_RUN = '"$@"'

# An XML comment must not contain two hyphens in a row.
LAUNCHD_HEAD = f"""\
<!--
  harvester, every night. To install:
    harvester schedule launchd -o ~/Library/LaunchAgents
    launchctl bootstrap gui/$(id -u) ~/Library/LaunchAgents/{LAUNCHD_FILE}
  To run it now: launchctl kickstart gui/$(id -u)/{LABEL}
  To remove it: launchctl bootout gui/$(id -u)/{LABEL}
  It retries if the exchange failed.
  The list of exit statuses, and what to do on each: docs/nightly.md
-->
"""
