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

# --- side by side ---------------------------------------------------------------------------------

# Both come as streams, and what is equal never becomes an object of Python: only a candle that
# differs, or that one side lacks, is looked at by itself.

VALUES = COLUMNS[1:]
_NOT_VOLUME = [name for name in VALUES if name != "volume"]
BEYOND = "beyond what the file's name tells"
_REASONS = ("", BEFORE, AFTER, GAP, BEYOND)
_NO_CANDLES = pa.RecordBatch.from_pylist([], schema=ROWS)
_AT_ONCE = 4_096

_GAP, _BEYOND = _REASONS.index(GAP), _REASONS.index(BEYOND)

Bools = NDArray[np.bool_]
Codes = NDArray[np.int8]
Places = NDArray[np.intp]

_Where = tuple[int, int, int]
"""When a candle opens, and its places on either side, or -1."""


def compare_blocks(
    asker: LocalCandleReader,
    coverage: Sequence[Range],
    minutes: int,
    whole: KnownComplete,
    blocks: Iterable[Block],
) -> IntervalReport:
    """Hold the candles of a file against ours.

    Args:
        asker: asks the archive.
        coverage: what it holds, in order; at least something.
        minutes: the candles' length.
        whole: which time the file is known to hold whole. Where that is not known, a candle of
            ours counts from the file's first row to its last.
        blocks: the file's candles, in order of time.

    Raises:
        BadFile: a row can't be read.
        ArchiveDamaged: a file of the archive can't be read.
        ValueDoesNotFit: a sum has more than 38 digits.
    """
    merge = _Merge(asker, coverage, minutes, whole)
    for block in blocks:
        if block.rows.num_rows:
            merge.take(block)
    merge.finish()
    return merge.tally.report()


class _Ours:
    """Our candles, one batch at a time."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._batch = _NO_CANDLES

    def fill(self) -> bool:
        """Have some candles at hand; False where all were taken."""
        while not self._batch.num_rows:
            batch = next(self._batches, None)
            if batch is None:
                return False
            self._batch = batch
        return True

    @property
    def last_ns(self) -> int:
        """When the last candle at hand opens; there must be one."""
        return int(times(self._batch)[-1])

    def through(self, moment: int) -> pa.RecordBatch:
        """Take those at hand that open up to a moment."""
        end = int(np.searchsorted(times(self._batch), moment, side="right"))
        taken, self._batch = self._batch.slice(0, end), self._batch.slice(end)
        return taken


class _Part(NamedTuple):
    """What both sides have of some time.

    Attributes:
        ours: our candles.
        theirs: rows of a block, from the place `offset` in it on.
        block: None where there are no such rows.
    """

    ours: pa.RecordBatch
    theirs: pa.RecordBatch = _NO_CANDLES
    offset: int = 0
    block: Block | None = None

    def their(self, place: int) -> Candle | None:
        """A candle of theirs in all of its digits; None where the place is -1."""
        if self.block is None or place < 0:
            return None
        return self.block.candle(self.offset + place)


class _Equals(NamedTuple):
    """The candles of a part that are equal, and not yet counted.

    Attributes:
        theirs: when all of the file open.
        place: where they stand in ours.
        is_equal: which of them are meant.
    """

    theirs: Int64s
    place: Places
    is_equal: Bools

    def take(self, time_ns: int | None) -> _Where | None:
        """Take one out, by when it opens; None where it is not among them."""
        at = 0 if time_ns is None else int(np.searchsorted(self.theirs, time_ns))
        if at == len(self.theirs) or self.theirs[at] != time_ns or not self.is_equal[at]:
            return None
        self.is_equal[at] = False
        return int(self.theirs[at]), at, int(self.place[at])


class _Merge:
    """Takes block after block of a file, and of ours what lies beside it."""

    def __init__(
        self,
        asker: LocalCandleReader,
        coverage: Sequence[Range],
        minutes: int,
        whole: KnownComplete,
    ) -> None:
        self.tally = ComparisonCounts(asker, minutes, self._is_compared, VALUES)
        self._asker, self._minutes = asker, minutes
        self._width_ns = minutes * UNITS_NS["m"]
        self._after = np.array([one.after for one in coverage])
        self._through = np.array([one.through for one in coverage])
        self._whole = whole
        self._since = 0 if whole.since_s is None else whole.since_s * SECOND
        self._until = END_OF_TIME if whole.until_s is None else whole.until_s * SECOND
        self._ours: _Ours | None = None
        # From when on a candle of ours counts.
        self._first_ns = self._since

    def take(self, block: Block) -> None:
        """Take a block with all of ours up to its last candle, in steps that both sides reach."""
        stamps = times(block.rows)
        if self._ours is None:
            self._ours = self._asked(int(stamps[0]))
        place = 0
        while place < len(stamps):
            reached = int(stamps[-1])
            if self._ours.fill():
                reached = min(reached, self._ours.last_ns)
            end = int(np.searchsorted(stamps, reached, side="right"))
            rows = block.rows.slice(place, end - place)
            self._compare(_Part(self._ours.through(reached), rows, place, block))
            place = end

    def finish(self) -> None:
        """Take those of ours that the file would have to have behind its last one."""
        if self._whole.until_s is None or (self._ours is None and self._whole.since_s is None):
            return
        ours = self._ours or self._asked(self._since)
        while ours.fill():
            self._compare(_Part(ours.through(END_OF_TIME)))

    def _asked(self, first_ns: int) -> _Ours:
        """Our candles from the file's first row on, or from where it is known to be whole."""
        if self._whole.since_s is None:
            self._first_ns = first_ns
        span = Range(max(0, min(first_ns, self._first_ns) - 1), self._until - 1)
        asker, minutes = self._asker, self._minutes
        return _Ours(asker.batches(minutes, span) if span.after < span.through else iter(()))

    def _compare(self, part: _Part) -> None:
        """Look one by one at what must be; count what is equal and what can't be compared."""
        theirs, ours = times(part.theirs), times(part.ours)
        place, is_both = _found(ours, theirs)
        codes, our_codes = self._codes(theirs), self._codes(ours)
        is_equal = is_both.copy()
        of_file = part.theirs.filter(pa.array(is_both))
        held = part.ours.take(pa.array(place[is_both]))
        is_equal[is_both] = _equal(of_file, held, VALUES)
        is_rounded = _is_float_rounded(part, is_both, of_file, held)
        is_equal |= is_rounded
        is_alone = np.ones(len(ours), dtype=bool)
        is_alone[place[is_both]] = False
        self._skip(codes)
        # What the file says nothing of is none of its candles.
        self._skip(our_codes[is_alone & (our_codes != _BEYOND)])
        is_equal &= codes == 0
        # Trades of its opening may count in a candle that is not compared.
        is_equal &= self._are_compared(theirs - self._width_ns)
        left = ((codes == 0) & ~is_equal).nonzero()[0]
        place[~is_both] = -1
        rest = [(int(theirs[at]), int(at), int(place[at])) for at in left]
        rest += [(int(ours[at]), -1, int(at)) for at in (is_alone & (our_codes == 0)).nonzero()[0]]
        self._one_by_one(part, sorted(rest), _Equals(theirs, place, is_equal))
        trades = pc.sum(part.theirs.column("count").filter(pa.array(is_equal))).as_py() or 0
        self.tally.equal(int(is_equal.sum()), trades, int((is_equal & is_rounded).sum()))

    def _one_by_one(self, part: _Part, rest: Sequence[_Where], equals: _Equals) -> None:
        """Compare candles, and of those that are equal the ones that are wanted behind them."""
        self._wanted(part, equals, {})
        if not rest:
            return
        # With the moment at which the last of them ends.
        span = Range(max(0, rest[0][0] - 1), rest[-1][0] + self._width_ns)
        openings = self._asker.openings(self._minutes, span)
        width_ns = self._width_ns
        for begin in range(0, len(rest), _AT_ONCE):
            some = rest[begin : begin + _AT_ONCE]
            at_edge = {at for at, *_ in some if not openings.isdisjoint((at, at + width_ns))}
            # Those behind them may be wanted as well.
            at_edge |= openings & {at + width_ns for at in at_edge}
            edges = self._asker.edges(self._minutes, sorted(at_edge))
            held = _candles(part.ours, [at for _, _, at in some if at >= 0])
            for time_ns, their_place, our_place in some:
                our = next(held) if our_place >= 0 else None
                self.tally.compare(time_ns, our, part.their(their_place), edges.get)
                self._wanted(part, equals, edges)

    def _wanted(self, part: _Part, equals: _Equals, edges: Mapping[int, BoundaryTrades]) -> None:
        """Compare one by one the equal candles that are wanted next, as long as they are."""
        asker, minutes = self._asker, self._minutes

        def edges_of(time_ns: int) -> BoundaryTrades:
            found = edges.get(time_ns)
            return asker.edges(minutes, [time_ns])[time_ns] if found is None else found

        while (found := equals.take(self.tally.wanted)) is not None:
            time_ns, their_place, our_place = found
            [our] = _candles(part.ours, [our_place])
            self.tally.compare(time_ns, our, part.their(their_place), edges_of)

    def _codes(self, opens: Int64s) -> Codes:
        """Why candles can't be compared, as places in `_REASONS`; 0 where they can."""
        after, through = opens - 1, opens + (self._width_ns - 1)
        run = np.searchsorted(self._after, np.maximum(after, 0), side="right") - 1
        is_held = (run >= 0) & (through <= self._through[run])
        codes = np.full(len(opens), _GAP, dtype=np.int8)
        codes[through > self._through[-1]] = _REASONS.index(AFTER)
        codes[after < self._after[0]] = _REASONS.index(BEFORE)
        codes[is_held] = 0
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
                self.tally.skip(_REASONS[code], candles)


def _found(ours: Int64s, theirs: Int64s) -> tuple[Places, Bools]:
    """Where each of their times stands in ours, and whether it does."""
    place = np.searchsorted(ours, theirs)
    if not len(ours):
        return place, np.zeros(len(theirs), dtype=bool)
    return place, ours[np.minimum(place, len(ours) - 1)] == theirs


def _is_float_rounded(
    part: _Part, is_both: Bools, of_file: pa.RecordBatch, held: pa.RecordBatch
) -> Bools:
    """Which candles of the file are equal, but for a volume within float rounding; shape (rows,).

    Args:
        part: of some time.
        is_both: which candles of the file the archive has too.
        of_file: these, as the file has them.
        held: these, by the trades held.
    """
    is_rounded = np.zeros(part.theirs.num_rows, dtype=bool)
    # Such a volume has too many digits for the column.
    if not of_file.column("volume").null_count:
        return is_rounded
    is_close = _bools(of_file.column("volume").is_null()) & _equal(of_file, held, _NOT_VOLUME)
    volumes, counts = held.column("volume"), held.column("count")
    places = is_both.nonzero()[0]
    for row in is_close.nonzero()[0].tolist():
        their = part.their(int(places[row]))
        is_rounded[places[row]] = their is not None and is_float_rounded(
            volumes[row].as_py(), their.volume, counts[row].as_py()
        )
    return is_rounded


def _equal(theirs: pa.RecordBatch, ours: pa.RecordBatch, names: Sequence[str]) -> Bools:
    """Whether candles are equal in these values, as numbers; shape (rows,)."""
    equal = np.ones(theirs.num_rows, dtype=bool)
    for name in names:
        equal &= _bools(pc.equal(theirs.column(name), ours.column(name)).fill_null(False))
    return equal


def _candles(ours: pa.RecordBatch, places: Sequence[int]) -> Iterator[Candle]:
    """Some of ours, in all of their digits; a vwap is 0, as files have none."""
    rows = ours.select(list(COLUMNS)).take(pa.array(places, pa.int64()))
    for time_ns, row in zip(
        times(rows).tolist(), rows.drop_columns(["time"]).to_pylist(), strict=True
    ):
        yield Candle(time_ns, **row, vwap=Decimal(0))


def _bools(values: pa.Array) -> Bools:
    bools: Bools = values.to_numpy(zero_copy_only=False)
    return bools


# --- against csv ----------------------------------------------------------------------------------

Progress = Callable[[int, int], None]
"""Told how many bytes are done, and how many there are."""


class Chosen(NamedTuple):
    """Which files are compared, and which are not.

    Attributes:
        files: by pair, for all that are wanted, in order of their lengths.
        passed_over: how many are of other pairs.
        unknown: those whose names are none of candles, or that no pair fits.
    """

    files: dict[str, list[CandleFile]]
    passed_over: int
    unknown: list[Member]


def choose(members: Iterable[Member], wanted: Iterable[str], known: Iterable[Pair]) -> Chosen:
    """The files of some pairs, by their names.

    Args:
        members: all that were found.
        wanted: the pairs, by altname.
        known: the pairs that a name can mean.
    """
    files: dict[str, list[CandleFile]] = {name: [] for name in wanted}
    book = PairIndex(known)
    passed_over, unknown = 0, []
    for member in members:
        found = candle_file(member, book)
        if found is None:
            unknown.append(member)
        elif found[0].altname in files:
            files[found[0].altname].append(found[1])
        else:
            passed_over += 1
    for some in files.values():
        some.sort(key=lambda one: one.minutes)
    return Chosen(files, passed_over, unknown)


def compare(
    archive: TradeStore,
    pair: Pair,
    files: Sequence[CandleFile],
    memory_limit: str = MEMORY_LIMIT,
    progress: Progress = lambda _done, _all: None,
) -> CsvReport:
    """Hold the candles of some files of one pair against the trades held.

    A file that can't be read, or not be compared, ends with an error of its own.

    Args:
        archive: holds the trades.
        pair: which.
        files: its files, as `choose` gives them.
        memory_limit: what DuckDB may use.
        progress: told how far it is.
    """
    coverage = archive.coverage(pair.altname)
    if not coverage:
        return CsvReport(pair.altname, is_held=False)
    asker = LocalCandleReader(archive, pair.altname, pair.pair_decimals, memory_limit)
    total, before = sum(one.member.size for one in files), 0
    reports = []
    for file in files:

        def read(size: int, before: int = before) -> None:
            # The last bytes end nothing: what they held is being compared.
            progress(min(before + size, total - 1), total)

        reports.append(_compare_one(asker, coverage, file, read))
        before += file.member.size
    progress(total, total)
    return CsvReport(pair.altname, tuple(reports))


def _compare_one(
    asker: LocalCandleReader,
    coverage: Sequence[Range],
    file: CandleFile,
    read: Callable[[int], None],
) -> FileReport:
    member, minutes = file

    def compared() -> IntervalReport:
        blocks = _told(read_candles(member, minutes), read)
        return compare_blocks(asker, coverage, minutes, member.complete, blocks)

    try:
        found = retry_if_replaced(asker.archive, asker.pair, compared)
    except HarvesterError as error:
        return FileReport(str(member), IntervalReport(minutes), error)
    return FileReport(str(member), found)


def _told(blocks: Iterable[Block], read: Callable[[int], None]) -> Iterator[Block]:
    """The same blocks; tells how many bytes they came to."""
    done = 0
    for block in blocks:
        yield block
        done += block.size
        read(done)
