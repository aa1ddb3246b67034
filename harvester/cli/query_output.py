"""Options of the query commands; write results in the format of -f or of the file's ending."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, cast, get_args

import click
import pyarrow as pa

from harvester.cli import output
from harvester.errors import UsageError, counted, printable
from harvester.exporters.formats import (
    ENDINGS,
    LAYOUTS,
    OTHER_PROGRAMS,
    WRITERS,
    Batches,
    Layout,
    Writer,
    as_flat_text,
    cell,
    ending_of,
    with_local_times,
    write_rows,
)
from harvester.query.calendar import find_time_zone
from harvester.query.result import Result, batch_stream
from harvester.storage.output_files import COMPRESSED, compressed_file_sink
from harvester.times import parse_interval

if TYPE_CHECKING:
    from harvester.exporters.export import ExportedFile

Times = Literal["utc", "local"]
"""The values of --times."""
FORMATS = ("table", *WRITERS)
_BINARY = ("parquet", "arrow")
_SHOWN_ROWS = 40
"""Rows that a terminal shows of the beginning and of the end of a long table."""
_BLOCK_ROWS = 10_000
"""Rows of a table that are aligned together if all are written."""


def format_of(form: str | None, file: str | None) -> str:
    """The format to write: `form` if it is given, else by the file's ending, else `table`.

    Args:
        form: the value of --format.
        file: the value of --output; None for stdout.

    Raises:
        UsageError: the ending is unknown or contradicts the format, or the file is a folder.
    """
    if file is None:
        return form or "table"
    if file.endswith(("/", os.sep)):
        raise UsageError(
            f"-o {file} names a folder, and one answer is written into a file: give a name such as "
            f"-o {file}answer.csv"
        )
    if form in _BINARY and Path(file).suffix.lower() in COMPRESSED:
        raise UsageError(f"-o {file}: {form} is not written compressed: give another ending")
    ending = ending_of(file)
    if form is not None:
        if ending is not None and form in ENDINGS.values() and ENDINGS[ending] != form:
            raise UsageError(f"-o {file} ends with {ending}, and --format is {form}: leave one out")
        return form
    if ending is not None:
        return ENDINGS[ending]
    if _is_stream(Path(file)):
        return "table"
    what = f"is no ending that is known (of {file})" if Path(file).suffix else "has no ending"
    raise UsageError(
        f"-o: {Path(file).suffix or file} {what}: give one of {', '.join(ENDINGS)}, or -f and a "
        "format"
    )


def _is_stream(file: Path) -> bool:
    """Whether it is a pipe or a device, whose name says nothing about a format."""
    try:
        mode = file.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def text_zone(times: Times, tz: str | None, form: str) -> tzinfo | None:
    """The time zone of the times in text: UTC, or for `local` that of --tz or this machine (None).

    Args:
        times: the value of --times.
        tz: the value of --tz.
        form: the format.

    Raises:
        UsageError: the times would be local, and the format is not text.
        BadSetting: there is no such time zone.
    """
    if times == "utc":
        return UTC
    if form in _BINARY:
        raise UsageError(
            f"--times local is for text (table, csv, json, jsonl): {form} has times as numbers, "
            "in UTC; leave --times out"
        )
    return None if tz is None else find_time_zone(tz)


def write_result(
    result: Result, form: str, file: str | None, zone: tzinfo | None = UTC
) -> int | None:
    """Write the rows of a query to a file or to stdout, batch by batch.

    Args:
        result: the rows. Parquet and Arrow files store its notes.
        form: one of `FORMATS`; see `format_of`.
        file: the file; None for stdout.
        zone: the time zone of times in text; None for this machine's.

    Returns:
        The number of rows; None if nothing was written, because SQL such as CREATE has no rows.

    Raises:
        UsageError: the format does not suit the file or the terminal.
        ArchiveUnwritable: the file can't be written.
        HarvesterError: the rows can't be read.
    """
    stream = batch_stream(result)
    if stream is None:
        return None
    if form in _BINARY and file is None and sys.stdout.isatty():
        raise UsageError(f"{form} is not for a terminal: give -o FILE, or pipe it on")
    schema, batches = stream
    if zone is not UTC:
        batches, schema = with_local_times(batches, schema, zone)
    with output.stdout() if file is None else compressed_file_sink(file) as sink:
        return write_rows(batches, schema, _WRITERS[form], sink, result.notes)


def write_and_report(
    result: Result,
    noun: str,
    form: str,
    file: str | None,
    *,
    zone: tzinfo | None,
    quiet: bool,
) -> None:
    """Write the rows of a query, then print notes and the number of rows to stderr.

    Args:
        result: the rows.
        noun: what a row is, in the plural, such as `candles`.
        form: one of `FORMATS`; see `format_of`.
        file: the file; None for stdout.
        zone: as for `write_result`.
        quiet: write only.

    Raises:
        UsageError: the format does not suit the file or the terminal.
        ArchiveUnwritable: the file can't be written.
        HarvesterError: the rows can't be read.
    """
    rows = write_result(result, form, file, zone)
    if quiet:
        return
    for note in result.notes:
        output.hint(note)
    if file is not None:
        output.hint(f"{counted(rows or 0, noun.removesuffix('s'))} in {file}")
    elif rows == 0:
        output.hint(f"no {noun} there; `harvester status` shows what is covered")


def is_single(intervals: Sequence[str], form: str | None, file: str | None) -> bool:
    """Whether candles of several pairs are a table or one file, rather than files in a folder.

    Args:
        intervals: the values of --interval.
        form: the value of --format; None if it is not given.
        file: the value of --output.
    """
    if len(intervals) > 1:
        return False
    if file is None or ending_of(file) is not None or form not in (None, *LAYOUTS):
        return True
    return form is not None and Path(file).suffix != "" and not Path(file).is_dir()


def export_target(form: str | None, file: str | None, times: Times) -> tuple[Layout, str]:
    """The layout of --format and the folder of --output, for an export of several files.

    Args:
        form: the value of --format; None for Parquet.
        file: the value of --output.
        times: the value of --times.

    Raises:
        UsageError: the format is for single files, no folder is given, or times would be local.
    """
    if times != "utc":
        raise UsageError("--times local is for one table or file: files in a folder are in UTC")
    if form in OTHER_PROGRAMS and file is None:
        raise UsageError(
            f"--format {form} writes into a folder of its own: give -o, such as {_EXAMPLE[form]}"
        )
    if form not in (None, *LAYOUTS):
        raise UsageError(
            f"{_SEVERAL} as Parquet or CSV, or for freqtrade or lean: --format {form} takes one "
            "pair and one --interval at a time"
        )
    if file is None:
        raise UsageError(f"{_SEVERAL} into a folder: give -o FOLDER, such as -o candles")
    return cast("Layout", form or "parquet"), file


_SEVERAL = "several pairs or intervals are written"
_EXAMPLE = {"freqtrade": "user_data/data/kraken", "lean": "lean/data"}


def export_reporter(noun: str, *, names_pairs: bool, quiet: bool) -> Callable[[ExportedFile], None]:
    """Make a callback that prints what an export wrote: notes once per pair, each file's rows.

    Args:
        noun: what a row is, in the plural, such as `candles`.
        names_pairs: notes begin with the pair, as there may be several.
        quiet: print nothing.
    """
    reported_pairs: set[str] = set()

    def report(file: ExportedFile) -> None:
        if quiet:
            return
        for note in file.notes if file.pair not in reported_pairs else ():
            output.hint(f"{file.pair}: {note}" if names_pairs else note)
        reported_pairs.add(file.pair)
        output.hint(f"{file.rows:,} {noun} in {file.path}")
        if file.left_out:
            output.hint(f"{file.left_out:,} candles are incomplete and were left out")

    return report


def _write_table(batches: Batches, schema: pa.Schema, sink: BinaryIO) -> None:
    shown = _abridged(batches) if sink.isatty() else _blocks(batches)
    header = [printable(name) for name in schema.names]
    for number, (rows, left_out) in enumerate(shown):
        lines = output.columns(header, _aligned(rows, schema)).split("\n")
        if left_out:
            lines.insert(_SHOWN_ROWS + 1, f"... {left_out:,} rows more; -f csv shows them all ...")
        sink.write("".join(f"{line}\n" for line in lines[number > 0 :]).encode())
        # The following blocks are at least as wide as this one, and have no header.
        table = [header, *rows]
        widths = [max(len(line[i]) for line in table) for i in range(len(header))]
        header = ["-" * width for width in widths]


def _abridged(batches: Batches) -> Iterator[tuple[list[list[str]], int]]:
    """The first and the last rows, and the number of rows between them that are not shown."""
    rows: list[list[str]] = []
    left_out = 0
    for batch in batches:
        rows += _cells(batch)
        if len(rows) > 2 * _SHOWN_ROWS:
            left_out += len(rows) - 2 * _SHOWN_ROWS
            rows = rows[:_SHOWN_ROWS] + rows[-_SHOWN_ROWS:]
    yield rows, left_out


def _blocks(batches: Batches) -> Iterator[tuple[list[list[str]], int]]:
    """All rows, some thousands at a time, so that memory does not grow with the table."""
    rows: list[list[str]] = []
    is_first = True
    for batch in batches:
        rows += _cells(batch)
        if len(rows) >= _BLOCK_ROWS:
            yield rows, 0
            rows, is_first = [], False
    if rows or is_first:
        yield rows, 0


def _cells(batch: pa.RecordBatch) -> list[list[str]]:
    text = [
        [printable(cell(value)) for value in column.to_pylist()]
        for column in as_flat_text(batch).columns
    ]
    return [list(row) for row in zip(*text, strict=True)]


def _aligned(rows: list[list[str]], schema: pa.Schema) -> list[list[str]]:
    """Rows whose decimals have the same number of digits after the point in each column."""
    for i, type_ in enumerate(schema.types):
        if pa.types.is_decimal(type_):
            digits = max((len(row[i].partition(".")[2]) for row in rows), default=0)
            for row in rows:
                whole, _, fraction = row[i].partition(".")
                if whole and digits:
                    row[i] = f"{whole}.{fraction.ljust(digits, '0')}"
    return rows


_WRITERS: dict[str, Writer] = {"table": _write_table} | WRITERS


# --- options --------------------------------------------------------------------------------------

Decorator = Callable[[Callable[..., None]], Callable[..., None]]


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


def _interval_option(more_help: str = "", *, multiple: bool = False) -> Decorator:
    return click.option(
        "--interval",
        "-i",
        required=True,
        multiple=multiple,
        metavar="N",
        callback=_check_interval,
        help=f"Length of the candles, such as 7m, 4h or 1d.{more_help}",
    )


interval_option = _interval_option()
intervals_option = _interval_option(" May be given several times.", multiple=True)
since_option = click.option(
    "--since",
    metavar="TIME",
    default="start",
    show_default=True,
    help="Start time, inclusive: a date or time such as 2024, 2024-06 or 2024-01-31T12:00 (UTC), "
    "UNIX seconds, milliseconds or nanoseconds, an age such as 7d or 6mo, today or yesterday.",
)
until_option = click.option("--until", metavar="TIME", help="End time, exclusive.")


def _tz_option(what: str) -> Decorator:
    return click.option(
        "--tz", metavar="ZONE", help=f"Time zone {what} where they name none.  [default: UTC]"
    )


tz_option = _tz_option("for candle boundaries, such as Europe/Berlin, and of --since and --until")
trades_tz_option = _tz_option("of --since and --until, such as Europe/Berlin,")
bars_tz_option = _tz_option("of --since, --until and --anchor, such as Europe/Berlin,")


def _times_option(zone: str) -> Decorator:
    return click.option(
        "--times",
        type=click.Choice(get_args(Times)),
        default="utc",
        show_default=True,
        help=f"Times in text output: UTC, or local with their offset, by the zone {zone}.",
    )


times_option = _times_option("of --tz or else of this machine")
machine_times_option = _times_option("of this machine")
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


def _output_option(more_help: str = "") -> Decorator:
    return click.option(
        "--output",
        "-o",
        "file",
        metavar="FILE",
        # `-o -` means stdout, as in other programs.
        callback=lambda _context, _option, file: None if file == "-" else file,
        help=f"Write to this file instead of stdout{more_help}.",
    )


output_option = _output_option()
output_or_folder_option = _output_option("; to a folder for several files or other programs")


def _format_option(*layouts: str) -> Decorator:
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
