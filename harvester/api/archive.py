"""An archive to fill, to ask and to look at: each method is the command of its name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from harvester.api.asking import Asking
from harvester.api.charting import Charting
from harvester.api.fetching import Fetching
from harvester.api.holding import Holding
from harvester.argument_types import check_types
from harvester.config import load
from harvester.errors import BadSetting
from harvester.settings_keys import KEYS


@check_types
def open(  # noqa: A001 - harvester.open reads well
    path: str | os.PathLike[str] | None = None,
    *,
    config: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Archive:
    """Open an archive, which need not exist yet.

    Args:
        path: the folder that holds it; None for what the settings say, `data` if they say nothing.
        config: the configuration file; without it `config.toml` here, if there is one.
        settings: by the names of config.toml, such as `{"exchange.rate": 0.5}`; they go before
            the environment, and that before the file.

    Raises:
        BadSetting: a setting is unknown, or has a value that is not allowed.
        ArchiveTooNew: a newer harvester made the archive.
        ArchiveDamaged: its mark can't be read.

    Example:
        >>> with harvester.open("data", settings={"candles.memory_limit": "1GB"}) as archive:
        ...     archive.held()
        ['XBTUSD']
    """
    given = dict(settings or {})
    _check_settings(given)
    if path is not None:
        given["archive.path"] = os.fspath(path)
    return Archive(load(given, file=None if config is None else os.fspath(config)))


def _check_settings(given: Mapping[str, Any]) -> None:
    rules = {key.name: key.rule for key in KEYS}
    for name, value in given.items():
        if name not in rules:
            raise BadSetting(
                f"settings: {_shown(name)} is no setting; there are {', '.join(rules)}"
            )
        try:
            rules[name].read(value)
        except (ValueError, TypeError, OverflowError) as error:
            raise BadSetting(
                f"settings: {name} is {_shown(value)}: it must be {rules[name].allowed}"
            ) from error


def _shown(value: object) -> str:
    try:
        return repr(value)
    except ValueError:
        # Python prints no integer of more than 4300 digits.
        return "a number of thousands of digits"


class Archive(Fetching, Asking, Charting, Holding):
    """The trades of any number of pairs, in a folder. Made by `harvester.open`.

    Pairs go by any spelling: `XBTUSD`, `XBT/USD`, `btc-usd`. `since` is included and `until` is
    not; each is text as the commands take it (`"2024-01-31"`, `"7d"`, `"now"`), a date, a datetime
    (UTC where it has no zone), a `pandas.Timestamp`, a `numpy.datetime64`, or UNIX nanoseconds.

    Reading needs no lock, and is right whoever writes meanwhile. Closing it ends nothing that it
    gave; it only answers no more.
    """
