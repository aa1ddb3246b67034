"""Build roll-ups, and recompute them with DuckDB for `verify`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from harvester.errors import ArchiveDamaged, BadInterval, ValueDoesNotFit
from harvester.query.aggregate import TIME, Candles, bars_of_trades, begins_ns, stored_columns
from harvester.query.connection import shared_connection, translate_errors
from harvester.query.sources import BASE, EXTRA, LAST_TIME
from harvester.schema import TRADES, RowsChecksum
from harvester.storage.rollup_files import PARTIALS, RollUp, rollup_path
from harvester.storage.segment import Segment, read_batches
from harvester.storage.writer import Progress, Writer
from harvester.times import Interval, parse_interval

# --- build ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class RollupReport:
    """The result of `roll_up`.

    Attributes:
        built: how many roll-ups were written.
        up_to_date: how many existed and agree with their segment.
        notes: segments without roll-ups, and why.
    """

    built: int = 0
    up_to_date: int = 0
    notes: list[str] = field(default_factory=list)


def parse_levels(texts: Iterable[str]) -> list[Interval]:
    """Return the levels of roll-ups, the finest first.

    Raises:
        BadInterval: a text is no interval of fixed length.
    """
    levels = [parse_interval(text) for text in texts]
    for level in levels:
        if level.width_ns is None:
            raise BadInterval(
                f"rollups contains {level.text!r}, which follows the calendar: "
                "give fixed lengths such as 1m or 1h"
            )
    return sorted(levels, key=lambda level: level.width_ns or 0)


def roll_up(
    writer: Writer,
    levels: Sequence[Interval],
    progress: Progress = lambda _pair, _done, _all: None,
) -> RollupReport:
    """Build the roll-ups that a pair's segments lack, or that were built from other rows.

    Args:
        writer: the pair's writer, which holds its lock.
        levels: the intervals of the roll-ups; see `parse_levels`.
        progress: called after each segment.

    Raises:
        ArchiveDamaged: a segment's rows are not those of its footer; no roll-up is built of them.
        ArchiveUnwritable: the system refused to write.
    """
    report = RollupReport()
    segments = writer.archive.segments(writer.pair)
    for done, segment in enumerate(segments, 1):
        _roll_up_segment(writer, segment, levels, report)
        progress(writer.pair, done, len(segments))
    return report


def _roll_up_segment(
    writer: Writer, segment: Segment, levels: Sequence[Interval], report: RollupReport
) -> None:
    if writer.archive.footer(segment).rows == 0:
        return
    missing = [level for level in levels if not _is_up_to_date(writer, segment, level)]
    report.up_to_date += len(levels) - len(missing)
    try:
        partials_by_level = _build(writer, segment, missing) if missing else {}
    except ValueDoesNotFit as reason:
        report.notes.append(str(reason))
        return
    for level, partials in partials_by_level.items():
        writer.keep_rollup(segment, level, partials)
        report.built += 1


def _is_up_to_date(writer: Writer, segment: Segment, level: Interval) -> bool:
    path = rollup_path(segment, level.text)
    try:
        return writer.archive.is_rollup_valid(RollUp(level.text, segment.path, path, 0), segment)
    except FileNotFoundError:
        return False


def _build(
    writer: Writer, segment: Segment, levels: Sequence[Interval]
) -> dict[str, list[pa.RecordBatch]]:
    archive = writer.archive
    checksum = RowsChecksum()
    widths_ns = [width_of(level) for level in levels]
    partials = PartialCandles(widths_ns, f"roll-ups of {segment.path}")
    for batch in read_batches(archive.store, segment.path):
        checksum.update(batch)
        partials.add(batch)
    if checksum.hexdigest() != archive.footer(segment).checksum:
        raise ArchiveDamaged(
            f"the rows of {archive.location(segment)} differ from its footer: it was not rolled "
            f"up. `harvester verify {writer.pair}` shows the details"
        )
    batches_by_level = zip(levels, partials.finish(), strict=True)
    return {level.text: batches for level, batches in batches_by_level}


def width_of(level: Interval) -> int:
    """Return the length of a level's candles in nanoseconds."""
    if level.width_ns is None:
        raise BadInterval(f"{level.text} is no level of roll-ups: give a fixed length such as 1h")
    return level.width_ns


class PartialCandles:
    """Builds the partial candles of roll-ups, at several levels, from trades in order."""

    def __init__(self, widths_ns: Sequence[int], what: str) -> None:
        """Start with no trades.

        Args:
            widths_ns: the widths of the candles, the finest first.
            what: names the work in messages.
        """
        self._what = what
        self._levels = [Candles(width_ns) for width_ns in widths_ns]
        self._batches: list[list[pa.RecordBatch]] = [[] for _ in widths_ns]
        # A level is computed from the coarsest finer one that divides it, or from trades (-1).
        self._sources = [
            max((j for j in range(i) if width_ns % widths_ns[j] == 0), default=-1)
            for i, width_ns in enumerate(widths_ns)
        ]

    def add(self, batch: pa.RecordBatch) -> None:
        """Add the next trades, a batch of `schema.TRADES`.

        Raises:
            ArchiveDamaged: a price or a volume is below 0.
            ValueDoesNotFit: a sum has too many digits.
        """
        self._add(bars_of_trades(batch, self._what, all_columns=True), -1)

    def finish(self) -> list[list[pa.RecordBatch]]:
        """Return the candles of all trades: batches of `PARTIALS` for each width."""
        for level, candles in enumerate(self._levels):
            for last in candles.finish():
                self._keep(last, level)
        return self._batches

    def _add(self, bars: pa.RecordBatch, source: int) -> None:
        """Add bars to the levels that are computed from a source, the index of a level."""
        for level, candles in enumerate(self._levels):
            if self._sources[level] == source:
                self._keep(candles.add(bars), level)

    def _keep(self, candles: pa.RecordBatch, level: int) -> None:
        if not candles.num_rows:
            return
        width_ns = self._levels[level].width_ns
        opens = begins_ns(candles) // width_ns * width_ns
        columns = stored_columns(candles, self._what) | {"time": pa.array(opens).cast(TIME)}
        self._batches[level].append(pa.RecordBatch.from_pydict(columns, schema=PARTIALS))
        self._add(candles, level)


# --- recomputation --------------------------------------------------------------------------------

# Roll-ups are built with pyarrow (`PartialCandles`). `verify` recomputes them with
# DuckDB: two implementations without common code prove more than one.

MEMORY_LIMIT = "512MB"

TRADE_COLUMNS = ["trade_id", "time", "price", "volume", "side"]


def recompute_partials(batches: Iterable[pa.RecordBatch], level: Interval, what: str) -> pa.Table:
    """Compute the partial candles of a segment again, by the SQL that defines a candle.

    Args:
        batches: all trades of the segment in order, with `TRADE_COLUMNS`.
        level: the interval of the candles.
        what: names the work in messages.

    Returns a table of `PARTIALS`.

    Raises:
        ValueDoesNotFit: a sum has too many digits.
    """
    formulas = BASE | EXTRA | LAST_TIME
    columns = ", ".join(f"{formulas[name]} AS {name}" for name in PARTIALS.names[1:])
    number = f"epoch_ns(time) // {width_of(level)}"
    sql = (
        f"SELECT make_timestamp_ns({number} * {width_of(level)}) AS time, {columns}\n"
        f"FROM trades GROUP BY {number} ORDER BY {number}"
    )
    fields = [*(TRADES.field(name) for name in TRADE_COLUMNS), pa.field("place", pa.int64())]
    reader = pa.RecordBatchReader.from_batches(pa.schema(fields), _with_place(batches))
    connection = shared_connection(MEMORY_LIMIT, 1)
    with translate_errors(what, MEMORY_LIMIT):
        connection.register("trades", reader)
        return connection.sql(sql).to_arrow_table().cast(PARTIALS).combine_chunks()


def _with_place(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the batches with the column `place`, the position of each trade."""
    first = 0
    for batch in batches:
        place = np.arange(first, first + batch.num_rows)
        yield batch.append_column("place", pa.array(place))
        first += batch.num_rows
