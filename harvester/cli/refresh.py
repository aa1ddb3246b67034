"""The command of every night."""

from __future__ import annotations

import click

from harvester.cli.options import CommonOptions, common_options


@click.command()
@click.argument("pair", nargs=-1)
@click.option(
    "--max-minutes",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="End in good order after so long; the next run goes on.",
)
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
@common_options
def refresh(
    common_: CommonOptions, pair: tuple[str, ...], max_minutes: float | None, as_json: bool
) -> int:
    """Bring pairs up to the exchange's now, fill their gaps, and tend their files.

    Without PAIR: those of [refresh] pairs in config.toml, or all that are held where it names
    none. PAIR is a name in any spelling, or a pattern such as '*/EUR'. A pair that is held goes
    on from where it was asked for; a new one begins with its first trade.

    Safe to run at any time, and twice at once: the second ends with status 5. Exit status 0 only
    where every pair is complete; 3 and 5 call for another run later.

    Example: harvester refresh -q --max-minutes 300
    """
    from harvester.cli.refreshing import run, tell

    done = run(common_, pair, max_minutes)
    tell(common_, done, as_json=as_json)
    return done.exit_status
