"""Every setting: its key, type, default, help text, and the check of its values."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from harvester.errors import BadInterval, BadSetting
from harvester.escaping import is_path_text
from harvester.times import parse_interval

# --- rules ----------------------------------------------------------------------------------------

# A rule reads what a file, the environment or an option holds; it says no with a ValueError,
# which `config` turns into a message that names the place.

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
    if any(length.width_ns is None for length in lengths):
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


# --- keys -----------------------------------------------------------------------------------------

# config.toml, the environment's names and the documentation follow it.

PREFIX = "HARVESTER_"
FILE_VARIABLE = "HARVESTER_CONFIG"
"""Names the configuration file."""
SHORT_VARIABLES = {"HARVESTER_DATA": "archive.path", "HARVESTER_API_URL": "exchange.url"}
"""The same as options have."""


class Key(NamedTuple):
    """One setting: its name, its default, its rule, and why it is there."""

    name: str
    default: Any
    rule: Rule
    why: str

    @property
    def section(self) -> str:
        """Its table in the file."""
        return self.name.partition(".")[0]

    @property
    def short(self) -> str:
        """Its name within the table."""
        return self.name.partition(".")[2]

    @property
    def variables(self) -> tuple[str, ...]:
        """What the environment calls it; the first that is set counts."""
        long = PREFIX + self.name.replace(".", "_").upper()
        return (*(name for name, key in SHORT_VARIABLES.items() if key == self.name), long)


KEYS = (
    Key("archive.path", "data", PATH, "the folder that holds the archive"),
    Key(
        "archive.flush_s",
        30.0,
        number(0, exclusive=True),
        "seconds: trades wait no longer in memory, so a crash costs at most these calls",
    ),
    Key(
        "archive.flush_rows",
        250_000,
        whole(1),
        "trades: no more of one pair wait in memory; larger segments compact less often",
    ),
    Key(
        "exchange.url",
        "https://api.kraken.com",
        URL,
        "where the API answers; a mirror's address goes here",
    ),
    Key(
        "exchange.user_agent",
        "kraken-harvester",
        AGENT,
        "text: how requests introduce themselves; stock names of libraries are refused",
    ),
    Key(
        "exchange.rate",
        1.0,
        number(0),
        "pages a second a pair, 0 for no limit: Kraken allows one a second for each pair",
    ),
    Key("exchange.jobs", 8, whole(1), "pairs crawled side by side: each has a limit of its own"),
    Key(
        "exchange.timeout_s",
        30.0,
        number(0, exclusive=True),
        "seconds: an answer takes no longer, from the first byte sent to the last received",
    ),
    Key(
        "exchange.retry_wait_s",
        5.0,
        number(0, exclusive=True),
        "seconds before asking again, doubling to 60 with jitter: refusals pass in some seconds",
    ),
    Key(
        "exchange.give_up_s",
        600.0,
        number(0, exclusive=True),
        "seconds without one good answer end the run; 15 when there never was one",
    ),
    Key("exchange.ca_file", "", TEXT, "path: certificates to trust instead of the usual ones"),
    Key(
        "refresh.pairs",
        (),
        NAMES,
        "names: what the nightly run brings up to date; none means all that is held",
    ),
    Key(
        "refresh.settle_s",
        60.0,
        number(0),
        "seconds: trades younger than this, by the exchange's clock, are left for the next run",
    ),
    Key(
        "candles.rollups",
        ("1m", "1h"),
        LENGTHS,
        "intervals: partial candles kept beside the trades, so that long questions are quick",
    ),
    Key(
        "candles.memory_limit",
        "2GB",
        SIZE,
        "size: a question uses no more memory, such as 2GB",
    ),
)


SECTIONS = tuple(dict.fromkeys(key.section for key in KEYS))

# Kubernetes tells each pod of each service in such variables, and a service may be called so.
_SERVICE = re.compile(
    r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)\Z"
)
_NEAR = 0.8


def check_key(place: str, section: str, name: str) -> None:
    """See that a key of the file is one.

    Raises:
        BadSetting: it is not; the message names the nearest one, and what is allowed.
    """
    known = [key.name for key in KEYS]
    if f"{section}.{name}" in known:
        return
    near = difflib.get_close_matches(f"{section}.{name}", known, n=1, cutoff=0.5)
    meant = "[{}] {}".format(*near[0].split(".")) if near else None
    raise BadSetting(_no_setting(f"{place}: [{section}] {name}", meant, _keys_of(section)))


def check_section(place: str, name: str) -> None:
    """See that a table of the file is a section.

    Raises:
        BadSetting: it is not; the message names the nearest one, and all that are.
    """
    if name not in SECTIONS:
        near = difflib.get_close_matches(name, SECTIONS, n=1)
        hint = f" is [{near[0]}] meant?" if near else ""
        raise BadSetting(f"{place}: [{name}] is no section;{hint} {_sections()}")


def check_variables(names: Iterable[str]) -> None:
    """See that each variable that is meant for us is one that we know.

    Meant for us is what begins with HARVESTER_ and goes on with a section or a key, or nearly
    so. Other programs may have the prefix, too: what is like none of ours is left to them.

    Raises:
        BadSetting: one is misspelt; the message names the nearest one, and what is allowed.
    """
    short = {key.short.upper(): key.variables[-1] for key in KEYS}
    known = {variable: variable for key in KEYS for variable in key.variables} | {
        FILE_VARIABLE: FILE_VARIABLE
    }
    meant = short | {one.removeprefix(PREFIX): one for one in known}
    for name in sorted(names):
        rest = name.removeprefix(PREFIX)
        if rest == name or name in known or _SERVICE.search(name):
            continue
        near = difflib.get_close_matches(rest, meant, n=1, cutoff=_NEAR)
        section = next((one for one in SECTIONS if f"{rest}_".startswith(f"{one}_".upper())), "")
        if near or section:
            raise BadSetting(
                _no_setting(
                    name,
                    meant[near[0]] if near else None,
                    _keys_of(section) if section else _VARIABLES,
                )
            )


_VARIABLES = (
    f"there are {FILE_VARIABLE}, {', '.join(SHORT_VARIABLES)}, and {PREFIX}<SECTION>_<KEY> for "
    "each key of config.toml"
)


def _no_setting(given: str, meant: str | None, allowed: str) -> str:
    hint = f" is {meant} meant?" if meant else ""
    return f"{given} is no setting;{hint} {allowed}"


def _keys_of(section: str) -> str:
    names = sorted(key.short for key in KEYS if key.section == section)
    return f"[{section}] knows {', '.join(names)}" if names else _sections()


def _sections() -> str:
    return "the sections are " + ", ".join(f"[{one}]" for one in SECTIONS)
