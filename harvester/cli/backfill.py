"""Commands that fill an archive: `backfill` downloads, `import` reads Kraken's CSV archives."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from harvester.cli import output
from harvester.cli.options import (
    CommonOptions,
    class_option,
    common_options,
    json_option,
    pair_argument,
    rate_option,
    setting_option,
)
from harvester.cli.output import show_warnings, warnings_shown
from harvester.cli.progress_and_signals import run_context
from harvester.config import LARGEST_SMALL_FILE, ExchangeSettings, read_small_file
from harvester.errors import Interrupted, UsageError, counted, gravest
from harvester.events import BackfillResult, Begun, Event, Noted, Paced, remaining_gaps
from harvester.pair_selection import PairName
from harvester.times import show

if TYPE_CHECKING:
    from harvester.csv_import.import_pairs import FilePlan, ImportResult
    from harvester.download.backfill import BackfillEstimate, PairEstimate, TotalEstimate

MAX_LISTED = 20
"""The summary names this many pairs of each kind."""

MIN_ANNOUNCED_S = 5.0
"""A dry run announces how long it takes if that is more."""


@click.command()
@pair_argument(nargs=-1, required=False)
@click.option("--all", "all_pairs", is_flag=True, help="All pairs that the exchange lists.")
@click.option(
    "--quote",
    "quotes",
    multiple=True,
    metavar="NAME",
    help="Limit --all and patterns to pairs quoted in this currency, e.g. USD; repeatable.",
)
@class_option("Limit --all and patterns to `currency` or `tokenized_asset` (stocks).")
@click.option(
    "--pairs-file",
    metavar="FILE",
    help="Read names and patterns from FILE, one per line, # for comments; - is stdin.",
)
@click.option(
    "--since",
    metavar="TIME",
    default="start",
    show_default=True,
    help="Start time, inclusive; `start` is the first trade.",
)
@click.option("--until", metavar="TIME", help="End time, exclusive.  [default: now]")
@rate_option
@setting_option(
    "--jobs",
    setting="exchange.jobs",
    type=int,
    help="Pairs to download at the same time, any number.  [default: 8]",
)
@click.option("--newest-first", is_flag=True, help="Download the newest missing month first.")
@click.option(
    "--replace-imported",
    is_flag=True,
    help="Afterwards, download ranges that came from CSV files again and replace them.",
)
@click.option("--dry-run", is_flag=True, help="Estimate the download; download no trades.")
@json_option
@common_options
def backfill(  # noqa: PLR0913 - its options
    common: CommonOptions,
    *,
    pair: tuple[str, ...],
    all_pairs: bool,
    quotes: tuple[str, ...],
    asset_class: str | None,
    pairs_file: str | None,
    since: str,
    until: str | None,
    newest_first: bool,
    replace_imported: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Download the missing trades of some pairs.

    If it is interrupted, the same command continues where it stopped. TIME is a date or time such
    as 2024, 2024-06 or 2024-01-31T12:00 (UTC), a UNIX time (10, 13 or 19 digits), an age such as
    7d, 12h or 6mo, today, yesterday, now, or start.

    PAIR is a name in any spelling, or a pattern such as '*/EUR' or 'XBT/*' (in quotes, or the
    shell expands it). Names, patterns and --pairs-file can be combined; --all stands alone. If
    there are more pairs than --jobs, the largest are downloaded first, which takes the least time
    in total. A pair that fails does not stop the others.

    --replace-imported replaces trades that were imported from Kraken's CSV files by the exchange's
    own trades, which have ids, sides and exact times. It begins when nothing else is missing, and
    replaces range by range, in order of time. Days on which file and exchange differ are printed,
    and the exit status is 4.

    Example: harvester backfill XBT/USD ETH/EUR --since 2024-01-01

    Example: harvester backfill --all --quote USD --dry-run
    """
    settings = common.settings
    names = _pair_names(pair, all_pairs=all_pairs, quotes=quotes, pairs_file=pairs_file)
    archive = common.archive()
    if dry_run:
        show_warnings(verbose=common.verbose > 0)
        estimate = archive.estimate_backfill(
            *names,
            all_pairs=all_pairs,
            quotes=quotes,
            asset_class=asset_class,
            since=since,
            until=until,
            replace_imported=replace_imported,
            progress=None if common.quiet else _announcer(settings.exchange),
        )
        _print_estimate(estimate, common, as_json=as_json)
        return 0
    with run_context(common) as run:

        def show(event: Event) -> None:
            run.show(event)
            if isinstance(event, Paced) and common.verbose and not common.log_json:
                run.show(Noted(event.pair, str(event.pace)))

        results = archive.backfill(
            *names,
            all_pairs=all_pairs,
            quotes=quotes,
            asset_class=asset_class,
            since=since,
            until=until,
            newest_first=newest_first,
            replace_imported=replace_imported,
            estimate_trades=run.has_bars,
            progress=show,
            cancel=run.cancel,
            check=False,
        )
    _print_results(results, common, as_json=as_json)
    return gravest([result.exit_status for result in results])


# Names of pairs


def _pair_names(
    pairs: Sequence[str], *, all_pairs: bool, quotes: Sequence[str], pairs_file: str | None
) -> list[str]:
    """The names and patterns of the arguments and of --pairs-file.

    Raises:
        click.UsageError: the options contradict each other, or name nothing.
        UsageError: the file can't be read, or contains no name.
    """
    if all_pairs and (pairs or pairs_file):
        raise click.UsageError("--all is every pair already: give no names with it")
    if not (all_pairs or pairs or pairs_file):
        all_of = f" --all --quote {quotes[0]}" if quotes else " --all for every pair"
        raise click.UsageError(f"which pairs? Give names, patterns, --pairs-file, or{all_of}")
    return [*pairs, *(_names_in(pairs_file) if pairs_file else [])]


def _names_in(file: str) -> list[PairName]:
    """The names in a file, each with its line number."""
    source = "stdin" if file == "-" else file
    try:
        raw = _read_stdin() if file == "-" else read_small_file(file)
        lines = raw.decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise UsageError(f"--pairs-file {file}: can't be read: {why}") from error
    texts = [line.partition("#")[0].strip() for line in lines]
    names = [
        PairName(text, f"{source}, line {number}") for number, text in enumerate(texts, 1) if text
    ]
    if not names:
        raise UsageError(f"--pairs-file {file}: it names no pair: give one a line")
    return names


def _read_stdin() -> bytes:
    """All of stdin, up to a limit: it may never end."""
    data = sys.stdin.buffer.read(LARGEST_SMALL_FILE + 1)
    if len(data) > LARGEST_SMALL_FILE:
        raise OSError(None, f"it is larger than {LARGEST_SMALL_FILE >> 20} MB")
    return data


# Estimates


def _announcer(exchange: ExchangeSettings) -> Callable[[Event], None]:
    """A progress callback that prints how long the exchange is asked for counts."""

    def announce(event: Event) -> None:
        if isinstance(event, Begun) and exchange.rate:
            duration_s = (-(-event.pairs // exchange.jobs) - 1) / exchange.rate
            if duration_s > MIN_ANNOUNCED_S:
                output.hint(
                    f"asking for the weekly counts of {event.pairs} pairs: about {duration_s:.0f} s"
                )

    return announce


def _print_estimate(estimate: BackfillEstimate, common: CommonOptions, *, as_json: bool) -> None:
    if as_json:
        output.as_json(estimate.to_dict())
    else:
        output.block(_estimate_table(estimate))
    total = estimate.total
    is_slow = total.jobs < min(total.useful_jobs, total.pairs)
    if is_slow and total.hours > total.shortest_hours and not common.quiet:
        output.hint(
            f"{total.hours:.2f} hours with {counted(total.jobs, 'pair')} at a time; "
            f"{total.shortest_hours:.2f} with --jobs {total.useful_jobs} or more, "
            "if the exchange allows that many requests"
        )


def _estimate_table(estimate: BackfillEstimate) -> str:
    """One line per pair, and one for all."""
    pairs, total = estimate.pairs, estimate.total
    rows = [[pair.pair, str(pair.ranges), *_numbers(pair)] for pair in pairs]
    if total.pairs > 1:
        name = f"{total.pairs} pairs" + (f", {total.unknown} unknown" if total.unknown else "")
        rows.append([name, str(total.ranges), *_numbers(total)])
    header = ["pair", "ranges", "trades", "calls", "hours", "MB"]
    redownload = sum(pair.redownload_trades for pair in pairs)
    if redownload:
        header.append("re-download")
        counts = [*(pair.redownload_trades for pair in pairs), redownload]
        rows = [[*row, f"{count:,}"] for row, count in zip(rows, counts, strict=False)]
    return output.columns(header, rows)


def _numbers(estimate: PairEstimate | TotalEstimate) -> list[str]:
    trades, calls, hours, size = estimate.trades, estimate.calls, estimate.hours, estimate.bytes
    if trades is None or calls is None or hours is None or size is None:
        return ["?"] * 4
    return [f"{trades:,}", f"{calls:,}", f"{hours:.2f}", f"{size / 1e6:.1f}"]


# Results


def _print_results(
    results: Sequence[BackfillResult], common: CommonOptions, *, as_json: bool
) -> None:
    if len(results) > 1 and not (common.quiet or common.log_json):
        for line in _summary(results):
            output.hint(line)
    if as_json:
        output.as_json(
            {
                "exit_status": gravest([result.exit_status for result in results]),
                "notes": warnings_shown(),
                "pairs": [
                    result.to_dict()
                    | {"covered_through_ns": result.reached.through if result.reached else None}
                    for result in results
                ],
            }
        )


def _summary(results: Sequence[BackfillResult]) -> list[str]:
    """Lines: how many pairs are done, differ, have gaps, failed or stopped; and the reasons.

    It stays short for hundreds of pairs.
    """
    outcomes = [_outcome(result) for result in results]
    rows, lines = [], []
    for outcome in ("done", "replacement incomplete", "with gaps", "failed", "stopped"):
        found = [
            result for result, (name, _) in zip(results, outcomes, strict=True) if name == outcome
        ]
        if not found:
            continue
        trades, pages = (
            sum(result.trades for result in found),
            sum(result.pages for result in found),
        )
        rows.append([outcome, f"{len(found):,}", f"{trades:,}", f"{pages:,}"])
        reasons = [f"{outcome}: {why}" for name, why in outcomes if why and name == outcome]
        lines += reasons[:MAX_LISTED]
        if len(reasons) > MAX_LISTED:
            lines.append(f"{outcome}: and {len(reasons) - MAX_LISTED} more; --json lists all")
    return [*output.columns(["", "pairs", "trades", "pages"], rows).split("\n"), *lines]


def _outcome(result: BackfillResult) -> tuple[str, str]:
    """The kind of a result, and the reason where there is one to be listed."""
    if isinstance(result.error, Interrupted):
        return "stopped", ""
    if result.error is not None:
        why = str(result.error).removeprefix(f"{result.pair}: ")
        return "failed", output.line(f"{result.pair}: {why}")
    if result.gaps:
        return "with gaps", f"{result.pair}: {remaining_gaps(result.gaps)}"
    if result.exit_status:
        return "replacement incomplete", f"{result.pair}: {result.replacement}"
    return "done", ""


# --- import ---------------------------------------------------------------------------------------

MAX_PAIRS_NAMED = 8
"""The advice at the end names up to this many pairs."""


class ImportArguments(TypedDict):
    """Options that `Archive.import_csv` and `plan_import` have by the same names."""

    pair: str | None
    pairs: str | None
    delisted: bool
    whole_since: str | None
    whole_until: str | None
    skip_bad_rows: bool


@click.command("import")
@click.argument("file", nargs=-1, required=True)
@click.option("--pair", metavar="PAIR", help="The pair of the only file, whatever its name.")
@click.option(
    "--pairs",
    metavar="LIST",
    help="Import only these pairs, such as XBT/USD,ETH/EUR or '*/EUR'.",
)
@click.option(
    "--delisted",
    is_flag=True,
    help="Import pairs that Kraken no longer lists, named after their files.",
)
@click.option(
    "--whole-since",
    metavar="TIME",
    help="Treat each pair's files as complete from TIME on.",
)
@click.option(
    "--whole-until",
    metavar="TIME",
    help="Treat each pair's files as complete up to TIME (exclusive).",
)
@click.option(
    "--skip-bad-rows",
    is_flag=True,
    help="Leave out rows that can't be read, and the time around them; list them.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be imported, and import nothing.")
@json_option
@common_options
def import_(
    common: CommonOptions,
    *,
    file: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    **options: Unpack[ImportArguments],
) -> int:
    """Import Kraken's downloadable history: ZIPs, folders and single CSV files of trades.

    Time that is covered already is skipped, because trades from the API have more details.
    Afterwards `backfill` downloads what is missing: some seconds at the boundaries of the files,
    and what came after them. After an interruption, the same command continues.

    Example: harvester import Kraken_Trading_History_Q1_2026.zip --pairs XBT/USD
    """
    archive = common.archive()
    if dry_run:
        show_warnings(verbose=common.verbose > 0)
        plan = archive.plan_import(*file, **options)
        fields = {"files": [file_plan._asdict() for file_plan in plan.files]}
        if as_json:
            output.as_json(fields | {"unknown": plan.unknown})
        else:
            output.block(_plan_table(plan.files))
        return plan.exit_status
    with run_context(common) as run:
        result = archive.import_csv(
            *file, progress=run.show, cancel=run.cancel, check=False, **options
        )
    if not common.quiet:
        _advise(result)
    if as_json:
        output.as_json(result.to_dict())
    return result.exit_status


def _advise(result: ImportResult) -> None:
    """Say what to do next, if anything was imported."""
    imported = [report for report in result.reports if report.ranges]
    pairs = list(dict.fromkeys(report.pair for report in imported if not report.is_delisted))
    if not pairs:
        if imported:
            output.hint("`harvester rollup` speeds up long queries")
        return
    # `refresh` without names takes all pairs of the archive; a list of hundreds would not help.
    command = f"backfill {shlex.join(pairs)}" if len(pairs) <= MAX_PAIRS_NAMED else "refresh"
    output.hint(
        f"`harvester {command}` downloads what is missing; `harvester rollup` speeds up long "
        "queries"
    )


def _plan_table(plans: Sequence[FilePlan]) -> str:
    rows = [
        [
            plan.file,
            plan.pair,
            plan.layout,
            f"{plan.bytes / 1e6:.1f}",
            f"{plan.rows:,}",
            f"{plan.bad:,}",
            "" if plan.begins_ns is None else show(plan.begins_ns),
            plan.error or "; ".join(map(str, plan.missing)) or "nothing",
        ]
        for plan in plans
    ]
    names = ["file", "pair", "layout", "MB", "rows", "bad", "begins", "not covered"]
    return output.columns(names, rows, left=3)
