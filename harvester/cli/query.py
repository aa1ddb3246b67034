"""The commands that query an archive: `ohlc`, `trades`, `bars`, `sql`, `chart`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from harvester.cli import output
from harvester.cli.options import CommonOptions, common_options, pair_argument
from harvester.cli.query_output import (
    Times,
    all_columns_option,
    bars_tz_option,
    candles_format_option,
    complete_only_option,
    export_reporter,
    export_target,
    format_of,
    format_option,
    interval_option,
    intervals_option,
    is_single,
    machine_times_option,
    offset_option,
    output_option,
    output_or_folder_option,
    since_option,
    strict_option,
    text_zone,
    times_option,
    trades_format_option,
    trades_tz_option,
    tz_option,
    until_option,
    write_and_report,
    write_result,
)
from harvester.errors import UsageError, counted
from harvester.exporters.formats import OTHER_PROGRAMS
from harvester.query.plan import FILLS, Fill
from harvester.query.result import batch_stream

if TYPE_CHECKING:
    from harvester.query.explain import Explanation


class ChartOptions(TypedDict):
    """Options of `chart` that `Archive.chart` has by the same names."""

    since: str
    until: str | None
    tz: str | None
    offset: str
    complete_only: bool


class CandleOptions(ChartOptions):
    """Options of `ohlc` that `Archive.ohlc`, `explain` and `export` have by the same names."""

    fill: Fill
    all_columns: bool


class BarOptions(TypedDict):
    """Options of `bars` that `Archive.bars` has by the same names."""

    trades: str | None
    volume: str | None
    value: str | None
    since: str
    until: str | None
    tz: str | None
    anchor: str
    all_columns: bool
    strict: bool
    complete_only: bool


_EXPLAIN_COLUMNS = ["explain_key", "explain_value"]
"""The columns of SQL's EXPLAIN in DuckDB."""


@click.command()
@pair_argument(nargs=-1)
@intervals_option
@since_option
@until_option
@click.option(
    "--fill",
    type=click.Choice(FILLS),
    default="none",
    show_default=True,
    help="What to show for intervals without trades.",
)
@tz_option
@offset_option
@all_columns_option
@candles_format_option
@output_or_folder_option
@strict_option
@complete_only_option
@times_option
@click.option(
    "--explain",
    is_flag=True,
    help="Do not run the query; print the files, row counts and SQL it would use (-f json for "
    "JSON).",
)
@common_options
def ohlc(  # noqa: PLR0913 - a parameter for each option
    common: CommonOptions,
    *,
    pair: tuple[str, ...],
    interval: tuple[str, ...],
    form: str | None,
    file: str | None,
    strict: bool,
    times: Times,
    explain: bool,
    **options: Unpack[CandleOptions],
) -> None:
    """Candles of pairs, exact, from the stored trades.

    An interval is a number and one of ms, s, m, h, d, w, mo (months), q (quarters), y; a bare
    number is minutes. Weeks begin on Monday. Times are UTC, also with --tz; see --times.

    Several pairs are printed, or written to one file, pair after pair, with the column pair first:
    harvester ohlc XBT/USD ETH/USD -i 1d -o panel.csv

    With several pairs or intervals, -o can name a folder: it gets a Parquet file (or CSV with
    -f csv) for each pair and interval, and the trades of a pair are read once for all of them:
    harvester ohlc XBT/USD ETH/USD -i 1m -i 1h -o candles

    Example: harvester ohlc XBT/USD -i 7m --since 2024-01-01 -o candles.csv
    """
    is_several = len(pair) > 1 or len(interval) > 1
    if explain:
        _check_explain(form, file, times, is_several=is_several, strict=strict)
        plan = common.existing_archive().explain(pair[0], interval[0], **options)
        if form == "json":
            output.as_json(plan.to_dict())
        else:
            output.block("\n\n".join(_paragraphs(plan)))
    elif form in OTHER_PROGRAMS or (is_several and not is_single(interval, form, file)):
        layout, folder = export_target(form, file, times)
        noun = "rows" if form in OTHER_PROGRAMS else "candles"
        common.existing_archive().export(
            *pair,
            folder=folder,
            intervals=interval,
            layout=layout,
            strict=strict,
            progress=export_reporter(noun, names_pairs=is_several, quiet=common.quiet),
            **options,
        )
    else:
        form = format_of(form, file)
        zone = text_zone(times, options["tz"], form)
        panel = pair if is_several else pair[0]
        candles = common.existing_archive().ohlc(panel, interval[0], strict=strict, **options)
        noun = "complete candles" if options["complete_only"] else "candles"
        write_and_report(candles, noun, form, file, zone=zone, quiet=common.quiet)


@click.command()
@pair_argument()
@since_option
@until_option
@trades_tz_option
@trades_format_option
@output_or_folder_option
@strict_option
@times_option
@common_options
def trades(  # noqa: PLR0913 - a parameter for each option
    common: CommonOptions,
    *,
    pair: str,
    since: str,
    until: str | None,
    tz: str | None,
    form: str | None,
    file: str | None,
    strict: bool,
    times: Times,
) -> None:
    """The trades of a pair as published, in the exchange's order.

    Example: harvester trades XBT/USD --since 2024-01-01 -o trades.parquet
    """
    if form in OTHER_PROGRAMS:
        layout, folder = export_target(form, file, times)
        common.existing_archive().export(
            pair,
            folder=folder,
            layout=layout,
            since=since,
            until=until,
            tz=tz,
            strict=strict,
            progress=export_reporter("rows", names_pairs=False, quiet=common.quiet),
        )
        return
    form = format_of(form, file)
    zone = text_zone(times, tz, form)
    archive = common.existing_archive()
    result = archive.trades(pair, since=since, until=until, tz=tz, strict=strict)
    write_and_report(result, "trades", form, file, zone=zone, quiet=common.quiet)


@click.command()
@pair_argument()
@click.option("--trades", metavar="N", help="Close each bar after this many trades.")
@click.option(
    "--volume", metavar="X", help="Close each bar once its volume reaches X (base currency)."
)
@click.option(
    "--value",
    metavar="X",
    help="Close each bar once its price x volume reaches X (quote currency).",
)
@since_option
@until_option
@bars_tz_option
@click.option(
    "--anchor",
    metavar="TIME",
    default="start",
    show_default="start, the first stored trade",
    help="Count from the first trade at or after this time.",
)
@all_columns_option
@format_option
@output_option
@strict_option
@click.option(
    "--complete-only",
    is_flag=True,
    help="Leave out bars that ended before their size, at a gap or at the end.",
)
@times_option
@common_options
def bars(
    common: CommonOptions,
    *,
    pair: str,
    form: str | None,
    file: str | None,
    times: Times,
    **options: Unpack[BarOptions],
) -> None:
    """Bars of a pair that end by trades, volume or value, not by time.

    Give one of --trades, --volume and --value. --since and --until filter which bars are printed,
    by the first trade of each; bar boundaries don't change.

    Example: harvester bars XBT/USD --volume 100 --since 2024-01-01 -f csv
    """
    form = format_of(form, file)
    zone = text_zone(times, options["tz"], form)
    if sum(options[size] is not None for size in ("trades", "volume", "value")) != 1:
        raise UsageError("a bar has one size: give one of --trades N, --volume X and --value X")
    result = common.existing_archive().bars(pair, **options)
    write_and_report(result, "bars", form, file, zone=zone, quiet=common.quiet)


@click.command()
@click.argument("query", required=False)
@format_option
@output_option
@click.option("--db", metavar="FILE", help="Write a small DuckDB database with the views to FILE.")
@machine_times_option
@common_options
def sql(
    common: CommonOptions,
    *,
    query: str | None,
    form: str | None,
    file: str | None,
    db: str | None,
    times: Times,
) -> None:
    """Run SQL on the archive: DuckDB with the view trades and the macros tape and ohlc.

    QUERY is read from stdin if it is -, or if it is not given and something is piped in. trades
    has all trades of all pairs; tape('XBT/USD') those of a pair in order; ohlc('XBT/USD', '7m',
    since := '2024-01-01') its candles. See docs/sql.md.

    Example: harvester sql "FROM ohlc('XBT/USD', '4h') LIMIT 5"
    """
    form = format_of(form, file)
    zone = text_zone(times, None, form)
    archive = common.existing_archive()
    if db is not None:
        archive.write_database(db)
        if not common.quiet:
            opening = f"duckdb -readonly {shlex.quote(db)}"
            output.hint(f"{db} has the views of {archive.path}; open it with: {opening}")
    text = _query_text(query, is_needed=db is None)
    if text is None:
        return
    result = archive.sql(text)
    if result.columns == _EXPLAIN_COLUMNS and form in (None, "table") and file is None:
        # DuckDB's drawing of a query plan, as it is and not as cells of a table.
        stream = batch_stream(result)
        for batch in stream.batches if stream is not None else ():
            output.block("\n".join(batch.column("explain_value").to_pylist()))
        return
    rows = write_result(result, form, file, zone)
    for note in () if common.quiet else result.notes:
        output.hint(note)
    if rows is not None and file is not None and not common.quiet:
        output.hint(f"{rows:,} rows in {file}")


def _query_text(query: str | None, *, is_needed: bool) -> str | None:
    """The query: the argument, or the text on stdin.

    Raises:
        UsageError: there is no query, and it is needed.
    """
    if query == "-" or (query is None and is_needed and not sys.stdin.isatty()):
        query = sys.stdin.buffer.read().decode(errors="replace")
    if not is_needed and query is None:
        return None
    if query is None or not query.strip():
        raise click.UsageError(
            "there is no query: give one, such as \"FROM ohlc('XBT/USD', '1h') LIMIT 5\", or pipe "
            "one in",
            click.get_current_context(),
        )
    return query


def _check_explain(
    form: str | None, file: str | None, times: Times, *, is_several: bool, strict: bool
) -> None:
    """Raise UsageError for an option that makes no sense beside --explain."""
    if is_several:
        raise UsageError("--explain takes one pair and one --interval at a time: give one each")
    if form not in (None, "table", "json"):
        raise UsageError(f"--explain writes a table or JSON, and --format is {form}: give -f json")
    if file is not None:
        raise UsageError("--explain writes to stdout: leave -o out, or pipe it on")
    if times != "utc":
        raise UsageError("--explain prints ranges in UTC: leave --times out")
    if strict:
        raise UsageError("--explain computes no candles: leave --strict out")


def _paragraphs(explanation: Explanation) -> list[str]:
    query = explanation.query
    rows = counted(sum(read.rows for read in explanation.reads), "row")
    summary = [f"{query.title}, {query.range}: {rows} read"]
    if explanation.passes > 1:
        summary.append("twice, once to see that no price has more decimals than are shown")
    summary.append(f"in {counted(explanation.parts, 'part')}")
    paragraphs = [", ".join(summary)]
    if explanation.reads:
        totals = [
            [total.level, f"{total.files:,}", f"{total.rows:,}"] for total in explanation.totals
        ]
        paragraphs.append(output.columns(["level", "files", "rows read"], totals))
    close_read = explanation.close_read
    reads = [close_read._replace(level="close")] if close_read else []
    files = [
        [read.level, read.file, str(read.range), f"{read.rows:,}"]
        for read in (*reads, *explanation.reads)
    ]
    if files:
        paragraphs.append(output.columns(["level", "file", "range", "rows read"], files, left=3))
    if close_read:
        paragraphs.append("close: the last trade before the range, whose price fills its beginning")
    return [*paragraphs, f"{explanation.sql};"]


# --- chart ----------------------------------------------------------------------------------------


@click.command()
@pair_argument()
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
def chart(
    common: CommonOptions,
    *,
    pair: str,
    interval: str,
    file: str | None,
    strict: bool,
    **options: Unpack[ChartOptions],
) -> None:
    """Draw candles, vwap and volume by the taker's side; gaps are shaded and named.

    The page needs no network and nothing but a browser. Above 3,000 candles a coarser interval is
    drawn, and the chart says so. Times are UTC.

    Images need the extra `png`, and Chrome or Chromium.

    Example: harvester chart XBT/USD -i 1h --since 2024-01-01 -o chart.html
    """
    from harvester.charts.chart import check_ending  # no other query needs it

    if file not in (None, "-"):
        check_ending(Path(file))
    drawn = common.existing_archive().chart(pair, interval, strict=strict, **options)
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
