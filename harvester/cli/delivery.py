"""Write query results to stdout, a file, or a folder with one file per pair and interval."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from harvester.cli import output
from harvester.cli.exporters import Written, check_known, export_candles
from harvester.cli.formats import ending_of, write
from harvester.cli.options import Common
from harvester.errors import UsageError
from harvester.kraken.pairs import Pair
from harvester.query.candles import batches_by_interval
from harvester.query.plan import CandleQuery
from harvester.schema import PRICE
from harvester.storage.export import check_outside
from harvester.storage.filesystem import writing
from harvester.storage.trade_store import TradeStore
from harvester.times import Interval, Range, parse_moment, range_between

# --- delivery -------------------------------------------------------------------------------------

EXPORTS = ("freqtrade", "lean")


def span_of(since: str, until: str | None) -> Range:
    """The span that --since and --until name."""
    now = time.time_ns()
    return range_between(
        parse_moment(since, now), None if until is None else parse_moment(until, now)
    )


def deliver(
    common: Common,
    batches: Iterator[pa.RecordBatch],
    what: str,
    form: str | None,
    file: str | None,
    notes: Sequence[str] = (),
) -> None:
    """Write batches, at least one, to a file or to stdout, and tell of it."""
    tell(common, write_batches(batches, form, file, notes), what, file, notes)


def write_batches(
    batches: Iterator[pa.RecordBatch], form: str | None, file: str | None, notes: Sequence[str]
) -> int:
    """Write batches, at least one, to a file or to stdout; returns how many rows."""
    first = next(batches)
    return write(chain([first], batches), first.schema, form, file, notes)


def tell(common: Common, rows: int, what: str, file: str | None, notes: Sequence[str] = ()) -> None:
    """Say how many rows a file got, or what to do where there are none, and notes on the rows."""
    tell_notes(common, notes)
    if file is not None and not common.quiet:
        output.hint(f"{rows:,} {what} in {file}")
    elif rows == 0 and not common.quiet:
        output.hint(f"no {what} there; `harvester status` tells what is covered")


def tell_notes(common: Common, notes: Sequence[str]) -> None:
    """Say what is to be known of an answer, such as gaps in the requested range."""
    if not common.quiet:
        for note in notes:
            output.hint(note)


def folder_of(form: str, given: str | None) -> str:
    """The folder of another program.

    Raises:
        UsageError: none was given.
    """
    if given is None:
        example = {"freqtrade": "user_data/data/kraken", "lean": "lean/data"}[form]
        raise UsageError(
            f"--format {form} writes into a folder of its own: give -o, such as {example}"
        )
    return given


def tell_written(common: Common, written: Written, notes: Sequence[str] = ()) -> None:
    """Say what another program's folder got, and notes on the rows."""
    tell_notes(common, notes)
    if common.quiet:
        return
    output.hint(f"{written.rows:,} rows in {written.place}")
    if written.left_out:
        output.hint(f"{written.left_out:,} candles are not held whole and were left out")


# --- folders --------------------------------------------------------------------------------------

_SEVERAL = "several pairs or intervals are written"


class Wanted(NamedTuple):
    """A pair, and what is asked of it, whatever the interval."""

    pair: Pair
    question: CandleQuery
    notes: tuple[str, ...] = ()


def check_folder(form: str | None, given: str | None) -> None:
    """Hold --format and --output to what several answers can be written as.

    Raises:
        UsageError: the format is for one answer, or the output is none, or a file, or the archive.
    """
    if form in EXPORTS:
        folder_of(form, given)
        return
    if form not in (None, "parquet", "csv"):
        raise UsageError(
            f"{_SEVERAL} as Parquet or CSV, or for freqtrade or lean: --format {form} takes one "
            "pair and one --interval at a time"
        )
    if given is None:
        raise UsageError(f"{_SEVERAL} into a folder: give -o FOLDER, such as -o candles")
    folder = Path(given)
    with writing(given):
        is_file = ending_of(given) is not None or folder.is_file()
    if is_file:
        raise UsageError(f"{_SEVERAL} into a folder, and -o {given} names a file: give a folder")
    check_outside(folder)


def write_all(
    common: Common,
    archive: TradeStore,
    wanted: Sequence[Wanted],
    intervals: Sequence[Interval],
    form: str | None,
    folder: str,
) -> None:
    """Write one file after the other, each whole; files of the same names are replaced.

    Raises:
        UsageError: the other program knows no such pair or interval; nothing was written.
        ArchiveUnwritable: the machine refused.
    """
    if form in EXPORTS:
        for one in wanted:
            for interval in intervals:
                check_known(one.pair, interval, form)
    limit = common.settings.candles.memory_limit
    for pair, question, notes in wanted:
        tell_notes(common, [f"{pair.altname}: {note}" for note in notes])
        whole = replace(question, all_columns=True) if form in EXPORTS else question
        found = batches_by_interval(archive, whole, intervals, memory_limit=limit)
        for interval, batches in found:
            if form in EXPORTS:
                written = export_candles(batches, pair, interval, form, folder)
                tell_written(common, written)
            else:
                kind = form or "parquet"
                file = _file_in(folder, pair, interval, kind)
                rows = write_batches(_of_one_schema(batches), kind, file, notes)
                tell(common, rows, "candles", file)


def _file_in(folder: str, pair: Pair, interval: Interval, form: str) -> str:
    place = Path(folder) / f"interval={interval.name}" / f"pair={pair.altname}"
    file = place / f"candles.{form}"
    with writing(str(file)):
        file.parent.mkdir(parents=True, exist_ok=True)
    return str(file)


def _of_one_schema(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same figures with ten decimals where Kraken's form has the pair's.

    Of files that differ, tools would take the first one's decimals for all, and round.
    """
    for batch in batches:
        fields = [
            field.with_type(PRICE) if _is_short(field.type) else field for field in batch.schema
        ]
        yield batch.cast(pa.schema(fields))


def _is_short(kind: pa.DataType) -> bool:
    return bool(pa.types.is_decimal(kind)) and kind.precision == PRICE.precision
