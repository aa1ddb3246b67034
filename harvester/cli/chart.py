"""The command that draws candles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from harvester.cli import output
from harvester.cli.ask import COMPLETE_ONLY, STRICT
from harvester.cli.options import Common, common, settings_of

if TYPE_CHECKING:
    from harvester.charts.chart import Chart


@click.command()
@click.argument("pair")
@click.option("--interval", "-i", required=True, metavar="N", help="Such as 7m, 4h or 1d.")
@click.option("--since", metavar="W", default="start", show_default=True, help="From when on.")
@click.option("--until", metavar="W", help="Up to before when.")
@click.option("--tz", metavar="ZONE", help="Whose clock candles follow: Europe/Berlin. Else UTC.")
@click.option("--offset", metavar="LENGTH", default="0", help="Opens all later: 30m, 17h; or -7h.")
@click.option(
    "--output",
    "-o",
    "file",
    metavar="FILE",
    help="To end in .html, .png, .svg or .pdf; - for a page on stdout.  [default: PAIR-N.html]",
)
@click.option("--strict", is_flag=True, help=STRICT)
@click.option("--complete-only", is_flag=True, help=COMPLETE_ONLY)
@common
def chart(**given: Any) -> None:
    """Candles, vwap and volume by the taker's side; what was never fetched is shaded and named.

    The page needs no network and nothing but a browser. More candles than a screen can show (3,000)
    are drawn at the next coarser interval that is not, and the chart says so. Times are UTC.

    Images need the extra `png`, and Chrome or Chromium.

    Example: harvester chart XBT/USD -i 1h --since 2024-01-01 -o chart.html
    """
    common_ = settings_of(given)
    _deliver(common_, *_drawn(common_, **given))


def _drawn(common_: Common, file: str | None, **given: Any) -> tuple[Chart, str]:
    """The chart, and where it is to stand."""
    import time
    from pathlib import Path

    from harvester.charts.chart import chart as draw
    from harvester.charts.chart import check_ending
    from harvester.cli.delivery import span_of
    from harvester.pair_names import resolve_held
    from harvester.query.plan import CandleQuery
    from harvester.times import parse_interval, parse_offset

    if file not in (None, "-"):
        check_ending(Path(file))
    interval = parse_interval(given["interval"])
    span, offset_ns = span_of(given["since"], given["until"]), parse_offset(given["offset"])
    archive = common_.existing()
    pair = resolve_held(archive, given["pair"])
    question = CandleQuery(
        pair.altname,
        interval,
        span,
        offset_ns=offset_ns,
        tz=given["tz"],
        complete_only=given["complete_only"],
    )
    limit = common_.settings.candles.memory_limit
    strict = given["strict"]
    made = draw(archive, pair, question, time.time_ns(), memory_limit=limit, strict=strict)
    return made, file or f"{pair.altname}-{interval.name}.html"


def _deliver(common_: Common, made: Chart, file: str) -> None:
    if file == "-":
        with output.stdout() as sink:
            sink.write(made.html().encode())
    else:
        made.save(file)
    if common_.quiet:
        return
    for note in made.notes:
        output.hint(note)
    if file != "-":
        output.hint(f"{made.title}: {file}")
