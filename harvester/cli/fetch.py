"""Commands that ask the exchange for trades."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from harvester.cli import output
from harvester.cli.options import Common, common_options, setting_option

if TYPE_CHECKING:
    from harvester.cli.crawling import Request
    from harvester.download.events import BackfillResult


@click.command()
@click.argument("pair", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every pair that the exchange lists.")
@click.option(
    "--quote",
    multiple=True,
    metavar="NAME",
    help="Of --all and of patterns, only pairs quoted in it, such as USD; may be repeated.",
)
@click.option(
    "--pairs-file",
    metavar="FILE",
    help="Names and patterns, one a line, # begins a comment; - reads stdin.",
)
@click.option("--since", metavar="W", default="start", show_default=True, help="From when on.")
@click.option("--until", metavar="W", help="Up to before when.  [default: now]")
@setting_option(
    "--rate",
    setting="exchange.rate",
    type=float,
    help="Pages a second a pair, 0 for no limit (a mirror).",
)
@setting_option(
    "--jobs",
    setting="exchange.jobs",
    type=int,
    help="Pairs side by side, any number.  [default: 8]",
)
@click.option("--newest-first", is_flag=True, help="The newest missing month first.")
@click.option(
    "--upgrade", is_flag=True, help="Then fetch anew what `import` took from files, and replace it."
)
@click.option("--dry-run", is_flag=True, help="Say what would be asked for, and fetch nothing.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
@common_options
def backfill(common_: Common, /, as_json: bool, dry_run: bool, **given: Any) -> int:
    """Fetch what is missing of some pairs, and keep it.

    Whatever stops it, the same command goes on where it stopped. W is an ISO date or time (UTC),
    UNIX seconds or nanoseconds (10 or 19 digits), 7d or 12h (that long ago), yesterday, now, or
    start.

    PAIR is a name in any spelling, or a pattern such as '*/EUR' or 'XBT/*' (in quotes, or the
    shell takes it); names, patterns and --pairs-file add up, and --all stands alone. Where there
    are more pairs than --jobs, the largest go first, so that the whole ends soonest. A pair that
    fails stops no other.

    --upgrade replaces what came from Kraken's CSV files, once nothing else is missing, by the
    exchange's own trades, with ids, sides and whole times: range by range, each at once when it is
    whole, those of few trades first. Days on which file and exchange do not agree are told, and
    the exit status is 4.

    Example: harvester backfill XBT/USD ETH/EUR --since 2024-01-01

    Example: harvester backfill --all --quote USD --dry-run
    """
    from harvester.cli.crawling import Request, run
    from harvester.cli.options import choice_of
    from harvester.cli.summary import summary

    choice = choice_of(
        given.pop("pair"),
        everything=given.pop("everything"),
        quotes=given.pop("quote"),
        file=given.pop("pairs_file"),
    )
    request = Request(
        choice,
        given.pop("since"),
        given.pop("until"),
        newest_first=given.pop("newest_first"),
        upgrade=given.pop("upgrade"),
    )
    if dry_run:
        _dry_run(request, common_, as_json=as_json)
        return 0
    outcomes = run(request, common_)
    if len(outcomes) > 1 and not (common_.quiet or common_.log_json):
        for line in summary(outcomes).split("\n"):
            output.hint(line)
    if as_json:
        output.as_json(_report(outcomes))
    return _status(outcomes)


def _dry_run(request: Request, common_: Common, *, as_json: bool) -> None:
    from harvester.cli.planning import advice, dry_run, table

    plans = dry_run(request, common_)
    output.as_json(plans.plain()) if as_json else output.block(table(plans))
    more = advice(plans.total)
    if more is not None and not common_.quiet:
        output.hint(more)


def _status(outcomes: list[BackfillResult]) -> int:
    from harvester.errors import gravest

    return gravest([outcome.exit_status for outcome in outcomes])


def _report(outcomes: list[BackfillResult]) -> dict[str, Any]:
    from harvester.cli.crawling import warnings_shown
    from harvester.cli.progress import pace_fields

    return {
        "exit_status": _status(outcomes),
        "notes": warnings_shown(),
        "pairs": [
            {
                "pair": outcome.pair,
                "exit_status": outcome.exit_status,
                "trades": outcome.trades,
                "pages": outcome.pages,
                "covered_through_ns": outcome.reached.through if outcome.reached else None,
                "gaps": outcome.gaps,
                "error": str(outcome.error) if outcome.error else None,
                "pace": pace_fields(outcome.pace),
                "upgrade": None if outcome.upgrade is None else outcome.upgrade.plain(),
            }
            for outcome in outcomes
        ],
    }
