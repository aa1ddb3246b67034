"""`harvester verify`: check what is stored, repair it, compare candles with Kraken's."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from harvester.archive import Archive
from harvester.cli import output
from harvester.cli.options import CommonOptions, common_options, show_warnings, shows_estimates
from harvester.cli.progress import display
from harvester.download.events import CancelToken, Event, Listener, Reported, Step
from harvester.errors import ArchiveIncomplete, HarvesterError, Interrupted, gravest
from harvester.kraken.ohlc import WEEK_MIN
from harvester.verify.against import EXCHANGE_STEPS, FileChoice
from harvester.verify.reports import (
    Comparison,
    CsvReport,
    ExchangeReport,
    IntervalReport,
    Moved,
    PairReport,
    RepairReport,
)

MAX_FILES_LISTED = 8


@click.command()
@click.argument("pair", nargs=-1)
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
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
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
    ranges and what else is missing, and checks again. Nothing is deleted.

    Example: harvester verify XBT/USD --repair
    """
    archive = common.existing_archive()
    show_warnings(verbose=common.verbose > 0)
    with (
        display(quiet=common.quiet, log_json=common.log_json) as show,
        _signals() as cancel,
    ):
        printer = VerifyPrinter(common, archive, show, as_json=as_json)
        reports = archive.verify(
            *pair,
            repair=repair,
            against_exchange=against_exchange,
            against_csv=against_csv,
            progress=printer.print_event,
            estimate_trades=shows_estimates(common),
            cancel=cancel,
        )
    statuses = [report.exit_status for report in reports]
    statuses += [report.exchange.exit_status for report in reports if report.exchange]
    statuses += [report.csv.exit_status for report in reports if report.csv]
    if against_csv and not any(report.csv for report in reports):
        output.error("nothing compared: none of the files is of a pair that is stored")
        statuses.append(ArchiveIncomplete.exit_status)
    if as_json:
        output.as_json([_to_dict(report, with_repair=repair) for report in reports])
    elif not reports:
        output.hint(f"the archive at {archive.path} is empty: there is nothing to check")
    return gravest(statuses)


def _to_dict(report: PairReport, *, with_repair: bool) -> dict[str, Any]:
    fields = report.to_dict()
    return {"repair": None, **fields} if with_repair else fields


# --- signals -------------------------------------------------------------------------------------


@contextmanager
def _signals() -> Iterator[CancelToken]:
    """While a repair runs, the first Ctrl-C or SIGTERM ends it early, the second at once.

    What was downloaded by then is kept, and the report is printed. While no repair runs, signals
    are handled as before.
    """
    cancel, received = CancelToken(), list[int]()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if received:
            output.hide_live()
            os._exit(Interrupted.exit_status)
        if cancel.is_running:
            received.append(number)
            output.hint("stopping; writing what was downloaded (press again to stop at once)")
            cancel.cancel()
            return
        signal.signal(number, before[signal.Signals(number)])
        signal.raise_signal(number)

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield cancel
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- formatter ------------------------------------------------------------------------------------


class VerifyPrinter:
    """Prints the events of a verification: progress, and reports as soon as they are known."""

    def __init__(
        self, common: CommonOptions, archive: Archive, show: Listener, *, as_json: bool
    ) -> None:
        """Keep what to print, and how.

        Args:
            common: how much is printed.
            archive: what is verified.
            show: shows an event on stderr.
            as_json: reports are printed later, so only errors are printed here.
        """
        self._common = common
        self._archive = archive
        self._show = show
        self._as_json = as_json

    def print_event(self, event: Event) -> None:
        """Print an event, from any thread."""
        match event:
            case Reported():
                self._print_report(event.pair, event.report)
            case Step(pair, 0, _, unit) if unit == EXCHANGE_STEPS:
                self._print_exchange_is_asked(pair)
            case _:
                self._show(event)

    def _print_exchange_is_asked(self, pair: str) -> None:
        if not (self._common.quiet or self._common.log_json or output.is_terminal()):
            output.hint(f"{pair}: asking the exchange for its own candles")

    def _print_report(self, pair: str, report: object) -> None:
        if not self._as_json:
            _print_result(report, exact=self._common.verbose > 0)
        match report:
            case RepairReport(error=HarvesterError()):
                _print_repair_error(report, f"{self._archive.path}/quarantine/{pair}")
            case ExchangeReport(error=HarvesterError() as error):
                output.error(str(error))
            case CsvReport(errors=errors):
                for error in errors:
                    output.error(f"{pair}: {error}")
            case FileChoice() if not self._common.quiet:
                _print_skipped_files(report)
            case _:
                pass


def _print_result(report: object, *, exact: bool) -> None:
    """Print a report to stdout; `exact`: with the bounds of ranges in nanoseconds."""
    match report:
        case PairReport():
            _print_pair(report, exact=exact)
        case Moved():
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
    verdict = _counted(len(report.faults), "FAULT") if report.faults else "sound"
    id_gaps = _counted(report.confirmed_id_gaps, "confirmed id gap")
    if report.unconfirmed_id_gaps:
        id_gaps += f" and {report.unconfirmed_id_gaps:,} unconfirmed"
    parts = [
        _counted(report.files, "file"),
        _counted(report.rows, "trade"),
        _counted(report.ids, "id"),
        f"{report.boundaries:,} file {'boundary' if report.boundaries == 1 else 'boundaries'}",
        id_gaps,
        _counted(report.rollups, "roll-up"),
    ]
    output.result(f"{report.pair}: {verdict}: {', '.join(parts)}")
    for fault in report.faults:
        output.result(f"  {fault} {fault.range.bounds_text}" if exact else f"  {fault}")
    for digest in report.digests:
        output.result(f"  digest: {digest}")
    for note in report.notes:
        output.hint(f"  {note}")


def _counted(number: int, name: str) -> str:
    """Such as `1 file` or `2 files`; `FAULT` has its plural in capitals, too."""
    ending = "" if number == 1 else "S" if name.isupper() else "s"
    return f"{number:,} {name}{ending}"


def _print_repair(report: RepairReport, *, exact: bool) -> None:
    if report.uncovered:
        more = len(report.uncovered) - 1
        ranges = f"{report.uncovered[0]}, and {more} more" if more else f"{report.uncovered[0]}"
        output.result(f"{report.pair}: trades were missing, downloaded again: {ranges}")
    if report.pages:
        trades = f"{_counted(report.trades, 'trade')} in {_counted(report.pages, 'page')}"
        output.result(f"{report.pair}: downloaded {trades}")
    if report.moved or report.pages or report.error is None:
        _print_pair(report.after, exact=exact)


def _print_repair_error(report: RepairReport, quarantine: str) -> None:
    """Print what ended a repair early; `quarantine` is the folder with the pair's moved files."""
    text = str(report.error)
    named = text if text.startswith(report.pair) else f"{report.pair}: {text}"
    left = "nothing was moved"
    if report.moved:
        left = f"moved files are kept in {quarantine}; the missing ranges stay recorded"
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
        output.hint(
            f"skipped: {_counted(choice.of_other_pairs, 'file')} of pairs that are not requested "
            "or not stored"
        )
    if unknown := choice.unknown:
        shown = ", ".join(map(str, unknown[:MAX_FILES_LISTED]))
        more = " ..." if len(unknown) > MAX_FILES_LISTED else ""
        output.hint(
            f"skipped: {_counted(len(unknown), 'file')} not named after the candles of a known "
            f"pair, such as XBTUSD_60.csv: {shown}{more}"
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
