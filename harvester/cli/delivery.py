"""Where answers go, and what is told about it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import chain

import pyarrow as pa

from harvester.cli import output
from harvester.cli.exports import Written
from harvester.cli.formats import write
from harvester.cli.options import Common
from harvester.errors import UsageError
from harvester.times import Range, parse_moment, span

EXPORTS = ("freqtrade", "lean")


def span_of(since: str, until: str | None) -> Range:
    """The span that --since and --until name."""
    now = time.time_ns()
    return span(parse_moment(since, now), None if until is None else parse_moment(until, now))


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
