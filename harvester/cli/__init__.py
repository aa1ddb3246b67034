"""The command line: a thin skin over functions of the same names."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

import click

from harvester import __version__
from harvester.cli import (
    ask,
    bulk,
    chart,
    demo,
    fetch,
    keep,
    output,
    process,
    prove,
    query,
    refresh,
    settings,
    status,
)
from harvester.cli.sections import Sectioned
from harvester.errors import BadQuery, HarvesterError, UsageError

EPILOG = (
    "Each command shows an example, as in `harvester backfill --help`. Begin with `harvester demo`."
)


@click.group(
    cls=Sectioned,
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


for command in (
    fetch.backfill,
    refresh.refresh,
    bulk.import_,
    ask.ohlc,
    ask.bars,
    ask.trades,
    status.status,
    ask.pairs,
    query.sql,
    chart.chart,
    keep.compact,
    keep.rollup,
    prove.verify,
    settings.config,
    settings.schedule,
    demo.demo,
    demo.serve,
):
    cli.add_command(command)


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
