"""`verify` checks and repairs what is stored; `compact` and `rollup` maintain its files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from harvester.archive import Archive
from harvester.cli import output
from harvester.cli.options import CommonOptions, common_options, json_option, pair_argument
from harvester.cli.progress_and_signals import display, run_context
from harvester.errors import ArchiveIncomplete, HarvesterError, counted, first_few, gravest
from harvester.events import Event, Reported, Step
from harvester.kraken.ohlc import WEEK_MIN
from harvester.times import missing
from harvester.verify.against_kraken import EXCHANGE_STEPS, FileChoice
from harvester.verify.reports import (
    Comparison,
    CsvReport,
    ExchangeReport,
    IntervalReport,
    PairReport,
    RepairedFile,
    RepairReport,
)

if TYPE_CHECKING:
    from harvester.operations.maintenance import CompactionResult
    from harvester.query.rollups import RollupResult

MAX_FILES_LISTED = 8


@click.command()
@pair_argument(nargs=-1, required=False)
@click.option(
    "--against-exchange",
    is_flag=True,
    help="Compare candles with the exchange's OHLC endpoint, too.",
)
@click.option(
    "--against-csv",
    multiple=True,
    metavar="FILE",
    help="Compare candles with Kraken's candle files (OHLCVT), too: a ZIP, a CSV or a folder; "
    "repeatable.",
)
@click.option("--repair", is_flag=True, help="Quarantine broken files and download them again.")
@json_option
@common_options
def verify(
    common: CommonOptions,
    pair: tuple[str, ...],
    against_exchange: bool,
    against_csv: tuple[str, ...],
    repair: bool,
    as_json: bool,
) -> int:
    """Check every stored trade for corruption and gaps.

    Trades are checked against file names, footers, checksums, trade ids and what was requested.
    One line per fault, with its file and range. Exit status 4 if there is a fault, if a candle
    differs from the exchange's, or if none could be compared.

    --against-csv reads Kraken_OHLCVT.zip and files like it; no network.

    --repair moves broken files into the folder quarantine/, each with a note, downloads their
    ranges and what else is missing, and checks again. Nothing is deleted, and of a pair that the
    exchange does not list nothing is moved that would have to be downloaded.

    Example: harvester verify XBT/USD --repair
    """
    archive = common.existing_archive()
    with run_context(common, only_while_running=True) as run:

        def print_event(event: Event) -> None:
            match event:
                case Reported():
                    if not as_json:
                        _print_report(event.report, exact=common.verbose > 0)
                    _print_errors(event.pair, event.report, archive.path, quiet=common.quiet)
                case Step(pair, 0, _, unit) if unit == EXCHANGE_STEPS:
                    if not (common.quiet or common.log_json or output.is_terminal()):
                        output.hint(f"{pair}: asking the exchange for its own candles")
                case _:
                    run.show(event)

        reports = archive.verify(
            *pair,
            repair=repair,
            against_exchange=against_exchange,
            against_csv=against_csv,
            progress=print_event,
            estimate_trades=run.has_bars,
            cancel=run.cancel,
        )
    statuses = [report.exit_status for report in reports]
    statuses += [report.exchange.exit_status for report in reports if report.exchange]
    statuses += [report.csv.exit_status for report in reports if report.csv]
    if against_csv and not any(report.csv for report in reports):
        output.error("nothing compared: no file has candles of a stored pair")
        statuses.append(ArchiveIncomplete.exit_status)
    if as_json:
        with_repair: dict[str, Any] = {"repair": None} if repair else {}
        output.as_json([with_repair | report.to_dict() for report in reports])
    elif not reports:
        output.hint(f"the archive at {archive.path} is empty: there is nothing to check")
    return gravest(statuses)


# --- reports --------------------------------------------------------------------------------------


def _print_errors(pair: str, report: object, archive: str, *, quiet: bool) -> None:
    """Print to stderr why a step ended early, or what it left out."""
    match report:
        case RepairReport(error=HarvesterError()):
            _print_repair_error(report, f"{archive}/quarantine/{pair}")
        case ExchangeReport(error=HarvesterError() as error):
            output.error(str(error))
        case CsvReport(errors=errors):
            for error in errors:
                output.error(f"{pair}: {error}")
        case FileChoice() if not quiet:
            _print_skipped_files(report)
        case _:
            pass


def _print_report(report: object, *, exact: bool) -> None:
    """Print a report to stdout; `exact`: with the bounds of ranges in nanoseconds."""
    match report:
        case PairReport():
            _print_pair(report, exact=exact)
        case RepairedFile():
            output.result(str(report))
        case RepairReport():
            _print_repair(report, exact=exact)
        case ExchangeReport(error=None):
            _print_exchange_report(report)
        case CsvReport():
            _print_csv_report(report)
        case _:
            pass


def _print_pair(report: PairReport, *, exact: bool) -> None:
    """Print what the check found; `exact`: with the bounds of ranges in nanoseconds."""
    verdict = counted(len(report.faults), "FAULT") if report.faults else "sound"
    id_gaps = counted(report.confirmed_id_gaps, "confirmed id gap")
    if report.unconfirmed_id_gaps:
        id_gaps += f" and {report.unconfirmed_id_gaps:,} unconfirmed"
    parts = [
        counted(report.files, "file"),
        counted(report.rows, "trade"),
        counted(report.ids, "id"),
        f"{report.boundaries:,} file {'boundary' if report.boundaries == 1 else 'boundaries'}",
        id_gaps,
        counted(report.rollups, "roll-up"),
    ]
    output.result(f"{report.pair}: {verdict}: {', '.join(parts)}")
    for fault in report.faults:
        output.result(f"  {fault} {fault.range.bounds_text}" if exact else f"  {fault}")
    for digest in report.digests:
        output.result(f"  digest: {digest}")
    for note in report.notes:
        output.hint(f"  {note}")


def _print_repair(report: RepairReport, *, exact: bool) -> None:
    for text, found in (
        ("imported trades are kept in", report.kept),
        ("trades were missing, downloaded again:", missing(report.uncovered, report.missing)),
        ("trades were missing, not downloaded yet:", report.missing),
    ):
        if found:
            output.result(f"{report.pair}: {text} {first_few(found, 1)}")
    if report.pages:
        trades, pages = counted(report.trades, "trade"), counted(report.pages, "page")
        output.result(f"{report.pair}: downloaded {trades} in {pages}")
    if report.moved or report.uncovered or report.pages or report.error is None:
        _print_pair(report.after, exact=exact)


def _print_repair_error(report: RepairReport, quarantine: str) -> None:
    """Print what ended a repair early; `quarantine` is the folder with the pair's moved files."""
    text = str(report.error)
    named = text if text.startswith(report.pair) else f"{report.pair}: {text}"
    left = "nothing was moved"
    if report.moved or report.kept:
        files = "moved files" if report.moved else "imported trades"
        left = f"{files} are kept in {quarantine}; the missing ranges stay recorded"
    elif report.uncovered:
        left += "; the missing ranges stay recorded"
    output.error(named, f"{report.pair}: {left}")


def _print_exchange_report(report: ExchangeReport) -> None:
    output.result(f"{report.pair} against the exchange: {_verdict(report)}")
    for interval in report.intervals:
        _print_interval(f"{interval.minutes}m", interval)
    for interval in report.intervals:
        if interval.minutes == WEEK_MIN:
            output.result(f"  trades a week: {_weeks(interval)}")


def _print_csv_report(report: CsvReport) -> None:
    output.result(f"{report.pair} against the files: {_csv_verdict(report)}")
    for file in report.files:
        if file.error is None:
            _print_interval(f"{file.interval.minutes}m, {file.file}", file.interval)


def _print_skipped_files(choice: FileChoice) -> None:
    if choice.of_other_pairs:
        files = counted(choice.of_other_pairs, "file")
        output.hint(f"skipped: {files} of pairs that are not requested or not stored")
    if unknown := choice.unknown:
        output.hint(
            f"skipped: {counted(len(unknown), 'file')} not named after the candles of a "
            f"known pair, such as XBTUSD_60.csv: {first_few(unknown, MAX_FILES_LISTED)}"
        )


def _print_interval(title: str, interval: IntervalReport) -> None:
    """Print the counts of candles of one length, and their differences."""
    output.result(f"  {title}: {_interval_text(interval)}")
    for difference in interval.differences:
        output.result(f"    {difference}")
    if interval.unlisted:
        output.result(f"    and {interval.unlisted:,} more values of {interval.minutes}m candles")


def _verdict(report: Comparison) -> str:
    """The result over candles of all lengths, in a few words."""
    if not report.intervals:
        return "nothing compared: no trades are stored"
    if not report.compared:
        return f"nothing compared: {report.skipped:,} candles skipped"
    done = f"{report.compared:,} candles compared, {report.skipped:,} skipped"
    return f"{report.differing:,} DIFFER: {done}" if report.differing else f"equal: {done}"


def _csv_verdict(report: CsvReport) -> str:
    if report.has_trades and not report.files:
        return "nothing compared: no file is of this pair"
    if not report.errors:
        return _verdict(report)
    failed = f"{len(report.errors)} of {len(report.files)} FILES NOT READ"
    return f"{failed}; {_verdict(report)}" if report.compared else failed


def _interval_text(interval: IntervalReport) -> str:
    parts = [f"{interval.compared:,} compared, {interval.differing:,} differ{_skipped(interval)}"]
    if interval.shortened:
        parts.append(
            f"{interval.shortened:,} prices compared to the decimals that the exchange prints"
        )
    if interval.at_boundary:
        parts.append(
            f"{interval.at_boundary:,} equal if trades published exactly at a boundary are moved"
        )
    if interval.within_float_rounding:
        parts.append(f"{interval.within_float_rounding:,} equal within float rounding")
    return "; ".join([*parts, *interval.notes])


def _weeks(interval: IntervalReport) -> str:
    if not interval.compared:
        return f"no week compared{_skipped(interval)}"
    return (
        f"{interval.compared:,} weeks compared, {interval.miscounted:,} differ: "
        f"{interval.exchange_trades:,} by the exchange's count, {interval.archive_trades:,} stored"
        f"{_skipped(interval)}"
    )


def _skipped(interval: IntervalReport) -> str:
    if not interval.skipped:
        return ""
    return "; skipped " + ", ".join(f"{n:,} {reason}" for reason, n in interval.skipped.items())


# --- compaction and roll-ups ----------------------------------------------------------------------


@click.command()
@pair_argument(nargs=-1, required=False)
@json_option
@common_options
def compact(common: CommonOptions, *, pair: tuple[str, ...], as_json: bool) -> None:
    """Merge neighbouring small files of each pair into files of up to four million trades.

    `backfill` and `refresh` do this by themselves. The trades do not change, only the number of
    files.

    Example: harvester compact XBT/USD
    """
    _maintain(common, Archive.compact, pair, ["pair", "files before", "after"], as_json=as_json)


@click.command()
@pair_argument(nargs=-1, required=False)
@json_option
@common_options
def rollup(common: CommonOptions, *, pair: tuple[str, ...], as_json: bool) -> None:
    """Build the roll-ups that are missing: pre-aggregated candles of each file, 1m and 1h long.

    `backfill` and `refresh` do this by themselves. Results of queries are the same without
    roll-ups, but long queries take longer. `[candles] rollups` in config.toml says which lengths
    are built.

    Example: harvester rollup XBT/USD
    """
    _maintain(common, Archive.rollup, pair, ["pair", "built", "up to date"], as_json=as_json)


def _maintain(
    common: CommonOptions,
    method: Callable[..., Sequence[CompactionResult | RollupResult]],
    pairs: Sequence[str],
    header: list[str],
    *,
    as_json: bool,
) -> None:
    """Call a method of the archive and print its results; notes are printed while it works."""
    archive = common.existing_archive()
    with display(quiet=common.quiet, log_json=common.log_json) as show:
        results = method(archive, *pairs, progress=show)
    if as_json:
        output.as_json([result._asdict() for result in results])
        return
    rows = [[str(value) for value in result[: len(header)]] for result in results]
    output.block(output.columns(header, rows))
