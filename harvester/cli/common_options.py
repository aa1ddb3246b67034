"""The options that every command has, as one typed parameter."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec

from harvester.archive import Archive
from harvester.cli import output
from harvester.cli.options import Common, common, settings_of
from harvester.config import Settings
from harvester.storage.trade_store import TradeStore

P = ParamSpec("P")


class CommonOptions(NamedTuple):
    """What the common options say.

    Attributes:
        settings: the settings in force.
        quiet: no progress, no hints.
        verbose: how often -v was given.
        log_json: progress as JSON lines.
        config_file: the file that was named with --config.
    """

    settings: Settings
    quiet: bool
    verbose: int
    log_json: bool
    config_file: str | None

    def store(self) -> TradeStore:
        """The archive's files, for a command that makes no archive.

        Raises:
            UsageError: its folder was named and does not exist.
        """
        return Common(self.settings, self.quiet, self.verbose, self.log_json).existing()

    def archive(self) -> Archive:
        """The archive, for a command that makes none.

        Raises:
            UsageError: its folder was named and does not exist.
        """
        self.store()
        return Archive(self.settings, estimates=not self.quiet and output.is_terminal())


def common_options(function: Callable[Concatenate[CommonOptions, P], int]) -> Callable[..., int]:
    """Give a command the common options; it receives them as its first parameter."""

    @wraps(function)
    def command(*args: P.args, **kwargs: P.kwargs) -> int:
        options: dict[str, Any] = kwargs
        config_file = options["config"]
        given = settings_of(options)
        return function(CommonOptions(*given, config_file), *args, **kwargs)

    return common(command)
