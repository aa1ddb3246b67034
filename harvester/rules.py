"""What a setting's value may be, and the words that say so.

A rule reads what a file, the environment or an option holds; it says no with a ValueError, which
`config` turns into a message that names the place.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from harvester.errors import BadInterval
from harvester.times import parse_interval

# As DuckDB reads them.
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT])(?:i?B)?", re.IGNORECASE | re.ASCII)
_BYTES = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
LEAST_BYTES = 10**6


class Rule(NamedTuple):
    """What a value may be: how it is read, and the words that say so."""

    read: Callable[[Any], Any]
    allowed: str


def _real(text: Any) -> float:
    if isinstance(text, bool):
        raise ValueError(text)
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def number(least: float, *, exclusive: bool = False) -> Rule:
    """A finite number, `least` or more; or above it."""

    def read(text: Any) -> float:
        number = _real(text)
        if number < least or (exclusive and number == least):
            raise ValueError(text)
        return number

    return Rule(read, f"a number above {least:g}" if exclusive else f"a number, {least:g} or more")


def whole(least: int) -> Rule:
    """A whole number, `least` or more."""

    def read(text: Any) -> int:
        if isinstance(text, float | bool) or int(text) < least:
            raise ValueError(text)
        return int(text)

    return Rule(read, f"a whole number, {least} or more")


def _read_text(text: Any) -> str:
    if not isinstance(text, str):
        raise ValueError(text)
    return text


def _read_filled(text: Any) -> str:
    if not _read_text(text).strip():
        raise ValueError(text)
    return str(text)


def is_path_text(text: str) -> bool:
    """Whether the system could have a file of that name: no NUL, and nothing it can't encode."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _read_path(text: Any) -> str:
    path = _read_filled(text)
    if not is_path_text(path):
        raise ValueError(text)
    return path


def _read_url(text: Any) -> str:
    url = _read_filled(text).rstrip("/")
    parts = urlsplit(url)
    # The port is read, and so checked, by being asked for.
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.port == 0:
        raise ValueError(text)
    if not url.isprintable() or " " in url:
        raise ValueError(text)
    return url


def _read_agent(text: Any) -> str:
    agent = _read_filled(text).strip()
    if not (agent.isascii() and agent.isprintable()):
        raise ValueError(text)
    return agent


def _read_names(text: Any) -> tuple[str, ...]:
    names = text.split(",") if isinstance(text, str) else text
    if not isinstance(names, list | tuple):
        raise ValueError(text)
    return tuple(_read_text(name).strip() for name in names if _read_text(name).strip())


def _read_lengths(text: Any) -> tuple[str, ...]:
    names = _read_names(text)
    try:
        lengths = [parse_interval(name) for name in names]
    except BadInterval as error:
        raise ValueError(text) from error
    # The calendar's months have no length that smaller candles could be added up to.
    if any(one.width_ns is None for one in lengths):
        raise ValueError(text)
    return names


def _read_size(text: Any) -> str:
    match = _SIZE.fullmatch(_read_text(text).strip())
    if match is None or float(match[1]) * _BYTES[match[2].upper()] < LEAST_BYTES:
        raise ValueError(text)
    return str(text).strip()


TEXT = Rule(_read_text, "a text")
PATH = Rule(_read_path, "a text that is not empty and has no NUL character")
NAMES = Rule(_read_names, 'a list of names, such as ["XBT/USD"]')
URL = Rule(
    _read_url,
    "an address that begins with https:// or http:// and names a host, with a port below "
    "65536 or none",
)
LENGTHS = Rule(
    _read_lengths, 'a list of lengths in ms, s, m, h, d or w, such as ["1m", "1h"], or an empty one'
)
SIZE = Rule(_read_size, "a size of 1MB or more in KB, MB, GB or TB, such as 2GB or 512MB")
AGENT = Rule(_read_agent, "a text of printable ASCII that is not empty")
