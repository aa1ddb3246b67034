"""The command that takes Kraken's downloadable archives in."""

from __future__ import annotations

from typing import Any

import click

from harvester.cli import output, process
from harvester.cli.options import common, settings_of


@click.command("import")
@click.argument("file", nargs=-1, required=True)
@click.option("--pair", metavar="PAIR", help="What the one file is of, whatever its name.")
@click.option(
    "--pairs",
    metavar="LIST",
    help="Only these, such as XBT/USD,ETH/EUR or '*/EUR'.",
)
@click.option(
    "--delisted",
    is_flag=True,
    help="Take pairs that the exchange lists no more, by their files' names.",
)
@click.option(
    "--whole-since",
    metavar="W",
    help="From when on the files of a pair together hold every trade, if you know.",
)
@click.option(
    "--whole-until",
    metavar="W",
    help="Up to before when they together hold every trade, if you know.",
)
@click.option(
    "--skip-bad-rows",
    is_flag=True,
    help="Leave out rows that can't be read, and the time about them; list them.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be imported, and import nothing.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
@common
def import_(file: tuple[str, ...], as_json: bool, **given: Any) -> int:
    """Take in Kraken's downloadable history: ZIPs, folders and single CSVs of trades.

    What is not covered yet is filled; what came from the API stays, as it is richer. Afterwards
    `backfill` fetches just what is missing: some seconds where the files meet what is held, and
    what came after them. Whatever stops it, the same command goes on where it stopped.

    Example: harvester import Kraken_Trading_History_Q1_2026.zip --pairs XBT/USD
    """
    names = ("pair", "pairs", "delisted", "whole_since", "whole_until", "skip_bad_rows", "dry_run")
    options = {name: given.pop(name) for name in names}
    common_ = settings_of(given)
    process.settle_in()
    from harvester.cli.importing import Request, dry_run, importing, report, table

    request = Request(file, **options)
    if request.dry_run:
        plans, unknown = dry_run(request, common_)
        fields = {"files": [plan._asdict() for plan in plans], "unknown": unknown}
        output.as_json(fields) if as_json else output.block(table(plans))
        return 2 if unknown or any(plan.error for plan in plans) else 0
    outcome = importing(request, common_)
    if as_json:
        output.as_json(report(outcome))
    return outcome.exit_status
