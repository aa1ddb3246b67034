"""Temporary: `common_options` on top of `options.common`, until `cli/options.py` has its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from harvester.archive import Archive
from harvester.cli.options import Common, common, settings_of
from harvester.config import Settings

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class CommonOptions:
    """The values of the common options."""

    settings: Settings
    quiet: bool
    verbose: int

    def archive(self) -> Archive:
        """The archive, whose folder may be missing."""
        return Archive(self.settings)

    def existing_archive(self) -> Archive:
        """The archive, for commands that only read.

        Raises:
            UsageError: its folder was named and does not exist.
        """
        Common(self.settings, self.quiet, self.verbose, log_json=False).existing()
        return self.archive()


def common_options(function: Callable[Concatenate[CommonOptions, P], R]) -> Callable[P, R]:
    """Give a command the common options; it gets their values as its first parameter."""

    @wraps(function)
    def command(*args: P.args, **options: P.kwargs) -> R:
        given = settings_of(cast("dict[str, Any]", options))
        return function(CommonOptions(given.settings, given.quiet, given.verbose), *args, **options)

    return common(command)
