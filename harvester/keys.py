"""The one list of what can be set, and how each key is called in the file and the environment.

config.toml, the environment's names and the documentation follow it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from harvester.errors import BadSetting
from harvester.rules import AGENT, LENGTHS, NAMES, PATH, SIZE, TEXT, URL, Rule, number, whole

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
    known = {one: one for key in KEYS for one in key.variables} | {FILE_VARIABLE: FILE_VARIABLE}
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
