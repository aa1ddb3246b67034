"""The command line: commands by section, each loaded when it is used; errors and exit status.

`harvester --help` and `harvester --version` import no command, so they are fast.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from importlib import import_module
from types import FrameType
from typing import NamedTuple

import click

from harvester import __version__
from harvester.cli import output, process
from harvester.errors import BadQuery, HarvesterError, UsageError

EPILOG = (
    "Each command shows an example, as in `harvester backfill --help`. Begin with `harvester demo`."
)


class CommandEntry(NamedTuple):
    """Where a command is defined, and its line in `harvester --help`."""

    module: str
    function: str
    help: str


SECTIONS: dict[str, dict[str, CommandEntry]] = {
    "Download": {
        "backfill": CommandEntry(
            "fetch", "backfill", "Download what is missing of some pairs, or of all."
        ),
        "refresh": CommandEntry("refresh", "refresh", "Download what is new; run it every night."),
        "import": CommandEntry("bulk", "import_", "Import Kraken's downloadable CSV archives."),
    },
    "Query": {
        "status": CommandEntry(
            "status", "status", "What the archive has: trades, coverage, gaps; recent runs."
        ),
        "pairs": CommandEntry("ask", "pairs", "List or search markets, in any spelling."),
        "ohlc": CommandEntry("ask", "ohlc", "Candles of any interval."),
        "bars": CommandEntry("ask", "bars", "Bars of a number of trades, a volume or a value."),
        "trades": CommandEntry("ask", "trades", "Trades as published."),
        "sql": CommandEntry("query", "sql", "Run SQL on the archive."),
        "chart": CommandEntry("chart", "chart", "Draw candles and volume into one file."),
    },
    "Maintain": {
        "verify": CommandEntry(
            "verify", "verify", "Check stored data for corruption and gaps; repair it."
        ),
        "compact": CommandEntry("keep", "compact", "Merge small files into larger ones."),
        "rollup": CommandEntry("keep", "rollup", "Pre-aggregate candles to speed up long queries."),
    },
    "Configure": {
        "config": CommandEntry("settings", "config", "Show the settings, or write a config.toml."),
        "schedule": CommandEntry(
            "settings", "schedule", "Print cron, systemd or launchd units for `refresh`."
        ),
    },
    "Try and share": {
        "demo": CommandEntry("demo", "demo", "Try everything on made-up trades, without network."),
        "serve": CommandEntry("demo", "serve", "Serve the archive through Kraken's public API."),
    },
}
COMMANDS = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


def load_command(name: str) -> click.Command:
    """Import the module of a command and return the command."""
    entry = COMMANDS[name]
    command = getattr(import_module(f"harvester.cli.{entry.module}"), entry.function)
    if not isinstance(command, click.Command):
        raise TypeError(f"harvester.cli.{entry.module}.{entry.function} is no command")
    return command


def all_commands() -> dict[str, click.Command]:
    """Every command by its name, imported."""
    return {name: load_command(name) for name in COMMANDS}


class LazyGroup(click.Group):
    """A group that lists its commands by section, and imports a command when it is used."""

    def list_commands(self, _context: click.Context) -> list[str]:
        """The names of all commands, by section."""
        return list(COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        """The command of a name, imported; None if there is none."""
        if name not in COMMANDS:
            return None
        # Before the command's module is imported: pyarrow would import pandas with it.
        process.settle()
        return load_command(name)

    def parse_args(self, context: click.Context, words: list[str]) -> list[str]:
        """Read the words before a command; an option of the commands stands behind one.

        Raises:
            click.UsageError: it stands before; the message has the words in their right order.
        """
        given = list(words)
        try:
            return super().parse_args(context, words)
        except click.NoSuchOption as error:
            name = error.option_name
            commands = all_commands()
            parameters = [known for command in commands.values() for known in command.params]
            if not any(name in known.opts for known in parameters):
                raise
            right = _right_order(given, commands)
            text = f"{name} goes behind the command"
            raise click.UsageError(f"{text}: `{right}`" if right else text, context) from error

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list for each section."""
        widest = max(map(len, COMMANDS))
        for title, entries in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(name.ljust(widest), entry.help) for name, entry in entries.items()]
                )


def _right_order(given: list[str], commands: dict[str, click.Command]) -> str | None:
    """The line with the command in front; where none was named, with one that takes the rest.

    None where no command takes these words.
    """
    named = [i for i, word in enumerate(given) if word in commands]
    orders = [(given[i], [*given[i + 1 :], *given[:i]]) for i in named]
    if not named:
        orders = [(name, given) for name in sorted(commands, key=lambda name: name != "status")]
    for name, rest in orders:
        # With --help the context would print it, and needs no arguments.
        asks_help = bool({"-h", "--help"} & set(rest))
        try:
            commands[name].make_context(name, list(rest), resilient_parsing=asks_help).close()
        except click.ClickException:
            continue
        return f"harvester {shlex.join([name, *rest])}"
    return None


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
)
@click.version_option(__version__, "-V", "--version", message="harvester %(version)s")
@click.pass_context
def cli(context: click.Context) -> int:
    """The whole trade history of any Kraken market, kept exactly, as plain Parquet.

    Candles of any interval are built from it, past the 720 that Kraken's own endpoint gives.
    """
    if context.invoked_subcommand is None:
        for line in context.get_help().split("\n"):
            output.hint(line)
        return UsageError.exit_status
    return 0


def main() -> None:
    """Run a command; errors become text and an exit status here and nowhere else."""
    process.process_is_ours()
    terminated = _clear_away_on_sigterm()
    status = _run()
    process.leave()
    if terminated:
        os.kill(os.getpid(), signal.SIGTERM)
    sys.exit(status)


def _clear_away_on_sigterm() -> list[int]:
    """Let SIGTERM end a command as Ctrl-C does, so that no half-written file is left behind.

    Commands that write an archive heed it in their own way meanwhile.

    Returns:
        A list that is not empty once it came; the process is then to end by it.
    """
    came: list[int] = []

    def heed(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, heed)
    return came


def _run() -> int:
    try:
        status = cli(prog_name="harvester", standalone_mode=False)
    except HarvesterError as error:
        # DuckDB's words about a query have an arrow under it: of a line each.
        lines = str(error).split("\n") if isinstance(error, BadQuery) else [str(error)]
        return _fail(lines, error.exit_status, error)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "harvester"
        text = error.format_message().expandtabs(4)
        return _fail([*text.split("\n"), f"Try `{where} --help`."], 2, error)
    except click.ClickException as error:
        return _fail([error.format_message()], 1, error)
    except (click.Abort, KeyboardInterrupt) as error:
        return _fail(["interrupted"], 130, error)
    except output.ReaderGone:
        # Let nothing complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - the one place where any fault becomes a line
        text = f"a fault of harvester itself: {type(error).__name__}: {error}"
        return _fail([text, "Run it again with -vv for the traceback."], 1, error)
    return status if isinstance(status, int) else 0


def _fail(lines: list[str], status: int, error: BaseException) -> int:
    output.error(*lines)
    if output.wants_traceback(sys.argv):
        import traceback

        for text in "".join(traceback.format_exception(error)).rstrip().split("\n"):
            output.hint(text)
    return status
