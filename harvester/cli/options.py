"""Options that stand on each command, and the settings that they make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from harvester.cli import lean, output
from harvester.config import Settings, load
from harvester.errors import UsageError

if TYPE_CHECKING:
    from harvester.storage.trade_store import Archive

F = TypeVar("F", bound=Callable[..., Any])


class Common(NamedTuple):
    """What the common options say."""

    settings: Settings
    quiet: bool
    verbose: int
    log_json: bool

    def existing(self) -> Archive:
        """The archive, of a command that makes none.

        Raises:
            UsageError: its folder was named and is not there.
        """
        from harvester.storage.trade_store import Archive

        path, origin = self.settings.archive.path, self.settings.origins["archive.path"]
        # Without a name a new user is at work, who is told how to begin.
        if origin != "default" and not Path(path).is_dir():
            named = "--data" if origin == "option" else origin
            why = "that is no folder" if Path(path).exists() else "there is no such folder"
            raise UsageError(f"{named} is {path!r}, and {why}: name the one with the archive")
        return Archive(path)


def common(function: F) -> F:
    """Give a command the common options; `settings_of` reads them.

    The variables that their texts name are read by `config.load`, which so knows where a value
    came from.
    """
    for option in reversed(
        [
            click.option(
                "--data",
                "-d",
                metavar="DIR",
                help="The folder that holds the archive.  [HARVESTER_DATA; default: data]",
            ),
            click.option(
                "--config",
                metavar="FILE",
                help="The configuration.  [HARVESTER_CONFIG; default: config.toml here, if any]",
            ),
            click.option(
                "--api-url",
                metavar="URL",
                help="Where the API answers, such as a mirror's address.  [HARVESTER_API_URL]",
            ),
            click.option("-q", "--quiet", is_flag=True, help="No progress, no hints."),
            click.option("-v", "--verbose", count=True, help="Tell more; -vv adds tracebacks."),
            click.option("--log-json", is_flag=True, help="Progress as one JSON object a line."),
        ]
    ):
        function = option(function)
    return function


def settings_of(given: dict[str, Any], **more: Any) -> Common:
    """The common options of a command, taken out of what it was given; `more`: by key name."""
    lean.settle()
    data, file, api_url = given.pop("data"), given.pop("config"), given.pop("api_url")
    options = {"archive.path": data, "exchange.url": api_url}
    options |= {name.replace("__", "."): value for name, value in more.items()}
    settings = load(options, file=file)
    output.repeat_in_advice({"--data": data, "--config": file, "--api-url": api_url})
    return Common(settings, given.pop("quiet"), given.pop("verbose"), given.pop("log_json"))
