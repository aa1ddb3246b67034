"""A nightly run as a service and a timer of systemd.

How names are written differs from setting to setting; by systemd.exec(5), systemd.service(5) and
`systemd-analyze verify`: a command takes quotes and escapes, a list of paths quotes alone, a
single path neither. `%` begins a specifier in each of them.
"""

from __future__ import annotations

import re
import shlex

from harvester.errors import (
    ArchiveIncomplete,
    ArchiveLocked,
    HarvesterError,
    Interrupted,
    UsageError,
)
from harvester.operations.schedule import AGAIN_AFTER_S, NICE, TRIES, Night, check_written

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


def systemd(night: Night) -> dict[str, str]:
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


def _service(night: Night) -> str:
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
        "# 4 (holes or damage), 5 (another run is at it). 130: it was told to stop.",
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


def _timer(night: Night) -> str:
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


def _head(night: Night) -> list[str]:
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


def _output(night: Night) -> list[str]:
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


def _fenced(night: Night) -> list[str]:
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
    return any(path == one or path.startswith(f"{one}/") for one in folders)


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
