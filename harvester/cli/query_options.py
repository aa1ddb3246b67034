"""Options that several query commands have: time range, candle boundaries, format and file."""

from __future__ import annotations

from collections.abc import Callable

import click

from harvester.cli.query_output import FORMATS
from harvester.times import parse_interval

Command = Callable[..., None]


def dash_is_stdout(
    _context: click.Context, _option: click.Parameter, file: str | None
) -> str | None:
    """`-o -` means stdout, as in other programs."""
    return None if file == "-" else file


def _check_interval(
    _context: click.Context, _option: click.Parameter, given: str | tuple[str, ...]
) -> str | tuple[str, ...]:
    """Refuse a wrong interval before the other options are checked.

    Raises:
        BadInterval: an interval can't be read.
    """
    for text in (given,) if isinstance(given, str) else given:
        parse_interval(text)
    return given


interval_option = click.option(
    "--interval",
    "-i",
    required=True,
    metavar="N",
    callback=_check_interval,
    help="Length of the candles, such as 7m, 4h or 1d.",
)
intervals_option = click.option(
    "--interval",
    "-i",
    required=True,
    multiple=True,
    metavar="N",
    callback=_check_interval,
    help="Length of the candles, such as 7m, 4h or 1d. May be given several times.",
)
since_option = click.option(
    "--since",
    metavar="TIME",
    default="start",
    show_default=True,
    help="Start time, inclusive: ISO date or time (UTC), UNIX seconds or nanoseconds, or an age "
    "such as 7d.",
)
until_option = click.option("--until", metavar="TIME", help="End time, exclusive.")
tz_option = click.option(
    "--tz",
    metavar="ZONE",
    help="Time zone for candle boundaries, such as Europe/Berlin; times are shown in UTC.  "
    "[default: UTC]",
)
offset_option = click.option(
    "--offset",
    metavar="LENGTH",
    default="0",
    show_default=True,
    help="Shift all candle boundaries by this duration, such as 17h or -30m.",
)
all_columns_option = click.option(
    "--all-columns", is_flag=True, help="Add taker sides, exact value, ids and more."
)
strict_option = click.option(
    "--strict",
    is_flag=True,
    help="End with status 4 if a part of the requested range is not downloaded.",
)
complete_only_option = click.option(
    "--complete-only",
    is_flag=True,
    help="Leave out candles that are running, cut by --since or --until, or touch a gap.",
)
output_option = click.option(
    "--output",
    "-o",
    "file",
    metavar="FILE",
    callback=dash_is_stdout,
    help="Write to this file instead of stdout.",
)
output_or_folder_option = click.option(
    "--output",
    "-o",
    "file",
    metavar="FILE",
    callback=dash_is_stdout,
    help="Write to this file instead of stdout; to a folder for several files or other programs.",
)


def _format_option(*layouts: str) -> Callable[[Command], Command]:
    return click.option(
        "--format",
        "-f",
        "form",
        type=click.Choice([*FORMATS, *layouts]),
        help="Output format.  [default: table, or by FILE's ending]",
    )


format_option = _format_option()
trades_format_option = _format_option("freqtrade")
candles_format_option = _format_option("freqtrade", "lean")
