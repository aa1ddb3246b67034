"""Compare the archive's candles with Kraken's downloadable candle files (OHLCVT)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harvester.csv_import.files import KnownComplete, Member
from harvester.csv_import.ohlcvt import COLUMNS, ROWS, Block, read_candles
from harvester.csv_import.pair_matching import CandleFile, candle_file
from harvester.download.events import Listener, Step, ignore
from harvester.errors import HarvesterError
from harvester.kraken.ohlc import Candle
from harvester.kraken.pairs import Pair, PairIndex
from harvester.query.connection import MEMORY_LIMIT
from harvester.schema import Int64s, times
from harvester.storage.trade_store import TradeStore
from harvester.times import END_OF_TIME, SECOND, UNITS_NS, Range
from harvester.verify.compare import (
    AFTER,
    BEFORE,
    GAP,
    ComparisonCounts,
    is_float_rounded,
    retry_if_replaced,
)
from harvester.verify.local_candles import BoundaryTrades, LocalCandleReader
from harvester.verify.reports import CsvReport, FileReport, IntervalReport

# --- comparison of blocks -------------------------------------------------------------------------

# Both sides are streams of Arrow batches, and equal candles never become Python objects: only a
# candle that differs, or that one side lacks, is compared by itself.

VALUES = COLUMNS[1:]
_NOT_VOLUME = [name for name in VALUES if name != "volume"]
BEYOND = "outside the period in the file's name"
_REASONS = ("", BEFORE, AFTER, GAP, BEYOND)
_NO_CANDLES = pa.RecordBatch.from_pylist([], schema=ROWS)
_AT_ONCE = 4_096

_GAP, _BEYOND = _REASONS.index(GAP), _REASONS.index(BEYOND)

Bools = NDArray[np.bool_]
Codes = NDArray[np.int8]
Indexes = NDArray[np.intp]

_CandleKey = tuple[int, int, int]
"""A candle's opening time, its index in the file's rows and in the local ones; -1 for none."""


def compare_blocks(
    reader: LocalCandleReader,
    coverage: Sequence[Range],
    minutes: int,
    whole: KnownComplete,
    blocks: Iterable[Block],
) -> IntervalReport:
    """Compare the candles of a file with those of the archive.

    Args:
        reader: reads candles of the archive.
        coverage: the pair's coverage, in order; not empty.
        minutes: the candles' length.
        whole: the period in which the file is known to be complete. Where that is not known, local
            candles count from the file's first row to its last.
        blocks: the file's candles, in order of time.

    Raises:
        BadFile: a row can't be read.
        ArchiveDamaged: a file of the archive can't be read.
        ValueDoesNotFit: a sum has more than 38 digits.
    """
    comparison = _BlockComparison(reader, coverage, minutes, whole)
    for block in blocks:
        if block.rows.num_rows:
            comparison.add(block)
    comparison.finish()
    return comparison.counts.report()


class _LocalCandles:
    """The archive's candles, one batch at a time."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._batch = _NO_CANDLES

    def fill(self) -> bool:
        """Load the next batch if the current one is used up; False if there is no more."""
        while not self._batch.num_rows:
            batch = next(self._batches, None)
            if batch is None:
                return False
            self._batch = batch
        return True

    @property
    def last_ns(self) -> int:
        """The opening time of the last candle of the batch; there must be one."""
        return int(times(self._batch)[-1])

    def through(self, moment: int) -> pa.RecordBatch:
        """Remove and return the candles of the batch that open at `moment` or before."""
        end = int(np.searchsorted(times(self._batch), moment, side="right"))
        removed, self._batch = self._batch.slice(0, end), self._batch.slice(end)
        return removed


class _Section(NamedTuple):
    """The candles of both sides in one period.

    Attributes:
        local: the archive's candles.
        file: the file's candles: rows of a block.
        offset: the index in the block of the first of these rows.
        block: the block; None if the file has no rows in the period.
    """

    local: pa.RecordBatch
    file: pa.RecordBatch = _NO_CANDLES
    offset: int = 0
    block: Block | None = None

    def file_candle(self, index: int) -> Candle | None:
        """A candle of the file with all its digits; None for the index -1."""
        if self.block is None or index < 0:
            return None
        return self.block.candle(self.offset + index)


class _EqualCandles(NamedTuple):
    """The candles of a section that are equal, and not yet counted.

    Attributes:
        times_ns: the opening times of all candles of the file.
        local_index: their indexes among the local candles.
        is_equal: which of them are equal and not yet counted.
    """

    times_ns: Int64s
    local_index: Indexes
    is_equal: Bools

    def remove(self, time_ns: int | None) -> _CandleKey | None:
        """Remove a candle, by its opening time; None if it is not among them."""
        index = 0 if time_ns is None else int(np.searchsorted(self.times_ns, time_ns))
        if index == len(self.times_ns):
            return None
        if self.times_ns[index] != time_ns or not self.is_equal[index]:
            return None
        self.is_equal[index] = False
        return int(self.times_ns[index]), index, int(self.local_index[index])


class _BlockComparison:
    """Compares a file block by block with the local candles of the same time."""

    def __init__(
        self,
        reader: LocalCandleReader,
        coverage: Sequence[Range],
        minutes: int,
        whole: KnownComplete,
    ) -> None:
        self.counts = ComparisonCounts(reader, minutes, self._is_compared, VALUES)
        self._reader, self._minutes = reader, minutes
        self._width_ns = minutes * UNITS_NS["m"]
        self._after = np.array([covered.after for covered in coverage])
        self._through = np.array([covered.through for covered in coverage])
        self._whole = whole
        self._since = 0 if whole.since_s is None else whole.since_s * SECOND
        self._until = END_OF_TIME if whole.until_s is None else whole.until_s * SECOND
        self._local: _LocalCandles | None = None
        # Local candles count from this opening time on.
        self._first_ns = self._since

    def add(self, block: Block) -> None:
        """Compare a block with all local candles up to its last candle.

        In steps: each ends where the block or the batch of local candles ends.
        """
        stamps = times(block.rows)
        if self._local is None:
            self._local = self._read_local(int(stamps[0]))
        begin = 0
        while begin < len(stamps):
            reached = int(stamps[-1])
            if self._local.fill():
                reached = min(reached, self._local.last_ns)
            end = int(np.searchsorted(stamps, reached, side="right"))
            rows = block.rows.slice(begin, end - begin)
            self._compare(_Section(self._local.through(reached), rows, begin, block))
            begin = end

    def finish(self) -> None:
        """Compare local candles after the file's last row, if it is known to be complete there."""
        if self._whole.until_s is None or (self._local is None and self._whole.since_s is None):
            return
        local = self._local or self._read_local(self._since)
        while local.fill():
            self._compare(_Section(local.through(END_OF_TIME)))

    def _read_local(self, first_ns: int) -> _LocalCandles:
        """Local candles from the file's first row on, or from where it is known to be complete."""
        if self._whole.since_s is None:
            self._first_ns = first_ns
        wanted = Range(max(0, min(first_ns, self._first_ns) - 1), self._until - 1)
        if wanted.after >= wanted.through:
            return _LocalCandles(iter(()))
        return _LocalCandles(self._reader.batches(self._minutes, wanted))

    def _compare(self, section: _Section) -> None:
        """Count the candles that are equal or can't be compared; compare the others singly."""
        file_ns, local_ns = times(section.file), times(section.local)
        index, is_both = _local_indexes(local_ns, file_ns)
        codes, local_codes = self._codes(file_ns), self._codes(local_ns)
        is_equal = is_both.copy()
        of_file = section.file.filter(pa.array(is_both))
        of_archive = section.local.take(pa.array(index[is_both]))
        is_equal[is_both] = _equal(of_file, of_archive, VALUES)
        is_rounded = _is_float_rounded(section, is_both, of_file, of_archive)
        is_equal |= is_rounded
        is_local_only = np.ones(len(local_ns), dtype=bool)
        is_local_only[index[is_both]] = False
        self._skip(codes)
        # Local candles outside the file's period are not counted as skipped.
        self._skip(local_codes[is_local_only & (local_codes != _BEYOND)])
        is_equal &= codes == 0
        # Trades of its opening may count in a candle that is not compared.
        is_equal &= self._are_compared(file_ns - self._width_ns)
        unequal = ((codes == 0) & ~is_equal).nonzero()[0]
        index[~is_both] = -1
        rest = [(int(file_ns[i]), int(i), int(index[i])) for i in unequal]
        unmatched = (is_local_only & (local_codes == 0)).nonzero()[0]
        rest += [(int(local_ns[i]), -1, int(i)) for i in unmatched]
        self._compare_singly(section, sorted(rest), _EqualCandles(file_ns, index, is_equal))
        trades = pc.sum(section.file.column("count").filter(pa.array(is_equal))).as_py() or 0
        self.counts.equal(int(is_equal.sum()), trades, int((is_equal & is_rounded).sum()))

    def _compare_singly(
        self, section: _Section, rest: Sequence[_CandleKey], equals: _EqualCandles
    ) -> None:
        """Compare candles one by one, with the equal candles after them that are needed, too."""
        self._compare_needed(section, equals, {})
        if not rest:
            return
        # Up to and including the time at which the last of them ends.
        wanted = Range(max(0, rest[0][0] - 1), rest[-1][0] + self._width_ns)
        openings = self._reader.openings(self._minutes, wanted)
        width_ns = self._width_ns
        for begin in range(0, len(rest), _AT_ONCE):
            some = rest[begin : begin + _AT_ONCE]
            opens = (time_ns for time_ns, *_ in some)
            at_boundary = {
                time_ns
                for time_ns in opens
                if not openings.isdisjoint((time_ns, time_ns + width_ns))
            }
            # The candles after them may be needed as well.
            at_boundary |= openings & {time_ns + width_ns for time_ns in at_boundary}
            edges = self._reader.edges(self._minutes, sorted(at_boundary))
            local_candles = _candles(section.local, [index for _, _, index in some if index >= 0])
            for time_ns, file_index, local_index in some:
                local = next(local_candles) if local_index >= 0 else None
                self.counts.compare(time_ns, local, section.file_candle(file_index), edges.get)
                self._compare_needed(section, equals, edges)

    def _compare_needed(
        self, section: _Section, equals: _EqualCandles, edges: Mapping[int, BoundaryTrades]
    ) -> None:
        """Compare equal candles one by one as long as the next candle must be compared singly."""
        reader, minutes = self._reader, self._minutes

        def edges_of(time_ns: int) -> BoundaryTrades:
            found = edges.get(time_ns)
            return reader.edges(minutes, [time_ns])[time_ns] if found is None else found

        while (found := equals.remove(self.counts.needed_next)) is not None:
            time_ns, file_index, local_index = found
            [local] = _candles(section.local, [local_index])
            self.counts.compare(time_ns, local, section.file_candle(file_index), edges_of)

    def _codes(self, opens: Int64s) -> Codes:
        """Why candles can't be compared, as indexes in `_REASONS`; 0 where they can."""
        after, through = opens - 1, opens + (self._width_ns - 1)
        run = np.searchsorted(self._after, np.maximum(after, 0), side="right") - 1
        is_covered = (run >= 0) & (through <= self._through[run])
        codes = np.full(len(opens), _GAP, dtype=np.int8)
        codes[through > self._through[-1]] = _REASONS.index(AFTER)
        codes[after < self._after[0]] = _REASONS.index(BEFORE)
        codes[is_covered] = 0
        codes[(opens < self._since) | (through >= self._until)] = _BEYOND
        return codes

    def _are_compared(self, opens: Int64s) -> Bools:
        are: Bools = (opens >= self._first_ns) & (self._codes(opens) == 0)
        return are

    def _is_compared(self, time_ns: int) -> bool:
        return bool(self._are_compared(np.array([time_ns]))[0])

    def _skip(self, codes: Codes) -> None:
        for code, candles in enumerate(np.bincount(codes, minlength=len(_REASONS)).tolist()):
            if code and candles:
                self.counts.skip(_REASONS[code], candles)


def _local_indexes(local_ns: Int64s, file_ns: Int64s) -> tuple[Indexes, Bools]:
    """The index of each of the file's times among the local ones, and whether it is there."""
    index = np.searchsorted(local_ns, file_ns)
    if not len(local_ns):
        return index, np.zeros(len(file_ns), dtype=bool)
    return index, local_ns[np.minimum(index, len(local_ns) - 1)] == file_ns


def _is_float_rounded(
    section: _Section, is_both: Bools, of_file: pa.RecordBatch, of_archive: pa.RecordBatch
) -> Bools:
    """Which candles of the file are equal, but for a volume within float rounding; shape (rows,).

    Args:
        section: the candles of both sides in one period.
        is_both: which candles of the file the archive has too.
        of_file: these, as the file has them.
        of_archive: these, by the stored trades.
    """
    is_rounded = np.zeros(section.file.num_rows, dtype=bool)
    # Such a volume has too many digits for the column.
    if not of_file.column("volume").null_count:
        return is_rounded
    is_close = _bools(of_file.column("volume").is_null()) & _equal(of_file, of_archive, _NOT_VOLUME)
    volumes, counts = of_archive.column("volume"), of_archive.column("count")
    indexes = is_both.nonzero()[0]
    for row in is_close.nonzero()[0].tolist():
        candle = section.file_candle(int(indexes[row]))
        is_rounded[indexes[row]] = candle is not None and is_float_rounded(
            volumes[row].as_py(), candle.volume, counts[row].as_py()
        )
    return is_rounded


def _equal(of_file: pa.RecordBatch, of_archive: pa.RecordBatch, names: Sequence[str]) -> Bools:
    """Whether candles are equal in these values, as numbers; shape (rows,)."""
    equal = np.ones(of_file.num_rows, dtype=bool)
    for name in names:
        equal &= _bools(pc.equal(of_file.column(name), of_archive.column(name)).fill_null(False))
    return equal


def _candles(local: pa.RecordBatch, indexes: Sequence[int]) -> Iterator[Candle]:
    """Some local candles, with all their digits; a vwap is 0, as files have none."""
    rows = local.select(list(COLUMNS)).take(pa.array(indexes, pa.int64()))
    for time_ns, row in zip(
        times(rows).tolist(), rows.drop_columns(["time"]).to_pylist(), strict=True
    ):
        yield Candle(time_ns, **row, vwap=Decimal(0))


def _bools(values: pa.Array) -> Bools:
    bools: Bools = values.to_numpy(zero_copy_only=False)
    return bools


# --- comparison of files --------------------------------------------------------------------------


class FileChoice(NamedTuple):
    """Which files are compared, and which are not.

    Attributes:
        files: by altname, for all requested pairs, in order of the candles' length.
        of_other_pairs: how many files are of other pairs.
        unknown: files that are not named after candles, or after no known pair.
    """

    files: dict[str, list[CandleFile]]
    of_other_pairs: int
    unknown: list[Member]


def choose(members: Iterable[Member], wanted: Iterable[str], known: Iterable[Pair]) -> FileChoice:
    """Choose the files of some pairs, by the files' names.

    Args:
        members: all that were found.
        wanted: the pairs, by altname.
        known: the pairs that a name can mean.
    """
    files: dict[str, list[CandleFile]] = {name: [] for name in wanted}
    pair_names = PairIndex(known)
    of_other_pairs, unknown = 0, []
    for member in members:
        found = candle_file(member, pair_names)
        if found is None:
            unknown.append(member)
        elif found[0].altname in files:
            files[found[0].altname].append(found[1])
        else:
            of_other_pairs += 1
    for files_of_pair in files.values():
        files_of_pair.sort(key=lambda file: file.minutes)
    return FileChoice(files, of_other_pairs, unknown)


def compare(
    archive: TradeStore,
    pair: Pair,
    files: Sequence[CandleFile],
    memory_limit: str = MEMORY_LIMIT,
    listener: Listener = ignore,
) -> CsvReport:
    """Compare the candles of some files of one pair with the stored trades.

    If a file can't be read or compared, the error is in its report.

    Args:
        archive: the archive with the trades.
        pair: the pair.
        files: its files, as `choose` returns them.
        memory_limit: the memory that DuckDB may use, such as 1GB.
        listener: receives a `Step` in bytes after each block.
    """
    coverage = archive.coverage(pair.altname)
    if not coverage:
        return CsvReport(pair.altname, has_trades=False)
    reader = LocalCandleReader(archive, pair.altname, pair.pair_decimals, memory_limit)
    total, before = sum(file.member.size for file in files), 0
    reports = []
    for file in files:

        def on_read(size: int, before: int = before) -> None:
            # Not 100 % yet: the candles of the last bytes are still being compared.
            listener(Step(pair.altname, min(before + size, total - 1), total, "bytes"))

        reports.append(_compare_file(reader, coverage, file, on_read))
        before += file.member.size
    listener(Step(pair.altname, total, total, "bytes"))
    return CsvReport(pair.altname, tuple(reports))


def _compare_file(
    reader: LocalCandleReader,
    coverage: Sequence[Range],
    file: CandleFile,
    on_read: Callable[[int], None],
) -> FileReport:
    member, minutes = file

    def compare_once() -> IntervalReport:
        blocks = _with_progress(read_candles(member, minutes), on_read)
        return compare_blocks(reader, coverage, minutes, member.complete, blocks)

    try:
        found = retry_if_replaced(reader.archive, reader.pair, compare_once)
    except HarvesterError as error:
        return FileReport(str(member), IntervalReport(minutes), error)
    return FileReport(str(member), found)


def _with_progress(blocks: Iterable[Block], on_read: Callable[[int], None]) -> Iterator[Block]:
    """The same blocks; `on_read` is called with the number of bytes read so far."""
    done = 0
    for block in blocks:
        yield block
        done += block.size
        on_read(done)
