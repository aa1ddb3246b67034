"""`harvester compact` and `harvester rollup`: maintenance on request."""

from __future__ import annotations

from collections.abc import Sequence

import click

from harvester.cli import output
from harvester.cli.options import CommonOptions, common_options
from harvester.cli.progress import display
from harvester.operations.maintenance import CompactionResult, RollupResult


@click.command()
@click.argument("pair", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
@common_options
def compact(common: CommonOptions, *, pair: tuple[str, ...], as_json: bool) -> None:
    """Merge neighbouring small files of each pair into files of up to four million trades.

    `backfill` and `refresh` do this by themselves. The trades do not change, only the number of
    files.

    Example: harvester compact XBT/USD
    """
    common.store()
    with display(quiet=common.quiet, log_json=common.log_json) as show:
        results = common.archive().compact(*pair, progress=show)
    _show(results, ["pair", "files before", "after"], as_json=as_json)


@click.command()
@click.argument("pair", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
@common_options
def rollup(common: CommonOptions, *, pair: tuple[str, ...], as_json: bool) -> None:
    """Build the roll-ups that are missing: pre-aggregated candles of each file, 1m and 1h long.

    `backfill` and `refresh` do this by themselves. Results of queries are the same without
    roll-ups, but long queries take longer. `[candles] rollups` in config.toml says which lengths
    are built.

    Example: harvester rollup XBT/USD
    """
    common.store()
    with display(quiet=common.quiet, log_json=common.log_json) as show:
        results = common.archive().rollup(*pair, progress=show)
    _show(results, ["pair", "built", "up to date"], as_json=as_json)


def _show(
    results: Sequence[CompactionResult | RollupResult], header: list[str], *, as_json: bool
) -> None:
    """Print the results; the notes were printed while the work was done."""
    if as_json:
        output.as_json([result._asdict() for result in results])
        return
    rows = [[str(value) for value in result[: len(header)]] for result in results]
    output.block(output.columns(header, rows))
