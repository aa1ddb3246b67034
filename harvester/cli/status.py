"""`harvester status` and `pairs`: what the archive has, digests, recent runs; markets by name."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING

import click
import msgspec

from harvester.archive import Archive
from harvester.cli import output
from harvester.cli.options import (
    CommonOptions,
    class_option,
    common_options,
    json_option,
    pair_argument,
)
from harvester.cli.output import show_warnings
from harvester.cli.progress_and_signals import display
from harvester.cli.status_table import TableStyle, remarks, status_text, status_to_dict
from harvester.errors import UsageError, gravest, shortened
from harvester.events import Event, Reported
from harvester.times import now_text

if TYPE_CHECKING:
    from rich.console import Console

    from harvester.operations.run_log import RunRecord
    from harvester.verify.status import PairStatus


class OptionalNumberCommand(click.Command):
    """A command with options whose number may be left out.

    click takes the next word for the number, whatever it is: `status --watch XBTUSD`.
    """

    def parse_args(self, context: click.Context, words: list[str]) -> list[str]:
        """Give an option that is not followed by a number its default."""
        defaults = {
            name: option.flag_value
            for option in self.params
            if isinstance(option, click.Option)
            and not option.is_flag
            and isinstance(option.flag_value, int | float)
            for name in option.opts
        }
        for index in range(words.index("--") if "--" in words else len(words)):
            following = "".join(words[index + 1 : index + 2])
            if words[index] in defaults and not _NUMBER.fullmatch(following):
                words[index] += f"={defaults[words[index]]}"
        return super().parse_args(context, words)


_NUMBER = re.compile(r"[0-9.]+")


@click.command(cls=OptionalNumberCommand)
@pair_argument(nargs=-1, required=False)
@click.option(
    "--runs",
    is_flag=False,
    flag_value=20,
    type=click.IntRange(1),
    metavar="[N]",
    help="Show the last N runs instead.  [N: 20]",
)
@click.option(
    "--watch",
    is_flag=False,
    flag_value=5.0,
    type=click.FloatRange(0.1),
    metavar="[S]",
    help="Show it again every S seconds, until Ctrl-C.  [S: 5]",
)
@click.option(
    "--digest",
    is_flag=True,
    help="Print a checksum per pair (whole months) to compare with someone else's copy.",
)
@click.option(
    "--since",
    metavar="TIME",
    default="start",
    show_default=True,
    help="With --digest: start time, inclusive.",
)
@click.option("--until", metavar="TIME", help="With --digest: end time, exclusive.")
@click.option(
    "--times",
    type=click.Choice(["utc", "local"]),
    default="utc",
    show_default=True,
    help="With --runs: UTC, or this machine's local time with its offset.",
)
@json_option
@common_options
def status(  # noqa: PLR0913, PLR0917 - a parameter per option
    common: CommonOptions,
    pair: tuple[str, ...],
    digest: bool,
    since: str,
    until: str | None,
    runs: int | None,
    watch: float | None,
    times: str,
    as_json: bool,
) -> int:
    """Show what the archive has of each pair: trades, coverage, gaps, files, bytes.

    Reads file names and Parquet footers only; no network. Exit status 4 if a range that was
    requested is not covered. A narrow terminal shows fewer columns; docs/status.md explains them.

    With --digest: one checksum of each pair's trades, over all whole months that are stored; it is
    equal for everybody who has the same trades. -v adds a checksum per month. With --runs: the
    last runs that wrote to the archive or to these pairs, and how they ended.

    Example: harvester status XBT/USD --watch
    """
    if sum([digest, runs is not None, watch is not None]) > 1:
        raise click.UsageError("give one of --digest, --runs and --watch")
    if (since != "start" or until is not None) and not digest:
        raise click.UsageError("--since and --until are for --digest: leave them out")
    if times == "local" and (runs is None or as_json):
        raise UsageError("--times local is for the table of --runs: all else is in UTC")
    archive = common.existing_archive()
    if digest:
        print_digests(common, archive, pair, (since, until), as_json=as_json)
        return 0
    if runs is not None:
        print_runs(archive, runs, pair, UTC if times == "utc" else None, as_json=as_json)
        return 0
    if watch is not None:
        return watch_status(archive, pair, watch, exact=common.verbose > 0, as_json=as_json)
    return print_status(archive, pair, exact=common.verbose > 0, as_json=as_json)


def print_status(archive: Archive, pairs: Sequence[str], *, exact: bool, as_json: bool) -> int:
    """Print what is stored of some pairs, or of all.

    Args:
        archive: the archive.
        pairs: names in any spelling; none for all.
        exact: whether gaps are shown with their bounds in nanoseconds, too.
        as_json: print JSON.

    Returns:
        The exit status: 4 if something that was requested is not covered, or can't be read.
    """
    found = archive.status(*pairs)
    if as_json:
        output.as_json([status_to_dict(pair_status) for pair_status in found])
    elif found:
        levels = archive.settings.candles.rollups
        output.block(status_text(found, levels, TableStyle.of_stdout(), detailed=bool(pairs)))
        for line in remarks(found, exact=exact):
            output.hint(line)
    else:
        output.hint(_nothing_stored(archive))
    return gravest([pair_status.exit_status for pair_status in found])


def _nothing_stored(archive: Archive) -> str:
    return (
        f"the archive at {archive.settings.archive.path} is empty; "
        "`harvester backfill XBT/USD` creates it"
    )


# --- --watch --------------------------------------------------------------------------------------


def watch_status(
    archive: Archive,
    pairs: Sequence[str],
    interval_s: float,
    *,
    exact: bool,
    as_json: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Show what is stored again and again, until Ctrl-C.

    On a terminal Ctrl-C ends it with status 0; elsewhere it is an interruption. As JSON it is one
    line each time.

    Args:
        archive: the archive.
        pairs: names in any spelling; none for all.
        interval_s: seconds between two outputs.
        exact: whether gaps are shown with their bounds in nanoseconds, too.
        as_json: print JSON.
        sleep: waits.
    """

    def screen() -> str:
        return _screen(archive, archive.status(*pairs), exact=exact, detailed=bool(pairs))

    if sys.stdout.isatty() and not as_json:
        return _redraw(screen, interval_s, sleep)
    while True:
        if as_json:
            output.as_json([status_to_dict(found) for found in archive.status(*pairs)], indent=0)
        else:
            output.block(screen() + "\n")
        sleep(interval_s)


def _screen(archive: Archive, found: Sequence[PairStatus], *, exact: bool, detailed: bool) -> str:
    now = now_text()
    if not found:
        return output.line(f"{now}  {_nothing_stored(archive)}")
    levels = archive.settings.candles.rollups
    table = status_text(found, levels, TableStyle.of_stdout(), detailed=detailed)
    return "\n".join([now, "", table, *map(output.line, remarks(found, exact=exact))])


def _redraw(
    screen: Callable[[], str],
    interval_s: float,
    sleep: Callable[[float], None],
    console: Console | None = None,
) -> int:
    """Draw the screen again and again, on a terminal."""
    from rich.live import Live
    from rich.text import Text

    # What does not fit is cut off: the screen is drawn over, and never scrolls.
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(Text(screen(), no_wrap=True, overflow="crop"), refresh=True)
                sleep(interval_s)
    except KeyboardInterrupt:
        return 0


# --- --digest -------------------------------------------------------------------------------------


def print_digests(
    common: CommonOptions,
    archive: Archive,
    pairs: Sequence[str],
    between: tuple[str, str | None],
    *,
    as_json: bool,
) -> None:
    """Print the digests of some pairs, or of all.

    Args:
        common: how much is shown meanwhile.
        archive: the archive.
        pairs: names in any spelling; none for all.
        between: `since` and `until`.
        as_json: print JSON.
    """
    since, until = between
    with display(quiet=common.quiet, log_json=common.log_json) as show_progress:

        def on_event(event: Event) -> None:
            if not isinstance(event, Reported):
                show_progress(event)
            elif isinstance(event.report, list):
                if not event.report and not common.quiet:
                    output.hint(f"{event.pair}: no whole month is stored there")
                for digest in event.report if not as_json else []:
                    output.result(str(digest))
                    for month in digest.months if common.verbose else []:
                        output.result(f"  {month.month}: {month.rows:,} trades, {month.sha256}")

        found = archive.digest(*pairs, since=since, until=until, progress=on_event)
    if as_json:
        output.as_json([digest._asdict() for digest in found])


# --- --runs ---------------------------------------------------------------------------------------

RUN_COLUMNS = ["begun", "command", "ended", "took", "pairs", "trades", "calls", "refusals", "gaps"]
RUN_DROP_ORDER = ("pairs", "refusals", "took", "calls", "gaps")
"""Columns that are left out where a terminal is narrow, the first one first."""


def print_runs(
    archive: Archive, count: int, pairs: Sequence[str], zone: tzinfo | None, *, as_json: bool
) -> None:
    """Print the last `count` runs that wrote to the archive, and what went wrong in them.

    Args:
        archive: the archive.
        count: how many runs.
        pairs: only runs that concern one of these; none for all runs.
        zone: the time zone of the table; None for this machine's.
        as_json: print JSON.
    """
    found = archive.runs(count, pairs)
    if as_json:
        output.as_json(
            [{**msgspec.to_builtins(run), "trades": run.trades, "gaps": run.gaps} for run in found]
        )
    elif found:
        output.block(runs_table(found, zone))
    else:
        of_pairs = f" of {', '.join(pairs)}" if pairs else ""
        output.hint(f"the archive at {archive.path} has no record of a run{of_pairs}")


def runs_table(runs: Sequence[RunRecord], zone: tzinfo | None = UTC) -> str:
    """A line per run, and below it why it failed; in the time zone, or this machine's for None."""
    rows = [_run_cells(run, zone) for run in runs]
    table = output.columns(
        RUN_COLUMNS, rows, left=3, drop_order=RUN_DROP_ORDER, max_width=output.width()
    )
    header, *lines = table.split("\n")
    text = [header]
    for run, line in zip(runs, lines, strict=True):
        text += [line, *(f"    {reason}" for reason in _reasons(run))]
    return "\n".join(text)


def _run_cells(run: RunRecord, zone: tzinfo | None) -> list[str]:
    begun = run.begun[:19].replace("T", " ")
    if zone is not UTC:
        begun = datetime.fromisoformat(run.begun).astimezone(zone).isoformat(" ", "seconds")
    return [
        begun,
        run.command,
        run.state if run.exit_status is None else _ending(run.exit_status),
        _duration(run),
        f"{len(run.pairs):,}",
        f"{run.trades:,}",
        f"{run.calls:,}",
        f"{run.refusals:,}",
        f"{run.gaps:,}",
    ]


def _ending(exit_status: int) -> str:
    return "done" if exit_status == 0 else f"status {exit_status}"


def _reasons(run: RunRecord) -> list[str]:
    """The first reason why a run failed, shortened, and how many more there are."""
    reasons = [run.error] if run.error else []
    reasons += [pair.error for pair in run.pairs if pair.error]
    first = [
        output.line(shortened(reason.split("\n")[0], output.LONGEST_LINE)) for reason in reasons[:1]
    ]
    return first + ([f"and {len(reasons) - 1:,} more; --json shows all"] if reasons[1:] else [])


def _duration(run: RunRecord) -> str:
    if run.ended is None:
        return ""
    duration = datetime.fromisoformat(run.ended) - datetime.fromisoformat(run.begun)
    seconds = max(0, round(duration.total_seconds()))
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


# --- pairs ----------------------------------------------------------------------------------------


@click.command()
@click.argument("text", required=False, default="")
@class_option("List only the markets of `currency` or `tokenized_asset` (stocks).")
@json_option
@click.option("--update", is_flag=True, help="Ask the exchange, also if names are known already.")
@common_options
def pairs(
    common: CommonOptions, text: str, asset_class: str | None, as_json: bool, update: bool
) -> None:
    """List markets whose names contain TEXT, in any spelling: BTC finds XBT.

    Example: harvester pairs doge
    """
    show_warnings(verbose=common.verbose > 0)
    found = common.archive().pairs(text, asset_class=asset_class, update=update)
    if as_json:
        output.as_json(found)
        return
    rows = [
        [pair.altname, pair.wsname, pair.key, str(pair.pair_decimals), pair.status]
        for pair in found
    ]
    output.block(output.columns(["pair", "wsname", "key", "decimals", "status"], rows, left=3))
