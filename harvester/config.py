"""Settings: option over environment over config.toml over default, into one frozen `Settings`.

`keys.KEYS` is the one list of what can be set.
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
from harvester.escaping import read_small_file, shortened, without_credentials
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
# harvester's settings, each with its default. A value here gives way to the environment
# (HARVESTER_<SECTION>_<KEY>, such as HARVESTER_EXCHANGE_RATE) and to an option.
# `harvester config` shows what is in force, and where each value came from."""


@dataclass(frozen=True, slots=True)
class ArchiveSettings:
    """Where trades are kept, and when what waits in memory is written."""

    path: str
    flush_s: float
    flush_rows: int


@dataclass(frozen=True, slots=True)
class ExchangeSettings:
    """How the exchange is asked."""

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
        """The address without a name and a password: what people and records see."""
        return without_credentials(self.url)


@dataclass(frozen=True, slots=True)
class RefreshSettings:
    """What the nightly run brings up to date."""

    pairs: tuple[str, ...]
    settle_s: float


@dataclass(frozen=True, slots=True)
class CandleSettings:
    """How candles are built."""

    rollups: tuple[str, ...]
    memory_limit: str


@dataclass(frozen=True, slots=True)
class Settings:
    """All that is in force for one run, and where each value came from."""

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
    """The settings in force.

    Args:
        options: by key name (`exchange.rate`), what was given on the command line; None counts
            as not given.
        file: the configuration file; without it what `file_in_force` finds.
        environment: `os.environ` unless given.

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
        if variable := next((one for one in key.variables if one in environment), None):
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
    """The configuration file: the one given, that of HARVESTER_CONFIG, or `config.toml` here.

    None where there is no `config.toml` and nobody asked for another.
    """
    environment = os.environ if environment is None else environment
    asked = file or environment.get(FILE_VARIABLE)
    return asked or (DEFAULT_FILE if os.path.lexists(DEFAULT_FILE) else None)


def commented() -> str:
    """The text of config.toml: every key with its default, and why it is there."""
    lines = [HEAD]
    for section in SECTIONS:
        lines.append(f"\n[{section}]")
        for key in KEYS:
            if key.section == section:
                lines += [f"# {key.why}", f"{key.short} = {_toml(key.default)}"]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    # No default holds what JSON and TOML write differently.
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _section(values: dict[str, Any], section: str) -> dict[str, Any]:
    prefix = f"{section}."
    return {name.removeprefix(prefix): v for name, v in values.items() if name.startswith(prefix)}


def _checked(key: Key, value: Any, origin: str) -> Any:
    try:
        return key.rule.read(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise BadSetting(
            f"{_place(key.name, origin)} is {without_credentials(shortened(repr(value)))}: "
            f"it must be {key.rule.allowed}"
        ) from error


def _place(name: str, origin: str) -> str:
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
            raise BadSetting(f"{file}: {section!r} stands outside of a [section]")
        for name, value in table.items():
            check_key(file, section, name)
            found[f"{section}.{name}"] = value
        check_section(file, section)
    return found
