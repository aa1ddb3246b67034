"""The command `chart`: draw candles and volume into one file."""

from __future__ import annotations

from pathlib import Path

import click

from harvester.charts.chart import check_ending
from harvester.cli import output
from harvester.cli.options import CommonOptions, common_options
from harvester.cli.query_options import (
    complete_only_option,
    interval_option,
    offset_option,
    since_option,
    strict_option,
    tz_option,
    until_option,
)


@click.command()
@click.argument("pair")
@interval_option
@since_option
@until_option
@tz_option
@offset_option
@click.option(
    "--output",
    "-o",
    "file",
    metavar="FILE",
    help="A file that ends in .html, .png, .svg or .pdf; - for a page on stdout.  "
    "[default: PAIR-N.html]",
)
@strict_option
@complete_only_option
@common_options
def chart(  # noqa: PLR0913 - a parameter for each option
    common: CommonOptions,
    *,
    pair: str,
    interval: str,
    since: str,
    until: str | None,
    tz: str | None,
    offset: str,
    file: str | None,
    strict: bool,
    complete_only: bool,
) -> None:
    """Draw candles, vwap and volume by the taker's side; gaps are shaded and named.

    The page needs no network and nothing but a browser. Above 3,000 candles a coarser interval is
    drawn, and the chart says so. Times are UTC.

    Images need the extra `png`, and Chrome or Chromium.

    Example: harvester chart XBT/USD -i 1h --since 2024-01-01 -o chart.html
    """
    if file not in (None, "-"):
        check_ending(Path(file))
    drawn = common.existing_archive().chart(
        pair,
        interval,
        since=since,
        until=until,
        tz=tz,
        offset=offset,
        strict=strict,
        complete_only=complete_only,
    )
    target = file or drawn.file_name
    if target == "-":
        with output.stdout() as sink:
            sink.write(drawn.html().encode())
    else:
        drawn.save(target)
    if common.quiet:
        return
    for note in drawn.notes:
        output.hint(note)
    if target != "-":
        output.hint(f"{drawn.title}: {target}")
