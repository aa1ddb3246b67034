"""The command that tells what an archive holds, and what was done to it."""

from __future__ import annotations

import re
from typing import Any

import click

from harvester.cli.options import common, settings_of


class NumbersLeftOut(click.Command):
    """A command some of whose options take a number that may be left out.

    click takes the next word for it, whatever it is: `status --watch XBTUSD`.
    """

    def parse_args(self, context: click.Context, words: list[str]) -> list[str]:
        """Give an option that is not followed by a number its default."""
        defaults = {
            name: option.flag_value
            for option in self.params
            if isinstance(option, click.Option)
            and not option.is_flag
            and isinstance(option.flag_value, int | float)
            for name in option.opts
        }
        end = words.index("--") if "--" in words else len(words)
        given = [
            f"{word}={defaults[word]}"
            if place < end and word in defaults and not _NUMBER.fullmatch("".join(behind))
            else word
            for place, word in enumerate(words)
            for behind in [words[place + 1 : place + 2]]
        ]
        return super().parse_args(context, given)


_NUMBER = re.compile(r"[0-9.]+")


@click.command(cls=NumbersLeftOut)
@click.argument("pair", nargs=-1)
@click.option(
    "--runs",
    is_flag=False,
    flag_value=20,
    type=click.IntRange(1),
    metavar="[N]",
    help="The last 20 runs, or N, instead.",
)
@click.option(
    "--watch",
    is_flag=False,
    flag_value=5.0,
    type=click.FloatRange(0.1),
    metavar="[S]",
    help="Again every 5 seconds, or S, until Ctrl-C.",
)
@click.option("--digest", is_flag=True, help="One line to compare with others, by whole months.")
@click.option("--since", metavar="W", default="start", show_default=True, help="With --digest.")
@click.option("--until", metavar="W", help="With --digest.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@common
def status(
    pair: tuple[str, ...],
    digest: bool,
    runs: int | None,
    watch: float | None,
    as_json: bool,
    **given: Any,
) -> int:
    """What the archive holds of each pair: trades, coverage, gaps, files, bytes.

    Names and footers tell; no trade is read, and nobody is asked. Exit status 4 where something
    that was asked for is not covered. A narrow terminal shows fewer columns; docs/status.md tells
    what they mean.

    With --digest instead: one checksum of each pair's trades over the whole months held, the same
    for whoever holds the same trades; -v tells each month's. With --runs instead: the last runs
    that wrote, and how they ended.

    Example: harvester status XBT/USD --watch
    """
    since, until = given.pop("since"), given.pop("until")
    common_ = settings_of(given)
    if sum([digest, runs is not None, watch is not None]) > 1:
        raise click.UsageError("give one of --digest, --runs and --watch")
    if digest:
        from harvester.cli.digests import tell_digests

        return tell_digests(common_, pair, (since, until), as_json=as_json)
    if runs is not None:
        from harvester.cli.runs import tell_runs

        tell_runs(common_, runs, as_json=as_json)
        return 0
    if watch is not None:
        from harvester.cli.watching import watch as go_on

        return go_on(common_, pair, watch, as_json=as_json)
    from harvester.cli.holdings import tell

    return tell(common_, pair, as_json=as_json)
