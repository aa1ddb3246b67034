"""The options of every command, as the first parameter of the command's function."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from harvester.archive import Archive
from harvester.cli.options import Common, common, settings_of
from harvester.config import Settings
from harvester.storage.trade_store import TradeStore

P = ParamSpec("P")
R = TypeVar("R")


class CommonOptions(NamedTuple):
    """The values of the common options."""

    settings: Settings
    quiet: bool
    verbose: int
    log_json: bool
    config_file: str | None

    def store(self) -> TradeStore:
        """The trade store, which must exist if its folder was named.

        Raises:
            UsageError: there is no such folder.
        """
        return Common(self.settings, self.quiet, self.verbose, self.log_json).existing()

    def archive(self) -> Archive:
        """The archive, which need not exist yet."""
        return Archive(self.settings)


def common_options(function: Callable[Concatenate[CommonOptions, P], R]) -> Callable[..., R]:
    """Give a command the common options; its function receives them as its first parameter."""

    @wraps(function)
    def command(*args: P.args, **kwargs: P.kwargs) -> R:
        given: dict[str, Any] = dict(kwargs)
        config_file = given["config"]
        options = CommonOptions(*settings_of(given), config_file)
        return function(options, *args, **given)

    return common(command)
