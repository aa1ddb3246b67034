"""Commands that ask the archive; none of them needs a network, but `pairs` on a new archive."""

from __future__ import annotations

from typing import Any

import click

from harvester.cli import output
from harvester.cli.options import common, settings_of

_FORMATS = ["table", "csv", "json", "jsonl", "parquet", "arrow"]
FORMATS = click.Choice(_FORMATS)
TRADES_FORMATS = click.Choice([*_FORMATS, "freqtrade"])
CANDLES_FORMATS = click.Choice([*_FORMATS, "freqtrade", "lean"])
OUTPUT = "Write there instead of stdout; for other programs, their folder."
STRICT = "End with status 4 where a part of the requested range is not downloaded."
COMPLETE_ONLY = "Leave out candles that are running, cut by --since or --until, or touch a gap."
PLACE = "Write there instead of stdout; for other programs, or several answers, a folder."


def dash_is_stdout(
    _context: click.Context, _option: click.Parameter, file: str | None
) -> str | None:
    """`-o -` means stdout, as it does elsewhere."""
    return None if file == "-" else file


@click.command()
@click.argument("pair", nargs=-1, required=True)
@click.option(
    "--interval",
    "-i",
    required=True,
    multiple=True,
    metavar="N",
    help="Such as 7m, 4h or 1d. May be given several times.",
)
@click.option("--since", metavar="W", default="start", show_default=True, help="From when on.")
@click.option("--until", metavar="W", help="Up to before when.")
@click.option(
    "--fill",
    type=click.Choice(["none", "previous", "null", "kraken"]),
    default="none",
    show_default=True,
    help="What stands where nothing was traded.",
)
@click.option("--tz", metavar="ZONE", help="Whose clock candles follow: Europe/Berlin. Else UTC.")
@click.option("--offset", metavar="LENGTH", default="0", help="Opens all later: 30m, 17h; or -7h.")
@click.option("--all-columns", is_flag=True, help="Taker sides, exact value, ids and more.")
@click.option(
    "--format", "-f", "form", type=CANDLES_FORMATS, help="[default: table, or by FILE's ending]"
)
@click.option("--output", "-o", "file", metavar="FILE", callback=dash_is_stdout, help=PLACE)
@click.option("--strict", is_flag=True, help=STRICT)
@click.option("--complete-only", is_flag=True, help=COMPLETE_ONLY)
@click.option("--explain", is_flag=True, help="Tell the files, rows and SQL instead; or -f json.")
@common
def ohlc(**given: Any) -> None:
    """Candles of pairs, exact, from the trades held.

    An interval is a number and one of ms, s, m, h, d, w, mo (months), q (quarters), y; a bare
    number is minutes. Weeks open on Monday. Times are UTC, also with --tz.

    Several pairs or intervals are written into a folder as Parquet (or -f csv), one file each, and
    the trades of a pair are read once for all its intervals:
    harvester ohlc XBT/USD ETH/USD -i 1m -i 1h -o candles

    Example: harvester ohlc XBT/USD -i 7m --since 2024-01-01 -o candles.csv
    """
    common_ = settings_of(given)
    from harvester.cli.candles import ohlc as answer

    answer(common_, **given)


@click.command()
@click.argument("pair")
@click.option("--since", metavar="W", default="start", show_default=True, help="From when on.")
@click.option("--until", metavar="W", help="Up to before when.")
@click.option(
    "--format", "-f", "form", type=TRADES_FORMATS, help="[default: table, or by FILE's ending]"
)
@click.option("--output", "-o", "file", metavar="FILE", callback=dash_is_stdout, help=OUTPUT)
@click.option("--strict", is_flag=True, help=STRICT)
@common
def trades(**given: Any) -> None:
    """The trades of a pair, in the exchange's order, digit by digit.

    Example: harvester trades XBT/USD --since 2024-01-01 -o trades.parquet
    """
    common_ = settings_of(given)
    from harvester.cli.answers import trades as answer

    answer(common_, **given)


@click.command()
@click.argument("text", required=False, default="")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--update", is_flag=True, help="Ask the exchange, also when names are known already.")
@common
def pairs(text: str, as_json: bool, update: bool, **given: Any) -> None:
    """The markets whose names hold TEXT, in any spelling: BTC finds XBT.

    Example: harvester pairs doge
    """
    common_ = settings_of(given)
    from harvester.cli.answers import pairs as answer

    found = answer(common_, text, update=update)
    if as_json:
        output.as_json(found)
        return
    rows = [[one.altname, one.wsname, one.key, str(one.pair_decimals), one.status] for one in found]
    output.block(output.columns(["pair", "wsname", "key", "decimals", "status"], rows, left=3))


@click.command()
@click.argument("pair")
@click.option("--trades", metavar="N", help="A bar ends with its N-th trade.")
@click.option("--volume", metavar="X", help="With the trade that brings its volume to X.")
@click.option("--value", metavar="X", help="With the one that brings price x volume to X.")
@click.option("--since", metavar="W", default="start", show_default=True, help="From when on.")
@click.option("--until", metavar="W", help="Up to before when.")
@click.option(
    "--anchor",
    metavar="W",
    default="start",
    show_default="the first trade held",
    help="Count from the first trade at or after it.",
)
@click.option("--all-columns", is_flag=True, help="Taker sides, exact value, ids and more.")
@click.option("--format", "-f", "form", type=FORMATS, help="[default: table, or by FILE's ending]")
@click.option(
    "--output",
    "-o",
    "file",
    metavar="FILE",
    callback=dash_is_stdout,
    help="Write there instead of stdout.",
)
@click.option("--strict", is_flag=True, help=STRICT)
@click.option(
    "--complete-only",
    is_flag=True,
    help="Leave out bars that ended before their size, at a gap or at the end.",
)
@common
def bars(**given: Any) -> None:
    """Bars of a pair that are not of time, exact, from the trades held.

    Give one of --trades, --volume and --value. --since and --until choose which bars are shown,
    by their first trade; they move none.

    Example: harvester bars XBT/USD --volume 100 --since 2024-01-01 -f csv
    """
    common_ = settings_of(given)
    from harvester.cli.answers import bars as answer

    answer(common_, **given)
