"""Settings: their defaults, allowed values and help, and how they are loaded.

Command-line options override environment variables, which override config.toml, which overrides the
defaults. config.toml, the names of variables and the documentation are generated from `KEYS`.
"""

from __future__ import annotations

import difflib
import errno
import json
import os
import re
import shlex
import stat
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from harvester.argument_types import is_path_text
from harvester.errors import (
    BAD_JSON,
    BadInterval,
    BadSetting,
    shortened,
    without_credentials,
    without_user,
)
from harvester.times import parse_interval

# --- rules for values -----------------------------------------------------------------------------


BAD_VALUE = (ValueError, msgspec.ValidationError, BadInterval)
"""What a rule raises."""


class Rule(NamedTuple):
    """The allowed values of a setting: a function that reads one, and their description.

    A value comes from the file, the environment, an option or Python. It is refused by one of
    `BAD_VALUE`.
    """

    read: Callable[[Any], Any]
    allowed: str


def _constraint(kind: Any, allowed: str) -> Rule:
    """The rule for values that msgspec converts to a type with constraints."""
    return Rule(lambda value: msgspec.convert(value, kind, strict=False), allowed)


_FINITE = sys.float_info.max
TEXT = _constraint(str, "a text")
FROM_0 = _constraint(Annotated[float, Meta(ge=0, le=_FINITE)], "a number, 0 or more")
ABOVE_0 = _constraint(Annotated[float, Meta(gt=0, le=_FINITE)], "a number above 0")
FROM_1 = _constraint(Annotated[int, Meta(ge=1)], "a whole number, 1 or more")

# Sizes as DuckDB reads them.
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT])(?:i?B)?", re.IGNORECASE | re.ASCII)
_BYTES = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
MIN_BYTES = 10**6


def _read_path(value: Any) -> str:
    path: str = TEXT.read(value)
    if not path.strip() or not is_path_text(path):
        raise ValueError(value)
    return path


def _read_url(value: Any) -> str:
    """An address of HTTP that names a host, with nothing but a path after it."""
    url: str = TEXT.read(value).rstrip("/")
    is_address = url.isprintable() and " " not in url
    try:
        parts = urlsplit(url)
        # Encoding a host checks its labels.
        is_address &= bool((parts.hostname or "").encode("idna")) and parts.port != 0
        # With a / in its password, an address seems to name another host, and its path has an @.
        has_more = bool(parts.query or parts.fragment or "@" in parts.path)
        is_address &= parts.scheme in ("https", "http") and not has_more
    except ValueError:
        is_address = False
    if not is_address:
        # Without the text, which may contain a password: -vv shows this error as well.
        raise ValueError("no address")
    return url


def _read_agent(value: Any) -> str:
    agent: str = TEXT.read(value).strip()
    if not (agent and agent.isascii() and agent.isprintable()):
        raise ValueError(value)
    return agent


def _read_names(value: Any) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else msgspec.convert(value, list[str])
    return tuple(name.strip() for name in names if name.strip())


def _read_lengths(value: Any) -> tuple[str, ...]:
    names = _read_names(value)
    # Calendar months have no fixed length that smaller candles could be added up to.
    if any(parse_interval(name).width_ns is None for name in names):
        raise ValueError(value)
    return names


def _read_size(value: Any) -> str:
    size: str = TEXT.read(value).strip()
    match = _SIZE.fullmatch(size)
    if match is None or float(match[1]) * _BYTES[match[2].upper()] < MIN_BYTES:
        raise ValueError(value)
    return size


def _read_command(value: Any) -> tuple[str, ...]:
    """A program and its arguments; a text is split at spaces, with quotes as in a shell."""
    words = shlex.split(value) if isinstance(value, str) else msgspec.convert(value, list[str])
    if not all(map(is_path_text, words)) or (words and not words[0].strip()):
        raise ValueError("no command")
    return tuple(words)


PATH = Rule(_read_path, "a text that is not empty and has no NUL character")
NAMES = Rule(_read_names, 'a list of names, such as ["XBT/USD"]')
URL = Rule(
    _read_url,
    "an http:// or https:// address: optional user and password, a host, optional port (1 to "
    "65535) and path; no ? or #",
)
LENGTHS = Rule(
    _read_lengths, 'a list of lengths in ms, s, m, h, d or w, such as ["1m", "1h"], or an empty one'
)
SIZE = Rule(_read_size, "a size of 1MB or more in KB, MB, GB or TB, such as 2GB or 512MB")
AGENT = Rule(_read_agent, "a text of printable ASCII that is not empty")
COMMAND = Rule(
    _read_command,
    'a program and its arguments, such as ["/home/me/notify", "ops"], or an empty list',
)


# --- the settings ---------------------------------------------------------------------------------

# Each field has its type, its rule, and its help: one line, with the unit.


@dataclass(frozen=True, slots=True)
class ArchiveSettings:
    """Section `[archive]`: where trades are stored, and when buffered trades are written."""

    path: Annotated[str, PATH, "Folder of the archive."] = "data"
    flush_s: Annotated[
        float,
        ABOVE_0,
        "Seconds between writes of buffered trades to disk. A crash loses no more than that.",
    ] = 30.0
    flush_rows: Annotated[
        int,
        FROM_1,
        "Write a pair's buffer at this many trades. Higher values make fewer, larger segments.",
    ] = 250_000


KRAKEN_URL = "https://api.kraken.com"


@dataclass(frozen=True, slots=True)
class ExchangeSettings:
    """Section `[exchange]`: the API's address, rates, timeouts and retries."""

    url: Annotated[str, URL, "Address of Kraken's API, or of an API server."] = KRAKEN_URL
    user_agent: Annotated[
        str, AGENT, "User-Agent of requests. Kraken refuses the default names of HTTP libraries."
    ] = "kraken-harvester"
    rate: Annotated[
        float, FROM_0, "Pages per second for each pair; 0 means no limit. Kraken allows 1."
    ] = 1.0
    jobs: Annotated[
        int, FROM_1, "Number of pairs that are downloaded in parallel. Each has its own rate limit."
    ] = 8
    timeout_s: Annotated[
        float, ABOVE_0, "Seconds until a request without a complete answer counts as failed."
    ] = 30.0
    retry_wait_s: Annotated[
        float, ABOVE_0, "Seconds to wait before a retry, doubling up to 60, with jitter."
    ] = 5.0
    give_up_s: Annotated[
        float,
        ABOVE_0,
        "Give up after this many seconds without a valid answer (15 if there was none yet).",
    ] = 600.0
    ca_file: Annotated[
        str, TEXT, "File of certificates to trust instead of the system's; empty for the system's."
    ] = ""

    @property
    def shown_url(self) -> str:
        """The address without user name and password, for messages and records."""
        return without_credentials(self.url)


@dataclass(frozen=True, slots=True)
class RefreshSettings:
    """Section `[refresh]`: what `harvester refresh` updates."""

    pairs: Annotated[
        tuple[str, ...],
        NAMES,
        "Pairs that the nightly refresh updates; an empty list means all pairs in the archive.",
    ] = ()
    settle_s: Annotated[
        float,
        FROM_0,
        "Leave trades younger than this many seconds (exchange clock) to the next run.",
    ] = 60.0
    notify_command: Annotated[
        tuple[str, ...],
        COMMAND,
        "Program and arguments to run if a refresh does not end with status 0; it gets the result "
        "as JSON on stdin.",
    ] = ()


@dataclass(frozen=True, slots=True)
class CandleSettings:
    """Section `[candles]`: roll-ups and memory of queries."""

    rollups: Annotated[
        tuple[str, ...],
        LENGTHS,
        "Intervals that are pre-aggregated (roll-ups), so that queries over long ranges are fast.",
    ] = ("1m", "1h")
    memory_limit: Annotated[str, SIZE, "Most memory that a query may use, such as 2GB."] = "2GB"


@dataclass(frozen=True, slots=True)
class Settings:
    """All effective settings of one run, and the origin of each value by key name."""

    archive: ArchiveSettings
    exchange: ExchangeSettings
    refresh: RefreshSettings
    candles: CandleSettings
    origins: Mapping[str, str]

    def shown(self, name: str) -> Any:
        """The value of a setting by its key, such as `exchange.rate`, without a password."""
        if name == "exchange.url":
            return self.exchange.shown_url
        if name == "refresh.notify_command":
            # An argument may be a password, or an address that only its owner may know.
            program, arguments = self.refresh.notify_command[:1], self.refresh.notify_command[1:]
            return (*program, "...") if arguments else program
        section, _, short = name.partition(".")
        return getattr(getattr(self, section), short)


_SECTION_TYPES = {
    "archive": ArchiveSettings,
    "exchange": ExchangeSettings,
    "refresh": RefreshSettings,
    "candles": CandleSettings,
}
SECTIONS = tuple(_SECTION_TYPES)

PREFIX = "HARVESTER_"
FILE_VARIABLE = "HARVESTER_CONFIG"
"""The environment variable with the path of the configuration file."""
SHORT_VARIABLES = {"HARVESTER_DATA": "archive.path", "HARVESTER_API_URL": "exchange.url"}
"""Short environment variables, named like the options --data and --api-url."""


class Key(NamedTuple):
    """One setting.

    Attributes:
        name: section and key, such as `exchange.rate`.
        section: its section in the file.
        short: its name within the section.
        variables: its environment variables; the first one that is set counts.
        default: its value unless set.
        rule: the allowed values.
        help: one line for config.toml and `harvester config`, with the unit.
    """

    name: str
    section: str
    short: str
    variables: tuple[str, ...]
    default: Any
    rule: Rule
    help: str


def _keys() -> Iterator[Key]:
    for section, kind in _SECTION_TYPES.items():
        hints = get_type_hints(kind, include_extras=True)
        for field in fields(kind):
            rule, help_text = hints[field.name].__metadata__
            name = f"{section}.{field.name}"
            variables = (
                *(variable for variable, key in SHORT_VARIABLES.items() if key == name),
                PREFIX + name.replace(".", "_").upper(),
            )
            yield Key(name, section, field.name, variables, field.default, rule, help_text)


KEYS = tuple(_keys())


# --- unknown names --------------------------------------------------------------------------------

# Kubernetes sets such variables for each service, and a service may be called "harvester".
_SERVICE = re.compile(
    r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)\Z"
)
_NEAR = 0.8


def _check_variables(names: Iterable[str]) -> None:
    """Refuse misspelt environment variables.

    A variable counts as harvester's if it begins with HARVESTER_ and goes on with a section or a
    key, or nearly so. Others are ignored, as other programs may use the same prefix.
    """
    short = {key.short.upper(): key.variables[-1] for key in KEYS}
    known = [FILE_VARIABLE, *(variable for key in KEYS for variable in key.variables)]
    meant = short | {variable.removeprefix(PREFIX): variable for variable in known}
    for name in sorted(names):
        rest = name.removeprefix(PREFIX)
        if rest == name or name in known or _SERVICE.search(name):
            continue
        near = difflib.get_close_matches(rest, meant, n=1, cutoff=_NEAR)
        section = next((name for name in SECTIONS if f"{rest}_".startswith(f"{name}_".upper())), "")
        if near or section:
            allowed = _allowed_in(section) if section else _VARIABLES
            raise _unknown(f"{name} is not a setting", meant[near[0]] if near else None, allowed)


_VARIABLES = (
    f"there are {FILE_VARIABLE}, {', '.join(SHORT_VARIABLES)}, and {PREFIX}<SECTION>_<KEY> for "
    "each key of config.toml"
)


def _unknown(what: str, meant: str | None, allowed: str) -> BadSetting:
    return BadSetting(f"{what};{f' is {meant} meant?' if meant else ''} {allowed}")


def _allowed_in(section: str) -> str:
    """The keys of a section, or all sections if there is none of this name."""
    names = ", ".join(sorted(key.short for key in KEYS if key.section == section))
    return (
        f"the keys of [{section}] are {names}"
        if names
        else f"the sections are [{'], ['.join(SECTIONS)}]"
    )


# --- loading --------------------------------------------------------------------------------------

DEFAULT_FILE = "config.toml"
HEAD = """\
# All settings of harvester with their defaults. Environment variables (HARVESTER_<SECTION>_<KEY>,
# such as HARVESTER_EXCHANGE_RATE) and command-line options override the values of this file.
# `harvester config` shows the effective values and their origins."""


def load(
    options: Mapping[str, Any] | None = None,
    *,
    file: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Load the effective settings.

    Args:
        options: values of command-line options by key name (`exchange.rate`); None counts as not
            set.
        file: the configuration file; None for the one that `file_in_force` finds.
        environment: environment variables; None for `os.environ`.

    Raises:
        BadSetting: a key or a variable is unknown, a value is not allowed, or the file can't be
            read.
    """
    environment = os.environ if environment is None else environment
    _check_variables(environment)
    file = file_in_force(file, environment)
    written = _read_file(file) if file else {}
    values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    origins: dict[str, str] = {}
    for key in KEYS:
        origin = "default"
        if key.name in written:
            value, origin = written[key.name], str(file)
        if variable := next((name for name in key.variables if name in environment), None):
            value, origin = environment[variable], variable
        if options and options.get(key.name) is not None:
            value, origin = options[key.name], "option"
        if origin != "default":
            try:
                values[key.section][key.short] = key.rule.read(value)
            except BAD_VALUE as error:
                raise BadSetting(
                    f"{_value_name(key.name, origin)} is {refused_value(key.name, value)}: "
                    f"it must be {key.rule.allowed}"
                ) from error
        origins[key.name] = origin
    sections = {section: kind(**values[section]) for section, kind in _SECTION_TYPES.items()}
    return Settings(**sections, origins=origins)


def load_notify_command(file: str | None = None) -> tuple[str, ...]:
    """The setting `refresh.notify_command`, also if another setting is wrong.

    Args:
        file: the path of the option --config; None without one.

    Returns an empty tuple if it is not set or can't be read.
    """
    key = next(key for key in KEYS if key.name == "refresh.notify_command")
    try:
        found = file_in_force(file)
        value = _parse_file(found)[key.section][key.short] if found else key.default
    except (BadSetting, KeyError, TypeError):
        value = key.default
    try:
        command: tuple[str, ...] = key.rule.read(os.environ.get(key.variables[0], value))
    except BAD_VALUE:
        return ()
    return command


def file_in_force(
    file: str | None = None, environment: Mapping[str, str] | None = None
) -> str | None:
    """The configuration file to read: `file`, that of HARVESTER_CONFIG, or ./config.toml.

    Args:
        file: the path of the option; None without one.
        environment: environment variables; None for `os.environ`.

    Returns None if no file is named and there is no ./config.toml.
    """
    environment = os.environ if environment is None else environment
    named = file or environment.get(FILE_VARIABLE)
    return named or (DEFAULT_FILE if os.path.lexists(DEFAULT_FILE) else None)


def default_file_text() -> str:
    """The text of a default config.toml: every key with its default and a comment."""
    lines = [HEAD]
    for section in SECTIONS:
        lines.append(f"\n[{section}]")
        for key in KEYS:
            if key.section == section:
                # JSON and TOML write all defaults in the same way.
                lines += [f"# {key.help}", f"{key.short} = {json.dumps(key.default)}"]
    return "\n".join(lines) + "\n"


def refused_value(name: str, value: object) -> str:
    """A value that is not allowed, for a message: short, and without a user name and password.

    Args:
        name: of the setting.
        value: of any type.
    """
    if name == "refresh.notify_command":
        return "no command"
    if name == "exchange.url" and isinstance(value, str):
        value = without_user(value)
    try:
        return shortened(repr(value))
    except ValueError:
        # Python refuses to print an integer of more than 4300 digits.
        return "a number of thousands of digits"


def _value_name(name: str, origin: str) -> str:
    """A setting as the user wrote it: an option, a variable, or a key of the file."""
    section, _, key = name.partition(".")
    if origin == "option":
        return {"exchange.url": "--api-url", "archive.path": "--data"}.get(name, f"--{key}")
    return origin if origin.startswith(PREFIX) else f"{origin}: [{section}] {key}"


LARGEST_SMALL_FILE = 8 << 20
"""Most bytes of a file of settings or names."""


def read_small_file(path: str) -> bytes:
    """Read a file that people write by hand, such as settings or a list of names.

    Raises:
        OSError: it can't be read, is not a regular file (pipes and devices may never end), or is
            larger than `LARGEST_SMALL_FILE`.
    """
    mode = Path(path).stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    # Checked before opening: opening a device can have effects, and a pipe can block for ever.
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    with Path(path).open("rb") as file:
        data = file.read(LARGEST_SMALL_FILE + 1)
    if len(data) > LARGEST_SMALL_FILE:
        raise OSError(errno.EFBIG, f"it is larger than {LARGEST_SMALL_FILE >> 20} MB", path)
    return data


def _parse_file(file: str) -> dict[str, Any]:
    """The tables of a configuration file, not checked.

    Raises:
        BadSetting: it can't be read, or is no TOML.
    """
    try:
        return tomllib.loads(read_small_file(file).decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise BadSetting(
            f"there is no configuration file {file!r}: "
            f"`harvester config --init {shlex.quote(file)}` writes one"
        ) from error
    except (OSError, *BAD_JSON) as error:
        raise BadSetting(f"{file} can't be read: {error}") from error


def _read_file(file: str) -> dict[str, Any]:
    """The values of a configuration file by key name.

    Raises:
        BadSetting: it can't be read, or has an unknown section or key.
    """
    tables = _parse_file(file)
    known = [key.name for key in KEYS]
    for section, table in tables.items():
        if not isinstance(table, dict):
            raise BadSetting(f"{file}: {section!r} must be inside a [section]")
        for key in table:
            if f"{section}.{key}" not in known:
                near = difflib.get_close_matches(f"{section}.{key}", known, n=1, cutoff=0.5)
                meant = "[{}] {}".format(*near[0].split(".")) if near else None
                what = f"{file}: [{section}] {key} is not a setting"
                raise _unknown(what, meant, _allowed_in(section))
        if section not in SECTIONS:
            near = difflib.get_close_matches(section, SECTIONS, n=1)
            meant = f"[{near[0]}]" if near else None
            raise _unknown(f"{file}: [{section}] is not a section", meant, _allowed_in(""))
    return {f"{section}.{key}": table[key] for section, table in tables.items() for key in table}
