"""The list of all settings: key, default, allowed values and help text.

config.toml, the names of environment variables and the documentation are generated from it.
"""

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

# --- Rules for values -----------------------------------------------------------------------------

# A rule reads a value from the file, the environment or an option. It refuses a value by a
# ValueError, which `config` turns into a message that names the origin of the value.

# Sizes as DuckDB reads them.
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT])(?:i?B)?", re.IGNORECASE | re.ASCII)
_BYTES = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
MIN_BYTES = 10**6


class Rule(NamedTuple):
    """The allowed values of a setting: a function that reads them, and their description."""

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
    """The rule for a finite number of at least `least`, or above it if `exclusive`."""

    def read(text: Any) -> float:
        number = _real(text)
        if number < least or (exclusive and number == least):
            raise ValueError(text)
        return number

    return Rule(read, f"a number above {least:g}" if exclusive else f"a number, {least:g} or more")


def whole(least: int) -> Rule:
    """The rule for a whole number of at least `least`."""

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
    if not _is_address(url):
        # Without the text, which may contain a password: -vv shows this error as well.
        raise ValueError("no address")
    return url


def _is_address(url: str) -> bool:
    """Whether a text is an address of HTTP that names a host, with nothing but a path behind it."""
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    # With a / in its password, an address seems to name another host, and its path has an @.
    has_more = bool(parts.query or parts.fragment or "@" in parts.path)
    is_plain = url.isprintable() and " " not in url
    return has_host and is_plain and not has_more and parts.scheme in ("https", "http")


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
    # Calendar months have no fixed length that smaller candles could be added up to.
    if any(length.width_ns is None for length in lengths):
        raise ValueError(text)
    return names


def _read_size(text: Any) -> str:
    match = _SIZE.fullmatch(_read_text(text).strip())
    if match is None or float(match[1]) * _BYTES[match[2].upper()] < MIN_BYTES:
        raise ValueError(text)
    return str(text).strip()


TEXT = Rule(_read_text, "a text")
PATH = Rule(_read_path, "a text that is not empty and has no NUL character")
NAMES = Rule(_read_names, 'a list of names, such as ["XBT/USD"]')
URL = Rule(
    _read_url,
    "an address that begins with https:// or http:// and names a host, with a port below "
    "65536 or none and no @, ? or # behind it",
)
LENGTHS = Rule(
    _read_lengths, 'a list of lengths in ms, s, m, h, d or w, such as ["1m", "1h"], or an empty one'
)
SIZE = Rule(_read_size, "a size of 1MB or more in KB, MB, GB or TB, such as 2GB or 512MB")
AGENT = Rule(_read_agent, "a text of printable ASCII that is not empty")


# --- The settings ---------------------------------------------------------------------------------

PREFIX = "HARVESTER_"
FILE_VARIABLE = "HARVESTER_CONFIG"
"""The environment variable with the path of the configuration file."""
SHORT_VARIABLES = {"HARVESTER_DATA": "archive.path", "HARVESTER_API_URL": "exchange.url"}
"""Short environment variables, named like the options --data and --api-url."""


class Key(NamedTuple):
    """One setting.

    Attributes:
        name: section and key, such as `exchange.rate`.
        default: its value unless set.
        rule: the allowed values.
        help: one line for config.toml and `harvester config`, with the unit.
    """

    name: str
    default: Any
    rule: Rule
    help: str

    @property
    def section(self) -> str:
        """Its section in the file."""
        return self.name.partition(".")[0]

    @property
    def short(self) -> str:
        """Its name within the section."""
        return self.name.partition(".")[2]

    @property
    def variables(self) -> tuple[str, ...]:
        """Its environment variables; the first one that is set counts."""
        long = PREFIX + self.name.replace(".", "_").upper()
        return (*(name for name, key in SHORT_VARIABLES.items() if key == self.name), long)


KEYS = (
    Key("archive.path", "data", PATH, "Folder of the archive."),
    Key(
        "archive.flush_s",
        30.0,
        number(0, exclusive=True),
        "Seconds between writes of buffered trades to disk. A crash loses no more than that.",
    ),
    Key(
        "archive.flush_rows",
        250_000,
        whole(1),
        "Write a pair's buffered trades once there are this many. More: larger, fewer segments.",
    ),
    Key(
        "exchange.url",
        "https://api.kraken.com",
        URL,
        "Address of Kraken's API, or of an API server.",
    ),
    Key(
        "exchange.user_agent",
        "kraken-harvester",
        AGENT,
        "User-Agent of requests. Kraken refuses the default names of HTTP libraries.",
    ),
    Key(
        "exchange.rate",
        1.0,
        number(0),
        "Pages per second for each pair; 0 means no limit. Kraken allows 1.",
    ),
    Key(
        "exchange.jobs",
        8,
        whole(1),
        "Number of pairs that are downloaded in parallel. Each has its own rate limit.",
    ),
    Key(
        "exchange.timeout_s",
        30.0,
        number(0, exclusive=True),
        "Seconds until a request without a complete answer counts as failed.",
    ),
    Key(
        "exchange.retry_wait_s",
        5.0,
        number(0, exclusive=True),
        "Seconds to wait before a retry, doubling up to 60, with jitter.",
    ),
    Key(
        "exchange.give_up_s",
        600.0,
        number(0, exclusive=True),
        "Give up after this many seconds without a valid answer (15 if there was none yet).",
    ),
    Key(
        "exchange.ca_file",
        "",
        TEXT,
        "File of certificates to trust instead of the system's; empty for the system's.",
    ),
    Key(
        "refresh.pairs",
        (),
        NAMES,
        "Pairs that the nightly refresh updates; an empty list means all pairs in the archive.",
    ),
    Key(
        "refresh.settle_s",
        60.0,
        number(0),
        "Leave trades of the last this many seconds, by the exchange's clock, for the next run.",
    ),
    Key(
        "candles.rollups",
        ("1m", "1h"),
        LENGTHS,
        "Intervals that are pre-aggregated (roll-ups), so that queries over long ranges are fast.",
    ),
    Key(
        "candles.memory_limit",
        "2GB",
        SIZE,
        "Most memory that a query may use, such as 2GB.",
    ),
)


SECTIONS = tuple(dict.fromkeys(key.section for key in KEYS))

# Kubernetes sets such variables for each service, and a service may be called "harvester".
_SERVICE = re.compile(
    r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)\Z"
)
_NEAR = 0.8


def check_key(place: str, section: str, name: str) -> None:
    """Check that a key of the configuration file exists.

    Args:
        place: the file, for the message.
        section: the key's section.
        name: the key.

    Raises:
        BadSetting: there is no such key; the message names the nearest one and the known ones.
    """
    known = [key.name for key in KEYS]
    if f"{section}.{name}" in known:
        return
    near = difflib.get_close_matches(f"{section}.{name}", known, n=1, cutoff=0.5)
    meant = "[{}] {}".format(*near[0].split(".")) if near else None
    raise BadSetting(_no_setting(f"{place}: [{section}] {name}", meant, _keys_of(section)))


def check_section(place: str, name: str) -> None:
    """Check that a section of the configuration file exists.

    Args:
        place: the file, for the message.
        name: the section.

    Raises:
        BadSetting: there is no such section; the message names the nearest one and all others.
    """
    if name not in SECTIONS:
        near = difflib.get_close_matches(name, SECTIONS, n=1)
        hint = f" is [{near[0]}] meant?" if near else ""
        raise BadSetting(f"{place}: [{name}] is no section;{hint} {_sections()}")


def check_variables(names: Iterable[str]) -> None:
    """Refuse misspelt environment variables.

    A variable counts as harvester's if it begins with HARVESTER_ and goes on with a section or a
    key, or nearly so. Others are ignored, as other programs may use the same prefix.

    Raises:
        BadSetting: one is misspelt; the message names the nearest one and the known ones.
    """
    short = {key.short.upper(): key.variables[-1] for key in KEYS}
    known = {variable: variable for key in KEYS for variable in key.variables} | {
        FILE_VARIABLE: FILE_VARIABLE
    }
    meant = short | {variable.removeprefix(PREFIX): variable for variable in known}
    for name in sorted(names):
        rest = name.removeprefix(PREFIX)
        if rest == name or name in known or _SERVICE.search(name):
            continue
        near = difflib.get_close_matches(rest, meant, n=1, cutoff=_NEAR)
        section = next((name for name in SECTIONS if f"{rest}_".startswith(f"{name}_".upper())), "")
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


def _no_setting(name: str, meant: str | None, allowed: str) -> str:
    hint = f" is {meant} meant?" if meant else ""
    return f"{name} is no setting;{hint} {allowed}"


def _keys_of(section: str) -> str:
    names = sorted(key.short for key in KEYS if key.section == section)
    return f"[{section}] knows {', '.join(names)}" if names else _sections()


def _sections() -> str:
    return "the sections are " + ", ".join(f"[{section}]" for section in SECTIONS)
