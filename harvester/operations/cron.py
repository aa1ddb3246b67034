"""A nightly run as a line for cron."""

from __future__ import annotations

import shlex

from harvester.errors import UsageError
from harvester.operations.schedule import NICE, Night, check_written, trying

FILE = "harvester.cron"
LONGEST = 998
"""Bytes: Debian's cron refuses a longer command."""


def cron(night: Night) -> dict[str, str]:
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
