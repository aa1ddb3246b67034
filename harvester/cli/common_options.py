"""Temporary: `common_options` on top of `options.common`, until `cli/options.py` has its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import NamedTuple

from harvester.archive import Archive
from harvester.cli.options import Common, common, settings_of
from harvester.config import Settings


class CommonOptions(NamedTuple):
    """The values of the common options."""

    settings: Settings
    quiet: bool
    verbose: int

    def archive(self) -> Archive:
        """The archive, for commands that do not create one.

        Raises:
            UsageError: its folder was named and does not exist.
        """
        Common(self.settings, self.quiet, self.verbose, log_json=False).existing()
        return Archive(self.settings)


def common_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the common options; it gets their values as its first parameter."""

    @common
    @wraps(function)
    def command(**options: object) -> None:
        given = settings_of(options)
        function(CommonOptions(given.settings, given.quiet, given.verbose), **options)

    return command
