"""Exceptions of harvester and the exit status that each one ends a command with.

How the work on one pair of many ended is an error, too: see `capture_error`.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable
from typing import ClassVar

# --- errors ---------------------------------------------------------------------------------------

#     HarvesterError                  1
#      ├── UsageError                 2   what was typed is wrong
#      │    ├── BadTime
#      │    ├── BadInterval
#      │    ├── BadSetting
#      │    ├── BadQuery
#      │    ├── UnknownPair
#      │    │    └── AmbiguousPair
#      │    ├── NothingHeld
#      │    └── BadFile
#      │         └── DamagedFile
#      ├── ExchangeError              3   the exchange could not be reached, or refused
#      │    ├── ExchangeUnreachable
#      │    ├── ExchangeRefused
#      │    └── UnreadableAnswer
#      ├── ValueDoesNotFit            1   a trade that the format has no room for
#      ├── ArchiveError               1   this machine's disk
#      │    ├── ArchiveUnwritable
#      │    └── ArchiveTooNew
#      ├── ArchiveIncomplete          4   damaged, or with gaps
#      │    ├── MarketChanged
#      │    ├── ArchiveDamaged
#      │    │    └── ImportIncomplete
#      │    └── ArchiveHasGaps
#      ├── ArchiveLocked              5   another run is writing
#      └── Interrupted              130   Ctrl-C or SIGTERM
#
# A message is one or two lines: what was given, what is wrong, what to do next.

BAD_JSON = (ValueError, RecursionError)
"""What decoding JSON that others wrote may raise: it is none, no UTF-8, or nested without end."""


class HarvesterError(Exception):
    """Base of all errors that harvester raises on purpose."""

    exit_status: ClassVar[int] = 1


class UsageError(HarvesterError):
    """What was asked for makes no sense."""

    exit_status = 2


class BadTime(UsageError):
    """A moment or a span of time that can't be read."""


class BadInterval(UsageError):
    """A candle interval that can't be read or built."""


class BadSetting(UsageError):
    """A key or value of the configuration is wrong."""


class BadQuery(UsageError):
    """SQL that can't be run."""


class UnknownPair(UsageError):
    """No market goes by that name."""


class AmbiguousPair(UnknownPair):
    """Several markets go by that name, which differ by case, and none is spelled exactly so."""


class NothingHeld(UsageError):
    """The archive holds nothing of what was asked for."""


class BadFile(UsageError):
    """A file to be imported that can't be read, or not be trusted."""


class DamagedFile(BadFile):
    """A file to be imported whose bytes are not those that its checksum was made of."""


class ExchangeError(HarvesterError):
    """The exchange could not be reached, refused, or answered nonsense."""

    exit_status = 3


class ExchangeUnreachable(ExchangeError):
    """No good answer came within the time allowed."""


class ExchangeRefused(ExchangeError):
    """The exchange answered, and asking again would not help."""


class UnreadableAnswer(ExchangeError):
    """An answer came that can't be read; nothing of it was kept."""


class ValueDoesNotFit(HarvesterError):
    """A trade bears a value that the format on disk can't hold exactly."""


class ArchiveError(HarvesterError):
    """The archive could not be read or written on this machine."""


class ArchiveUnwritable(ArchiveError):
    """A write failed: disk full, no permission, a missing folder."""


class ArchiveTooNew(ArchiveError):
    """The archive was made by a newer harvester."""


class ArchiveIncomplete(HarvesterError):
    """What is held is not what was asked for."""

    exit_status = 4


class MarketChanged(ArchiveIncomplete):
    """The name of a pair that is held means another market now."""

    def __init__(self, pair: str, held: str, now: str) -> None:
        """With the altname, and the keys of the market that is held and of the one it means now."""
        super().__init__(
            f"{another_market(pair, held, now)}: nothing was added. Keep the old trades where they "
            "are, and download the new market into another folder (--data FOLDER)"
        )


def another_market(pair: str, held: str, now: str) -> str:
    """Say that an altname means another market than the one that is held, both by their keys."""
    return (
        f"{pair}: the exchange means another market by this name now, {now}, than the archive "
        f"holds under it, {held}"
    )


class ArchiveDamaged(ArchiveIncomplete):
    """A file of the archive contradicts itself or its neighbours."""


class ImportIncomplete(ArchiveDamaged):
    """What came from a file lacks trades that the exchange shows.

    Attributes:
        after, through: the range in which it does, in nanoseconds.
    """

    def __init__(self, message: str, after: int, through: int) -> None:
        """With the range that it is about."""
        super().__init__(message)
        self.after, self.through = after, through


class ArchiveHasGaps(ArchiveIncomplete):
    """Ranges that were asked for are not covered."""


class ArchiveLocked(HarvesterError):
    """Another run holds the lock of a pair."""

    exit_status = 5


class Interrupted(HarvesterError):
    """The user asked to stop."""

    exit_status = 130


GRAVEST_FIRST = (130, 2, 1, 4, 3, 5, 0)


def gravest(statuses: list[int]) -> int:
    """The exit status of a run over several pairs: the gravest of theirs, 0 for none."""
    return min(statuses, key=GRAVEST_FIRST.index, default=0)


# --- endings --------------------------------------------------------------------------------------


async def capture_error(work: Awaitable[None]) -> HarvesterError | None:
    """Do one pair's work, and return what ended it, if anything did: the others go on."""
    try:
        await work
    except HarvesterError as reason:
        _let_go(reason)
        return reason
    except Exception as fault:  # noqa: BLE001 - one pair's fault must not end the others
        _let_go(fault)
        error = HarvesterError(f"internal error: {type(fault).__name__}: {fault}")
        error.__cause__ = fault
        return error
    return None


def _let_go(error: BaseException) -> None:
    """Keep the lines of a traceback, and not the trades that its frames hold on to."""
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__
