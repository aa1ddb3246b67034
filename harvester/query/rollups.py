"""Roll-ups: build the candles of each segment at fixed intervals, and store them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import pyarrow as pa

from harvester.errors import ArchiveDamaged, BadInterval, ValueDoesNotFit
from harvester.query.arrow_aggregation import (
    TIME,
    CandleBuilder,
    bars_of_trades,
    begins_ns,
    stored_columns,
)
from harvester.schema import (
    RowsChecksum,
)
from harvester.storage.parquet_files import PARTIALS, read_batches
from harvester.storage.segment import RollUp, Segment, rollup_path
from harvester.storage.writer import Progress, Writer
from harvester.times import parse_interval


class RollupResult(NamedTuple):
    """The result of building the roll-ups of a pair.

    Attributes:
        pair: altname.
        built: number of roll-up files that were written.
        up_to_date: number of roll-up files that were there already and agree with their segment.
        notes: sentences that the user should read, such as why a segment has no roll-up.
    """

    pair: str
    built: int
    up_to_date: int
    notes: list[str]


def parse_levels(texts: Iterable[str]) -> dict[str, int]:
    """Return the levels of roll-ups and the lengths of their candles (ns), the finest first.

    Raises:
        BadInterval: a text is no interval of fixed length.
    """
    widths_ns = {}
    for level in map(parse_interval, texts):
        if level.width_ns is None:
            raise BadInterval(
                f"rollups contains {level.text!r}, which follows the calendar: "
                "give fixed lengths such as 1m or 1h"
            )
        widths_ns[level.text] = level.width_ns
    return dict(sorted(widths_ns.items(), key=lambda level: level[1]))


def roll_up(
    writer: Writer,
    levels: Mapping[str, int],
    progress: Progress = lambda _pair, _done, _all: None,
) -> RollupResult:
    """Build the roll-ups that a pair's segments lack, or that were built from other rows.

    Args:
        writer: the pair's writer, which holds its lock.
        levels: the roll-ups' levels; see `parse_levels`.
        progress: called after each segment.

    Raises:
        ArchiveDamaged: a segment's rows are not those of its footer; no roll-up is built of them.
        ArchiveUnwritable: the system refused to write.
    """
    result = RollupResult(writer.pair, 0, 0, [])
    segments = writer.archive.segments(writer.pair)
    for done, segment in enumerate(segments, 1):
        if writer.archive.footer(segment).rows:
            built, up_to_date = _roll_up_segment(writer, segment, levels, result.notes)
            result = result._replace(
                built=result.built + built, up_to_date=result.up_to_date + up_to_date
            )
        progress(writer.pair, done, len(segments))
    return result


def _roll_up_segment(
    writer: Writer, segment: Segment, levels: Mapping[str, int], notes: list[str]
) -> tuple[int, int]:
    """Return how many roll-ups were written, and how many were there already."""
    archive = writer.archive
    missing = dict(levels)
    for level in levels:
        rollup = RollUp(level, segment.path, rollup_path(segment, level), 0)
        with suppress(FileNotFoundError):
            if archive.is_rollup_valid(rollup, segment):
                del missing[level]
    up_to_date = len(levels) - len(missing)
    if not missing:
        return 0, up_to_date
    checksum = RowsChecksum()
    partials = PartialCandles(list(missing.values()), f"roll-ups of {segment.path}")
    try:
        for batch in read_batches(archive.store, segment.path):
            checksum.update(batch)
            partials.add(batch)
        batches_by_level = partials.finish()
    except ValueDoesNotFit as reason:
        notes.append(str(reason))
        return 0, up_to_date
    if checksum.hexdigest() != archive.footer(segment).checksum:
        raise ArchiveDamaged(
            f"the rows of {archive.location(segment)} differ from its footer: it was not rolled "
            f"up. `harvester verify {writer.pair}` shows the details"
        )
    for level, batches in zip(missing, batches_by_level, strict=True):
        writer.store_rollup(segment, level, batches)
    return len(missing), up_to_date


class PartialCandles:
    """Builds the partial candles of roll-ups, at several levels, from trades in order."""

    def __init__(self, widths_ns: Sequence[int], what: str) -> None:
        """Start with no trades.

        Args:
            widths_ns: the widths of the candles, the finest first.
            what: names the work in messages.
        """
        self._what = what
        self._levels = [CandleBuilder(width_ns) for width_ns in widths_ns]
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
        self._advance([bars_of_trades(batch, self._what, all_columns=True)])

    def finish(self) -> list[list[pa.RecordBatch]]:
        """Return the candles of all trades: batches of `PARTIALS` for each width."""
        self._advance([], is_end=True)
        return self._batches

    def _advance(self, bars: list[pa.RecordBatch], *, is_end: bool = False) -> None:
        """Add trades as bars; each level passes its complete candles on to coarser ones."""
        complete = {-1: bars}
        for level, candles in enumerate(self._levels):
            done = [candles.add(part) for part in complete[self._sources[level]] if part.num_rows]
            complete[level] = done + candles.finish() if is_end else done
            for part in filter(len, complete[level]):
                opens = begins_ns(part) // candles.width_ns * candles.width_ns
                columns = stored_columns(part, self._what) | {"time": pa.array(opens).cast(TIME)}
                self._batches[level].append(pa.RecordBatch.from_pydict(columns, schema=PARTIALS))
