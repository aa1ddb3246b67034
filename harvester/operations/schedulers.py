"""Files for cron, systemd and launchd that run `harvester refresh` every night, from templates.

In a template, `{name}` is replaced, and a line `word? text` is there only where the word applies.
A failed run is tried six times if the exchange was the reason each time, ten minutes apart.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from xml.sax.saxutils import escape

from harvester.errors import BadTime, UsageError

HOUR = 4
"""Default hour, local time. Clocks change at earlier hours, so it comes exactly once a day."""

_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", re.ASCII)
_CONDITION = re.compile(r"([a-z_]+)\? ")


@dataclass(frozen=True, slots=True)
class ScheduledJob:
    """A nightly run of harvester, as a scheduler is to start it.

    Attributes:
        command: `harvester refresh` with its options; the program by its absolute path.
        folder: where it runs, absolute: relative paths in config.toml start there.
        data: the archive, absolute.
        hour: local time.
        minute: of that hour.
        log: the file that its output is appended to, absolute; empty: the scheduler keeps it.
        user: the account that it runs as, if the system starts it; empty: the user's own scheduler.
    """

    command: tuple[str, ...]
    folder: str
    data: str
    hour: int
    minute: int
    log: str = ""
    user: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """All texts of the job that a scheduler's file must contain exactly."""
        return (*self.command, self.folder, self.data, self.log)


def parse_clock(text: str) -> tuple[int, int]:
    """Parse a time of day such as 04:17 into hour and minute.

    Raises:
        BadTime: the text is not a time of day.
    """
    match = _CLOCK.fullmatch(text.strip())
    if match is None:
        raise BadTime(f"{text!r} is not a time of day: give hours and minutes, such as 04:17")
    return int(match[1]), int(match[2])


def check_writable(job: ScheduledJob, scheduler: str, forbidden: str) -> None:
    """Refuse names that can't be written into a scheduler's file.

    Args:
        job: whose names.
        scheduler: its name, for the message.
        forbidden: characters that the scheduler has no escape for.

    Raises:
        UsageError: a name contains one of them, or a control character; or there is no log.
    """
    if scheduler != "systemd" and not job.log:
        raise UsageError(f"{scheduler} keeps no output: name a file with --log")
    for path in job.paths:
        for character in path:
            # Control characters, and lone surrogates: file names that are no UTF-8.
            if character in forbidden or unicodedata.category(character) in ("Cc", "Cs"):
                raise UsageError(
                    f"{path!r} contains {character!r}, which can't be written for {scheduler}: "
                    "choose another name"
                )


def _render(
    template: str, job: ScheduledJob, conditions: set[str], **values: str
) -> dict[str, str]:
    """Fill in a template; the text by its file name.

    Args:
        template: its file name.
        job: whose time of day is filled in.
        conditions: the words whose lines are there.
        **values: other texts that are filled in, escaped as the scheduler reads them.
    """
    text = (files("harvester.operations") / "templates" / template).read_text(encoding="utf-8")
    lines = []
    for line in text.splitlines(keepends=True):
        condition = _CONDITION.match(line)
        if condition is None or condition[1] in conditions:
            lines.append(line[condition.end() :] if condition else line)
    return {template: "".join(lines).format(hour=job.hour, minute=job.minute, **values)}


# --- systemd --------------------------------------------------------------------------------------

# The quoting of names differs between settings, by systemd.exec(5), systemd.service(5)
# and `systemd-analyze verify`: a command allows quotes and escapes, a list of paths only quotes,
# a single path neither. `%` begins a specifier in each of them.

_NEEDS_NO_QUOTES = re.compile(r"[\w./:=@+,-]+", re.ASCII)
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - nothing is written there; paths are compared with it


def systemd(job: ScheduledJob) -> dict[str, str]:
    """Generate a systemd service and timer, with instructions in comments; texts by file name.

    A unit of the system sees the disk read-only but for the archive, and the archive's folder must
    exist before it starts. The log is opened by systemd itself.

    Raises:
        UsageError: a name can't be written into a unit.
    """
    check_writable(job, "systemd", "")
    if set(job.command[0]) & set("\"'\\"):
        raise UsageError(
            "systemd starts no program whose path contains a quote or a backslash, as "
            f"{job.command[0]!r} does: install harvester elsewhere"
        )
    for path in (job.folder, job.log):
        if path.endswith(("\\", " ")):
            raise UsageError(
                f"{path!r} ends with {path[-1]!r}, which can't be written for systemd: "
                "choose another name"
            )
    whose = "system" if job.user else "user"
    is_tmp_private = not any(
        Path(path).is_relative_to(folder) for path in job.paths for folder in _TEMPORARY
    )
    # DuckDB writes its temporary files there.
    writable = (job.data, *(() if is_tmp_private else _TEMPORARY))
    service = _render(
        "harvester.service",
        job,
        {whose, "log" if job.log else f"{whose}_journal"},
        command=_command(job.command),
        data=_path(job.data),
        data_in_shell=shlex.quote(job.data),
        folder=_single(job.folder),
        is_tmp_private="true" if is_tmp_private else "false",
        log=_single(job.log),
        user=_single(job.user),
        writable=" ".join(map(_path, writable)),
    )
    return service | _render("harvester.timer", job, set())


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


# --- cron -----------------------------------------------------------------------------------------

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
    # cron itself removes backslashes, by rules that differ between its versions.
    check_writable(job, "cron", "\\")
    names = {"folder": [job.folder], "log": [job.log], "command": job.command}
    # To cron, a bare % ends the line.
    quoted = {name: shlex.join(words).replace("%", "\\%") for name, words in names.items()}
    units = _render("harvester.cron", job, set(), **quoted)
    size = len(units["harvester.cron"].splitlines()[-1].split(" ", 5)[-1].encode())
    if size > MAX_CRON_BYTES:
        raise UsageError(
            f"the line is {size} bytes long, and cron allows {MAX_CRON_BYTES}: "
            "use shorter names of folders, or systemd"
        )
    return units


# --- launchd --------------------------------------------------------------------------------------


def launchd(job: ScheduledJob) -> dict[str, str]:
    """Generate a launchd agent, with instructions in a comment; text by file name.

    A shell retries, as launchd's own KeepAlive can't distinguish exit statuses.

    Raises:
        UsageError: a name contains a control character, or there is no log.
    """
    check_writable(job, "launchd", "")
    return _render(
        "kraken-harvester.refresh.plist",
        job,
        set(),
        command="\n".join(f"\t\t<string>{escape(word)}</string>" for word in job.command),
        folder=escape(job.folder),
        log=escape(job.log),
    )
