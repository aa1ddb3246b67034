"""Options that all commands have, and how they become settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import click

from harvester.archive import Archive
from harvester.cli import output
from harvester.config import Settings, load
from harvester.errors import HarvesterError, UsageError
from harvester.kraken.pairs import ASSET_CLASSES
from harvester.pair_selection import known_pairs
from harvester.storage.trade_store import TradeStore

# --- options --------------------------------------------------------------------------------------

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class CommonOptions:
    """The values of the common options, as `common_options` passes them to a command.

    Attributes:
        quiet: print no progress and no hints.
        verbose: how often -v was given.
        log_json: print progress as JSON lines.
        config_file: the argument of --config; None if it was not given.
        setting_values: settings given as options of this command, by key such as `archive.path`;
            None for an option that was not given.
    """

    quiet: bool = False
    verbose: int = 0
    log_json: bool = False
    config_file: str | None = None
    setting_values: Mapping[str, object] = field(default_factory=dict[str, object])

    @cached_property
    def settings(self) -> Settings:
        """The effective settings, loaded when first used: `config --init` works without them.

        Raises:
            BadSetting: a key, a variable or a value is not allowed, or the file can't be read.
        """
        return load(self.setting_values, file=self.config_file)

    def archive(self) -> Archive:
        """The public archive, whose folder may still be missing; warnings go to stderr."""
        return Archive(self.settings, output.hint)

    def existing_archive(self) -> Archive:
        """The public archive, for commands that only read.

        Raises:
            UsageError: the folder was named explicitly and does not exist.
        """
        path, origin = self.settings.archive.path, self.settings.origins["archive.path"]
        # The default folder may be missing: a new user gets the advice of each command then.
        if origin != "default" and "://" not in path and not Path(path).is_dir():
            named = "--data" if origin == "option" else origin
            is_file = Path(path).exists()
            why = f"{path!r} is not a folder" if is_file else f"the folder {path!r} does not exist"
            raise UsageError(f"{named}: {why}; give the folder of the archive")
        return self.archive()


_SETTINGS = "harvester.settings"
_OPTIONS = "harvester.options"
"""Where a click context keeps the values of these options, in `meta`."""


def _keep(place: str, name: str) -> Callable[[click.Context, click.Parameter, object], None]:
    """A callback that keeps the value of an option as entry `name` of a dictionary in `meta`."""

    def keep(context: click.Context, _option: click.Parameter, value: object) -> None:
        context.meta.setdefault(place, {})[name] = value

    return keep


def pair_argument(*, nargs: int = 1, required: bool = True) -> Callable[[F], F]:
    """The argument `pair`, whose names a shell completes.

    Args:
        nargs: how many; -1 for any number, as a tuple.
        required: at least one.
    """
    return click.argument("pair", nargs=nargs, required=required, shell_complete=complete_pair)


def complete_pair(context: click.Context, _argument: click.Parameter, begun: str) -> list[str]:
    """The pairs of the archive that a shell offers: each by the name whose beginning was typed."""
    values = context.meta.get(_SETTINGS, {})
    file = context.meta.get(_OPTIONS, {}).get("config_file")
    common = CommonOptions(config_file=file, setting_values=values)
    try:
        pairs = known_pairs(TradeStore(common.settings.archive.path)).values()
    except HarvesterError:
        return []
    offered = set()
    for pair in pairs:
        names = (pair.wsname or pair.altname, pair.altname)
        offered |= set([name for name in names if name.upper().startswith(begun.upper())][:1])
    return sorted(offered)


def class_option(help: str) -> Callable[[F], F]:  # noqa: A002 - as click calls it
    """The option --class, which selects an asset class; `help` is its help text."""
    classes = click.Choice(ASSET_CLASSES)
    return click.option("--class", "asset_class", type=classes, metavar="CLASS", help=help)


def setting_option(
    *flags: str,
    setting: str,
    help: str,  # noqa: A002 - as click calls it
    metavar: str | None = None,
    type: type[float | int] | None = None,  # noqa: A002 - as click calls it
) -> Callable[[F], F]:
    """An option that overrides a setting; the command finds it in `common.settings`.

    Args:
        *flags: its names on the command line.
        setting: the key of the setting, such as `exchange.rate`.
        help: its help text.
        metavar: the name of its argument in the help.
        type: what it is parsed as; text unless given.
    """
    keep = _keep(_SETTINGS, setting)
    return click.option(
        *flags, help=help, metavar=metavar, type=type, expose_value=False, callback=keep
    )


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON on stdout."
)

rate_option = setting_option(
    "--rate",
    setting="exchange.rate",
    type=float,
    help="Pages per second and pair; 0 for no limit (an API server of your own).  [default: 1]",
)


# Help texts name the environment variables, but click does not read them: `config.load` does,
# because it reports where each value came from.
_COMMON = (
    setting_option(
        "--data",
        "-d",
        setting="archive.path",
        metavar="DIR",
        help="Folder that contains the archive.  [HARVESTER_DATA; default: data]",
    ),
    click.option(
        "--config",
        "config_file",
        metavar="FILE",
        help="Configuration file.  [HARVESTER_CONFIG; default: config.toml, if there is one]",
        expose_value=False,
        callback=_keep(_OPTIONS, "config_file"),
    ),
    setting_option(
        "--api-url",
        setting="exchange.url",
        metavar="URL",
        help="Base URL of the API, such as another harvester's API server.  [HARVESTER_API_URL]",
    ),
    click.option(
        "-q",
        "--quiet",
        is_flag=True,
        help="Print no progress and no hints.",
        expose_value=False,
        callback=_keep(_OPTIONS, "quiet"),
    ),
    click.option(
        "-v",
        "--verbose",
        count=True,
        help="Print more; -vv adds tracebacks.",
        expose_value=False,
        callback=_keep(_OPTIONS, "verbose"),
    ),
    click.option(
        "--log-json",
        is_flag=True,
        help="Print progress as one JSON object per line.",
        expose_value=False,
        callback=_keep(_OPTIONS, "log_json"),
    ),
)


def common_options(function: Callable[Concatenate[CommonOptions, P], R]) -> Callable[P, R]:
    """Add the common options to a command and pass them as its first argument."""

    @wraps(function)
    def command(*args: P.args, **options: P.kwargs) -> R:
        meta = click.get_current_context().meta
        setting_values = meta[_SETTINGS]
        common = CommonOptions(**meta[_OPTIONS], setting_values=setting_values)
        output.repeat_in_advice(
            {
                "--data": setting_values["archive.path"],
                "--config": common.config_file,
                "--api-url": setting_values["exchange.url"],
            }
        )
        return function(common, *args, **options)

    for option in reversed(_COMMON):
        command = option(command)
    return command
