"""Export candles of several pairs and intervals, and trades, in the layout of a program."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from harvester.errors import BadSetting, UsageError
from harvester.exporters.formats import (
    LAYOUTS,
    OTHER_PROGRAMS,
    WRITERS,
    RowCounter,
    ending_of,
    write_rows,
)
from harvester.exporters.freqtrade_and_lean import (
    ccxt_symbol,
    check_lean_files,
    freqtrade_timeframe,
    lean_resolution,
    write_freqtrade_candles,
    write_freqtrade_trades,
    write_lean_candles,
)
from harvester.kraken.pairs import Pair
from harvester.query.candles import (
    QuerySession,
    batches_by_interval,
    guard_against_huge_fill,
    with_equal_decimals,
)
from harvester.query.plan import CandleQuery
from harvester.storage.filesystem import writing
from harvester.storage.output_files import check_outside, compressed_file_sink
from harvester.storage.trade_store import TradeStore
from harvester.times import Interval, Range, enclosing_range, overlap


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """What an export wrote for one pair and interval.

    Attributes:
        pair: the altname.
        interval: the candles' interval as it was given; None for trades.
        path: the file; for LEAN the data folder, which has many files.
        rows: the number of candles or trades written.
        left_out: the number of incomplete candles left out; freqtrade and LEAN get complete ones.
        notes: remarks on the rows, such as gaps in the requested range.
    """

    pair: str
    interval: str | None
    path: str
    rows: int
    left_out: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PairExport:
    """The candles of one pair to export.

    Attributes:
        pair: the pair.
        query: the candles; its interval does not matter.
        notes: remarks on the rows, such as gaps in the requested range.
    """

    pair: Pair
    query: CandleQuery
    notes: tuple[str, ...] = ()


def check_target(layout: str, folder: str) -> None:
    """Check the layout and the folder, before anything is read.

    Args:
        layout: one of `LAYOUTS`.
        folder: the folder to write into; it need not exist.

    Raises:
        BadSetting: there is no such layout.
        UsageError: the folder is a file, has the name of one, or lies in an archive.
    """
    if layout not in LAYOUTS:
        raise BadSetting(f"layout is {layout!r}: give one of {', '.join(LAYOUTS)}")
    if layout not in OTHER_PROGRAMS:
        with writing(folder):
            is_file = ending_of(folder) is not None or Path(folder).is_file()
        if is_file:
            raise UsageError(
                f"several pairs or intervals are written into a folder, and {folder} names a "
                "file: give a folder"
            )
    check_outside(Path(folder))


def export_candles(
    archive: TradeStore,
    exports: Sequence[PairExport],
    intervals: Sequence[Interval],
    layout: str,
    folder: str,
    memory_limit: str,
) -> Iterator[ExportedFile]:
    """Write the candles of some pairs and intervals, file by file; existing files are replaced.

    The trades of a pair are read once for all its intervals. Everything is checked before the
    first file is written.

    Args:
        archive: the trades.
        exports: the pairs and what is asked of each.
        intervals: the candles' intervals.
        layout: one of `LAYOUTS`.
        folder: the folder to write into.
        memory_limit: the memory that DuckDB may use, such as 2GB.

    Raises:
        UsageError: too many empty candles would be filled in, the other program has no such pair,
            a file of LEAN would lose candles, or the folder lies in an archive.
        BadInterval: the other program has no such interval.
        ArchiveUnwritable: a file can't be written.
    """
    for export, interval in product(exports, intervals):
        guard_against_huge_fill(archive, replace(export.query, interval=interval))
        if layout in OTHER_PROGRAMS:
            # Each of them raises an error if the other program has no such name.
            ccxt_symbol(export.pair)
            (lean_resolution if layout == "lean" else freqtrade_timeframe)(interval)
    for export in exports if layout == "lean" else ():
        covered = enclosing_range(archive.coverage(export.query.pair))
        if covered and (stored := overlap(export.query.range, covered[0])):
            for interval in intervals:
                check_lean_files(export.pair, interval, folder, stored)
    for export in exports:
        query = export.query
        if layout in OTHER_PROGRAMS:
            query = replace(query, all_columns=True)
        session = QuerySession(archive, memory_limit)
        for interval, batches in batches_by_interval(session, query, intervals):
            if layout in OTHER_PROGRAMS:
                file = write_candle_layout(batches, export.pair, interval, layout, folder)
            else:
                file = _write_candle_file(batches, export, interval, layout, folder)
            yield replace(file, notes=export.notes)


def export_trades(
    archive: TradeStore,
    pairs: Iterable[tuple[Pair, tuple[str, ...]]],
    range_: Range,
    folder: str,
) -> Iterator[ExportedFile]:
    """Write the trades of some pairs for freqtrade, file by file.

    Args:
        archive: the trades.
        pairs: each pair, and remarks on its rows, such as gaps in the range.
        range_: only trades published in it are written.
        folder: freqtrade's data folder for Kraken.

    Raises:
        UsageError: the pair's currencies are not known, or the folder lies in an archive.
        ArchiveUnwritable: a file can't be written.
    """
    for pair, notes in pairs:
        counter = RowCounter(archive.scan(pair.altname, range_))
        path = write_freqtrade_trades(counter, pair, folder)
        yield ExportedFile(pair.altname, None, str(path), counter.rows, notes=notes)


def write_candle_layout(
    batches: Iterable[pa.RecordBatch], pair: Pair, interval: Interval, layout: str, folder: str
) -> ExportedFile:
    """Write candles in another program's layout, without those that are not complete.

    Other programs have no way to mark an incomplete candle.

    Args:
        batches: the candles with the column `is_complete`, in order.
        pair: the pair.
        interval: the candles' interval.
        layout: `freqtrade` or `lean`.
        folder: the other program's data folder.

    Raises:
        UsageError: the pair's currencies are not known, or the folder lies in an archive.
        BadInterval: the other program has no such interval.
        ArchiveUnwritable: a file can't be written.
    """
    write = write_lean_candles if layout == "lean" else write_freqtrade_candles
    candles = RowCounter(batches)
    complete = RowCounter(
        batch.filter(pc.fill_null(batch.column("is_complete"), False)) for batch in candles
    )
    path = write(complete, pair, interval, folder)
    left_out = candles.rows - complete.rows
    return ExportedFile(pair.altname, interval.text, str(path), complete.rows, left_out)


def _write_candle_file(
    batches: Iterator[pa.RecordBatch],
    export: PairExport,
    interval: Interval,
    layout: str,
    folder: str,
) -> ExportedFile:
    """Write the candles of one pair and interval as Parquet or CSV."""
    pair = export.pair.altname
    file = Path(folder) / f"interval={interval.name}" / f"pair={pair}" / f"candles.{layout}"
    with writing(str(file)):
        file.parent.mkdir(parents=True, exist_ok=True)
    batches = with_equal_decimals(batches)
    first = next(batches)
    with compressed_file_sink(str(file)) as sink:
        rows = write_rows(
            chain([first], batches), first.schema, WRITERS[layout], sink, export.notes
        )
    return ExportedFile(pair, interval.text, str(file), rows)
