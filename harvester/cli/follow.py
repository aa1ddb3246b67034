"""`harvester follow`: keep pairs up to date without end."""

from __future__ import annotations

import click

from harvester.argument_types import candle_interval
from harvester.cli import output
from harvester.cli.options import CommonOptions, common_options, pair_argument, setting_option
from harvester.cli.progress_lines import followed_fields
from harvester.cli.run_context import run_context
from harvester.download.events import Event, Followed
from harvester.errors import gravest


@click.command()
@pair_argument(nargs=-1)
@click.option(
    "--every",
    metavar="LENGTH",
    default="10s",
    show_default=True,
    help="Store new trades at least this often: a length such as 10s or 1m.",
)
@click.option(
    "--since",
    metavar="TIME",
    help="First download what is missing from this time on.  [default: the start of the last "
    "request; now for a pair that is not stored]",
)
@setting_option(
    "--rate",
    setting="exchange.rate",
    type=float,
    help="Pages per second and pair; 0 for no limit (an API server of your own).  [default: 1]",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object per poll and pair on stdout."
)
@common_options
def follow(
    common: CommonOptions, pair: tuple[str, ...], every: str, since: str | None, as_json: bool
) -> int:
    """Keep some pairs up to date without end.

    New trades are stored once they are settled: 60 s old, by the setting `refresh.settle_s`. Newer
    ones are only shown. PAIR is a name in any spelling, or a pattern such as 'XBT/*'.

    An outage of the exchange is waited out, and what was missed is downloaded. While it runs, a
    `refresh` leaves these pairs out and ends with status 5.

    Ctrl-C or SIGTERM ends it with status 0; with 130 if a pair was still catching up or waiting for
    an answer. A pair that the exchange refuses, or that another run is writing, ends alone and
    decides the status.

    Example: harvester follow XBT/USD ETH/EUR --every 10s
    """
    archive = common.archive()
    names, length, is_announced = ", ".join(pair), candle_interval(every).name, common.quiet
    gone: list[output.ReaderGone] = []
    with run_context(common) as run:

        def show(event: Event) -> None:
            nonlocal is_announced
            if not is_announced and isinstance(event, Followed):
                is_announced = True
                output.hint(f"following {names}: trades are stored every {length} (Ctrl-C ends it)")
            run.show(event)
            if as_json and isinstance(event, Followed) and not gone:
                try:
                    output.as_json(followed_fields(event), indent=0)
                except output.ReaderGone as error:
                    # The run ends in good order, then the command as for any other reader.
                    gone.append(error)
                    run.cancel.cancel()

        results = archive.follow(
            *pair, every=every, since=since, progress=show, cancel=run.cancel, check=False
        )
    if gone:
        raise gone[0]
    return gravest([result.exit_status for result in results])
