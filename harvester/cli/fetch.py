"""Commands that ask the exchange for trades."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from harvester.cli import output
from harvester.cli.options import common, settings_of

if TYPE_CHECKING:
    from harvester.crawl.events import Outcome


@click.command(short_help="Fetch what is missing of some pairs.")
@click.argument("pair", nargs=-1, required=True)
@click.option("--since", metavar="W", default="start", show_default=True, help="From when on.")
@click.option("--until", metavar="W", help="Up to before when.  [default: now]")
@click.option("--rate", type=float, help="Pages a second a pair, 0 for no limit (a mirror).")
@click.option("--jobs", type=int, help="Pairs side by side.")
@click.option("--newest-first", is_flag=True, help="The newest missing month first.")
@click.option("--dry-run", is_flag=True, help="Say what would be asked for, and ask for nothing.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
@common
def backfill(pair: tuple[str, ...], as_json: bool, **given: Any) -> int:
    """Fetch what is missing of some pairs, and keep it.

    Whatever stops it, the same command goes on where it stopped. W is an ISO date or time (UTC),
    UNIX seconds or nanoseconds (10 or 19 digits), 7d or 12h (that long ago), yesterday, now, or
    start.

    Example: harvester backfill XBT/USD ETH/EUR --since 2024-01-01
    """
    rate, jobs = given.pop("rate"), given.pop("jobs")
    common_ = settings_of(given, exchange__rate=rate, exchange__jobs=jobs)
    from harvester.cli.crawling import DryRun, Request, dry_run, run

    request = Request(
        pair, given.pop("since"), given.pop("until"), newest_first=given.pop("newest_first")
    )
    dry = given.pop("dry_run")
    if dry:
        plans: list[DryRun] = dry_run(request, common_)
        output.as_json(plans) if as_json else output.result(_dry_table(plans))
        return 0
    outcomes = run(request, common_)
    if as_json:
        output.as_json(_report(outcomes))
    return _status(outcomes)


def _status(outcomes: list[Outcome]) -> int:
    from harvester.errors import gravest

    return gravest([outcome.exit_status for outcome in outcomes])


def _report(outcomes: list[Outcome]) -> dict[str, Any]:
    return {
        "exit_status": _status(outcomes),
        "pairs": [
            {
                "pair": one.pair,
                "exit_status": one.exit_status,
                "trades": one.trades,
                "pages": one.pages,
                "covered_through_ns": one.reached.through if one.reached else None,
                "holes": one.holes,
                "error": str(one.error) if one.error else None,
            }
            for one in outcomes
        ],
    }


def _dry_table(plans: list[Any]) -> str:
    rows = [
        [
            one.pair,
            str(one.ranges),
            *(["?"] * 4 if one.trades is None else _expected(one)),
        ]
        for one in plans
    ]
    return output.columns(["pair", "ranges", "trades", "calls", "hours", "MB"], rows)


def _expected(one: Any) -> list[str]:
    return [f"{one.trades:,}", f"{one.calls:,}", f"{one.hours:.2f}", f"{one.bytes / 1e6:.1f}"]
