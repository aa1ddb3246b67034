"""Commands about the machine: `config`, `schedule` for nightly units, `completion`, `doctor`."""

from __future__ import annotations

import os
import random
import shutil
import sys
import sysconfig
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click import shell_completion

from harvester import __version__
from harvester.cli import output
from harvester.cli.options import CommonOptions, common_options, json_option
from harvester.cli.output import check_absent, write_new
from harvester.config import (
    DEFAULT_FILE,
    FILE_VARIABLE,
    KEYS,
    PREFIX,
    Settings,
    default_file_text,
    file_in_force,
)
from harvester.errors import BadSetting, HarvesterError, UsageError, gravest
from harvester.operations.schedulers import HOUR, ScheduledJob, cron, launchd, parse_clock, systemd
from harvester.times import now_text

if TYPE_CHECKING:
    from harvester.operations.exchange_checks import CheckResult

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
@json_option
@common_options
def config(common: CommonOptions, *, init: str | None, as_json: bool) -> None:
    """Show every setting: its value, where the value came from, and what it is for.

    Options override environment variables, which override config.toml, which overrides the
    defaults.

    --init writes config.toml, or FILE, with every key, its default and its use. An existing file
    is not changed.

    Example: harvester config --init
    """
    if init is not None:
        # Before the settings are loaded, as it must work while they are wrong.
        path = Path(init or common.config_file or os.environ.get(FILE_VARIABLE) or DEFAULT_FILE)
        write_new(path, default_file_text())
        if not common.quiet:
            output.hint(f"{path} is written: every key with its default")
        return
    file = file_in_force(common.config_file)
    effective = [
        {
            "key": key.name,
            "value": common.settings.shown(key.name),
            "origin": common.settings.origins[key.name],
            "default": key.default,
            "allowed": key.rule.allowed,
            "variables": key.variables,
            "why": key.help,
        }
        for key in KEYS
    ]
    if as_json:
        output.as_json({"file": file and str(Path(file).absolute()), "settings": effective})
        return
    rows = [
        [setting["key"], _value_text(setting["value"]), setting["origin"], setting["why"]]
        for setting in effective
    ]
    table = output.columns(["key", "value", "from", "what it is for"], rows, left=4)
    output.block(_fold_last_column(table) if sys.stdout.isatty() else table)


def _value_text(value: Any) -> str:
    """The value of a setting for the table."""
    if isinstance(value, tuple):
        hidden = len(value) - MAX_VALUES_SHOWN
        more = [f"and {hidden} more"] if hidden > 0 else []
        return ", ".join([*value[:MAX_VALUES_SHOWN], *more]) or "none"
    return f"{value:.15g}" if isinstance(value, float) else str(value) or "none"


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


# --- schedule -------------------------------------------------------------------------------------


@click.command()
@click.argument("kind", type=click.Choice(list(TEMPLATES)), metavar="cron|systemd|launchd")
@click.option(
    "--at", metavar="HH:MM", help="Start time, in local time.  [default: 04 and some minute]"
)
@click.option(
    "--system",
    is_flag=True,
    help="systemd: write units for the whole system instead of your user.",
)
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
    job runs with low priority, at a random minute after 04:00 unless --at is given, and is retried
    if the exchange failed.

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
        log=_absolute(log_path) if log_path else "",
        user=_user() if system else "",
    )
    units = TEMPLATES[kind](job)
    if folder is None:
        # Piped into a file or `crontab -`, the output must be exact; a terminal gets it escaped.
        show = output.block if sys.stdout.isatty() else output.data
        named = [f"# {name}\n{text}" for name, text in units.items()]
        show("\n".join(named if len(units) > 1 else units.values()).rstrip("\n"))
    else:
        written = _write_units(Path(folder), units)
        if not common.quiet:
            output.hint(f"{written[0]} is written; its first lines say how to install it")
            for path in written[1:]:
                output.hint(f"{path} is written")
    if not common.quiet:
        _warn_about_variables(common.settings)
        if not (common.settings.refresh.pairs or common.archive().stored_pairs()):
            output.hint(
                f"nothing is stored in {data}: refresh ends with status 2 until backfill has run, "
                "or [refresh] pairs names some"
            )


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
    import pwd  # not on Windows

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _is_from_this_call(origin: str) -> bool:
    """Whether a value came from an option or a variable, which a scheduled job does not have."""
    return origin == "option" or origin.startswith(PREFIX)


def _write_units(folder: Path, units: dict[str, str]) -> list[Path]:
    """Write the units into a folder, all or none, and return their paths.

    Raises:
        UsageError: a file exists.
        HarvesterError: the operating system refused to write.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HarvesterError(f"can't make {folder}: {error.strerror or error}") from error
    texts = {folder / name: text for name, text in units.items()}
    for path in texts:
        check_absent(path)
    written: list[Path] = []
    try:
        for path, text in texts.items():
            write_new(path, text)
            written.append(path)
    except BaseException:
        # The same command must not find them when it is repeated.
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return written


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


# --- completion -----------------------------------------------------------------------------------

SHELLS = ("bash", "zsh", "fish")
PROGRAMS = ("harvester", "kraken-harvester")
"""What the program is installed as."""


@click.command()
@click.argument("shell", type=click.Choice(SHELLS), metavar="|".join(SHELLS))
@click.pass_context
def completion(context: click.Context, *, shell: str) -> None:
    """Print the script that completes commands, options and pairs in a shell.

    bash: put eval "$(harvester completion bash)" into ~/.bashrc; zsh: the same with zsh into
    ~/.zshrc; fish: write the output to ~/.config/fish/completions/harvester.fish.

    Example: harvester completion bash
    """
    scripts = {
        "bash": shell_completion.BashComplete,
        "zsh": shell_completion.ZshComplete,
        "fish": shell_completion.FishComplete,
    }
    root = context.find_root().command
    for program in PROGRAMS:
        output.data(scripts[shell](root, {}, program, "_HARVESTER_COMPLETE").source())


# --- doctor ---------------------------------------------------------------------------------------


@click.command()
@click.option(
    "--exchange",
    is_flag=True,
    help="Check the exchange, too: at most 25 requests at the set rate, about half a minute.",
)
@click.option(
    "--pair",
    metavar="PAIR",
    help="Market whose trades and candles are requested.  [default: XBT/USD]",
)
@click.option("--json", "as_json", is_flag=True, help="Print a report to attach to an issue.")
@common_options
def doctor(common: CommonOptions, *, exchange: bool, pair: str | None, as_json: bool) -> int:
    """Check this machine and the archive; with --exchange, whether Kraken has changed.

    Without --exchange: Python, libraries, settings, and whether the archive can be read and
    written. No network.

    --exchange checks each assumption about the exchange that downloads rest on: what was seen, and
    for a difference what it means for you. docs/kraken.md lists them. Nothing is stored.

    Exit status 0 if all is well, 1 for a fault of this machine, 3 if the exchange differs. The
    report of --json has no password and no path of your home folder.

    Example: harvester doctor --exchange --pair ETH/EUR
    """
    from harvester.cli.progress_and_signals import cancel_on_signals  # imports asyncio

    if pair is not None and not exchange:
        raise UsageError("--pair is for the checks of the exchange: add --exchange")
    market = pair or "XBT/USD"
    url = None
    try:
        archive = common.archive()
        url = common.settings.exchange.shown_url
    except HarvesterError as error:
        # What this command is for: every other command ends here.
        results = _without_archive(error)
    else:
        if exchange and not common.quiet:
            output.hint(f"asking {url} about {market}: at most 25 requests")
        with cancel_on_signals() as cancel:
            results = archive.doctor(exchange=exchange, pair=market, cancel=cancel)
    exit_status = gravest([result.exit_status for result in results])
    if as_json:
        output.as_json(
            {
                "harvester": __version__,
                "time": now_text(),
                "url": url if exchange else None,
                "pair": market if exchange else None,
                "exit_status": exit_status,
                "checks": [result.to_dict() for result in results],
            }
        )
        return exit_status
    name_width = max(len(result.name) for result in results)
    for result in results:
        output.result(f"{result.status:<11}  {result.name:<{name_width}}  {result.seen}")
        if result.meaning:
            output.result(f"{'':<11}  {'':<{name_width}}  {result.meaning}")
    return exit_status


def _without_archive(error: HarvesterError) -> list[CheckResult]:
    """The checks that need neither settings nor an archive, and the error that ended the others."""
    from harvester.operations.doctor import check_machine, fault  # imports DuckDB and httpx

    return [
        *check_machine(),
        fault("config" if isinstance(error, BadSetting) else "archive", error),
    ]
