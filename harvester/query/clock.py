"""The clock on the wall of a time zone: how far it is ahead of UTC, and when it is turned.

A wall time is written as a stamp is, in nanoseconds since 1970-01-01 00:00, but on that clock.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import NamedTuple
from zoneinfo import ZoneInfo, available_timezones

from harvester.errors import BadSetting
from harvester.times import DAY, SECOND

# A clock that is turned and turned back between two looks would go unseen. Since 1970 no zone
# left less than 6 days and 23 hours between two turns (Brazil in 2000, Gaza up to 2086).
LOOK_S = 3 * DAY // SECOND

NEAR = 0.8
"""How alike two names must be, from 0 to 1, for one to be meant by the other."""


class Turn(NamedTuple):
    """From `at_ns` on, and up to the next turn, the clock is ahead of UTC by `ahead_ns`."""

    at_ns: int
    ahead_ns: int


def turns(zone: ZoneInfo, first_ns: int, last_ns: int) -> list[Turn]:
    """What the clock of a zone does from one moment through another; the first is no real turn."""
    at, last = first_ns // SECOND, last_ns // SECOND
    found = [Turn(at * SECOND, _ahead_ns(zone, at))]
    while at < last:
        ahead_ns, later = found[-1].ahead_ns, min(at + LOOK_S, last)
        if _ahead_ns(zone, later) != ahead_ns:
            later = _turned(zone, at, later)
            found.append(Turn(later * SECOND, _ahead_ns(zone, later)))
        at = later
    return found


def _turned(zone: ZoneInfo, before: int, after: int) -> int:
    """The first second that is not as far ahead as `before` is, while `after` is not either."""
    ahead_ns = _ahead_ns(zone, before)
    while after - before > 1:
        middle = (before + after) // 2
        if _ahead_ns(zone, middle) == ahead_ns:
            before = middle
        else:
            after = middle
    return after


def _ahead_ns(zone: ZoneInfo, at: int) -> int:
    ahead = datetime.fromtimestamp(at, zone).utcoffset() or timedelta()
    return ahead // timedelta(seconds=1) * SECOND


def zone_of(name: str) -> ZoneInfo:
    """The time zone of a name in the tz database, such as Europe/Berlin.

    Raises:
        BadSetting: there is none of that name.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        # A folder of zones, such as `Europe`, is an OSError; a path, such as `../x`, a ValueError.
        meant = " or ".join(_names_like(name)) or "a name such as Europe/Berlin or UTC"
    raise BadSetting(f"tz is {name!r}, which is no time zone of the tz database: give {meant}")


def _names_like(name: str) -> list[str]:
    """Names that another case, a slip of the keyboard, or a city alone is near to."""
    names = {known.casefold(): known for known in sorted(available_timezones())}
    cities = {known.rpartition("/")[2]: known for known in names}
    wanted = name.strip().replace(" ", "_").casefold()
    if wanted in names:
        return [names[wanted]]
    near = get_close_matches(wanted, names, n=2, cutoff=NEAR)
    near += [cities[city] for city in get_close_matches(wanted, cities, n=2, cutoff=NEAR)]
    return [names[known] for known in dict.fromkeys(near)]
