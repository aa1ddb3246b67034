"""The command line: lists the commands, loads one when it is used, and reports errors.

`harvester --help` and `harvester --version` import no command, so they are fast.
"""

from __future__ import annotations

import gc
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import MetaPathFinder
from keyword import iskeyword
from types import FrameType
from typing import NamedTuple

import click

from harvester import __version__
from harvester.cli import output
from harvester.errors import BadQuery, HarvesterError, UsageError

EPILOG = (
    "The help of each command shows an example: `harvester backfill --help`. Try `harvester demo`."
)


class CommandEntry(NamedTuple):
    """Module that defines a command, in a function of its name, and its line in `--help`."""

    module: str
    help: str


SECTIONS: dict[str, dict[str, CommandEntry]] = {
    "Download": {
        "backfill": CommandEntry(
            "backfill", "Download the missing trades of some pairs, or of all."
        ),
        "refresh": CommandEntry("refresh", "Download new trades; run it every night."),
        "follow": CommandEntry("refresh", "Download new trades continuously, until Ctrl-C."),
        "import": CommandEntry("backfill", "Import Kraken's downloadable CSV archives."),
    },
    "Query": {
        "status": CommandEntry(
            "status", "What the archive has: trades, coverage, gaps; recent runs."
        ),
        "pairs": CommandEntry("status", "List or search markets, in any spelling."),
        "ohlc": CommandEntry("query", "Candles of any interval."),
        "bars": CommandEntry("query", "Bars of a number of trades, a volume or a value."),
        "trades": CommandEntry("query", "Trades as published."),
        "sql": CommandEntry("query", "Run SQL on the archive."),
        "chart": CommandEntry("query", "Draw candles and volume into one file."),
        "explore": CommandEntry("serve", "Look through the archive in a browser, at any zoom."),
    },
    "Maintain": {
        "verify": CommandEntry("verify", "Check stored data for corruption and gaps; repair it."),
        "compact": CommandEntry("verify", "Merge small files into larger ones."),
        "rollup": CommandEntry("verify", "Pre-aggregate candles to speed up long queries."),
        "sync": CommandEntry("refresh", "Bring the copy in an object store (S3) up to date."),
        "doctor": CommandEntry("config", "Check this machine, and what has changed at Kraken."),
    },
    "Configure": {
        "config": CommandEntry("config", "Show the settings, or write a config.toml."),
        "schedule": CommandEntry("config", "Print cron, systemd or launchd units for `refresh`."),
        "completion": CommandEntry("config", "Print a shell completion script."),
    },
    "Try and share": {
        "demo": CommandEntry("serve", "Try everything on made-up trades, without network."),
        "serve": CommandEntry("serve", "Serve the archive through Kraken's public API."),
        "mcp": CommandEntry("serve", "Let an assistant query the archive (MCP)."),
    },
}
COMMANDS = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


def load_command(name: str) -> click.Command:
    """Import the module of a command and return the command."""
    module = import_module(f"harvester.cli.{COMMANDS[name].module}")
    command = getattr(module, f"{name}_" if iskeyword(name) else name)
    if not isinstance(command, click.Command):
        raise TypeError(f"{command} in {module.__name__} is no command")
    return command


def all_commands() -> dict[str, click.Command]:
    """Import all commands; return them by name."""
    return {name: load_command(name) for name in COMMANDS}


class LazyGroup(click.Group):
    """The commands, listed by section; each is imported when it is used."""

    def list_commands(self, _context: click.Context) -> list[str]:
        """The names of all commands, by section."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import and return the command with this name; None if there is none."""
        if name not in COMMANDS:
            return None
        if context.obj is not OWN_PROCESS:
            return load_command(name)
        with kept_from_garbage_collection():
            # Before the module of the command imports what this affects.
            keep_pandas_away()
            return load_command(name)

    def parse_args(self, context: click.Context, words: list[str]) -> list[str]:
        """Parse the words before the name of a command.

        Raises:
            click.UsageError: an option of a command stands before the command's name; the message
                has the words in the right order.
        """
        all_words = list(words)
        try:
            return super().parse_args(context, words)
        except click.NoSuchOption as error:
            name = error.option_name
            commands = all_commands()
            parameters = [known for command in commands.values() for known in command.params]
            if not any(name in known.opts for known in parameters):
                raise
            right = _right_order(all_words, commands)
            text = f"{name} goes after the command"
            raise click.UsageError(f"{text}: `{right}`" if right else text, context) from error

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list of commands per section."""
        widest = max(map(len, COMMANDS))
        for title, entries in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(name.ljust(widest), entry.help) for name, entry in entries.items()]
                )


def _right_order(words: list[str], commands: dict[str, click.Command]) -> str | None:
    """The command line with the name of the command first.

    If no command is named, one that accepts these words is chosen. None if no command accepts them.
    """
    positions = [i for i, word in enumerate(words) if word in commands]
    orders = [(words[i], [*words[i + 1 :], *words[:i]]) for i in positions]
    if not positions:
        orders = [(name, words) for name in sorted(commands, key=lambda name: name != "status")]
    for name, rest in orders:
        # Otherwise --help would print the help here; with it, arguments may be missing.
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
    """Download the complete trade history of any Kraken market into plain Parquet files.

    Candles of any interval are built from it, not only the last 720 that Kraken returns.
    """
    if context.invoked_subcommand is None:
        for line in context.get_help().split("\n"):
            output.hint(line)
        return UsageError.exit_status
    return 0


# --- process --------------------------------------------------------------------------------------

OWN_PROCESS = object()
"""The `context.obj` that `main` sets.

The process runs one command only, so process-wide settings may be changed.
"""


def use_system_memory() -> None:
    """Let Arrow, which reads a variable when it is loaded, take memory from the system.

    With its own allocator, a backfill of a million trades has a peak of 226 MB instead of 174 and
    takes 16 % more processor time, and the memory grows with every hour.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")


@contextmanager
def kept_from_garbage_collection() -> Iterator[None]:
    """Exclude the modules that the block imports from garbage collection.

    They stay until the process ends. The collector would search them while they are imported, then
    every now and then, and twice at exit: of `harvester ohlc`, that is a seventh of the time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def keep_pandas_away() -> None:
    """Keep pandas from being imported, which pyarrow would do at its first conversion.

    No command uses pandas. With it, `harvester status` takes 0.58 s of processor time instead of
    0.38, and 126 MB instead of 91.
    """
    if "pandas" in sys.modules:
        return
    import pyarrow as pa  # `harvester --help` needs none of it

    no_pandas = _NoPandas()
    sys.meta_path.insert(0, no_pandas)
    try:
        # pyarrow tries the import once and remembers the result.
        pa.array([0], pa.int64()).to_numpy()
    finally:
        sys.meta_path.remove(no_pandas)


class _NoPandas(MetaPathFinder):
    """An import hook that makes pandas look as if it were not installed."""

    def find_spec(self, fullname: str, _path: object, _target: object = None) -> None:
        """Raise ModuleNotFoundError for pandas; leave other modules to other finders."""
        # Not by None in sys.modules: pyarrow's compiled code would take that for the module.
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname)


def main() -> None:
    """Run a command and exit. Errors become text and an exit status here and nowhere else."""
    use_system_memory()
    for stream in ("stdout", "stderr"):
        # A closed one is None; what is printed is lost, and the command does its work.
        if getattr(sys, stream) is None:
            setattr(sys, stream, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    sigterms = _interrupt_on_sigterm()
    status = _run()
    if sigterms:
        os.kill(os.getpid(), signal.SIGTERM)
    sys.exit(status)


def _interrupt_on_sigterm() -> list[int]:
    """Make SIGTERM raise KeyboardInterrupt, as Ctrl-C does, so that no half-written file remains.

    Commands that write to an archive install their own handler while they run.

    Returns:
        A list that contains the signal once it came; the process must then end by SIGTERM.
    """
    sigterms: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        sigterms.append(number)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, handle)
    return sigterms


def _run() -> int:
    try:
        status = cli(prog_name="harvester", standalone_mode=False, obj=OWN_PROCESS)
    except HarvesterError as error:
        # DuckDB's messages about a query have several lines, with an arrow below the query.
        lines = str(error).split("\n") if isinstance(error, BadQuery) else [str(error)]
        return _fail(lines, error.exit_status, error)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "harvester"
        text = error.format_message().expandtabs(4)
        return _fail([*text.split("\n"), f"Try `{command} --help`."], 2, error)
    except click.ClickException as error:
        return _fail([error.format_message()], 1, error)
    except (click.Abort, KeyboardInterrupt) as error:
        return _fail(["interrupted"], 130, error)
    except output.ReaderGone:
        return 0
    except Exception as error:  # noqa: BLE001 - the one place where any fault becomes a line
        text = f"internal error: {type(error).__name__}: {error}"
        return _fail([text, "Run it again with -vv for the traceback."], 1, error)
    return status if isinstance(status, int) else 0


def _fail(lines: list[str], status: int, error: BaseException) -> int:
    output.error(*lines)
    if output.wants_traceback(sys.argv):
        import traceback  # only for -vv: every command would pay for it

        for text in "".join(traceback.format_exception(error)).rstrip().split("\n"):
            output.hint(text)
    return status
