"""Compare the archive's candles with Kraken's downloadable candle files (OHLCVT)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from harvester.csv_import.files import KnownComplete, Member
from harvester.csv_import.ohlcvt import ROWS, Block, read_candles
from harvester.csv_import.pair_matching import CandleFile, candle_file
from harvester.download.events import Listener, Step, ignore
from harvester.errors import HarvesterError
from harvester.kraken.pairs import Pair, PairIndex
from harvester.query.sql import MEMORY_LIMIT
from harvester.storage.trade_store import TradeStore
from harvester.times import END_OF_TIME, SECOND, UNITS_NS, Range
from harvester.verify.compare import CandleComparison, LocalCandles, retry_if_replaced
from harvester.verify.reports import CsvReport, FileReport, IntervalReport

# --- comparison of blocks -------------------------------------------------------------------------

CHUNK_ROWS = 100_000
"""How many candles of a file are compared at once; memory does not grow with the file."""

_NO_CANDLES = pa.table(ROWS.empty_table())


def compare_blocks(
    local: LocalCandles,
    coverage: Sequence[Range],
    minutes: int,
    whole: KnownComplete,
    blocks: Iterable[Block],
) -> IntervalReport:
    """Compare the candles of a file with those of the archive.

    Args:
        local: the archive's candles.
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
    comparison = CandleComparison(local, coverage, minutes, is_filled=False)
    since_ns = None if whole.since_s is None else whole.since_s * SECOND
    until_ns = END_OF_TIME if whole.until_s is None else whole.until_s * SECOND
    comparison.until_ns = until_ns
    reached_ns = None if since_ns is None else max(0, since_ns - 1)
    for candles in _chunks(blocks):
        first_ns, last_ns = candles.column("time")[0].value, candles.column("time")[-1].value
        since_ns = first_ns if since_ns is None else since_ns
        comparison.since_ns = since_ns
        after = first_ns - 1 if reached_ns is None else min(first_ns - 1, reached_ns)
        reached_ns = last_ns + minutes * UNITS_NS["m"] - 1
        comparison.add(candles, Range(after, reached_ns))
    if whole.until_s is not None and since_ns is not None and reached_ns is not None:
        comparison.since_ns = since_ns
        comparison.add(_NO_CANDLES, Range(reached_ns, until_ns - 1))
    return comparison.report()


def _chunks(blocks: Iterable[Block]) -> Iterator[pa.Table]:
    """Join blocks to tables of `CHUNK_ROWS` or a little more; none is empty."""
    waiting: list[pa.RecordBatch] = []
    for block in blocks:
        waiting.append(block.rows)
        if sum(batch.num_rows for batch in waiting) >= CHUNK_ROWS:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if any(batch.num_rows for batch in waiting):
        yield pa.Table.from_batches(waiting)


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
    local = LocalCandles(archive, pair.altname, pair.pair_decimals, memory_limit)
    total, before = sum(file.member.size for file in files), 0
    reports = []
    for file in files:

        def on_read(size: int, before: int = before) -> None:
            # Not 100 % yet: the candles of the last bytes are still being compared.
            listener(Step(pair.altname, min(before + size, total - 1), total, "bytes"))

        reports.append(_compare_file(local, coverage, file, on_read))
        before += file.member.size
    listener(Step(pair.altname, total, total, "bytes"))
    return CsvReport(pair.altname, tuple(reports))


def _compare_file(
    local: LocalCandles,
    coverage: Sequence[Range],
    file: CandleFile,
    on_read: Callable[[int], None],
) -> FileReport:
    member, minutes = file

    def compare_once() -> IntervalReport:
        blocks = _with_progress(read_candles(member, minutes), on_read)
        return compare_blocks(local, coverage, minutes, member.complete, blocks)

    try:
        found = retry_if_replaced(local.archive, local.pair, compare_once)
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
