"""Check one segment and its roll-ups: name, footer, rows, ids, checksum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter

import numpy as np
import pyarrow as pa

from harvester.csv_import.row_order import IdOrder
from harvester.errors import ArchiveDamaged, BadInterval, ValueDoesNotFit, counted
from harvester.query.rollups import parse_levels
from harvester.query.sql import TRADE_COLUMNS, merge_partials, recompute_partials
from harvester.schema import (
    SEGMENT_SCHEMA,
    Int64s,
    RowsChecksum,
    check_texts,
    decimal_words,
    tie_indexes,
    times,
    trade_ids,
)
from harvester.storage.id_gaps import IdGap, LastId, find_gaps
from harvester.storage.parquet_files import PARTIALS, READ_ROWS, opened, read_partials
from harvester.storage.segment import (
    Footer,
    RollUp,
    Segment,
    decode_footer,
    group_bounds,
    segment_path,
)
from harvester.storage.trade_store import TradeStore

# --- roll-ups -------------------------------------------------------------------------------------


def _wrong_rollups(
    archive: TradeStore,
    segment: Segment,
    rollups: Sequence[RollUp],
    read_trades: Callable[[], Iterator[pa.RecordBatch]],
) -> Iterator[tuple[RollUp, str]]:
    """Compute the roll-ups of a segment again; yield those that differ, each with what is wrong.

    Args:
        archive: the archive.
        segment: the segment, whose rows are sound.
        rollups: its stored roll-ups.
        read_trades: reads `TRADE_COLUMNS` of the segment again, in batches.

    Raises:
        FileNotFoundError: a roll-up was removed meanwhile; list again.
    """
    what = f"roll-ups of {segment.path}"
    widths_ns: dict[RollUp, int] = {}
    for rollup in rollups:
        try:
            [widths_ns[rollup]] = parse_levels([rollup.interval]).values()
        except BadInterval:
            yield rollup, f"{rollup.interval!r} is no level of roll-ups"
    cut_ns = math.lcm(*widths_ns.values())
    longer: dict[int, list[pa.Table]] = {}
    for rollup, width_ns in sorted(widths_ns.items(), key=itemgetter(1)):
        if width_ns in longer:
            expected: Iterable[pa.Table] = longer[width_ns]
        else:
            parts = recompute_partials(read_trades(), width_ns, cut_ns, what)
            others_ns = set(widths_ns.values()) - {width_ns} - longer.keys()
            multiples_ns = [other for other in others_ns if other % width_ns == 0]
            expected = _with_longer(parts, multiples_ns, longer, what)
        try:
            is_equal = _are_equal(read_partials(archive.store, rollup.path), expected)
            is_valid = archive.is_rollup_valid(rollup, segment)
        except ValueDoesNotFit as reason:
            yield rollup, str(reason)
        except ArchiveDamaged as damage:
            yield rollup, str(damage).replace(archive.location(rollup), "it", 1)
        else:
            if not is_equal:
                yield rollup, "it does not agree with the trades of its segment"
            elif not is_valid:
                yield rollup, "its footer is of another segment"


def _with_longer(
    parts: Iterable[pa.Table],
    widths_ns: Sequence[int],
    longer: dict[int, list[pa.Table]],
    what: str,
) -> Iterator[pa.Table]:
    """Yield a level's partial candles; then `longer` has those of the levels that are multiples."""
    merged: dict[int, list[pa.Table]] = {width_ns: [] for width_ns in widths_ns}
    for part in parts:
        for width_ns, tables in merged.items():
            tables.append(merge_partials(part, width_ns, what))
        yield part
    longer.update(merged)


def _are_equal(stored: Iterator[pa.RecordBatch], expected: Iterable[pa.Table]) -> bool:
    """Whether a roll-up's rows are the expected ones; both come part by part."""
    unmatched = PARTIALS.empty_table()
    for part in expected:
        parts = [unmatched]
        while sum(rows.num_rows for rows in parts) < part.num_rows:
            batch = next(stored, None)
            if batch is None:
                return False
            parts.append(pa.Table.from_batches([batch], PARTIALS))
        rows = pa.concat_tables(parts)
        if not rows.slice(0, part.num_rows).equals(part):
            return False
        unmatched = rows.slice(part.num_rows)
    return not unmatched.num_rows and next(stored, None) is None


# --- segments -------------------------------------------------------------------------------------


@dataclass(slots=True)
class SegmentFindings:
    """What the check of one segment found.

    Attributes:
        segment: the segment.
        footer: its footer; None if it can't be read.
        ids: how many trades have an id.
        contradiction: what the ids of imported trades contradict; empty if nothing.
        gaps: its id gaps, which only a confirmed id gap in a footer can explain.
        first_id_ns: published time of the first trade with an id.
        last_id_ns: published time of the last trade with an id.
        wrong: what is wrong with the segment; empty if it is sound.
        wrong_rollups: the roll-ups that are wrong, each with the reason.
        rollups: how many roll-ups were checked.
        notes: what is unusual and no fault.
    """

    segment: Segment
    footer: Footer | None = None
    ids: int = 0
    contradiction: str = ""
    gaps: list[IdGap] = field(default_factory=list)
    first_id_ns: int = 0
    last_id_ns: int = 0
    wrong: list[str] = field(default_factory=list)
    wrong_rollups: list[tuple[RollUp, str]] = field(default_factory=list)
    rollups: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong with the segment and its roll-ups."""
        return not (self.wrong or self.wrong_rollups)


def check_segment(
    archive: TradeStore, segment: Segment, rollups: Sequence[RollUp]
) -> SegmentFindings:
    """Check that name, footer, rows and roll-ups of a segment agree.

    Footer and rows are read from one open file, as another file may get its name meanwhile.

    Args:
        archive: the archive.
        segment: the segment.
        rollups: its stored roll-ups.

    Raises:
        FileNotFoundError: a file was removed meanwhile; list again.
    """
    found = SegmentFindings(segment)
    try:
        with opened(archive.store, segment.path) as file:
            footer = found.footer = decode_footer(segment.path, file.metadata)
            _check_footer(found, footer)
            if not file.schema_arrow.remove_metadata().equals(SEGMENT_SCHEMA):
                found.wrong.append("its columns are not those of the format")
                return found
            groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
            sizes = [group.num_rows for group in groups]
            rows = _Rows(found, footer, sizes, group_bounds(file.metadata))
            for batch in filter(len, file.iter_batches(READ_ROWS)):
                check_texts(batch)
                rows.check(batch)
            rows.finish()
            found.rollups = len(rollups)
            if not found.wrong:
                read_trades = partial(file.iter_batches, READ_ROWS, columns=TRADE_COLUMNS)
                found.wrong_rollups += _wrong_rollups(archive, segment, rollups, read_trades)
    except ArchiveDamaged as damage:
        found.wrong.append(str(damage).removeprefix(segment.path).removeprefix(" "))
    return found


def _check_footer(found: SegmentFindings, footer: Footer) -> None:
    segment = found.segment
    if footer.range != segment.range:
        found.wrong.append(f"its footer says {footer.range}, its name another range")
    if footer.altname != segment.pair:
        named = footer.altname or "no pair"
        found.wrong.append(f"its footer is of {named}, its folder of {segment.pair}")


class _Rows:
    """Checks the rows of one segment, batch by batch: order, range, values, ids, checksum."""

    def __init__(
        self,
        found: SegmentFindings,
        footer: Footer,
        group_rows: Sequence[int],
        statistics: Sequence[tuple[int, int]],
    ) -> None:
        """Begin before the first row.

        Args:
            found: receives what is found.
            footer: of the segment.
            group_rows: how many rows each row group has.
            statistics: the first and last time of each row group, by the file's statistics.
        """
        self._statistics = [
            bounds for bounds, rows in zip(statistics, group_rows, strict=True) if rows
        ]
        ends = np.cumsum([0, *filter(None, group_rows)], dtype=np.int64)
        # The first and the last row of each row group, which have its first and its last time.
        self._edges = np.column_stack([ends[:-1], ends[1:] - 1]).ravel()
        self._edge_times: list[int] = []
        self._found = found
        self._footer = footer
        self._checksum = RowsChecksum()
        self._last_ns: int | None = None
        self._tie = 0
        self._edge: LastId | None = None
        self._id_order = IdOrder()
        self._lead = 0
        self._first_id: int | None = None

    def check(self, batch: pa.RecordBatch) -> None:
        stamps = times(batch)
        edges = self._edges - self._checksum.rows
        inside = edges[(edges >= 0) & (edges < len(stamps))]
        self._edge_times += stamps[inside].tolist()
        self._checksum.update(batch)
        self._check_times(stamps)
        self._check_ties(stamps, batch.column("tie").to_numpy())
        self._check_values(batch)
        self._check_ids(batch)
        self._last_ns = int(stamps[-1])

    def finish(self) -> None:
        footer, segment = self._footer, self._found.segment
        if len(self._edge_times) < len(self._edges):
            self._add_fault("it has fewer rows than its row groups say")
        firsts, lasts = self._edge_times[::2], self._edge_times[1::2]
        for first, last, (first_ns, last_ns) in zip(firsts, lasts, self._statistics, strict=False):
            # Queries skip rows outside of them.
            if first < first_ns or last > last_ns:
                self._add_fault("its statistics leave out times of its rows")
        if self._checksum.hexdigest() != footer.checksum:
            self._add_fault("the checksum of its rows is not that of its footer")
        edge = self._edge
        trail = edge.rows_without_id if edge else self._checksum.rows
        ends = (self._first_id, edge and edge.trade_id, self._lead, trail)
        if ends != (
            footer.first_trade_id,
            footer.last_trade_id,
            footer.rows_before_first_id,
            footer.rows_after_last_id,
        ):
            self._add_fault("its first and last trade ids are not those of its footer")
        # A segment has trades of one year.
        outer_ns = (self._edge_times[0] if self._edge_times else None, self._last_ns)
        paths = {
            segment_path(segment.pair, segment.range, time_ns, is_imported=footer.is_imported)
            for time_ns in outer_ns
        }
        if paths != {segment.path}:
            self._add_fault("its name or folder is not that of its source, range and rows")

    def _add_fault(self, text: str) -> None:
        if text not in self._found.wrong:
            self._found.wrong.append(text)

    def _check_times(self, stamps: Int64s) -> None:
        bounds = self._found.segment.range
        if int(stamps.min()) <= bounds.after or int(stamps.max()) > bounds.through:
            self._add_fault("it has trades outside of its range")
        ordered = (stamps[1:] >= stamps[:-1]).all()
        if not ordered or (self._last_ns is not None and int(stamps[0]) < self._last_ns):
            self._add_fault("its times go back")

    def _check_ties(self, stamps: Int64s, stored: Int64s) -> None:
        expected = tie_indexes(stamps)
        if self._last_ns == int(stamps[0]):
            same = stamps == stamps[0]
            expected = expected + np.where(same, self._tie + 1, 0)
        if not (expected == stored).all():
            self._add_fault("its ties are not the indexes among rows of equal time")
        self._tie = int(expected[-1])

    def _check_values(self, batch: pa.RecordBatch) -> None:
        price = decimal_words(batch.column("price"))[0]
        low, high = decimal_words(batch.column("volume"))
        if not (price > 0).all() or (high < 0).any():
            self._add_fault("it has a price that is not above 0, or a negative volume")
        without_volume = int(((low == 0) & (high == 0)).sum())
        if without_volume:
            text = f"{self._found.segment.path}: {counted(without_volume, 'trade')} with volume 0"
            self._found.notes.append(text)

    def _check_ids(self, batch: pa.RecordBatch) -> None:
        ids, found = trade_ids(batch), self._found
        rows = ids.nonzero()[0]
        numbers = ids[rows]
        found.ids += len(rows)
        if self._first_id is None:
            self._lead += int(rows[0]) if len(rows) else len(ids)
            self._first_id = int(numbers[0]) if len(rows) else None
            found.first_id_ns = int(times(batch)[rows[0]]) if len(rows) else 0
        if self._edge is not None:
            numbers = np.concatenate(([self._edge.trade_id], numbers))
        decreases = int((np.diff(numbers) <= 0).sum())
        if decreases:
            how_often = counted(decreases, "time")
            found.notes.append(f"{found.segment.path}: trade ids decrease {how_often}")
        if self._footer.is_imported and not found.contradiction:
            found.contradiction = self._id_order.contradiction(batch)
        gaps, self._edge = find_gaps(self._edge, batch)
        found.last_id_ns = self._edge.time_ns if self._edge else 0
        found.gaps += gaps
