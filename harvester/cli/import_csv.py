"""`harvester import`: import Kraken's downloadable CSV archives."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TypedDict, Unpack

import click

from harvester.cli import output
from harvester.cli.options import CommonOptions, common_options
from harvester.cli.output import show_warnings
from harvester.cli.progress import run_context
from harvester.csv_import.run import FilePlan, ImportResult
from harvester.times import show

MAX_PAIRS_NAMED = 8
"""The advice at the end names up to this many pairs."""


class ImportOptions(TypedDict):
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
    help="The files of a pair together are complete from TIME on, if you know it.",
)
@click.option(
    "--whole-until",
    metavar="TIME",
    help="The files of a pair together are complete up to TIME (exclusive), if you know it.",
)
@click.option(
    "--skip-bad-rows",
    is_flag=True,
    help="Leave out rows that can't be read, and the time around them; list them.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be imported, and import nothing.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
@common_options
def import_(
    common: CommonOptions,
    *,
    file: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    **options: Unpack[ImportOptions],
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
    pairs = list(dict.fromkeys(report.pair for report in result.reports if report.ranges))
    if not pairs:
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
            "by time" if plan.is_sorted else "unsorted",
            "" if plan.begins_ns is None else show(plan.begins_ns),
            plan.error or "; ".join(map(str, plan.missing)) or "nothing",
        ]
        for plan in plans
    ]
    names = ["file", "pair", "layout", "MB", "rows", "bad", "order", "begins", "not covered"]
    return output.columns(names, rows, left=3)
