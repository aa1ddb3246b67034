"""The command `pairs`: list or search markets."""

from __future__ import annotations

import click

from harvester.cli import output
from harvester.cli.options import CommonOptions, common_options
from harvester.cli.run_context import show_warnings


@click.command()
@click.argument("text", required=False, default="")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--update", is_flag=True, help="Ask the exchange, also if names are known already.")
@common_options
def pairs(common: CommonOptions, text: str, as_json: bool, update: bool) -> None:
    """List markets whose names contain TEXT, in any spelling: BTC finds XBT.

    Example: harvester pairs doge
    """
    show_warnings(verbose=common.verbose > 0)
    found = common.archive().pairs(text, update=update)
    if as_json:
        output.as_json(found)
        return
    rows = [
        [pair.altname, pair.wsname, pair.key, str(pair.pair_decimals), pair.status]
        for pair in found
    ]
    output.block(output.columns(["pair", "wsname", "key", "decimals", "status"], rows, left=3))
