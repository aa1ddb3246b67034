"""`harvester refresh`: download new trades of all stored pairs; meant to run every night."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from harvester.cli import output
from harvester.cli.options import CommonOptions, class_option, common_options
from harvester.cli.output import warnings_shown
from harvester.cli.run_context import run_context, shows_estimates
from harvester.times import SECOND, show

if TYPE_CHECKING:
    from harvester.operations.refresh import RefreshedPair, RefreshResult

HEADER = ["pair", "state", "added", "first", "last", "gaps", "calls", "refused", "seconds"]
DROP_ORDER = ("first", "refused", "seconds", "calls", "last", "gaps")
"""Columns that a narrow terminal leaves out, the least important first."""

MAX_NAMED = 5
"""This many unfinished pairs are named."""


@click.command()
@click.argument("pair", nargs=-1)
@class_option("Limit patterns, and all stored pairs, to `currency` or `tokenized_asset` (stocks).")
@click.option(
    "--max-minutes",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="Stop in good order after N minutes; the next run continues.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
@common_options
def refresh(
    common: CommonOptions,
    pair: tuple[str, ...],
    asset_class: str | None,
    max_minutes: float | None,
    as_json: bool,
) -> int:
    """Download new trades up to now, fill gaps, and maintain the files.

    Without PAIR: those of [refresh] pairs in config.toml, or all stored pairs if it is empty. PAIR
    is a name in any spelling, or a pattern such as '*/EUR'. A stored pair continues from its last
    request; a new one begins with its first trade.

    Safe to run at any time. While another refresh runs, it ends with status 5. The exit status is 0
    only if every pair is complete; after 3 and 5, run it again later.

    Example: harvester refresh -q --max-minutes 300
    """
    with run_context(common) as run:
        result = common.archive().refresh(
            *pair,
            asset_class=asset_class,
            max_minutes=max_minutes,
            estimate_trades=shows_estimates(common),
            progress=run.show,
            cancel=run.cancel,
            check=False,
        )
    _print_result(result, common, as_json=as_json)
    return result.exit_status


def _print_result(result: RefreshResult, common: CommonOptions, *, as_json: bool) -> None:
    """Print JSON or a table to stdout, and to stderr why pairs were not refreshed."""
    if as_json:
        output.as_json(report(result))
    elif result.pairs and not common.quiet:
        output.block(_table(result.pairs))
    if unfinished := [pair.pair for pair in result.pairs if pair.state == "unfinished"]:
        more = ", ..." if len(unfinished) > MAX_NAMED else ""
        names = ", ".join(unfinished[:MAX_NAMED]) + more
        pairs = "1 pair is" if len(unfinished) == 1 else f"{len(unfinished):,} pairs are"
        output.hint(f"the time was up: {pairs} unfinished ({names}); the next run goes on there")
    elif result.error is not None:
        output.error(str(result.error))


def report(result: RefreshResult) -> dict[str, Any]:
    """The result for JSON. Times are published times in nanoseconds."""
    return {
        "exit_status": result.exit_status,
        "exchange": result.exchange,
        "calls": result.calls,
        "refusals": result.refusals,
        "seconds": result.seconds,
        "error": None if result.error is None else str(result.error),
        "notes": warnings_shown(),
        "pairs": [
            {
                "pair": pair.pair,
                "state": pair.state,
                "exit_status": pair.exit_status,
                "trades_added": pair.trades,
                "first_ns": pair.first_ns,
                "last_ns": pair.last_ns,
                "covered_through_ns": pair.reached.through if pair.reached else None,
                "gaps": pair.gaps,
                "calls": pair.calls,
                "refusals": pair.refusals,
                "seconds": pair.seconds,
                "renamed_to": pair.renamed_to,
                "error": None if pair.error is None else str(pair.error),
            }
            for pair in result.pairs
        ],
    }


def _table(pairs: Sequence[RefreshedPair]) -> str:
    """One line per pair."""
    rows = [
        [
            pair.pair,
            pair.state,
            f"{pair.trades:,}",
            _to_seconds(pair.first_ns),
            _to_seconds(pair.last_ns),
            str(len(pair.gaps)),
            f"{pair.calls:,}",
            f"{pair.refusals:,}",
            f"{pair.seconds:.1f}",
        ]
        for pair in pairs
    ]
    return output.columns(HEADER, rows, left=2, drop_order=DROP_ORDER, max_width=output.width())


def _to_seconds(time_ns: int | None) -> str:
    return "" if time_ns is None else show(time_ns // SECOND * SECOND)
