"""`harvester config` shows the settings; `harvester schedule` prints units for nightly runs."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import sys
import sysconfig
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from harvester.cli import output
from harvester.cli.options import CommonOptions, common_options
from harvester.cli.output import check_absent, write_new
from harvester.config import (
    DEFAULT_FILE,
    FILE_VARIABLE,
    KEYS,
    PREFIX,
    Key,
    Settings,
    default_file_text,
    file_in_force,
)
from harvester.errors import HarvesterError, UsageError
from harvester.operations.schedulers import HOUR, ScheduledJob, cron, launchd, parse_clock, systemd

MIN_COLUMN_WIDTH = 12
"""On a terminal that leaves less for the last column, the table goes without that column."""
MAX_VALUES_SHOWN = 4
"""The table shows up to this many values of a list; JSON has all."""

TEMPLATES = {"cron": cron, "systemd": systemd, "launchd": launchd}
IN_COMMAND = ("archive.path", "exchange.url")
"""Keys whose values are written into the command of a scheduled job."""
DEFAULT_LOGS = {"cron": "harvester.log", "launchd": "~/Library/Logs/harvester.log"}


@click.command()
@click.option(
    "--init",
    is_flag=False,
    flag_value="",
    metavar="[FILE]",
    help="Write a file with every setting and its default.  [default: config.toml]",
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@common_options
def config(common: CommonOptions, *, init: str | None, as_json: bool) -> None:
    """Show every setting: its value, where the value came from, and what it is for.

    An option goes before a variable, a variable before config.toml, and that before the default.

    --init writes config.toml, or FILE, with every key, its default and its use. An existing file
    is not changed.

    Example: harvester config --init
    """
    if init is not None:
        # Before the settings are loaded, as it must work while they are wrong.
        _write_default_file(init or common.config_file, quiet=common.quiet)
        return
    path = file_in_force(common.config_file)
    effective = list(_effective_settings(common.settings))
    if as_json:
        settings = [setting.to_dict() for setting in effective]
        output.as_json({"file": path and str(Path(path).absolute()), "settings": settings})
        return
    rows = [
        [setting.key.name, setting.value_text(), setting.origin, setting.key.help]
        for setting in effective
    ]
    table = output.columns(["key", "value", "from", "what it is for"], rows, left=4)
    output.block(_fold_last_column(table) if sys.stdout.isatty() else table)


class EffectiveSetting(NamedTuple):
    """The value of a setting, and where it came from."""

    key: Key
    value: Any
    origin: str

    def to_dict(self) -> dict[str, Any]:
        """The setting for JSON."""
        return {
            "key": self.key.name,
            "value": self.value,
            "origin": self.origin,
            "default": self.key.default,
            "allowed": self.key.rule.allowed,
            "variables": self.key.variables,
            "why": self.key.help,
        }

    def value_text(self) -> str:
        """The value for the table."""
        value = self.value
        if isinstance(value, tuple):
            hidden = len(value) - MAX_VALUES_SHOWN
            more = [f"and {hidden} more"] if hidden > 0 else []
            return ", ".join([*value[:MAX_VALUES_SHOWN], *more]) or "none"
        return f"{value:.15g}" if isinstance(value, float) else str(value) or "none"


def _effective_settings(settings: Settings) -> Iterator[EffectiveSetting]:
    """Every setting, in the order of config.toml."""
    for key in KEYS:
        value = getattr(getattr(settings, key.section), key.short)
        if key.name == "exchange.url":
            value = settings.exchange.shown_url
        yield EffectiveSetting(key, value, settings.origins[key.name])


def _fold_last_column(table: str) -> str:
    """Wrap the last column to the width of the terminal; drop it if there is too little space."""
    header, *lines = table.splitlines()
    start = header.index("what it is for")
    width = shutil.get_terminal_size().columns - start
    if width < MIN_COLUMN_WIDTH:
        return "\n".join(line[:start].rstrip() for line in [header, *lines])
    folded = [header]
    for line in lines:
        first, *more = textwrap.wrap(line[start:], width)
        folded += [line[:start] + first, *(" " * start + text for text in more)]
    return "\n".join(folded)


def _write_default_file(file: str | None, *, quiet: bool) -> None:
    """Write a new configuration file: FILE, or that of HARVESTER_CONFIG, or config.toml.

    Raises:
        UsageError: the file exists.
        HarvesterError: the operating system refused to write.
    """
    path = Path(file or os.environ.get(FILE_VARIABLE) or DEFAULT_FILE)
    write_new(path, default_file_text())
    if not quiet:
        output.hint(f"{path} is written: every key with its default")


# --- schedule -------------------------------------------------------------------------------------


@click.command()
@click.argument("kind", type=click.Choice(list(TEMPLATES)), metavar="cron|systemd|launchd")
@click.option(
    "--at", metavar="HH:MM", help="Start time, in local time.  [default: 04 and some minute]"
)
@click.option("--system", is_flag=True, help="systemd: for the whole system; else for your user.")
@click.option(
    "--log",
    metavar="FILE",
    help="Append messages to FILE.  [default: journal, ~/Library/Logs, or harvester.log here]",
)
@click.option("--output", "-o", "folder", metavar="DIR", help="Write files there, not to stdout.")
@common_options
def schedule(
    common: CommonOptions,
    *,
    kind: str,
    at: str | None,
    system: bool,
    log: str | None,
    folder: str | None,
) -> None:
    """Print what cron, systemd or launchd needs to run `harvester refresh` every night.

    The output says how to install it; nothing on the system is changed. Paths are those of this
    installation, this archive and this config.toml; environment variables are not included. The
    job runs with low priority, at a minute that differs from print to print, and again if it
    failed because of the exchange.

    Example: harvester schedule systemd -o ~/.config/systemd/user
    """
    if system and kind != "systemd":
        raise UsageError(f"--system is for systemd, not for {kind}: leave it out")
    hour, minute = parse_clock(at) if at else (HOUR, random.randrange(60))  # noqa: S311
    log_path = log or os.path.expanduser(DEFAULT_LOGS.get(kind, ""))  # noqa: PTH111 - may be ""
    data = _absolute(common.settings.archive.path)
    job = ScheduledJob(
        command=(*program(), "refresh", "--data", data, *_job_options(common)),
        folder=str(Path.cwd()),
        data=data,
        hour=hour,
        minute=minute,
        log=_absolute(log_path) if log_path else None,
        user=_user() if system else None,
    )
    units = TEMPLATES[kind](job)
    if folder is None:
        # Piped into a file or `crontab -`, the output must be exact; a terminal gets it escaped.
        show = output.block if sys.stdout.isatty() else output.data
        show(_units_text(units))
    else:
        _write_units(Path(folder), units)
        if not common.quiet:
            _list_written(Path(folder), units)
    if not common.quiet:
        _warn_about_variables(common.settings)


def _units_text(units: dict[str, str]) -> str:
    if len(units) == 1:
        return "".join(units.values()).rstrip("\n")
    return "\n".join(f"# {name}\n{text}" for name, text in units.items()).rstrip("\n")


def _job_options(common: CommonOptions) -> list[str]:
    """The options with which a scheduled job finds this configuration and this exchange.

    Raises:
        UsageError: the exchange's address contains a password, which must not be printed.
    """
    settings, file = common.settings, file_in_force(common.config_file)
    options = ["--config", _absolute(file)] if file else []
    if _is_from_this_call(settings.origins["exchange.url"]):
        if settings.exchange.shown_url != settings.exchange.url:
            raise UsageError(
                "the exchange's address has a name or a password, which must not be printed: write "
                "it into config.toml"
            )
        options += ["--api-url", settings.exchange.url]
    return options


def program() -> tuple[str, ...]:
    """The command that starts this installation from any folder."""
    started = shutil.which(sys.argv[0]) if sys.argv else None
    installed = Path(sysconfig.get_path("scripts")) / "harvester"
    for path in (started, str(installed)):
        if path and Path(path).name == "harvester" and os.access(path, os.X_OK):
            return (_absolute(path),)
    return (sys.executable, "-m", "harvester")


def _absolute(path: str) -> str:
    # Links are kept: their target may change on purpose. systemd accepts no `..`.
    absolute = Path(path).absolute()
    return str(absolute.resolve() if ".." in absolute.parts else absolute)


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _is_from_this_call(origin: str) -> bool:
    """Whether a value came from an option or a variable, which a scheduled job does not have."""
    return origin == "option" or origin.startswith(PREFIX)


def _write_units(folder: Path, units: dict[str, str]) -> None:
    """Write the units into a folder; write none if one of them exists.

    Raises:
        UsageError: a file exists.
        HarvesterError: the operating system refused to write.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HarvesterError(f"can't make {folder}: {error.strerror or error}") from error
    for name in units:
        check_absent(folder / name)
    for name, text in units.items():
        write_new(folder / name, text)


def _list_written(folder: Path, units: dict[str, str]) -> None:
    first, *more = (folder / name for name in units)
    output.hint(f"{first} is written; its first lines say how to install it")
    for path in more:
        output.hint(f"{path} is written")


def _warn_about_variables(settings: Settings) -> None:
    """Name the options and variables of this call that a scheduled job will not have."""
    lost = {
        origin
        for name, origin in settings.origins.items()
        if _is_from_this_call(origin) and name not in IN_COMMAND
    }
    if lost:
        output.hint(
            f"{', '.join(sorted(lost))}: set here, but not at night; write it into config.toml"
        )
