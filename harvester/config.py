"""Load the settings: defaults, overridden by config.toml, the environment and then options.

`settings_keys.KEYS` is the list of all settings.
"""

from __future__ import annotations

import json
import os
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harvester.errors import BAD_JSON, BadSetting
from harvester.escaping import read_small_file, shortened, without_credentials, without_user
from harvester.settings_keys import (
    FILE_VARIABLE,
    KEYS,
    PREFIX,
    SECTIONS,
    Key,
    check_key,
    check_section,
    check_variables,
)

DEFAULT_FILE = "config.toml"
HEAD = """\
# All settings of harvester with their defaults. Environment variables (HARVESTER_<SECTION>_<KEY>,
# such as HARVESTER_EXCHANGE_RATE) and command-line options override the values of this file.
# `harvester config` shows the effective values and their origins."""


@dataclass(frozen=True, slots=True)
class ArchiveSettings:
    """Section `[archive]`: where trades are stored, and when buffered trades are written."""

    path: str
    flush_s: float
    flush_rows: int


@dataclass(frozen=True, slots=True)
class ExchangeSettings:
    """Section `[exchange]`: the API's address, rates, timeouts and retries."""

    url: str
    user_agent: str
    rate: float
    jobs: int
    timeout_s: float
    retry_wait_s: float
    give_up_s: float
    ca_file: str

    @property
    def shown_url(self) -> str:
        """The address without user name and password, for messages and records."""
        return without_credentials(self.url)


@dataclass(frozen=True, slots=True)
class RefreshSettings:
    """Section `[refresh]`: what `harvester refresh` updates."""

    pairs: tuple[str, ...]
    settle_s: float


@dataclass(frozen=True, slots=True)
class CandleSettings:
    """Section `[candles]`: roll-ups and memory of queries."""

    rollups: tuple[str, ...]
    memory_limit: str


@dataclass(frozen=True, slots=True)
class Settings:
    """All effective settings of one run, and the origin of each value by key name."""

    archive: ArchiveSettings
    exchange: ExchangeSettings
    refresh: RefreshSettings
    candles: CandleSettings
    origins: Mapping[str, str]


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
    check_variables(environment)
    file = file_in_force(file, environment)
    written = _read_file(file) if file else {}
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for key in KEYS:
        value, origin = key.default, "default"
        if key.name in written:
            value, origin = written[key.name], str(file)
        if variable := next((name for name in key.variables if name in environment), None):
            value, origin = environment[variable], variable
        if options and options.get(key.name) is not None:
            value, origin = options[key.name], "option"
        values[key.name], origins[key.name] = _checked(key, value, origin), origin
    return Settings(
        archive=ArchiveSettings(**_section(values, "archive")),
        exchange=ExchangeSettings(**_section(values, "exchange")),
        refresh=RefreshSettings(**_section(values, "refresh")),
        candles=CandleSettings(**_section(values, "candles")),
        origins=origins,
    )


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
                lines += [f"# {key.help}", f"{key.short} = {_toml(key.default)}"]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    # JSON and TOML write all defaults in the same way.
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _section(values: dict[str, Any], section: str) -> dict[str, Any]:
    prefix = f"{section}."
    return {name.removeprefix(prefix): v for name, v in values.items() if name.startswith(prefix)}


def _checked(key: Key, value: Any, origin: str) -> Any:
    try:
        return key.rule.read(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise BadSetting(
            f"{_value_name(key.name, origin)} is {refused_value(key.name, value)}: "
            f"it must be {key.rule.allowed}"
        ) from error


def refused_value(name: str, value: object) -> str:
    """A value that is not allowed, for a message: short, and without a user name and password.

    Args:
        name: of the setting.
        value: of any type.
    """
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


def _read_file(file: str) -> dict[str, Any]:
    try:
        tables = tomllib.loads(read_small_file(file).decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise BadSetting(
            f"there is no configuration file {file!r}: "
            f"`harvester config --init {shlex.quote(file)}` writes one"
        ) from error
    except (OSError, *BAD_JSON) as error:
        raise BadSetting(f"{file} can't be read: {error}") from error
    found: dict[str, Any] = {}
    for section, table in tables.items():
        if not isinstance(table, dict):
            raise BadSetting(f"{file}: {section!r} must be inside a [section]")
        for name, value in table.items():
            check_key(file, section, name)
            found[f"{section}.{name}"] = value
        check_section(file, section)
    return found
