"""One nightly run, told in the words of cron, systemd or launchd: texts, and nothing else."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from harvester.errors import BadTime, ExchangeError, UsageError

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
class Night:
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


def check_written(night: Night, kind: str, never: str) -> None:
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
