"""`harvester doctor` checks this machine, the archive, and whether the exchange has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from harvester import __version__
from harvester.cli import output
from harvester.cli.options import CommonOptions, common_options
from harvester.cli.run_context import cancel_on_signals
from harvester.errors import BadSetting, HarvesterError, UsageError, gravest
from harvester.times import now_text

if TYPE_CHECKING:
    from harvester.operations.exchange_checks import CheckResult


@click.command()
@click.option(
    "--exchange",
    is_flag=True,
    help="Check the exchange, too: at most 25 requests at the set rate, about half a minute.",
)
@click.option(
    "--pair",
    metavar="PAIR",
    help="Market whose trades and candles are requested.  [default: XBT/USD]",
)
@click.option("--json", "as_json", is_flag=True, help="Print a report to attach to an issue.")
@common_options
def doctor(common: CommonOptions, *, exchange: bool, pair: str | None, as_json: bool) -> int:
    """Check this machine and the archive; with --exchange, whether Kraken has changed.

    Without --exchange: Python, libraries, settings, and whether the archive can be read and
    written. No network.

    --exchange checks each assumption about the exchange that downloads rest on: what was seen, and
    for a difference what it means for you. docs/kraken.md lists them. Nothing is stored.

    Exit status 0 if all is well, 1 for a fault of this machine, 3 if the exchange differs. The
    report of --json has no password and no path of your home folder.

    Example: harvester doctor --exchange --pair ETH/EUR
    """
    if pair is not None and not exchange:
        raise UsageError("--pair is for the checks of the exchange: add --exchange")
    market = pair or "XBT/USD"
    url = None
    try:
        archive = common.archive()
        url = common.settings.exchange.shown_url
    except HarvesterError as error:
        # What this command is for: every other command ends here.
        results = _without_archive(error)
    else:
        if exchange and not common.quiet:
            output.hint(f"asking {url} about {market}: at most 25 requests")
        with cancel_on_signals() as cancel:
            results = archive.doctor(exchange=exchange, pair=market, cancel=cancel)
    exit_status = gravest([result.exit_status for result in results])
    if as_json:
        output.as_json(
            {
                "harvester": __version__,
                "time": now_text(),
                "url": url if exchange else None,
                "pair": market if exchange else None,
                "exit_status": exit_status,
                "checks": [result.to_dict() for result in results],
            }
        )
        return exit_status
    name_width = max(len(result.name) for result in results)
    for result in results:
        output.result(f"{result.status:<11}  {result.name:<{name_width}}  {result.seen}")
        if result.meaning:
            output.result(f"{'':<11}  {'':<{name_width}}  {result.meaning}")
    return exit_status


def _without_archive(error: HarvesterError) -> list[CheckResult]:
    """The checks that need neither settings nor an archive, and the error that ended the others."""
    from harvester.operations.doctor import check_machine, fault  # imports DuckDB and httpx

    return [
        *check_machine(),
        fault("config" if isinstance(error, BadSetting) else "archive", error),
    ]
