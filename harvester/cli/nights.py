"""Units for the nightly run of this installation."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

from harvester.cli import output
from harvester.cli.options import Common
from harvester.cli.output import check_absent, write_new
from harvester.config import Settings, file_in_force
from harvester.errors import HarvesterError, UsageError
from harvester.operations.schedulers import HOUR, ScheduledJob, cron, launchd, parse_clock, systemd
from harvester.settings_keys import PREFIX

UNITS = {"cron": cron, "systemd": systemd, "launchd": launchd}
WRITTEN = ("archive.path", "exchange.url")
"""Keys whose values the command of a unit bears."""
LOGS = {"cron": "harvester.log", "launchd": "~/Library/Logs/harvester.log"}


class Asked(NamedTuple):
    """What `harvester schedule` was given, besides the common options."""

    kind: str
    at: str | None
    system: bool
    log: str | None
    folder: str | None


def schedule(common: Common, file: str | None, asked: Asked) -> None:
    """Print the units, or write them into a folder; `file`: the configuration asked for.

    Raises:
        UsageError: an option does not fit the scheduler, a name can't be written down for it, or
            a unit stands in the folder already.
        HarvesterError: the machine refused.
    """
    if asked.system and asked.kind != "systemd":
        raise UsageError(f"--system is for systemd, not for {asked.kind}: leave it out")
    night = _night(common.settings, file, asked)
    units = UNITS[asked.kind](night)
    if asked.folder is None:
        # On its way into a file or `crontab -`, every byte counts.
        show = output.block if sys.stdout.isatty() else output.data
        show(_printed(units))
    else:
        _write(Path(asked.folder), units)
        if not common.quiet:
            _tell_written(Path(asked.folder), units)
    if not common.quiet:
        _tell_left(common.settings)


def _printed(units: dict[str, str]) -> str:
    if len(units) == 1:
        return "".join(units.values()).rstrip("\n")
    return "\n".join(f"# {name}\n{text}" for name, text in units.items()).rstrip("\n")


def _night(settings: Settings, file: str | None, asked: Asked) -> ScheduledJob:
    hour, minute = parse_clock(asked.at) if asked.at else (HOUR, random.randrange(60))  # noqa: S311
    log = asked.log or os.path.expanduser(LOGS.get(asked.kind, ""))  # noqa: PTH111 - may be ""
    data = _absolute(settings.archive.path)
    return ScheduledJob(
        command=(*program(), "refresh", "--data", data, *_options(settings, file)),
        folder=str(Path.cwd()),
        data=data,
        hour=hour,
        minute=minute,
        log=_absolute(log) if log else None,
        user=_user() if asked.system else None,
    )


def _options(settings: Settings, file: str | None) -> list[str]:
    found = file_in_force(file)
    options = ["--config", _absolute(found)] if found else []
    if _is_of_this_call(settings.origins["exchange.url"]):
        if settings.exchange.shown_url != settings.exchange.url:
            raise UsageError(
                "the exchange's address has a name or a password, which must not be printed: write "
                "it into config.toml"
            )
        options += ["--api-url", settings.exchange.url]
    return options


def program() -> tuple[str, ...]:
    """How this very installation is started, from anywhere."""
    started = shutil.which(sys.argv[0]) if sys.argv else None
    beside = Path(sysconfig.get_path("scripts")) / "harvester"
    for one in (started, str(beside)):
        if one and Path(one).name == "harvester" and os.access(one, os.X_OK):
            return (_absolute(one),)
    return (sys.executable, "-m", "harvester")


def _absolute(path: str) -> str:
    # Links stay what they are: they may be moved on purpose. systemd takes no `..`.
    whole = Path(path).absolute()
    return str(whole.resolve() if ".." in whole.parts else whole)


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _is_of_this_call(origin: str) -> bool:
    """Whether a value was given to this call alone, by an option or a variable."""
    return origin == "option" or origin.startswith(PREFIX)


def _write(folder: Path, units: dict[str, str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HarvesterError(f"can't make {folder}: {error.strerror or error}") from error
    for name in units:
        check_absent(folder / name)
    for name, text in units.items():
        write_new(folder / name, text)


def _tell_written(folder: Path, units: dict[str, str]) -> None:
    first, *more = (folder / name for name in units)
    output.hint(f"{first} is written; its first lines say how to install it")
    for one in more:
        output.hint(f"{one} is written")


def _tell_left(settings: Settings) -> None:
    """Name the variables that are set here, and will not be there at night."""
    left = {
        origin
        for name, origin in settings.origins.items()
        if _is_of_this_call(origin) and name not in WRITTEN
    }
    if left:
        output.hint(
            f"{', '.join(sorted(left))}: set here, but not at night; write it into config.toml"
        )
