"""Commands that prove an archive."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from harvester.cli import output
from harvester.cli.options import Common, common, settings_of

if TYPE_CHECKING:
    from harvester.cli.proving import Compared
    from harvester.storage.trade_store import TradeStore
    from harvester.verify.reports import CsvReport, PairReport, RepairReport


@click.command()
@click.argument("pair", nargs=-1)
@click.option(
    "--against-exchange", is_flag=True, help="Compare candles with the exchange's own, too."
)
@click.option(
    "--against-csv",
    multiple=True,
    metavar="FILE",
    help="Compare candles with Kraken's files of them (OHLCVT): a ZIP, a CSV or a folder, "
    "repeatable.",
)
@click.option("--repair", is_flag=True, help="Set broken files aside and fetch them again.")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON on stdout.")
@common
def verify(
    pair: tuple[str, ...],
    against_exchange: bool,
    against_csv: tuple[str, ...],
    repair: bool,
    as_json: bool,
    **given: Any,
) -> int:
    """Read every trade held and hold it against names, footers, checksums, ids and wishes.

    One line for each fault, with its file and range; exit status 4 where there is any, where a
    candle is not the exchange's, or where none could be compared.

    --against-csv takes Kraken_OHLCVT.zip or what is like it, and asks nobody.

    --repair moves broken files into the folder quarantine/, each with a note, fetches just their
    ranges and what else is missing, and verifies again. Nothing is deleted.

    Example: harvester verify XBT/USD --repair
    """
    common_ = settings_of(given)
    from harvester.csv_import.files import KnownComplete, find
    from harvester.errors import gravest
    from harvester.pair_names import resolve_named

    archive = common_.existing()
    names = [resolve_named(archive, name) for name in pair] or archive.pairs_to_verify()
    # A file that is not to be trusted is told before all trades are read.
    members = find(against_csv, KnownComplete())
    reports = _proved(common_, archive, names, as_json=as_json)
    repaired: dict[str, RepairReport] = {}
    if repair and any(report.faults for report in reports):
        from harvester.cli.repairing import repair as mend

        shown = None if as_json else partial(_print, exact=common_.verbose > 0)
        repaired = mend(common_, archive, reports, shown)
        reports = [
            repaired[report.pair].after if report.pair in repaired else report for report in reports
        ]
    names = list(dict.fromkeys(names))
    found = _Found({}, {}, repaired if repair else None)
    statuses = [repaired.get(report.pair, report).exit_status for report in reports]
    if against_exchange and reports:
        from harvester.cli import proving

        found.exchange.update(proving.against_exchange(common_, archive, names, as_json=as_json))
        statuses += [one.exit_status for one in found.exchange.values()]
    if against_csv:
        from harvester.cli import proving_csv

        asked = proving_csv.Asked(members, names, all_of_them=bool(pair))
        found.csv.update(proving_csv.against_csv(common_, archive, asked, as_json=as_json))
        statuses += [proving_csv.exit_status(found.csv)]
    if as_json:
        output.as_json([found.plain(report) for report in reports])
    elif not reports:
        output.hint(f"the archive at {archive.path} holds nothing to check")
    return gravest(statuses)


def _proved(
    common_: Common, archive: TradeStore, names: Sequence[str], *, as_json: bool
) -> list[PairReport]:
    """Each pair verified, and told as it is done."""
    from harvester.cli.progress import display
    from harvester.download.events import Begun, Step
    from harvester.verify.integrity import prove

    reports = []
    with display(quiet=common_.quiet, log_json=common_.log_json) as shown:
        shown.tell(Begun(len(names)))
        for name in names:
            reports.append(prove(archive, name, lambda *step: shown.tell(Step(*step))))
            if not as_json:
                with shown.aside():
                    _print(reports[-1], exact=common_.verbose > 0)
    return reports


def _print(report: PairReport, *, exact: bool) -> None:
    """Print a report; `exact`: with the bounds of ranges to the nanosecond."""
    verdict = f"{len(report.faults)} FAULTS" if report.faults else "sound"
    jumps = f"{report.jumps:,} confirmed jumps"
    if report.unasked_jumps:
        jumps += f" and {report.unasked_jumps:,} not asked for"
    output.result(
        f"{report.pair}: {verdict}: {report.files:,} files, {report.rows:,} trades, "
        f"{report.ids:,} ids, {report.seams:,} seams, {jumps}, "
        f"{report.rollups:,} roll-ups"
    )
    for fault in report.faults:
        output.result(f"  {fault} {fault.span.bounds_text}" if exact else f"  {fault}")
    for digest in report.digests:
        output.result(f"  digest: {digest}")
    for note in report.notes:
        output.hint(f"  {note}")


class _Found(NamedTuple):
    """What else was found, by pair; `repaired` is None where nothing was to be."""

    exchange: dict[str, Compared]
    csv: dict[str, CsvReport]
    repaired: dict[str, RepairReport] | None

    def plain(self, report: PairReport) -> dict[str, Any]:
        """A pair's report for JSON."""
        from dataclasses import asdict

        plain = {**asdict(report), "exit_status": report.exit_status}
        if self.repaired is not None:
            one = self.repaired.get(report.pair)
            plain["repair"] = one and one.plain()
            plain["exit_status"] = (one or report).exit_status
        if report.pair in self.exchange:
            plain["exchange"] = self.exchange[report.pair].plain()
        if report.pair in self.csv:
            plain["csv"] = self.csv[report.pair].plain()
        return plain
