"""A nightly run as an agent of launchd, which starts what was slept through on waking up."""

from __future__ import annotations

import plistlib

from harvester.errors import UsageError
from harvester.operations.schedule import NICE, Night, check_written, trying

LABEL = "kraken-harvester.refresh"
FILE = f"{LABEL}.plist"


def launchd(night: Night) -> dict[str, str]:
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
    return {FILE: f"{first}\n{second}\n{HEAD}{rest}"}


_RUN = '"$@"'


def _named(night: Night) -> tuple[str, ...]:
    """What the shell is called, and then what it runs."""
    return ("harvester", *night.command)


# Two hyphens must not stand in a comment of XML.
HEAD = f"""\
<!--
  harvester, every night. To install:
    harvester schedule launchd -o ~/Library/LaunchAgents
    launchctl bootstrap gui/$(id -u) ~/Library/LaunchAgents/{FILE}
  To run it now: launchctl kickstart gui/$(id -u)/{LABEL}
  To take it out: launchctl bootout gui/$(id -u)/{LABEL}
  It tries again where the exchange was the reason.
  The list of exit statuses, and what to do on each: docs/nightly.md
-->
"""
