"""Settings: option over environment over config.toml over default, into one frozen `Settings`.

`KEYS` is the one list of what can be set; config.toml, the environment's names and the
documentation follow it.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from harvester.errors import BadSetting
from harvester.rules import AGENT, FILLED, NAMES, TEXT, URL, Rule, number, whole

ENVIRONMENT_PREFIX = "HARVESTER_"
DEFAULT_FILE = "config.toml"


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


class Key(NamedTuple):
    """One setting: its name, its default, its rule, and why it is there."""

    name: str
    default: Any
    rule: Rule
    why: str


KEYS = (
    Key("archive.path", "data", FILLED, "the folder that holds the archive"),
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
        NAMES,
        "intervals: partial candles kept beside the trades, so that long questions are quick",
    ),
    Key(
        "candles.memory_limit",
        "2GB",
        FILLED,
        "size: a question uses no more memory, such as 2GB",
    ),
)


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
        file: the configuration file; without it `config.toml` here, if there is one.
        environment: `os.environ` unless given.

    Raises:
        BadSetting: a key is unknown or a value is not allowed; or `file` can't be read.
    """
    environment = os.environ if environment is None else environment
    written = _read_file(file)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for key in KEYS:
        variable = ENVIRONMENT_PREFIX + key.name.replace(".", "_").upper()
        value, origin = key.default, "default"
        if key.name in written:
            value, origin = written[key.name], file or DEFAULT_FILE
        if variable in environment:
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


def _section(values: dict[str, Any], section: str) -> dict[str, Any]:
    prefix = f"{section}."
    return {name.removeprefix(prefix): v for name, v in values.items() if name.startswith(prefix)}


def _checked(key: Key, value: Any, origin: str) -> Any:
    try:
        return key.rule.read(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise BadSetting(
            f"{_place(key.name, origin)} is {value!r}: it must be {key.rule.allowed}"
        ) from error


def _place(name: str, origin: str) -> str:
    section, _, key = name.partition(".")
    if origin == "option":
        return {"exchange.url": "--api-url", "archive.path": "--data"}.get(name, f"--{key}")
    return origin if origin.startswith(ENVIRONMENT_PREFIX) else f"{origin}: [{section}] {key}"


def _read_file(file: str | None) -> dict[str, Any]:
    path = Path(file or DEFAULT_FILE)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if file is None:
            return {}
        raise BadSetting(f"there is no configuration file {file!r}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadSetting(f"{path} can't be read: {error}") from error
    known = {key.name for key in KEYS}
    found: dict[str, Any] = {}
    for section, table in tables.items():
        if not isinstance(table, dict):
            raise BadSetting(f"{path}: {section!r} stands outside of a [section]")
        for name, value in table.items():
            full = f"{section}.{name}"
            if full not in known:
                raise BadSetting(_unknown_key(path, section, name, known))
            found[full] = value
    return found


def _unknown_key(path: Path, section: str, name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(f"{section}.{name}", known, n=1, cutoff=0.5)
    hint = " is [{}] {} meant?".format(*near[0].split(".")) if near else ""
    names = sorted(key.partition(".")[2] for key in known if key.startswith(f"{section}."))
    sections = dict.fromkeys(key.name.partition(".")[0] for key in KEYS)
    allowed = (
        f"[{section}] knows {', '.join(names)}"
        if names
        else "the sections are " + ", ".join(f"[{one}]" for one in sections)
    )
    return f"{path}: [{section}] {name} is no setting;{hint} {allowed}"
