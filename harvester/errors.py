"""All errors, the exit status that each one gives a command, and text made safe for messages.

    HarvesterError                  1
     ├── UsageError                 2   what the user typed is wrong
     │    ├── BadTime
     │    ├── BadInterval
     │    ├── BadSetting
     │    ├── BadQuery
     │    ├── UnknownPair
     │    │    └── AmbiguousPair
     │    ├── NothingStored
     │    └── BadFile
     │         └── DamagedFile
     ├── ExchangeError              3   the exchange could not be reached, or refused
     │    ├── ExchangeUnreachable
     │    ├── ExchangeRefused
     │    └── UnreadableAnswer
     ├── ValueDoesNotFit            1   a trade that the storage format can't hold
     ├── ArchiveError               1   an archive can't be read or written
     │    ├── ArchiveUnwritable
     │    └── ArchiveTooNew
     ├── ArchiveIncomplete          4   an archive is damaged or has gaps
     │    ├── MarketChanged
     │    ├── ArchiveDamaged
     │    │    └── ImportIncomplete
     │    └── ArchiveHasGaps
     ├── ArchiveLocked              5   another run is writing
     └── Interrupted              130   Ctrl-C or SIGTERM

A message is one or two lines: what was given, what is wrong, what to do next. `ResultWarning` is a
Python warning.
"""

from __future__ import annotations

import re
import shlex
import sys
import textwrap
import traceback
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

BAD_JSON = (ValueError, RecursionError)
"""What decoding foreign JSON may raise: it is not JSON, not UTF-8, or nested too deeply."""


class HarvesterError(Exception):
    """Base class of all errors that harvester raises on purpose."""

    exit_status: ClassVar[int] = 1

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the message, which says all, without hundreds of lines of code."""
        return [f"{type(self).__name__}: {self}"]


class ResultWarning(UserWarning):
    """A note on the rows of a result, such as: part of its range was not downloaded."""


class UsageError(HarvesterError):
    """The request is wrong: an argument, an option, a setting or a file."""

    exit_status = 2


class BadTime(UsageError):
    """A time or a time range can't be read."""


class BadInterval(UsageError):
    """A candle interval can't be read or built."""


class BadSetting(UsageError):
    """A key or value of the configuration is wrong."""


class BadQuery(UsageError):
    """A SQL query can't be run."""


class UnknownPair(UsageError):
    """No market has this name."""


class AmbiguousPair(UnknownPair):
    """Several markets differ from this name by case only, and none has exactly this name."""


class NothingStored(UsageError):
    """The archive contains nothing of what was requested."""


class BadFile(UsageError):
    """A file to import can't be read or can't be trusted."""


class DamagedFile(BadFile):
    """The bytes of a file to import differ from its checksum."""


class ExchangeError(HarvesterError):
    """The exchange can't be reached, refused a request, or sent an invalid answer."""

    exit_status = 3


class ExchangeUnreachable(ExchangeError):
    """The exchange sent no valid answer within the time allowed."""


class ExchangeRefused(ExchangeError):
    """The exchange refused a request, and retrying would not help."""


class UnreadableAnswer(ExchangeError):
    """An answer of the exchange can't be read; nothing of it was stored."""


class ValueDoesNotFit(HarvesterError):
    """A trade has a value that the storage format can't hold exactly."""


class ArchiveError(HarvesterError):
    """An archive can't be read or written on this machine."""


class ArchiveUnwritable(ArchiveError):
    """Writing to an archive failed: disk full, no permission, a missing folder."""


class ArchiveTooNew(ArchiveError):
    """The archive was written by a newer version of harvester."""


class ArchiveIncomplete(HarvesterError):
    """The archive does not contain exactly what was requested."""

    exit_status = 4


class MarketChanged(ArchiveIncomplete):
    """The exchange now uses the name of a stored pair for another market."""

    def __init__(self, pair: str, stored: str, now: str) -> None:
        """Describe the change.

        Args:
            pair: the altname.
            stored: the key of the stored market.
            now: the key of the market that has this altname now.
        """
        super().__init__(
            f"{market_changed_text(pair, stored, now)}: nothing was added. Keep the old trades "
            "where they are, and download the new market into another folder (--data FOLDER)"
        )


def market_changed_text(pair: str, stored: str, now: str) -> str:
    """The sentence that an altname stands for another market now; arguments as `MarketChanged`."""
    return (
        f"{pair}: the exchange now uses this name for another market, {now}, than the archive "
        f"does, {stored}"
    )


class ArchiveDamaged(ArchiveIncomplete):
    """A file of the archive contradicts itself or its neighbours."""


class ImportIncomplete(ArchiveDamaged):
    """Imported data lacks trades, or has too many, by the trade ids around it.

    Attributes:
        after: start of that range (exclusive), UNIX nanoseconds.
        through: its end (inclusive), UNIX nanoseconds.
    """

    def __init__(self, message: str, after: int, through: int) -> None:
        """Describe the range `(after, through]`, in UNIX nanoseconds."""
        super().__init__(message)
        self.after, self.through = after, through


class ArchiveHasGaps(ArchiveIncomplete):
    """Requested ranges are not covered: the archive has gaps."""


class ArchiveLocked(HarvesterError):
    """Another run holds the lock of a pair."""

    exit_status = 5


class Interrupted(HarvesterError):
    """The user stopped the command."""

    exit_status = 130

    def __init__(
        self, text: str = "interrupted; the same command goes on where it stopped"
    ) -> None:
        """Create the error; `text` is the message."""
        super().__init__(text)


def not_installed(need: str, *packages: str) -> UsageError:
    """The error where an optional library is missing or too old, with the command that installs it.

    Args:
        need: what needs which library, such as "an image needs kaleido".
        packages: the names of the libraries on the package index.
    """
    # Not just `pip`, which may belong to another Python; and an environment made by uv has no pip.
    pip = [sys.executable, "-m", "pip", "install"]
    uv = ["uv", "pip", "install", "--python", sys.executable]
    command = [*(pip if find_spec("pip") else uv), "--upgrade", *packages]
    return UsageError(f"{need}: {shlex.join(command)}")


GRAVEST_FIRST = (130, 2, 1, 4, 3, 5, 0)


def gravest(statuses: list[int]) -> int:
    """The exit status of a run over several pairs: the worst of theirs, 0 without pairs."""
    return min(statuses, key=GRAVEST_FIRST.index, default=0)


def raise_gravest(errors: Sequence[tuple[HarvesterError, str]]) -> None:
    """Raise the gravest of some errors, with notes about the others; do nothing without any.

    Args:
        errors: each with the text of its note, if another one is raised.
    """
    if not errors:
        return
    in_order = sorted(errors, key=lambda error: GRAVEST_FIRST.index(error[0].exit_status))
    error = in_order[0][0]
    for _, note in in_order[1:]:
        error.add_note(note)
    raise error


async def capture_error(work: Awaitable[None]) -> HarvesterError | None:
    """Await one pair's work and return its error, so that the work on other pairs continues."""
    try:
        await work
    except Exception as fault:  # noqa: BLE001 - an error of one pair must not end the others
        return as_error(fault)
    return None


def capture_error_sync(work: Callable[[], object]) -> HarvesterError | None:
    """Do one pair's work and return its error, so that the work on other pairs continues."""
    try:
        work()
    except Exception as fault:  # noqa: BLE001 - an error of one pair must not end the others
        return as_error(fault)
    return None


def as_error(fault: Exception) -> HarvesterError:
    """An exception that ended one pair's work, as an error that can be kept until the run ends."""
    error = fault
    if not isinstance(error, HarvesterError):
        error = HarvesterError(f"internal error: {type(fault).__name__}: {fault}")
        error.__cause__ = fault
    # The local variables of its traceback would keep trades in memory.
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__
    return error


# --- text from outside ----------------------------------------------------------------------------

# Error messages, names, file names and rows come from the exchange or from files. A control
# character in one could move the cursor, change a terminal's title or begin a line that looks
# like harvester's own. A text of five megabytes would flood the terminal.

LONGEST_TEXT = 200
"""Most characters of a text from outside that a message shows."""

_CREDENTIALS = re.compile(r"(?<=://)[^/?#\s]*@")
_BEFORE_HOST = re.compile(r"([^@/:]*://)?.*@", re.DOTALL)


def printable(text: str) -> str:
    r"""Return a text as one line; control characters become escapes such as `\x1b`.

    Line ends, tabs, marks that change the writing direction, characters without width and lone
    surrogates are escaped as well.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def shortened(text: str, max_chars: int = LONGEST_TEXT) -> str:
    """Return a text, or its first `max_chars` characters and its length if it is longer."""
    return text if len(text) <= max_chars else f"{text[:max_chars]}... ({len(text):,} characters)"


def counted(number: int, noun: str) -> str:
    """A number and its noun, such as `1 gap`, `2,000 gaps` or `2 FAULTS`."""
    ending = "" if number == 1 else "S" if noun.isupper() else "s"
    return f"{number:,} {noun}{ending}"


def first_few(items: Sequence[object], most: int) -> str:
    """Return the first `most` items as text, and how many there are besides: `a, b and 3 more`."""
    named = ", ".join(map(str, items[:most]))
    return named if len(items) <= most else f"{named} and {len(items) - most:,} more"


def brief(text: str) -> str:
    """Return a text from outside for a message: printable, in one line, shortened if it is long."""
    return printable(shortened(text))


def without_credentials(text: str) -> str:
    """Return a text without the `user:password@` of the addresses in it."""
    return _CREDENTIALS.sub("", text) if "@" in text else text


def without_user(address: str) -> str:
    """Return an address without all that stands between its scheme and its last `@`.

    For an address that is refused: a password with a `/` or `#` in it makes it unreadable.
    """
    return _BEFORE_HOST.sub(r"\1", address, count=1)


def wrapped(text: str, width: int | None) -> str:
    """Text whose lines are wrapped to a width between words; longer words are not cut."""
    if width is None or all(len(line) <= width for line in text.split("\n")):
        return text
    lines: list[str] = []
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip())]
        parts = textwrap.wrap(
            line,
            width,
            subsequent_indent=indent,
            expand_tabs=False,
            replace_whitespace=False,
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += parts if len(line) > width else [line]
    return "\n".join(lines)
