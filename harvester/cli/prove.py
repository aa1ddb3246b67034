"""Commands that prove an archive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from harvester.cli import output
from harvester.cli.options import common, settings_of

if TYPE_CHECKING:
    from harvester.checks.report import PairReport, RepairReport
    from harvester.cli.proving import Compared


@click.command(short_help="Prove or disprove what is held.")
@click.argument("pair", nargs=-1)
@click.option(
    "--against-exchange", is_flag=True, help="Compare candles with the exchange's own, too."
)
@click.option("--repair", is_flag=True, help="Set broken files aside and fetch them again.")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON on stdout.")
@common
def verify(
    pair: tuple[str, ...], against_exchange: bool, repair: bool, as_json: bool, **given: Any
) -> int:
    """Read every trade held and hold it against names, footers, checksums, ids and wishes.

    One line for each fault, with its file and range; exit status 4 where there is any, where a
    candle is not the exchange's, or where none could be compared.

    --repair moves broken files into the folder quarantine/, each with a note, fetches just their
    ranges and what else is missing, and verifies again. Nothing is deleted.

    Example: harvester verify XBT/USD --repair
    """
    common_ = settings_of(given)
    from harvester.archive.archive import Archive
    from harvester.checks.proof import prove
    from harvester.cli.progress import display
    from harvester.crawl.events import Begun, Step
    from harvester.crawl.names import resolve_named
    from harvester.errors import gravest

    archive = Archive(common_.settings.archive.path)
    names = [resolve_named(archive, name) for name in pair] or archive.named()
    reports = []
    with display(quiet=common_.quiet, log_json=common_.log_json) as shown:
        shown.tell(Begun(len(names)))
        for name in names:
            reports.append(prove(archive, name, lambda *step: shown.tell(Step(*step))))
            if not as_json:
                with shown.aside():
                    _print(reports[-1])
    repaired: dict[str, RepairReport] = {}
    if repair and any(one.faults for one in reports):
        from harvester.cli.repairing import repair as mend

        repaired = mend(common_, archive, reports, None if as_json else _print)
        reports = [repaired[one.pair].after if one.pair in repaired else one for one in reports]
    compared: dict[str, Compared] = {}
    if against_exchange and reports:
        from harvester.cli import proving

        compared = proving.against_exchange(
            common_, archive, list(dict.fromkeys(names)), as_json=as_json
        )
    if as_json:
        known = repaired if repair else None
        output.as_json([_plain(one, compared.get(one.pair), known) for one in reports])
    elif not reports:
        output.hint(f"the archive at {archive.path} holds nothing to check")
    statuses = [repaired.get(one.pair, one).exit_status for one in reports]
    return gravest(statuses + [one.exit_status for one in compared.values()])


def _print(report: PairReport) -> None:
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
        output.result(f"  {fault}")
    for digest in report.digests:
        output.result(f"  digest: {digest}")
    for note in report.notes:
        output.hint(f"  {note}")


def _plain(
    report: PairReport, compared: Compared | None, repaired: dict[str, RepairReport] | None
) -> dict[str, Any]:
    """A report for JSON; `repaired`: of the pairs that were mended, None where none was to be."""
    from dataclasses import asdict

    plain = {**asdict(report), "exit_status": report.exit_status}
    if repaired is not None:
        one = repaired.get(report.pair)
        plain["repair"] = one and one.plain()
        plain["exit_status"] = (one or report).exit_status
    if compared is not None:
        plain["exchange"] = compared.plain()
    return plain
