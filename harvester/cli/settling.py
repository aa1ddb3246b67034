"""The table of settings, and a new file of them."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from harvester.cli import output
from harvester.cli.output import write_new
from harvester.config import DEFAULT_FILE, Settings, default_file_text, file_in_force
from harvester.settings_keys import FILE_VARIABLE, KEYS, Key

NARROWEST = 12
SHOWN = 4
"""Names of a list that the table shows; --json has all."""


class InForce(NamedTuple):
    """A setting as it is."""

    key: Key
    value: Any
    origin: str


def in_force(settings: Settings) -> Iterator[InForce]:
    """Every setting, in the file's order."""
    for key in KEYS:
        section = getattr(settings, key.section)
        value = getattr(section, key.short)
        if key.name == "exchange.url":
            value = settings.exchange.shown_url
        yield InForce(key, value, settings.origins[key.name])


def show(settings: Settings, file: str | None, *, as_json: bool) -> None:
    """Print what is in force; `file`: the configuration file that was asked for."""
    found = file_in_force(file)
    if as_json:
        output.as_json(
            {
                "file": found and str(Path(found).absolute()),
                "settings": [_facts(one) for one in in_force(settings)],
            }
        )
        return
    rows = [
        [one.key.name, _shown(one.value), one.origin, one.key.help] for one in in_force(settings)
    ]
    text = output.columns(["key", "value", "from", "what it is for"], rows, left=4)
    output.block(_folded(text) if sys.stdout.isatty() else text)


def _facts(in_force: InForce) -> dict[str, Any]:
    return {
        "key": in_force.key.name,
        "value": in_force.value,
        "origin": in_force.origin,
        "default": in_force.key.default,
        "allowed": in_force.key.rule.allowed,
        "variables": in_force.key.variables,
        "why": in_force.key.help,
    }


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        more = [f"and {len(value) - SHOWN} more"] if len(value) > SHOWN else []
        return ", ".join([*value[:SHOWN], *more]) or "none"
    return f"{value:.15g}" if isinstance(value, float) else str(value) or "none"


def _folded(text: str) -> str:
    """The same with long last cells under one another, for a terminal; none where it is narrow."""
    header, *lines = text.splitlines()
    start = header.index("what it is for")
    width = shutil.get_terminal_size().columns - start
    if width < NARROWEST:
        return "\n".join(line[:start].rstrip() for line in [header, *lines])
    folded = [header]
    for line in lines:
        first, *more = textwrap.wrap(line[start:], width)
        folded += [line[:start] + first, *(" " * start + one for one in more)]
    return "\n".join(folded)


def init(file: str | None, *, quiet: bool) -> None:
    """Write a new configuration file: the one named, or that of HARVESTER_CONFIG, or config.toml.

    Raises:
        UsageError: it is there already.
        HarvesterError: the machine refused.
    """
    path = Path(file or os.environ.get(FILE_VARIABLE) or DEFAULT_FILE)
    write_new(path, default_file_text())
    if not quiet:
        output.hint(f"{path} is written: every key with its default")
